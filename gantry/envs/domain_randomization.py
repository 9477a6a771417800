"""Physical quantities that differ between environments: given, or sampled for each episode (domain randomization).

Each quantity is a number, one number per environment, or a range (`Range(0.5, 2.0)`, in text `0.5..2.0`) from which it
is sampled at the beginning of every episode, from a random stream of its own (Tobin et al. 2017, "Domain randomization
for transferring deep neural networks from simulation to the real world"; Peng et al. 2018, "Sim-to-real transfer of
robotic control with dynamics randomization").
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from mujoco.batch import Batch

from gantry.envs.components import Component
from gantry.envs.random_streams import RandomStreams
from gantry.errors import GantryError, nearest

if TYPE_CHECKING:
    from gantry.envs.capabilities import Randomizable


@dataclass(frozen=True)
class PhysicalParameter:
    """A physical quantity that may differ between environments."""

    default: float
    low: float
    """The smallest value that is accepted."""
    high: float
    """The largest value that is accepted."""
    unit: str
    meaning: str
    integer: bool = False
    choices: tuple[float, ...] = ()
    """The only values that are accepted, in ascending order; empty: all within the range."""

    @property
    def accepted(self) -> str:
        """The values that are accepted, in words."""
        if self.choices:
            return " or ".join(f"{choice:g}" for choice in self.choices)
        return f"{self.low:g} to {self.high:g}"

    def check(self, name: str, values: float | np.ndarray) -> None:
        """Refuse values that are out of range, or not whole where they must be (GantryError); `name` is told."""
        if not np.all((values >= self.low) & (values <= self.high)):
            raise GantryError(f"{name} must lie in {self.low:g}..{self.high:g} {self.unit}")
        if self.integer and np.any(values != np.round(values)):
            raise GantryError(f"{name} must be a whole number of {self.unit}")
        if self.choices and not np.all(np.isin(values, self.choices)):
            raise GantryError(f"{name} must be one of {', '.join(f'{choice:g}' for choice in self.choices)}")

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return values (...) as an observation shows them: 0 the default, and factors as logarithms where they can."""
        return np.log(values / self.default) if min(self.low, self.default) > 0 else values - self.default

    def check_range(self, name: str, spread: "Range") -> None:
        """Refuse a range that is not within this quantity's, or not of whole numbers where it must be (GantryError)."""
        if not self.low <= spread.low <= spread.high <= self.high:
            bounds = f"{self.low:g}..{self.high:g} {self.unit}"
            raise GantryError(f"{name} {spread.low:g}..{spread.high:g} must be a range within {bounds}")
        if self.integer and not (float(spread.low).is_integer() and float(spread.high).is_integer()):
            raise GantryError(f"{name} must range over whole numbers of {self.unit}")
        if self.choices:
            self.check(name, np.array([spread.low, spread.high]))


@dataclass(frozen=True)
class Range:
    """Sampled uniformly from [low, high] for each episode."""

    low: float
    high: float


Quantity = float | np.ndarray | Range | str

COMMON: dict[str, PhysicalParameter] = {
    "mass": PhysicalParameter(1.0, 0.2, 5.0, "times", "all masses and inertias, over the model's"),
    "damping": PhysicalParameter(1.0, 0.0, 100.0, "times", "damping of all joints, over the model's"),
    "friction": PhysicalParameter(1.0, 0.0, 10.0, "times", "sliding friction of all surfaces, over the model's"),
    "gear": PhysicalParameter(1.0, 0.1, 10.0, "times", "strength of all motors, over the model's"),
    "gravity_tilt": PhysicalParameter(0.0, 0.0, 30.0, "degrees", "tilt of gravity, towards a random direction"),
    "motor_delay": PhysicalParameter(0, 0, 20, "control steps", "how late controls arrive", integer=True),
    "sensor_noise": PhysicalParameter(0.0, 0.0, 10.0, "standard deviation", "noise on each observation, in its unit"),
}
"""The quantities that every task can vary, beside its own."""

DELAY_FRACTION = PhysicalParameter(0.0, 0.0, 1.0, "control steps", "how much later than whole steps controls arrive")
"""`delay_fraction`, of tasks whose controls are forces: within a step, one control gives way to the next."""

SCALED_FIELDS = {
    "mass": ("body_mass", "body_inertia"),
    "damping": ("dof_damping", "dof_dampingpoly"),
    "friction": ("geom_friction",),
    "gear": ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "jnt_actfrcrange"),
}
"""The model fields that a factor multiplies. For the motors these are forces, since gear ratios would also scale the
position or speed that a servo goes to."""

WITHOUT_EFFECT: dict[str, Callable[[mujoco.MjModel], bool]] = {
    "damping": lambda model: not (model.dof_damping.any() or model.dof_dampingpoly.any()),
    "friction": lambda model: bool(model.geom_condim.max() == 1),
    "gravity_tilt": lambda model: bool(model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY),
}
"""Tells which quantities a model does not have: varying them would look like randomized physics and change nothing."""

