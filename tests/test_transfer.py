"""From simulation to a real robot: grids of physics, the control loop, logs, identification, the stand-in."""

import dataclasses
import json
import math
import time

import numpy as np
import pytest

from gantry.agents import PPO, PPOConfig, save_agent
from gantry.benchmark.transfer import around
from gantry.cli import main
from gantry.envs import make_vec
from gantry.envs.domain_randomization import Range
from gantry.envs.simulator import make_simulator
from gantry.errors import GantryError
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.folder import Run
from gantry.runs.train import train
from gantry.transfer.identify import Estimate, Identification, identify
from gantry.transfer.log import Log
from gantry.transfer.physics_grid import evaluate_grid, parse_grid
from gantry.transfer.replay import Replay
from gantry.transfer.robot import RealRobot, SimulatedRobot, control, make_robot
from gantry.transfer.stand_in import ENV_ID, StandInRobot

SWING_UP, BALANCE = "gantry/CartPoleSwingUp-v0", "gantry/CartPoleBalance-v0"
SMALL = PPOConfig(num_envs=4, rollout_steps=8, minibatch_size=16, epochs=1, hidden_sizes=(8,))
NOISE = np.array([0.002, 0.005, 0.005, 0.02, 0.05])
TRUTH = {"cart_mass": 1.5, "pole_mass": 0.2, "pole_length": 1.2}
RANGES = {"cart_mass": Range(0.5, 3.0), "pole_mass": Range(0.02, 0.6), "pole_length": Range(0.5, 2.0)}


@pytest.fixture(scope="module")
def agent():
    return PPO(make_vec(SWING_UP, 4), SMALL, seed=1)


def noisy_log(seed=0, episodes=2, steps=100, delay=0, noise=NOISE, physics=None):
    """A log of a cart-pole of the physics `TRUTH`, moved about at random."""
    random = np.random.default_rng(seed)
    env = make_vec(SWING_UP, episodes, physics={**TRUTH, "motor_delay": delay, **(physics or {})})
    observation, _ = env.reset(seed=seed)
    push, observations, actions = np.zeros((episodes, 1)), [], []
    for _ in range(steps):
        push = 0.9 * push + 0.3 * random.normal(size=push.shape)
        action = np.clip(push - 0.5 * observation[:, :1] - 0.3 * observation[:, 3:4], -1.0, 1.0).astype(np.float32)
        observations.append(observation + noise * random.normal(size=observation.shape))
        actions.append(action)
        observation = env.step(action)[0]
    observed, acted = np.stack(observations, 1).reshape(-1, 5), np.stack(actions, 1).reshape(-1, 1)
    return Log(SWING_UP, 50.0, np.repeat(np.arange(episodes), steps), observed, acted)


# Grids


def test_grid_text_reads_as_values():
    text = "cart_mass=0.5..2/4, motor_delay=0..2,pole_length=1|1.5,sensor_noise=0.0..0.4,integrator=euler|rk4"
    assert parse_grid(text) == {
        "cart_mass": [0.5, 1.0, 1.5, 2.0],
        "motor_delay": [0.0, 1.0, 2.0],
        "pole_length": [1.0, 1.5],
        "sensor_noise": pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4]),
        "integrator": ["euler", "rk4"],
    }


def test_grid_point_equals_an_evaluation_of_its_own(agent):
    axes = parse_grid("cart_mass=0.5|2,motor_delay=0..1,substeps=1|2")
    grid = evaluate_grid(agent, SWING_UP, axes, episodes=3, env_options={"max_episode_steps": 20})
    assert grid.scores.shape == (2, 2, 2)
    for index, mass in enumerate((0.5, 2.0)):
        options = {"physics": {"cart_mass": mass, "motor_delay": 1}, "substeps": 2, "max_episode_steps": 20}
        alone = evaluate_agent(agent, SWING_UP, 3, 0, options).score
        assert grid.scores[index, 1, 1] == pytest.approx(alone, rel=1e-4)
    assert len({f"{score:.6f}" for score in grid.scores.flat}) == 8


