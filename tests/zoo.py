"""A zoo of small environments: each legal, and odd in one way that has broken a suite somewhere.

Importing this module registers every kind as `zoo/NAME-v0`. Kinds whose oddity is not their actions take
`actions="continuous"`, those whose oddity is not their observations `observation="count"`, so that every agent meets
them.
"""

import copy
import os
import random
import signal
import threading
import warnings
from collections import deque

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Graph, GraphInstance, MultiBinary, MultiDiscrete, Text, Tuple

HUGE = float(np.finfo(np.float32).max)
LENGTH = 5


class Walk(gymnasium.Env):
    """Five steps to the right or not, and a random number; one reward for each step to the right."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = Box(-10.0, 10.0, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, render_mode=None, actions="discrete", observation="own"):
        self.render_mode = render_mode
        self.counts = observation == "count"
        if actions == "continuous":
            self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        if self.counts:
            self.observation_space = Discrete(LENGTH + 1)
        self.place, self.time, self.draw = 0, 0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time, self.draw = 0, 0, float(self.np_random.random())
        return self.seen(), self.info()

    def step(self, action):
        assert self.action_space.contains(action), action
        right = self.right(action)
        self.place += right
        self.time += 1
        return self.seen(), self.reward(right), self.over(), False, self.info()

    def render(self):
        return np.full((32, 48, 3), 40 * self.time % 256, np.uint8)

    def seen(self):
        return min(self.time, LENGTH) if self.counts else self.observe()

    # What kinds change

    def observe(self):
        return np.array([self.place, self.draw], np.float32)

    def right(self, action):
        return int(np.sum(action) > 0)

    def reward(self, right):
        return float(right)

    def over(self):
        return self.time >= LENGTH

    def info(self):
        return {}


# Observations


class DictUnsorted(Walk):
    observation_space = Dict([("zebra", Box(0, 1, (1,))), ("ant", Box(-9, 9, (2,)))])

    def observe(self):
        return {"zebra": np.array([self.draw], np.float32), "ant": np.array([self.place, self.time], np.float32)}


class DictNested(Walk):
    observation_space = Dict({"b": Dict({"d": Discrete(6), "c": Box(0, 1, (1,))}), "a": Box(-9, 9, ())})

    def observe(self):
        place = np.asarray(self.place, np.float32)
        return {"a": place, "b": {"c": np.array([self.draw], np.float32), "d": self.time}}


class TupleObserved(Walk):
    observation_space = Tuple([Discrete(32), Discrete(11), Discrete(2)])

    def observe(self):
        return self.place, self.time, 0


class Bools(Walk):
    observation_space = Box(0, 1, (3,), bool)

    def observe(self):
        return np.array([self.place > 2, self.time > 2, self.draw > 0.5])


class Int64(Walk):
    observation_space = Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64)

    def observe(self):
        return np.array([self.place, self.time])


class Bytes(Walk):
    observation_space = Box(0, 255, (4, 4, 1), np.uint8)

    def observe(self):
        return np.full((4, 4, 1), 50 * self.time, np.uint8)


class OneSided(Walk):
    observation_space = Box(np.array([0.0, -np.inf]), np.array([np.inf, 1.0]), (2,), np.float64)

    def observe(self):
        return np.array([self.place, self.draw])


class FloatMax(Walk):
    observation_space = Box(-HUGE, HUGE, (2,), np.float32)


class HugeNumbers(Walk):
    observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def observe(self):
        return np.array([1e12 * self.place, 1e-12 * self.draw])


class Scalar(Walk):
    observation_space = Box(-9.0, 9.0, (), np.float32)

    def observe(self):
        return np.float32(self.place)


class Started(Walk):
    observation_space = Discrete(6, start=-3)

    def observe(self):
        return self.time - 3


class SeveralDiscrete(Walk):
    observation_space = MultiDiscrete([6, 6])

    def observe(self):
        return np.array([self.place, self.time])


class Bits(Walk):
    observation_space = MultiBinary(3)

    def observe(self):
        return np.array([self.place > 2, self.time > 2, 1], np.int8)


class ReadOnly(Walk):
    def observe(self):
        seen = super().observe()
        seen.flags.writeable = False
        return seen


class Reused(Walk):
    def observe(self):
        if not hasattr(self, "buffer"):
            self.buffer = np.zeros(2, np.float32)
        self.buffer[:] = super().observe()
        return self.buffer


class DictShuffled(DictUnsorted):
    """Gives its entries in another order than its space does."""

    def observe(self):
        return dict(reversed(super().observe().items()))


class MissionObserved(Walk):
    """A picture, a direction and a sentence, as grid worlds show them."""

    observation_space = Dict({"image": Box(0, 255, (3, 3, 3), np.uint8), "direction": Discrete(4), "mission": Text(9)})

    def observe(self):
        return {"image": np.full((3, 3, 3), self.time, np.uint8), "direction": self.time % 4, "mission": "go"}


class GraphObserved(Walk):
    observation_space = Graph(Box(0, 1, (2,)), None)

    def observe(self):
        return GraphInstance(np.zeros((1 + self.time, 2), np.float32), None, None)


class Lists(Walk):
    def observe(self):
        return super().observe().tolist()


class Doubles(Walk):
    """Says float32, gives float64."""

    def observe(self):
        return super().observe().astype(np.float64)


class Tensors(Walk):
    def observe(self):
        return torch.from_numpy(super().observe())


class Strided(Walk):
    observation_space = Box(-10.0, 10.0, (2, 3), np.float64)

    def observe(self):
        return np.linspace(0.0, self.place, 12).reshape(6, 2).T[:, ::-2]


class OutOfBounds(Walk):
    observation_space = Box(0.0, 0.1, (2,), np.float32)


class Fixed(Walk):
    """Bounds without a range between them."""

    observation_space = Box(np.array([0.0, 1.0], np.float32), np.array([9.0, 1.0], np.float32))

    def observe(self):
        return np.array([self.place, 1.0], np.float32)


class Half(Walk):
    observation_space = Box(-9.0, 9.0, (2,), np.float16)

    def observe(self):
        return super().observe().astype(np.float16)


class Only(Walk):
    """There is one observation."""

    observation_space = Discrete(1)

    def observe(self):
        return np.array(0)


class Countless(Walk):
    """Too many numbers for one input, or row of a table, each."""

    observation_space = Discrete(10**12)

    def observe(self):
        return 10**9 * self.place


class NoNumbers(Walk):
    observation_space = Box(-1.0, 1.0, (0,), np.float32)

    def observe(self):
        return np.zeros(0, np.float32)


class SpacesAnew(Walk):
    """Makes its spaces anew each time that they are asked for."""

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        return copy.deepcopy(found) if name in ("observation_space", "action_space") else found


class Unlike(Walk):
    """The bounds of each copy are its own."""

    copies = 0

    def __init__(self, **settings):
        super().__init__(**settings)
        Unlike.copies += 1
        if not self.counts:
            self.observation_space = Box(-10.0 - Unlike.copies, 10.0, (2,), np.float32)


class TextObserved(Walk):
    observation_space = Text(8)

    def observe(self):
        return "a" * (1 + self.time)


class NaNObserved(Walk):
    def observe(self):
        return np.array([self.place, np.nan if self.time == 3 else 0.5], np.float32)


class InfObserved(Walk):
    def observe(self):
        return np.array([self.place, np.inf if self.time == 3 else 0.5], np.float32)


class WrongShape(Walk):
    def observe(self):
        return np.zeros(2 + (self.time == 3), np.float32)


# Actions


class ActionsStarted(Walk):
    action_space = Discrete(3, start=5)

    def right(self, action):
        assert 5 <= action <= 7
        return int(action == 7)


class ActionsSeveral(Walk):
    action_space = MultiDiscrete([3, 2])

    def right(self, action):
        assert action.shape == (2,)
        return int(action[1])


class ActionsBits(Walk):
    action_space = MultiBinary(2)


class ActionsUnbounded(Walk):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class ActionsFloatMax(Walk):
    action_space = Box(-HUGE, HUGE, (1,), np.float32)


class ActionsOneSided(Walk):
    action_space = Box(np.array([0.0, -np.inf]), np.array([np.inf, 1.0]), (2,), np.float64)


class ActionsScalar(Walk):
    action_space = Box(-2.0, 2.0, (), np.float64)


class ActionsWhole(Walk):
    action_space = Box(-3, 3, (2,), np.int64)


class ActionsTable(Walk):
    action_space = MultiDiscrete([[2, 3], [2, 2]])


class ActionsBitTable(Walk):
    action_space = MultiBinary((2, 3))


class ActionsGrid(Walk):
    action_space = Box(-1.0, 1.0, (2, 3), np.float32)


class ActionsFixed(Walk):
    """The second has no range."""

    action_space = Box(np.array([-1.0, 0.5], np.float32), np.array([1.0, 0.5], np.float32))


class ActionsOnly(Walk):
    action_space = Discrete(1)


class ActionsDict(Walk):
    action_space = Dict({"go": Discrete(2), "force": Box(-1, 1, (1,))})


class ActionsChanged(Walk):
    """Changes what it was given."""

    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def right(self, action):
        right = super().right(action)
        action[:] = 77.0
        return right


class ActionsNarrow(Walk):
    action_space = Discrete(3, dtype=np.int8)


# Rewards


class RewardHuge(Walk):
    def reward(self, right):
        return 1e25 * right


class RewardBool(Walk):
    def reward(self, right):
        return np.bool_(right)


class RewardSeveral(Walk):
    """A number each for two goals."""

    def reward(self, right):
        return np.array([right, 1.0])


class RewardText(Walk):
    def reward(self, right):
        return "one"


class RewardArray(Walk):
    def reward(self, right):
        return np.array([right], np.float64)


class RewardTensor(Walk):
    """PyTorch's, with a gradient."""

    def reward(self, right):
        return torch.tensor(float(right), requires_grad=True)


