"""Film a policy's episodes on evaluation seeds, above a panel of time, score, reward terms and actions.

Filming changes no result: an episode in Gantry's simulator is simulated first and rendered afterwards; any other
environment is drawn while it plays. Frames stream into the encoder.
"""

import base64
import contextlib
import dataclasses
import html
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from PIL import Image, ImageOps

from gantry.agents.protocol import Attentive, Controller, EpisodicActor
from gantry.envs.capabilities import Disturbable, PlanDrawable, drawing
from gantry.envs.components import names_of
from gantry.envs.registry import is_task
from gantry.envs.rendering import Renderer, make_renderer
from gantry.envs.rendering.scene import Marker, RenderScene
from gantry.envs.reward_design import shown_reward
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError
from gantry.film.overlay import OverlayState, Panel, PlanReturns
from gantry.film.plan_overlay import PlanPrediction, plan_recorder, plan_returns, policy_markers
from gantry.film.video import VideoWriter
from gantry.runs.environments import one_line, open_env
from gantry.runs.episodes import ROWS, Episode, as_number, as_vector, choose, step_limit
from gantry.runs.scores import score
from gantry.runs.seeds import environment_seed
from gantry.runs.skills.environment import SkillsEnv
from gantry.runs.teams import controller_in
from gantry.types import Array, Options, Space

FRAMES_PER_SECOND = 30
SIZE = (480, 360)
"""Width and height of the picture (pixels) where nobody chooses the film's."""
MIN_SIDE, MAX_SIDE = 16, 4096
"""Smallest and largest width and height of a film (pixels)."""
TRAIL_STEPS, TRAIL_COLOR = 150, (1.0, 0.85, 0.25, 0.8)
"""Control steps that a trail shows, and its color."""


@dataclasses.dataclass(frozen=True)
class Film:
    """A film that was written."""

    path: Path
    frames: int
    seconds: float
    """Playing time."""
    scores: list[float]
    """One score per episode."""
    shares: dict[str, list[float]]
    """What the task has films show in place of the score, such as the floor's coverage, at the end of each episode."""
    backend: str
    """What drew it: egl, osmesa, raycast, or the environment itself."""
    cut: int
    """How many episodes were cut because they reached the cap on steps."""

    def _repr_html_(self) -> str:
        """Return it as a notebook plays it, the file included."""
        content = base64.b64encode(self.path.read_bytes()).decode()
        title = html.escape(f"{self.path.name}: score {', '.join(f'{score:.1f}' for score in self.scores)}")
        if self.path.suffix.lower() == ".gif":
            return f'<img src="data:image/gif;base64,{content}" alt="{title}" style="max-width:100%">'
        source = f'<source type="video/mp4" src="data:video/mp4;base64,{content}">'
        return f'<video controls loop muted title="{title}" style="max-width:100%">{source}</video>'


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


def check_film(size: tuple[int, int] | None, speed: float) -> None:
    """Refuse sides and speeds that no film has; raises GantryError."""
    if size is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise GantryError(f"a film's sides must be from {MIN_SIDE} to {MAX_SIDE} pixels, not {size[0]}x{size[1]}")
    if not 0.01 <= speed <= 1000.0:
        raise GantryError(f"a film's speed must be from 0.01 to 1000 times real time, not {speed:g}")


