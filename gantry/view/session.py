"""A session of the viewer: what was named on the command line, under way, steered by commands.

The session knows nothing of browsers: `handle` takes commands, `advance` lets time pass, `messages` says what is new.
What happens follows from the seed and from the commands and the control steps at which they come.
"""

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Protocol, TypeVar

import numpy as np

from gantry.agents.protocol import Controller
from gantry.envs.registry import is_task
from gantry.envs.rendering.scene import Marker
from gantry.errors import GantryError
from gantry.runs.scores import score
from gantry.runs.seeds import environment_seed
from gantry.types import Array, Options
from gantry.view import messages
from gantry.view.messages import Command, pack
from gantry.view.scene import between, markers_message
from gantry.view.show import Show
from gantry.view.source import Frame, Source, action_of, knobs, numbers_of

SAMPLES = 300
"""Control steps that the plots show."""
PLOT_SECONDS = 0.1
"""Time between two states of the plots."""
END_SECONDS = 1.0
"""Time for which an episode's end is shown before the next one begins."""
LONGEST_TICK = 0.1
"""Time that passes at once, at most, however late the next tick is."""
BUSY_SECONDS = 0.03
"""Time for which a tick simulates, beyond which the simulation falls behind real time."""
MOST_EPISODES = 100_000
"""Episodes after which the first seed comes again."""
NEW_PACE = 0.15
"""Weight of the latest action in the estimated pace of a policy that is slower than real time."""

Result = TypeVar("Result")


class Submit(Protocol):
    """Has work done, now or later."""

    def __call__(self, work: Callable[[], Result], /) -> Future[Result]:
        """Return the work's result, perhaps before it is there."""
        ...


def at_once(work: Callable[[], Result], /) -> Future[Result]:
    """Do the work, and return its result, or what it raised."""
    future: Future[Result] = Future()
    try:
        future.set_result(work())
    except Exception as error:  # which whoever asks for the result is told of
        future.set_exception(error)
    return future


def open_source(env_id: str, options: Options, max_steps: int | None) -> Source:
    """Open an environment to be shown."""
    if is_task(env_id):
        from gantry.view.simulated import SimulatedSource

        return SimulatedSource(env_id, options, max_steps)
    from gantry.view.foreign import ForeignSource

    return ForeignSource(env_id, options, max_steps)