def test_finer_integration_keeps_the_control_step_and_converges():
    fine, finer, coarse = (
        make_simulator(BALANCE, 2, integrator=name, substeps=steps)
        for name, steps in (("rk4", 10), ("rk4", 40), ("euler", 1))
    )
    for simulator in (fine, finer, coarse):
        simulator.reset(seed=0)
        for _ in range(20):
            simulator.step(np.full((2, 1), 0.3, np.float32))
        assert simulator.control_timestep == pytest.approx(0.02)
    np.testing.assert_allclose(fine.state.time, coarse.state.time)
    error = np.abs(coarse.features - finer.features).max()
    assert np.abs(fine.features - finer.features).max() < 1e-3 * error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cart_mass", "written name=values"),
        ("", "at least one quantity"),
        ("cart_mass=1..2/0", "neither a range"),
        ("cart_mass=a..b", "neither a range"),
        ("cart_mass=1,cart_mass=2", "twice"),
        ("cart_mass=0.5..2/1000,pole_mass=0.05..1/1000", "at most"),
        ("cart_mas=1|2", "did you mean cart_mass"),
        ("cart_mass=1|2000", "must lie in"),
        ("motor_delay=0.5|1", "whole number"),
        ("integrator=leapfrog", "integrator must be one of"),
        ("substeps=1|1.5", "whole numbers, not 1.5"),
    ],
)
def test_bad_grids_get_one_line(agent, text, message):
    with pytest.raises(GantryError, match=message):
        evaluate_grid(agent, SWING_UP, parse_grid(text), 1, env_options={"max_episode_steps": 2})


@pytest.mark.parametrize("episodes", [0, 10**12, 10**30])
def test_numbers_of_episodes_out_of_range_get_one_line(agent, episodes):
    with pytest.raises(GantryError, match="the number of episodes must be from 1 to 100000"):
        evaluate_grid(agent, SWING_UP, parse_grid("cart_mass=1|2"), episodes)


# Robots and logs


class Slow:
    """A robot that answers late in one of its steps."""

    rate, env_id = 500.0, SWING_UP

    def __init__(self):
        self.calls, self.actions = 0, []

    def reset(self):
        self.calls = 0

    def observe(self):
        self.calls += 1
        if self.calls == 5:
            time.sleep(0.05)
        return np.zeros(5)

    def act(self, action):
        self.actions.append(action)


class Broken(Slow):
    """A robot whose driver fails."""

    def act(self, action):
        raise OSError("the cable is off")


def test_control_loop_reports_missed_deadlines(agent):
    robot = Slow()
    driven = control(robot, agent, 0.02, real_time=False)
    assert isinstance(robot, RealRobot)
    assert not isinstance(robot, SimulatedRobot)
    assert len(robot.actions) == 10
    assert driven.missed >= 1
    assert driven.longest >= 0.05
    assert driven.score is None


def test_control_loop_waits_for_its_time(agent):
    began = time.perf_counter()
    control(Slow(), agent, 0.1)
    assert time.perf_counter() - began >= 0.099


def test_episodes_may_be_longer_than_the_drive(agent):
    assert control(Slow(), agent, 0.02, 1e300, real_time=False).log.episodes.tolist() == [0] * 10


def test_failing_robot_gets_one_line(agent):
    with pytest.raises(GantryError, match="failed in step 1: OSError: the cable is off"):
        control(Broken(), agent, 1.0)


@pytest.mark.parametrize("changes", [{"seconds": 1e300}, {"seconds": math.nan}, {"seed": -1}, {"explore": math.inf}])
def test_drives_out_of_range_get_one_line(agent, changes):
    with pytest.raises(GantryError, match="a drive takes"):
        control(Broken(), agent, **{"seconds": 1.0, **changes})


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "module:Class"), ("no_module:Robot", "cannot make"), ("gantry.errors:GantryError", "cannot make"),
     ("collections:OrderedDict", "is not a robot: it has no rate")],
)  # fmt: skip
def test_what_is_no_robot_gets_one_line(name, message):
    with pytest.raises(GantryError, match=message):
        make_robot(name)


