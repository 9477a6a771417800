"""The batched simulator: any task as a `gymnasium.vector.VectorEnv` over one `mujoco.batch.Batch`.

All environments step together on a pool of C threads, bit-identical to a serial `mj_step` loop at any thread count.
Environment i depends on (its seed, its episode) alone, never on the others, so it equals the single environment with
that seed.
"""

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from mujoco.batch import Batch

from gantry.envs.batch import NO_STAGE, threads_for
from gantry.envs.capabilities import Disturbable, GoalConditioned, Randomizable, drawing
from gantry.envs.disturbances import Disturbance, Kind, add_balls, check_kind
from gantry.envs.domain_randomization import Physics, Quantity
from gantry.envs.lookahead import PlanningModel
from gantry.envs.mujoco_log import keep_log_out_of_files, say_on_console
from gantry.envs.random_streams import RandomStreams
from gantry.envs.registry import require_task
from gantry.envs.reward_design import RewardDesign
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.envs.trials import extended_space, make_trials
from gantry.errors import GantryError, nearest, shown
from gantry.types import Infos, Json, Numeric, Observation

DIVERGENCE_WARNINGS = [
    int(mujoco.mjtWarning.mjWARN_BADQPOS),  # as integers: an enumeration's members index no array
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
]
"""MuJoCo's warnings that a simulation has diverged."""

INTEGRATORS = {
    "euler": mujoco.mjtIntegrator.mjINT_EULER,
    "rk4": mujoco.mjtIntegrator.mjINT_RK4,
    "implicit": mujoco.mjtIntegrator.mjINT_IMPLICIT,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
}
"""MuJoCo's integrators by name."""
MOST_SUBSTEPS = 1000

NEVER = 2**62
"""A deadline, in vector steps, that is not reached."""


keep_log_out_of_files()


