"""A planner: model-predictive control over dynamics that are learned, or over the simulator itself.

Source: Chua, Calandra, McAllister and Levine, "Deep reinforcement learning in a handful of trials using probabilistic
dynamics models" (PETS), 2018 (arXiv:1805.12114), algorithm 1: act by planning through an ensemble of what is known so
far, add what happens to the data, fit the ensemble again. Plans are searched for by iCEM (Pinneri et al., CoRL 2020) or
one of its peers, from the plan of the decision before; of each plan only the first action is carried out. Where this
departs from the papers is listed in docs/planner.md.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from gantry.agents.parts.adam import Adam
from gantry.agents.ladder.agent import Agent, Shapes, State, prefixed, under
from gantry.agents.parts.validation import require
from gantry.agents.models.calibration import ModelAccuracy, measure_accuracy
from gantry.agents.models.dataset import TransitionDataset, Transitions
from gantry.agents.models.dynamics import DynamicsModel, Propagation
from gantry.agents.models.ensemble import EnsembleConfig, FitResult
from gantry.agents.models.model_rollouts import LearnedModel, Model, PlanningObjective, SimulatorModel
from gantry.agents.models.plan_search import OptimizerName, PlanningResult, PlanSearch, SearchConfig, WarmStart
from gantry.agents.models.planning_model import planning_model_of
from gantry.agents.models.reward_model import LearnedReward, RewardModel, TaskReward
from gantry.agents.models.terminal_value import TerminalValue
from gantry.agents.parts.spaces import ActionMap, ObservationMap
from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError

EXPLORING = 0.8
"""Share of the last random action in the next one, before there is a model to plan with."""
SPREAD = 0.8
"""Standard deviation of random actions, in units of the action bounds' half-width."""
REMEMBERED = 10
"""Updates whose accuracy is kept for the picture of it."""


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Settings of the planner."""

    dynamics: Literal["learned", "simulator"] = "learned"
    """learned: an ensemble of networks. simulator: copies of the simulator itself, the perfect model."""
    optimizer: OptimizerName = "icem"
    """How plans are searched for. For Discrete actions icem and cem stand for cross-entropy over choices."""
    horizon: int = 25
    """Decisions looked ahead."""
    action_repeat: int = 1
    """Environment steps that each decision is held for."""
    population: int = 64
    """Plans tried in the first iteration of a decision."""
    iterations: int = 3
    """Populations a decision; for `gradient`, gradient steps from the best of one population."""
    elites: int = 8
    """Plans that the next population is sampled around (icem, cem, Discrete actions)."""
    kept_share: float = 0.3
    """Share of the elites that takes part in the next population, and in the next decision (icem, Discrete actions)."""
    colour: float = 2.0
    """Power of plans' noise falls with its frequency to this power (icem): 0 trembles, 2 wanders."""
    momentum: float = 0.1
    """Share of the old mean and deviation that remains after an iteration (icem, cem)."""
    shrink: float = 1.25
    """Each population is smaller than the one before by this factor (icem)."""
    initial_deviation: float = 0.5
    """Standard deviation of the first population, in units of the action bounds' half-width."""
    temperature: float = 0.1
    """The smaller, the more only the best plans count (mppi), in deviations of the plans' worth."""
    carried_out: Literal["best", "mean"] = "best"
    """best: the best plan that was tried. mean: what the search is centred on, which trembles less; always so in mppi."""
    discount: float = 1.0
    """γ from one decision to the next, within the horizon."""
    terminal_value: bool = False
    """Add a learned value of where a plan ends; it needs a discount below 1."""
    uncertainty_penalty: float = 0.0
    """Taken off a plan's worth for each deviation by which its particles disagree, a decision; needs 2 particles."""
    reward: Literal["auto", "task", "learned"] = "auto"
    """task: the environment's own reward and ends. learned: from what happened. auto: task where it is offered."""
    particles: int = 1
    """Futures imagined of each plan, spread over the ensemble's members."""
    sampling: Propagation = "ts_infinity"
    """ts_infinity: a future follows one member. ts1: another one at each decision."""
    noise: bool = False
    """Draw futures from the predicted Gaussians; else follow their means."""
    random_decisions: int = 100
    """Decisions at random before the first fit, of all environments together."""
    update_decisions: int = 50
    """Decisions from one fit to the next, of all environments together."""
    angles: tuple[int, ...] = ()
    """Columns of the features that are joint angles (rad), 7 at most: what follows from these is learned apart."""
    members: int = 5
    """Networks in the ensemble."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of their hidden layers."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    weight_decay: float = 1e-4
    """Share of the weights that a step with a learning rate of 1 would take away."""
    minibatch_size: int = 64
    """Transitions a gradient step, of each member."""
    fit_steps: int = 300
    """Gradient steps a fit, at most."""
    patience: int = 4
    """A fit ends once so many looks at the held-out data, one every 50 steps, find no member better."""
    variance_weight: float = 0.0
    """β: above 0, at most 1, the ensemble gives up less easily as noise what it has not learned yet (docs/dynamics.md)."""
    bootstrap: bool = True
    """Draw each member's data with replacement."""
    held_out: float = 0.1
    """Share of the transitions that judges fits but is not learned from."""
    num_envs: int = 1
    """Environments stepped at once."""
    torch_threads: int = 1
    """PyTorch's threads; another number rounds otherwise."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        for name in ("horizon", "action_repeat", "population", "iterations", "particles", "random_decisions",
                     "update_decisions", "num_envs", "torch_threads"):  # fmt: skip
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("discount", "held_out", "kept_share", "momentum"):
            require(0.0 <= getattr(self, name) <= 1.0, name, "from 0 to 1", getattr(self, name))
        require(self.held_out < 1.0, "held_out", "below 1", self.held_out)
        require(self.uncertainty_penalty >= 0.0, "uncertainty_penalty", "at least 0", self.uncertainty_penalty)
        require(self.uncertainty_penalty == 0.0 or self.particles > 1, "particles",
                "at least 2 with an uncertainty_penalty", self.particles)  # fmt: skip
        require(not self.terminal_value or self.discount < 1.0, "discount", "below 1 with a terminal_value",
                self.discount)  # fmt: skip
        require(
            self.optimizer != "gradient" or self.dynamics == "learned", "optimizer",
            "another than gradient where the simulator is the model, which has no gradient", self.optimizer,
        )  # fmt: skip
        self.ensemble(self.members)  # so do the networks and the search with what is theirs
        assert self.search is not None

    @property
    def search(self) -> SearchConfig:
        """The settings that the search needs."""
        return SearchConfig(
            optimizer=self.optimizer,
            horizon=self.horizon,
            population=self.population,
            iterations=self.iterations,
            elites=self.elites,
            keep_elite_fraction=self.kept_share,
            colored_noise_exponent=self.colour,
            momentum=self.momentum,
            population_decay_factor=self.shrink,
            initial_std=self.initial_deviation,
            temperature=self.temperature,
            executed_plan=self.carried_out,
        )

    def ensemble(self, members: int) -> EnsembleConfig:
        """The settings of a network of so many members."""
        return EnsembleConfig(
            ensemble_size=members,
            hidden_sizes=self.hidden_sizes,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            minibatch_size=self.minibatch_size,
            gradient_steps=self.fit_steps,
            patience=self.patience,
            beta_nll=self.variance_weight,
            bootstrap=self.bootstrap,
        )


@dataclasses.dataclass
class Imagination:
    """What the last decision was made from, for pictures.

    Attributes:
        population: (H + 1, m, p, d) futures of the last population.
        returns: (m,) what they are worth; NaN where a future is not to be believed.
        chosen: (H + 1, E, d) futures of the plan that was chosen, one for each member of the ensemble.
        elites: how many of the best the plan was made from.
        predicted: rewards that the chosen plan is thought to bring within the horizon.
    """

    population: Tensor
    returns: Tensor
    chosen: Tensor
    elites: int
    predicted: float


class Actor:
    """Decides for n rows of an environment, and holds each decision for as many steps as it is meant for.

    Attributes:
        plans: what the rows' next decisions go on from.
        actions: (n, a) the decisions being carried out; of choices one-hot.
        left: (n,) steps for which they are still to be held.
    """

    def __init__(self, search: PlanSearch, rows: int) -> None:
        self.plans: WarmStart = search.warm_start(rows)
        self.actions = torch.zeros(rows, search.action_size)
        self.left = torch.zeros(rows, dtype=torch.int64)

    def begin(self, rows: Any) -> None:
        """Episodes begin in some rows: whatever was planned is void."""
        self.plans.reset(rows)
        self.actions[rows] = 0.0
        self.left[rows] = 0

    def state(self) -> dict[str, Tensor]:
        """Copies of all fields."""
        return {**prefixed("plans", self.plans.state()), "actions": self.actions.clone(), "left": self.left.clone()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.plans.load_state(under(tensors, "plans"))
        self.actions, self.left = tensors["actions"].clone(), tensors["left"].clone()


class Planner(Agent):
    """Plans through a model of its world, which it learns.

    Attributes:
        dynamics: the ensemble; None where the simulator is the model.
        fitted: whether the ensemble has learned anything yet.
        accuracy: of the last updates, on what was new to the ensemble.
        imagines: keep what each decision is made from in `imagination`, for pictures.
        imagination: of the last decision of row 0, where asked for.
    """

    name = "planner"
    config_class = PlannerConfig

    def _build(self) -> None:
        config = self.config
        features, actions = self._observation_map.size, self._action_map.size
        if not self._action_map.continuous and config.optimizer in ("mppi", "gradient"):
            raise GantryError(f"the optimizer {config.optimizer} plans no Discrete actions; choose icem or cem")
        bounded = None
        if self._action_map.continuous:
            space = self.action_space
            bounded = torch.from_numpy(np.isfinite(space.low.ravel()) & np.isfinite(space.high.ravel()))  # type: ignore[attr-defined]
        self._search = PlanSearch(config.search, actions, bounded)
        learned = config.dynamics == "learned"
        generator = self._generator
        self.dynamics = (
            DynamicsModel(features, actions, config.ensemble(config.members), generator, config.angles)
            if learned
            else None
        )
        self._outcomes = (
            LearnedReward(features, actions, config.ensemble(1), generator)
            if learned and config.reward != "task"
            else None
        )
        self._value = TerminalValue(features, config.ensemble(1), generator) if config.terminal_value else None
        self.fitted = False
        self.accuracy: list[ModelAccuracy] = []
        self.imagines = False
        self.imagination: Imagination | None = None
        self._acting: Actor | None = None
        self._acting_world: Model | None = None
        self._acting_model: Any = None
        self._warned = False

    def _prepare(self) -> None:
        assert self.env is not None
        self._model = planning_model_of(self.env)
        if self.config.reward == "auto":
            shown = self._model is not None and self._features(self._stepper.observation, self._model) is not None
            self.config = dataclasses.replace(self.config, reward="task" if shown else "learned")
            if shown:
                self._outcomes = None
        self._world = self._world_of(self._model)
        rows = self._stepper.num_envs
        self._actor = Actor(self._search, rows)
        self._begun = torch.zeros(rows, self._observation_map.size)
        self._gained = torch.zeros(rows)
        self._memory = TransitionDataset(self._observation_map.size, self._action_map.size)

    def _world_of(self, model: Any) -> Model:
        """Where plans are tried out, for an environment that offers `model`, or None.

        Raises:
            GantryError: the environment does not offer what the settings ask for.
        """
        config, to_environment = self.config, self._to_environment
        scoring = PlanningObjective(config.discount, config.uncertainty_penalty, self._value)
        if self.dynamics is None:
            if model is None:
                raise GantryError("only Gantry's own environments can be planned in as they are; use dynamics=learned")
            return SimulatorModel(model, to_environment, config.action_repeat, scoring)
        outcomes: RewardModel
        if self._outcomes is not None:
            outcomes = self._outcomes
        elif model is None:
            raise GantryError("this environment does not offer its reward to planners; set reward=learned")
        else:
            outcomes = TaskReward(model, to_environment, config.action_repeat)
        return LearnedModel(self.dynamics, outcomes, scoring, config.particles, config.sampling, config.noise)

    def _features(self, observations: NDArray[np.float32], model: Any) -> NDArray[np.float32] | None:
        """What the dynamics are about, (k, d), as observations (k, d) show it; None where they do not."""
        if self.dynamics is None or self.config.reward == "learned" or model is None:
            return observations
        features: NDArray[np.float32] | None = model.features(observations)
        return features

    def _seen(self, observations: NDArray[np.float32], model: Any) -> Tensor:
        """The same as a tensor of its own.

        Raises:
            GantryError: the observations do not show it.
        """
        features = self._features(observations, model)
        if features is None:
            raise GantryError("the observations do not show what the reward is a function of; set reward=learned")
        return torch.tensor(features, dtype=torch.float32)

    def _to_environment(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Planned actions (k, a), of choices one-hot, as environment actions (k, …)."""
        return self._action_map.to_environment(actions if self._action_map.continuous else actions.argmax(-1))

    # Acting

    def begin(self, env: VectorEnv) -> None:
        """Episodes begin in `env`, whose observations the next calls of `act` will show.

        Planning goes on from decision to decision, so it has to be told; and where the model is the simulator, or the
        reward the environment's own, this is where it learns of them.

        Raises:
            GantryError: the environment does not offer what the settings ask for.
        """
        self._acting_model = planning_model_of(env)
        self._acting_world = self._world_of(self._acting_model)
        self._acting = Actor(self._search, env.num_envs)

    def _decide(self, observations: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        if self._acting_world is None:
            if self.env is None and (self.dynamics is None or self.config.reward == "task"):
                raise GantryError("call begin(env) before act(): the planner has to know the environment it plans in")
            self._acting_model = None if self.env is None else self._model
            self._acting_world = self._world_of(self._acting_model)
        if self._acting is None or len(self._acting.left) != len(observations):
            self._acting = Actor(self._search, len(observations))
        starts = self._seen(observations, self._acting_model)
        with torch_threads(self.config.torch_threads):
            self._act_in(self._acting, starts, self._acting_world, self._acting_generator)
        return self._as_policy_actions(self._acting.actions)

    def _as_policy_actions(self, actions: Tensor) -> NDArray[Any]:
        """As `ActionMap` takes them: (k, a) float32 or (k,) integers."""
        return actions.numpy().copy() if self._action_map.continuous else actions.argmax(-1).numpy()

    def _act_in(
        self, actor: Actor, starts: Tensor, world: Model, generator: torch.Generator
    ) -> tuple[NDArray[np.int64], PlanningResult | None]:
        """Let the rows decide whose last decision is over; returns which those are, and what they decided."""
        due = (actor.left == 0).nonzero()[:, 0]
        decision = None
        if len(due):
            if self.dynamics is not None and not self.fitted:
                actor.actions[due] = self._random_actions(actor.actions[due], generator)
            else:
                decision = self._search.plan(actor.plans, due, starts[due], world, generator)
                actor.actions[due] = decision.actions
                if bool(decision.failed.any()):
                    self._warn()
                if self.imagines and int(due[0]) == 0:
                    self._imagine(decision, starts[0], world, generator)
            actor.left[due] = self.config.action_repeat
        actor.left -= 1
        return due.numpy(), decision

    def _random_actions(self, before: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (k, a) that wander from those before, or choices at random."""
        if not self._action_map.continuous:
            drawn = torch.randint(before.shape[1], (len(before),), generator=generator)
            return torch.nn.functional.one_hot(drawn, before.shape[1]).float()
        noise = torch.randn(before.shape, generator=generator) * (SPREAD * math.sqrt(1.0 - EXPLORING**2))
        wandered = EXPLORING * before + noise
        return wandered if self._search.bounds is None else self._search.bounds.clip(wandered)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "the model foresees no finite future; the last good plan is gone on with (said once; the column "
                "fallbacks of metrics.csv counts)",
                RuntimeWarning,
                stacklevel=2,
            )

    def _imagine(self, decision: PlanningResult, start: Tensor, world: Model, generator: torch.Generator) -> None:
        """Keep what row 0 decided from; draws from a generator of its own, so that pictures change nothing."""
        if bool(decision.failed[0]):
            self.imagination = None
            return
        spread = 1 if self.dynamics is None else self.config.members
        again = torch.Generator().manual_seed(0)
        plans = decision.plan.expand(spread, -1, -1)
        futures = world.evaluate_action_sequences(
            start.expand(spread, -1), np.zeros(spread, np.int64), plans, again
        )
        self.imagination = Imagination(
            decision.rollouts.trajectories,
            decision.rollouts.returns,
            futures.trajectories[:, :, 0],
            min(self.config.elites, len(decision.rollouts.returns)),
            float(futures.rewards.sum(0).mean()),
        )

    # Learning

    def _advance(self, total_steps: int) -> dict[str, float]:
        """Act for `update_decisions`, or as long as the budget lasts, and fit the model to all that ever happened."""
        config = self.config
        log = _Log(self._stepper.num_envs)
        wanted = config.update_decisions if self.fitted or self.dynamics is None else config.random_decisions
        with torch_threads(config.torch_threads):
            while log.decisions < wanted and self.steps < total_steps:
                self._step(log, total_steps)
            runs = log.runs()
            accuracy, fit = None, None
            if self.dynamics is not None:
                if self.fitted:
                    accuracy = measure_accuracy(self.dynamics, [run[:3] for run in runs], config.horizon)
                fit = self._fit()
        if accuracy is not None:
            self.accuracy = [*self.accuracy, accuracy][-REMEMBERED:]
        return {**_model_figures(accuracy, fit), **log.figures(config, self._decision_seconds())}

    def _step(self, log: "_Log", total_steps: int) -> None:
        """One step of every environment."""
        stepper, actor = self._stepper, self._actor
        resets = torch.from_numpy(stepper.pending_resets.copy())
        actor.left[resets] = 1  # the coming step does nothing but reset these rows
        seen = self._seen(stepper.observation, self._model)
        counted = self._counted(total_steps - self.steps)
        since = time.perf_counter()
        due, decision = self._act_in(actor, seen, self._world, self._generator)
        log.decided(due, decision, time.perf_counter() - since)
        self._begun[due], self._gained[due] = seen[due], 0.0
        actions = actor.actions
        transition, infos = stepper.step(self._action_map.to_environment(self._as_policy_actions(actions)))
        self._note(transition, infos, counted)
        valid = np.ones(stepper.num_envs, np.bool_) if counted is None else counted
        self._gained += torch.from_numpy(transition.rewards)
        following = self._seen(stepper.observation, self._model)
        if len(transition.final_rows):
            following[transition.final_rows] = self._seen(transition.final_observations, self._model)
        # A decision that the time limit cut short is none of the kind that the model is about.
        whole = torch.from_numpy(valid & transition.terminated) | (torch.from_numpy(valid) & (actor.left == 0))
        rows = whole.nonzero()[:, 0]
        if len(rows):
            held_out = torch.rand(len(rows), generator=self._generator) < self.config.held_out
            ended = torch.from_numpy(transition.terminated.copy())[rows]
            new = Transitions(self._begun[rows], actions[rows].clone(), following[rows], self._gained[rows].clone(),
                              ended, held_out)  # fmt: skip
            self._memory.add(new)
            log.happened(rows, new)
        done = torch.from_numpy(transition.done.copy())
        log.decisions += int((torch.from_numpy(valid) & (done | (actor.left == 0))).sum())
        log.broke_off(done | ~torch.from_numpy(valid))
        actor.begin(done)

    def _fit(self) -> FitResult | None:
        """Fit everything that is learned to all transitions; None where there are none yet."""
        assert self.dynamics is not None
        data = self._memory.transitions
        if not bool((~data.validation).any()):
            return None
        fit = self.dynamics.fit(data.features, data.actions, data.next_features, data.validation, self._generator)
        if self._outcomes is not None:
            self._outcomes.fit(data, self._generator)
        if self._value is not None:
            self._value.fit(data, self.config.discount, self._generator)
        self.fitted = True
        return fit

    def _decision_seconds(self) -> float:
        """Simulated seconds from one decision to the next; NaN where the environment does not say."""
        if self._model is not None:
            return float(self._model.control_timestep) * self.config.action_repeat
        assert self.env is not None
        rate = self.env.metadata.get("render_fps")
        return self.config.action_repeat / float(rate) if rate else math.nan

    # Saving, and going on

    def _parts(self) -> dict[str, Any]:
        """Everything learned, by name."""
        parts = {"dynamics": self.dynamics, "outcomes": self._outcomes, "value": self._value}
        return {name: part for name, part in parts.items() if part is not None}

    def _policy_tensors(self) -> dict[str, torch.Tensor]:
        tensors = {"fitted": torch.tensor(self.fitted)}
        for name, part in self._parts().items():
            tensors.update(prefixed(name, part.state()))
        return tensors

    def _load_policy_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.fitted = bool(tensors["fitted"])
        for name, part in self._parts().items():
            part.load_state(under(tensors, name))

    @classmethod
    def _expected_tensors(
        cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: Any
    ) -> Shapes:
        features, actions = ObservationMap(observation_space).size, ActionMap(action_space).size
        parts: dict[str, Shapes] = {}
        if config.dynamics == "learned":
            parts["dynamics"] = DynamicsModel.shapes(
                features, actions, config.ensemble(config.members), config.angles
            )
            if config.reward != "task":
                parts["outcomes"] = LearnedReward.shapes(features, actions, config.ensemble(1))
        if config.terminal_value:
            parts["value"] = TerminalValue.shapes(features, config.ensemble(1))
        shapes: Shapes = {"fitted": ((), torch.bool)}
        for name, part in parts.items():
            shapes.update({f"{name}.{key}": shape for key, shape in part.items()})
        return shapes

    def _optimizers(self) -> dict[str, Adam]:
        optimizers: dict[str, Adam] = {}
        if self.dynamics is not None:
            optimizers["dynamics"] = self.dynamics.ensemble.optimizer
        if self._outcomes is not None:
            optimizers.update(self._outcomes.optimizers)
        if self._value is not None:
            optimizers["value"] = self._value.optimizer
        return optimizers

    def _learner_state(self) -> State:
        tensors = {
            **prefixed("memory", self._memory.state()),
            **prefixed("actor", self._actor.state()),
            "begun": self._begun.clone(),
            "gained": self._gained.clone(),
        }
        for name, optimizer in self._optimizers().items():
            tensors.update(prefixed(f"optimizer.{name}", optimizer.state()))
        return tensors, {}

    def _load_learner_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        self._memory.load_state(under(tensors, "memory"))
        self._actor.load_state(under(tensors, "actor"))
        self._begun, self._gained = tensors["begun"].clone(), tensors["gained"].clone()
        for name, optimizer in self._optimizers().items():
            optimizer.load_state(under(tensors, f"optimizer.{name}"))


def _model_figures(accuracy: ModelAccuracy | None, fit: FitResult | None) -> dict[str, float]:
    """Metrics of the model: of the last fit, and of what it foretold before."""
    return {
        "fit_steps": float(fit.gradient_steps) if fit else math.nan,
        "model_loss": fit.training_loss if fit else math.nan,
        "validation_loss": fit.validation_loss if fit else math.nan,
        "model_error": accuracy.one_step_median_error if accuracy else math.nan,
        "coverage_50": accuracy.coverage_at(0.5) if accuracy else math.nan,
        "coverage_90": accuracy.coverage_at(0.9) if accuracy else math.nan,
    }


Run = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Unbroken transitions: features, actions, following features, rewards, and what the plans were thought to bring."""


class _Log:
    """What happens between two updates, row by row."""

    def __init__(self, rows: int) -> None:
        self.decisions = 0
        """Carried out to their end."""
        self._planned, self._failed, self._seconds = 0, 0, 0.0
        self._predicted = torch.full((rows,), torch.nan)
        self._open: list[list[tuple[Tensor, ...]]] = [[] for _ in range(rows)]
        self._closed: list[list[tuple[Tensor, ...]]] = []

    def decided(self, due: NDArray[np.int64], decision: PlanningResult | None, seconds: float) -> None:
        """Take in a decision of some rows, and the seconds it took."""
        if decision is None:
            self._predicted[due] = torch.nan
            return
        self._predicted[due] = decision.predicted_returns
        self._planned += len(due)
        self._failed += int(decision.failed.sum())
        self._seconds += seconds

    def happened(self, rows: Tensor, new: Transitions) -> None:
        """Take in transitions of some rows."""
        for k, row in enumerate(rows.tolist()):
            columns = (new.features, new.actions, new.next_features, new.rewards, self._predicted[rows])
            self._open[row].append(tuple(column[k].clone() for column in columns))

    def broke_off(self, rows: Tensor) -> None:
        """What follows in these rows (n,) bool does not continue what was before."""
        for row in rows.nonzero()[:, 0].tolist():
            self._closed.append(self._open[row])
            self._open[row] = []

    def runs(self) -> list[Run]:
        """Unbroken transitions, one after another."""
        pieces = [piece for piece in (*self._closed, *self._open) if piece]
        return [tuple(torch.stack(column) for column in zip(*piece, strict=True)) for piece in pieces]  # type: ignore[misc]

    def figures(self, config: PlannerConfig, decision_seconds: float) -> dict[str, float]:
        """Metrics of planning: what plans were thought to bring and what came, and how long they took."""
        predicted, realised = [], []
        for *_, rewards, expected in self.runs():
            whole = len(rewards) - config.horizon + 1
            if whole > 0 and not config.terminal_value:
                weights = config.discount ** torch.arange(config.horizon, dtype=rewards.dtype)
                realised.append(rewards.unfold(0, config.horizon, 1) @ weights)
                predicted.append(expected[:whole])
        each = self._seconds / self._planned if self._planned else math.nan
        return {
            "plan_predicted": float(torch.cat(predicted).nanmean()) if predicted else math.nan,
            "plan_realised": float(torch.cat(realised).mean()) if realised else math.nan,
            "fallbacks": float(self._failed),
            "planning_ms": 1000.0 * each,
            "real_time_factor": decision_seconds / each,
        }
