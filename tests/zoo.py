"""A zoo of small environments: each legal, and odd in one way that has broken a suite somewhere.

Importing this module registers every kind as `zoo/NAME-v0`. Kinds whose oddity is not their actions take
`actions="continuous"`, those whose oddity is not their observations `observation="count"`, so that every agent meets
them.
"""

import os
import threading

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

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


# Rewards


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


# Endings


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
        *(SeveralDiscrete, Bits, ReadOnly, Reused, TextObserved, NaNObserved, InfObserved, WrongShape),
        *(ActionsStarted, ActionsSeveral, ActionsBits, ActionsUnbounded, ActionsFloatMax, ActionsOneSided),
        *(ActionsScalar, ActionsWhole),
        *(RewardArray, RewardTensor, RewardWhole, RewardNaN, RewardInf, RewardNone),
        *(SuccessObjects, SuccessOnlyIfTrue, InfoLikeOurs, InfoText, InfoShapes),
        *(Endless, EndsAtOnce, NumPyEnds, RandomState, Uncopied),
        *(SetsProcess, FailsSilently, OldReset, Exits),
        *(CarriesMuJoCo, NoPictures, NoPicture, OddPictures, FloatPictures),
    )
} | {f"Fails{call.capitalize()}": failing(call) for call in ("make", "reset", "step", "render", "close")}
"""Every kind by its name."""


def zoo_id(name: str) -> str:
    """Return the id of a kind."""
    return f"zoo/{name}-v0"


for _name, _kind in KINDS.items():
    gymnasium.register(zoo_id(_name), _kind)
