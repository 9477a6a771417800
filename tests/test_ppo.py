import contextlib
import json
import math
import os

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Forgetful, Spot, Wage
from agent_states import collected, opened, parameters, restore, trainer_state
from safetensors.torch import save_file

import gantry
from gantry.agents import load_agent
from gantry.agents.ppo import PPO, PPOConfig, approximate_kl, clipped_surrogate, value_loss
from gantry.errors import GantryError
from gantry.files import checksum, load_tensors, save_tensors
from gantry.machine.threads import torch_threads
from gantry.spaces.maps import Spaces

SMALL = PPOConfig(num_envs=16, rollout_steps=16, minibatch_size=64, epochs=4, learning_rate=3e-3, gamma=0.5)


def histories(agent, total, **options):
    metrics = []
    agent.learn(total, lambda _, row: metrics.append(row), **options)
    return metrics


# Losses


def test_clipped_objective_and_where_its_gradient_vanishes():
    ratios = torch.tensor([0.5, 0.9, 1.1, 1.5, 0.5, 0.9, 1.1, 1.5])
    advantage = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
    log_ratio = ratios.log().requires_grad_()
    objective = clipped_surrogate(log_ratio, advantage, 0.2)
    torch.testing.assert_close(objective, torch.tensor([0.5, 0.9, 1.1, 1.2, -0.8, -0.9, -1.1, -1.5]))
    objective.sum().backward()
    # d(ρ A)/d(log ρ) = ρ A, but nothing where ρ already went further than ε the way A points.
    torch.testing.assert_close(log_ratio.grad, torch.tensor([0.5, 0.9, 1.1, 0.0, 0.0, -0.9, -1.1, -1.5]))


def test_value_loss_plain_and_clipped():
    value, old, target = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([3.0, 1.0])
    assert value_loss(value, old, target, None) == pytest.approx(0.5 * (1 + 1) / 2)
    assert value_loss(value, old, target, 0.5) == pytest.approx(0.5 * (2.5**2 + 1) / 2)


def test_approximate_kl_matches_gaussians():
    old, new = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.2, 1.1)
    actions = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    estimate = approximate_kl(new.log_prob(actions) - old.log_prob(actions))
    assert estimate == pytest.approx(torch.distributions.kl_divergence(old, new).item(), rel=0.05)


# Learning


ONE_SEED_QUICKLY = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)


@ONE_SEED_QUICKLY
def test_learns_continuous_actions(seed):
    agent = PPO(Spot(), SMALL, seed=seed)
    agent.learn(8_000)
    spots = np.linspace(-0.8, 0.8, 9, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(9, 0.4, np.float32)], 1))
    np.testing.assert_allclose(actions[:, 0], spots, atol=0.2)


@ONE_SEED_QUICKLY
@pytest.mark.parametrize("mode", [pytest.param(SAME_STEP, marks=pytest.mark.slow), NEXT_STEP], ids=str)
def test_learns_discrete_actions(seed, mode):
    agent = PPO(Spot(discrete=True, mode=mode), SMALL, seed=seed)
    rows = histories(agent, 4_000)
    assert rows[-1]["reward_mean"] > 0.8
    assert agent.act(np.array([[-0.5, 0.2], [0.5, 0.2]])).tolist() == [0, 1]


@pytest.mark.slow
def test_learns_a_gymnasium_environment():
    config = PPOConfig(num_envs=16, rollout_steps=64, minibatch_size=256, epochs=8, learning_rate=2e-3)
    best = 0.0

    def good_enough(_, row):
        nonlocal best
        best = max(best, row["return_mean"]) if row["episodes"] else 0.0
        return best < 150

    agent = PPO(opened("CartPole-v1", 16), config, seed=1)
    agent.learn(60_000, good_enough)
    assert best >= 150


@pytest.mark.parametrize("activation", [pytest.param("relu", marks=pytest.mark.slow), "elu"])
def test_other_settings_learn_too(activation):
    config = PPOConfig(
        rollout_steps=16, minibatch_size=64, learning_rate=3e-3, gamma=0.5, activation=activation, clip_value=0.5,
        target_kl=0.05, entropy_coefficient=1e-3, learning_rate_schedule="linear", normalize_observation=False,
        hidden_sizes=(32,), normalize_advantage=False,
    )  # fmt: skip
    rows = histories(PPO(Spot(discrete=True), config), 5_000)
    assert rows[-1]["reward_mean"] > rows[0]["reward_mean"] + 0.2
    assert rows[-1]["learning_rate"] < 0.1 * rows[0]["learning_rate"]


