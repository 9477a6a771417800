"""Proximal policy optimization (PPO), clipped.

Source: Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms", 2017
(arXiv:1707.06347). Many environments are stepped at once by the current policy; each rollout is then gone over a few
times in minibatches, with an objective that stops rewarding a change of an action's probability beyond a factor of
1 ± ε. Where this departs from the paper is listed in docs/ppo.md.
"""

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.adam import Adam
from gantry.agents.advantages import gae
from gantry.agents.heads import CategoricalHead, GaussianHead, Head
from gantry.agents.networks import MLP, Activation, layer_shapes
from gantry.agents.normalizer import ObservationNormalizer, ReturnNormalizer
from gantry.agents.policy_file import (
    Policy,
    check_tensors,
    config_from_json,
    config_to_json,
    load_policy,
    save_policy,
)
from gantry.agents.rollout import RolloutBuffer
from gantry.agents.spaces import ActionMap, check_spaces
from gantry.agents.stepping import EpisodeStatistics, VectorStepper, open_environment
from gantry.agents.threads import torch_threads
from gantry.errors import GantryError

Callback = Callable[[Any, dict[str, float]], bool | None]

CHUNK = 4096
"""Rows that the critic values at once after a rollout: enough to be quick, few enough to stay in the cache."""


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO."""

    num_envs: int = 64
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    rollout_steps: int = 64
    """Steps of every environment between updates (T)."""
    epochs: int = 4
    """Passes over each rollout (K)."""
    minibatch_size: int = 1024
    """Transitions a gradient step, at most; a rollout is split evenly into as few minibatches as that allows."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Keep the learning rate, or let it fall in a line to 0 at the last step of `learn`."""
    gamma: float = 0.99
    """Discount a step."""
    gae_lambda: float = 0.95
    """λ of generalized advantage estimation: 0 trusts the critic alone, 1 the returns alone."""
    clip_range: float = 0.2
    """ε: how far the ratio of new to old probability is rewarded for moving from 1."""
    clip_value: float | None = None
    """How far a value may move from its old estimate before its loss stops counting; None: as far as it likes."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus (c₂)."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss (c₁); as Adam ignores scale, it matters only through gradient clipping."""
    max_gradient_norm: float = 0.5
    """Longest gradient, of the actor and of the critic each, that is followed in full length."""
    normalize_advantage: bool = True
    """Shift and scale the advantages of each minibatch to mean 0 and standard deviation 1."""
    target_kl: float | None = None
    """Leave out the remaining epochs once an epoch's mean divergence from the old policy exceeds this, in nats."""
    normalize_observation: bool = True
    """Scale observations by their running mean and standard deviation."""
    normalize_return: bool = True
    """Scale rewards by the running standard deviation of the discounted return."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of actor and critic alike."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    initial_log_std: float = 0.0
    """log of the first standard deviation of Box actions, in units of the action bounds' half-width."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; small ones learn fastest on the processor."""
    torch_threads: int = 1
    """PyTorch's threads for each of the two networks in updates (acting takes one); another number rounds otherwise."""
    stagger_first_episodes: bool = True
    """Cut first episodes short at evenly spread times, so that batches hold every phase of an episode."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        for name in ("num_envs", "rollout_steps", "epochs", "minibatch_size", "torch_threads"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            _require(0.0 <= getattr(self, name) <= 1.0, name, "from 0 to 1", getattr(self, name))
        for name in ("learning_rate", "clip_range", "max_gradient_norm", "value_coefficient"):
            _require(getattr(self, name) > 0.0, name, "above 0", getattr(self, name))
        _require(self.entropy_coefficient >= 0.0, "entropy_coefficient", "at least 0", self.entropy_coefficient)
        for name in ("clip_value", "target_kl"):
            value = getattr(self, name)
            _require(value is None or value > 0.0, name, "above 0, or none", value)
        _require(all(1 <= width <= 65536 for width in self.hidden_sizes), "hidden_sizes", "widths of 1 to 65536",
                 self.hidden_sizes)  # fmt: skip
        _require(self.device != "cuda" or torch.cuda.is_available(), "device", "cpu where there is no GPU", self.device)


def _require(holds: bool, name: str, demand: str, value: Any) -> None:
    if not holds:
        raise GantryError(f"PPO's setting {name} must be {demand}; it is {value}")


def clipped_surrogate(log_ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> torch.Tensor:
    """The clipped objective of each transition, to be maximized (the paper's equation 7 before the mean).

    Args:
        log_ratio: (B,) log π_new(a|s) - log π_old(a|s).
        advantage: (B,).
        clip_range: ε.

    Returns:
        (B,) min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ the probability ratio. Its gradient is zero exactly where ρ is
        already beyond 1 ± ε on the side that the advantage favours.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage)


