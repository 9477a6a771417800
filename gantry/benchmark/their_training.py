"""The other side of a benchmark: algorithms of stable-baselines3 and of SBX, with the settings of SB3's zoo."""

import functools
import importlib
import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from gantry.agents.protocol import Controller
from gantry.benchmark.checkpoints import Checkpoints
from gantry.benchmark.contenders import LIBRARIES, Contender, contender
from gantry.benchmark.plan import Cell
from gantry.envs.registry import is_task, registered_id
from gantry.runs.episodes import Act, Begin
from gantry.runs.evaluate import Evaluation, evaluate
from gantry.runs.seeds import Purpose, environment_seed
from gantry.types import Json

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv
    from stable_baselines3.common.vec_env import VecEnv

SETTINGS = "zoo_settings.json"
DEFAULT_STEPS = 1_000_000
"""Steps that schedules run over where neither the budget nor the zoo says."""
HARNESS = ("n_envs", "n_timesteps", "policy", "normalize", "noise_type", "noise_std")
"""Settings of the zoo that are not the algorithm's own."""


@functools.cache
def _zoo() -> Json:
    content: Json = json.loads((importlib.resources.files("gantry.benchmark") / SETTINGS).read_text(encoding="utf-8"))
    return content


def zoo_settings(env_id: str, who: Contender) -> tuple[Json, str]:
    """Return the settings of an algorithm in an environment, and where they are from.

    The zoo's for the environment, or for the one that comes closest to it (`stands_for` in the file); else the
    library's defaults. `sb3-batched` takes better ones where a search found some. SBX is run with its defaults.
    """
    zoo, name = _zoo(), registered_id(env_id)
    if who.library == "sbx":
        return {}, "SBX's default settings"
    best = zoo["best_found"].get(who.algorithm, {})
    if who.library == "sb3-batched" and name in best:
        return dict(best[name]), "the best that a search found"
    of_algorithm = zoo["settings"].get(who.algorithm, {})
    like = zoo["stands_for"].get(name, name)
    if like in of_algorithm:
        return dict(of_algorithm[like]), "the zoo's" if like == name else f"the zoo's for {like}"
    return dict(of_algorithm.get("default", {})), "the library's default settings"


class TheirTraining:
    """An algorithm of another library and its training environments.

    Args:
        cell: what to train.
        folder: the cell's, in which nothing is written: their files hold pickles.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        self._cell = cell
        who = contender(cell.algorithm)
        self.settings, self.note = zoo_settings(cell.env_id, who)
        self.env_options: Json = dict(cell.env_options)
        self.num_envs = int(self.settings.get("n_envs", 1))
        self._batched = who.library == "sb3-batched"
        if self._batched:
            import torch

            torch.set_num_threads(1)
        self._env = self._make_env()
        kind = getattr(importlib.import_module(who.module), LIBRARIES[who.library][who.algorithm])
        settings = _constructor_settings(self.settings, self._env.action_space)
        policy = _policy_name(self.settings, who, self._env.observation_space)
        self._remembers = "Lstm" in policy
        self._model = kind(policy, self._env, seed=cell.seed, **settings)
        # The model has seeded its environments with its own seed, which those of the next training would share.
        self._env.seed(environment_seed("training", cell.seed, self.num_envs, cell.env_id))
        self._memory: Any = None

    def _make_env(self) -> "VecEnv":
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

        env: VecEnv
        if self._batched and is_task(self._cell.env_id):
            from gantry.envs.sb3 import make_sb3

            env = VecMonitor(make_sb3(self._cell.env_id, self.num_envs, **self.env_options))
        else:
            env = make_vec_env(self._cell.env_id, self.num_envs, env_kwargs=self.env_options)
        normalize = self.settings.get("normalize")
        if normalize:
            scaled = normalize if isinstance(normalize, dict) else {}
            env = VecNormalize(env, gamma=self.settings.get("gamma", 0.99), **scaled)
        return env

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return int(self._model.num_timesteps)

    def learn(self, checkpoints: Checkpoints) -> None:
        """Train until the budget or the schedules end."""
        from stable_baselines3.common.callbacks import BaseCallback

        class Check(BaseCallback):  # type: ignore[misc,unused-ignore]
            def _on_step(self) -> bool:
                return checkpoints(self.num_timesteps)

        total = self._cell.protocol.steps or int(self.settings.get("n_timesteps", DEFAULT_STEPS))
        self._model.learn(total, callback=Check())

    def evaluate(self, episodes: int, purpose: Purpose) -> Evaluation:
        """Play episodes with the deterministic policy."""
        begin = self._forget if self._remembers else None
        return evaluate(self._act, self._cell.env_id, episodes, 0, self.env_options, purpose, begin)

    def _forget(self, env: "VectorEnv") -> None:
        self._memory = None

    def _act(self, observations: np.ndarray) -> np.ndarray:
        from stable_baselines3.common.vec_env import VecNormalize

        seen = self._env.normalize_obs(observations) if isinstance(self._env, VecNormalize) else observations
        actions, self._memory = self._model.predict(seen, state=self._memory, deterministic=True)
        return actions

    def policy(self) -> Controller:
        """Return the deterministic policy, for a film."""
        return _RecurrentPolicy(self._act, self._forget) if self._remembers else _Policy(self._act)

    def save(self) -> None:
        """Save nothing."""

    def close(self) -> None:
        """Close the training environments."""
        self._env.close()


class _Policy:
    """A policy, from the function that acts."""

    def __init__(self, act: Act) -> None:
        self.act = act


class _RecurrentPolicy(_Policy):
    """One that must hear that episodes begin."""

    def __init__(self, act: Act, begin: Begin) -> None:
        super().__init__(act)
        self.begin = begin


def _policy_name(settings: Json, who: Contender, space: gymnasium.Space) -> str:
    name = str(settings.get("policy", "MlpPolicy"))
    if who.algorithm == "recurrent_ppo" and "Lstm" not in name:
        name = name.replace("Policy", "LstmPolicy")
    return name.replace("Mlp", "MultiInput") if isinstance(space, gymnasium.spaces.Dict) else name


def _constructor_settings(settings: Json, action_space: gymnasium.Space) -> Json:
    """Return the keyword arguments of an algorithm's class for the zoo's settings."""
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    result = {name: _falling(value) for name, value in settings.items() if name not in HARNESS}
    result["device"] = "cpu"
    if "policy_kwargs" in settings:
        networks = dict(settings["policy_kwargs"])
        if "activation_fn" in networks:
            networks["activation_fn"] = getattr(importlib.import_module("torch.nn"), networks["activation_fn"])
        result["policy_kwargs"] = networks
    if "noise_type" in settings:
        size = action_space.shape or (1,)
        kind = NormalActionNoise if settings["noise_type"] == "normal" else OrnsteinUhlenbeckActionNoise
        result["action_noise"] = kind(np.zeros(size), np.full(size, settings["noise_std"]))
    return result


def _falling(value: object) -> object:
    """Return a setting as SB3 takes it: {"linear": x} falls from x to 0 over the training."""
    if isinstance(value, dict) and set(value) == {"linear"}:
        return _linear(float(value["linear"]))
    return value


def _linear(initial: float) -> Callable[[float], float]:
    def schedule(progress_remaining: float) -> float:
        return initial * progress_remaining

    return schedule
