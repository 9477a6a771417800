"""Deep deterministic policy gradient (DDPG), and its successor TD3 as an option.

Source: Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver and Wierstra, "Continuous control with deep reinforcement
learning", 2016 (arXiv:1509.02971). A critic learns from replayed experience what an action is worth, and the policy is
pushed uphill on it. TD3: Fujimoto, van Hoof and Meger, "Addressing function approximation error in actor-critic
methods", 2018 (arXiv:1802.09477). Where this departs from the papers is listed in docs/ddpg.md.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.ladder.agent import State, prefixed, under
from gantry.agents.parts.validation import require
from gantry.agents.parts.exploration import Exploration, make_noise
from gantry.agents.parts.hindsight import Hindsight, check_goals, find_compute_reward
from gantry.agents.parts.networks import MLP
from gantry.agents.ladder.off_policy import OffPolicyAgent, OffPolicyConfig, clipping, polyak, td_target
from gantry.agents.parts.replay import Minibatch
from gantry.agents.parts.schedules import Schedule, check_schedule, scheduled
from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class DDPGConfig(OffPolicyConfig):
    """Settings of DDPG."""

    actor_learning_rate: float = 1e-3
    """Adam's step size for the policy; `learning_rate` is the critic's."""
    target_rate: float = 0.005
    """τ: the share of the way that the target networks go to the learned ones with each gradient step."""
    saturation_penalty: float = 0.01
    """Weight of the mean square of the policy's outputs before their tanh, relative to the critic's mean slope: keeps
    actions from sticking to their bounds, where the tanh passes no gradient on; 0 does without."""
    exploration: Exploration = "gaussian"
    """Noise on the actions: independent from step to step, or drifting."""
    noise_start: float = 0.1
    """Its standard deviation in units of the action bounds' half-width (a step's, for the drifting one), at first."""
    noise_end: float = 0.1
    """The same when `noise_fraction` of learning has passed, and from then on."""
    noise_fraction: float = 1.0
    """The share of learning in which the noise gets from its start to its end."""
    noise_schedule: Schedule = "constant"
    """How it gets there; `constant` stays at the start."""
    twin: bool = False
    """TD3: two critics of which the lower one counts, a policy and targets that learn less often, smoothed targets."""
    twin_delay: int = 2
    """TD3: gradient steps of the critics for each one of the policy."""
    twin_noise: float = 0.2
    """TD3: standard deviation of the noise that smooths the target's actions, in half-widths of the bounds."""
    twin_noise_clip: float = 0.5
    """TD3: bound of that noise."""

    value_low: float | None = None
    """What no return can be below, to which the critic's targets are raised; None: they may be as low as they get."""
    value_high: float | None = None
    """What no return can be above, to which the critic's targets are lowered; None: as high as they get."""

    hindsight_goals: int = 0
    """Hindsight replay, for environments with goals: transitions that get another goal for each one that keeps its own
    (k; 4 in the paper); 0 does without."""
    relative_goals: bool = False
    """For environments with goals: show the networks the way from the achieved to the desired goal, in its place."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        super().__post_init__()
        require(self.hindsight_goals >= 0, "hindsight_goals", "at least 0", self.hindsight_goals)
        if self.hindsight_goals:
            require(
                self.n_step == 1, "n_step", "1 with hindsight replay, whose goals change from step to step", self.n_step
            )
        require(self.actor_learning_rate > 0.0, "actor_learning_rate", "above 0", self.actor_learning_rate)
        require(0.0 < self.target_rate <= 1.0, "target_rate", "above 0 and at most 1", self.target_rate)
        for name in ("saturation_penalty", "noise_start", "noise_end", "twin_noise", "twin_noise_clip"):
            require(getattr(self, name) >= 0.0, name, "at least 0", getattr(self, name))
        if self.value_low is not None and self.value_high is not None:
            require(
                self.value_low < self.value_high, "value_low", f"below value_high {self.value_high}", self.value_low
            )
        require(self.twin_delay >= 1, "twin_delay", "at least 1", self.twin_delay)
        check_schedule("noise", self.noise_schedule, self.noise_start, self.noise_end, self.noise_fraction)


@dataclasses.dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Settings of TD3: DDPG's, with twin critics, a delayed policy and smoothed targets."""

    twin: bool = True
    """Two critics of which the lower one counts, a policy and targets that learn less often, smoothed targets."""


def smoothed(action: torch.Tensor, noise: torch.Tensor, clip: float) -> torch.Tensor:
    """TD3's target action (B, A): `action` plus `noise` within ±`clip`, within ±1 (the paper's equation 14)."""
    return (action + noise.clamp(-clip, clip)).clamp_(-1.0, 1.0)