def value_loss(
    value: torch.Tensor, old_value: torch.Tensor, target: torch.Tensor, clip_value: float | None
) -> torch.Tensor:
    """Half the mean squared error of the critic, ().

    Args:
        value: (B,) the critic's now.
        old_value: (B,) the critic's at the rollout.
        target: (B,) λ-return.
        clip_value: with a bound, the worse of the plain error and that of the value held within ±bound of the old one.
    """
    error = (value - target).square()
    if clip_value is not None:
        held = old_value + (value - old_value).clamp(-clip_value, clip_value)
        error = torch.maximum(error, (held - target).square())
    return 0.5 * error.mean()


def approximate_divergence(log_ratio: torch.Tensor) -> torch.Tensor:
    """KL(old ‖ new) estimated from samples of the old policy, (): mean of ρ - 1 - log ρ, never negative."""
    return (log_ratio.exp() - 1.0 - log_ratio).mean()


def _standardized(values: torch.Tensor) -> torch.Tensor:
    """(B,) shifted and scaled to mean 0 and standard deviation 1; a single value stays as it is."""
    if len(values) < 2:
        return values
    deviation, mean = torch.std_mean(values)
    return (values - mean) / (deviation + 1e-8)


@dataclasses.dataclass
class _Batch:
    """The transitions of a rollout, flattened: N rows to learn from."""

    inputs: torch.Tensor  # (N, d)
    actions: torch.Tensor  # (N, A) or (N,)
    log_probability: torch.Tensor  # (N,) under the policy that acted
    advantage: torch.Tensor  # (N,)
    target: torch.Tensor  # (N,) λ-return
    value: torch.Tensor  # (N,) at the rollout

    def rows(self, index: torch.Tensor) -> "_Batch":
        """The given rows alone."""
        return _Batch(*(getattr(self, field.name).index_select(0, index) for field in dataclasses.fields(self)))


