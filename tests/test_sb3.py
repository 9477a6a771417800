"""The stable-baselines3 adapter: what SB3's own vector environments promise."""

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from gantry.envs.sb3 import make_sb3
from gantry.envs.simulator import make_simulator
from gantry.envs.single import SingleEnvironment
from gantry.envs.tasks.reach import ReachGoal
from gantry.errors import GantryError

BALANCE = "gantry/CartPoleBalance-v0"


def test_every_step_equals_sb3s_dummy_vector_environment_of_single_ones():
    """Observations, rewards, ends, and the infos of ended episodes, over autoresets."""
    limit = 7
    ours = make_sb3(BALANCE, 3, max_episode_steps=limit)
    ours.seed(5)
    theirs = DummyVecEnv([lambda: gymnasium.make(BALANCE, max_episode_steps=limit)] * 3)
    theirs.seed(5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    generator = np.random.default_rng(0)
    for _ in range(3 * limit):
        actions = generator.uniform(-1, 1, (3, 1)).astype(np.float32)
        observations, rewards, dones, infos = ours.step(actions)
        expected_observations, expected_rewards, expected_dones, expected_infos = theirs.step(actions)
        np.testing.assert_array_equal(observations, expected_observations)
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, expected_dones)
        for info, expected in zip(infos, expected_infos, strict=True):
            assert ("terminal_observation" in info) == ("terminal_observation" in expected)
            if "terminal_observation" in info:
                np.testing.assert_array_equal(info["terminal_observation"], expected["terminal_observation"])
                assert info["TimeLimit.truncated"] is True is expected["TimeLimit.truncated"]


def test_seeding_repeats_the_first_observations_and_only_those():
    env = make_sb3(BALANCE, 4)
    env.seed(3)
    first, second = env.reset(), env.reset()
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    assert not np.array_equal(first, second)


def test_attributes_and_methods_answer_once_an_environment():
    env = make_sb3(BALANCE, 3)
    assert env.get_attr("num_envs") == [3, 3, 3]
    assert env.get_attr("control_timestep", indices=[0, 2]) == [0.02, 0.02]
    assert env.get_attr("control_timestep", indices=1) == [0.02]
    assert len(env.env_method("get_state", indices=[1])) == 1
    assert env.env_is_wrapped(gymnasium.Wrapper) == [False, False, False]
    env.set_attr("note", "here")
    assert env.get_attr("note") == ["here"] * 3
    with pytest.raises(GantryError, match="share"):
        env.set_attr("note", "there", indices=[0])
    with pytest.raises(AttributeError):
        env.get_attr("no_such_attribute")


def test_rendering_gives_one_picture_or_an_image_an_environment(monkeypatch):
    monkeypatch.setenv("GANTRY_RENDERER", "raycast")
    env = make_sb3(BALANCE, 2, render_mode="rgb_array", width=48, height=32)
    env.reset()
    images = env.get_images()
    assert [image.shape for image in images] == [(32, 48, 3)] * 2
    assert env.render().shape[2] == 3
    env.close()


def test_another_autoreset_mode_is_refused():
    from gantry.envs.sb3 import SB3VecEnv

    with pytest.raises(GantryError, match="SameStep"):
        SB3VecEnv(make_simulator(BALANCE, 2, autoreset_mode="NextStep"))


@pytest.mark.parametrize(
    ("algorithm", "settings", "options"),
    [
        (PPO, {"n_steps": 16, "batch_size": 32}, {}),
        pytest.param(A2C, {"n_steps": 8}, {}, marks=pytest.mark.slow),
        pytest.param(DDPG, {"learning_starts": 16, "batch_size": 8}, {}, marks=pytest.mark.slow),
        (DQN, {"learning_starts": 16, "batch_size": 8}, {"actions": "discrete"}),
    ],
)
def test_sb3s_agents_train_through_it(algorithm, settings, options):
    env = VecNormalize(VecMonitor(make_sb3(BALANCE, 4, seed=0, max_episode_steps=20, **options)), norm_reward=False)
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **settings)
    model.learn(160)
    assert len(model.ep_info_buffer) >= 8  # VecMonitor saw the episodes end
    assert {int(info["l"]) for info in model.ep_info_buffer} == {20}


def test_sb3s_own_vector_environment_takes_our_single_one():
    env = DummyVecEnv([lambda: gymnasium.make(BALANCE)])
    assert isinstance(env.envs[0].unwrapped, SingleEnvironment)
    assert env.reset().shape == (1, 5)


def test_hindsight_replay_trains_on_the_goal_conditioned_arm():
    """HER asks the environment to judge goals that were not asked for: compute_reward through env_method."""
    env = make_sb3("gantry/ReachGoal-v0", 2, seed=0, max_episode_steps=10)
    model = DDPG(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        learning_starts=40,
        batch_size=32,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
        gradient_steps=4,
        train_freq=10,
    )
    model.learn(160)
    sample = model.replay_buffer.sample(64)
    assert set(np.unique(sample.rewards)) <= {-1.0, 0.0}
    assert (sample.rewards == 0.0).any()  # some goals, chosen in hindsight, were reached
    goals, reached = sample.observations["desired_goal"], sample.next_observations["achieved_goal"]
    assert torch.equal(sample.rewards[:, 0], ReachGoal().compute_reward(reached, goals).float())
