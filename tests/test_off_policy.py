"""What holds for every agent with a replay buffer."""

import dataclasses
import json
import math

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Forgetful, Spot, Wage
from agent_states import parameters, restore, trainer_state

from gantry.agents import CONFIGS, agent_class, default_config, load_agent, save_agent
from gantry.agents.ddpg import DDPG, DDPGConfig
from gantry.agents.dqn import DQN, DQNConfig
from gantry.agents.parts.networks import MLP
from gantry.agents.parts.td_targets import hard_update, polyak_update, td_target
from gantry.agents.sac import SAC, SACConfig
from gantry.errors import GantryError
from gantry.files import config_from_json, config_to_json
from gantry.machine import memory
from gantry.spaces.maps import Spaces

SMALL = {
    "num_envs": 16, "buffer_size": 4_000, "learning_starts": 100, "batch_size": 64, "hidden_sizes": (32, 32),
    "gamma": 0.5, "report_every": 10, "learning_rate": 3e-3,
}  # fmt: skip
DDPG_SMALL = {**SMALL, "actor_learning_rate": 3e-3, "tau": 0.02}
SAC_SMALL = {**DDPG_SMALL, "temperature_learning_rate": 3e-3, "initial_temperature": 0.1}
DQN_SMALL = {**SMALL, "target_update_interval": 20}
CASES = {
    "ddpg": (DDPG, DDPGConfig(**DDPG_SMALL)),
    "ddpg-ou-n": (
        DDPG,
        DDPGConfig(**DDPG_SMALL, exploration="ornstein-uhlenbeck", n_step=3, normalize_observation=True,
                   gradient_steps=2, noise_schedule="linear", noise_end=0.01, learning_rate_schedule="linear"),
    ),
    "td3": (DDPG, DDPGConfig(**DDPG_SMALL, twin_critics=True, max_gradient_norm=1.0)),
    "sac": (SAC, SACConfig(**SAC_SMALL)),
    "sac-n": (
        SAC,
        SACConfig(**SAC_SMALL, n_step=3, gradient_steps=2, train_freq=2, normalize_observation=True,
                  max_gradient_norm=1.0, learning_rate_schedule="linear"),
    ),
    "dqn": (DQN, DQNConfig(**DQN_SMALL)),
    "dqn-all": (
        DQN,
        DQNConfig(**DQN_SMALL, double=True, dueling=True, prioritized=True, n_step=3, gradient_steps=2, train_freq=2,
                  normalize_observation=True, max_gradient_norm=1.0, epsilon_schedule="exponential"),
    ),
}  # fmt: skip


RICH = ("ddpg-ou-n", "td3", "sac-n", "dqn-all")
"""Those in which more happens than in the plain ones, which are tested elsewhere and in the slow tests."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in RICH)) for name in CASES])
def case(request):
    """An agent's class, its settings, and whether its actions are discrete."""
    kind, config = CASES[request.param]
    return kind, config, kind is DQN


def histories(agent, total):
    metrics = []
    agent.learn(total, lambda _, row: metrics.append(row))
    return metrics


# Formulas


def test_td_target_by_hand():
    target = td_target(torch.tensor([1.0, 1.0, -2.0]), torch.tensor([0.9, 0.0, 0.81]), torch.tensor([10.0, 10.0, 5.0]))
    torch.testing.assert_close(target, torch.tensor([10.0, 1.0, 2.05]))


def test_polyak_update_by_hand():
    target, source = (MLP((1, 1), "relu", 1.0, torch.Generator()) for _ in range(2))
    with torch.no_grad():
        target.vector.copy_(torch.tensor([1.0, 2.0]))
        source.vector.copy_(torch.tensor([3.0, -2.0]))
    polyak_update(target, source, 0.25)
    torch.testing.assert_close(target.vector.detach(), torch.tensor([1.5, 1.0]))
    hard_update(target, source)
    assert torch.equal(target.vector, source.vector)


