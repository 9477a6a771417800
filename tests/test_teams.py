"""Teams: robots that meet, environments of single robots, a critic for all of them, policies in other teams."""

import numpy as np
import pytest
import torch

from gantry.agents import load_agent, save_agent
from gantry.agents.parts.centralized_critic import TeamRollout
from gantry.agents.parts.policy import Policy
from gantry.agents.parts.vector_stepper import VectorStepper
from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.envs.robot_rows import RobotRows, make_robots, robot_observations
from gantry.envs.simulator import make_simulator
from gantry.errors import GantryError
from gantry.film.record import record
from gantry.runs.datasets.collect import collect
from gantry.runs.evaluate import Exploring, evaluate_agent
from gantry.runs.train import make_agent

ID = "gantry/VacuumTeam-v0"
SMALL = {"plan": "studio", "robots": 2}
CONFIG = PPOConfig(num_envs=8, rollout_steps=4, epochs=1, hidden_sizes=(8,), normalize_observation=False)
EAST, WEST = 1, 3


def rows(num_envs: int = 8, **options) -> RobotRows:
    return make_robots(ID, num_envs, **{**SMALL, **options})


def side_by_side(distance: int = 1):
    """A world of two robots, the second `distance` cells to the east of the first."""
    simulator = make_simulator(ID, 1, **SMALL)
    simulator.reset(seed=0)
    task = simulator.task
    numbers = task.plan.numbers
    row, column = next(
        (row, column)
        for row, column in np.argwhere(numbers >= 0)
        if all(task.plan.neighbors[numbers[row, column + step], EAST] >= 0 for step in range(distance))
    )
    for robot, cell in enumerate((numbers[row, column], numbers[row, column + distance])):
        simulator.state.qpos[0, 3 * robot : 3 * robot + 3] = [*task.centers[cell], 0.05]
    simulator.features = task.features(simulator.state)
    return simulator


@pytest.mark.parametrize("distance", [1, 2])
def test_robots_that_meet_bump_and_return(distance):
    simulator = side_by_side(distance)
    before = simulator.state.qpos.copy()
    infos = simulator.step(np.array([[EAST, WEST]]))[4]
    assert infos["terms"]["bump"] == -1.0
    assert np.abs(simulator.state.qpos - before)[:, [0, 1, 3, 4]].max() < 0.05
    assert np.hypot(*(before[0, :2] - before[0, 3:5])) > 0.34


def test_robot_sees_where_the_other_is_and_that_it_is_in_the_way():
    simulator = side_by_side()
    task = simulator.task
    first, second = simulator.observe().reshape(2, -1)
    free = slice(7, 11)
    assert first[free][EAST] == 0
    assert second[free][WEST] == 0
    there, x, y, near = first[-4:]
    assert (there, y, near) == (1.0, 0.0, 0.5)
    assert x == pytest.approx(task.plan.cell / task.plan.width)
    assert np.array_equal(second[-4:], [1.0, -x, 0.0, 0.5])


def test_arms_see_each_other_from_both_sides():
    """The second arm's frame is the first's turned by half a turn about the middle of the table."""
    simulator = make_simulator("gantry/ReachTeam-v0", 2)
    simulator.reset(seed=0)
    state, task = simulator.state, simulator.task
    state.qpos[1] = state.qpos[0, [2, 3, 0, 1]] + [np.pi, 0.0, np.pi, 0.0]
    state.qvel[0] = [1.0, 2.0, 3.0, 4.0]
    state.qvel[1] = [3.0, 4.0, 1.0, 2.0]
    state.mocap_pos[1, :, :2] = -state.mocap_pos[0, ::-1, :2]
    seen = task.observation(task.features(state)).reshape(2, 2, -1)
    assert np.allclose(seen[0], seen[1, ::-1], atol=1e-6)
    to_other, to_target, others_way = seen[0, 0, 8:10], seen[0, 0, 3:5], seen[0, 1, 12:14]
    assert np.allclose(others_way, -to_target)
    assert np.allclose(to_other, seen[0, 1, 8:10], atol=1e-6)  # each sees the other the same way, turned


def test_arms_touch_and_stop_each_other():
    simulator = make_simulator("gantry/ReachTeam-v0", 1)
    simulator.reset(seed=0)
    simulator.state.qpos[0] = [0.6, 0.0, np.pi - 0.6, 0.0]
    for _ in range(10):
        infos = simulator.step(np.array([[0.5, 0.0, -0.5, 0.0]], np.float32))[4]
        if infos["touching"][0]:
            break
    assert infos["terms"]["touch"][0] == pytest.approx(-0.2)


