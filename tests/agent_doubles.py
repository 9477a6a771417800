"""Small vector environments with known optimal behavior, for the tests of agents."""

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


def scattered(seed, row, count):
    """A pseudo-random number in [-1, 1) that depends on nothing but its arguments."""
    wave = np.sin(seed * 12.9898 + row * 78.233 + count * 37.719) * 43758.5453
    return 2.0 * (wave - np.floor(wave)) - 1.0


class Forgetful(VectorEnv):
    """Reward for repeating the observed spot: -(action - spot)², or 1 for its sign if `discrete`; no state to save.

    Observations: the spot, and the share of the episode that has passed. Episodes have `length` steps and end in
    truncation, or in termination if `terminal`. `final_obs` comes as one array, or as Gymnasium's own array of arrays.
    """

    def __init__(
        self, num_envs=16, length=5, mode=SAME_STEP, discrete=False, terminal=False, objects=False, offset=0.0
    ):
        self.num_envs, self.length, self.mode, self.terminal, self.objects = num_envs, length, mode, terminal, objects
        self.discrete, self.offset = discrete, offset
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.single_action_space = (
            gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rows = np.arange(num_envs)
        self.log = []
        self.fail_at = None
        self.poison_at = None
        self.calls = 0

    def _observe(self):
        return np.stack([scattered(self.seed, self.rows, self.counts), self.times / self.length], 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask")
        if mask is None:
            mask = np.ones(self.num_envs, bool)
            self.counts, self.times = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
            self.waiting = np.zeros(self.num_envs, bool)
        if seed is not None:
            self.seed = seed
        self.counts[mask] += 1
        self.times[mask] = 0
        self.waiting[mask] = False
        return self._observe(), {}

    def step(self, actions):
        assert actions.shape == self.action_space.shape
        assert actions.dtype == self.action_space.dtype
        self.calls += 1
        if self.fail_at == self.calls:
            raise KeyboardInterrupt
        spot = self._observe()[:, 0]
        if self.discrete:
            rewards = (actions == (spot > 0)).astype(np.float64)
        else:
            rewards = -((actions[:, 0] - spot).astype(np.float64) ** 2)
        rewards += self.offset
        waiting = self.waiting.copy()
        self.counts += 1
        self.times += 1
        self.times[waiting] = 0
        rewards[waiting] = 0.0
        if self.poison_at == self.calls:
            rewards[0] = np.nan
        ended = (self.times >= self.length) & ~waiting
        observation, infos = self._observe(), {}
        self.waiting[:] = ended & (self.mode == NEXT_STEP)
        if self.mode == SAME_STEP and ended.any():
            infos = {"final_obs": observation.copy(), "_final_obs": ended, "success": self.rows % 2 == 0}
            if self.objects:
                final = np.full(self.num_envs, None, object)
                for row in np.flatnonzero(ended):
                    final[row] = observation[row]
                infos["final_obs"] = final
            self.counts[ended] += 1
            self.times[ended] = 0
            observation = self._observe()
        self.log.append((rewards.copy(), ended.copy(), waiting))
        nothing = np.zeros(self.num_envs, bool)
        return observation, rewards, *((ended, nothing) if self.terminal else (nothing, ended)), infos


class Spot(Forgetful):
    """`Forgetful` with a state that can be saved and restored."""

    def get_state(self):
        return {
            "counts": self.counts.copy(),
            "times": self.times.copy(),
            "waiting": self.waiting.copy(),
            "seed": np.array(self.seed, np.uint64),
        }

    def set_state(self, state):
        self.counts, self.times = state["counts"].copy(), state["times"].copy()
        self.waiting = state["waiting"].copy()
        self.seed = int(state["seed"])


class Wage(VectorEnv):
    """Reward 1 per step for `length` steps, with constant observations: values are geometric sums."""

    def __init__(self, num_envs=8, length=5, terminal=False):
        self.num_envs, self.length, self.terminal = num_envs, length, terminal
        self.metadata = {"autoreset_mode": SAME_STEP}
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.times = np.arange(self.num_envs) % self.length
        return np.ones((self.num_envs, 1), np.float32), {}

    def step(self, actions):
        self.times += 1
        ended = self.times >= self.length
        self.times[ended] = 0
        observation = np.ones((self.num_envs, 1), np.float32)
        nothing = np.zeros(self.num_envs, bool)
        infos = {"final_obs": observation.copy(), "_final_obs": ended} if ended.any() else {}
        flags = (ended, nothing) if self.terminal else (nothing, ended)
        return observation, np.ones(self.num_envs), *flags, infos


class Switches(Wage):
    """The share of switches that are set as they should be: two of three positions each, or on and off."""

    def __init__(self, binary=False):
        super().__init__(16)
        self.wanted = np.array([1, 0, 1])
        self.single_action_space = gymnasium.spaces.MultiBinary(3)
        if not binary:
            self.single_action_space = gymnasium.spaces.MultiDiscrete([3, 3, 3], start=[0, -1, 1])
            self.wanted = np.array([2, -1, 2])
        self.action_space = batch_space(self.single_action_space, 16)

    def step(self, actions):
        assert actions in self.action_space
        observation, _, *others = super().step(actions)
        return observation, (actions == self.wanted).mean(axis=1), *others