def record(
    policy: Controller,
    env_id: str,
    path: Path,
    title: str = "",
    episodes: int = 1,
    seed: int = 0,
    env_options: Options | None = None,
    camera: str | int | None = None,
    size: tuple[int, int] | None = None,
    overlay: bool = True,
    trail: bool = False,
    backend: str = "auto",
    speed: float = 1.0,
    progress: Callable[[int, int | None], None] | None = None,
    max_steps: int | None = None,
) -> Film:
    """Film a policy, one episode after another.

    MuJoCo models are drawn by Gantry's renderers, other packages' too; any other environment draws itself. In Gantry's
    environments an agent with action values shows them where the task can draw them, and a planner shows its model
    rollouts. Attention shows in the panel how much it looks back at each past step.

    Args:
        policy: an agent, or any other object with `act`.
        env_id: id of the environment.
        path: the video file; its suffix chooses the format.
        title: first line of the panel.
        episodes: number of episodes.
        seed: block of evaluation seeds; `evaluate` with the same seed scores the same episodes.
        env_options: options of the environment.
        camera: the model's camera, by name or number; by default the first. MuJoCo models only.
        size: width and height of the film in pixels, panel included; None: a picture of 480 × 360, or as an environment
            draws itself, and the panel below it.
        overlay: draw the panel of time, score, reward terms and action below the picture.
        trail: draw the path of the point by which a task's plans are drawn, such as the fingertip, or of the robot.
        backend: auto, egl, osmesa or raycast. MuJoCo models only.
        speed: playing speed as a multiple of real time.
        progress: called with the number of frames drawn of the current episode, and their total, where it is known.
        max_steps: steps after which an episode is cut; None: as `evaluate` does.

    Raises:
        GantryError: invalid settings, no renderer, an environment that cannot be drawn, or the video cannot be written.
    """
    if episodes < 1:
        raise GantryError(f"the number of episodes must be at least 1, not {episodes}")
    check_film(size, speed)
    scores, shares = list[float](), dict[str, list[float]]()
    cut = 0
    with contextlib.ExitStack() as stack:
        source = _open_source(env_id, env_options or {}, max_steps, camera, size, backend, speed, trail)
        stack.callback(source.close)
        policy = controller_in(source.env, policy)
        writer: VideoWriter | None = None
        panel: Panel | None = None
        first_seed = environment_seed("evaluation", seed, episodes, env_id)
        contents = _contents(source, policy, title)
        for episode in range(episodes):
            steps: Iterable[_ControlStep] = _play(source, policy, env_id, first_seed + episode, contents)
            count = None
            if not source.streams:
                steps = list(steps)
                count = max(1, _frames_until(steps[-1].snapshots[-1].time, speed))
                first = steps[0].overlay
                contents = dataclasses.replace(contents, terms=first.terms, shares=first.shares, notes=first.notes)
            if overlay and panel is None and source.size is not None:
                panel = Panel(*source.size, contents)
                if size is not None:
                    source.size = (size[0], size[1] - panel.height)
            for number, frame in enumerate(_at_frame_rate(_with_plans(steps), speed)):
                pixels = source.render(frame.snapshot, frame.markers)
                # An environment that draws itself chooses the size of its first picture; the others must fit it.
                source.size = source.size or (pixels.shape[1], pixels.shape[0])
                pixels = picture(env_id, pixels, source.size)
                if overlay:
                    panel = panel or Panel(*source.size, contents)
                    pixels = panel.below(pixels, frame.overlay)
                if writer is None:
                    film_size = (pixels.shape[1], pixels.shape[0])
                    writer = stack.enter_context(VideoWriter(path, FRAMES_PER_SECOND, film_size))
                writer.add(pixels)
                if progress is not None:
                    progress(number + 1, count)
            scores.append(frame.overlay.score or 0.0)
            for name, share in frame.overlay.shares.items():
                shares.setdefault(name, []).append(share)
            cut += source.cut
        assert writer is not None
        return Film(path, writer.frames, writer.frames / FRAMES_PER_SECOND, scores, shares, source.backend, cut)