def test_dirt_is_found_by_one_robot_and_rewards_of_robots_add_up_to_the_teams():
    simulator = make_simulator(ID, 16, **SMALL, start="anywhere")
    simulator.reset(seed=3)
    simulator.action_space.seed(3)
    found = 0.0
    for _ in range(12):
        before, action = simulator.features, simulator.action_space.sample()
        reward, terms, *_ = simulator.transition(action)
        own = simulator.task.robot_rewards(before, action, simulator.features)
        assert own.shape == (16, 2)
        assert np.allclose(own.sum(1), reward, atol=1e-6)
        levels = [features[:, simulator.task._team + 5 :].sum(1) for features in (before, simulator.features)]
        assert np.array_equal(levels[0] - levels[1], terms["cleaned"])
        found += terms["cleaned"].sum()
    assert found > 0


def test_robot_environments_are_the_teams_taken_apart():
    team, single = make_simulator(ID, 4, **SMALL, max_episode_steps=5), rows(max_episode_steps=5)
    team.action_space.seed(1)
    assert np.array_equal(robot_observations(team.reset(seed=7)[0], 2), single.reset(seed=7)[0])
    for _ in range(7):
        action = team.action_space.sample()
        seen, reward, terminated, truncated, infos = team.step(action)
        found = single.step(action.reshape(-1))
        assert np.array_equal(robot_observations(seen, 2), found[0])
        assert np.array_equal(found[4]["objective"], reward.repeat(2))
        assert np.allclose(found[1].reshape(4, 2).sum(1), reward, atol=1e-6)
        assert np.array_equal(found[2], terminated.repeat(2))
        assert np.array_equal(found[3], truncated.repeat(2))
        assert np.array_equal(found[4]["coverage"], infos["coverage"].repeat(2))
        if "final_obs" in infos:
            assert np.array_equal(robot_observations(infos["final_obs"], 2), found[4]["final_obs"])
    assert team.max_episode_steps == 5


def test_stacked_observations_of_robots_hold_their_own_past():
    stacked, plain = rows(4, stack=3), rows(4)
    stacked.reset(seed=0)
    past = [plain.reset(seed=0)[0]] * 3
    for action in (np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0])):
        past = [*past[1:], plain.step(action)[0]]
        assert np.array_equal(stacked.step(action)[0], np.stack(past, axis=1))


def test_shared_credit_gives_every_robot_the_teams_reward_and_takes_another_reward():
    shared, own = rows(credit="shared"), rows()
    action = np.arange(8) % 4
    for each in (shared, own):
        each.reset(seed=0)
    team = own.step(action)[4]["objective"]
    found = shared.step(action)
    assert np.array_equal(found[1], team)
    assert "objective" not in found[4]
    designed = rows(credit="shared", reward="cleaned=1,bump=-3")
    designed.reset(seed=0)
    assert np.array_equal(designed.step(action)[4]["objective"], team)
    with pytest.raises(GantryError, match="credit=shared"):
        rows(reward="cleaned=1")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"robots": 0}, "robots must be a whole number from 1 to 8"),
        ({"robots": 2.5}, "robots must be"),
        ({"others": 9}, "others must be a whole number from 0 to 7"),
        ({"credit": "none"}, "credit must be 'own' or 'shared'"),
        ({"dirt": 0}, "dirt must be"),
    ],
)
def test_bad_options_get_one_line(options, line):
    with pytest.raises(GantryError, match=line):
        make_simulator(ID, 1, **options)


def test_worlds_are_whole():
    assert rows(7).num_envs == 8
    single = rows()
    single.reset(seed=0)
    with pytest.raises(GantryError, match="begin together"):
        single.reset(options={"reset_mask": np.arange(8) < 1})


def test_joint_state_is_own_observation_then_the_others_in_a_circle():
    env = make_robots(ID, 6, plan="studio", robots=3)
    policy = Policy(env.single_observation_space, env.single_action_space, CONFIG, torch.Generator())
    rollout = TeamRollout(VectorStepper(env, 0), policy, 1, torch.Generator())
    inputs = torch.arange(12.0).reshape(1, 6, 2)  # of two numbers each
    found = rollout.joint(inputs)[0].tolist()
    assert found[0] == [0, 1, 2, 3, 4, 5]
    assert found[1] == [2, 3, 4, 5, 0, 1]
    assert found[5] == [10, 11, 6, 7, 8, 9]
    assert rollout.critic_size == 3 * policy.observations.size