class Simulator(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` copies of a task, stepped as one.

    `infos` holds `terms`, the reward's named terms, (n,) each, and the task's metrics, such as `success`. When
    episodes end with SAME_STEP autoreset, it also holds `final_obs` (n, observation), their last observations, with the
    mask `_final_obs` (n,). Where physics differ between environments, `physics` holds their values. `diverged` is a
    mask (n,), present when simulations diverged: their episodes are truncated, with the last finite observation as the
    final one. Where the reward in use is not the task's own, `objective` (n,) holds the task's own. In trials,
    `trial_episode` (n,) is the place in its trial, from 0, of the episode that the step belonged to.

    Args:
        task: the world.
        num_envs: number of environments, n.
        max_episode_steps: time limit in control steps, after which an episode is truncated; None for no limit.
        autoreset_mode: SAME_STEP, NEXT_STEP or DISABLED, as Gymnasium defines them.
        num_threads: simulation threads, 0 for one per CPU; results do not depend on it.
        physics: physical quantities that differ from the model's, by the names in the task's `physics` and in
            `gantry.envs.domain_randomization.COMMON`: each a number, one number per environment, or a range sampled
            anew for each episode, such as `Range(0.5, 2.0)` or `"0.5..2.0"`.
        disturb: `pushes` or `balls`, thrown at the robot (see `gantry.envs.disturbances`); None for neither.
        reward: weights of the reward's named terms, as `{"cleaned": 1, "bump": -0.5}` or in text, in place of the
            task's own reward; None keeps that (see `gantry.envs.reward_design`).
        shaping: the agent's discount γ, to add potential-based shaping; None adds none.
        stack: show the last so many observations, the newest last, (n, stack, ...); at the start all are the first one.
        trial: episodes in a trial, which share its time limit and one sample of the physics; the trial is what resets
            and ends, and the last action, reward and end are appended to observations (see `gantry.envs.trials`).
        observe_physics: append the quantities of `physics` to observations, as logarithms of their ratios to the
            model's, but as differences where they can be 0 or negative.
        integrator: `euler`, `rk4`, `implicit` or `implicitfast`; None for the model's own.
        substeps: steps in place of each physics step of the model, each as much shorter.
        render_mode: None or `rgb_array`.
        width: of a rendered frame, in pixels.
        height: of a rendered frame, in pixels.
        camera: the name or number of the model's camera; by default its first one.

    Raises:
        GantryError: a setting is out of range; the message says which.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        num_threads: int = 0,
        physics: Mapping[str, Quantity] | None = None,
        disturb: Kind | None = None,
        reward: Mapping[str, float] | str | None = None,
        shaping: float | None = None,
        stack: int = 1,
        trial: int = 1,
        observe_physics: bool = False,
        integrator: str | None = None,
        substeps: int = 1,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 360,
        camera: str | int | None = None,
    ) -> None:
        _check_settings(num_envs, max_episode_steps, num_threads, render_mode, autoreset_mode)
        self.task = task
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = render_mode
        say_on_console(True)
        self.model = self._load_model(disturb)
        self._set_integration(integrator, substeps)
        say_on_console(False)  # what MuJoCo warns of while it simulates, is counted
        self.control_timestep = float(self.model.opt.timestep) * task.decimation
        """Simulated seconds per control step."""
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": max(1, round(1.0 / self.control_timestep)),
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_action_space = copy.deepcopy(task.action_space)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._action_shape = self.action_space.shape
        self._continuous_actions = isinstance(task.action_space, gymnasium.spaces.Box)

        self.batch = Batch(self.model, num_envs, threads_for(num_envs, num_threads))
        own = task.load_model() if disturb == "balls" else self.model
        self.state = State(self.batch, task.outputs, own.nq, own.nv)
        self._stage = int(task.stage)
        self._warning = self.batch.warning
        self.divergences = 0
        """How many simulations have blown up so far."""
        self._all = np.arange(num_envs)
        self.varied = bool(physics)
        """Whether any physical quantity differs from the model's."""
        self._physics = self._given_physics(physics) if physics else None
        self._trials = make_trials(trial, max_episode_steps, self.single_action_space, num_envs)
        self._set_up_observations(task.observation_space, stack, observe_physics)
        if disturb is not None:
            assert isinstance(task, Disturbable)  # _load_model has seen to it
            seconds = float(self.model.opt.timestep) * (task.motor_decimation or task.decimation)
            disturbance = Disturbance(disturb, task.disturbance_target, self.model, seconds)
            self.state.disturber = lambda mask: disturbance.apply(self.batch, mask, self._seeds, self._episodes)

        self._design = self._reward_design(reward, shaping)
        self._begin_counting(num_envs)
        self._can_terminate = task.can_terminate
        self.objective: Numeric = 0.0
        """The task's own reward of the last step, (n,), but a scalar in a batch of one, where another is in use."""
        self.features = np.zeros((num_envs, 0), np.float32)
        """The current features of each environment, (n, number): see `Task.features`."""
        self._render_settings = (width, height, camera)
        self._renderers: dict[int, Any] = {}
        if isinstance(task, GoalConditioned):  # only then: by this name others recognize what has goals
            self.compute_reward = task.compute_reward
            """The reward (...) for goals (..., goal), as hindsight replay asks for it."""

    def _set_up_observations(self, space: gymnasium.Space, stack: int, observe_physics: bool) -> None:
        """Set up the spaces of observations, and the last `stack` of them where more than one are shown."""
        space = copy.deepcopy(space)  # a space holds a random generator
        if self._trials is not None:
            space = extended_space(space, self._trials.components)
        self._observe_physics = bool(observe_physics)
        if self._observe_physics:
            if self._physics is None:
                raise GantryError("observe_physics needs quantities that differ from the model's: --randomize")
            space = extended_space(space, self._physics.components)
        self.single_observation_space = space
        self._frames: np.ndarray | None = None
        """The last observations of each environment, (n, stack, ...); None where only the last one is shown."""
        if stack != 1:
            shown = self.single_observation_space = stacked_space(space, stack)
            self._frames = np.zeros((self.num_envs, *shown.shape), shown.dtype)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def _begin_counting(self, num_envs: int) -> None:
        """Set up what episodes are counted and timed with."""
        self._seeds = np.zeros(num_envs, np.uint64)
        self._episodes = np.zeros(num_envs, np.int64)
        self._clock = 0
        """Vector steps so far."""
        self._starts = np.zeros(num_envs, np.int64)
        """The clock when each environment's episode began."""
        self._deadlines = np.zeros(num_envs, np.int64)
        """The clock when each environment's episode is truncated."""
        self._next_deadline = 0
        self._ended = np.ones(num_envs, bool)
        """Environments whose episode is over and that wait for a reset; initially all."""
        self._some_ended = True
        self._seeded = False
        self.trial_episode = np.zeros(num_envs, np.int64)
        """The place in its trial, from 0, of the episode that the last step belonged to, (n,)."""

    def reset(
        self, *, seed: int | list[int] | np.ndarray | None = None, options: Json | None = None
    ) -> tuple[np.ndarray, Infos]:
        """Begin new episodes in all environments, or in those of `options["reset_mask"]` (n,) bool.

        Args:
            seed: environment i is seeded with `seed + i`, as Gymnasium does it, or with `seed[i]`, and counts its
                episodes from 0 again; None continues the random streams in use.
            options: may hold `reset_mask`.

        Returns:
            Observations (n, observation) and infos.
        """
        if options is not None and not isinstance(options, dict):
            raise GantryError(f"the options of reset() must be a dictionary, not {shown(repr(options))}")
        mask = (options or {}).get("reset_mask")
        if mask is not None:
            mask = np.asarray(mask)
            if mask.shape != (self.num_envs,) or mask.dtype != bool:
                raise GantryError(f"options['reset_mask'] must be {self.num_envs} booleans")
        ids = self._all if mask is None else np.flatnonzero(mask)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**62))
        if seed is not None:
            seeded = ids if self._seeded else self._all  # the first seed is for all, however few are reset
            self._seeds[seeded] = self._env_seeds(seed)[seeded]
            self._episodes[seeded] = -1
            self._seeded = True
        self._begin_episodes(ids)
        observations = self.observe()
        if isinstance(observations, np.ndarray) and observations.shape != self.observation_space.shape:
            kind, found = type(self.task).__name__, observations.shape[1:]
            raise GantryError(
                f"{kind} observes arrays {found}, where its space is {self.single_observation_space.shape}"
            )
        return observations, self.physics_infos()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Advance every environment by one control step.

        Args:
            actions: (n, ...) as in `action_space`; beyond a Box's bounds they are clipped.

        Returns:
            Observations (n, observation) float32, rewards (n,) float64, terminations and truncations (n,) bool, infos.

        Raises:
            GantryError: actions of a wrong shape or type, or not finite; nothing has been simulated.
        """
        waiting = self._ended.copy() if self._some_ended else None
        rewards, terms, terminations, truncations, diverged = self.transition(actions)
        if self.num_envs == 1:
            terms = {name: np.atleast_1d(term) for name, term in terms.items()}
        infos: Infos = {"terms": terms}
        if self._design is not None:
            infos["objective"] = np.array(self.objective, np.float64, ndmin=1)
        if diverged is not None:
            infos["diverged"] = diverged
        rewards = np.array(rewards, np.float64, ndmin=1)
        if waiting is not None:  # NEXT_STEP: these environments spend the step on beginning their next episode
            self._begin_episodes(np.flatnonzero(waiting))
            rewards[waiting] = 0.0
            terminations[waiting] = False
            truncations[waiting] = False
            infos["terms"] = {name: np.where(waiting, 0, term) for name, term in infos["terms"].items()}
            if "objective" in infos:
                infos["objective"][waiting] = 0.0
        infos.update(self.task.metrics(self.features))
        if self._trials is not None:
            infos["trial_episode"] = self.trial_episode
        if self._some_ended and self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos["final_obs"] = self.observe()
            infos["_final_obs"] = self._ended.copy()
            self._begin_episodes(np.flatnonzero(self._ended))
        if self.varied:
            infos.update(self.physics_infos())
        return self.observe(), rewards, terminations, truncations, infos

    def transition(self, actions: np.ndarray) -> tuple[Numeric, Infos, np.ndarray, np.ndarray, np.ndarray | None]:
        """Advance every environment that is not waiting for a reset by one control step: `step` without autoreset.

        Returns:
            Rewards and their named terms, (n,) each, but scalars in a batch of one; terminations and truncations (n,)
            bool; and which simulations diverged, (n,) bool or None. `features` is up to date afterwards.
        """
        actions = self._checked(actions)
        control = self.task.control(actions)
        waiting = self._ended if self._some_ended else None
        if waiting is not None and not (self._seeded and self.autoreset_mode is AutoresetMode.NEXT_STEP):
            raise gymnasium.error.ResetNeeded("the episode is over, or none has begun: call reset() before step()")
        sent = control if self._physics is None else self._physics.delayed(control)
        self.task.advance(self.state, sent, None if waiting is None else ~waiting)
        self._clock += 1

        before, features = self.features, self.task.features(self.state)
        diverged = self._diverged(features)
        if diverged is not None:
            features[diverged] = before[diverged]
        self.features = features
        one = self.num_envs == 1  # the same formulas on NumPy scalars, which are several times as fast as arrays of one
        transition = (before[0], control[0], features[0]) if one else (before, control, features)
        if self._design is None:
            rewards, terms = self.task.reward(*transition)
        else:
            rewards, terms, self.objective = self._design.reward(*transition)

        if self._can_terminate or diverged is not None or self._clock >= self._next_deadline:
            terminations = self.task.terminated(features)
            truncations = self._clock >= self._deadlines
            if diverged is not None:
                terminations &= ~diverged
                truncations |= diverged
            self._ended = terminations | truncations
            self._some_ended = bool(self._ended.any())
        else:  # the usual step ends no episode, which needs no arithmetic to know
            terminations, truncations = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        if self._trials is not None:
            self._go_on(actions, rewards, terminations, truncations, waiting, diverged)
        if self._frames is not None:
            self._frames = np.concatenate([self._frames[:, 1:], self._observe_now()[:, None]], axis=1)
        return rewards, terms, terminations, truncations, diverged

    def _go_on(
        self, actions: np.ndarray, rewards: Numeric, terminations: np.ndarray, truncations: np.ndarray,
        waiting: np.ndarray | None, diverged: np.ndarray | None,
    ) -> None:  # fmt: skip
        """Begin the next episodes of the trials that are not over, which then neither terminate nor are truncated."""
        trials = self._trials
        assert trials is not None
        simulated = None if waiting is None else ~waiting
        self.trial_episode = trials.within(self._episodes)
        trials.step(actions, rewards, simulated)
        if not self._some_ended:
            return
        goes_on = self._ended & (self.trial_episode < trials.count - 1)
        for excepted in (waiting, diverged):
            if excepted is not None:
                goes_on &= ~excepted
        ids = np.flatnonzero(goes_on)
        if len(ids):
            terminations[ids], truncations[ids] = False, False
            self._episodes[ids] += 1
            trials.begin(ids)
            self._start(ids)

    @property
    def ended(self) -> np.ndarray:
        """Environments whose episode is over and that wait for a reset, (n,) bool."""
        return self._ended.copy()

    def step_only(
        self, actions: np.ndarray, only: np.ndarray
    ) -> tuple[Numeric, Infos, np.ndarray, np.ndarray, np.ndarray | None]:
        """Advance environments that have not ended by one control step; the others stay as they are, to the last bit.

        Args:
            actions: (n, ...), whatever for those that stay.
            only: (n,) bool, the environments to advance. The simulator must be one with NEXT_STEP autoreset.

        Returns:
            As `transition`; of environments that stay no terminations or truncations, and rewards without meaning.
        """
        rest = np.flatnonzero(~only)
        if len(rest) == 0:
            return self.transition(actions)
        ended, features, simulations = self._ended[rest], self.features[rest], self.batch.state[rest].copy()
        frames = None if self._frames is None else self._frames[rest]
        sent = None if self._physics is None else self._physics.sent[rest]
        self._ended[rest], self._some_ended = True, True  # as those that wait for a reset, whose time stands still
        self._starts[rest] += 1
        self._deadlines[rest] += 1
        rewards, terms, terminations, truncations, diverged = self.transition(actions)
        self.batch.state[rest], self.features[rest] = simulations, features
        if self._frames is not None:
            self._frames[rest] = frames
        if self._physics is not None:
            self._physics.sent[rest] = sent
        terminations[rest], truncations[rest], self._ended[rest] = False, False, ended
        self._some_ended = bool(self._ended.any())
        return rewards, terms, terminations, truncations, diverged

    def observe(self, index: int | EllipsisType = ...) -> Observation:
        """Return the current observations (n, observation), or those of one environment, as new arrays."""
        return self._observe_now(index) if self._frames is None else self._frames[index].copy()

    def _observe_now(self, index: int | EllipsisType = ...) -> Observation:
        """Return the observations of the present alone."""
        observations = self.task.observation(self.features[index])
        if self._physics is not None and self._physics.noisy:
            space = self.task.observation_space
            size = int(np.prod(space.shape or ()))
            noise = self._physics.noise(self._seeds, self._episodes, self._clock - self._starts, size)[index]
            observations = np.clip(observations + noise.reshape(observations.shape), space.low, space.high)  # type: ignore[attr-defined]
        if self._trials is not None:
            observations = np.concatenate([observations, self._trials.inputs[index]], axis=-1)
        if self._observe_physics:
            assert self._physics is not None
            observations = np.concatenate([observations, self._physics.observed()[index]], axis=-1)
        return observations

    @property
    def designed(self) -> bool:
        """Whether the reward in use is another than the task's own."""
        return self._design is not None

    @property
    def in_trials(self) -> bool:
        """Whether episodes follow one another in trials."""
        return self._trials is not None

    def physics_infos(self) -> Infos:
        """Return `physics`, the quantities (n,) that differ from the model's, by name; empty where none do."""
        if self._physics is None:
            return {}
        return {"physics": {name: value.copy() for name, value in self._physics.values.items()}}

    def planning_model(self) -> PlanningModel:
        """Return what a planner may ask: reward and termination as functions, and model rollouts in copies.

        Raises:
            GantryError: observations are stacked, or hold more than the task's own.
        """
        if self._frames is not None:
            raise GantryError("a planner takes single observations, not stacked ones: leave out stack")
        if self._trials is not None or self._observe_physics:
            raise GantryError("a planner takes the task's own observations: leave out trial and observe_physics")
        return PlanningModel(self.task, self.state, self._design)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one frame (height, width, 3) uint8 per environment, or None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs render_mode='rgb_array', given when the environment is made")
            return None
        return tuple(self.render_one(index) for index in range(self.num_envs))

    def render_one(self, index: int) -> np.ndarray:
        """Return a frame (height, width, 3) uint8 of one environment."""
        key = index if self._physics else 0  # environments of equal physics share a renderer
        if key not in self._renderers:
            from gantry.envs.rendering import make_renderer

            width, height, camera = self._render_settings
            model = self.batch.get_model(index) if self._physics else self.model
            self._renderers[key] = make_renderer(drawing(self.task).picture(model), width, height, camera)
        data = self.batch.get_data(index)
        return self._renderers[key].render(data, drawing(self.task).markers(data))

    def close_extras(self, **_: object) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def get_state(self) -> dict[str, np.ndarray]:
        """Return all that the simulation depends on, by name: `set_state` continues from it bit for bit."""
        return {
            "simulation": self.batch.state.copy(),
            "warnings": self._warning.copy(),
            "features": self.features.copy(),
            "seeds": self._seeds.copy(),
            "episodes": self._episodes.copy(),
            "elapsed": self._clock - self._starts,
            "ended": self._ended.copy(),
            "divergences": np.array(self.divergences),
            "task": np.frombuffer(self.task.name.encode(), np.uint8).copy(),
            **({} if self._frames is None else {"frames": self._frames.copy()}),
            **({} if self._trials is None else {"trial_inputs": self._trials.inputs.copy()}),
            **(self._physics.get_state() if self._physics is not None else {}),
        }

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `get_state` returned, in this or another simulator of the same task and size.

        Raises:
            GantryError: the state is of another task, size or MuJoCo version; nothing has changed.
        """
        own = {**self.get_state(), "features": self.task.features(self.state)}
        ours, whose = own["task"], np.asarray(state.get("task"))
        # Older states do not say of which task they are, nor do those of tasks that were built by hand.
        if ours.size and whose.dtype == ours.dtype and whose.size and not np.array_equal(ours, whose):
            raise GantryError(f"this state is of {bytes(whose).decode(errors='replace')}, not of {self.task.name}")
        for name in (own.keys() | state.keys()) - {"task"}:
            array = np.asarray(state.get(name))
            if name not in own or array.shape != own[name].shape or array.dtype.kind not in "biuf":
                raise GantryError(f"this state does not fit {self.num_envs} × {type(self.task).__name__} ({name!r})")
        if self._physics is not None:
            self._physics.set_state(state)
        self.batch.state[:] = state["simulation"]
        self._warning[:] = state["warnings"]
        if self._stage != NO_STAGE:
            self.batch.forward(None, self._stage)  # what is derived from the state is not a part of it
        self.features = np.array(state["features"])
        if self._frames is not None:
            self._frames = np.array(state["frames"])
        if self._trials is not None:
            self._trials.inputs = np.array(state["trial_inputs"])
        self._seeds = np.array(state["seeds"])
        self._episodes = np.array(state["episodes"])
        self._starts = self._clock - np.array(state["elapsed"])
        self._set_deadlines()
        self._ended = np.array(state["ended"])
        self._some_ended = bool(self._ended.any())
        self.divergences = int(state["divergences"])
        self._seeded = True

    def _begin_episodes(self, ids: np.ndarray) -> None:
        """Reset the environments `ids` (k,) to the start of their next episode, of a new trial where there are any."""
        trials, number = self._trials, self._episodes[ids]
        self._episodes[ids] = number + 1 if trials is None else trials.after(number)
        if trials is not None:
            trials.forget(ids)
        if self._physics is not None:
            self._physics.sample(ids, self._seeds[ids], self._episodes[ids])
            self.close_extras()  # what has been drawn so far had other physics
        self._start(ids)
        if self._frames is not None:
            self._frames[ids] = self._observe_now()[ids][:, None]

    def _start(self, ids: np.ndarray) -> None:
        """Put the environments `ids` (k,) where their present episode begins, with the physics they have."""
        self._starts[ids] = self._clock
        self._set_deadlines()
        self._ended[ids] = False
        self._some_ended = bool(self._ended.any())
        # Only the state is cleared here; positions follow, and with them whatever is derived.
        self.batch.reset(ids, stage=NO_STAGE)
        if self._physics is not None:
            self._physics.rest(ids)
        self.task.reset(self.state, ids, RandomStreams(self._seeds[ids], self._episodes[ids]))
        if self._stage != NO_STAGE:
            self.batch.forward(ids, self._stage)
        features = self.task.features(self.state)
        if self.features.shape != features.shape:
            self.features = features
        else:
            # Those whose episode continues may be observed here too, but what they showed after their step stays.
            self.features = self.features.copy()
            self.features[ids] = features[ids]

    def _load_model(self, disturb: str | None) -> mujoco.MjModel:
        """Compile the task's model, with balls to throw if asked for."""
        if disturb is None:
            return self.task.load_model()
        check_kind(disturb)
        if not isinstance(self.task, Disturbable):
            raise GantryError(f"{type(self.task).__name__} has nothing that can be disturbed")
        if disturb == "pushes":
            return self.task.load_model()
        specification = self.task.load_specification()
        add_balls(specification, self.task.disturbance_target)
        return specification.compile()

    def _reward_design(self, weights: Mapping[str, float] | str | None, shaping: float | None) -> RewardDesign | None:
        """Return the reward in use, or None where it is the task's own."""
        if weights is None and shaping is None:
            return None
        if shaping is not None and self._trials is not None:
            raise GantryError("shaping is not for trials, whose episodes follow one another: leave out one of the two")
        space = self.single_action_space
        actions = np.zeros((self.num_envs, *(space.shape or ())), space.dtype)
        with np.errstate(all="ignore"):  # no episode has begun
            features = self.task.features(self.state)
            terms = self.task.reward(features, self.task.control(actions), features)[1]
        return RewardDesign(self.task, tuple(terms), weights, shaping)

    def _given_physics(self, physics: Mapping[str, Quantity]) -> Physics:
        """Return the quantities that differ from the model's, written into the batch."""
        task = self.task
        anything = np.zeros((1, *(task.action_space.shape or ())), task.action_space.dtype)
        neutral = np.full(task.control(anything).shape[1], task.neutral)
        writer = task if isinstance(task, Randomizable) else None
        given = Physics(writer, self.batch, physics, task.common_physics, neutral)
        given.write(self._all)
        self._check_noise(given)
        return given

    def _set_integration(self, integrator: str | None, substeps: int) -> None:
        """Change how the model is integrated, and the task's decimation with it, so that control steps stay as long."""
        if integrator is not None:
            if integrator not in INTEGRATORS:
                raise GantryError(f"integrator must be one of {', '.join(INTEGRATORS)}, not {shown(integrator)!r}")
            self.model.opt.integrator = INTEGRATORS[integrator]
        if not isinstance(substeps, int | np.integer) or not 1 <= substeps <= MOST_SUBSTEPS:
            raise GantryError(f"substeps must be a whole number from 1 to {MOST_SUBSTEPS}, not {shown(substeps)}")
        if substeps > 1:
            self.model.opt.timestep /= substeps
            self.task.refine(int(substeps))

    def _check_noise(self, physics: Physics) -> None:
        space = self.task.observation_space
        if physics.noisy and not (
            isinstance(space, gymnasium.spaces.Box) and space.dtype is not None and space.dtype.kind == "f"
        ):
            raise GantryError(
                f"sensor_noise needs observations that are one array of floats, not {type(space).__name__}"
            )

    def _set_deadlines(self) -> None:
        steps = self.max_episode_steps if self._trials is None else self._trials.steps
        self._deadlines = self._starts + (NEVER if steps is None else steps)
        self._next_deadline = int(self._deadlines.min())

    def _diverged(self, features: np.ndarray) -> np.ndarray | None:
        """Return the mask (n,) of simulations that diverged in this step, after counting them, or None for none."""
        if not np.count_nonzero(self._warning) and all_finite(features):
            return None
        diverged = self._warning[:, DIVERGENCE_WARNINGS, 1].any(axis=1) | ~np.isfinite(features).all(axis=1)
        if self._some_ended:
            diverged &= ~self._ended  # those that wait for their reset were counted when they diverged
        count = int(diverged.sum())
        self.divergences += count
        return diverged if count else None

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions as an array of the action space's shape and type, or say what is wrong with them."""
        continuous = self._continuous_actions
        try:
            actions = np.asarray(actions)
        except (TypeError, ValueError) as error:
            raise GantryError(f"actions must be an array of shape {self._action_shape}: {error}") from error
        if actions.shape != self._action_shape:
            raise GantryError(f"actions must have shape {self._action_shape}, not {actions.shape}")
        if continuous:
            if actions.dtype.kind not in "fiu":
                raise GantryError(f"actions must be numbers, not {actions.dtype}")
            if not all_finite(actions):
                raise GantryError("actions must be finite: they hold NaN or infinity")
            if actions.dtype != np.float32:  # whose range is larger may hold what is finite there alone
                space = self.single_action_space
                actions = np.clip(actions, space.low, space.high).astype(np.float32)  # type: ignore[attr-defined]
        elif actions.dtype.kind not in "iu":
            raise GantryError(f"actions must be integers, not {actions.dtype}")
        elif not self.action_space.contains(actions.astype(self.action_space.dtype)):
            raise GantryError(f"actions must lie in {self.single_action_space}")
        return actions

    def _env_seeds(self, seed: int | list[int] | np.ndarray) -> np.ndarray:
        """Return one seed per environment, (n,) uint64."""
        if isinstance(seed, (int, np.integer)):
            if seed < 0:
                raise GantryError(f"a seed must not be negative: {seed}")
            if seed > 2**64 - self.num_envs:
                raise GantryError(f"a seed must leave room for {self.num_envs} environments below 2**64: {seed}")
            self._np_random, self._np_random_seed = gymnasium.utils.seeding.np_random(int(seed))
            return np.uint64(seed) + np.arange(self.num_envs, dtype=np.uint64)
        try:
            seeds = np.asarray(seed)
        except ValueError as error:
            raise GantryError(f"seeds must be integers: {error}") from error
        if seeds.shape != (self.num_envs,):
            raise GantryError(
                f"a seed must be one integer, or a list of one for each of the {self.num_envs} environments"
            )
        if seeds.dtype.kind not in "iu" or (seeds < 0).any():
            raise GantryError("seeds must be integers, none of them negative")
        return seeds.astype(np.uint64)


def _check_settings(
    num_envs: int,
    max_episode_steps: int | None,
    num_threads: int,
    render_mode: str | None,
    autoreset_mode: AutoresetMode | str,
) -> None:
    if not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise GantryError(f"num_envs must be a whole number of at least 1, not {num_envs}")
    if max_episode_steps is not None and (
        not isinstance(max_episode_steps, int | np.integer) or not 1 <= max_episode_steps < NEVER
    ):
        raise GantryError(
            f"max_episode_steps must be at least 1 and below 2^62 (or None for no limit), not {max_episode_steps}"
        )
    if not isinstance(num_threads, int | np.integer) or num_threads < 0:
        raise GantryError(f"num_threads must be 0 (one a CPU) or more, not {num_threads}")
    if render_mode not in (None, "rgb_array"):
        raise GantryError(
            f"render_mode must be None or 'rgb_array', not {render_mode!r}; `gantry view` shows an environment live"
        )
    modes = [mode.value for mode in AutoresetMode]
    if autoreset_mode not in [*modes, *AutoresetMode]:
        raise GantryError(f"autoreset_mode must be one of {', '.join(modes)}, not {autoreset_mode!r}")


def stacked_space(space: gymnasium.Space, stack: int) -> gymnasium.spaces.Box:
    """Return the space of `stack` observations, (stack, ...).

    Raises:
        GantryError: the number is below 1, or the observations are not one array.
    """
    if not isinstance(stack, int | np.integer) or stack < 1:
        raise GantryError(f"stack must be a whole number of at least 1, not {stack!r}")
    if not isinstance(space, gymnasium.spaces.Box):
        raise GantryError(f"stack needs observations that are one array, not {type(space).__name__}")
    low, high = (np.repeat(bound[None], stack, axis=0) for bound in (space.low, space.high))
    return gymnasium.spaces.Box(low, high, dtype=space.dtype.type)


def all_finite(array: np.ndarray) -> bool:
    """Return whether an array of numbers holds neither NaN nor infinity."""
    return np.count_nonzero(np.isfinite(array)) == array.size  # twice as fast as `all`


def make_task(env_id: str, **options: Any) -> Task:
    """Build the task of a registered id, with the options that the id implies overridden by `options`.

    Raises:
        GantryError: the id is unknown, its class cannot be imported, or an option does not fit.
    """
    spec = require_task(env_id)
    kind, settings = spec.load_class(), {**spec.options, **options}
    usual = inspect.signature(kind).parameters
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in usual.values()):
        for name in options:
            if name not in usual:
                own = [each for each in usual if each not in spec.options]
                raise GantryError(f"{env_id} has no option {shown(name)!r}{nearest(name, own) if own else ''}")
    try:
        task = kind(**settings)
    except TypeError as error:
        raise GantryError(f"{env_id}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}") from error
    changed = [
        f"{key}={_file_name(value)!r}"
        for key, value in sorted(settings.items())
        if key not in usual or value != usual[key].default
    ]
    task.name = f"{kind.__name__}({', '.join(changed)})"
    return task


def _file_name(value: object) -> object:
    """Return a file's name in place of its path, so that a task is the same task in another folder."""
    return Path(value).name if isinstance(value, str) and Path(value).suffix else value


SIMULATOR_SETTINGS = (
    *("autoreset_mode", "num_threads", "physics", "disturb", "stack", "reward", "shaping"),
    *("trial", "observe_physics"),
    *("integrator", "substeps"),
    *("render_mode", "width", "height", "camera"),
)


def make_simulator(env_id: str, num_envs: int = 1, **settings: Any) -> Simulator:
    """Build the batched simulator of a registered task.

    Args:
        env_id: such as `gantry/CartPoleSwingUp-v0`.
        num_envs: number of environments.
        settings: the settings of `Simulator`, and the task's own options.

    Raises:
        GantryError: the id is unknown, or a setting does not fit.
    """
    limit = settings.pop("max_episode_steps", require_task(env_id).max_episode_steps)
    of_simulator = {name: settings.pop(name) for name in SIMULATOR_SETTINGS if name in settings}
    return Simulator(make_task(env_id, **settings), num_envs, max_episode_steps=limit, **of_simulator)
