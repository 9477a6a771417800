import json

import mujoco
import numpy as np
import pytest

from gantry.cli import main
from gantry.envs.simulator import make_simulator
from gantry.errors import GantryError
from gantry.optimal_control.finite_differences import jacobians
from gantry.optimal_control.simulator_dynamics import RewardCost, SimulatedDynamics
from gantry.optimal_control.solve import Playback, ilqr_score, solve
from gantry.optimal_control.trajectory import TrajectoryConfig, TrajectoryPlanner
from gantry.runs.evaluate import evaluate
from gantry.runs.seeds import environment_seed

ARMS = ("gantry/ReachPlanar-v0", "gantry/Reach-v0")
SOLVED = ("gantry/CartPoleSwingUp-v0", *ARMS)
QUICK = TrajectoryConfig(arrival_times=(1.2,), candidates=1)


def moving(environment: str, steps: int = 6, **options):
    """Dynamics, and some transitions of an episode under random controls: (steps + 1, n) and (steps, p)."""
    dynamics = SimulatedDynamics(environment, options)
    simulator = make_simulator(environment, 1, **options)
    simulator.reset(seed=5)
    states = [dynamics.begin_episode(simulator.batch.state[0])]
    controls = np.random.default_rng(0).uniform(-0.9, 0.9, (steps, len(dynamics.low)))
    for row in controls:
        states.append(dynamics.step(states[-1][None], row[None])[0])
    return dynamics, np.array(states), controls


# The simulator as a function


@pytest.mark.parametrize("environment", SOLVED)
def test_dynamics_step_matches_environment(environment):
    dynamics, states, controls = moving(environment)
    simulator = make_simulator(environment, 1)
    simulator.reset(seed=5)
    joints = dynamics.joints
    for row, after in zip(controls.astype(np.float32), states[1:], strict=True):
        simulator.step(row[None])
        np.testing.assert_allclose(simulator.state.qpos[0], after[:joints], atol=1e-6)
        np.testing.assert_allclose(simulator.state.qvel[0], after[joints : 2 * joints], atol=1e-5)
        if environment == "gantry/Reach-v0":
            np.testing.assert_allclose(simulator.state.ctrl[0], after[2 * joints :], atol=1e-6)
    assert dynamics.has_setpoints == (environment == "gantry/Reach-v0")
    # A function: the same states give the same, in any number and order.
    whole = dynamics.step(np.tile(states[:-1], (300, 1)), np.tile(controls, (300, 1)))
    assert np.array_equal(whole, np.tile(states[1:], (300, 1)))


@pytest.mark.parametrize("environment", ["gantry/CartPoleSwingUp-v0", "gantry/ReachPlanar-v0"])
def test_dynamics_derivatives_match_mjd_transition_fd(environment):
    dynamics, states, controls = moving(environment)
    model = dynamics.model
    data, size = mujoco.MjData(model), 2 * model.nv
    a, b = dynamics.derivatives(states[:-1], controls)
    for step, control in enumerate(controls):
        mujoco.mj_setState(model, data, dynamics.origin, mujoco.mjtState.mjSTATE_INTEGRATION)
        data.qpos[:], data.qvel[:], data.ctrl[:] = states[step, : model.nq], states[step, model.nq :], control
        whole_a, whole_b = np.eye(size), np.zeros((size, model.nu))
        for _ in range(dynamics.task.decimation):
            part_a, part_b = np.zeros((size, size)), np.zeros((size, model.nu))
            mujoco.mjd_transitionFD(model, data, 1e-6, True, part_a, part_b, None, None)
            whole_a, whole_b = part_a @ whole_a, part_a @ whole_b + part_b
            mujoco.mj_step(model, data)
        np.testing.assert_allclose(a[step], whole_a, atol=1e-6)
        np.testing.assert_allclose(b[step], whole_b, atol=1e-6)