def test_centralized_critic_values_the_last_joint_states_of_episodes():
    agent = make_agent("ppo", ID, PPOConfig(num_envs=8, rollout_steps=6, centralized_critic=True), 0,
                       {**SMALL, "max_episode_steps": 3})  # fmt: skip
    rollout = agent.rollout
    agent.stepper.begin_episodes()
    rollout.collect(10**6)
    assert rollout.done.any()
    normalize = agent.policy.normalizer
    expected = np.zeros((rollout.length, 8))
    final = {}
    for time, step in rollout.finals:
        for env, seen in zip(step.final_envs, step.final_observations, strict=True):
            final[time, env] = normalize.inputs(seen[None], "cpu")[0]
    with torch.no_grad():
        for time in range(rollout.length):
            for env in range(8):
                other = env ^ 1
                pair = [final.get((time, each), rollout.inputs[time + 1, each]) for each in (env, other)]
                expected[time, env] = agent.critic(torch.cat(pair)[None]).item()
    _, found = rollout.values(agent.critic)
    assert np.allclose(found, expected, atol=1e-6)


def test_worlds_are_cut_whole_when_first_episodes_are_staggered():
    agent = make_agent("ppo", ID, CONFIG, 0, SMALL)
    assert agent.stepper.staggering is not None
    cuts = agent.stepper.staggering.cuts.reshape(4, 2)
    assert np.array_equal(cuts[:, 0], cuts[:, 1])
    assert len(np.unique(cuts)) == 4


@pytest.mark.parametrize("centralized", [False, True])
def test_team_training_resumes_exactly(centralized):
    config = PPOConfig(num_envs=8, rollout_steps=4, epochs=1, hidden_sizes=(8,), centralized_critic=centralized)
    one, other = (make_agent("ppo", ID, config, 0, SMALL) for _ in range(2))
    one.learn(32)
    other.checkpoint.load_state(one.checkpoint.state())
    one.learn(96)
    other.learn(96)
    found, expected = other.checkpoint.state(), one.checkpoint.state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_policy_of_a_team_acts_for_every_robot_and_fits_other_teams_of_the_same_view(tmp_path):
    agent = make_agent("ppo", ID, PPOConfig(num_envs=4, centralized_critic=True), 0, SMALL)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    short = {"max_episode_steps": 5, "plan": "studio"}
    result = evaluate_agent(loaded, ID, 3, 0, {**short, "robots": 2})
    assert result.metrics["path_length"] > 0
    assert result.length_mean == 5
    alone = evaluate_agent(loaded, ID, 3, 0, {**short, "robots": 1, "others": 1})
    assert alone.metrics["path_length"] < result.metrics["path_length"]
    with pytest.raises(GantryError, match=r"in a team of 3 robots; a policy fits teams"):
        evaluate_agent(loaded, ID, 3, 0, {**short, "robots": 3})


def test_teams_are_filmed_and_not_collected(tmp_path):
    short = {**SMALL, "max_episode_steps": 1}
    agent = make_agent("ppo", ID, PPOConfig(num_envs=2, hidden_sizes=(8,)), 0, short)
    film = record(agent, ID, tmp_path / "team.gif", env_options=short, size=(64, 64), overlay=False, backend="raycast")
    assert film.frames > 1
    sampled = Exploring(agent)
    assert len({sampled.act(np.zeros((1, agent.policy.observations.size))).item() for _ in range(40)}) == 4
    with pytest.raises(GantryError, match="single robots, and gantry/VacuumTeam-v0 is a team's"):
        collect(agent, ID, tmp_path / "team-v0", short, episodes=1)


@pytest.mark.slow
def test_policies_of_teams_are_exported(tmp_path):
    pytest.importorskip("onnx")
    assert main(["train", ID, "--steps", "8", "--config.num-envs", "2", "--config.rollout-steps", "4", "--out",
                 str(tmp_path / "run"), "--env", "plan=studio", "robots=2"]) == 0  # fmt: skip
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "team.onnx")]) == 0
    assert main(["evaluate", str(tmp_path / "team.onnx"), "--episodes", "1", "--max-steps", "3"]) == 0


def test_centralized_critic_needs_a_team():
    with pytest.raises(GantryError, match="is for teams"):
        make_agent("ppo", "gantry/CartPoleBalance-v0", PPOConfig(centralized_critic=True))
