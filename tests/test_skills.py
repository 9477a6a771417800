"""Skills as actions: the environment above, its tasks, and runs that carry their skills with them."""

import dataclasses
import shutil

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from gantry.agents import PETS, PlannerConfig, save_agent
from gantry.agents.ppo import PPO, PPOConfig
from gantry.agents.q_learning import QLearningConfig
from gantry.agents.recurrent_ppo import RecurrentPPO, RecurrentPPOConfig
from gantry.benchmark import skills
from gantry.cli import main
from gantry.envs import make, make_vec
from gantry.errors import GantryError
from gantry.files import load_tensors, read_json
from gantry.film.record import action_names
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.folder import Run
from gantry.runs.skills.environment import SkillsEnv, discount_as
from gantry.runs.skills.policies import Skill
from gantry.runs.train import resume, train

HOUSE, ORDER, PLANAR = "gantry/VacuumHouse-v0", "gantry/ReachPlanarOrder-v0", "gantry/ReachPlanar-v0"
GAMMA = 0.9


class Scripted:
    """A policy from observations (n, d) to actions (n, ...) by a formula for each row."""

    def __init__(self, formula):
        self.act = formula


def follow_compass(observations):
    return observations[..., 9:13].argmax(-1)


def towards_target(observations):
    """Torques that bring the planar arm's fingertip near its target: the transposed Jacobian, damped."""
    cosine, sine, wrist, x, y, turning, bending = np.moveaxis(observations.astype(np.float64), -1, 0)
    shoulder = np.arctan2(sine, cosine)
    lower = 0.12 * np.array([-np.sin(shoulder + wrist), np.cos(shoulder + wrist)])
    upper = 0.12 * np.array([-sine, cosine]) + lower
    torques = [150 * (upper * [x, y]).sum(0) - 0.1 * turning, 150 * (lower * [x, y]).sum(0) - 0.1 * bending]
    return np.clip(np.stack(torques, -1), -1.0, 1.0).astype(np.float32)


def above(env_id, count, formulas, steps=20, gamma=GAMMA, mode=AutoresetMode.SAME_STEP, goals=True, **options):
    """An environment of scripted skills."""
    simulator = make_vec(env_id, count, autoreset_mode=AutoresetMode.NEXT_STEP, **options).unwrapped
    space = simulator.task.skill_observation_space if goals else simulator.single_observation_space
    skills = [
        Skill(f"skill {number}", Scripted(formula), space, simulator.single_action_space)
        for number, formula in enumerate(formulas)
    ]
    return SkillsEnv(simulator, skills, steps, gamma, mode)


@pytest.mark.parametrize(
    ("env_id", "formula", "options"),
    [
        (HOUSE, follow_compass, {"plan": "apartment", "observation": "rooms", "dirt": 0.05}),
        (ORDER, towards_target, {}),
    ],
)
def test_each_step_equals_a_serial_loop_over_its_skill(env_id, formula, options):
    count, steps, decisions, limit = 4, 7, 6, 25
    env = above(env_id, count, [formula], steps, max_episode_steps=limit, **options)
    actions = np.random.default_rng(1).integers(env.single_action_space.n, size=(decisions, count))
    observed = [env.reset(seed=5)[0]]
    found = []
    for chosen in actions:
        observation, *brought = env.step(chosen)
        observed.append(observation)
        found.append(brought)
    for row in range(count):
        single = make(env_id, **options).unwrapped
        task = single.task
        seen, _ = single.reset(seed=5 + row)
        age = 0
        for time, chosen in enumerate(actions[:, row]):
            assert np.array_equal(seen, observed[time][row])
            total, own, elapsed, over = 0.0, 0.0, 0, False
            begun = bool(task.subgoal_reached(single.simulator.features, np.array([chosen]))[0])
            while not over:
                features = single.simulator.features
                below = formula(task.skill_observation(features, np.array([chosen])))[0]
                seen, reward, terminated, *_ = single.step(below)
                total, own, elapsed, age = total + GAMMA**elapsed * reward, own + reward, elapsed + 1, age + 1
                truncated = age >= limit
                reached = bool(task.subgoal_reached(single.simulator.features, np.array([chosen]))[0])
                over = terminated or truncated or (reached and not begun) or elapsed == steps
            rewards, ends, cuts, infos = found[time]
            assert rewards[row] == pytest.approx(total, abs=1e-9)
            assert infos["objective"][row] == pytest.approx(own, abs=1e-9)
            assert (infos["elapsed_steps"][row], ends[row], cuts[row]) == (elapsed, terminated, truncated)
            if terminated or truncated:
                assert np.array_equal(infos["final_obs"][row], seen)
                seen, _ = single.reset()
                age = 0
        assert np.array_equal(seen, observed[-1][row])
    assert env.environment_steps == sum(infos["elapsed_steps"].sum() for *_, infos in found)


