"""What a session shows, whichever simulator is behind it, and what may be done to it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import gymnasium
import mujoco
import numpy as np

from gantry.agents.protocol import Controller
from gantry.envs.components import Component
from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.domain_randomization import PhysicalParameter
from gantry.envs.rendering.scene import Marker
from gantry.types import Array, Space

PUSH_COLOR = (0.95, 0.25, 0.3, 0.9)
"""RGBA color of the arrow that shows a push."""
PUSH_ACCELERATION = 8.0
"""How much a push accelerates a robot of which nothing better is known (m/s²)."""
UNBOUNDED = 1.0
"""What an action without bounds is set to by hand, at most."""


@dataclass(frozen=True)
class Frame:
    """One instant of an episode."""

    time: float
    """Seconds since the episode began."""
    content: np.ndarray
    """Poses of the bodies (nbody, 7) float32, or where the environment draws itself, a picture (h, w, 3) uint8."""


@dataclass(frozen=True)
class ControlStep:
    """One control step of an episode."""

    frames: Sequence[Frame]
    """Instants within the step, in order; the last is the step's end."""
    reward: float
    terms: dict[str, float]
    """The reward's named terms."""
    markers: Sequence[Marker]
    """What is drawn over the scene."""
    elapsed: int = 1
    """Steps of the environment that it took: more than one where the action is a skill."""


@dataclass(frozen=True)
class Quantity:
    """A physical quantity that can be changed."""

    name: str
    value: float
    parameter: PhysicalParameter
    """Its range and meaning."""


@dataclass(frozen=True)
class Knob:
    """One number of an action, as it is set by hand."""

    name: str
    low: float
    high: float
    integer: bool
    unit: str = ""
    choices: Sequence[str] = ()
    """Names of the values, where these are choices."""


class Source(Protocol):
    """An environment under way."""

    action_space: Space
    action_components: Sequence[Component]
    """Names of the actions' numbers, where they are known."""
    drawn: str
    """Who draws: `scene` for the page, from poses, or `picture` for the environment itself."""
    scene_version: int
    """Grows when the shapes change that `scene` describes."""

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        ...

    def begin(self, seed: int) -> Frame:
        """Begin the episode of a seed."""
        ...

    def frame(self) -> Frame:
        """Return the present instant."""
        ...

    def choose(self, policy: Controller) -> Array:
        """Return the policy's action (*action shape)."""
        ...

    def step(self, action: Array) -> ControlStep:
        """Take a control step."""
        ...

    def scene(self, content: dict[str, object]) -> bytes:
        """Return the message that describes what is drawn, with further values."""
        ...

    @property
    def pushable(self) -> bool:
        """Whether there is a robot to push."""
        ...

    @property
    def throwable(self) -> bool:
        """Whether balls can be thrown."""
        ...

    def push(self, x: float, y: float, strength: float) -> None:
        """Push the robot along a direction of the floor, for a moment of simulated time."""
        ...

    def throw(self, x: float, y: float) -> None:
        """Throw a ball that flies along a direction of the floor."""
        ...

    def grab(self, origin: np.ndarray, direction: np.ndarray) -> None:
        """Take hold of what a line of sight meets, (3,) each, or pull what is held to it; nothing is a GantryError."""
        ...

    def release(self) -> None:
        """Let go of what is held."""
        ...

    def tendons(self) -> Sequence[Marker]:
        """Return the model's tendons as lines."""
        ...

    def physics(self) -> Sequence[Quantity]:
        """Return the physical quantities that can be changed."""
        ...

    def set_physics(self, name: str, value: float) -> None:
        """Change a physical quantity; an unknown one, or one out of range, is a GantryError."""
        ...

    def close(self) -> None:
        """Close the environment."""
        ...


def unit_vector(x: float, y: float, axes: Sequence[int]) -> np.ndarray:
    """Return the direction (3,) nearest to (x, y) on the floor that goes along the world axes given."""
    direction = np.zeros(3)
    for axis, part in ((0, x), (1, y)):
        if axis in axes:
            direction[axis] = part
    length = float(np.linalg.norm(direction))
    if length < 1e-6:
        direction[axes[0]] = length = 1.0
    return direction / length


