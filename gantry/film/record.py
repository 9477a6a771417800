"""Filming: a policy's episodes on evaluation seeds, as a video with the numbers of the run drawn over it.

The episode is simulated first and drawn afterwards, so filming changes no number; frames stream into the encoder.
"""

import bisect
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode

from gantry.envs.rendering import make_renderer
from gantry.envs.rendering.scene import Marker
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError
from gantry.film.overlay import OverlayState, draw_overlay
from gantry.film.plan_overlay import Foresee
from gantry.film.video import VideoWriter
from gantry.runs.environments import find_task, open_env
from gantry.runs.evaluate import Act, Begin
from gantry.runs.scores import score
from gantry.runs.seeds import environment_seed

Annotate = Callable[[Any, Simulator], Sequence[Marker]]
"""What to draw beside the scene while an action is carried out, from the observations (1, ...) it was chosen for."""

FRAMES_PER_SECOND = 30
SMALLEST, LARGEST = 16, 4096
"""Bounds of a film's width and height (pixels)."""


@dataclasses.dataclass(frozen=True)
class Film:
    """What was recorded."""

    path: Path
    frames: int
    seconds: float
    """How long it plays."""
    scores: list[float]
    """Of each episode."""
    backend: str
    """What drew it: egl, osmesa, raycast, or the environment's own renderer."""


@dataclasses.dataclass
class _Moment:
    """The moment after one control step, or one that a long control step passes through."""

    time: float
    """Simulated seconds since the episode began."""
    picture: np.ndarray
    """What the stage needs to draw it."""
    notes: Sequence[Marker]
    """What is drawn beside the scene."""
    overlay: OverlayState
    reward: float = 0.0
    """Of the control step, at its last moment."""
    foreseen: tuple[float, int] | None = None
    """What the plan under way was thought to bring, and in how many control steps, at the step it was made for."""


