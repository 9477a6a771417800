"""Film a policy's episodes on evaluation seeds, with a panel of time, score, reward terms and actions.

An episode is simulated first and rendered afterwards, so filming changes no result; frames stream into the encoder.
"""

import bisect
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gantry.agents.protocol import ActionValued, Controller, EpisodicActor
from gantry.envs.capabilities import drawing
from gantry.envs.rendering import make_renderer
from gantry.envs.rendering.scene import Marker
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError
from gantry.film.overlay import OverlayState, draw_overlay
from gantry.film.plan_overlay import PlanPrediction, plan_markers, plan_recorder, plan_returns
from gantry.film.video import VideoWriter
from gantry.runs.environments import find_task, open_env
from gantry.runs.scores import score
from gantry.runs.seeds import environment_seed
from gantry.types import Observation, Options

FRAMES_PER_SECOND = 30
MIN_SIDE, MAX_SIDE = 16, 4096
"""Smallest and largest width and height of a film (pixels)."""


@dataclasses.dataclass(frozen=True)
class Film:
    """A film that was written."""

    path: Path
    frames: int
    seconds: float
    """Playing time."""
    scores: list[float]
    """One score per episode."""
    backend: str
    """The renderer: egl, osmesa, raycast, or the environment's own."""


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    """One instant of an episode: a simulation state, or for foreign environments a picture."""

    time: float
    """Seconds since the episode began."""
    content: np.ndarray
    """What the frame source needs to render this instant."""


@dataclasses.dataclass(frozen=True)
class _ControlStep:
    """One control step of an episode."""

    snapshots: Sequence[_Snapshot]
    """Instants within the step, in order; the last is the step's end."""
    markers: Sequence[Marker]
    """Shapes to draw over the scene."""
    overlay: OverlayState
    """Contents of the panel at the end of the step."""
    reward: float
    prediction: PlanPrediction | None
    """Predicted return of the plan in use."""


@dataclasses.dataclass(frozen=True)
class _Frame:
    """One instant with what is drawn over it."""

    snapshot: _Snapshot
    markers: Sequence[Marker]
    overlay: OverlayState


def record(
    policy: Controller,
    env_id: str,
    path: Path,
    title: str = "",
    episodes: int = 1,
    seed: int = 0,
    env_options: Options | None = None,
    camera: str | int | None = None,
    size: tuple[int, int] = (480, 360),
    overlay: bool = True,
    backend: str = "auto",
    speed: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Film:
    """Film a policy, one episode after another.

    In Gantry's environments an agent with action values shows them where the task can draw them, and a planner shows
    its model rollouts and the predicted return of its plan.

    Args:
        policy: an agent, or any other object with `act`.
        env_id: id of the environment.
        path: the video file; its suffix chooses the format.
        title: first line of the panel.
        episodes: number of episodes.
        seed: block of evaluation seeds; `evaluate` with the same seed scores the same episodes.
        env_options: options of the environment.
        camera: the model's camera, by name or number; by default the first.
        size: width and height in pixels.
        overlay: draw the panel of time, score, reward terms and action.
        backend: auto, egl, osmesa or raycast.
        speed: playing speed as a multiple of real time.
        progress: called with the number of frames drawn of the current episode, and their total.

    Raises:
        GantryError: invalid settings, no renderer, an environment that cannot be drawn, or the video cannot be written.
    """
    if episodes < 1:
        raise GantryError(f"the number of episodes must be at least 1, not {episodes}")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise GantryError(f"a film's sides must be from {MIN_SIDE} to {MAX_SIDE} pixels, not {size[0]}x{size[1]}")
    if not 0.01 <= speed <= 1000.0:
        raise GantryError(f"a film's speed must be from 0.01 to 1000 times real time, not {speed:g}")
    scores: list[float] = []
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_open_source(env_id, env_options or {}, camera, size, backend))
        writer: VideoWriter | None = None
        first_seed = environment_seed("evaluation", seed, episodes)
        for episode in range(episodes):
            steps = list(_play(source, policy, env_id, first_seed + episode, title))
            scores.append(float(score(env_id, sum(step.reward for step in steps), float(len(steps)))))
            frames = _frames(steps)
            times = [frame.snapshot.time for frame in frames]
            count = max(1, round(times[-1] * FRAMES_PER_SECOND / speed))
            for number in range(count):
                frame = frames[min(bisect.bisect_right(times, number * speed / FRAMES_PER_SECOND), len(frames) - 1)]
                pixels = source.render(frame.snapshot, frame.markers)
                if overlay:
                    pixels = draw_overlay(pixels, frame.overlay)
                if writer is None:  # the size of a foreign environment's pictures is known only now
                    sides = (pixels.shape[1], pixels.shape[0])
                    writer = stack.enter_context(VideoWriter(path, FRAMES_PER_SECOND, sides))
                writer.add(pixels)
                if progress is not None:
                    progress(number + 1, count)
        assert writer is not None
        return Film(path, writer.frames, writer.frames / FRAMES_PER_SECOND, scores, source.backend)