def usual_target(model: mujoco.MjModel) -> DisturbanceTarget | None:
    """Return what of a model is pushed where nothing says so: the heaviest part that moves, with all that hangs on it.

    None where no body that moves has a name.
    """
    moving = [body for body in range(1, model.nbody) if model.body_dofnum[body] > 0 and model.body(body).name]
    if not moving:
        return None
    heaviest = max(moving, key=lambda body: float(model.body_subtreemass[body]))
    mass = float(model.body_subtreemass[heaviest])
    return DisturbanceTarget(model.body(heaviest).name, PUSH_ACCELERATION * mass, ball_mass=0.0, ball_radius=0.0)


def arrow(point: np.ndarray, direction: np.ndarray, length: float) -> list[Marker]:
    """Return an arrow (m) that ends at a point (3,), along a unit vector (3,)."""
    tail = point - length * direction
    side = np.cross(direction, [0.0, 0.0, 1.0]) * 0.12 * length
    barbs = [point - 0.25 * length * direction + sign * side for sign in (1.0, -1.0)]
    return [
        Marker(np.stack([tail, point]), PUSH_COLOR, 0.02 * length),
        Marker(np.stack([barbs[0], point, barbs[1]]), PUSH_COLOR, 0.02 * length),
    ]


def knobs(space: Space, components: Sequence[Component]) -> list[Knob]:
    """Return how an action is set by hand; nothing for spaces whose actions are not a few numbers."""
    if isinstance(space, gymnasium.spaces.Discrete):
        names = [each.name for each in components] if len(components) == space.n else []
        names = names or [str(index) for index in range(int(space.start), int(space.start + space.n))]
        return [Knob("action", float(space.start), float(space.start + space.n - 1), True, choices=names)]
    if isinstance(space, gymnasium.spaces.Box) and space.dtype.kind == "f":
        low, high = np.ravel(space.low).tolist(), np.ravel(space.high).tolist()
        bounds = [
            (first if np.isfinite(first) else -UNBOUNDED, last if np.isfinite(last) else UNBOUNDED)
            for first, last in zip(low, high, strict=True)
        ]
        whole = False
    elif isinstance(space, gymnasium.spaces.MultiDiscrete):
        first = np.ravel(space.start).tolist()
        bounds = [(a, a + n - 1) for a, n in zip(first, np.ravel(space.nvec).tolist(), strict=True)]
        whole = True
    elif isinstance(space, gymnasium.spaces.MultiBinary):
        bounds, whole = [(0, 1)] * int(np.prod(space.shape)), True
    else:
        return []
    named = [
        dataclasses.replace(each, name=f"{each.name} {number + 1}" if each.count > 1 else each.name)
        for each in components
        for number in range(each.count)
    ]
    if len(named) != len(bounds):
        named = [Component(f"action {number}") for number in range(len(bounds))]
    return [
        Knob(each.name, float(low), float(high), whole, each.unit)
        for each, (low, high) in zip(named, bounds, strict=True)
    ]


def action_of(space: Space, values: Sequence[float]) -> Array:
    """Return the action that numbers set by hand stand for: as many as there are knobs, moved into their range."""
    bounds = knobs(space, ())
    inside = [min(max(value, knob.low), knob.high) for value, knob in zip(values, bounds, strict=True)]
    shape, dtype = space.shape, space.dtype
    if not isinstance(space, gymnasium.spaces.Box):
        inside = [round(value) for value in inside]
    return np.asarray(inside, dtype).reshape(shape or ())


def numbers_of(action: Array) -> list[float]:
    """Return an action's numbers, for plots; nothing where it is not an array of numbers."""
    array = np.asarray(action)
    return np.ravel(array).astype(float).tolist() if array.dtype.kind in "biuf" else []