@pytest.mark.parametrize(
    ("terminal", "expected"),
    [
        (False, 1 / (1 - 0.9)),  # a time limit does not end the wages
        (True, np.mean([(1 - 0.9**left) / (1 - 0.9) for left in range(1, 6)])),
    ],
)
def test_truncation_bootstraps_and_termination_does_not(terminal, expected):
    config = PPOConfig(
        rollout_steps=20, minibatch_size=160, gamma=0.9, gae_lambda=0.95, normalize_return=False, learning_rate=1e-2,
        max_gradient_norm=10.0, learning_rate_schedule="linear", hidden_sizes=(16,),
    )  # fmt: skip
    agent = PPO(Wage(terminal=terminal), config)
    agent.learn(8_000)
    batch = collected(agent)
    if terminal:  # one value for states of one look: the mean of what is left to earn
        assert batch.value.mean() == pytest.approx(expected, rel=0.1)
    else:
        assert batch.value.mean() == pytest.approx(expected, rel=0.02)


def test_advantages_use_the_observation_before_the_reset():
    """Hold a rollout's advantages against a plain loop over what the environment reports, V asked row by row."""
    env = Spot(4, length=5, objects=True)
    config = PPOConfig(rollout_steps=12, normalize_return=False, normalize_observation=False, gamma=0.9, gae_lambda=0.8)
    agent = PPO(env, config)
    agent.stepper.begin_episodes()
    observations, finals, rewards, dones = [env._observe()], [], [], []
    step = env.step

    def recording(actions):
        observation, reward, terminated, truncated, infos = step(actions)
        observations.append(observation)
        finals.append(infos.get("final_obs"))
        rewards.append(reward)
        dones.append(truncated)
        return observation, reward, terminated, truncated, infos

    env.step = recording
    batch = collected(agent)

    def value(observation):
        with torch.no_grad():
            return agent.critic(torch.from_numpy(np.asarray(observation, np.float32)[None])).item()

    expected = np.zeros((12, 4))
    for row in range(4):
        advantage = 0.0
        for time in range(11, -1, -1):
            done = dones[time][row]
            after = finals[time][row] if done else observations[time + 1][row]
            delta = rewards[time][row] + 0.9 * value(after) - value(observations[time][row])
            advantage = delta + (0.0 if done else 0.9 * 0.8 * advantage)
            expected[time, row] = advantage
    np.testing.assert_allclose(batch.advantage.reshape(12, 4), expected, atol=1e-5)
    torch.testing.assert_close(batch.target, batch.advantage + batch.value)


# Exactness


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
@pytest.mark.parametrize("total", [1, 15, 16, 17, 500, 1003])
def test_exactly_the_budget_is_used(mode, total):
    env = Spot(mode=mode)
    agent = PPO(env, SMALL)
    seen = []
    agent.learn(total, lambda agent, row: seen.append((row["steps"], agent.policy.normalizer.moments.count)))
    assert agent.steps == total == seen[-1][0]
    assert seen[-1][1] == total
    transitions = sum(int((~waiting).sum()) for _, _, waiting in env.log)
    assert 0 <= transitions - total < 16
    agent.learn(total)
    assert agent.steps == total


def test_rows_beyond_the_budget_leave_no_trace():
    """An advantage must not see rewards of steps that are not counted."""
    offsets = []
    for offset in (0.0, 100.0):
        env = Spot(length=50)
        agent = PPO(env, PPOConfig(rollout_steps=4, normalize_return=False))
        agent.stepper.begin_episodes()
        step = env.step

        def raising(actions, env=env, step=step, offset=offset):
            observation, reward, *rest = step(actions)
            if env.calls == 3:
                reward[5:] += offset
            return observation, reward, *rest

        env.step = raising
        offsets.append(collected(agent, 2 * 16 + 5))
    assert len(offsets[0].advantage) == 37
    assert torch.equal(offsets[0].advantage, offsets[1].advantage)


