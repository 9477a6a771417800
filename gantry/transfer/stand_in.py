"""A stand-in for reality: a cart-pole that differs from the model in ways that training never sees.

RK4 at 1 ms instead of two implicit steps of 10 ms; a heavier cart, a longer and heavier pole; dry and viscous friction
in rail and hinge; a motor carriage with 5 mm of play to either side (backlash); commands that arrive 32 ms late, no
whole number of control steps; noise on every sensor. None of these is an option: as with a robot on a bench, one can
only observe and act. The model can express the masses, the length, the latency and roughly the rail's friction, and
none of the rest.

Importing this module registers `gantry/CartPoleStandIn-v0`, so that policies can be scored on it, and for comparison
trained on it: `gantry evaluate`, `gantry train gantry.transfer.stand_in:gantry/CartPoleStandIn-v0`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from gantry.envs.components import Component
from gantry.envs.domain_randomization import PhysicalParameter
from gantry.envs.features import cos_sin
from gantry.envs.random_streams import RandomStreams
from gantry.envs.registry import register_task
from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.state import State
from gantry.envs.tasks.cart_pole import FEATURES, POSITION, SINE, VELOCITY, CartPole
from gantry.types import Array, Numeric, Observation

ENV_ID = "gantry/CartPoleStandIn-v0"
STEPS = 20
"""Physics steps of 1 ms in a control step of 20 ms."""
LATENCY = 32
"""Physics steps until a command arrives at the motor: more than one control step, and less than two."""
NOISE = np.array([0.003, 0.008, 0.008, 0.03, 0.08])
"""Standard deviation of the noise on each observation, in its unit."""
SEED, COUNT, WAITING = 0, 1, 2
"""Columns of `userdata`: the seed of an episode's noise, control steps so far, and the command that arrives next."""


class CartPoleStandIn(CartPole):
    """Swing up and balance a real cart-pole, or what stands in for one.

    Observations and actions are those of `gantry/CartPoleSwingUp-v0`; the reward is that of the true state.
    """

    model_file: ClassVar[str] = "cart_pole_stand_in.xml"
    decimation: ClassVar[int] = STEPS
    physics: ClassVar[Mapping[str, PhysicalParameter]] = {}
    common_physics: ClassVar[Mapping[str, PhysicalParameter]] = {}

    def __init__(self) -> None:
        super().__init__(swing_up=True)
        self.observation_components: Sequence[Component] = FEATURES

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Start hanging, almost at rest."""
        position, velocity = 0.01 * random.normal(2), 0.01 * random.normal(2)
        state.qpos[env_ids, 0], state.qpos[env_ids, 2] = position[:, 0], position[:, 1] + np.pi
        state.qvel[env_ids, 0], state.qvel[env_ids, 2] = velocity[:, 0], velocity[:, 1]
        state.userdata[env_ids, SEED] = random.bits(1)[:, 0] >> np.uint64(11)
        state.userdata[env_ids, COUNT:] = 0.0

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Simulate a control step, in which the command of the step before arrives."""
        chosen: slice | np.ndarray = slice(None) if mask is None else mask
        state.step(mask, LATENCY - STEPS, self._stage)
        state.ctrl[chosen, 0] = state.userdata[chosen, WAITING]
        state.userdata[chosen, WAITING] = control[chosen, 0]
        state.userdata[chosen, COUNT] += 1.0
        state.step(mask, 2 * STEPS - LATENCY, self._stage)

    def features(self, state: State) -> np.ndarray:
        """Return x, cos θ, sin θ, ẋ, θ̇ of cart and pole, then the noise on each: (n, 10)."""
        features = np.empty((len(state.qpos), 10), np.float32)
        features[:, POSITION] = state.qpos[:, 0] + state.qpos[:, 1]
        features[:, 1], features[:, SINE] = cos_sin(state.qpos[:, 2], np.float32)
        features[:, VELOCITY] = state.qvel[:, 0] + state.qvel[:, 1]
        features[:, 4] = state.qvel[:, 2]
        seeds, counts = state.userdata[:, SEED], state.userdata[:, COUNT]
        streams = RandomStreams(seeds.astype(np.uint64), counts.astype(np.int64))
        features[:, 5:] = NOISE * streams.normal(5)
        return features

    def observation(self, features: np.ndarray) -> Observation:
        """Return what the sensors read, (..., 5)."""
        space = self.observation_space
        return np.clip(features[..., :5] + features[..., 5:], space.low, space.high)  # type: ignore[attr-defined]

    def drawn_point(self, features: Numeric) -> Numeric:
        """Return the tip of the pole, as the model has it, (..., 3) in m."""
        return super().drawn_point(features[..., :5])


register_task(ENV_ID, CartPoleStandIn, max_episode_steps=500, summary="a cart-pole that stands in for a real one")


class StandInRobot:
    """The stand-in as a robot: observe, act, and nothing else (see `gantry.transfer.robot.RealRobot`).

    Args:
        seed: of its initial states and noise; each `reset` begins another episode.
    """

    rate = 50.0
    env_id = "gantry/CartPoleSwingUp-v0"

    def __init__(self, seed: int = 0) -> None:
        self._simulator: Simulator = make_simulator(ENV_ID, 1, max_episode_steps=None)
        self._seed: int | None = seed
        self._action = np.zeros((1, 1), np.float32)
        self.reward = 0.0
        """The task's reward of the last step, which a real robot cannot tell."""

    def reset(self) -> None:
        """Let the pole hang, almost at rest."""
        self._simulator.reset(seed=self._seed, options={"reset_mask": np.ones(1, bool)})
        self._seed = None
        self._action[:] = 0.0

    def observe(self) -> Array:
        """Return what the sensors read, (5,)."""
        return np.asarray(self._simulator.observe(0))

    def act(self, action: Array) -> None:
        """Send a command, (1,)."""
        self._action[0] = action

    def advance(self) -> None:
        """Let one control step pass."""
        self.reward = float(np.asarray(self._simulator.step(self._action)[1])[0])
