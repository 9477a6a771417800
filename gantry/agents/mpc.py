"""Model-predictive control (MPC): plan, execute the first action of the plan, and plan again at the next step.

At each planning step, a plan search (iCEM or one of its alternatives) optimizes an action sequence over model rollouts,
starting from the previous step's plan, shifted by one step. The model is either learned or the simulator itself.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from gantry.agents.models.model_rollouts import Model
from gantry.agents.models.plan_search import PlanningResult, PlanSearch
from gantry.agents.models.planning_model import PlanningModel, planning_model_of
from gantry.agents.models.reward_model import ToEnvironment
from gantry.errors import GantryError, GantryWarning
from gantry.machine.threads import torch_threads
from gantry.spaces.maps import ObservationMap
from gantry.types import Array, Observation

RANDOM_WALK_CORRELATION = 0.8
"""Autocorrelation of random actions between planning steps, while the model has not been fitted."""
RANDOM_WALK_STD = 0.8
"""Standard deviation of random actions, in half-widths of the action bounds."""
FAILED = (
    "no model rollout is finite; reusing the previous plan (warned once; the column fallbacks of metrics.csv counts "
    "how often)"
)

ModelFactory = Callable[[PlanningModel | None], Model]
"""Build the model for an environment from the planning model it offers, or from None if it offers none; raises
GantryError if that is not enough."""


@dataclasses.dataclass
class PlanningRecord:
    """Model rollouts of one planning step of environment 0, for films.

    Attributes:
        population: (H + 1, m, p, d) trajectories of the last population.
        returns: (m,) their estimated returns; NaN where a rollout diverged.
        chosen: (H + 1, E, d) trajectories of the executed plan, one per ensemble member.
        elites: number of the best action sequences that the plan was made from.
        predicted_return: undiscounted return of the executed plan within the horizon.
    """

    population: Tensor
    returns: Tensor
    chosen: Tensor
    elites: int
    predicted_return: float


class MPC:
    """Receding-horizon controller for n environments: model, plan search, and the plans under way.

    Args:
        observations: from the environment's observations to vectors.
        to_environment: from planned actions to the environment's; dimensions with bounds are planned in [-1, 1].
        search: optimizer of action sequences.
        build_model: builds the model for an environment.
        action_repeat: environment steps for which each action is held.
        generator: source of randomness.
        threads: PyTorch threads.

    Attributes:
        model: the model of the environment given to `begin`; None before.
        planning_model: what that environment offers to planners; None if nothing.
        warm_start: plans of the n environments from which their next planning step starts.
        actions: (n, a) actions in execution; one-hot for Discrete actions.
        steps_left: (n,) environment steps for which they are still held.
        keep_record: keep `record` of each planning step; does not change the actions.
        record: of the last planning step of environment 0, or None.
    """

    STATE = ("warm_start", "actions", "steps_left")

    def __init__(
        self, observations: ObservationMap, to_environment: ToEnvironment, search: PlanSearch,
        build_model: ModelFactory, action_repeat: int, generator: torch.Generator, threads: int = 1,
    ) -> None:  # fmt: skip
        self._observations, self._to_environment, self.search = observations, to_environment, search
        self._build_model, self.action_repeat = build_model, action_repeat
        self._generator, self._threads = generator, threads
        self.model: Model | None = None
        self.planning_model: PlanningModel | None = None
        self.keep_record = False
        self.record: PlanningRecord | None = None
        self._warned = False
        self._reset(1)

    def _reset(self, num_envs: int) -> None:
        """Start without plans in n environments."""
        self.warm_start = self.search.warm_start(num_envs)
        self.actions = torch.zeros(num_envs, self.search.action_size)
        self.steps_left = torch.zeros(num_envs, dtype=torch.int64)

    def begin(self, env: VectorEnv) -> None:
        """Prepare for new episodes in all environments of `env`; call it after `env.reset`, before `act`.

        Discards all plans. If the model is the simulator, or the reward is the environment's own, it is taken from
        `env`, so this must be the environment whose observations `act` is given.

        Raises:
            GantryError: the environment does not offer what the model needs.
        """
        self.planning_model = planning_model_of(env)
        self.model = self._build_model(self.planning_model)
        self._reset(env.num_envs)

    def act(self, observation: Observation) -> Array:
        """Return environment actions for one observation or a batch of them, taken in consecutive steps.

        Args:
            observation: (*observation shape) or (n, *observation shape), or a dictionary of such.

        Returns:
            (*action shape) or (n, *action shape), within the action space's bounds.

        Raises:
            GantryError: `begin` was not called, or the observation is invalid.
        """
        observations, single = self._observations.given(observation)
        if self.model is None:
            try:
                self.model = self._build_model(None)
            except GantryError:
                raise GantryError("call begin(env) before act(): planning needs the environment's model") from None
        if len(self.steps_left) != len(observations):
            self._reset(len(observations))
        with torch.no_grad(), torch_threads(self._threads):
            self.step(self.model.features(observations))
        actions = self.environment_actions()
        return actions[0] if single else actions

    # One environment step

    def step(self, features: Tensor) -> tuple[Tensor, PlanningResult | None]:
        """Update `actions` for one environment step: plan where no action is being held.

        Until the model has been fitted, actions follow a random walk instead.

        Args:
            features: (n, d) current features of all environments.

        Returns:
            The environments (k,) that started a new planning step, and their plans; None if none planned.
        """
        assert self.model is not None
        due = (self.steps_left == 0).nonzero()[:, 0]
        result = None
        if len(due):
            if not self.model.fitted:
                self.actions[due] = self._random_walk(self.actions[due])
            else:
                result = self.search.plan(self.warm_start, due, features[due], self.model, self._generator)
                self.actions[due] = result.actions
                if bool(result.failed.any()) and not self._warned:
                    self._warned = True
                    warnings.warn(FAILED, GantryWarning, stacklevel=2)
                if self.keep_record and int(due[0]) == 0:
                    self.record = self._planning_record(result, features[0])
            self.steps_left[due] = self.action_repeat
        self.steps_left -= 1
        return due, result

    def environment_actions(self) -> Array:
        """Return the actions in execution as environment actions (n, *action shape)."""
        return self._to_environment(self.actions.numpy())

    def end_episodes(self, env_ids: Tensor) -> None:
        """Discard the plans of environments (an index or a mask) whose episodes have ended."""
        self.warm_start.reset(env_ids)
        self.actions[env_ids] = 0.0
        self.steps_left[env_ids] = 0

    def _random_walk(self, previous: Tensor) -> Tensor:
        """Return random actions (k, a): autocorrelated with the previous ones, or uniform Discrete actions."""
        if self.search.discrete:
            choice = torch.randint(previous.shape[1], (len(previous),), generator=self._generator)
            return torch.nn.functional.one_hot(choice, previous.shape[1]).float()
        scale = RANDOM_WALK_STD * math.sqrt(1.0 - RANDOM_WALK_CORRELATION**2)
        actions = RANDOM_WALK_CORRELATION * previous + torch.randn(previous.shape, generator=self._generator) * scale
        return actions if self.search.bounds is None else self.search.bounds.clip(actions)

    def _planning_record(self, result: PlanningResult, features: Tensor) -> PlanningRecord | None:
        """Return the record of environment 0's planning step; a generator of its own keeps the actions unchanged."""
        assert self.model is not None
        if bool(result.failed[0]):
            return None
        members = self.model.members
        starts, plans = features.expand(members, -1), result.plan.expand(members, -1, -1)
        env_ids, generator, rollouts = np.zeros(members, np.int64), torch.Generator().manual_seed(0), result.rollouts
        chosen = self.model.evaluate_action_sequences(starts, env_ids, plans, generator)
        paths, predicted = chosen.trajectories[:, :, 0], float(chosen.rewards.sum(0).mean())
        elites = min(self.search.config.elites, len(rollouts.returns))
        return PlanningRecord(rollouts.trajectories, rollouts.returns, paths, elites, predicted)
