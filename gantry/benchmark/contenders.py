"""Who is compared: our agents, and the algorithms of stable-baselines3 and of SBX, by name.

`ppo`              our agent, with its recipe
`sb3:ppo`          stable-baselines3 as its users run it: the zoo's settings, single environments in one process
`sb3-batched:ppo`  stable-baselines3 at its best: all environments in one batch where Gantry simulates them, and one of
                   PyTorch's threads
`sbx:ppo`          the same algorithms in JAX, with its default settings
"""

import dataclasses
import importlib.util

import gymnasium

from gantry.agents import AGENTS, agent_class
from gantry.errors import GantryError, nearest
from gantry.types import Space

SB3 = {"a2c": "A2C", "ddpg": "DDPG", "dqn": "DQN", "ppo": "PPO", "sac": "SAC", "td3": "TD3"}
CONTRIBUTED = {"recurrent_ppo": "RecurrentPPO", "tqc": "TQC", "trpo": "TRPO", "qrdqn": "QRDQN"}
SBX = {"ppo": "PPO", "sac": "SAC", "td3": "TD3", "ddpg": "DDPG", "dqn": "DQN", "tqc": "TQC", "crossq": "CrossQ"}
LIBRARIES = {"sb3": SB3 | CONTRIBUTED, "sb3-batched": SB3 | CONTRIBUTED, "sbx": SBX}
"""Library → its algorithms → the names of their classes."""
NEED_BOX = frozenset({"ddpg", "td3", "sac", "tqc", "crossq"})
NEED_DISCRETE = frozenset({"dqn", "qrdqn", "q-learning"})
"""Algorithms that handle one kind of actions only."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """An algorithm and the library that it is from."""

    library: str
    """`gantry` for our own."""
    algorithm: str

    @property
    def module(self) -> str:
        """The package that its class is imported from."""
        if self.library == "sbx":
            return "sbx"
        return "sb3_contrib" if self.algorithm in CONTRIBUTED else "stable_baselines3"

    @property
    def same_algorithm(self) -> str:
        """What the algorithm is called in every library."""
        return self.algorithm.replace("_", "-")

    def handles(self, actions: Space) -> bool:
        """Return whether the algorithm is made for such actions."""
        if isinstance(actions, gymnasium.spaces.Box):
            return self.algorithm not in NEED_DISCRETE
        return self.algorithm not in NEED_BOX and (
            isinstance(actions, gymnasium.spaces.Discrete) or self.algorithm not in NEED_DISCRETE
        )

    def check(self) -> None:
        """Make sure that it can be run here.

        Raises:
            GantryError: its package is not installed.
        """
        if self.library == "gantry":
            agent_class(self.algorithm)
        elif importlib.util.find_spec(self.module) is None:
            extra = "sbx" if self.library == "sbx" else "baselines"
            raise GantryError(
                f"{self.library}:{self.algorithm} needs {self.module.replace('_', '-')}: "
                f"pip install 'gantry-rl[{extra}]'"
            )


def contender(name: str) -> Contender:
    """Return the contender of a name, such as `ppo` or `sb3:ppo`, in upper or lower case.

    Raises:
        GantryError: there is none.
    """
    library, separator, algorithm = name.lower().rpartition(":")
    if not separator:
        if algorithm not in AGENTS:
            raise GantryError(f"there is no agent {name!r}{nearest(algorithm, AGENTS)}")
        return Contender("gantry", algorithm)
    if library not in LIBRARIES:
        raise GantryError(f"there is no library {library!r}{nearest(library, LIBRARIES)}")
    if algorithm not in LIBRARIES[library]:
        raise GantryError(f"{library} has no algorithm {algorithm!r}{nearest(algorithm, LIBRARIES[library])}")
    return Contender(library, algorithm)
