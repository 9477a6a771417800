"""An environment that others made, as the viewer shows it: its MuJoCo model from poses, or else its own pictures."""

import math
from collections.abc import Sequence

import mujoco
import numpy as np

from gantry.agents.protocol import Controller, EpisodicActor
from gantry.envs.components import Component
from gantry.envs.disturbances import PUSH_SECONDS
from gantry.envs.domain_randomization import COMMON, SCALED_FIELDS, WITHOUT_EFFECT
from gantry.envs.rendering.scene import Marker
from gantry.errors import GantryError, nearest
from gantry.runs.environments import one_line
from gantry.runs.episodes import ROWS, Episode, as_number, as_vector, choose
from gantry.types import Array, Options, Space
from gantry.view.grip import Grip, tendon_lines
from gantry.view.messages import pack
from gantry.view.scene import poses, scene_message
from gantry.view.source import ControlStep, Frame, Quantity, arrow, unit_vector, usual_target

FRAMES_PER_SECOND = 30.0
"""Steps a second where an environment does not say how many it takes."""


class ForeignSource:
    """An episode of an environment that others made; see `Source`.

    Args:
        env_id: its id.
        options: its options.
        max_steps: steps after which an episode is cut; None: as `evaluate` does.
    """

    def __init__(self, env_id: str, options: Options, max_steps: int | None = None) -> None:
        self._env_id = env_id
        episode = Episode(env_id, options, max_steps)
        inner = episode.env.unwrapped
        model, data = getattr(inner, "model", None), getattr(inner, "data", None)
        self._model = model if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData) else None
        self.drawn = "picture" if self._model is None else "scene"
        if self._model is None:
            modes = (episode.env.metadata or {}).get("render_modes")
            episode.env.close()
            if modes is not None and "rgb_array" not in modes:
                raise GantryError(f"{env_id} cannot be shown: it has neither a MuJoCo model nor render mode rgb_array")
            episode = Episode(env_id, options, max_steps, render_mode="rgb_array")
        self._episode = episode
        self._seconds = self._step_seconds()
        self._target = usual_target(self._model) if self._model is not None else None
        self._force, self._push_steps = np.zeros(3), 0
        self._grip: Grip | None = None
        self._scales: dict[str, float] = {}
        self._usual: dict[str, np.ndarray] = {}
        if self._model is not None:
            self._scales = {name: 1.0 for name in SCALED_FIELDS if not self._lacks(name)}
            fields = [field for name in self._scales for field in SCALED_FIELDS[name]]
            self._usual = {field: np.array(getattr(self._model, field)) for field in fields}
        self._heard: Controller | None = None
        self.scene_version = 1
        self.action_space: Space = episode.env.action_space
        self.action_components: Sequence[Component] = ()

    def _lacks(self, name: str) -> bool:
        lacks = WITHOUT_EFFECT.get(name)
        return lacks is not None and lacks(self._model)

    def _step_seconds(self) -> float:
        """Return how much time a step takes (s)."""
        duration = as_number(getattr(self._episode.env.unwrapped, "dt", None)) if self._model is not None else None
        if duration is not None and 0.0 < duration[0] < 10.0:
            return float(duration[0])
        rate = as_number((self._episode.env.metadata or {}).get("render_fps"))
        return 1.0 / float(rate[0]) if rate is not None and 0.1 < rate[0] < math.inf else 1.0 / FRAMES_PER_SECOND

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self._episode.ended

    def begin(self, seed: int) -> Frame:
        """Begin the episode of a seed."""
        self._episode.begin(seed)
        self._push_steps, self._heard, self._grip = 0, None, None
        model = getattr(self._episode.env.unwrapped, "model", None)
        if self._model is not None and model is not self._model and isinstance(model, mujoco.MjModel):
            self._model = model  # of this episode's own
            self._usual = {field: np.array(getattr(model, field)) for field in self._usual}
            self.scene_version += 1
        return self.frame()

    def frame(self) -> Frame:
        """Return the present instant."""
        time = self._episode.steps * self._seconds
        if self._model is not None:
            return Frame(time, poses(self._data()))
        from gantry.film.record import picture

        return Frame(time, picture(self._env_id, self._episode.env.render(), None))

    def _data(self) -> mujoco.MjData:
        data = getattr(self._episode.env.unwrapped, "data", None)
        assert isinstance(data, mujoco.MjData)
        return data

    def choose(self, policy: Controller) -> Array:
        """Return the policy's action."""
        if isinstance(policy, EpisodicActor) and policy is not self._heard:
            policy.begin(as_vector(self._episode.env))
        self._heard = policy
        return choose(policy.act, [self._episode], 1 if isinstance(policy, EpisodicActor) else ROWS)[0]

    def step(self, action: Array) -> ControlStep:
        """Take a control step; the reward's terms are what `info` holds under names that begin with `reward`."""
        markers, touched = self._touch()
        reward = self._episode.step(action)
        if self._model is not None:
            self._data().xfrc_applied[touched] = 0.0
        markers = [*markers, *self.tendons()]
        terms = {}
        for name, value in (self._episode.info or {}).items():
            number = as_number(value)
            if isinstance(name, str) and name.startswith("reward") and number is not None:
                terms[name.removeprefix("reward_")] = float(number[0])
        return ControlStep([self.frame()], reward, terms, markers)

    def _touch(self) -> tuple[list[Marker], list[int]]:
        """Push and pull as the user asks; return what shows it, and the bodies that are touched."""
        if self._model is None:
            return [], []
        markers, touched, data = list[Marker](), list[int](), self._data()
        if self._push_steps > 0 and self._target is not None:
            body = self._model.body(self._target.body).id
            data.xfrc_applied[body, :3] = self._force
            direction = self._force / max(float(np.linalg.norm(self._force)), 1e-12)
            markers = arrow(np.array(data.xpos[body]), direction, 0.25 * float(self._model.stat.extent))
            touched.append(body)
            self._push_steps -= 1
        if self._grip is not None:
            data.xfrc_applied[self._grip.body] += self._grip.wrench(self._model, data)
            markers.append(self._grip.line(self._model, data))
            touched.append(self._grip.body)
        return markers, touched

    def scene(self, content: dict[str, object]) -> bytes:
        """Return the message that describes the shapes, or that there will be pictures."""
        return pack("scene", content) if self._model is None else scene_message(self._model, content)

    @property
    def pushable(self) -> bool:
        """Whether there is a robot to push."""
        return self._target is not None

    @property
    def throwable(self) -> bool:
        """Whether balls can be thrown: they would have to be part of the environment's own model."""
        return False

    def push(self, x: float, y: float, strength: float) -> None:
        """Push the robot for PUSH_SECONDS, or a step where that is longer."""
        if self._target is not None:
            self._force = unit_vector(x, y, self._target.axes) * self._target.force * strength
            self._push_steps = max(1, round(PUSH_SECONDS / self._seconds))

    def grab(self, origin: np.ndarray, direction: np.ndarray) -> None:
        """Take hold of what a line of sight meets, or pull what is held to it."""
        if self._model is None:
            raise GantryError("only MuJoCo models can be held")
        if self._grip is None:
            self._grip = Grip(self._model, self._data(), origin, direction)
        self._grip.pull(origin, direction)

    def release(self) -> None:
        """Let go of what is held."""
        self._grip = None

    def tendons(self) -> Sequence[Marker]:
        """Return the model's tendons as lines."""
        return tendon_lines(self._model, self._data()) if self._model is not None else ()

    def throw(self, x: float, y: float) -> None:
        """Refuse to throw a ball."""
        raise GantryError("balls can be thrown in Gantry's own environments only")

    def physics(self) -> list[Quantity]:
        """Return the physical quantities that can be changed: factors of what the model holds."""
        return [Quantity(name, value, COMMON[name]) for name, value in self._scales.items()]

    def set_physics(self, name: str, value: float) -> None:
        """Change a physical quantity in the environment's model."""
        if name not in self._scales or self._model is None:
            raise GantryError(f"unknown physical parameter {name!r}{nearest(name, self._scales)}")
        COMMON[name].check(name, value)
        self._scales[name] = value
        for field in SCALED_FIELDS[name]:
            array = getattr(self._model, field)
            if field == "geom_friction":
                array[:, 0] = self._usual[field][:, 0] * value
            else:
                array[:] = self._usual[field] * value
        with one_line(self._env_id, "under changed physics"):
            mujoco.mj_setConst(self._model, mujoco.MjData(self._model))

    def close(self) -> None:
        """Close the environment."""
        self._episode.env.close()
