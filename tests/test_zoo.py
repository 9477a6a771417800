"""Every agent in every kind of the zoo: train, stop, resume, evaluate, film and load, or one line that says why not."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from zoo import HUGE, KINDS, Walk, zoo_id

from gantry.agents import (
    AGENTS,
    A2CConfig,
    CEMConfig,
    DDPGConfig,
    DQNConfig,
    NESConfig,
    PlannerConfig,
    PPOConfig,
    QLearningConfig,
    RecurrentPPOConfig,
    ReinforceConfig,
    SACConfig,
    agent_class,
    load_agent,
)
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.agents.protocol import EpisodicActor
from gantry.errors import GantryError
from gantry.film import record as film
from gantry.machine.process_state import ProcessState, others_code
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.folder import Run
from gantry.runs.train import resume, train

CONTINUOUS = ("ddpg", "sac", "td3")
OFF_POLICY = {"num_envs": 2, "hidden_sizes": (4,), "batch_size": 4, "learning_starts": 4, "buffer_size": 64}
CONFIGS = {
    "a2c": A2CConfig(num_envs=2, rollout_steps=3, hidden_sizes=(4,)),
    "cem": CEMConfig(num_envs=4),
    "ddpg": DDPGConfig(**OFF_POLICY),
    "dqn": DQNConfig(**OFF_POLICY),
    "nes": NESConfig(num_envs=4),
    "planner": PlannerConfig(
        search=SearchConfig(horizon=3, population=8, iterations=1, elites=2),
        model=EnsembleConfig(ensemble_size=2, hidden_sizes=(4,), gradient_steps=5),
        initial_random_steps=8, fit_every=8,
    ),
    "ppo": PPOConfig(num_envs=2, rollout_steps=4, minibatch_size=8, epochs=1, hidden_sizes=(4,)),
    "q-learning": QLearningConfig(num_envs=2, report_steps=4),
    "recurrent-ppo": RecurrentPPOConfig(num_envs=2, rollout_steps=4, epochs=1, memory_size=4, hidden_sizes=(4,)),
    "reinforce": ReinforceConfig(num_envs=2, episodes=2, hidden_sizes=(4,)),
    "sac": SACConfig(**OFF_POLICY),
    "td3": DDPGConfig(**OFF_POLICY, twin_critics=True),
}  # fmt: skip


OFTEN = 32
"""One cell in so many is tested for agents other than PPO where slow tests are left out."""
OLDER = "perhaps it was made for an older Gym"
ALWAYS_REFUSED = {
    "ActionsDict": "actions must be|needs",
    "ActionsWhole": "actions must be|needs",
    "ColorsFirst": "cannot be filmed: .* array of uint8",
    "Countless": "of at most .* categories|is beyond",
    "Exits": r"failed in step\(\): SystemExit: 3",
    "FailsMake": "cannot make .* refused to make",
    "FailsReset": r"failed in reset\(\): .* refused to reset",
    "FailsStep": r"failed in step\(\): .* refused to step",
    "FailsSilently": r"failed in step\(\): Odd \(zoo.py",
    "OldReset": rf"failed in reset\(\): TypeError: it returns no pair .*{OLDER}",
    "FailsRender": "failed to draw itself: .* refused to render",
    "FloatPictures": "cannot be filmed: .* array of float64",
    "GraphObserved": "observations must be",
    "InfoNone": r"failed in reset\(\): .* not a dictionary",
    "MissionObserved": "in 'mission', observations must be|observations must be Discrete",
    "NoMetadata": "cannot make .* metadata to be dict",
    "NoNumbers": "observations must be",
    "NoPicture": "cannot be filmed: .* gives nothing",
    "NoPictures": "cannot be filmed: .* no render mode",
    "NoSeeds": OLDER,
    "OldStep": OLDER,
    "PicturesUnasked": "must take a render_mode",
    "RewardInf": "rewards that are NaN or infinite",
    "RewardNaN": "rewards that are NaN or infinite",
    "RewardNone": "its reward is None, not a number",
    "RewardSeveral": r"its reward is \[.*\], not a number",
    "RewardText": "its reward is one, not a number",
    "TextObserved": "observations must be",
    "TextPictures": "cannot be filmed: .* no render mode",
}
"""Kind → what the one line says, to whichever agent."""
REFUSED_IF_OBSERVED = {
    "InfObserved": "observations that are NaN or infinite",
    "NaNObserved": "observations that are NaN or infinite",
    "WrongShape": r"failed in step\(\): .* wrong shape",
}
"""The same for agents that see the kind's own observations."""