class RewardWhole(Walk):
    def reward(self, right):
        return right


class RewardNaN(Walk):
    def reward(self, right):
        return float("nan") if self.time == 3 else 1.0


class RewardInf(Walk):
    def reward(self, right):
        return float("inf") if self.time == 3 else 1.0


class RewardNone(Walk):
    def reward(self, right):
        return None


# Infos


class SuccessObjects(Walk):
    """NumPy's truth values, which land in arrays of objects where other steps say None."""

    def info(self):
        return {"is_success": np.bool_(self.place >= 0) if self.time == LENGTH else None}


class SuccessOnlyIfTrue(Walk):
    def info(self):
        return {"success": True} if self.time == LENGTH and self.draw > 0.5 else {}


class InfoLikeOurs(Walk):
    def info(self):
        return {"cut": 7, "terms": 3.0, "_terms": {"x": 1}, "final_info": 1, "steps": "many", "physics": None}


class InfoText(Walk):
    def info(self):
        return {"note": "[red]a[/]", "list": [1, 2, 3], "ragged": [[1], [2, 3]], "sometimes": self.time or None}


class InfoShapes(Walk):
    """Arrays of another length at every step, and keys that are not text."""

    def info(self):
        return {"contacts": np.zeros(self.time), 3: "three", "again": {"deep": np.zeros((self.time, 2))}}


