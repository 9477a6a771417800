"""What some agents can do beside acting and learning, as protocols that `isinstance` can check."""

from typing import Any, Protocol, runtime_checkable

from gymnasium.vector import VectorEnv
from numpy.typing import NDArray


@runtime_checkable
class Controller(Protocol):
    """Anything that chooses actions from observations: an agent, a feedback policy, or the playback of a plan."""

    def act(self, observation: Any) -> NDArray[Any]:
        """Return actions (k, *action shape) for a batch of observations (k, *observation shape)."""
        ...


@runtime_checkable
class EpisodicActor(Protocol):
    """An agent that carries something from step to step, such as a plan, and so must hear that episodes begin."""

    def begin(self, env: VectorEnv) -> None:
        """Prepare for new episodes in all environments of `env`; called after `env.reset`, before `act`."""
        ...


@runtime_checkable
class ActionValued(Protocol):
    """An agent that estimates the value of each of its Discrete actions."""

    def action_values(self, observation: Any) -> NDArray[Any]:
        """Return Q(s, ·): shape (A,) for one observation, or (k, A) for a batch of k."""
        ...