def within(target: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
    """Targets (B,) brought, in place, to what returns can be, from `low` to `high`; None is no bound."""
    return target if low is None and high is None else target.clamp_(low, high)


def policy_gradient(
    actor: MLP,
    observation: torch.Tensor,
    slope: Callable[[torch.Tensor], torch.Tensor],
    saturation_penalty: float = 0.0,
) -> torch.Tensor:
    """The deterministic policy gradient, negated for descent (the paper's equation 6).

    -∇θ mean Q(s, μ(s)) = -mean ∇a Q(s, a) ∇θ μ(s), with μ(s) = tanh(z), z = actor(s); plus that of the penalty
    c m mean z², where m is the mean of |∇a Q|, taken as a constant: the penalty weighs the same at every scale of Q.

    Args:
        actor: the network before the tanh.
        observation: (B, d) s.
        slope: gives ∇a Q (B, A) at the actions (B, A).
        saturation_penalty: c.

    Returns:
        (P,) the gradient with respect to `actor.vector`.
    """
    workspace = actor.take_workspace(len(observation))
    before_tanh = actor.forward(observation, workspace)
    action = torch.tanh(before_tanh)
    uphill = slope(action)
    to_output = action.square_().sub_(1.0).mul_(uphill)
    if saturation_penalty:
        to_output.add_(before_tanh.mul_(2.0 * saturation_penalty).mul_(uphill.abs().mean()))
    _, gradient = actor.backward(observation, workspace, to_output.div_(len(observation)), False)
    actor.return_workspace(workspace)
    return gradient


def action_slope(critic: MLP, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """∇a Q(s, a), (B, A), of a critic on s (B, d) and a (B, A) side by side."""
    workspace = critic.take_workspace(len(action))
    value = critic.forward(torch.cat([observation, action], 1), workspace)
    gradient = critic.input_gradient(workspace, torch.ones_like(value))
    critic.return_workspace(workspace)
    return gradient[:, observation.shape[1] :]


def critic_gradient(
    critic: MLP, observation_action: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of the critic's loss, mean (Q(s, a) - target)² (the paper's equation 4).

    Args:
        critic: Q.
        observation_action: (B, d + A) s and a.
        target: (B,).

    Returns:
        (P,) the gradient with respect to `critic.vector`, the loss () and the mean value ().
    """
    workspace = critic.take_workspace(len(target))
    value = critic.forward(observation_action, workspace)
    error = value - target[:, None]
    _, gradient = critic.backward(observation_action, workspace, error * (2.0 / len(target)), False)
    critic.return_workspace(workspace)
    return gradient, error.square_().mean(), value.mean()


class DDPG(OffPolicyAgent):
    """A deterministic policy and the critic that it climbs, learning from replayed experience."""

    name = "ddpg"
    config_class = DDPGConfig
    figures = ("critic_loss", "value_mean")
    config: DDPGConfig

    @classmethod
    def check_spaces(cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        """Refuse spaces that it cannot handle.

        Raises:
            GantryError: the actions are no Box with finite bounds, or the observations are none that agents handle.
        """
        super().check_spaces(observation_space, action_space)
        if not isinstance(action_space, gymnasium.spaces.Box):
            raise GantryError(f"ddpg needs actions in a Box, not {action_space}; use dqn or ppo")
        if not action_space.is_bounded():
            raise GantryError(f"ddpg needs actions with finite bounds, not {action_space}; use ppo")

    @classmethod
    def _network_sizes(cls, observation: int, action: int, config: Any) -> dict[str, tuple[int, ...]]:
        critic = (observation + action, *config.hidden_sizes, 1)
        sizes = {"actor": (observation, *config.hidden_sizes, action), "critic": critic}
        return {**sizes, "twin": critic} if config.twin else sizes

    def _build(self) -> None:
        super()._build()
        if self.config.hindsight_goals or self.config.relative_goals:
            check_goals(self.observation_space)
        self.actor, self.critic = self.networks["actor"], self.networks["critic"]
        self._critics = [name for name in self.networks if name != "actor"]
        # The critic as it was before the gradient step, for the policy to climb meanwhile.
        self._climbed = MLP(self.critic.sizes, self.config.activation, 0.0, torch.Generator(), self.config.device)

    def _prepare(self) -> None:
        super()._prepare()
        self._noise = make_noise(self.config.exploration, self.config.num_envs, self._action_map.size)
        self._updates = 0
        self._hindsight: Hindsight | None = None
        if self.config.hindsight_goals:
            assert self.env is not None
            reward = find_compute_reward(self.env)
            self._hindsight = Hindsight(self.observation_space, reward, self.config.hindsight_goals)

    def _begin_episodes(self) -> None:
        if self._needs_reset:
            self._noise.begin_episodes(np.arange(self.config.num_envs))
        super()._begin_episodes()

    # Acting

    def _decide(self, observations: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        actions = self.actor(self._normalized(observations)).tanh_().cpu()
        if not deterministic:
            actions += self.config.noise_start * torch.randn(actions.shape, generator=self._acting_generator)
        return actions.clamp_(-1.0, 1.0).numpy()

    def _rephrased(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.config.relative_goals:
            goals = self._observation_map.slices
            observations[:, goals["desired_goal"]] -= observations[:, goals["achieved_goal"]]
        return observations

    def _random_actions(self) -> NDArray[Any]:
        shape = (self._stepper.num_envs, self._action_map.size)
        return torch.rand(shape, generator=self._generator).mul_(2.0).sub_(1.0).numpy()

    def _explore(self, inputs: torch.Tensor, progress: float) -> NDArray[Any]:
        actions = self.actor(inputs).tanh_().cpu()
        return actions.add_(self._noise.sample(self._noise_scale(progress), self._generator)).clamp_(-1.0, 1.0).numpy()

    def _noise_scale(self, progress: float) -> float:
        config = self.config
        return scheduled(config.noise_schedule, config.noise_start, config.noise_end, config.noise_fraction, progress)

    def _after_step(self, rows: NDArray[np.int64], ended: NDArray[np.int64]) -> None:
        self._noise.begin_episodes(ended)

    # Learning

    def _draw(self, count: int, progress: float) -> Minibatch:
        if self._hindsight is None:
            return super()._draw(count, progress)
        batch = self._buffer.gather(self._buffer.sample(count, self._generator))
        self._hindsight.relabel(self._buffer, batch, self._generator)
        return self._as_seen(batch)

    def _advance(self, total_steps: int) -> dict[str, float]:
        with concurrent.futures.ThreadPoolExecutor(1) as self._worker:
            return super()._advance(total_steps)

    def _fit(self, batch: Minibatch, progress: float) -> torch.Tensor:
        """Critic and policy learn side by side, in a thread each, the policy on the critic as it was before."""
        config = self.config
        self._updates += 1
        if config.twin and self._updates % config.twin_delay:
            return self._fit_critics(batch, progress)
        self._climbed.vector.copy_(self.critic.vector)
        climbing = self._worker.submit(self._improve_actor, batch.observation, progress)
        figures = self._fit_critics(batch, progress)
        climbing.result()
        for name, network in self.networks.items():
            polyak(self.targets[name].vector, network.vector, config.target_rate)
        return figures

    def _fit_critics(self, batch: Minibatch, progress: float) -> torch.Tensor:
        """A step of each critic towards the targets; returns their mean loss and mean value, (2,)."""
        config, rate = self.config, self._rate(self.config.learning_rate, progress)
        action = self.targets["actor"](batch.next_observation).tanh_()
        if config.twin:
            noise = torch.randn(action.shape, generator=self._generator).mul_(config.twin_noise)
            action = smoothed(action, noise.to(config.device), config.twin_noise_clip)
        following = torch.cat([batch.next_observation, action], 1)
        next_values = [self.targets[name](following) for name in self._critics]
        next_value = torch.minimum(*next_values) if config.twin else next_values[0]
        target = within(
            td_target(batch.reward, batch.discount, next_value.squeeze(1)), config.value_low, config.value_high
        )
        figures = []
        for name in self._critics:
            gradient, loss, value = critic_gradient(self.networks[name], batch.observation_action, target)
            self.optimizers[name].step([gradient], rate, clipping(gradient, config.max_gradient_norm))
            figures.append(torch.stack([loss, value]))
        return figures[0] if len(figures) == 1 else torch.stack(figures).mean(0)

    def _improve_actor(self, observation: torch.Tensor, progress: float) -> None:
        """A step of the policy uphill on the critic as it was at the beginning of the gradient step."""
        config, rate = self.config, self._rate(self.config.actor_learning_rate, progress)
        with torch.no_grad(), torch_threads(config.torch_threads):
            gradient = policy_gradient(
                self.actor,
                observation,
                lambda action: action_slope(self._climbed, observation, action),
                config.saturation_penalty,
            )
            self.optimizers["actor"].step([gradient], rate, clipping(gradient, config.max_gradient_norm))

    def _settings_now(self, progress: float) -> dict[str, float]:
        rate = self._rate(self.config.learning_rate, progress)
        return {"noise": self._noise_scale(progress), "learning_rate": rate}

    # Saving, and going on

    def _light_state(self) -> State:
        tensors, meta = super()._light_state()
        return {**tensors, **prefixed("noise", self._noise.state())}, {**meta, "updates": self._updates}

    def _load_light_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        super()._load_light_state(tensors, meta)
        self._noise.load_state(under(tensors, "noise"))
        self._updates = int(meta["updates"])