class InfoNone(Walk):
    def info(self):
        return None


class InfoItself(Walk):
    """One dictionary for all steps, which holds itself and the environment."""

    def info(self):
        if not hasattr(self, "told"):
            self.told = {}
            self.told.update(me=self.told, env=self)
        self.told["success"] = self.time > 3
        return self.told


class InfoEpisode(Walk):
    """As a wrapper that records episodes writes it."""

    def info(self):
        return {"episode": {"r": 1.0, "l": 5, "t": 0.1}, "TimeLimit.truncated": False} if self.over() else {}


# Endings


class BothEnds(Walk):
    def step(self, action):
        observation, reward, over, _, info = super().step(action)
        return observation, reward, over, over, info


class EndsInts(Walk):
    def over(self):
        return int(self.time >= LENGTH)


class EndsArrays(Walk):
    def over(self):
        return np.array([self.time >= LENGTH])


class EndsNone(Walk):
    def over(self):
        return True if self.time >= LENGTH else None


class Strict(Walk):
    """No step after an end, no reset before one: as simulators that count their episodes."""

    ended = True

    def reset(self, *, seed=None, options=None):
        self.ended = False
        return super().reset(seed=seed)

    def step(self, action):
        assert not self.ended
        result = super().step(action)
        self.ended = result[2]
        return result