def test_environments_that_wait_stay_as_they_are_to_the_last_bit():
    options = {"physics": {"motor_delay": 2, "sensor_noise": 0.01}, "stack": 2, "disturb": "pushes"}
    count, steps = 3, 12
    batch = make_vec("gantry/Reach-v0", count, autoreset_mode=AutoresetMode.NEXT_STEP, **options).unwrapped
    batch.reset(seed=2)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, count, 7)).astype(np.float32)
    turns = [np.array(turn) for turn in ((1, 0, 1), (0, 1, 0), (1, 1, 1), (0, 0, 1), (1, 1, 0), (1, 1, 0))]
    done = np.zeros(count, int)
    while done.min() < steps:
        for turn in turns:
            only = (turn > 0) & (done < steps)
            if only.any():
                batch.step_only(actions[np.minimum(done, steps - 1), np.arange(count)], only)
                done += only
    for row in range(count):
        single = make("gantry/Reach-v0", **options).unwrapped
        single.reset(seed=2 + row)
        for action in actions[:, row]:
            observation, *_ = single.step(action)
        assert np.array_equal(batch.observe(row), observation)
        assert np.array_equal(batch.batch.state[row], single.simulator.batch.state[0])


def test_next_step_autoreset_spends_a_step_without_time_on_the_reset():
    env = above(
        ORDER,
        2,
        [lambda seen: np.zeros((len(seen), 2), np.float32)],
        5,
        mode=AutoresetMode.NEXT_STEP,
        max_episode_steps=5,
    )
    env.reset(seed=0)
    *_, truncated, infos = env.step(np.array([0, 1]))
    assert truncated.all()
    observation, rewards, _, truncated, infos = env.step(np.array([0, 1]))
    assert not truncated.any()
    assert not rewards.any()
    assert infos["elapsed_steps"].tolist() == [0, 0]
    assert np.array_equal(observation, env.simulator.observe())


def test_skills_that_fit_the_task_itself_are_chosen_among():
    still, right = (lambda seen, way=way: np.full((len(seen), 1), way, np.float32) for way in (0.0, 1.0))
    env = above("gantry/CartPoleBalance-v0", 2, [still, right], 10, goals=False)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([0, 1]))
    carts = env.simulator.state.qpos[:, 0]
    assert abs(carts[0]) < 0.3 < carts[1]
    assert [each.name for each in env.action_components] == ["skill 0", "skill 1"] == list(action_names(env))


def test_a_skill_with_a_memory_begins_with_nothing_each_time_it_is_chosen():
    task, count, steps = "gantry/CartPoleBalance-v0", 2, 4
    config = RecurrentPPOConfig(memory_size=8, hidden_sizes=(8,), num_envs=count)
    agents = [RecurrentPPO(make_vec(task, count), config, seed) for seed in (1, 2)]
    alone = make_vec(task, count)
    simulator = make_vec(task, count, autoreset_mode=AutoresetMode.NEXT_STEP).unwrapped
    spaces = simulator.single_observation_space, simulator.single_action_space
    env = SkillsEnv(simulator, [Skill(str(number), each, *spaces) for number, each in enumerate(agents)], steps)
    below, _ = alone.reset(seed=3)
    assert np.array_equal(env.reset(seed=3)[0], below)
    carried = []
    for chosen in np.array([[0, 0], [1, 1], [0, 1], [0, 0]]):
        memories = [None, None]
        for _ in range(steps):
            acted = [agent.policy.act(below, memory) for agent, memory in zip(agents, memories, strict=True)]
            memories = [memory for _, memory in acted]
            below, *_ = alone.step(np.where(chosen[:, None] == 0, acted[0][0], acted[1][0]))
        observation, *_ = env.step(chosen)
        assert np.array_equal(observation, below)
        carried.append(agents[0].policy.act(below, memories[0])[0] - agents[0].policy.act(below)[0])
    assert np.abs(carried).max() > 0.0  # the memory matters