def refused(agent, kind):
    """What the one line says to an agent that cannot live in a kind, or None where it can."""
    acted, seen = KINDS[kind].action_space, KINDS[kind].observation_space
    if kind in ALWAYS_REFUSED:
        return ALWAYS_REFUSED[kind]
    if agent == "q-learning":
        if seen is not Walk.observation_space and not isinstance(seen, Discrete):
            return "observations must be Discrete"
        return None if isinstance(acted, Discrete) else "actions must be Discrete"
    if kind in REFUSED_IF_OBSERVED:
        return REFUSED_IF_OBSERVED[kind]
    if kind == "Unlike" and CONFIGS[agent].num_envs > 1:
        return "its copies must have the same spaces"
    if kind == "RewardHuge" and agent in CONTINUOUS:  # whose critics learn from rewards as they are
        return "the loss or its gradient is NaN or infinite"
    if agent in CONTINUOUS and acted is not Walk.action_space:
        if not isinstance(acted, Box):
            return "needs Box actions"
        return None if (np.abs([acted.low, acted.high]) < HUGE).all() else "finite bounds"
    if agent == "dqn" and not isinstance(acted, Discrete):
        return "needs Discrete actions"
    several = isinstance(acted, MultiDiscrete | MultiBinary)
    return "actions must be" if several and agent not in ("a2c", "ppo", "recurrent-ppo", "reinforce") else None


def cells():
    """Every agent and kind; all of PPO's and some of the others' in the quick tests."""
    for row, agent in enumerate(sorted(AGENTS)):
        for column, kind in enumerate(sorted(KINDS)):
            quick = agent == "ppo" or (row + column) % OFTEN == 0
            yield pytest.param(agent, kind, id=f"{agent}-{kind}", marks=() if quick else pytest.mark.slow)


class NoEncoder:
    """Takes the frames of a film, and writes nothing."""

    def __init__(self, path, fps, size):
        self.frames = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add(self, frame):
        assert frame.dtype == np.uint8
        self.frames += 1


@pytest.fixture
def _process():
    """Return the process to what it was before."""
    before = ProcessState.now()
    yield
    before.restore()
    others_code.theirs = None


def options_for(agent, kind):
    """Options by which an agent meets a kind's oddity, as far as this leaves the choice."""
    chosen = {}
    if KINDS[kind].action_space is Walk.action_space and agent in CONTINUOUS:
        chosen["actions"] = "continuous"
    if KINDS[kind].observation_space is Walk.observation_space and agent == "q-learning":
        chosen["observation"] = "count"
    return chosen


def live(agent, kind, folder):
    """Train, stop, resume, load, evaluate and film."""
    env_id, options, run, steps = zoo_id(kind), options_for(agent, kind), Run(folder), 24
    train(run, env_id, agent, CONFIGS[agent], steps, 0, options, say=lambda line: None)
    trained = resume(run, 2 * steps, say=lambda line: None)
    loaded = load_agent(run.folder)
    assert loaded.steps == trained.steps == 2 * steps
    if not isinstance(loaded, EpisodicActor):
        observation, _ = open_env(env_id, env_options=options).reset(seed=1)
        np.testing.assert_array_equal(loaded.act(observation), trained.act(observation))
    result = evaluate_agent(loaded, env_id, 3, env_options=options, max_steps=8)
    assert np.isfinite(result.score)
    assert result.cut == (3 if kind == "Endless" else 0)
    film.record(loaded, env_id, folder / "film.gif", env_options=options, max_steps=8, speed=3.0)


@pytest.mark.usefixtures("_process")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("agent", "kind"), list(cells()))
def test_every_agent_in_every_environment(agent, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "VideoWriter", NoEncoder)
    monkeypatch.setattr("os.fsync", lambda _: None)
    expected = refused(agent, kind)
    if expected is None:
        live(agent, kind, tmp_path / "run")
        return
    with pytest.raises(GantryError, match=expected) as raised:
        live(agent, kind, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("agent", sorted(AGENTS))
@pytest.mark.parametrize("env", ["zoo:zoo/FloatMax-v0", Walk()], ids=["id", "single"])
def test_agents_say_that_they_take_vector_environments(agent, env):
    with pytest.raises(GantryError, match=r"takes a vector environment, such as gantry.envs.make_vec\("):
        agent_class(agent)(env, CONFIGS[agent])