class Endless(Walk):
    def over(self):
        return False


class EndsAtOnce(Walk):
    def over(self):
        return True


class NumPyEnds(Walk):
    def over(self):
        return np.bool_(self.time >= LENGTH)


# Seeds


class RandomState(Walk):
    """Seeds the older generator, which takes no seed beyond 2**32."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.older = np.random.RandomState(seed)
        _, info = super().reset(seed=seed)
        self.draw = float(self.older.rand())
        return self.seen(), info


class Uncopied(Walk):
    """Holds what can neither be copied nor written to a file."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.lock, self.stream = threading.Lock(), (number for number in range(10))


class Globals(Walk):
    """Seeds and uses the global generators."""

    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed)
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        torch.manual_seed(7)
        return self.seen(), info

    def observe(self):
        return np.array([self.place, np.random.random()], np.float32)  # noqa: NPY002


class ReseedsAlways(Walk):
    """Takes a new generator at each reset, from the system where it is given no seed."""

    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed)
        self.draw = float(np.random.default_rng(seed).random())
        return self.seen(), info


class SeedsSmall(Walk):
    """Takes Python's numbers only, below 2**31."""

    def reset(self, *, seed=None, options=None):
        assert seed is None or (type(seed) is int and seed < 2**31)
        return super().reset(seed=seed)


class NoSeeds(Walk):
    """Of before there were seeds and options."""

    def reset(self):
        return Walk.reset(self)


class OldStep(Walk):
    def step(self, action):
        observation, reward, over, _, info = super().step(action)
        return observation, reward, over, info


# The process


class SetsProcess(Walk):
    """Changes what holds for the whole process, and counts on it."""

    def __init__(self, **settings):
        super().__init__(**settings)
        torch.set_default_dtype(torch.float64)
        np.seterr(all="raise")
        os.chdir("/")

    def step(self, action):
        assert torch.zeros(1).dtype == torch.float64
        assert np.geterr()["under"] == "raise"
        assert os.getcwd() == "/"
        torch.set_grad_enabled(False)
        return super().step(action)


class Talks(Walk):
    def step(self, action):
        print("[/b] stepped", action)
        warnings.warn(f"step {self.time}", stacklevel=1)
        return super().step(action)


class TakesSignals(Walk):
    """Its simulator wants the signals for itself."""

    def reset(self, *, seed=None, options=None):
        signal.signal(signal.SIGINT, lambda *_: None)
        return super().reset(seed=seed)


class Cyclic(Walk):
    """Knows itself, and whoever wraps it."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.me, self.others = self, [self]


class Queued(Walk):
    """Its observation is of the step before."""

    def reset(self, *, seed=None, options=None):
        self.queue = deque(maxlen=2)
        return super().reset(seed=seed)

    def observe(self):
        self.queue.append(super().observe())
        return self.queue[0]


# Failures


def failing(call):
    """A kind that fails in a call."""

    class Fails(Walk):
        def __init__(self, *args, **settings):
            self.fail("make")
            super().__init__(*args, **settings)

        def fail(self, where):
            if where == call:
                raise OSError(f"the simulator\nrefused to {call}")

        def reset(self, *, seed=None, options=None):
            self.fail("reset")
            return super().reset(seed=seed)

        def step(self, action):
            if self.time == 3:
                self.fail("step")
            return super().step(action)

        def render(self):
            self.fail("render")
            return super().render()

        def close(self):
            self.fail("close")

    return Fails


class FailsSilently(Walk):
    """Raises what fails when it is shown, too."""

    def step(self, action):
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError

        raise Odd


class OldReset(Walk):
    """Written for the older Gym."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Exits(Walk):
    def step(self, action):
        raise SystemExit(3)


# Pictures


class NoPictures(Walk):
    metadata = {"render_modes": []}


class NoPicture(Walk):
    def render(self):
        return None


class ColorsFirst(Walk):
    def render(self):
        return np.zeros((3, 32, 48), np.uint8)