@pytest.mark.parametrize("control", ["position", "torque"])
def test_dynamics_derivatives_predict_small_changes(control):
    dynamics, states, controls = moving("gantry/Reach-v0", control=control)
    assert dynamics.has_setpoints == (control == "position")
    a, b = dynamics.derivatives(states[:-1], controls)
    random, width = np.random.default_rng(1), 1e-4
    dx, du = width * random.normal(size=states[:-1].shape), width * random.normal(size=controls.shape)
    ahead = dynamics.step(states[:-1] + dx, controls + du)
    back = dynamics.step(states[:-1] - dx, controls - du)
    predicted = np.einsum("tij,tj->ti", a, dx) + np.einsum("tij,tj->ti", b, du)
    np.testing.assert_allclose((ahead - back) / 2, predicted, atol=1e-3 * np.abs(predicted).max())


def test_dynamics_derivatives_at_control_limits():
    dynamics, states, _ = moving("gantry/CartPoleSwingUp-v0", steps=1)
    inside = dynamics.derivatives(states[:1], np.zeros((1, 1)))[1]
    for limit in (-1.0, 1.0):
        np.testing.assert_allclose(dynamics.derivatives(states[:1], np.full((1, 1), limit))[1], inside, rtol=1e-3)


def test_diverging_state_is_nan_and_isolated():
    dynamics, states, _ = moving("gantry/CartPoleSwingUp-v0", steps=1)
    wild = states[:1] + np.array([0.0, 0.0, 1e200, 0.0])
    pair = np.concatenate([wild, states[:1]])
    after = dynamics.step(pair, np.zeros((2, 1)))
    assert np.isnan(after[0]).all()
    assert np.array_equal(after[1], dynamics.step(states[:1], np.zeros((1, 1)))[0])
    assert np.array_equal(dynamics.step(pair[::-1], np.zeros((2, 1)))[0], after[1])


# The reward as a cost


@pytest.mark.parametrize("environment", SOLVED)
def test_reward_cost_is_negative_reward(environment):
    dynamics, states, controls = moving(environment)
    costs = RewardCost(dynamics).values(states[:-1], controls, states[1:])
    simulator = make_simulator(environment, 1)
    simulator.reset(seed=5)
    rewards = [simulator.step(row[None].astype(np.float32))[1][0] for row in controls]
    np.testing.assert_allclose(costs, -np.array(rewards), atol=1e-5)


@pytest.mark.parametrize("environment", SOLVED)
def test_reward_cost_derivatives_match_finite_differences(environment):
    dynamics, states, controls = moving(environment, steps=12)
    cost = RewardCost(dynamics)
    gradients, hessians = cost.derivatives(states[:-1], controls, states[1:])
    size, count = states.shape[1], controls.shape[1]

    def values(points):
        return cost.values(points[:, :size], points[:, size : size + count], points[:, size + count :])[:, None]

    points = np.concatenate([states[:-1], controls, states[1:]], axis=1)
    differences = jacobians(values, points, 2e-3)[:, 0]
    np.testing.assert_allclose(gradients, differences, atol=0.01 * np.abs(differences).max())
    # The Hessians, from the gradients on both sides.
    direction = np.random.default_rng(0).normal(size=points.shape[1])
    sides = []
    for width in (0.02, -0.02):
        moved = points + width * direction
        sides.append(cost.derivatives(moved[:, :size], moved[:, size : size + count], moved[:, size + count :])[0])
    bends = (sides[0] - sides[1]) / 0.04
    np.testing.assert_allclose(hessians @ direction, bends, atol=0.05 * np.abs(bends).max())


def test_reward_cost_hessian_at_upright_matches_formula():
    dynamics = SimulatedDynamics("gantry/CartPoleBalance-v0")
    upright, still = np.zeros((1, 4)), np.zeros((1, 1))
    gradient, hessian = RewardCost(dynamics).derivatives(upright, still, upright)
    # (1 + cos θ)/2 · (4 + 1 − u²)/5 · (1 + 0.1^(x²/4))/2 · (1 + 0.1^(θ̇²/25))/2, all 1 at the top
    expected = np.diag([0, 0, 0, 0, 0.4, np.log(10) / 4, 0.5, 0.0, np.log(10) / 25])
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)
    np.testing.assert_allclose(hessian[0], expected, atol=2e-3)