def test_stand_in_is_deterministic_noisy_and_late(agent):
    one, other = (control(StandInRobot(3), agent, 0.4, 0.2, explore=0.5).log for _ in range(2))
    np.testing.assert_array_equal(one.observations, other.observations)
    assert len(set(one.episodes.tolist())) == 2
    env = make_simulator(ENV_ID, 3)
    env.reset(seed=0)
    features = env.features
    others = [0, 2, 3, 4]  # a cosine near -1 is clipped there
    np.testing.assert_allclose((env.observe() - features[:, :5])[:, others], features[:, 5:][:, others], atol=1e-6)
    assert (np.abs(features[:, 5:]) > 0).all()
    # A command acts from 12 ms into the control step after its own, and first takes up the play.
    moved = []
    for _ in range(3):
        before = env.features[:, 3]
        env.step(np.ones((3, 1), np.float32))
        moved.append(np.abs(env.features[:, 3] - before))
    assert (np.array(moved[:2]) < 1e-3).all()
    assert (moved[2] > 1e-2).all()


def test_stand_in_that_is_reset_forgets_the_command_on_its_way():
    env = make_simulator(ENV_ID, 2)
    env.reset(seed=0)
    env.step(np.ones((2, 1), np.float32))
    env.reset(options={"reset_mask": np.array([True, False])})
    before = env.features[:, 3]
    for _ in range(2):
        env.step(np.zeros((2, 1), np.float32))
    moved = np.abs(env.features[:, 3] - before)
    assert moved[0] < 1e-3 < 1e-2 < moved[1]


def test_log_round_trip_and_damage(tmp_path):
    log, path = noisy_log(steps=30), tmp_path / "log.csv"
    log.write(path)
    read = Log.read(path)
    np.testing.assert_allclose(read.observations, log.observations, rtol=1e-8)
    np.testing.assert_array_equal(read.episodes, log.episodes)
    assert (read.env_id, read.rate, read.seconds) == (SWING_UP, 50.0, 1.2)
    text = path.read_text()
    for wrong in ("", "a,b\n1,2\n3,4", text.replace("observation 0", "x"), text + "1,2\n", text + "0,nan,0,0,0,0,0\n"):
        path.write_text(wrong)
        with pytest.raises(GantryError, match=r"not a log|damaged"):
            Log.read(path)
    with pytest.raises(GantryError, match="cannot read"):
        Log.read(tmp_path / "none.csv")


# Identification


def test_replay_reproduces_what_was_logged():
    log = noisy_log(delay=2, noise=0.0, physics={"delay_fraction": 0.25, "rail_friction": 0.8})
    replay = Replay(log, [*TRUTH, "motor_delay", "rail_friction"], 25)
    segments = np.arange(len(replay.measured))
    physics = np.tile([*TRUTH.values(), 2.25, 0.8], (len(segments), 1))
    predicted = replay.simulate(segments, physics, replay.initial)
    np.testing.assert_allclose(predicted, replay.measured, atol=2e-4)
    for column, wrong in ((3, 1.25), (4, 0.0)):
        changed = physics.copy()
        changed[:, column] = wrong
        assert np.abs(replay.simulate(segments, changed, replay.initial) - replay.measured).max() > 0.05


@pytest.mark.slow
def test_identification_recovers_hidden_physics():
    ranges = {"cart_mass": RANGES["cart_mass"], "pole_length": RANGES["pole_length"], "motor_delay": Range(0, 1)}
    ranges["motor_sign"] = Range(-1, 1)
    log = noisy_log(delay=1, steps=150, physics={"pole_mass": 0.1, "motor_sign": -1.0})
    found = identify(log, ranges, segment_seconds=0.5)
    for estimate in found.estimates:
        true = {**TRUTH, "motor_sign": -1.0}.get(estimate.name, 1.0)
        assert estimate.value == pytest.approx(true, rel=0.05)
        half = (estimate.high - estimate.low) / 2
        assert abs(estimate.value - true) <= 3.0 * half
    np.testing.assert_allclose(found.noise, NOISE, rtol=0.3)
    assert "motor_delay=1" in found.randomization()
    json.dumps(found.to_json())