# Exactness


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
@pytest.mark.parametrize("total", [1, 16, 17, 503])
def test_budget_of_steps_is_exact(case, mode, total):
    kind, config, discrete = case
    env = Spot(mode=mode, discrete=discrete)
    agent = kind(env, config)
    rows = histories(agent, total)
    assert agent.steps == total == rows[-1]["steps"]
    assert len(agent.replay.buffer) == total
    transitions = sum(int((~waiting).sum()) for _, _, waiting in env.log)
    assert 0 <= transitions - total < 16
    agent.learn(total)
    assert agent.steps == total
    agent.learn(total + 40)
    assert len(agent.replay.buffer) == total + 40


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
def test_buffer_holds_what_the_environment_reported(mode):
    env = Spot(4, length=5, mode=mode, objects=True)
    agent = DDPG(env, DDPGConfig(**{**DDPG_SMALL, "num_envs": 4}))
    agent.stepper.begin_episodes()
    before, expected = env._observe(), []
    step = env.step

    def recording(actions):
        nonlocal before
        waiting = env.waiting.copy()
        observation, reward, terminated, truncated, infos = step(actions)
        following = [infos["final_obs"][row] if end else observation[row] for row, end in enumerate(truncated)] \
            if mode == SAME_STEP and truncated.any() else observation  # fmt: skip
        expected.extend(
            (*before[row], *actions[row], *following[row], reward[row], 0.5) for row in range(4) if not waiting[row]
        )
        before = observation
        return observation, reward, terminated, truncated, infos

    env.step = recording
    agent.stepper.staggering = None
    agent.learn(90)
    found = agent.replay.buffer.table.numpy()[: agent.replay.buffer.filled][
        agent.replay.buffer.mask[: agent.replay.buffer.filled]
    ]
    np.testing.assert_allclose(found, np.array(expected)[: len(found)], rtol=1e-6)
    assert len(found) == 90


def test_same_seed_same_numbers(case):
    kind, config, discrete = case
    runs = []
    for seed in (0, 0, 1):
        agent = kind(Spot(discrete=discrete), config, seed=seed)
        runs.append((histories(agent, 480), parameters(agent)))
    assert torch.equal(runs[0][1], runs[1][1])
    assert repr(runs[0][0]) == repr(runs[1][0])
    assert not torch.equal(runs[0][1], runs[2][1])


def test_acting_in_between_does_not_change_learning(case):
    kind, config, discrete = case
    first, second = (kind(Spot(discrete=discrete), config) for _ in range(2))
    first.learn(600)
    drawn = []
    second.learn(600, lambda agent, _: drawn.append(agent.act(np.zeros((99, 2)), deterministic=False)))
    assert torch.equal(parameters(first), parameters(second))
    assert len({action.tobytes() for action in drawn}) > 1


# Stopping and going on


# Each agent in the mode that is harder, where steps are masked out; the plain ones in the other too.
@pytest.mark.parametrize(
    ("case", "mode"),
    [(name, NEXT_STEP) for name in CASES]
    + [pytest.param(name, SAME_STEP, marks=[pytest.mark.slow] * (name not in ("ddpg", "dqn"))) for name in CASES],
    indirect=["case"],
    ids=str,
)
def test_resumed_run_is_identical(case, mode):
    kind, config, discrete = case
    whole = kind(Spot(mode=mode, discrete=discrete), config, seed=5)
    expected = histories(whole, 800)
    first = kind(Spot(mode=mode, discrete=discrete), config, seed=5)
    rows = []
    first.learn(800, lambda _, row: rows.append(row) or len(rows) < 4)
    second = kind(Spot(mode=mode, discrete=discrete), config, seed=77)
    restore(second, trainer_state(first))
    rows += histories(second, 800)
    assert repr(rows) == repr(expected)
    assert torch.equal(parameters(second), parameters(whole))


def test_interrupt_returns_to_the_last_whole_update(case):
    kind, config, discrete = case
    whole = kind(Spot(discrete=discrete), config)
    whole.learn(700)
    env = Spot(discrete=discrete)
    env.fail_at = 37  # in the fourth block of ten vector steps
    agent = kind(env, config)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        agent.learn(700, lambda agent, _: seen.append(parameters(agent)))
    assert len(seen) == 3
    assert agent.steps == 480
    assert torch.equal(parameters(agent), seen[-1])
    agent.learn(700)
    assert torch.equal(parameters(agent), parameters(whole))


def test_environment_without_state_begins_new_episodes(case):
    kind, config, discrete = case
    agent = kind(Forgetful(discrete=discrete), config)
    agent.learn(600)
    other = kind(Forgetful(discrete=discrete), config)
    restore(other, trainer_state(agent))
    assert torch.equal(parameters(other), parameters(agent))
    other.learn(900)
    other.env.fail_at = other.env.calls + 3
    with pytest.raises(KeyboardInterrupt):
        other.learn(1_200)
    other.learn(1_200)
    assert other.steps == 1_200


