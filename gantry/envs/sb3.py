"""The batched simulator as a stable-baselines3 `VecEnv`: SB3's agents train in all of its environments at once."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from gantry.envs.factory import make
from gantry.envs.random_streams import ENVS_PER_SEED, foreign_block
from gantry.envs.registry import canonical_id, is_task
from gantry.envs.simulator import Simulator, make_simulator
from gantry.errors import GantryError
from gantry.types import Infos, Observation

Observations = np.ndarray | dict[str, np.ndarray]


class SB3VecEnv(VecEnv):
    """A thin adapter: SB3 sees `num_envs` environments, one simulator steps them all.

    Where an episode ends, its info holds `terminal_observation`, `TimeLimit.truncated`, and the task's metrics, a
    metric `success` also under SB3's name `is_success`. What `get_attr`, `set_attr` and `env_method` reach is the
    simulator, which all environments share.

    Args:
        simulator: with SAME_STEP autoreset.
    """

    def __init__(self, simulator: Simulator) -> None:
        if simulator.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise GantryError("stable-baselines3 needs a simulator with autoreset_mode='SameStep'")
        self.simulator = simulator
        self._actions: np.ndarray | None = None
        super().__init__(simulator.num_envs, simulator.single_observation_space, simulator.single_action_space)

    def reset(self) -> Observations:
        """Begin new episodes everywhere, with the seeds that `seed()` set, if it did."""
        seeds = None if self._seeds[0] is None else [int(seed) for seed in self._seeds if seed is not None]
        observations, _ = self.simulator.reset(seed=seeds)
        self.reset_infos: list[Infos] = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the coming step, (n, ...)."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[Observations, np.ndarray, np.ndarray, list[Infos]]:
        """Step, and return observations, rewards (n,), whether episodes ended (n,), and one info per environment."""
        assert self._actions is not None, "call step_async() first"
        observations, rewards, terminations, truncations, infos = self.simulator.step(self._actions)
        dones = terminations | truncations
        per_env: list[Infos] = [{} for _ in range(self.num_envs)]
        if dones.any():
            final = infos["final_obs"]
            metrics = {key: value for key, value in infos.items() if np.shape(value) == (self.num_envs,)}
            metrics.pop("_final_obs")
            for index in np.flatnonzero(dones):
                per_env[index] = {
                    "terminal_observation": _one(final, index),
                    "TimeLimit.truncated": bool(truncations[index] and not terminations[index]),
                    **{name: values[index].item() for name, values in metrics.items()},
                }
                if "success" in metrics:
                    per_env[index]["is_success"] = per_env[index]["success"]
        return observations, rewards.astype(np.float32), dones, per_env

    def close(self) -> None:
        """Free the renderers."""
        self.simulator.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a frame (height, width, 3) per environment."""
        return [self.simulator.render_one(index) for index in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the simulator once for each of the environments `indices`."""
        value = getattr(self.simulator, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the simulator, which all environments share.

        Raises:
            GantryError: only some environments are named.
        """
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise GantryError("the environments of a batch share their attributes: set them for all of them at once")
        setattr(self.simulator, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the simulator once, and return its result for each of the environments `indices`."""
        result = getattr(self.simulator, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each environment: a batch has no wrappers around single environments."""
        return [False for _ in self._get_indices(indices)]

    def _get_indices(self, indices: int | Iterable[int] | None) -> Iterable[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else list(indices)


def _one(observations: Observation, index: np.intp) -> Observation:
    if isinstance(observations, dict):
        return {name: values[index] for name, values in observations.items()}
    return observations[index]


def make_sb3(env_id: str, num_envs: int = 1, seed: int | None = None, **settings: Any) -> VecEnv:
    """Make a stable-baselines3 `VecEnv`: the batched simulator of a task, or copies of any other environment.

    Around it SB3's `VecMonitor` brings returns and lengths of episodes into SB3's logs.

    Args:
        env_id: such as `gantry/CartPoleSwingUp-v0`, `CartPole-v1` or `module:Env-v0`.
        num_envs: number of environments.
        seed: of everything random in the environments; two seeds share no environment's random numbers.
        settings: of the simulator and of the task, or of the other environment.

    Raises:
        GantryError: the id is unknown, or a setting does not fit.
    """
    canonical = canonical_id(env_id)
    env: VecEnv
    if is_task(canonical):
        env = SB3VecEnv(make_simulator(canonical, num_envs, **settings))
    else:
        env = DummyVecEnv([lambda: make(canonical, **settings)] * num_envs)
    if seed is not None:
        env.seed(seed * ENVS_PER_SEED if is_task(canonical) else foreign_block(seed, num_envs))
    return env
