"""A task in Gantry's simulator, as the viewer shows it.

Until somebody interferes, an episode is the one that `gantry evaluate` scores, bit for bit. The first ball, and the
first change of physics, move it into another simulator with balls or variable physics, in the very state that it is
in.
"""

from collections.abc import Sequence

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode

from gantry.agents.protocol import Controller, EpisodicActor
from gantry.envs.capabilities import Disturbable, declared_physics, drawing
from gantry.envs.components import Component
from gantry.envs.disturbances import BALLS, PUSH_SECONDS, Disturbance, has_balls
from gantry.envs.domain_randomization import WITHOUT_EFFECT, PhysicalParameter
from gantry.envs.rendering.scene import Marker
from gantry.envs.reward_design import shown_reward
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError, nearest
from gantry.film.plan_overlay import plan_recorder, policy_markers
from gantry.runs.environments import one_line, open_env
from gantry.runs.episodes import step_limit
from gantry.runs.skills.environment import SkillsEnv
from gantry.runs.teams import controller_in
from gantry.types import Array, Json, Options, Space
from gantry.view.grip import Grip, tendon_lines
from gantry.view.scene import poses, scene_message
from gantry.view.source import ControlStep, Frame, Quantity, arrow, unit_vector, usual_target

STATE = (
    "time", "qpos", "qvel", "act", "ctrl", "qacc_warmstart", "userdata", "mocap_pos", "mocap_quat", "eq_active",
)  # fmt: skip
"""What a simulation takes with it into a model with more bodies."""
SHAPES = ("geom_size", "geom_pos", "geom_quat", "site_pos")
"""Fields of a model on which its picture depends, and that physics may change."""