def test_nan_stops_learning_and_keeps_the_last_good_policy(case):
    kind, config, discrete = case
    env = Spot(discrete=discrete)
    env.poison_at = 35
    agent = kind(env, config)
    seen = []
    with pytest.raises(GantryError, match="NaN or infinite") as caught:
        agent.learn(4_000, lambda agent, _: seen.append(parameters(agent)))
    assert "\n" not in str(caught.value)
    assert torch.equal(parameters(agent), seen[-1])
    assert torch.isfinite(parameters(agent)).all()
    assert torch.isfinite(agent.replay.buffer.table[: agent.replay.buffer.filled]).all()


def test_save_and_load(case, tmp_path):
    kind, config, discrete = case
    agent = kind(Spot(discrete=discrete), config)
    agent.learn(500)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    assert isinstance(loaded, kind)
    assert loaded.config == agent.config
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(loaded.act(observations), agent.act(observations))
    going_on = load_agent(tmp_path, env=Spot(8, discrete=discrete))
    state = trainer_state(going_on)
    targets = [name for name in state if name.startswith("target_")]
    assert targets
    assert all(torch.equal(state[name], state[name.removeprefix("target_")]) for name in targets)
    going_on.learn(700)
    assert going_on.steps == 700


def test_config_to_json_and_back(case):
    _, config, _ = case
    content = json.loads(json.dumps(config_to_json(config)))
    assert config_from_json(type(config), content, "here") == config


def test_metrics_are_complete(case):
    kind, config, discrete = case
    rows = histories(kind(Spot(discrete=discrete), config), 600)
    common = {"steps", "episodes", "return_mean", "length_mean", "reward_mean", "success_mean", "learning_rate"}
    own = {
        DQN: {"loss", "epsilon"},
        DDPG: {"critic_loss", "noise"},
        SAC: {"critic_loss", "entropy", "temperature"},
    }[kind]
    assert set(rows[0]) == set(rows[-1]) == common | own | {"value_mean"}
    assert all(math.isfinite(value) for value in rows[-1].values())
    assert rows[-1]["length_mean"] == 5.0


# Learning


@pytest.mark.parametrize(
    ("terminal", "n_step"),
    [(True, 1), (False, 3), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((True, 3), (False, 1)))],
)
def test_truncation_bootstraps_and_termination_does_not(terminal, n_step):
    """A wage of 1 a step, in a world that always looks the same: its value is the fixed point of the mean target."""
    gamma, length = 0.8, 5
    env = Wage(terminal=terminal, length=length)
    env.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    env.action_space = gymnasium.vector.utils.batch_space(env.single_action_space, env.num_envs)
    config = DDPGConfig(
        **{
            **DDPG_SMALL,
            "gamma": gamma,
            "n_step": n_step,
            "tau": 0.1,
            "hidden_sizes": (16,),
            "learning_rate_schedule": "linear",
        }
    )
    agent = DDPG(env, config)
    agent.learn(5_000)
    value = agent.critics[0](torch.tensor([[1.0, 0.0]])).item()
    # With `left` steps to go, min(left, n) wages and, unless life ended, the value after them.
    taken = [min(left, n_step) for left in range(1, length + 1)]
    wages = np.mean([(1 - gamma**steps) / (1 - gamma) for steps in taken])
    bootstrapped = np.mean(
        [gamma**steps * (not terminal or left > steps) for left, steps in zip(range(1, 6), taken, strict=True)]
    )
    assert value == pytest.approx(wages / (1 - bootstrapped), rel=0.03)
    if not terminal:
        assert wages / (1 - bootstrapped) == pytest.approx(1 / (1 - gamma))