def _minibatches(
    columns: Sequence[torch.Tensor], order: torch.Tensor, parts: int
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Columns (N, ...) in the order of a permutation (N,), in `parts` minibatches of as equal a size as can be."""
    shuffled = [torch.tensor_split(column.index_select(0, order), parts) for column in columns]
    return zip(*shuffled, strict=True)


class PPO:
    """An actor and a critic that learn by PPO from a Gymnasium vector environment.

    Attributes:
        config: settings, every default written out.
        env: the vector environment, or None for a policy that was loaded for acting alone.
        steps: environment steps learned from so far.
    """

    name = "ppo"
    config_class = PPOConfig

    def __init__(
        self,
        env_or_id: VectorEnv | str,
        config: PPOConfig | None = None,
        seed: int = 0,
        env_seed: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Build networks for the environment's spaces.

        Args:
            env_or_id: any vector environment, or an id of which `config.num_envs` copies are made.
            config: settings; None takes the defaults.
            seed: of initial weights, exploration and shuffling; no global random state is used or changed.
            env_seed: with which the environment is first reset; None takes `seed`.
            env_kwargs: passed on to the environment, where an id is given.

        Raises:
            GantryError: the environment cannot be made, or its spaces are none that PPO handles.
        """
        config = config or PPOConfig()
        env = open_environment(env_or_id, config.num_envs, env_kwargs)
        environment = env_or_id if isinstance(env_or_id, str) else getattr(env.spec, "id", None)
        with torch_threads(1):  # also the decomposition behind the first weights rounds by the number of threads
            self._build(env.single_observation_space, env.single_action_space, config, seed, environment)
        self._attach(env, seed if env_seed is None else env_seed)

    def _build(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        config: PPOConfig,
        seed: int,
        environment: str | None,
    ) -> None:
        """All that acting needs."""
        check_spaces(observation_space, action_space)
        self.observation_space, self.action_space, self.environment = observation_space, action_space, environment
        self.config = config
        self.steps = 0
        self.env: VectorEnv | None = None
        self._generator = torch.Generator().manual_seed(seed)
        # Acting draws from a stream of its own, so that evaluating in between does not change what is learned.
        self._acting_generator = torch.Generator().manual_seed(seed + 2**32)
        size = math.prod(observation_space.shape or ())
        self._observation_size = size
        self._action_map = ActionMap(action_space)
        outputs = self._action_map.size
        # A near-zero last layer of the actor begins with the same broad distribution in every state.
        self.actor = MLP((size, *config.hidden_sizes, outputs), config.activation, 0.01, self._generator, config.device)
        self.critic = MLP((size, *config.hidden_sizes, 1), config.activation, 1.0, self._generator, config.device)
        self.head: Head = (
            GaussianHead(outputs, config.initial_log_std, config.device)
            if self._action_map.continuous
            else CategoricalHead(outputs)
        )
        actor_parameters = [self.actor.vector, *self.head.parameters().values()]
        self._actor_optimizer = Adam(actor_parameters)
        self._critic_optimizer = Adam([self.critic.vector])
        self._optimizers = {"actor": self._actor_optimizer, "critic": self._critic_optimizer}
        self.observation_normalizer = ObservationNormalizer(size, config.normalize_observation)
        self.return_normalizer = ReturnNormalizer(config.num_envs, config.gamma, config.normalize_return)

    def _attach(self, env: VectorEnv, env_seed: int) -> None:
        """Take up an environment to learn from."""
        if env.single_observation_space.shape != self.observation_space.shape:
            raise GantryError(
                f"the policy observes shape {self.observation_space.shape}, "
                f"the environment gives {env.single_observation_space.shape}"
            )
        if env.single_action_space != self.action_space:
            raise GantryError(f"the policy acts in {self.action_space}, the environment in {env.single_action_space}")
        self.env = env
        self.config = dataclasses.replace(self.config, num_envs=env.num_envs)
        self._env_seed = env_seed
        self._stepper = VectorStepper(env, self.config.stagger_first_episodes)
        self._episodes = EpisodeStatistics(env.num_envs)
        self.return_normalizer.sums = np.zeros(env.num_envs)
        self._needs_reset = True
        self._buffer = RolloutBuffer(
            self.config.rollout_steps,
            env.num_envs,
            self._observation_size,
            self._action_map.size,
            self._action_map.continuous,
        )

    # Acting

    def act(self, observation: Any, deterministic: bool = True) -> NDArray[Any]:
        """Environment actions for one observation, or for a batch of them.

        Args:
            observation: (*observation shape) or (k, *observation shape).
            deterministic: the likeliest action; else one drawn from the policy.

        Returns:
            (*action shape) or (k, *action shape), within the action space's bounds.

        Raises:
            GantryError: another shape, no numbers, NaN or infinity.
        """
        try:
            given = np.asarray(observation, np.float32)
        except (TypeError, ValueError) as error:
            raise GantryError(f"the observation holds no numbers: {error}") from error
        shape = self.observation_space.shape or ()
        single = given.shape == shape
        if not single and (given.ndim != len(shape) + 1 or given.shape[1:] != shape):
            raise GantryError(f"the observation has shape {given.shape}; the policy takes {shape} or (k, *{shape})")
        if not np.isfinite(given).all():
            raise GantryError("the observation holds NaN or infinite numbers")
        rows = given.reshape(-1, self._observation_size)
        inputs = torch.empty(rows.shape)
        self.observation_normalizer.apply(rows, inputs.numpy())
        with torch.no_grad(), torch_threads(1):
            output = self.actor(inputs.to(self.config.device))
            if deterministic:
                actions = self.head.mode(output)
            else:
                noise = self.head.noise((len(rows),), self._acting_generator).to(self.config.device)
                actions = self.head.sample(output, noise)
        converted = self._action_map.to_environment(actions.cpu().numpy())
        return converted[0] if single else converted

    # Learning

    def learn(self, total_steps: int, callback: Callback | None = None) -> "PPO":
        """Learn until the agent has had `total_steps` environment steps in all, exactly.

        The last rollout is shortened, and of its last vector step only the needed rows count. A step that merely
        resets an environment (NEXT_STEP autoreset) is no environment step.

        Args:
            total_steps: counted from the agent's beginning, so that calling again with the same number after a stop
                goes on to the same end.
            callback: called with the agent and its metrics after each update; returning False stops.

        Raises:
            GantryError: there is no environment, or a loss became NaN or infinite. After any exception, an interrupt
                included, the agent is as it was after its last whole update.
        """
        if self.env is None:
            raise GantryError("this policy was loaded without an environment; pass one to load() to learn on")
        while self.steps < total_steps:
            before = self.trainer_state()
            try:
                # One thread for the small batches of acting: more would only keep processors from the simulator.
                with torch_threads(1):
                    batch = self._collect(total_steps)
                with torch_threads(self.config.torch_threads):
                    metrics = self._update(batch, total_steps)
            except BaseException:
                self._restore(before)
                raise
            if callback is not None and callback(self, metrics) is False:
                break
        return self

    def _collect(self, total_steps: int) -> _Batch:
        """Step every environment `rollout_steps` times, or as often as the budget allows, and weigh what happened."""
        config, buffer, stepper = self.config, self._buffer, self._stepper
        normalizer, device = self.observation_normalizer, self.config.device
        noise = self.head.noise((config.rollout_steps, stepper.num_envs), self._generator).to(device)
        final_cells: list[tuple[int, NDArray[np.int64]]] = []
        final_observations: list[NDArray[np.float32]] = []
        length = 0
        with torch.no_grad():
            while length < config.rollout_steps and self.steps < total_steps:
                step = length
                buffer.observations[step] = stepper.observation
                normalizer.apply(stepper.observation, buffer.inputs_view[step])
                output = self.actor(buffer.inputs[step].to(device))
                buffer.outputs[step] = output
                buffer.actions[step] = self.head.sample(output, noise[step])
                counted = self._count(total_steps - self.steps)
                transition, infos = stepper.step(self._action_map.to_environment(buffer.actions_view[step]))
                buffer.rewards[step] = transition.rewards
                buffer.terminated[step] = transition.terminated
                buffer.done[step] = transition.done
                buffer.valid[step] = True if counted is None else counted
                self._episodes.add(transition, infos, counted)
                if len(transition.final_rows):
                    final_cells.append((step, transition.final_rows))
                    final_observations.append(transition.final_observations)
                self.steps += stepper.num_envs if counted is None else int(counted.sum())
                length += 1
            buffer.observations[length] = stepper.observation
            normalizer.apply(stepper.observation, buffer.inputs_view[length])
            return self._weigh(length, final_cells, final_observations)

    def _count(self, remaining: int) -> NDArray[np.bool_] | None:
        """(n,) rows of the coming vector step that count, as resets and the budget allow; None where all do."""
        resets = self._stepper.pending_resets
        if not resets.any() and remaining >= len(resets):
            return None
        active = ~resets
        return active & (np.cumsum(active) <= remaining)

    def _weigh(
        self,
        length: int,
        final_cells: list[tuple[int, NDArray[np.int64]]],
        final_observations: list[NDArray[np.float32]],
    ) -> _Batch:
        """Values, advantages and targets of the first `length` steps in the buffer, flattened to learn from."""
        config, buffer = self.config, self._buffer
        num_envs = self._stepper.num_envs
        values = self._values(buffer.inputs[: length + 1].reshape(-1, self._observation_size))
        values = values.reshape(length + 1, num_envs)
        next_values = values[1:].copy()
        if final_cells:
            observations = np.concatenate(final_observations)
            inputs = torch.empty(observations.shape)
            self.observation_normalizer.apply(observations, inputs.numpy())
            steps = np.concatenate([np.full(len(rows), step) for step, rows in final_cells])
            rows = np.concatenate([rows for _, rows in final_cells])
            next_values[steps, rows] = self._values(inputs)
        valid, done = buffer.valid[:length], buffer.done[:length]
        all_valid = bool(valid.all())
        rewards = self.return_normalizer.apply(buffer.rewards[:length], done, None if all_valid else valid)
        ends = done
        if not all_valid:  # what does not count must not be seen through the advantage of the step before either
            ends = done.copy()
            ends[:-1] |= ~valid[1:]
        advantages = gae(
            rewards,
            values[:-1],
            next_values,
            buffer.terminated[:length],
            ends,
            gamma=config.gamma,
            lam=config.gae_lambda,
        )
        outputs, actions = buffer.outputs[:length].flatten(0, 1), buffer.actions[:length].flatten(0, 1)
        flat_values = torch.from_numpy(values[:-1].reshape(-1))
        flat_advantages = torch.from_numpy(advantages.reshape(-1))
        batch = _Batch(
            inputs=buffer.inputs[:length].flatten(0, 1),
            actions=actions,
            log_probability=self.head.log_probability(outputs.to(config.device), actions.to(config.device)).cpu(),
            advantage=flat_advantages,
            target=flat_values + flat_advantages,
            value=flat_values,
        )
        self._seen = buffer.observations[:length].reshape(-1, self._observation_size)
        if not all_valid:
            kept = np.flatnonzero(valid.reshape(-1))
            batch, self._seen = batch.rows(torch.from_numpy(kept)), self._seen[kept]
        if config.device != "cpu":
            batch = _Batch(*(getattr(batch, field.name).to(config.device) for field in dataclasses.fields(batch)))
        return batch

    def _values(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """The critic's values (k,) of normalized observations (k, d)."""
        parts = [self.critic(chunk.to(self.config.device)) for chunk in torch.split(inputs, CHUNK)]
        return torch.cat(parts).reshape(-1).cpu().numpy()

    def _update(self, batch: _Batch, total_steps: int) -> dict[str, float]:
        """Go over a rollout in shuffled minibatches, `epochs` times; returns the update's metrics."""
        config = self.config
        number = len(batch.advantage)
        collected_from = self.steps - number
        rate = config.learning_rate
        if config.learning_rate_schedule == "linear":
            rate *= 1.0 - collected_from / total_steps
        parts = math.ceil(number / config.minibatch_size)
        orders = [torch.randperm(number, generator=self._generator).to(config.device) for _ in range(config.epochs)]
        # The networks share nothing while they learn, so each has a thread: as fast as two threads an operation, and
        # the numbers do not depend on how many processors there are.
        with concurrent.futures.ThreadPoolExecutor(1) as worker:
            critic = worker.submit(self._fit_critic, batch, orders, parts, rate)
            actor_means = self._improve_actor(batch, orders, parts, rate)
            critic_loss = critic.result()
        self.observation_normalizer.update(self._seen)
        residual = (batch.target - batch.value).var(correction=0).item()
        spread = batch.target.var(correction=0).item()
        return {
            "steps": float(self.steps),
            **self._episodes.metrics(),
            **actor_means,
            "value_loss": critic_loss,
            "explained_variance": 1.0 - residual / spread if spread > 0 else math.nan,
            "learning_rate": rate,
        }

    def _improve_actor(self, batch: _Batch, orders: list[torch.Tensor], parts: int, rate: float) -> dict[str, float]:
        """Raise the clipped objective, an epoch for each of the permutations `orders`; returns its metrics."""
        config = self.config
        columns = (batch.inputs, batch.actions, batch.log_probability, batch.advantage)
        records: list[torch.Tensor] = []
        for order in orders:
            for inputs, actions, old_log_probability, raw_advantage in _minibatches(columns, order, parts):
                advantage = _standardized(raw_advantage) if config.normalize_advantage else raw_advantage
                output = self.actor(inputs)
                log_ratio = self.head.log_probability(output, actions) - old_log_probability
                policy_loss = -clipped_surrogate(log_ratio, advantage, config.clip_range).mean()
                entropy = self.head.entropy(output)
                self._descend(policy_loss - config.entropy_coefficient * entropy, self._actor_optimizer, rate)
                with torch.no_grad():
                    divergence = approximate_divergence(log_ratio)
                    clipped = (log_ratio.exp() - 1.0).abs().gt(config.clip_range).float().mean()
                    records.append(torch.stack([policy_loss, entropy, divergence, clipped]))
            if config.target_kl is not None and torch.stack(records[-parts:]).mean(0)[2].item() > config.target_kl:
                break
        means = torch.stack(records).mean(0).tolist()
        return dict(zip(("policy_loss", "entropy", "approx_kl", "clip_fraction"), means, strict=True))

    def _fit_critic(self, batch: _Batch, orders: list[torch.Tensor], parts: int, rate: float) -> float:
        """Fit the critic to the λ-returns, an epoch for each of the permutations `orders`; returns the mean loss."""
        config = self.config
        columns = (batch.inputs, batch.value, batch.target)
        losses: list[float] = []
        with torch_threads(config.torch_threads):
            for order in orders:
                for inputs, old_value, target in _minibatches(columns, order, parts):
                    loss = value_loss(self.critic(inputs).squeeze(1), old_value, target, config.clip_value)
                    losses.append(self._descend(config.value_coefficient * loss, self._critic_optimizer, rate))
        return math.fsum(losses) / len(losses) / config.value_coefficient

    def _descend(self, loss: torch.Tensor, optimizer: Adam, rate: float) -> float:
        """One step of `optimizer` down the gradient of `loss`, clipped; returns the loss.

        Raises:
            GantryError: the loss or its gradient is NaN or infinite.
        """
        gradients, norm = optimizer.gradients(loss)
        value = loss.item()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise GantryError(
                f"learning stopped after {self.steps} steps: the loss or its gradient is NaN or infinite; the last "
                "good policy is kept; lower learning_rate, or look for NaN or huge values in observations and rewards"
            )
        optimizer.step(gradients, rate, scale=min(1.0, self.config.max_gradient_norm / (norm + 1e-8)))
        return value

    # Saving, and going on

    def _policy_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that acting and judging depend on: weights and running statistics."""
        parts = {"actor": self.actor.state(), "critic": self.critic.state()}
        parts["head"] = {name: tensor.detach().cpu().clone() for name, tensor in self.head.parameters().items()}
        parts["observation_normalizer"] = self.observation_normalizer.state()
        parts["return_normalizer"] = self.return_normalizer.moments.state()
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _load_policy_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.actor.load_state(_under(tensors, "actor"))
        self.critic.load_state(_under(tensors, "critic"))
        with torch.no_grad():
            for name, tensor in self.head.parameters().items():
                tensor.copy_(tensors[f"head.{name}"])
        self.observation_normalizer.load_state(_under(tensors, "observation_normalizer"))
        self.return_normalizer.moments.load_state(_under(tensors, "return_normalizer"))

    def save(self, folder: str | Path) -> None:
        """Write `policy.safetensors` and `policy.json`: all that acting needs, whole or not at all.

        Raises:
            GantryError: the folder cannot be written.
        """
        save_policy(
            folder,
            Policy(
                self.name,
                self.environment,
                self.observation_space,
                self.action_space,
                config_to_json(self.config),
                self._policy_tensors(),
                self.steps,
            ),
        )

    @classmethod
    def load(cls, folder: str | Path, env: VectorEnv | str | None = None, seed: int = 0) -> "PPO":
        """The agent that `save` wrote, for acting, or with `env` for learning on (with a fresh optimizer).

        Raises:
            GantryError: files missing, damaged, of another agent, or not fitting `env`.
        """
        policy = load_policy(folder, cls.name)
        config = config_from_json(PPOConfig, policy.config, str(Path(folder) / "policy.json"))
        check_spaces(policy.observation_space, policy.action_space)
        expected = _expected_tensors(policy.observation_space, policy.action_space, config)
        check_tensors(policy.tensors, expected, str(Path(folder) / "policy.safetensors"))
        agent = cls.__new__(cls)
        agent._build(policy.observation_space, policy.action_space, config, seed, policy.environment)
        agent._load_policy_tensors(policy.tensors)
        agent.steps = policy.steps
        if env is not None:
            agent._attach(open_environment(env, config.num_envs), seed)
        return agent

    def trainer_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All that learning on needs: tensors, and values fit for JSON.

        Where the environment has `get_state` and `set_state` (name → array), `load_trainer_state` and `learn` give
        the very numbers of a run that never stopped; other environments begin new episodes.

        Raises:
            GantryError: there is no environment.
        """
        if self.env is None:
            raise GantryError("this policy was loaded without an environment; it has no trainer state")
        if self._needs_reset:
            self._stepper.reset(self._env_seed)
            self._needs_reset = False
        tensors = {f"policy.{name}": tensor for name, tensor in self._policy_tensors().items()}
        tensors["return_sums"] = torch.from_numpy(self.return_normalizer.sums.copy())
        tensors["generator"] = self._generator.get_state()
        tensors["acting_generator"] = self._acting_generator.get_state()
        for part, optimizer in self._optimizers.items():
            tensors.update({f"optimizer.{part}.{name}": tensor for name, tensor in optimizer.state().items()})
        stepper_tensors, stepper = self._stepper.state()
        episode_tensors, episodes = self._episodes.state()
        tensors.update({f"stepper.{name}": tensor for name, tensor in stepper_tensors.items()})
        tensors.update({f"episodes.{name}": tensor for name, tensor in episode_tensors.items()})
        meta = {
            "agent": self.name,
            "steps": self.steps,
            "num_envs": self.config.num_envs,
            "env_seed": self._env_seed,
            "stepper": stepper,
            "episodes": episodes,
        }
        return tensors, meta

    def load_trainer_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Take over what `trainer_state` returned, also in another process; the agent has the same settings.

        Raises:
            GantryError: it is of another agent, damaged, or of other settings.
        """
        if self.env is None:
            raise GantryError("this policy was loaded without an environment; it cannot take up a trainer state")
        if meta.get("agent") != self.name or meta.get("num_envs") != self.config.num_envs:
            raise GantryError(
                f"the trainer state is of {meta.get('agent')!r} with {meta.get('num_envs')} environments, "
                f"not of {self.name!r} with {self.config.num_envs}"
            )
        policy = _under(tensors, "policy")
        expected = _expected_tensors(self.observation_space, self.action_space, self.config)
        check_tensors(policy, expected, "the trainer state")
        try:
            self._restore((tensors, meta), exactly=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())
            raise GantryError(f"the trainer state is damaged or of other settings ({line}); train again") from error
        if not self._stepper.resumable:
            self._needs_reset = True
            # Another part of the environment's random stream than the episodes already learned from.
            self._env_seed = int(meta["env_seed"]) + self.steps

    def _restore(self, state: tuple[dict[str, torch.Tensor], dict[str, Any]], exactly: bool = False) -> None:
        """Go back to `state`; unless `exactly`, an environment that cannot go back begins new episodes."""
        tensors, meta = state
        self._load_policy_tensors(_under(tensors, "policy"))
        self.steps = int(meta["steps"])
        self._env_seed = int(meta["env_seed"])
        self.return_normalizer.sums = tensors["return_sums"].numpy().copy()
        self._generator.set_state(tensors["generator"])
        self._acting_generator.set_state(tensors["acting_generator"])
        for part, optimizer in self._optimizers.items():
            optimizer.load_state(_under(tensors, f"optimizer.{part}"))
        self._episodes.load_state(_under(tensors, "episodes"), meta["episodes"])
        try:
            self._stepper.load_state(_under(tensors, "stepper"), meta["stepper"])
            self._needs_reset = not self._stepper.resumable
        except Exception:
            if exactly:
                raise
            self._needs_reset = True  # the environment itself broke; the error that led here says how


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with "prefix.", without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _expected_tensors(
    observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: PPOConfig
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name, shape and type of each tensor of a policy file."""
    size = math.prod(observation_space.shape or ())
    action_map = ActionMap(action_space)
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for network, outputs in (("actor", action_map.size), ("critic", 1)):
        for name, shape in layer_shapes((size, *config.hidden_sizes, outputs)).items():
            expected[f"{network}.{name}"] = (shape, torch.float32)
    if action_map.continuous:
        expected["head.log_std"] = ((action_map.size,), torch.float32)
    for normalizer, length in (("observation_normalizer", size), ("return_normalizer", 1)):
        expected[f"{normalizer}.mean"] = ((length,), torch.float64)
        expected[f"{normalizer}.variance"] = ((length,), torch.float64)
        expected[f"{normalizer}.count"] = ((), torch.int64)
    return expected