DIRECTION = PhysicalParameter(0.0, 0.0, 360.0, "degrees", "where gravity tilts to")

PHYSICS_STREAM, NOISE_STREAM = 1_000_001, 1_000_002
"""Counters that keep these samples apart from those of the initial states."""


def parse_quantity(text: str) -> Quantity:
    """Return `0.5..2.0` as a range and `0.7` as a number.

    Raises:
        GantryError: it is neither.
    """
    low, dots, high = text.partition("..")
    try:
        return Range(float(low), float(high)) if dots else float(text)
    except ValueError:
        raise GantryError(f"{text!r} is neither a number, such as 0.7, nor a range, such as 0.5..2.0") from None


def _stream(name: str, seeds: np.ndarray, episodes: np.ndarray) -> RandomStreams:
    """Return the streams of one quantity: its samples depend neither on what else varies nor on the order."""
    own = zlib.crc32(name.encode())
    return RandomStreams(seeds, episodes, np.full(len(seeds), PHYSICS_STREAM), np.full(len(seeds), own))


class Physics:
    """The physical quantities of the environments of a batch, and their effect on controls and observations.

    Args:
        task: what writes quantities of its own, if the task has any.
        batch: the simulations whose model fields are written.
        given: quantities by name; those not given are as in the model.
        common: the quantities that every task has, with their ranges.
        neutral: the control (columns,) that asks for nothing, which delayed motors get until the first one arrives.

    Raises:
        GantryError: an unknown name, a wrong number of values, a value out of range, or what the model does not have.
    """

    def __init__(
        self,
        task: "Randomizable | None",
        batch: Batch,
        given: Mapping[str, Quantity],
        common: Mapping[str, PhysicalParameter],
        neutral: np.ndarray,
    ) -> None:
        own = {} if task is None else task.physics
        self._declared = {**common, **own}
        self._own = tuple(own)
        self._task, self._batch = task, batch
        count = batch.nsim
        if not isinstance(given, Mapping):
            raise GantryError(f"physics must be quantities by name, such as {{'mass': '0.5..2.0'}}, not {given!r}")
        self.ranges: dict[str, Range] = {}
        self.values: dict[str, np.ndarray] = {}
        """One value per environment, (n,) float64, of every quantity in use."""
        for name, quantity in given.items():
            parameter = self._parameter(name)
            self.values[name] = self._checked(name, parameter, quantity, count)
        if any(name in self._own for name in self.values):  # the task writes all of its quantities together
            for name in self._own:
                if default := self._declared[name].default:  # 0: nothing that is in use
                    self.values.setdefault(name, np.full(count, default))
        if "gravity_tilt" in self.values:
            self.values["gravity_direction"] = np.zeros(count)
        for name in self.values:
            if name in WITHOUT_EFFECT and WITHOUT_EFFECT[name](batch.model):
                raise GantryError(f"{name} changes nothing here: this robot's model has none; leave it out")
        self._scaled = [name for name in SCALED_FIELDS if name in self.values]
        self._delay, self._fraction = self.values.get("motor_delay"), self.values.get("delay_fraction")
        longest = 0.0 if self._delay is None else self._delay.max()
        if "motor_delay" in self.ranges:
            longest = self.ranges["motor_delay"].high
        if self._fraction is not None:
            self._delay, longest = np.zeros(count) if self._delay is None else self._delay, longest + 1
        self._neutral = neutral.astype(np.float32)
        self.sent = np.tile(self._neutral, (count, int(longest) + 1, 1))
        """The latest controls of each environment, the newest first."""
        self.noisy = "sensor_noise" in self.values

    def _parameter(self, name: str) -> PhysicalParameter:
        if name not in self._declared:
            raise GantryError(f"unknown physical parameter {name!r}{nearest(name, self._declared)}")
        return self._declared[name]

    def _checked(self, name: str, parameter: PhysicalParameter, quantity: object, count: int) -> np.ndarray:
        """Return the initial values (n,), and keep a range."""
        if isinstance(quantity, str):
            quantity = parse_quantity(quantity)
        if isinstance(quantity, Range):
            parameter.check_range(name, quantity)
            self.ranges[name] = quantity
            return np.full(count, quantity.low)
        try:
            array = np.asarray(quantity, np.float64)
        except (TypeError, ValueError):
            raise GantryError(f"{name} must be a number or a range, not {quantity!r}") from None
        if array.shape not in ((), (count,)):
            raise GantryError(f"{name} must be one number, or one for each of the {count} environments")
        parameter.check(name, array)
        return np.broadcast_to(array, (count,)).copy()

    def _in_use(self) -> list[tuple[str, PhysicalParameter]]:
        """Return the quantities in use in the order of their declaration, whichever order they were given in."""
        declared = {**self._declared, "gravity_direction": DIRECTION}
        return [(name, parameter) for name, parameter in declared.items() if name in self.values]

    @property
    def components(self) -> list[Component]:
        """Names and bounds of what `observed` returns."""
        found = []
        for name, parameter in self._in_use():
            low, high = parameter.scaled(np.array([parameter.low, parameter.high]))
            found.append(Component(name, low=float(low), high=float(high)))
        return found

    def observed(self) -> np.ndarray:
        """Return every quantity in use as an observation shows it, (n, quantities) float32."""
        columns = [parameter.scaled(self.values[name]) for name, parameter in self._in_use()]
        return np.stack(columns, axis=1).astype(np.float32)

    def sample(self, ids: np.ndarray, seeds: np.ndarray, episodes: np.ndarray) -> None:
        """Sample and write the random quantities of the environments `ids` (k,), from their seeds and episodes (k,)."""
        if self.ranges or "gravity_direction" in self.values:
            for name, spread in self.ranges.items():
                streams = _stream(name, seeds, episodes)
                if choices := self._declared[name].choices:
                    among = np.array([choice for choice in choices if spread.low <= choice <= spread.high])
                    drawn = among[streams.integers(len(among), 1)[:, 0]]
                elif self._declared[name].integer:
                    drawn = spread.low + streams.integers(int(spread.high - spread.low) + 1, 1)[:, 0]
                else:
                    drawn = streams.uniform(spread.low, spread.high, 1)[:, 0]
                self.values[name][ids] = drawn
            if "gravity_direction" in self.values:
                streams = _stream("gravity_direction", seeds, episodes)
                self.values["gravity_direction"][ids] = streams.uniform(0.0, 360.0, 1)[:, 0]
            self.write(ids)

    def rest(self, ids: np.ndarray) -> None:
        """Forget the controls on their way to the motors of the environments `ids` (k,), whose episodes begin."""
        self.sent[ids] = self._neutral

    def write(self, ids: np.ndarray) -> None:
        """Write the quantities of the environments `ids` (k,) into the batch's model fields."""
        batch = self._batch
        for name in self._scaled:
            for field in SCALED_FIELDS[name]:
                batch.expand(field)[ids] = getattr(batch.model, field)
        if self._task is not None and any(name in self._own for name in self.values):
            nothing = np.zeros(len(ids))
            own = {name: self.values[name][ids] if name in self.values else nothing for name in self._own}
            self._task.set_physics(batch, ids, own)
        for name in self._scaled:
            factor = self.values[name][ids]
            for field in SCALED_FIELDS[name]:
                array = batch.expand(field)
                if field == "geom_friction":
                    array[ids, :, 0] *= factor[:, None]
                else:
                    array[ids] *= factor.reshape(-1, *[1] * (array.ndim - 1))
        if "gravity_tilt" in self.values:
            tilt, direction = (np.radians(self.values[name][ids]) for name in ("gravity_tilt", "gravity_direction"))
            strength = np.linalg.norm(batch.model.opt.gravity)
            down = [np.sin(tilt) * np.cos(direction), np.sin(tilt) * np.sin(direction), -np.cos(tilt)]
            batch.expand("opt.gravity")[ids] = strength * np.stack(down, axis=1)
        if self.values.keys() - {"motor_delay", "delay_fraction", "sensor_noise"}:
            batch.set_const(ids)

    def delayed(self, control: np.ndarray) -> np.ndarray:
        """Return the controls (n, columns) that arrive now, given those sent now; their mean where two share a step."""
        if self._delay is None:
            return control
        self.sent[:, 1:] = self.sent[:, :-1].copy()
        self.sent[:, 0] = control
        everyone, whole = np.arange(len(control)), self._delay.astype(np.int64)
        if self._fraction is None:
            return self.sent[everyone, whole]
        share = self._fraction[:, None].astype(np.float32)
        return (1.0 - share) * self.sent[everyone, whole] + share * self.sent[everyone, whole + 1]

    def noise(self, seeds: np.ndarray, episodes: np.ndarray, elapsed: np.ndarray, size: int) -> np.ndarray:
        """Return the noise (n, size) float32 on observations `elapsed` (n,) steps into each episode."""
        streams = RandomStreams(seeds, episodes, np.full(len(seeds), NOISE_STREAM), elapsed)
        return (self.values["sensor_noise"][:, None] * streams.normal(size)).astype(np.float32)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the values and the delayed controls, by name."""
        state = {f"physics/{name}": value.copy() for name, value in self.values.items()}
        if self._delay is not None:
            state["controls_sent"] = self.sent.copy()
        return state

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `get_state` returned, and write it into the batch.

        Raises:
            GantryError: a value is out of range; nothing has changed.
        """
        for name in self.values.keys() - {"gravity_direction"}:
            self._checked(name, self._declared[name], state[f"physics/{name}"], self._batch.nsim)
        longest = self.sent.shape[1] - (1 if self._fraction is None else 2)
        if "motor_delay" in self.values and np.max(state["physics/motor_delay"]) > longest:
            raise GantryError(f"motor_delay must be at most {longest} here")
        for name in self.values:
            self.values[name][:] = state[f"physics/{name}"]
        if self._delay is not None:
            self.sent[:] = state["controls_sent"]
        self.write(np.arange(self._batch.nsim))