# LQR in the simulator


@pytest.mark.parametrize("tilt", [-0.3, -0.1, 0.1, 0.3])
def test_lqr_controller_balances_simulated_cart_pole(tilt):
    dynamics = SimulatedDynamics("gantry/CartPoleBalance-v0")
    simulator = dynamics.simulator(1)
    simulator.reset(seed=0)
    simulator.state.qpos[0], simulator.state.qvel[0] = (0.2, tilt), 0.0
    start = dynamics.begin_episode(simulator.batch.state[0])
    controller = TrajectoryPlanner(dynamics, 500, TrajectoryConfig()).lqr_controller(start)
    assert np.array_equal(controller.goal, np.zeros(4))
    actions = dynamics.rollout(controller, 500)
    assert np.abs(actions).max() <= 1.0
    end = np.concatenate([dynamics.simulator(1).state.qpos[0], dynamics.simulator(1).state.qvel[0]])
    np.testing.assert_allclose(end, 0.0, atol=0.01)


@pytest.mark.parametrize("environment", ARMS)
def test_lqr_goal_is_equilibrium_on_target(environment):
    dynamics, states, _ = moving(environment, steps=1)
    goal = TrajectoryPlanner(dynamics, 10, TrajectoryConfig()).lqr_controller(states[0]).goal[None]
    cost = RewardCost(dynamics).values(goal, np.zeros((1, len(dynamics.low))), goal)[0]
    assert cost == pytest.approx(-1.0, abs=1e-4)
    after = dynamics.step(goal, np.zeros((1, len(dynamics.low))))
    np.testing.assert_allclose(after, goal, atol=1e-6)
    low, high = dynamics.model.jnt_range[dynamics.model.jnt_limited.astype(bool)].T
    limited = goal[0, : dynamics.joints][dynamics.model.jnt_limited.astype(bool)]
    assert ((limited >= low) & (limited <= high)).all()


# Whole episodes


def test_ilqr_solves_swing_up_and_warm_starts_second_episode():
    result = solve("gantry/CartPoleSwingUp-v0", "ilqr", episodes=2, config=QUICK)
    assert result.evaluation.score > 880
    assert all((np.diff(curve) > 0).all() for curve in result.planned_scores)
    assert result.evaluation.score == pytest.approx(np.mean([curve[-1] for curve in result.planned_scores]), abs=0.1)
    assert np.abs(result.actions).max() <= 1.0
    again = evaluate(Playback(result.actions).act, "gantry/CartPoleSwingUp-v0", 2, 0)
    assert again.score == result.evaluation.score
    assert result.planned_scores[1][0] > 870
    assert len(result.planned_scores[1]) < len(result.planned_scores[0])


def test_ilqr_beats_lqr():
    regulator = solve("gantry/ReachPlanar-v0", "lqr", episodes=1)
    config = TrajectoryConfig(candidates=1)
    planned = solve("gantry/ReachPlanar-v0", "ilqr", episodes=1, config=config)
    assert planned.evaluation.success == 1.0
    assert planned.evaluation.score > regulator.evaluation.score > 900


def test_ilqr_is_deterministic():
    options = {"max_episode_steps": 40}
    planned, again = (
        solve("gantry/ReachPlanar-v0", "ilqr", episodes=1, config=QUICK, env_options=options) for _ in range(2)
    )
    assert np.array_equal(planned.actions, again.actions)
    assert planned.planned_scores == again.planned_scores


@pytest.mark.slow
def test_ilqr_reaches_targets_with_seven_joints():
    for control in ("position", "torque"):
        result = solve("gantry/Reach-v0", "ilqr", episodes=2, env_options={"control": control})
        assert result.evaluation.success == 1.0
        assert result.evaluation.score > 800