class Transparent(Walk):
    def render(self):
        return np.full((32, 48, 4), 90, np.uint8)


class PictureLists(Walk):
    def render(self):
        return [Walk.render(self) for _ in range(self.time)]


class TextPictures(Walk):
    metadata = {"render_modes": ["ansi"]}

    def render(self):
        return "A.."


class PicturesUnasked(Walk):
    """Its constructor takes no render mode."""

    def __init__(self, actions="discrete", observation="own"):
        super().__init__("rgb_array", actions, observation)


class NoMetadata(Walk):
    metadata = None


class OldMetadata(Walk):
    metadata = {"render.modes": ["rgb_array"]}


class OddPictures(Walk):
    """Sides that are odd, and grow; gray; no frame rate."""

    metadata = {"render_modes": ["rgb_array"]}

    def render(self):
        return np.full((33 + self.time, 47), 90, np.uint8)


class FloatPictures(Walk):
    def render(self):
        return np.zeros((32, 48, 3))


class CarriesMuJoCo(Walk):
    """Draws itself with OpenGL only, but carries a MuJoCo model and data."""

    metadata = {"render_modes": []}

    def __init__(self, **settings):
        super().__init__(**settings)
        self.model = mujoco.MjModel.from_xml_string(
            """<mujoco><worldbody><light pos="0 0 3"/><geom type="plane" size="2 2 .1"/>
            <camera name="side" pos="0 -3 1" xyaxes="1 0 0 0 .3 1"/><camera name="top" pos="0 0 4"/>
            <body pos="0 0 1"><joint type="slide" axis="1 0 0"/><geom size=".3" rgba="1 0 0 1"/></body>
            </worldbody></mujoco>"""
        )
        self.data = mujoco.MjData(self.model)

    def observe(self):
        self.data.qpos[0] = 0.3 * self.place
        return super().observe()


KINDS = {
    kind.__name__: kind
    for kind in (
        *(
            DictUnsorted,
            DictNested,
            TupleObserved,
            Bools,
            Int64,
            Bytes,
            OneSided,
            FloatMax,
            HugeNumbers,
            Scalar,
            Started,
        ),
        *(DictShuffled, MissionObserved, GraphObserved, Lists, Doubles, Tensors, Strided, OutOfBounds, Fixed, Half),
        *(Only, Countless, NoNumbers, SpacesAnew, Unlike),
        *(SeveralDiscrete, Bits, ReadOnly, Reused, TextObserved, NaNObserved, InfObserved, WrongShape),
        *(ActionsStarted, ActionsSeveral, ActionsBits, ActionsUnbounded, ActionsFloatMax, ActionsOneSided),
        *(ActionsScalar, ActionsWhole, ActionsTable, ActionsBitTable, ActionsGrid, ActionsFixed, ActionsOnly),
        *(ActionsDict, ActionsChanged, ActionsNarrow),
        *(RewardArray, RewardWhole, RewardNaN, RewardInf, RewardNone),
        *(RewardHuge, RewardTensor, RewardBool, RewardSeveral, RewardText),
        *(SuccessObjects, SuccessOnlyIfTrue, InfoLikeOurs, InfoText, InfoShapes, InfoNone, InfoItself, InfoEpisode),
        *(Endless, EndsAtOnce, NumPyEnds, BothEnds, EndsInts, EndsArrays, EndsNone, Strict),
        *(RandomState, Globals, ReseedsAlways, SeedsSmall, NoSeeds, OldReset, OldStep),
        *(SetsProcess, Talks, TakesSignals, Cyclic, Queued, Uncopied, FailsSilently, Exits),
        *(CarriesMuJoCo, NoPictures, NoPicture, OddPictures, FloatPictures, ColorsFirst, Transparent),
        *(PictureLists, TextPictures, PicturesUnasked, NoMetadata, OldMetadata),
    )
} | {f"Fails{call.capitalize()}": failing(call) for call in ("make", "reset", "step", "render", "close")}
"""Every kind by its name."""


def zoo_id(name: str) -> str:
    """Return the id of a kind."""
    return f"zoo/{name}-v0"


for _name, _kind in KINDS.items():
    gymnasium.register(zoo_id(_name), _kind)
