"""What every agent can do, and what some can do beside it, as protocols; `isinstance` can check the latter."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from gymnasium.vector import VectorEnv

from gantry.types import Array, Observation

if TYPE_CHECKING:
    from torch import Tensor

    from gantry.agents.models.calibration import ModelAccuracy
    from gantry.agents.mpc import PlanningRecord
    from gantry.agents.parts.checkpoint import Checkpoint
    from gantry.agents.parts.experience import Experience
    from gantry.agents.parts.networks import Activation
    from gantry.agents.parts.vector_stepper import VectorStepper
    from gantry.spaces.maps import Spaces

Metrics = dict[str, float]
"""Name → number, for one update."""
Callback = Callable[[Any, Metrics], bool | None]
"""Called with the agent and the metrics of each update; returning False stops learning."""


class Agent(Protocol):
    """Learns from a vector environment and acts in it."""

    stepper: "VectorStepper"
    """Steps the environment and counts; knows its id."""

    @property
    def name(self) -> str:
        """The id of the agent of which policy files are."""

    @property
    def config(self) -> "AgentConfig":
        """Its settings."""

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""

    @property
    def env(self) -> "VectorEnv | Spaces":
        """The environment it learns in, or the spaces alone of an agent that was loaded to act."""

    @property
    def checkpoint(self) -> "Checkpoint":
        """Gathers and restores the agent's whole state."""

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the action for one observation, or (k, *action shape) for a batch of k."""

    def learn(self, total_steps: int, callback: Callback | None = None) -> Self:
        """Learn until `total_steps` environment steps have been made in all."""


class AgentConfig(Protocol):
    """A dataclass of settings."""

    @property
    def num_envs(self) -> int:
        """Environments stepped at once."""


class PolicyConfig(Protocol):
    """The settings that the part `Policy` reads."""

    @property
    def hidden_sizes(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def activation(self) -> "Activation": ...  # noqa: D102
    @property
    def initial_log_std(self) -> float: ...  # noqa: D102
    @property
    def action_scaling(self) -> Literal["bounds", "none"]: ...  # noqa: D102
    @property
    def squash_actions(self) -> bool: ...  # noqa: D102
    @property
    def normalize_observation(self) -> bool: ...  # noqa: D102
    @property
    def device(self) -> Literal["cpu", "cuda"]: ...  # noqa: D102


class Optimizer(Protocol):
    """Moves some leaf tensors against their gradients."""

    parameters: "list[Tensor]"

    def step(self, gradients: "Sequence[Tensor]", learning_rate: float, scale: float = 1.0) -> None:
        """Move the parameters by one step, with the gradients multiplied by `scale` (clipping)."""


@runtime_checkable
class TeamEnv(Protocol):
    """A vector environment of robots: `team_size` neighbors act in the same world and begin together."""

    team_size: int


class AgentClass(Protocol):
    """The class of an agent: how to build one without knowing which algorithm it is."""

    __name__: str

    def __call__(
        self, env: "VectorEnv | Spaces", config: Any, /, *, seed: int = 0, env_seed: int | None = None
    ) -> Agent:
        """Build an agent that learns in `env`, or that acts in an environment of these spaces."""


@runtime_checkable
class Controller(Protocol):
    """Anything that chooses actions from observations: an agent, a feedback policy, or the playback of a plan."""

    def act(self, observation: Observation) -> Array:
        """Return actions (k, *action shape) for a batch of observations (k, *observation shape)."""


@runtime_checkable
class EpisodicActor(Protocol):
    """An agent that carries something from step to step, such as a plan, and so must hear that episodes begin."""

    def begin(self, env: VectorEnv) -> None:
        """Prepare for new episodes in all environments of `env`; called after `env.reset`, before `act`."""


@runtime_checkable
class ActionValued(Protocol):
    """An agent that estimates the value of each of its Discrete actions."""

    def action_values(self, observation: Observation) -> Array:
        """Return Q(s, ·): shape (A,) for one observation, or (k, A) for a batch of k."""


@runtime_checkable
class Attentive(Protocol):
    """An agent that may look back at past steps by attention."""

    @property
    def attention(self) -> Array | None:
        """How much the last action looked at each past step, (k, window + 1), the present one last; None: it cannot."""


@runtime_checkable
class PlanRecorder(Protocol):
    """A planning controller that can keep the model rollouts of its last planning step, for films."""

    keep_record: bool
    """Whether to keep them; does not change the actions."""
    record: "PlanningRecord | None"
    """The last planning step of environment 0; None before the first, or where its rollouts diverged."""
    action_repeat: int
    """Environment steps for which each planned action is held."""


@runtime_checkable
class PlanningAgent(Protocol):
    """An agent that acts by a planning controller."""

    @property
    def mpc(self) -> PlanRecorder:
        """The controller."""


@runtime_checkable
class LearnsFromExperience(Protocol):
    """An agent, or its replay, that can begin from transitions that others made."""

    def add_experience(self, experience: "Experience") -> None:
        """Add the transitions to what is learned from; they are not steps of learning."""


@runtime_checkable
class ReplayAgent(Protocol):
    """An agent that learns from a replay buffer."""

    @property
    def replay(self) -> LearnsFromExperience:
        """Collects transitions and samples minibatches."""


@runtime_checkable
class Tabular(Protocol):
    """An agent whose action values are a table, for Discrete observations and actions."""

    @property
    def table(self) -> Array:
        """Q(s, a): (S, A)."""

    @property
    def visits(self) -> Array:
        """How often each action was tried in each state: (S, A)."""


@runtime_checkable
class ModelLearner(Protocol):
    """An agent that learns a dynamics model, and measures how well it predicts new transitions."""

    accuracy: "list[ModelAccuracy]"
    """Accuracy before each of the last fits."""