def test_ilqr_score():
    assert ilqr_score("gantry/CartPoleBalance-v0", episodes=1) > 999.5


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ("gantry/CartPoleSwingUpSparse-v0", {}, "this one is flat"),
        ("gantry/ReachGoal-v0", {}, "this one is flat"),
        ("gantry/CartPoleBalance-v0", {"actions": "discrete"}, "continuous actions"),
        ("gantry/Vacuum-v0", {}, "continuous actions"),
        ("gantry/VacuumDrive-v0", {}, "without state beside its joints"),
        ("Pendulum-v1", {}, "a task that Gantry simulates"),
        ("gantry/CartPoleBalance-v0", {"physics": {"cart_mass": "0.5..2"}}, "give cart_mass as a number"),
        ("gantry/CartPoleBalance-v0", {"physics": {"motor_delay": 1}}, "leave it out"),
        ("gantry/CartPoleBalance-v0", {"trial": 2}, "leave out trial"),
        ("gantry/CartPoleBalance-v0", {"disturb": "pushes"}, "leave out disturb"),
    ],
)
def test_solve_refuses_unsuitable_environments_in_one_line(environment, options, message):
    with pytest.raises(GantryError, match=message) as error:
        solve(environment, "lqr", 1, env_options=options)
    assert "\n" not in str(error.value)


def test_solve_refuses_bad_settings_in_one_line():
    with pytest.raises(GantryError, match="number of episodes"):
        solve("gantry/CartPoleBalance-v0", "lqr", 0)
    with pytest.raises(GantryError, match="did you mean ilqr"):
        solve("gantry/CartPoleBalance-v0", "ilqrr", 1)
    with pytest.raises(GantryError, match="must be positive"):
        TrajectoryConfig(control_cost=0.0)
    with pytest.raises(GantryError, match="arrival_times"):
        TrajectoryConfig(arrival_times=(1.0, -1.0))


def test_solve_command_prints_table_plots_and_films(capsys, tmp_path):
    plot, film = tmp_path / "convergence.png", tmp_path / "balance.mp4"
    words = [
        "CartPoleBalance-v0",
        "--episodes",
        "1",
        "--plot",
        str(plot),
        "--film",
        str(film),
        "--size",
        "64",
        "48",
        "--speed",
        "20",
    ]
    assert main(["solve", *words, "--json"]) == 0
    captured = capsys.readouterr()
    methods = json.loads(captured.out.splitlines()[-1])["methods"]
    assert [method["method"] for method in methods] == ["lqr", "ilqr"]
    assert methods[1]["score"] >= methods[0]["score"] > 999
    assert methods[1]["planned_scores"][0][-1] == pytest.approx(methods[1]["score"], abs=0.1)
    assert "optimal control in gantry/CartPoleBalance-v0" in captured.err
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert film.stat().st_size > 1000
    said = next(line for line in captured.err.splitlines() if line.startswith(str(film)))
    assert f"score {methods[1]['score']:.1f}" in said  # the film shows the episode that was scored


def test_solve_command_refuses_other_file_types(capsys):
    assert main(["solve", "CartPoleBalance-v0", "--film", "a.png"]) == 1
    assert main(["solve", "CartPoleBalance-v0", "--plot", "a.mp4"]) == 1
    assert capsys.readouterr().err.count("its name must end in") == 2
    assert main(["solve", "CartPoleBalance-v0", "--plot", "a.png", "--method", "lqr"]) == 1
    assert "lqr has none" in capsys.readouterr().err


def test_solve_plans_evaluation_episodes():
    dynamics = SimulatedDynamics("gantry/CartPoleBalance-v0")
    simulator = dynamics.simulator(2)
    simulator.reset(seed=environment_seed("evaluation", 3, 2))
    result = solve("gantry/CartPoleBalance-v0", "lqr", episodes=2, seed=3)
    rewards = []
    for row, origin in enumerate(simulator.batch.state.copy()):
        state = dynamics.begin_episode(origin)[None]
        cost = 0.0
        for action in result.actions[row].astype(np.float64):
            after = dynamics.step(state, action[None])
            cost += RewardCost(dynamics).values(state, action[None], after)[0]
            state = after
        rewards.append(-2 * cost)
    assert result.evaluation.score == pytest.approx(np.mean(rewards), abs=0.01)