class _SimulatorSource:
    """Frames of a Gantry environment: its states are kept while the episode plays, and rendered afterwards."""

    def __init__(self, env: Simulator, camera: str | int | None, size: tuple[int, int], backend: str) -> None:
        self.env = env
        self._settings = (*size, camera, backend)
        self._within: list[_Snapshot] = []
        env.state.watcher = lambda: self._within.append(self._snapshot())
        self._open()
        self.backend = self._renderer.backend

    def _open(self) -> None:
        self._model = self.env.batch.get_model(0)
        self._data = mujoco.MjData(self._model)
        self._renderer = make_renderer(drawing(self.env.task).picture(self._model), *self._settings)

    def begin(self) -> None:
        """Prepare for an episode that has just been reset; randomized physics needs a new renderer."""
        self._within.clear()
        if self.env.physics_infos():
            self._renderer.close()
            self._open()

    def _snapshot(self) -> _Snapshot:
        return _Snapshot(float(self.env.state.time[0]), self.env.batch.state[0].copy())

    def snapshots(self, steps: int) -> list[_Snapshot]:
        """Return the instants of the last control step."""
        result = [*self._within, self._snapshot()]
        self._within.clear()
        return result

    def render(self, snapshot: _Snapshot, markers: Sequence[Marker]) -> np.ndarray:
        """Return the picture (height, width, 3) uint8 of an instant."""
        mujoco.mj_setState(self._model, self._data, snapshot.content, mujoco.mjtState.mjSTATE_INTEGRATION)
        return self._renderer.render(self._data, [*markers, *drawing(self.env.task).markers(self._data)])

    def close(self) -> None:
        """Free the renderer and the environment."""
        self._renderer.close()
        self.env.close()


class _ForeignSource:
    """Frames of any other environment, which renders itself while the episode plays."""

    backend = "the environment's own renderer"

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self._seconds = 1.0 / float(env.metadata.get("render_fps") or FRAMES_PER_SECOND)

    def begin(self) -> None:
        """Prepare for an episode that has just been reset."""

    def snapshots(self, steps: int) -> list[_Snapshot]:
        """Return the instant at the end of an episode's step number `steps`, counted from 1."""
        frames = self.env.render()
        if not frames or frames[0] is None:
            raise GantryError("this environment cannot be filmed: render_mode 'rgb_array' gives no picture")
        return [_Snapshot(steps * self._seconds, np.asarray(frames[0]))]

    def render(self, snapshot: _Snapshot, markers: Sequence[Marker]) -> np.ndarray:
        """Return the picture that the environment rendered."""
        return snapshot.content

    def close(self) -> None:
        """Free the environment."""
        self.env.close()


FrameSource = _SimulatorSource | _ForeignSource


@contextlib.contextmanager
def _open_source(
    env_id: str, options: Options, camera: str | int | None, size: tuple[int, int], backend: str
) -> Iterator[FrameSource]:
    """Open the environment for filming, and close it again."""
    source: FrameSource
    if find_task(env_id) is not None:
        # With NEXT_STEP autoreset the final state of an episode is still there after its last step.
        env = open_env(env_id, 1, options, autoreset_mode=AutoresetMode.NEXT_STEP).unwrapped
        assert isinstance(env, Simulator)
        source = _SimulatorSource(env, camera, size, backend)
    else:
        source = _ForeignSource(open_env(env_id, 1, options, render_mode="rgb_array"))
    try:
        yield source
    finally:
        source.close()


def _play(source: FrameSource, policy: Controller, env_id: str, seed: int, title: str) -> Iterator[_ControlStep]:
    """Run one episode and yield its control steps."""
    space = source.env.single_action_space
    planner = plan_recorder(policy)
    if planner is not None:
        planner.keep_record = True
    observations, _ = source.env.reset(seed=seed)
    source.begin()
    if isinstance(policy, EpisodicActor):
        policy.begin(source.env)
    total, steps, ended = 0.0, 0, False
    while not ended:
        actions = policy.act(observations)
        markers: Sequence[Marker] = ()
        if isinstance(source, _SimulatorSource):
            markers = _markers(policy, observations, source.env)
        prediction = None
        if planner is not None and planner.record is not None:
            horizon = (len(planner.record.chosen) - 1) * planner.action_repeat
            prediction = PlanPrediction(planner.record.predicted_return, horizon)
        observations, rewards, terminations, truncations, infos = source.env.step(actions)
        total += float(rewards[0])
        steps += 1
        ended = bool(terminations[0] or truncations[0])
        # A foreign environment has been reset by the step that ends its episode, so that the final picture is lost.
        lost = ended and steps > 1 and isinstance(source, _ForeignSource)
        overlay = OverlayState(
            time=0.0,
            score=float(score(env_id, total, float(steps))),
            terms={name: float(values[0]) for name, values in infos.get("terms", {}).items()},
            title=title,
        )
        if isinstance(space, gymnasium.spaces.Box):
            action = np.asarray(actions[0], np.float64).ravel()
            overlay = dataclasses.replace(overlay, action=action, low=space.low.ravel(), high=space.high.ravel())
        yield _ControlStep(() if lost else source.snapshots(steps), markers, overlay, float(rewards[0]), prediction)


def _markers(policy: Controller, observations: Observation, env: Simulator) -> Sequence[Marker]:
    """Return the shapes that show a policy's action values or model rollouts for observations (1, ...)."""
    if isinstance(policy, ActionValued):
        return drawing(env.task).value_markers(policy.action_values(observations)[0])
    planner = plan_recorder(policy)
    if planner is not None and planner.record is not None:
        return plan_markers(planner.record, env.planning_model().point, extent=float(env.model.stat.extent))
    return ()


def _frames(steps: Sequence[_ControlStep]) -> list[_Frame]:
    """Return an episode's instants in order, each with its markers and its panel."""
    plans = plan_returns([step.prediction for step in steps], [step.reward for step in steps])
    return [
        _Frame(snapshot, step.markers, dataclasses.replace(step.overlay, time=snapshot.time, plan=plan))
        for step, plan in zip(steps, plans, strict=True)
        for snapshot in step.snapshots
    ]