class _SimulatorSource:
    """An episode of a task in Gantry's simulator, whose states are kept while it plays, and rendered afterwards."""

    streams = False

    def __init__(
        self, env_id: str, options: Options, max_steps: int | None, camera: str | int | None, size: tuple[int, int],
        backend: str, trail: bool,
    ) -> None:  # fmt: skip
        # With NEXT_STEP autoreset the final state of an episode is still there after its last step.
        self.vector = open_env(env_id, 1, options, autoreset_mode=AutoresetMode.NEXT_STEP)
        env = self.vector.unwrapped
        assert isinstance(env, Simulator)
        self.env: VectorEnv | gymnasium.Env = env
        self._env, self._env_id = env, env_id
        self._limit = step_limit(max_steps, env.max_episode_steps)
        self.size: tuple[int, int] | None = size
        self._camera, self.backend = camera, backend
        self._within: list[_Snapshot] = []
        self._past = 0.0
        """Seconds that a trial's earlier episodes took."""
        env.state.watcher = lambda: self._within.append(self._snapshot())
        self.action_space: Space = self.vector.single_action_space
        self.action_names = action_names(self.vector)
        self.elapsed = 1
        """Steps of the task in the last step: more than 1 where actions are skills."""
        self.ended, self.cut, self._steps = True, False, 0
        if trail and not isinstance(env.task, PlanDrawable | Disturbable):
            raise GantryError(f"{env_id} has no point whose path could be drawn; leave out --trail")
        self._trail: list[np.ndarray] | None = [] if trail else None
        self._renderer: Renderer | None = None
        self._open()
        RenderScene(self._picture, 1, 1, camera)  # refuses an unknown camera before the episode is played

    def _open(self) -> None:
        self._model = self._env.batch.get_model(0)
        self._data = mujoco.MjData(self._model)
        with one_line(self._env_id, "to draw itself"):
            self._picture = drawing(self._env.task).picture(self._model)

    def begin(self, seed: int) -> None:
        """Begin the episode of a seed; randomized physics needs a new renderer."""
        self._observations, _ = self.vector.reset(seed=seed)
        self.ended, self.cut, self._steps = False, False, 0
        self._past = 0.0
        self._within.clear()
        if self._trail is not None:
            self._trail.clear()
            self._extend_trail()
        if self._env.physics_infos():
            self._close_renderer()
            self._open()

    def choose(self, policy: Controller) -> Array:
        """Return the policy's action (*action shape)."""
        self._actions = policy.act(self._observations)
        action: Array = self._actions[0]
        return action

    def _extend_trail(self) -> None:
        """Add where the point is that shows the robot: as plans are drawn, else the center of what is pushed."""
        assert self._trail is not None
        task = self._env.task
        if isinstance(task, PlanDrawable):
            with one_line(self._env_id, "to draw itself"):
                self._trail.append(np.asarray(task.drawn_point(self._env.features[:1])[0], np.float64))
            return
        assert isinstance(task, Disturbable)
        state = self._env.batch.state[0]
        mujoco.mj_setState(self._model, self._data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_kinematics(self._model, self._data)
        self._trail.append(self._data.body(task.disturbance_target.body).xipos.copy())

    def markers(self, policy: Controller) -> Sequence[Marker]:
        """Return the shapes that show the policy's action values or model rollouts, and the trail."""
        shapes = policy_markers(policy, self._env, self._env_id, self._observations)
        if not self._trail:
            return shapes
        path = np.stack(self._trail[-TRAIL_STEPS:])
        return [*shapes, Marker(path, TRAIL_COLOR, 2.5e-3 * float(self._env.model.stat.extent))]

    def step(self, action: Array) -> tuple[float, dict[str, float], dict[str, float]]:
        """Take a step; return the task's own reward, what the panel shows as terms, and the shares it shows.

        The terms are the reward's, and the reward in use where that is another than the task's own.
        """
        self._observations, rewards, terminations, truncations, infos = self.vector.step(action[None])
        self._steps += 1
        if self._env.in_trials and self._env.state.time[0] == 0.0:  # the trial's next episode has begun
            self._past = self._steps * self._env.control_timestep
            if self._trail is not None:
                self._trail.clear()
        self.elapsed = int(infos.get("elapsed_steps", (1,))[0])
        self.ended = bool(terminations[0] or truncations[0])
        if not self.ended and self._steps >= self._limit:
            self.ended = self.cut = True
        if self._trail is not None:
            self._extend_trail()
        reward, terms = shown_reward(rewards, infos)
        terms = {name: term / max(self.elapsed, 1) for name, term in terms.items()}  # of a skill, the mean of its steps
        shares = {name: float(infos[name][0]) for name in drawing(self._env.task).shown_shares}
        return reward, terms, shares

    def notes(self) -> list[str]:
        """Return which of a trial's episodes the last step belonged to, and its physics; nothing without trials."""
        if not self._env.in_trials:
            return []
        physics = self._env.physics_infos().get("physics", {})
        lines = [f"{name.replace('_', ' ')} {float(values[0]):.3g}" for name, values in physics.items()]
        return [f"episode {self._env.trial_episode[0] + 1} of the trial", *lines]

    def _snapshot(self) -> _Snapshot:
        return _Snapshot(self._past + float(self._env.state.time[0]), self._env.batch.state[0].copy())

    def snapshots(self) -> list[_Snapshot]:
        """Return the instants of the last control step."""
        result = [*self._within, self._snapshot()]
        self._within.clear()
        return result

    def render(self, snapshot: _Snapshot, markers: Sequence[Marker]) -> np.ndarray:
        """Return the picture (height, width, 3) uint8 of an instant."""
        mujoco.mj_setState(self._model, self._data, snapshot.content, mujoco.mjtState.mjSTATE_INTEGRATION)
        with one_line(self._env_id, "to draw itself"):
            own = drawing(self._env.task).markers(self._data)
        if self._renderer is None:
            assert self.size is not None
            self._renderer = make_renderer(self._picture, *self.size, self._camera, self.backend)
            self.backend = self._renderer.backend  # one for the whole film
        return self._renderer.render(self._data, [*markers, *own])

    def close(self) -> None:
        """Free the renderer and the environment."""
        self._env.state.watcher = None  # it holds all of this, which only a collection of garbage would free
        self._close_renderer()
        self.vector.close()

    def _close_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class _ForeignSource:
    """An episode of any other environment, which is drawn while it plays: by itself, or its MuJoCo model by us."""

    streams, elapsed = True, 1

    def __init__(
        self, env_id: str, options: Options, max_steps: int | None, camera: str | int | None,
        size: tuple[int, int] | None, backend: str, speed: float,
    ) -> None:  # fmt: skip
        self.size, self._settings, self._speed = size, (camera, backend), speed
        self._renderer: Renderer | None = None
        episode = Episode(env_id, options, max_steps)
        if self._model_of(episode) is None:
            episode.env.close()
            if camera is not None or backend != "auto":
                raise GantryError(f"{env_id} draws itself: --camera and --renderer do not apply to it; leave them out")
            modes = (episode.env.metadata or {}).get("render_modes")
            if modes is not None and "rgb_array" not in modes:
                raise GantryError(f"{env_id} cannot be filmed: it has no render mode rgb_array")
            episode = Episode(env_id, options, max_steps, render_mode="rgb_array")
        else:
            self.size = size or SIZE
        self._episode, self._env_id = episode, env_id
        self.env: VectorEnv | gymnasium.Env = episode.env
        self.action_space: Space = episode.env.action_space
        self.action_names: Sequence[str] = ()
        self.backend = "the environment itself"
        rate = as_number((episode.env.metadata or {}).get("render_fps"))
        self._seconds = (
            1.0 / float(rate[0]) if rate is not None and 0.01 < rate[0] < math.inf else 1.0 / FRAMES_PER_SECOND
        )
        self._drawn = 0

    @staticmethod
    def _model_of(episode: Episode) -> mujoco.MjModel | None:
        """Return the MuJoCo model that an environment carries, with its data; None for most."""
        inner = episode.env.unwrapped
        model, data = getattr(inner, "model", None), getattr(inner, "data", None)
        return model if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData) else None

    def begin(self, seed: int) -> None:
        """Begin the episode of a seed; the environment may have changed its model for it."""
        self._episode.begin(seed)
        self._drawn = 0
        model = self._model_of(self._episode)
        if model is not None:
            self.close_renderer()
            self._renderer = make_renderer(model, *(self.size or SIZE), *self._settings)
            self.backend = self._renderer.backend
            self._settings = (self._settings[0], self.backend)  # one for the whole film

    @property
    def vector(self) -> VectorEnv:
        """The environment, as planners ask for it."""
        return as_vector(self._episode.env)

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self._episode.ended

    @property
    def cut(self) -> bool:
        """Whether it is over because the cap on steps was reached."""
        return self._episode.cut

    def choose(self, policy: Controller) -> Array:
        """Return the policy's action (*action shape)."""
        rows = 1 if isinstance(policy, EpisodicActor) else ROWS
        return choose(policy.act, [self._episode], rows)[0]

    def markers(self, policy: Controller) -> Sequence[Marker]:
        """Return nothing: where such an environment's scene would show plans or values is unknown."""
        return ()

    def step(self, action: Array) -> tuple[float, dict[str, float], dict[str, float]]:
        """Take a step; return its reward, which has no known terms."""
        return self._episode.step(action), {}, {}

    def notes(self) -> list[str]:
        """Return nothing: nothing more is known of such an environment."""
        return []

    def snapshots(self) -> list[_Snapshot]:
        """Return the instant after the last step, if the film shows it."""
        time = self._episode.steps * self._seconds
        due = _frames_until(time, self._speed)
        if due == self._drawn and not self.ended:
            return []
        self._drawn = due
        return [_Snapshot(time, self._draw())]

    def _draw(self) -> np.ndarray:
        data = getattr(self._episode.env.unwrapped, "data", None)
        if self._renderer is not None and data is not None:
            return self._renderer.render(data)
        return picture(self._env_id, self._episode.env.render(), self.size)

    def render(self, snapshot: _Snapshot, markers: Sequence[Marker]) -> np.ndarray:
        """Return the picture (height, width, 3) uint8 of an instant."""
        return snapshot.content

    def close_renderer(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()

    def close(self) -> None:
        """Free the renderer and the environment."""
        self.close_renderer()
        self._episode.env.close()


def action_names(vector: VectorEnv) -> tuple[str, ...]:
    """Return what each action of a task does, or each of the skills that are its actions."""
    inner = vector.unwrapped
    assert isinstance(inner, Simulator)
    return vector.skill_names if isinstance(vector, SkillsEnv) else names_of(inner.task.action_components)


def picture(env_id: str, drawn: object, size: tuple[int, int] | None) -> np.ndarray:
    """Return what an environment drew as (height, width, 3) uint8, scaled to fit `size` (width, height) if given.

    Raises:
        GantryError: it drew no picture.
    """
    frame = np.asarray(drawn[-1] if isinstance(drawn, list) and drawn else drawn)
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim != 3 or frame.dtype != np.uint8 or frame.shape[2] not in (1, 3, 4) or 0 in frame.shape:
        what = "nothing" if drawn is None else f"an array of {frame.dtype}, {frame.shape}"
        raise GantryError(
            f"{env_id} cannot be filmed: render() with render_mode='rgb_array' gives {what}, not a picture "
            "(height, width, 3) of bytes"
        )
    colors = np.ascontiguousarray(np.broadcast_to(frame[..., :3], (*frame.shape[:2], 3)))
    if size is None or size == (frame.shape[1], frame.shape[0]):
        return colors
    return np.asarray(ImageOps.pad(Image.fromarray(colors), size))


FrameSource = _SimulatorSource | _ForeignSource


def _open_source(
    env_id: str, options: Options, max_steps: int | None, camera: str | int | None, size: tuple[int, int] | None,
    backend: str, speed: float, trail: bool,
) -> FrameSource:  # fmt: skip
    if is_task(env_id):
        return _SimulatorSource(env_id, options, max_steps, camera, size or SIZE, backend, trail)
    if trail:
        raise GantryError(f"{env_id} has no point whose path could be drawn; leave out --trail")
    return _ForeignSource(env_id, options, max_steps, camera, size, backend, speed)


def _contents(source: FrameSource, policy: Controller, title: str) -> OverlayState:
    """Return what is the same in the panel of every frame; the rest stands for the numbers to come."""
    space = source.action_space
    state = OverlayState(time=0.0, score=0.0, title=title)
    if plan_recorder(policy) is not None:
        state = dataclasses.replace(state, plan=PlanReturns(0.0, None))
    state = _with_attention(state, policy)
    if isinstance(space, gymnasium.spaces.Box):
        names = source.action_names if len(source.action_names) == math.prod(space.shape) else ()
        low, high = space.low.ravel(), space.high.ravel()
        return dataclasses.replace(state, action=np.zeros(low.size), action_names=names, low=low, high=high)
    return state


def _with_action(state: OverlayState, source: FrameSource, action: Array) -> OverlayState:
    """Return the panel's contents with the action applied, by its numbers or in words."""
    space = source.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        index = int(action) - int(space.start)
        known = index < len(source.action_names)
        return dataclasses.replace(state, choice=source.action_names[index] if known else f"action {int(action)}")
    if state.action is None:
        return state
    return dataclasses.replace(state, action=np.asarray(action, np.float64).ravel())


def _with_attention(state: OverlayState, policy: Controller) -> OverlayState:
    """Return the panel's contents with what the policy looked back at, where it does."""
    weights = policy.attention if isinstance(policy, Attentive) else None
    return state if weights is None else dataclasses.replace(state, attention=weights[0].copy())


def _play(
    source: FrameSource, policy: Controller, env_id: str, seed: int, contents: OverlayState
) -> Iterator[_ControlStep]:
    """Run one episode and yield its control steps."""
    planner = plan_recorder(policy)
    if planner is not None:
        planner.keep_record = True
    source.begin(seed)
    if isinstance(policy, EpisodicActor):
        policy.begin(source.vector)
    total, steps = 0.0, 0
    while not source.ended:
        action = source.choose(policy)
        markers = source.markers(policy)
        prediction = None
        if planner is not None and planner.record is not None:
            horizon = (len(planner.record.chosen) - 1) * planner.action_repeat
            prediction = PlanPrediction(planner.record.predicted_return, horizon)
        reward, terms, shares = source.step(action)
        total += reward
        steps += source.elapsed
        so_far = float(score(env_id, total, float(steps)))
        overlay = _with_attention(_with_action(contents, source, action), policy)
        overlay = dataclasses.replace(overlay, score=so_far, terms=terms, shares=shares, notes=source.notes())
        yield _ControlStep(source.snapshots(), markers, overlay, reward, prediction)


def _with_plans(steps: Iterable[_ControlStep]) -> Iterator[_Frame]:
    """Yield an episode's instants in order, each with its markers and its panel."""
    steps, of_predictions, of_rewards = itertools.tee(steps, 3)
    plans = plan_returns((step.prediction for step in of_predictions), (step.reward for step in of_rewards))
    for step, plan in zip(steps, plans, strict=True):
        for snapshot in step.snapshots:
            yield _Frame(snapshot, step.markers, dataclasses.replace(step.overlay, time=snapshot.time, plan=plan))


def _frames_until(time: float, speed: float) -> int:
    """Return the number of a film's frames whose middle an episode has reached after `time` seconds."""
    return math.floor(time * FRAMES_PER_SECOND / speed + 0.5)


def _at_frame_rate(instants: Iterable[_Frame], speed: float) -> Iterator[_Frame]:
    """Yield one of an episode's instants for each frame of the film; the last one is the episode's end."""
    held: _Frame | None = None
    last: _Frame | None = None
    frames = 0
    for last in instants:
        while frames < _frames_until(last.snapshot.time, speed):
            if held is not None:
                yield held
            held = last
            frames += 1
    assert last is not None
    yield last
