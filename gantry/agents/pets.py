"""PETS: model-based reinforcement learning with a probabilistic ensemble and model-predictive control.

Source: Chua, Calandra, McAllister and Levine, "Deep reinforcement learning in a handful of trials using probabilistic
dynamics models", 2018 (arXiv:1805.12114), algorithm 1: act by planning through the ensemble, add the transitions to the
dataset, refit the ensemble. Plans are optimized by iCEM (Pinneri et al., CoRL 2020) or one of its alternatives. With
`dynamics="simulator"`, the simulator itself is the model, and nothing is learned. docs/planner.md lists the departures
from the papers.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from gantry.agents.models.calibration import ModelAccuracy, measure_accuracy
from gantry.agents.models.dataset import TransitionDataset, Transitions
from gantry.agents.models.dynamics import DynamicsModel, Propagation
from gantry.agents.models.ensemble import EnsembleConfig, FitResult
from gantry.agents.models.model_rollouts import LearnedModel, Model, PlanningObjective, SimulatorModel
from gantry.agents.models.plan_search import PlanningResult, PlanSearch, SearchConfig
from gantry.agents.models.planning_model import PlanningModel, planning_model_of
from gantry.agents.models.reward_model import LearnedReward, RewardModel, TaskReward
from gantry.agents.models.terminal_value import TerminalValue
from gantry.agents.mpc import MPC
from gantry.agents.parts.checkpoint import Checkpoint, attributes
from gantry.agents.parts.experience import Experience
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import VectorStepper, generators, reset_seed, settled
from gantry.errors import GantryError
from gantry.machine.memory import require_memory
from gantry.machine.threads import torch_threads
from gantry.settings.fields import Count, NotNegative, Share, ShareBelow1, between, require, validate
from gantry.spaces.maps import ActionMap, ObservationMap, Spaces
from gantry.types import Array, Observation

ACCURACY_HISTORY = 10
"""Number of fits whose model accuracy is kept for plots."""


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Settings of the planner."""

    dynamics: Literal["learned", "simulator"] = "learned"
    """learned: a probabilistic ensemble. simulator: copies of the simulator itself, a perfect model."""
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    """How plans are optimized."""
    model: EnsembleConfig = dataclasses.field(default_factory=EnsembleConfig)
    """The ensemble and its training; learned rewards and values use single networks with the same settings."""
    action_repeat: Count = 1
    """Environment steps for which each action is held; a planning step takes as many."""
    discount: Share = 1.0
    """γ per planning step, within the horizon."""
    terminal_value: bool = False
    """Add a learned value of a plan's last state; needs a discount below 1."""
    uncertainty_penalty: NotNegative = 0.0
    """Subtract this per planning step and standard deviation by which the particles disagree; needs 2 particles."""
    reward: Literal["auto", "task", "learned"] = "auto"
    """task: the environment's own reward and termination functions. learned: networks. auto: task where offered."""
    particles: Count = 1
    """Particles per action sequence, spread over the ensemble's members."""
    propagation: Propagation = "ts_infinity"
    """Trajectory sampling. ts_infinity: a particle follows one member. ts1: another member at each planning step."""
    sample_predictions: bool = False
    """Sample the predicted Gaussians in rollouts; otherwise propagate their means."""
    initial_random_steps: Count = 100
    """Planning steps with random actions before the first fit, summed over all environments."""
    fit_every: Annotated[Count, between(20, 400, log=True)] = 50
    """Planning steps between fits, summed over all environments."""
    validation_fraction: ShareBelow1 = 0.1
    """Fraction of the transitions held out from training, to stop fits early."""
    angle_columns: tuple[int, ...] = ()
    """Feature columns that hold joint angles in rad, at most 7; columns that depend on them alone are then computed by
    learned kinematics."""
    num_envs: Count = 1
    """Environments stepped at once."""
    torch_threads: Count = 1
    """PyTorch's threads; another number rounds differently."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        require_memory(self.particles * self.search.population, "particles", "the predicted states")
        require(self.uncertainty_penalty == 0.0 or self.particles > 1, "particles",
                "at least 2 with an uncertainty_penalty", self.particles)  # fmt: skip
        require(not self.terminal_value or self.discount < 1.0, "discount", "below 1 with a terminal_value",
                self.discount)  # fmt: skip
        simulator = self.dynamics == "simulator"
        require(not (simulator and self.terminal_value), "terminal_value", "off where the simulator is the model, "
                "as nothing is learned", self.terminal_value)  # fmt: skip
        require(not (simulator and self.search.optimizer == "gradient"), "search.optimizer", "another than gradient "
                "where the simulator is the model, which has no gradient", self.search.optimizer)  # fmt: skip


class PETS:
    """Planner that learns a dynamics model and acts by model-predictive control.

    Args:
        env: any vector environment (or its spaces alone, for a planner that only acts).
        config: settings.
        seed: of initial weights, exploration and plan search; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        dynamics: dynamics model; None if the simulator is the model.
        reward_model: learned reward and termination; None if the environment's own are used.
        terminal_value: learned value of a plan's last state, or None.
        dataset: all transitions so far.
        mpc: controller behind `act`.
        collector: controller that acts in `env` while learning.
        steps: environment steps learned from so far.
        accuracy: accuracy of the model on new data before each of the last fits.

    Raises:
        GantryError: the spaces or the settings do not fit, or the environment does not offer what the settings need.
    """

    name: ClassVar[str] = "planner"

    def __init__(
        self, env: VectorEnv | Spaces, config: PlannerConfig = PlannerConfig(), seed: int = 0,
        env_seed: int | None = None,
    ) -> None:  # fmt: skip
        config, seed = settled(PlannerConfig, config, env, seed)
        self.env, self.config = env, config
        self._random, self._acting_random = generators(seed)
        observations, self._actions = ObservationMap(env.single_observation_space), ActionMap(env.single_action_space)
        size, learned = observations.size, config.dynamics == "learned"
        action_size, single = self._actions.size, dataclasses.replace(config.model, ensemble_size=1)
        self.dynamics, self.reward_model, self.terminal_value = None, None, None
        with torch_threads(1):  # the first weights must not depend on the number of threads
            if learned:
                self.dynamics = DynamicsModel(size, action_size, config.model, self._random, config.angle_columns)
            if learned and config.reward != "task":
                # Built even where the task turns out to offer its reward: the same random numbers follow.
                self.reward_model = LearnedReward(size, action_size, single, self._random)
            if config.terminal_value:
                self.terminal_value = TerminalValue(size, single, self._random)
        if isinstance(env, VectorEnv) and config.reward == "auto":
            offered = _offers_reward(planning_model_of(env), size)
            self.config = dataclasses.replace(self.config, reward="task" if offered else "learned")
            if offered:
                self.reward_model = None
        bounded = torch.from_numpy(self._actions.has_bounds) if self._actions.continuous else None
        search = PlanSearch(config.search, action_size, bounded)
        repeat, threads = config.action_repeat, config.torch_threads
        self.mpc, self.collector = (
            MPC(observations, self._to_environment, search, self._model_for, repeat, generator, threads)
            for generator in (self._acting_random, self._random)
        )
        if isinstance(env, VectorEnv):
            self.mpc.begin(env)
            self.collector.begin(env)
        self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed))
        self.dataset = TransitionDataset(size, action_size)
        self._pending = PendingTransitions(env.num_envs, size)
        self.accuracy: list[ModelAccuracy] = []
        models = {"dynamics": self.dynamics, "reward_model": self.reward_model, "terminal_value": self.terminal_value}
        self.checkpoint = Checkpoint(
            policy=models,
            trainer={
                "optimizers": {name: model.optimizers for name, model in models.items() if model is not None},
                **attributes(self, "dataset", "collector", "_pending", "stepper", "_random", "_acting_random"),
            },
        )

    def _model_for(self, planning_model: PlanningModel | None) -> Model:
        """Return the model to plan with in an environment that offers `planning_model`.

        Raises:
            GantryError: the environment does not offer what the settings need.
        """
        config = self.config
        objective = PlanningObjective(config.discount, config.uncertainty_penalty, self.terminal_value)
        if self.dynamics is None:
            if planning_model is None:
                raise GantryError("planners can simulate only Gantry's own environments; set dynamics=learned")
            return SimulatorModel(planning_model, self._to_environment, config.action_repeat, objective)
        reward_model: RewardModel | None = self.reward_model
        if reward_model is None:
            if planning_model is None:
                raise GantryError("this environment does not offer its reward to planners; set reward=learned")
            reward_model = TaskReward(planning_model, self._to_environment, config.action_repeat)
        return LearnedModel(
            self.dynamics, reward_model, objective, config.particles, config.propagation, config.sample_predictions
        )

    def _to_environment(self, actions: NDArray[np.float32]) -> Array:
        """Return environment actions (k, …) for planned ones (k, a), one-hot for Discrete actions."""
        return self._actions.to_environment(actions if self._actions.continuous else actions.argmax(-1))

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""
        return self.stepper.steps

    # Acting

    def begin(self, env: VectorEnv) -> None:
        """Prepare for new episodes in all environments of `env`; see `MPC.begin`."""
        self.mpc.begin(env)

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the action for one observation or a batch of them, in consecutive steps; see `MPC.act`."""
        return self.mpc.act(observation)

    # Learning

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`."""
        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                with torch_threads(self.config.torch_threads):
                    log = self.collect(update.remaining)
                    accuracy = self._measure_accuracy(log)
                    fit = self.fit()
                if accuracy is not None:
                    self.accuracy = [*self.accuracy, accuracy][-ACCURACY_HISTORY:]
                update.report({**_model_metrics(accuracy, fit), **log.metrics(self.config, self._planning_interval())})
        return self

    def collect(self, budget: int) -> "PlanningLog":
        """Act until the next fit is due, at most `budget` environment steps, and add the transitions to the dataset."""
        config, log, last = self.config, PlanningLog(self.stepper.num_envs), self.stepper.steps + budget
        random = self.dynamics is not None and not self.dynamics.fitted
        wanted = config.initial_random_steps if random else config.fit_every
        if self.stepper.restarted:
            self.collector.end_episodes(torch.arange(self.stepper.num_envs))
        while log.completed_steps < wanted and self.stepper.steps < last:
            self._step(last - self.stepper.steps, log)
        self.dataset.add(*(new for new, _, _ in log.steps))
        return log

    def add_experience(self, experience: Experience) -> None:
        """Add transitions that others made to the dataset, and fit the model to them.

        Raises:
            GantryError: nothing is learned, or no action is held for `action_repeat` steps.
        """
        repeat = self.config.action_repeat
        if self.dynamics is None:
            raise GantryError("a planner in the simulator learns nothing from data; set dynamics=learned")
        held = experience.held(repeat)
        if len(held) == 0:
            raise GantryError(f"no action in the data is held for action_repeat={repeat} steps; set action_repeat to 1")
        model, actions = self.collector.model, self._actions.from_environment(held.actions)
        assert model is not None
        if not self._actions.continuous:
            actions = np.eye(self._actions.size, dtype=np.float32)[actions]
        held_out = torch.rand(len(held), generator=self._random) < self.config.validation_fraction
        states = (model.features(each) for each in (held.observations, held.next_observations))
        features, next_features = states
        planned, rewards, ended = map(torch.from_numpy, (actions, held.rewards, held.terminated))
        self.dataset.add(Transitions(features, planned, next_features, rewards, ended, held_out))
        with torch_threads(self.config.torch_threads):
            self.fit()

    def _step(self, budget: int, log: "PlanningLog") -> None:
        """Take one step in every environment."""
        stepper, collector, pending = self.stepper, self.collector, self._pending
        assert collector.model is not None
        collector.steps_left[torch.from_numpy(stepper.must_reset)] = 1  # this step only resets them: nothing to plan
        features = collector.model.features(stepper.observation)
        started = time.perf_counter()
        planned, result = collector.step(features)
        log.add_plans(planned, result, time.perf_counter() - started)
        pending.start(planned, features)
        transition = stepper.step(collector.environment_actions(), budget)
        pending.rewards += torch.from_numpy(transition.rewards)
        next_features = collector.model.features(stepper.observation)
        if len(transition.final_envs):
            next_features[transition.final_envs] = collector.model.features(transition.final_observations)
        mask, terminated, done = map(torch.tensor, (transition.mask, transition.terminated, transition.done))
        held_to_end = collector.steps_left == 0
        # A planning step that a time limit cut short is not a transition of the kind that the model predicts.
        complete = (mask & (terminated | held_to_end)).nonzero()[:, 0]
        if len(complete):
            columns = pending.features, collector.actions, pending.rewards
            states, actions, rewards = (part[complete] for part in columns)
            held_out = torch.rand(len(complete), generator=self._random) < self.config.validation_fraction
            new = Transitions(states, actions, next_features[complete], rewards, terminated[complete], held_out)
            log.add_transitions(complete, new)
        log.completed_steps += int((mask & (done | held_to_end)).sum())
        log.end_segments(done | ~mask)
        collector.end_episodes(done)

    def fit(self) -> FitResult | None:
        """Fit everything that is learned to the dataset; None if there is nothing to fit, or no data yet."""
        data = self.dataset.transitions
        if self.dynamics is None or not bool((~data.validation).any()):
            return None
        result = self.dynamics.fit(data.features, data.actions, data.next_features, data.validation, self._random)
        if self.reward_model is not None:
            self.reward_model.fit(data, self._random)
        if self.terminal_value is not None:
            self.terminal_value.fit(data, self.config.discount, self._random)
        return result

    def _measure_accuracy(self, log: "PlanningLog") -> ModelAccuracy | None:
        """Return the model's accuracy on the transitions since the last fit; None without a fitted model."""
        if self.dynamics is None or not self.dynamics.fitted:
            return None
        segments = [(segment.features, segment.actions, segment.next_features) for segment, _ in log.segments()]
        return measure_accuracy(self.dynamics, segments, self.config.search.horizon)

    def _planning_interval(self) -> float:
        """Return the simulated time between planning steps, in s; NaN if the environment does not say."""
        if self.collector.planning_model is not None:
            return float(self.collector.planning_model.control_timestep) * self.config.action_repeat
        assert isinstance(self.env, VectorEnv)
        rate = self.env.metadata.get("render_fps")
        return self.config.action_repeat / float(rate) if rate else math.nan


class PendingTransitions:
    """Planning steps under way, whose actions are still being held.

    Attributes:
        features: (n, d) at the start of the planning step.
        rewards: (n,) summed since then.
    """

    STATE = ("features", "rewards")

    def __init__(self, num_envs: int, feature_size: int) -> None:
        self.features, self.rewards = torch.zeros(num_envs, feature_size), torch.zeros(num_envs)

    def start(self, env_ids: Tensor, features: Tensor) -> None:
        """Start planning steps in environments (k,), given the features (n, d) of all."""
        self.features[env_ids], self.rewards[env_ids] = features[env_ids], 0.0


class PlanningLog:
    """Planning steps and transitions between two fits.

    Attributes:
        completed_steps: planning steps completed, or ended by the end of an episode, in all environments.
        steps: new transitions (k), in order, each with the return (k,) that its plan predicted and its segment (k,).
    """

    def __init__(self, num_envs: int) -> None:
        self.completed_steps = 0
        self._plans, self._failures, self._seconds = 0, 0, 0.0
        self._predicted = torch.full((num_envs,), torch.nan)
        self._segment = torch.arange(num_envs)
        self.steps: list[tuple[Transitions, Tensor, Tensor]] = []

    def add_plans(self, env_ids: Tensor, result: PlanningResult | None, seconds: float) -> None:
        """Add the plans that environments (k,) have started, and the wall time of planning."""
        if result is None:
            self._predicted[env_ids] = torch.nan
            return
        self._predicted[env_ids] = result.predicted_returns
        self._plans += len(env_ids)
        self._failures += int(result.failed.sum())
        self._seconds += seconds

    def add_transitions(self, env_ids: Tensor, new: Transitions) -> None:
        """Add one transition of each of the environments (k,)."""
        self.steps.append((new, self._predicted[env_ids], self._segment[env_ids]))

    def end_segments(self, ended: Tensor) -> None:
        """End the segments of environments (n,) bool: what follows does not continue them."""
        self._segment[ended] += len(ended)  # environment i numbers its segments i, i + n, i + 2n, …

    def segments(self) -> list[tuple[Transitions, Tensor]]:
        """Return segments of T consecutive transitions, each with the returns (T,) that its plans predicted."""
        if not self.steps:
            return []
        new, returns, numbers = zip(*self.steps, strict=True)
        transitions, predicted, segment = Transitions.concatenate(new), torch.cat(returns), torch.cat(numbers)
        masks = [segment == number for number in segment.unique()]
        return [(transitions.select(mask), predicted[mask]) for mask in masks]

    def metrics(self, config: PlannerConfig, planning_interval: float) -> Metrics:
        """Return predicted and achieved returns over the horizon, failed plans, and planning time."""
        horizon = config.search.horizon
        predicted, achieved = [], []
        for segment, expected in self.segments():
            complete = len(segment) - horizon + 1
            if complete > 0 and not config.terminal_value:
                weights = config.discount ** torch.arange(horizon, dtype=segment.rewards.dtype)
                achieved.append(segment.rewards.unfold(0, horizon, 1) @ weights)
                predicted.append(expected[:complete])
        seconds = self._seconds / self._plans if self._plans else math.nan
        return {
            "plan_return_predicted": float(torch.cat(predicted).nanmean()) if predicted else math.nan,
            "plan_return_achieved": float(torch.cat(achieved).mean()) if achieved else math.nan,
            "fallbacks": float(self._failures),
            "planning_ms": 1000.0 * seconds,
            "real_time_factor": planning_interval / seconds,
        }


def _model_metrics(accuracy: ModelAccuracy | None, fit: FitResult | None) -> Metrics:
    """Return metrics of the last fit, and of the model's accuracy before it."""
    return {
        "fit_steps": float(fit.gradient_steps) if fit else math.nan,
        "model_loss": fit.training_loss if fit else math.nan,
        "validation_loss": fit.validation_loss if fit else math.nan,
        "model_error": accuracy.one_step_median_error if accuracy else math.nan,
        "coverage_50": accuracy.coverage_at(0.5) if accuracy else math.nan,
        "coverage_90": accuracy.coverage_at(0.9) if accuracy else math.nan,
    }


def _offers_reward(planning_model: PlanningModel | None, observation_size: int) -> bool:
    """Return whether an environment offers its reward as a function of what its observations determine."""
    observation = np.zeros((1, observation_size), np.float32)
    return planning_model is not None and planning_model.features(observation) is not None