class SimulatedSource:
    """An episode of a task; see `Source`.

    Args:
        env_id: its id.
        options: its options.
        max_steps: steps after which an episode is cut; None: as `evaluate` does.
    """

    drawn = "scene"

    def __init__(self, env_id: str, options: Options, max_steps: int | None = None) -> None:
        self._env_id, self._options = env_id, dict(options)
        self._own_disturbance = self._options.get("disturb")
        self.scene_version = 0
        self.ended = True
        self._shapes = b""
        self._within: list[Frame] = []
        self._plans: Sequence[Marker] = ()
        self._heard: Controller | None = None
        self._balls_thrown, self._push_parts = 0, -1
        self._grip: Grip | None = None
        self._touched = False
        self._force = np.zeros(3)
        self._open(self._options)
        self._look()
        self._limit = step_limit(max_steps, self._env.max_episode_steps)
        self._declared = self._quantities()
        self.action_space: Space = self.vector.single_action_space
        acted = self.vector if isinstance(self.vector, SkillsEnv) else self._env.task
        self.action_components: Sequence[Component] = acted.action_components

    def _open(self, options: Json) -> None:
        self.vector = open_env(self._env_id, 1, options, autoreset_mode=AutoresetMode.NEXT_STEP)
        env = self.vector.unwrapped
        assert isinstance(env, Simulator)
        self._env, task = env, env.task
        # Where balls are there for the user to throw, nothing else throws them.
        self._automatic = env.state.disturber if options.get("disturb") == self._own_disturbance else None
        env.state.disturber = self._disturb
        env.state.watcher = lambda: self._within.append(self.frame())
        target = task.disturbance_target if isinstance(task, Disturbable) else usual_target(env.model)
        self._target = target
        self._seconds_a_part = float(env.model.opt.timestep) * (task.motor_decimation or task.decimation)
        self._balls: Disturbance | None = None
        if target is not None and has_balls(env.model):
            self._balls = Disturbance("balls", target, env.model, self._seconds_a_part)
        self._heard = None

    def _quantities(self) -> dict[str, PhysicalParameter]:
        """Return the physical quantities that can be changed here."""
        task = self._env.task
        declared = declared_physics(task)
        model, space = task.load_model(), self._env.single_observation_space
        missing = {name for name, lacks in WITHOUT_EFFECT.items() if lacks(model)}
        if not (isinstance(space, gymnasium.spaces.Box) and space.dtype is not None and space.dtype.kind == "f"):
            missing.add("sensor_noise")
        return {name: each for name, each in declared.items() if name not in missing}

    def begin(self, seed: int) -> Frame:
        """Begin the episode of a seed."""
        self._observations, _ = self.vector.reset(seed=seed)
        self.ended, self._steps, self._push_parts, self._heard, self._grip = False, 0, -1, None, None
        self._within.clear()
        self._plans = ()
        if self._env.physics_infos():
            self._look()
        return self.frame()

    def _look(self) -> None:
        """Take over the model as it is now, and notice whether its picture has changed."""
        self._model = self._env.batch.get_model(0)
        self._data = mujoco.MjData(self._model)
        self._felt = mujoco.MjData(self._model)
        with one_line(self._env_id, "to draw itself"):
            self._picture = drawing(self._env.task).picture(self._model)
        self._picture_data = mujoco.MjData(self._picture)
        shapes = b"".join(getattr(self._picture, field).tobytes() for field in SHAPES)
        if shapes != self._shapes:
            self._shapes = shapes
            self.scene_version += 1

    def frame(self) -> Frame:
        """Return the present instant."""
        mujoco.mj_setState(self._model, self._data, self._env.batch.state[0], mujoco.mjtState.mjSTATE_INTEGRATION)
        placed = self._picture_data
        placed.qpos[:] = self._data.qpos
        placed.mocap_pos[:], placed.mocap_quat[:] = self._data.mocap_pos, self._data.mocap_quat
        mujoco.mj_kinematics(self._picture, placed)
        return Frame(float(self._env.state.time[0]), poses(placed))

    def choose(self, policy: Controller) -> Array:
        """Return the policy's action, and keep what it plans for the picture."""
        planner = plan_recorder(policy)
        if planner is not None:
            planner.keep_record = True
        if isinstance(policy, EpisodicActor) and policy is not self._heard:
            policy.begin(self.vector)
        self._heard = policy
        policy = controller_in(self.vector, policy)
        action: Array = policy.act(self._observations)[0]
        self._plans = policy_markers(policy, self._env, self._env_id, self._observations)
        return action

    def step(self, action: Array) -> ControlStep:
        """Take a control step."""
        plans, self._plans = self._plans, ()
        self._observations, rewards, terminated, truncated, infos = self.vector.step(np.asarray(action)[None])
        self._steps += 1
        self.ended = bool(terminated[0] or truncated[0]) or self._steps >= self._limit
        frames = [*self._within, self.frame()]
        self._within.clear()
        with one_line(self._env_id, "to draw itself"):
            markers = [*plans, *drawing(self._env.task).markers(self._data), *self._touch_markers(), *self.tendons()]
        reward, terms = shown_reward(rewards, infos)
        elapsed = max(int(infos.get("elapsed_steps", (1,))[0]), 1)
        terms = {name: term / elapsed for name, term in terms.items()}  # of a skill, the mean of its steps
        return ControlStep(frames, reward, terms, markers, elapsed)

    def scene(self, content: dict[str, object]) -> bytes:
        """Return the message that describes the shapes."""
        return scene_message(self._picture, content)

    # Interference

    @property
    def pushable(self) -> bool:
        """Whether there is a robot to push."""
        return self._target is not None

    @property
    def throwable(self) -> bool:
        """Whether balls can be thrown."""
        return isinstance(self._env.task, Disturbable)

    def push(self, x: float, y: float, strength: float) -> None:
        """Push the robot for PUSH_SECONDS."""
        if self._target is not None:
            self._force = unit_vector(x, y, self._target.axes) * self._target.force * strength
            self._push_parts, self._touched = max(1, round(PUSH_SECONDS / self._seconds_a_part)), True

    def grab(self, origin: np.ndarray, direction: np.ndarray) -> None:
        """Take hold of what a line of sight meets, or pull what is held to it."""
        if self._grip is None:
            self._grip, self._touched = Grip(self._model, self._feel(), origin, direction), True
        self._grip.pull(origin, direction)

    def release(self) -> None:
        """Let go of what is held."""
        self._grip = None

    def _feel(self) -> mujoco.MjData:
        """Return the present state with positions and inertias computed, apart from what pictures are drawn from."""
        mujoco.mj_setState(self._model, self._felt, self._env.batch.state[0], mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_fwdPosition(self._model, self._felt)
        return self._felt

    def tendons(self) -> Sequence[Marker]:
        """Return the model's tendons as lines."""
        return tendon_lines(self._model, self._feel()) if self._model.ntendon else ()

    def throw(self, x: float, y: float) -> None:
        """Throw a ball."""
        if not self.throwable:
            raise GantryError("no balls can be thrown in this environment")
        if self._balls is None:
            self._move({**self._options, "disturb": "balls"})
        assert self._balls is not None
        assert self._target is not None
        start = -unit_vector(x, y, self._target.axes)
        self._balls.throw(self._env.batch, np.arange(1), np.array([self._balls_thrown % BALLS]), start[None])
        self._balls_thrown += 1

    def physics(self) -> list[Quantity]:
        """Return the physical quantities that can be changed."""
        now = self._env.physics_infos().get("physics", {})
        return [
            Quantity(name, float(now[name][0]) if name in now else each.default, each)
            for name, each in self._declared.items()
        ]

    def set_physics(self, name: str, value: float) -> None:
        """Change a physical quantity; from now on all of them stay as they are."""
        if name not in self._declared:
            raise GantryError(f"unknown physical parameter {name!r}{nearest(name, self._declared)}")
        if choices := self._declared[name].choices:  # a slider passes over what lies between them
            value = min(choices, key=lambda choice: abs(choice - value))
        self._declared[name].check(name, value)
        if not self._declared.keys() <= self._env.physics_infos().get("physics", {}).keys():
            values = {each.name: each.value for each in self.physics()}
            room = {"motor_delay": self._declared["motor_delay"].high} if "motor_delay" in values else {}
            self._move({**self._options, "physics": {**values, **room}})
            self._write(values)
        self._write({name: value})
        self._look()

    def _write(self, values: dict[str, float]) -> None:
        state = self._env.get_state()
        for name, value in values.items():
            state[f"physics/{name}"][:] = value
        self._env.set_state(state)

    def _move(self, options: Json) -> None:
        """Go on in a new simulator with other options, from the present state."""
        old = self._env
        old.state.watcher = old.state.disturber = None
        before = old.get_state()
        self._open(options)
        self._options, self._grip = options, None
        new = self._env
        new.reset(seed=0)
        after = new.get_state()
        if before["simulation"].shape != after["simulation"].shape:
            for field in STATE:
                theirs, ours = old.batch.bind(field), new.batch.bind(field)
                ours[(slice(None), *(slice(size) for size in theirs.shape[1:]))] = theirs
            after["simulation"] = new.batch.state.copy()
        fitting = {name: each for name, each in before.items() if name in after and each.shape == after[name].shape}
        new.set_state({**after, **fitting})
        old.close()
        self._look()

    def _disturb(self, mask: np.ndarray | None) -> None:
        """Before each part of a control step: what the run itself asks for, and the user's push and pull."""
        forces = self._env.batch.bind("xfrc_applied")[0]
        if self._touched:
            forces[:] = 0.0
        if self._automatic is not None:
            self._automatic(mask)
        self._push_parts = max(self._push_parts - 1, -1)
        if self._push_parts >= 0 and self._target is not None:
            forces[self._env.model.body(self._target.body).id, :3] += self._force
        if self._grip is not None:
            forces[self._grip.body] += self._grip.wrench(self._model, self._feel())
        self._touched = self._push_parts >= 0 or self._grip is not None

    def _touch_markers(self) -> list[Marker]:
        """Return the arrow that shows the push, and the line that shows the pull."""
        markers = [] if self._grip is None else [self._grip.line(self._model, self._feel())]
        if self._push_parts >= 0 and self._target is not None:
            body = mujoco.mj_name2id(self._picture, mujoco.mjtObj.mjOBJ_BODY, self._target.body)
            placed, extent = self._picture_data, float(self._model.stat.extent)
            point = placed.xpos[body] + placed.xmat[body].reshape(3, 3) @ np.array(self._target.aim)
            direction = self._force / max(float(np.linalg.norm(self._force)), 1e-12)
            markers += arrow(point, direction, 0.25 * extent)
        return markers

    def close(self) -> None:
        """Close the environment."""
        self._env.state.watcher = self._env.state.disturber = None
        self.vector.close()