def test_what_cannot_be_identified_gets_one_line():
    log = noisy_log(steps=60)

    def message(log, ranges):
        with pytest.raises(GantryError) as error:
            identify(log, ranges, segment_seconds=0.4)
        return str(error.value)

    assert "did you mean cart_mass" in message(log, {"cart_mas": Range(0.5, 2.0)})
    assert "must be a range within" in message(log, {"cart_mass": Range(0.5, 2000.0)})
    assert "name the quantities" in message(log, {})
    wide = Log(log.env_id, 50.0, log.episodes, log.observations[:, :4], log.actions)
    assert "another robot: 4 numbers in each observation" in message(wide, RANGES)
    assert "at 100 Hz" in message(Log(log.env_id, 100.0, log.episodes, log.observations, log.actions), RANGES)
    assert "cannot be replayed" in message(Log("gantry/Vacuum-v0", 50.0, log.episodes, log.observations, log.actions),
                                           {"mass": Range(0.5, 2.0)})  # fmt: skip
    assert "not one of Gantry's tasks" in message(dataclasses.replace(log, env_id="CartPole-v1"), RANGES)
    assert "too short" in message(noisy_log(steps=5), RANGES)
    # Masses and the motor's strength only show in their ratio.
    assert "does not tell" in message(log, {"mass": Range(0.5, 2.0), "gear": Range(0.5, 2.0)})


# Commands


@pytest.mark.parametrize(
    "changes",
    [{"segment_seconds": math.nan}, {"segment_seconds": math.inf}, {"segment_seconds": 0.0}, {"seed": -1},
     {"seed": 10**30}, {"confidence": math.nan}],
)  # fmt: skip
def test_identifications_out_of_range_get_one_line(changes):
    with pytest.raises(GantryError, match=r"segments take|between 0 and 1"):
        identify(noisy_log(steps=3), {"cart_mass": Range(0.5, 2.0)}, **changes)


def test_commands_grid_drive_and_identify(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train(Run("run"), SWING_UP, "ppo", SMALL, 64)
    words = ["--physics", "cart_mass=0.5..2.0/2,integrator=euler|rk4,motor_delay=0..1", "--episodes", "1"]
    assert main(["transfer", "run", *words, "--env", "max_episode_steps=5", "--out", "grid.png"]) == 0
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"
    drive = ["drive", "run", "--seconds", "2", "--episode-seconds", "1", "--explore", "0.5", "--log", "log.csv"]
    assert main(drive) == 0
    assert main(["identify", "log.csv", "--physics", "cart_mass=0.5..4", "--segment-seconds", "0.5", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    assert found["estimates"][0]["name"] == "cart_mass"
    assert found["randomize"].startswith("cart_mass=")
    assert {"cart velocity", "m/s"} <= {cell.strip() for cell in printed.err.replace("\n", "│").split("│")}
    words = ["evaluate", "run", "--episodes", "1", "--max-steps", "3", "--env-id"]
    assert main([*words, f"gantry.transfer.stand_in:{ENV_ID}"]) == 0
    assert "stand_in" in capsys.readouterr().out
    assert main([*words, "gantry/ReachPlanar-v0"]) == 1
    assert "other observations or actions" in capsys.readouterr().err
    train(Run("other"), BALANCE, "ppo", SMALL, 64)
    assert main(["drive", "other", "--seconds", "1"]) == 1
    assert "and the robot is" in capsys.readouterr().err
    assert main(["identify", "log.csv", "--physics", "cart_mass=2"]) == 1


def test_policy_scores_on_the_stand_in(agent, tmp_path):
    save_agent(agent, tmp_path)
    assert 0.0 <= evaluate_agent(agent, ENV_ID, 2, 0, {"max_episode_steps": 20}).score <= 1000.0


# Benchmark


def test_benchmark_randomizes_around_what_was_identified():
    estimates = (
        Estimate("cart_mass", 2.0, 1.9, 2.1, "kg"),
        Estimate("rail_friction", 0.1, 0.05, 0.15, "N"),
        Estimate("motor_delay", 1.62, 1.61, 1.63, "control steps"),
    )
    found = Identification(SWING_UP, estimates, (0.1,) * 5, 0.9, 10, 0, 60.0)
    expected = {"cart_mass": "1..3", "rail_friction": "0..0.6", "motor_delay": "1", "delay_fraction": "0.52..0.72"}
    assert around(found) == {**expected, "sensor_noise": "0..0.02"}
    for value, physics in ((0.98, "motor_delay=1"), (1.01, "motor_delay=1,delay_fraction=0..0.02")):
        nearly = dataclasses.replace(estimates[2], value=value, low=value - 0.01, high=value + 0.01)
        assert dataclasses.replace(found, estimates=(nearly,)).randomization() == physics