def test_an_agent_above_skills_resumes_its_environment_exactly():
    def learned(stop):
        env = above(ORDER, 4, [towards_target], 15)
        return PPO(env, PPOConfig(gamma=GAMMA, rollout_steps=4, hidden_sizes=(8,)), seed=3).learn(stop)

    whole, half = learned(64), learned(32)
    env = above(ORDER, 4, [towards_target], 15)
    again = PPO(env, half.config, seed=3)
    again.checkpoint.load_state(half.checkpoint.state())
    again.learn(64)
    for name, tensor in whole.checkpoint.state().items():
        assert again.checkpoint.state()[name].equal(tensor), name


def test_house_compass_leads_to_the_nearest_dirt_of_a_room():
    env = make_vec(HOUSE, 6, observation="rooms").unwrapped
    env.reset(seed=0)
    task, levels = env.task, env.state.userdata[:, env.task.dirt]
    cell = task.cell_at(env.state.qpos[:, 0], env.state.qpos[:, 1])
    for goal in range(task.rooms):
        goals = np.full(6, goal)
        compass = task.skill_observation(env.features, goals)[:, 9:]
        reached = task.subgoal_reached(env.features, goals)
        for row in range(6):
            dirty = np.flatnonzero((levels[row] > 0) & (task.plan.room == goal))
            assert reached[row] == (len(dirty) == 0) == (not compass[row].any())
            for way in np.flatnonzero(compass[row]):
                after = task.plan.neighbors[cell[row], way]
                assert task.plan.distances[after, dirty].min() == task.plan.distances[cell[row], dirty].min() - 1


def test_house_is_cleaned_room_by_room_and_episodes_of_an_asked_room_end_when_it_is_clean():
    env = above(HOUSE, 3, [follow_compass], 60, plan="apartment", observation="rooms", dirt=0.05)
    observation, _ = env.reset(seed=1)
    coverage = np.zeros(3)
    for _ in range(5):
        rooms = observation.shape[1] // 2
        observation, _, terminated, _, infos = env.step(observation[:, rooms:].argmax(1))
        coverage = np.maximum(coverage, infos["coverage"])
        if (coverage == 1.0).all():
            break
    assert (coverage == 1.0).all()
    asked = make_vec(HOUSE, 3, plan="apartment", observation="asked", dirt=0.05)
    seen, _ = asked.reset(seed=1)
    for _ in range(30):
        seen, _, terminated, _, infos = asked.step(follow_compass(seen))
        assert np.array_equal(terminated, infos["success"])
        if terminated.any():
            return
    raise AssertionError("no room was cleaned")


def test_targets_count_in_their_order_only():
    env = above(ORDER, 6, [towards_target], 3)
    env.reset(seed=4)
    task, visited, out_of_order = env.simulator.task, np.zeros(6, int), 0
    for step in range(30):
        goals = visited if step > 15 else 2 - visited
        _, rewards, terminated, _, infos = env.step(goals)
        shown = infos["final_obs"] if terminated.any() else env.simulator.observe()
        ways = np.hypot(shown[:, 5:11:2], shown[:, 6:11:2])
        assert (ways[rewards > 0, visited[rewards > 0]] < 0.07).all()
        now = np.rint(3 * infos["visited"]).astype(int)
        assert (now - visited == (infos["objective"])).all()
        assert np.array_equal(terminated, now == 3)
        out_of_order += ((ways[:, 2] < 0.06) & (now < 2)).sum()
        assert np.array_equal(task.terminated(env.simulator.features), np.zeros(6, bool))
        visited = np.where(terminated, 0, now)
    assert out_of_order > 0


# Runs


@pytest.fixture(scope="module")
def skill(tmp_path_factory):
    """The folder of a run in which a skill for `ReachPlanarOrder` was trained, barely."""
    run = Run(tmp_path_factory.mktemp("runs") / "reach")
    train(run, PLANAR, "ppo", PPOConfig(num_envs=4, rollout_steps=8, hidden_sizes=(8,)), 64)
    return run.folder