def record(
    act: Act,
    environment: str,
    path: Path,
    title: str = "",
    episodes: int = 1,
    seed: int = 0,
    environment_options: dict[str, Any] | None = None,
    camera: str | int | None = None,
    size: tuple[int, int] = (480, 360),
    overlay: bool = True,
    backend: str = "auto",
    speed: float = 1.0,
    annotate: Annotate | None = None,
    begin: Begin | None = None,
    foresee: Foresee | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Film:
    """Film a policy, one episode after another.

    Args:
        act: (1, ...) observations to (1, ...) actions.
        environment: id.
        path: the video; its suffix says the format.
        title: drawn in the overlay.
        episodes: how many.
        seed: which block of evaluation seeds; with the same seed, `evaluate` scores the same episodes.
        environment_options: passed on to the environment.
        camera: the model's camera, by name or number; by default the first.
        size: width and height in pixels.
        overlay: draw time, reward terms, score and action.
        backend: auto, egl, osmesa or raycast.
        speed: how much faster than real time the film runs.
        annotate: called after `act`; what it returns is drawn into the scene of one of Gantry's environments.
        begin: called when an episode has begun, before its first action.
        foresee: tells what a planner's plan is thought to bring, which is drawn beside what then came.
        progress: called with the frames drawn of the current episode, and their number.

    Raises:
        GantryError: bad settings, no renderer, an environment that cannot be drawn, or the video cannot be written.
    """
    if episodes < 1:
        raise GantryError(f"the number of episodes must be at least 1, not {episodes}")
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise GantryError(f"a film's sides must be from {SMALLEST} to {LARGEST} pixels, not {size[0]}x{size[1]}")
    if not 0.01 <= speed <= 1000.0:
        raise GantryError(f"a film's speed must be from 0.01 to 1000 times real time, not {speed:g}")
    scores: list[float] = []
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(_stage(environment, dict(environment_options or {}), camera, size, backend))
        writer: VideoWriter | None = None
        first_seed = environment_seed("evaluation", seed, episodes)
        for episode in range(episodes):
            moments = list(_play(stage, act, environment, first_seed + episode, title, annotate, begin, foresee))
            _compare(moments)
            scores.append(moments[-1].overlay.score or 0.0)
            times = [moment.time for moment in moments]
            count = max(1, round(times[-1] * FRAMES_PER_SECOND / speed))
            for number in range(count):
                moment = moments[min(bisect.bisect_right(times, number * speed / FRAMES_PER_SECOND), len(moments) - 1)]
                frame = stage.draw(moment.picture, moment.notes)
                if overlay:
                    frame = draw_overlay(frame, moment.overlay)
                if writer is None:  # only now is the size of a foreign environment's pictures known
                    sides = (frame.shape[1], frame.shape[0])
                    writer = stack.enter_context(VideoWriter(path, FRAMES_PER_SECOND, sides))
                writer.add(frame)
                if progress is not None:
                    progress(number + 1, count)
        assert writer is not None
        return Film(path, writer.frames, writer.frames / FRAMES_PER_SECOND, scores, stage.backend)


class _OwnStage:
    """One of Gantry's environments: its states are kept while it plays, and drawn afterwards."""

    def __init__(self, env: Simulator, camera: str | int | None, size: tuple[int, int], backend: str) -> None:
        self.env = env
        self._settings = (*size, camera, backend)
        self._open()
        self.backend = self._renderer.backend

    def _open(self) -> None:
        self._model = self.env.batch.get_model(0)
        self._data = mujoco.MjData(self._model)
        self._renderer = make_renderer(self.env.task.picture(self._model), *self._settings)

    def begin(self) -> None:
        """Take up an episode that has just been reset, whose physics may be others than those of the last."""
        if self.env.physics_infos():
            self._renderer.close()
            self._open()

    def time(self, steps: int) -> float:
        """Return the simulated seconds since the episode began."""
        return float(self.env.state.time[0])

    def see(self) -> np.ndarray:
        """Return what `draw` needs to draw this moment later: the simulation's state."""
        return self.env.batch.state[0].copy()

    def draw(self, picture: np.ndarray, notes: Sequence[Marker]) -> np.ndarray:
        """Return the frame (height, width, 3) uint8 of a moment."""
        mujoco.mj_setState(self._model, self._data, picture, mujoco.mjtState.mjSTATE_INTEGRATION)
        return self._renderer.render(self._data, [*notes, *self.env.task.markers(self._data)])

    def close(self) -> None:
        """Free renderer and environment."""
        self._renderer.close()
        self.env.close()


class _ForeignStage:
    """Any other environment, which draws itself while it plays."""

    backend = "the environment's own renderer"

    def __init__(self, env: gymnasium.vector.VectorEnv) -> None:
        self.env = env
        self.step_seconds = 1.0 / float(env.metadata.get("render_fps") or FRAMES_PER_SECOND)

    def begin(self) -> None:
        """Take up an episode; nothing to do."""

    def time(self, steps: int) -> float:
        """Return the seconds that `steps` steps take."""
        return steps * self.step_seconds

    def see(self) -> np.ndarray:
        """Return the picture of this moment."""
        frames = self.env.render()
        if not frames or frames[0] is None:
            raise GantryError("this environment draws no pictures: it gives none for render_mode 'rgb_array'")
        return np.asarray(frames[0])

    def draw(self, picture: np.ndarray, notes: Sequence[Marker]) -> np.ndarray:
        """Return the picture itself."""
        return picture

    def close(self) -> None:
        """Free the environment."""
        self.env.close()


Stage = _OwnStage | _ForeignStage


@contextlib.contextmanager
def _stage(
    environment: str, options: dict[str, Any], camera: str | int | None, size: tuple[int, int], backend: str
) -> Iterator[Stage]:
    """Open the environment for filming, and close it again."""
    stage: Stage
    if find_task(environment) is not None:
        # With NEXT_STEP autoreset the state after an episode's last step can still be seen.
        env = open_env(environment, 1, options, autoreset_mode=AutoresetMode.NEXT_STEP).unwrapped
        assert isinstance(env, Simulator)
        stage = _OwnStage(env, camera, size, backend)
    else:
        stage = _ForeignStage(open_env(environment, 1, options, render_mode="rgb_array"))
    try:
        yield stage
    finally:
        stage.close()


def action_values(agent: Any) -> Annotate | None:
    """Return what draws an agent's action values where the task knows how; None for agents that have none."""
    if not hasattr(agent, "action_values"):
        return None
    return lambda observations, env: env.task.value_markers(agent.action_values(observations)[0])


def _play(
    stage: Stage,
    act: Act,
    environment: str,
    seed: int,
    title: str,
    annotate: Annotate | None,
    begin: Begin | None,
    foresee: Foresee | None,
) -> Iterator[_Moment]:
    """Run one episode and yield the moments after each of its steps, and within long ones."""
    space = stage.env.single_action_space
    between: list[tuple[float, np.ndarray]] = []
    if isinstance(stage, _OwnStage):
        stage.env.state.watcher = lambda: between.append((stage.time(0), stage.see()))
    observations, _ = stage.env.reset(seed=seed)
    stage.begin()
    if begin is not None:
        begin(stage.env)
    total, steps, ended = 0.0, 0, False
    while not ended:
        actions = act(observations)
        foreseen = foresee() if foresee is not None else None
        notes = annotate(observations, stage.env) if annotate is not None and isinstance(stage, _OwnStage) else ()
        observations, rewards, terminations, truncations, infos = stage.env.step(actions)
        total += float(rewards[0])
        steps += 1
        ended = bool(terminations[0] or truncations[0])
        if ended and steps > 1 and isinstance(stage, _ForeignStage):
            return  # it has been reset already
        overlay = OverlayState(
            time=stage.time(steps),
            score=float(score(environment, total, float(steps))),
            terms={name: float(values[0]) for name, values in infos.get("terms", {}).items()},
            title=title,
        )
        if isinstance(space, gymnasium.spaces.Box):
            action = np.asarray(actions[0], np.float64).ravel()
            overlay = dataclasses.replace(overlay, action=action, low=space.low.ravel(), high=space.high.ravel())
        for time, picture in between:
            yield _Moment(time, picture, notes, dataclasses.replace(overlay, time=time))
        between.clear()
        yield _Moment(stage.time(steps), stage.see(), notes, overlay, float(rewards[0]), foreseen)


def _compare(moments: list[_Moment]) -> None:
    """Write into the overlays what plans were thought to bring and what they brought.

    A plan held for several steps is compared from the step on that it was made for, so with the first of the moments
    that show it.
    """
    steps = [moment for moment in moments if moment.foreseen is not None]
    rewards = [moment.reward for moment in steps]
    made = 0
    for number, moment in enumerate(steps):
        assert moment.foreseen is not None
        if moment.foreseen != steps[made].foreseen:
            made = number
        expected, span = moment.foreseen
        came = sum(rewards[made : made + span]) if made + span <= len(rewards) else None
        moment.overlay = dataclasses.replace(moment.overlay, plan=(expected, came))
    plan = None
    for moment in reversed(moments):  # what lies within a long control step shows the plan that it belongs to
        if moment.foreseen is None:
            moment.overlay = dataclasses.replace(moment.overlay, plan=plan)
        plan = moment.overlay.plan