def test_two_runs_of_one_seed_are_identical_and_of_two_seeds_not():
    runs = []
    for seed in (0, 0, 1):
        agent = PPO(Spot(), SMALL, seed=seed)
        runs.append((histories(agent, 2_000), parameters(agent)))
    assert torch.equal(runs[0][1], runs[1][1])
    assert repr(runs[0][0]) == repr(runs[1][0])
    assert not torch.equal(runs[0][1], runs[2][1])


def test_results_depend_neither_on_processors_nor_on_global_random_state():
    def learned(threads, processors, global_seed):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002
        with torch_threads(threads), on_processors(processors):
            agent = PPO(Spot(), SMALL, seed=4)
            agent.learn(600)
        return parameters(agent)

    assert torch.equal(learned(1, 1, global_seed=1), learned(3, None, global_seed=2))


@contextlib.contextmanager
def on_processors(count):
    """Keep this process to its first `count` processors, where the system can; None: to all."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_evaluating_in_between_changes_nothing():
    first, second = PPO(Spot(), SMALL), PPO(Spot(), SMALL)
    first.learn(1_000)
    second.learn(1_000, lambda agent, _: print(agent.act(np.zeros((3, 2)), deterministic=False)))
    assert torch.equal(parameters(first), parameters(second))


# Stopping and going on


@pytest.mark.parametrize("mode", [pytest.param(SAME_STEP, marks=pytest.mark.slow), NEXT_STEP], ids=str)
def test_a_resumed_run_gives_the_same_numbers(mode):
    config = PPOConfig(rollout_steps=7, minibatch_size=32, learning_rate_schedule="linear", stagger_first_episodes=True)
    whole = PPO(Spot(mode=mode), config, seed=5)
    expected = histories(whole, 1_500)
    first = PPO(Spot(mode=mode), config, seed=5)
    rows = []
    first.learn(1_500, lambda _, row: rows.append(row) or len(rows) < 4)
    assert len(rows) == 4
    second = PPO(Spot(mode=mode), config, seed=77)
    restore(second, trainer_state(first))
    rows += histories(second, 1_500)
    assert repr(rows) == repr(expected)
    assert torch.equal(parameters(second), parameters(whole))


def test_an_interrupt_leaves_the_last_whole_update():
    whole = PPO(Spot(), SMALL)
    whole.learn(2_000)
    env = Spot()
    env.fail_at = 45  # in the third rollout
    agent = PPO(env, SMALL)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        agent.learn(2_000, lambda agent, _: seen.append(parameters(agent)))
    assert len(seen) == 2
    assert agent.steps == 512
    assert torch.equal(parameters(agent), seen[-1])
    agent.learn(2_000)
    assert torch.equal(parameters(agent), parameters(whole))


def test_without_environment_state_new_episodes_begin():
    agent = PPO(Forgetful(), SMALL)
    agent.learn(600)
    other = PPO(Forgetful(), SMALL)
    restore(other, trainer_state(agent))
    assert torch.equal(parameters(other), parameters(agent))
    other.learn(1_200)
    assert other.steps == 1_200
    other.env.fail_at = other.env.calls + 3
    with pytest.raises(KeyboardInterrupt):
        other.learn(1_800)
    other.learn(1_800)
    assert other.steps == 1_800


def test_foreign_trainer_states_are_refused():
    agent = PPO(Spot(), SMALL)
    tensors = trainer_state(agent)
    with pytest.raises(GantryError, match="of 3 environments, not of 16"):
        agent.checkpoint.load_state(trainer_state(PPO(Spot(3), SMALL)))
    with pytest.raises(GantryError, match="missing"):
        agent.checkpoint.load_state({})
    for name in ("random.state", "stepper.counts", "actor_optimizer.means.0"):
        with pytest.raises(GantryError, match=name.partition(".")[2]):
            agent.checkpoint.load_state({other: tensor for other, tensor in tensors.items() if other != name})


def test_not_a_number_stops_learning_and_keeps_the_good_policy():
    env = Spot()
    env.poison_at = 40
    agent = PPO(env, SMALL)
    seen = []
    with pytest.raises(GantryError, match="NaN or infinite") as caught:
        agent.learn(2_000, lambda agent, _: seen.append(parameters(agent)))
    assert "\n" not in str(caught.value)
    assert torch.equal(parameters(agent), seen[-1])
    assert torch.isfinite(parameters(agent)).all()
    assert np.isfinite(agent.act(np.zeros(2))).all()


def test_metrics_are_complete():
    rows = histories(PPO(Spot(), SMALL), 600)
    assert set(rows[0]) == {
        "steps", "episodes", "return_mean", "length_mean", "reward_mean", "success_mean", "policy_loss", "value_loss",
        "entropy", "approx_kl", "clip_fraction", "explained_variance", "learning_rate",
    }  # fmt: skip
    assert all(isinstance(value, float) and math.isfinite(value) for value in rows[-1].values())
    assert rows[-1]["length_mean"] == 5.0
    assert rows[-1]["success_mean"] == pytest.approx(0.5, abs=0.1)


# Acting, saving, loading


@pytest.fixture(scope="module")
def trained():
    agent = PPO(Spot(), SMALL)
    agent.learn(1_000)
    return agent


@pytest.fixture
def folder(trained, tmp_path):
    gantry.save(trained, tmp_path)
    return tmp_path


def test_saved_and_loaded_it_acts_the_same(trained, folder):
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    loaded = load_agent(folder)
    assert isinstance(loaded, PPO)
    assert loaded.steps == 1_000
    assert loaded.config == trained.config
    np.testing.assert_array_equal(loaded.act(observations), trained.act(observations))
    np.testing.assert_array_equal(
        load_agent(folder).act(observations, deterministic=False),
        load_agent(folder).act(observations, deterministic=False),
    )
    assert torch.equal(parameters(loaded), parameters(trained))
    with pytest.raises(GantryError, match="without an environment"):
        loaded.learn(2_000)
    going_on = load_agent(folder, env=Spot(8))
    going_on.learn(1_500)
    assert going_on.steps == 1_500
    json.loads((folder / "policy.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_acting_takes_one_or_many(trained):
    one = trained.act([0.5, 0.0])
    assert one.shape == (1,)
    assert one.dtype == np.float32
    assert trained.act(np.zeros((0, 2))).shape == (0, 1)
    assert trained.act(np.zeros((3, 2))).shape == (3, 1)
    assert (np.abs(trained.act(np.full((100, 2), 1e6), deterministic=False)) <= 1).all()


@pytest.mark.parametrize("observation", [np.zeros(3), np.zeros((2, 2, 2)), 1.0, [math.nan, 0], [0, math.inf], "ab", {}])
def test_bad_observations_are_refused(trained, observation):
    with pytest.raises(GantryError, match="observation"):
        trained.act(observation)


def edit(folder, **changes):
    """Change what a policy's description says, with a checksum that fits."""
    path = folder / "policy.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    tensors, metadata = load_tensors(folder / "policy.safetensors")
    metadata["description"] = checksum(path.read_bytes())
    save_tensors(folder / "policy.safetensors", tensors, metadata)