SMALL = PPOConfig(num_envs=4, rollout_steps=4, hidden_sizes=(8,), gamma=GAMMA)


def test_a_run_carries_its_skills_and_resumes_to_the_same_bytes(skill, tmp_path):
    lent = tmp_path / "lent" / "reach"
    shutil.copytree(skill, lent)
    options = {"skills": [str(lent)], "skill_steps": 6}
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(whole, ORDER, "ppo", SMALL, 96, env_options=options)
    train(parts, ORDER, "ppo", SMALL, 48, env_options=options)
    shutil.rmtree(lent.parent)
    moved = Run(tmp_path / "elsewhere")
    parts.folder.rename(moved.folder)
    agent = resume(moved, 96, say=lambda line: None)
    assert (moved.folder / "policy.safetensors").read_bytes() == (whole.folder / "policy.safetensors").read_bytes()
    here, there = (load_tensors(each.folder / "trainer" / "state.safetensors")[0] for each in (moved, whole))
    assert all(here[name].equal(there[name]) for name in there.keys() | here.keys())
    assert read_json(moved.folder / "config.json")["env_options"]["skills"] == ["files/skills/1/reach"]
    rows = [Run(each.folder).read_metrics()[-1] for each in (whole, moved)]
    assert rows[0]["environment_steps"] == rows[1]["environment_steps"] > 96
    kept = moved.read_config().env_options
    result = evaluate_agent(agent, ORDER, 3, env_options=kept)
    assert result.length_mean > 100  # in steps of the arm
    assert result.used_mean is None
    env = open_env(ORDER, 1, kept, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert action_names(env) == ("reach target 1", "reach target 2", "reach target 3")


def refusal(capsys, *words):
    capsys.readouterr()
    assert main(words) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_what_cannot_be_a_skill_is_refused_in_one_line(skill, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train_order = ("train", ORDER, "--steps", "8")
    assert "no skill at nowhere" in refusal(capsys, *train_order, "--skills", "nowhere")
    line = refusal(capsys, "train", "gantry/CartPoleBalance-v0", "--steps", "8", "--skills", str(skill))
    assert "it does not fit" in line
    line = refusal(capsys, "train", HOUSE, "--steps", "8", "--skills", str(skill))
    assert "acts in" in line
    assert "name one run" in refusal(capsys, *train_order, "--skills", str(skill), str(skill))
    assert "use ppo, dqn" in refusal(capsys, *train_order, "--agent", "recurrent-ppo", "--skills", str(skill))
    assert "must be Discrete" in refusal(capsys, *train_order, "--agent", "q-learning", "--skills", str(skill))
    line = refusal(capsys, *train_order, "--skills", str(skill), "--env", "skill_steps=0")
    assert "skill_steps must be" in line
    planner = tmp_path / "planner"
    save_agent(PETS(make_vec(PLANAR, 1), PlannerConfig()), planner)
    assert "which plans" in refusal(capsys, *train_order, "--skills", str(planner))
    with pytest.raises(GantryError, match="another kind"):
        open_env("CartPole-v1", 2, {"skills": [str(skill)]})


def test_the_discount_within_skills_is_that_of_the_agent():
    env = above(ORDER, 1, [towards_target], gamma=1.0)
    discount_as("q-learning", QLearningConfig(gamma=0.7), env)
    assert env.gamma == 0.7
    assert isinstance(env.single_action_space, gymnasium.spaces.Discrete)


@pytest.mark.slow
def test_benchmark_counts_the_steps_of_skills_and_of_the_level_above(monkeypatch):
    monkeypatch.setattr(skills, "EPISODES", 1)
    task = dataclasses.replace(
        skills.ARM, skill_steps=512, flat_steps=512, every=(256, 40), upper_steps=80, solved=0.0, metric="visited"
    )
    rows = []
    monkeypatch.setitem(skills.TASKS, "tiny", task)
    skills.measure(rows.append, 1, only=["tiny"])
    values = {row.name: row.value for row in rows}
    above, flat = (value for name, value in values.items() if "steps to" in name)
    assert flat == 512
    assert above >= 40
    ratios = [value for name, value in values.items() if "over PPO's" in name]
    assert ratios == [pytest.approx((above + 512) / flat), pytest.approx(above / flat)]