def test_dictionary_observations_are_flattened():
    class Parts(Spot):
        """The spot and the time apart."""

        def __init__(self):
            super().__init__(length=5)
            box = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
            self.single_observation_space = gymnasium.spaces.Dict({"time": box, "spot": box})

        def _observe(self):
            return super()._observe()

        def _apart(self, observation):
            return {"spot": observation[:, :1], "time": observation[:, 1:]}

        def reset(self, **options):
            return self._apart(super().reset(**options)[0]), {}

        def step(self, actions):
            observation, *rest, infos = super().step(actions)
            if "final_obs" in infos:
                infos["final_obs"] = self._apart(infos["final_obs"])
            return self._apart(observation), *rest, infos

    agent, same = DDPG(Parts(), DDPGConfig(**DDPG_SMALL)), DDPG(Spot(length=5), DDPGConfig(**DDPG_SMALL))
    agent.learn(600)
    same.learn(600)
    given = {"spot": np.array([0.3]), "time": np.array([0.4])}
    np.testing.assert_array_equal(agent.act(given), same.act([0.3, 0.4]))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(DQNConfig, {"gamma": 1.5}), (DQNConfig, {"batch_size": 0}), (DQNConfig, {"epsilon_end": 2.0}),
     (DQNConfig, {"target_update_interval": 0}), (DQNConfig, {"n_step": 0}), (DQNConfig, {"hidden_sizes": (0,)}),
     (DQNConfig, {"epsilon_fraction": 0.0}), (DDPGConfig, {"tau": 0.0}), (DDPGConfig, {"noise_start": -1.0}),
     (DDPGConfig, {"actor_learning_rate": 0.0}), (DDPGConfig, {"max_gradient_norm": 0.0}),
     (SACConfig, {"initial_temperature": 0.0}), (SACConfig, {"tau": 2.0}), (SACConfig, {"gamma": -0.1}),
     (DDPGConfig, {"target_min": 0.0, "target_max": -1.0})],
)  # fmt: skip
def test_settings_out_of_range_are_refused(kind, settings):
    with pytest.raises(GantryError, match=next(iter(settings))):
        kind(**settings)


# What cannot be allocated or computed with


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_too_large_to_compute_with_are_refused_in_one_line(name):
    config = default_config(name)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for bad in [10**18, 10**400] if isinstance(value, int) else [1e39, math.inf, math.nan, 10**400]:
            with pytest.raises(GantryError, match=field.name) as caught:
                dataclasses.replace(config, **{field.name: bad})
            assert len(str(caught.value).splitlines()) == 1
            assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"buffer_size": 10**12}, "buffer-size"),
        ({"batch_size": 10**12}, "batch-size"),
        ({"gradient_steps": 10**12, "batch_size": 64}, "batch-size"),
        ({"hidden_sizes": (65536, 65536, 65536)}, "hidden-sizes"),
    ],
)
@pytest.mark.parametrize("name", ["dqn", "ddpg", "sac"])
def test_more_memory_than_there_is_is_refused_before_it_is_touched(name, settings, flag, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2.0**33)
    line = rf"--config\.{flag}\) must be lower: .* would take .* of memory, and 8\.0 GiB are at hand"
    with pytest.raises(GantryError, match=line) as caught:
        agent_class(name)(Spot(discrete=name == "dqn"), dataclasses.replace(default_config(name), **settings))
    assert "\n" not in str(caught.value)


def test_default_buffer_for_pictures_names_its_size_and_a_loaded_policy_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "available_memory", lambda: 8.0 * 2**30)
    env = Spot(4, discrete=True)
    env.single_observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 1), np.uint8)
    with pytest.raises(
        GantryError, match=r"1,000,000 transitions with observations of 7,056 numbers would take 52\.6 GiB"
    ):
        DQN(env, DQNConfig())
    agent = DQN(env, DQNConfig(buffer_size=64, hidden_sizes=(8,)))
    agent.config = dataclasses.replace(agent.config, buffer_size=1_000_000)
    save_agent(agent, tmp_path)
    assert load_agent(tmp_path).act(np.zeros((84, 84, 1))) in (0, 1)


def test_state_of_a_buffer_holds_no_second_table():
    agent = DQN(Spot(discrete=True), CASES["dqn"][1])
    agent.learn(200)
    table = agent.checkpoint.state()["buffer.table"]
    assert table.data_ptr() == agent.replay.buffer.table.data_ptr()


def test_bounds_of_the_largest_float_are_none():
    largest = float(np.finfo(np.float32).max)
    space = gymnasium.spaces.Box(-largest, largest, (1,), np.float32)
    for kind in (DDPG, SAC):
        with pytest.raises(GantryError, match="finite bounds"):
            kind(Spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), space))