class Session:
    """Shows one of several runs at a time.

    Args:
        shows: what to show, the first one first.
        seed: block of evaluation seeds; the first episode is the first that `gantry evaluate` scores.
        max_steps: steps after which an episode is cut; None: as `evaluate` does.
        clock: seconds that pass, which bound how long a tick simulates.
        submit: loads policies and lets them choose actions, one at a time, such as in a thread: then pictures go on
            and commands are heard meanwhile.
    """

    def __init__(
        self,
        shows: Sequence[Show],
        seed: int = 0,
        max_steps: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        submit: Submit = at_once,
    ) -> None:
        self._shows, self._seed, self._max_steps, self._now, self._submit = shows, seed, max_steps, clock, submit
        self.playing, self.speed = True, 1.0
        self._epoch = self._curve_epoch = 0
        self._news: dict[str, bytes] = {}
        self._source: Source | None = None
        self._loading: Future[Controller | None] | None = None
        self._choice: Future[Array] | None = None
        self._open(0)

    # The state that is shown

    def _open(self, index: int) -> None:
        show = self._shows[index]
        self._first_seed = environment_seed("evaluation", self._seed, MOST_EPISODES, show.env_id)
        source = open_source(show.env_id, show.options, self._max_steps)
        if self._source is not None:
            self._source.close()
        self._source, self.index = source, index
        self.policy: Controller | None = None
        self._to_load, self._loading = show.load, None  # not before the first picture: importing PyTorch takes seconds
        self._knobs = knobs(source.action_space, source.action_components)
        self._by: messages.By = "policy" if show.load is not None else self._without_policy()
        self._hand = [min(max(0.0, knob.low), knob.high) for knob in self._knobs]
        if self._knobs and self._knobs[0].choices:
            self._hand = [float((len(self._knobs[0].choices) - 1) // 2) + self._knobs[0].low]
        self._space = copy.deepcopy(source.action_space)
        self._space.seed(self._seed)
        self.episode = 0
        self._scene_version = -1
        self._forget_pace()
        self._begin()

    def _without_policy(self) -> messages.By:
        return "hand" if self._knobs else "random"

    def _must_wait(self) -> bool:
        """Return whether the policy that is to act is still being loaded; the first call begins to load it."""
        if self._by != "policy" or self.policy is not None:
            return False
        if self._to_load is not None:
            self._loading, self._to_load = self._submit(self._to_load), None
        if self._loading is None or not self._loading.done():
            return self._loading is not None
        self.policy, self._loading = self._loading.result(), None
        if self.policy is None:
            self._by = self._without_policy()
        self._new_settings = True
        return False

    def _begin(self) -> None:
        """Begin the episode that is due."""
        source = self.source
        self._choice = None
        seed = self._first_seed + self.episode % MOST_EPISODES
        self._frames: deque[Frame] = deque([source.begin(seed)])
        self.clock, self._steps, self._return, self._reward = 0.0, 0, 0.0, 0.0
        self._markers: Sequence[Marker] = source.tendons()
        self._samples: deque[list[float]] = deque(maxlen=SAMPLES)
        self._terms: list[str] = []
        self._rest = END_SECONDS
        self._plotted = -1.0
        self._shown: object = None
        self._new_markers = self._new_samples = self._new_settings = True

    @property
    def source(self) -> Source:
        """The environment that is shown."""
        assert self._source is not None
        return self._source

    @property
    def _has_policy(self) -> bool:
        return self.policy is not None or self._to_load is not None or self._loading is not None

    @property
    def score(self) -> float:
        """The episode's score so far."""
        if self._steps == 0:
            return 0.0
        return float(score(self._shows[self.index].env_id, self._return, float(self._steps)))

    def use_policy(self, policy: Controller) -> None:
        """Let another policy act from the next control step on, such as one that training has just saved."""
        if self.policy is None:
            self._by = "policy"
        self._await_choice()
        self.policy, self._to_load, self._loading, self._choice = policy, None, None, None
        self._forget_pace()
        self._new_settings = True

    # Time

    def advance(self, seconds: float) -> None:
        """Let wall time pass: take the control steps that are due, and show the next episode after an end.

        A policy that is slower than real time is some control steps ahead of the picture, which moves at its pace.
        """
        if not self.playing or self._must_wait():
            return
        seconds = min(seconds, LONGEST_TICK)
        self.clock += seconds * min(self.speed, self._pace)
        started = self._now()
        while (left := started + BUSY_SECONDS - self._now()) > 0.0 and self._due():
            if not self._control_step(left):
                break
        self.clock = min(self.clock, self._frames[-1].time)
        self._forget()
        if self.source.ended and self.clock >= self._frames[-1].time:
            self._rest -= seconds
            if self._rest <= 0.0:
                self.episode += 1
                self._begin()

    def _due(self) -> bool:
        return not self.source.ended and self._frames[-1].time < self.clock + self._ahead

    def _control_step(self, patience: float | None = None) -> bool:
        """Take a control step, if its action is there within so many seconds; None: however long it takes."""
        if self._by == "policy" and self.policy is not None:
            if self._choice is None:
                source, policy, self._asked = self.source, self.policy, self._now()
                self._choice = self._submit(lambda: source.choose(policy))
            try:
                action = self._choice.result(patience)
            except TimeoutError:
                if not self._choice.done():
                    return False
                raise
            self._choice = None
        else:
            self._asked, action = self._now(), self._own_action()
        before, took = self._frames[-1].time, self._now() - self._asked
        step = self.source.step(action)
        self._keep_pace(step.frames[-1].time - before, took)
        self._frames.extend(step.frames)
        self._steps += step.elapsed
        self._return += step.reward
        self._reward = step.reward
        self._markers, self._new_markers = step.markers, True
        if list(step.terms) != self._terms:
            self._terms = list(step.terms)
            self._samples.clear()
        self._samples.append([step.frames[-1].time, step.reward, *step.terms.values(), *numbers_of(action)])
        self._new_samples = True
        return True

    def _forget_pace(self) -> None:
        """Take the next policy for one that is faster than real time, until it shows."""
        self._pace, self._ahead = math.inf, 0.0
        self._took = self._simulated = self._longest = 0.0

    def _keep_pace(self, simulated: float, took: float) -> None:
        """Note how long an action took (s), beside the simulated time of its step (s).

        Planners plan for several steps at once, so that the pace is that of several actions, and the simulation runs
        ahead of the picture by what the longest one takes.
        """
        self._simulated += NEW_PACE * (simulated - self._simulated) if self._simulated else simulated
        self._took += NEW_PACE * (took - self._took)
        self._longest = max(took, 0.9 * self._longest)
        pace = self._simulated / max(self._took, 1e-9)
        self._pace, self._ahead = math.inf, 0.0
        if pace < self.speed:
            self._pace, self._ahead = pace, pace * self._longest + 1.5 * simulated

    def _own_action(self) -> Array:
        if self._by == "hand" and self._knobs:
            return action_of(self.source.action_space, self._hand)
        sample: Array = self._space.sample()
        return sample

    def _await_choice(self) -> None:
        """Let the policy finish, which may look at the simulation, before the simulation is changed."""
        if self._choice is not None:
            self._choice.exception()

    def _forget(self) -> None:
        """Drop the instants that have been shown."""
        while len(self._frames) > 1 and self._frames[1].time <= self.clock:
            self._frames.popleft()

    # Commands

    def handle(self, command: Command) -> None:
        """Do what a command asks; one that cannot be done is answered by a notice."""
        try:
            self._do(command)
        except GantryError as error:
            self._news["notice"] = pack("notice", {"text": str(error)})
        self._new_settings = True

    def _do(self, command: Command) -> None:
        if not isinstance(command, messages.Play | messages.Speed | messages.Act):
            self._await_choice()
        match command:
            case messages.Play() | messages.Step() | messages.Reset() | messages.Speed():
                self._let_time(command)
            case messages.Switch() | messages.Control() | messages.Act():
                self._choose(command)
            case messages.Push(x, y, strength):
                if not self.source.pushable:
                    raise GantryError("there is nothing to push here")
                self.source.push(x, y, strength)
            case messages.Throw(x, y):
                self.source.throw(x, y)
            case messages.Grab(origin, direction):
                self.source.grab(np.array(origin), np.array(direction))
            case messages.Release():
                self.source.release()
            case messages.SetPhysics(name, value):
                self.source.set_physics(name, value)
        if self.source.scene_version != self._scene_version:  # other bodies than in the instants that wait
            self._frames = deque([self.source.frame()])
            self.clock = self._frames[0].time

    def _let_time(self, command: messages.Play | messages.Step | messages.Reset | messages.Speed) -> None:
        match command:
            case messages.Play(on):
                self.playing = on
            case messages.Speed(value):
                self.speed = value
            case messages.Reset(following):
                self.episode += following
                self._begin()
            case messages.Step():
                self.playing = False
                if self._must_wait():
                    raise GantryError("the policy is still being loaded")
                if self.source.ended:
                    self.episode += 1
                    self._begin()
                else:
                    self._control_step()
                    self.clock = self._frames[-1].time
                    self._forget()

    def _choose(self, command: messages.Switch | messages.Control | messages.Act) -> None:
        match command:
            case messages.Switch(index):
                if index >= len(self._shows):
                    raise GantryError(f"{len(self._shows)} were named on the command line")
                if index != self.index:
                    self._open(index)
            case messages.Control(by):
                if (by == "policy" and not self._has_policy) or (by == "hand" and not self._knobs):
                    raise GantryError("there is no policy" if by == "policy" else "this action cannot be set by hand")
                self._by, self._choice = by, None
                self._forget_pace()
            case messages.Act(values):
                if len(values) != len(self._knobs) or not np.isfinite(values).all():
                    raise GantryError(f"the action has {len(self._knobs)} numbers")
                self._hand = values

    # Messages

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Yield what is new since the last call, as kinds and messages."""
        if self.source.scene_version != self._scene_version:
            self._scene_version = self.source.scene_version
            self._epoch += 1
            self._shown, self._new_markers = None, True
            yield "scene", self.source.scene({"epoch": self._epoch, "drawn": self.source.drawn})
        if self._new_settings:
            self._new_settings = False
            yield "settings", pack("settings", self._settings())
        if self._new_markers:
            self._new_markers = False
            yield "markers", markers_message(self._markers, self._epoch)
        frame = self._frame()
        shown = (frame.time, id(self._frames[0]), self._steps, self.playing)
        if shown != self._shown:
            self._shown = shown
            yield "frame", self._frame_message(frame)
        if self._new_samples and abs(self._now() - self._plotted) >= PLOT_SECONDS:
            self._new_samples, self._plotted = False, self._now()
            yield "plots", self._plots()
        yield from self._news.items()
        self._news.clear()

    def _settings(self) -> dict[str, object]:
        source = self.source
        return {
            "runs": [show.label for show in self._shows],
            "index": self.index,
            "env": self._shows[self.index].env_id,
            "by": self._by,
            "policy": self._has_policy,
            "loading": self._by == "policy" and self.policy is None,
            "speed": self.speed,
            "playing": self.playing,
            "knobs": [asdict(knob) for knob in self._knobs],
            "hand": self._hand,
            "physics": [
                {"name": each.name, "value": each.value, **asdict(each.parameter)} for each in source.physics()
            ],
            "pushable": source.pushable,
            "throwable": source.throwable,
        }

    def _frame(self) -> Frame:
        """Return the instant that the clock shows, between two that were simulated."""
        first = self._frames[0]
        if self.source.drawn == "picture" or len(self._frames) == 1 or self.clock <= first.time:
            return first
        second = self._frames[1]
        share = (self.clock - first.time) / max(second.time - first.time, 1e-9)
        return Frame(self.clock, between(first.content, second.content, min(share, 1.0)))

    def _frame_message(self, frame: Frame) -> bytes:
        values = {
            "epoch": self._epoch, "time": self.clock, "episode": self.episode + 1, "steps": self._steps,
            "score": self.score, "reward": self._reward, "playing": self.playing, "ended": self.source.ended,
            "slow": self._pace < self.speed,
        }  # fmt: skip
        if self.source.drawn == "scene":
            return pack("frame", values, {"poses": frame.content})
        return pack("frame", values, {"jpeg": jpeg(frame.content)})

    def _plots(self) -> bytes:
        rows = np.array(self._samples, np.float64)
        actions = len(self._samples[0]) - 2 - len(self._terms) if self._samples else 0
        components = self.source.action_components
        names = [knob.name for knob in self._knobs]
        if len(names) != actions or components == ():
            names = [f"action {number}" for number in range(actions)] if actions > 1 else ["action"] * actions
        bounds = [[knob.low, knob.high] for knob in self._knobs]
        described = {"terms": self._terms, "actions": names, "bounds": bounds, "columns": rows.shape[-1]}
        return pack("plots", described, {"rows": rows})


def jpeg(picture: np.ndarray) -> np.ndarray:
    """Return a picture (h, w, 3) uint8 as the bytes of a JPEG file, (size,) uint8."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return np.frombuffer(file.getvalue(), np.uint8)