def config_with(folder, **changes):
    edit(folder, config={**json.loads((folder / "policy.json").read_text())["config"], **changes})


DAMAGES = {
    "no description": lambda folder: (folder / "policy.json").unlink(),
    "no numbers": lambda folder: (folder / "policy.safetensors").unlink(),
    "cut short": lambda folder: (folder / "policy.safetensors").write_bytes(
        (folder / "policy.safetensors").read_bytes()[:-9]
    ),
    "rubbish": lambda folder: (folder / "policy.json").write_text("{"),
    "a list": lambda folder: (folder / "policy.json").write_text("[]"),
    "another format": lambda folder: edit(folder, format=99),
    "another agent": lambda folder: edit(folder, agent="nobody"),
    "no agent": lambda folder: edit(folder, agent=None),
    "no space": lambda folder: edit(folder, observation_space={"type": "box"}),
    "a space of another size": lambda folder: edit(
        folder, observation_space={"type": "box", "shape": [3], "dtype": "float32", "low": [0] * 3, "high": [1] * 3}
    ),
    "a space that agents cannot handle": lambda folder: edit(
        folder, observation_space={"type": "discrete", "n": 3, "start": 0}
    ),
    "an object as type": lambda folder: edit(
        folder, observation_space={"type": "box", "shape": [2], "dtype": "O", "low": [0] * 2, "high": [1] * 2}
    ),
    "an unknown setting": lambda folder: config_with(folder, learning_speed=1),
    "a setting of another type": lambda folder: config_with(folder, epochs="many"),
    "a setting out of range": lambda folder: config_with(folder, epochs=0),
    "other widths": lambda folder: config_with(folder, hidden_sizes=[64, 32]),
    "huge widths": lambda folder: config_with(folder, hidden_sizes=[65536, 65536]),
    "foreign numbers": lambda folder: save_file({"x": torch.zeros(3)}, folder / "policy.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_policies_are_refused_in_one_line(folder, damage):
    DAMAGES[damage](folder)
    with pytest.raises(GantryError) as caught:
        load_agent(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "shape", "nan", "type", "more"])
def test_damaged_tensors_are_named(trained, folder, change):
    tensors = trained.checkpoint.policy_state()
    if change == "missing":
        del tensors["critic.0.weight"]
    if change == "shape":
        tensors["critic.0.weight"] = tensors["critic.0.weight"].t().contiguous()
    if change == "nan":
        tensors["critic.0.weight"][0, 0] = math.nan
    if change == "type":
        tensors["critic.0.weight"] = tensors["critic.0.weight"].double()
    if change == "more":
        tensors["critic.0.weightier"] = torch.zeros(1)
    description = checksum((folder / "policy.json").read_bytes())
    metadata = {"agent": "ppo", "steps": "1000", "description": description}
    save_tensors(folder / "policy.safetensors", tensors, metadata)
    with pytest.raises(GantryError, match=r"critic\.0\.weight"):
        load_agent(folder)


def test_a_policy_fits_its_environment_only(folder):
    with pytest.raises(GantryError, match="acts in"):
        load_agent(folder, env=Spot(discrete=True))
    with pytest.raises(GantryError, match="observes"):
        load_agent(folder, env=opened("Pendulum-v1", 2))


@pytest.mark.parametrize(
    "settings",
    [{"gamma": 1.5}, {"epochs": 0}, {"learning_rate": 0.0}, {"clip_value": -1.0}, {"hidden_sizes": (0,)},
     {"entropy_coefficient": -1.0}, {"action_scaling": "none", "squash_actions": True}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(GantryError, match=next(iter(settings))):
        PPOConfig(**settings)


def test_spaces_it_cannot_handle_are_refused():
    with pytest.raises(GantryError, match="must be"):
        PPO(Spaces(gymnasium.spaces.Text(3), gymnasium.spaces.Discrete(2)))


def test_tuple_observations_are_learned_from_and_acted_on():
    agent = PPO(opened("Blackjack-v1", 2), PPOConfig(rollout_steps=8))
    agent.learn(32)
    hands = (np.array([20, 12]), np.array([5, 10]), np.array([0, 1]))
    assert agent.act(hands).tolist() == [agent.act((20, 5, 0)), agent.act((12, 10, 1))]
    with pytest.raises(GantryError, match="parts 0, 1, 2"):
        agent.act((20, 5))


def test_discrete_observations_are_learned_from_and_acted_on():
    agent = PPO(opened("FrozenLake-v1", 4, is_slippery=False), PPOConfig(rollout_steps=16))
    agent.learn(64)
    assert agent.act(0).shape == ()
    assert agent.act(np.arange(16)).shape == (16,)
    with pytest.raises(GantryError, match="whole number"):
        agent.act(16)


def test_observations_of_more_axes_are_flattened():
    env = gymnasium.make_vec("Pendulum-v1", 2, "sync", wrappers=[
        lambda env: gymnasium.wrappers.ReshapeObservation(env, (3, 1))
    ])  # fmt: skip
    agent = PPO(env, PPOConfig(rollout_steps=8))
    agent.learn(16)
    assert agent.act(np.zeros((3, 1))).shape == (1,)
    assert agent.act(np.zeros((5, 3, 1))).shape == (5, 1)
