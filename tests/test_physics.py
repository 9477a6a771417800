"""Physics that differ from row to row: what each quantity does, how it is drawn, and what saving knows of it."""

import csv
import json
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from scipy import stats
from test_simulator import assert_same, assert_same_state, forceful_actions, run

from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.cli.options import env_options
from gantry.envs.disturbances import add_balls
from gantry.envs.domain_randomization import Range
from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.cart_pole import CartPole
from gantry.envs.tasks.reach import HOME, Reach
from gantry.errors import GantryError
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.train import build_agent, resume, train

ID = "gantry/CartPoleSwingUp-v0"
QUANTITIES = {**CartPole.common_physics, **CartPole.physics}
SEED = 21

GIVEN = {
    "mass": [0.2, 0.7, 1.0, 5.0],
    "damping": [0.0, 1.0, 13.0, 100.0],
    "friction": [0.0, 0.4, 1.0, 10.0],
    "gear": [0.1, 0.8, 1.0, 10.0],
    "gravity_tilt": [0.0, 4.0, 17.0, 30.0],
    "motor_delay": [0, 1, 5, 20],
    "delay_fraction": [0.0, 0.25, 0.5, 1.0],
    "sensor_noise": [0.0, 0.01, 1.0, 10.0],
    "pole_length": [0.1, 0.6, 1.0, 4.0],
    "pole_mass": [0.001, 0.1, 0.5, 10.0],
    "cart_mass": [0.1, 0.8, 1.0, 100.0],
    "motor_sign": [-1.0, 1.0, 1.0, -1.0],
    "rail_friction": [0.0, 0.5, 2.0, 10.0],
}
"""From the least to the greatest value that is accepted, one a row."""
ROWS = 4

RANGES: dict[str, str | Range] = {
    "mass": "0.5..2.0",
    "damping": Range(0.0, 50.0),
    "friction": "0.2..4",
    "gear": "0.6..1.5",
    "gravity_tilt": "0..12",
    "motor_delay": "0..3",
    "delay_fraction": "0..1",
    "sensor_noise": "0.01..0.05",
    "pole_length": Range(0.5, 1.5),
    "pole_mass": "0.05..0.3",
    "cart_mass": "0.5..2.0",
    "motor_sign": "-1..1",
    "rail_friction": "0..2",
}


def test_the_tables_above_cover_every_quantity():
    assert GIVEN.keys() == RANGES.keys() == QUANTITIES.keys()
    for name, values in GIVEN.items():
        assert (min(values), max(values)) == (QUANTITIES[name].low, QUANTITIES[name].high)


# What each quantity does


def serial_features(model: mujoco.MjModel, start: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """The cart-pole's features (T, 5) by a plain `mj_step` loop from a start (4,) under controls (T,)."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = start[:2], start[2:]
    states = np.empty((len(controls), 4))
    for t, control in enumerate(controls):
        data.ctrl[0] = control
        mujoco.mj_step(model, data, 2)
        states[t] = [*data.qpos, *data.qvel]
    x, angle, speed, turning = states.T
    return np.stack(
        [x, np.cos(angle.astype(np.float32)), np.sin(angle.astype(np.float32)), speed, turning], axis=1
    ).astype(np.float32)


@pytest.mark.parametrize("names", [*([name] for name in GIVEN), list(GIVEN)], ids=lambda names: "+".join(names)[:20])
def test_a_row_of_given_physics_equals_a_serial_loop_on_its_own_model_bit_for_bit(names):
    given = {name: GIVEN[name] for name in names}
    simulator = make_simulator(ID, ROWS, max_episode_steps=None, physics=given)
    actions = forceful_actions(ROWS, 150)
    _, infos = simulator.reset(seed=SEED)
    start = np.concatenate([simulator.state.qpos, simulator.state.qvel], axis=1)
    features = np.array([(simulator.step(action), simulator.features)[1] for action in actions])
    for row in range(ROWS):
        assert all(infos["physics"][name][row] == given[name][row] for name in names)
        delay = int(given.get("motor_delay", [0] * ROWS)[row])
        controls = np.concatenate([np.zeros(delay + 1, np.float32), np.clip(actions[: 150 - delay, row, 0], -1, 1)])
        share = np.float32(given.get("delay_fraction", [0.0] * ROWS)[row])
        controls = (1 - share) * controls[1:] + share * controls[:-1]
        expected = serial_features(simulator.batch.get_model(row), start[row], controls)
        assert np.array_equal(features[:, row], expected), row


def cart_pole_specification(balls: bool = False) -> mujoco.MjSpec:
    specification = CartPole().load_specification()
    if balls:
        add_balls(specification, CartPole.disturbance_target)
    return specification


def scale_masses(specification: mujoco.MjSpec, factor: float) -> None:
    for geom in specification.geoms:
        geom.mass = geom.mass * factor


def scale_damping(specification: mujoco.MjSpec, factor: float) -> None:
    for joint in specification.joints:
        joint.damping = joint.damping * factor


def scale_friction(specification: mujoco.MjSpec, factor: float) -> None:
    for geom in specification.geoms:
        geom.friction[0] = geom.friction[0] * factor


def scale_gear(specification: mujoco.MjSpec, factor: float) -> None:
    for actuator in specification.actuators:
        actuator.gear = np.asarray(actuator.gear) * factor


def set_pole_length(specification: mujoco.MjSpec, length: float) -> None:
    specification.geom("pole").fromto = [0, 0, 0, 0, 0, length]


def set_rail_friction(specification: mujoco.MjSpec, friction: float) -> None:
    specification.joint("slider").frictionloss = friction


def set_mass_of(name: str):
    def edit(specification: mujoco.MjSpec, mass: float) -> None:
        specification.geom(name).mass = mass

    return edit


EDITS = {
    "mass": scale_masses,
    "damping": scale_damping,
    "friction": scale_friction,
    "gear": scale_gear,
    "pole_length": set_pole_length,
    "pole_mass": set_mass_of("pole"),
    "cart_mass": set_mass_of("cart"),
    "rail_friction": set_rail_friction,
}
"""What each quantity means, in MuJoCo's own terms: an edit of the specification before it is compiled."""


def random_states(model: mujoco.MjModel, count: int, rng: np.random.Generator) -> list[mujoco.MjData]:
    """States of motion and control all over; where there are balls, each slides on the floor or touches the cart."""
    result = []
    for _ in range(count):
        data = mujoco.MjData(model)
        data.qpos[:2] = rng.uniform(-1.9, 1.9), rng.uniform(-np.pi, np.pi)
        data.qvel[:] = rng.normal(0.0, 2.0, model.nv)
        data.ctrl[:] = rng.uniform(-1.0, 1.0)
        if model.nq > 2:
            data.qpos[[4, 11]] = 0.0095  # 0.5 mm into the floor
            data.qpos[16:19] = data.qpos[0] + 0.1, 0.0, 1.159  # and 1 mm into the cart's top
        result.append(data)
    return result


def acceleration(model: mujoco.MjModel, state: mujoco.MjData) -> np.ndarray:
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = state.qpos, state.qvel, state.ctrl
    mujoco.mj_forward(model, data)
    return data.qacc.copy()


def assert_same_mechanics(model: mujoco.MjModel, expected: mujoco.MjModel) -> None:
    for field in ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "geom_rbound"):
        np.testing.assert_allclose(getattr(model, field), getattr(expected, field), rtol=1e-10, err_msg=field)
    for state in random_states(expected, 20, np.random.default_rng(1)):
        right = acceleration(expected, state)
        assert np.abs(acceleration(model, state) - right).max() <= 1e-10 * np.abs(right).max()


@pytest.mark.parametrize("name", list(EDITS))
def test_a_row_moves_as_the_model_compiled_with_that_change_does(name):
    balls = name == "friction"  # the cart-pole alone touches nothing
    simulator = make_simulator(ID, ROWS, physics={name: GIVEN[name]}, disturb="balls" if balls else None)
    simulator.reset(seed=SEED)
    unchanged = cart_pole_specification(balls).compile()
    state = random_states(unchanged, 1, np.random.default_rng(1))[0]
    seen = []
    for row, value in enumerate(GIVEN[name]):
        specification = cart_pole_specification(balls)
        EDITS[name](specification, value)
        assert_same_mechanics(simulator.batch.get_model(row), specification.compile())
        seen.append(acceleration(simulator.batch.get_model(row), state))
    assert len({tuple(each) for each in seen}) == ROWS, "every value should make a difference"


def arm_specification(damping: float = 1.0, strength: float = 1.0) -> mujoco.MjSpec:
    specification = Reach().load_specification()
    for joint in specification.joints:
        joint.damping = joint.damping * damping
        joint.actfrcrange = joint.actfrcrange * strength
    for drive in specification.actuators:
        drive.gainprm[0] *= strength
        drive.biasprm[1:3] *= strength
        drive.forcerange = drive.forcerange * strength
    return specification


@pytest.mark.parametrize("name", ["damping", "gear"])
def test_an_arm_of_servos_moves_as_the_model_compiled_with_that_change_does(name):
    simulator = make_simulator("gantry/Reach-v0", ROWS, physics={name: GIVEN[name]})
    simulator.reset(seed=SEED)
    rng = np.random.default_rng(3)
    data = mujoco.MjData(arm_specification().compile())
    data.qpos[:] = HOME
    data.qvel[:], data.ctrl[:] = rng.normal(0.0, 1.0, 7), HOME + rng.normal(0.0, 0.02, 7)
    seen = []
    for row, value in enumerate(GIVEN[name]):
        specification = arm_specification(**{"damping" if name == "damping" else "strength": value})
        expected = acceleration(specification.compile(), data)
        seen.append(acceleration(simulator.batch.get_model(row), data))
        assert np.abs(seen[row] - expected).max() <= 1e-10 * np.abs(expected).max()
    assert len({tuple(each) for each in seen}) == ROWS, "every value should make a difference"


def test_the_strength_of_servos_leaves_where_they_go():
    simulator = make_simulator("gantry/Reach-v0", 3, physics={"gear": [0.6, 1.0, 3.0]})
    simulator.reset(seed=SEED)
    start = simulator.state.qpos.copy()
    for _ in range(50):
        simulator.step(np.zeros((3, 7), np.float32))
    assert np.abs(simulator.state.qpos - start).max() < 1e-3


def test_tilted_gravity_is_the_models_turned_by_that_angle_towards_a_random_direction():
    n = 12
    tilt = np.linspace(0.0, 30.0, n)
    simulator = make_simulator(ID, n, physics={"gravity_tilt": tilt})
    _, infos = simulator.reset(seed=SEED)
    towards = infos["physics"]["gravity_direction"]
    assert len(set(towards)) == n
    assert towards.min() >= 0.0
    assert towards.max() > 300.0
    for row in range(n):
        expected = cart_pole_specification()
        sideways = 9.81 * np.sin(tilt[row] * np.pi / 180)
        expected.option.gravity = [
            sideways * np.cos(towards[row] * np.pi / 180),
            sideways * np.sin(towards[row] * np.pi / 180),
            -9.81 * np.cos(tilt[row] * np.pi / 180),
        ]
        assert_same_mechanics(simulator.batch.get_model(row), expected.compile())
        # At rest and upright, cart and pole slide together, as on an inclined plane.
        rest = mujoco.MjData(simulator.batch.get_model(row))
        slide, turn = acceleration(simulator.batch.get_model(row), rest)
        assert slide == pytest.approx(sideways * np.cos(np.radians(towards[row])), abs=1e-12)
        assert abs(turn) < 1e-12


def test_all_quantities_at_once_multiply_what_the_model_and_its_own_quantities_give():
    own = {"pole_length": 0.7, "pole_mass": 0.3, "cart_mass": 2.5}
    factors = {"mass": 1.7, "damping": 30.0, "friction": 0.5, "gear": 0.4}
    for order in (own | factors, factors | own):
        simulator = make_simulator(ID, 2, physics=order, disturb="balls")
        simulator.reset(seed=SEED)
        specification = cart_pole_specification(balls=True)
        for name in own | factors:
            if name != "mass":
                EDITS[name](specification, order[name])
        scale_masses(specification, 1.7)
        for row in range(2):
            model = simulator.batch.get_model(row)
            assert_same_mechanics(model, specification.compile())
            assert model.body("cart").mass[0] == 2.5 * 1.7


def test_the_defaults_are_the_model_itself():
    plain = cart_pole_specification().compile()
    for given in ({name: quantity.default for name, quantity in QUANTITIES.items()}, {"pole_length": 1.0}):
        simulator = make_simulator(ID, 1, physics=given)
        simulator.reset(seed=0)
        assert_same_mechanics(simulator.batch.get_model(0), plain)
    one = run(make_simulator(ID, 3, physics={"mass": 1.0, "motor_delay": 0, "sensor_noise": 0.0}), PUSHES, SEED)
    assert_same(one, run(make_simulator(ID, 3), PUSHES, SEED))


PUSHES = forceful_actions(3, 60)


# How ranges are drawn


def draws(physics, n: int, episodes: int, seed: int = SEED) -> dict[str, np.ndarray]:
    """What the rows draw in their first episodes, (episodes, n) each."""
    simulator = make_simulator(ID, n, physics=physics)
    seen = [simulator.reset(seed=seed if episode == 0 else None)[1]["physics"] for episode in range(episodes)]
    return {name: np.array([each[name] for each in seen]) for name in seen[0]}


@pytest.fixture(scope="module")
def many() -> dict[str, np.ndarray]:
    return draws(RANGES, 64, 40)


def bounds(name: str) -> tuple[float, float]:
    spread = RANGES[name]
    if isinstance(spread, Range):
        return spread.low, spread.high
    low, high = spread.split("..")
    return float(low), float(high)


@pytest.mark.parametrize("name", [*RANGES, "gravity_direction"])
def test_draws_lie_in_the_range_uniformly_and_differ_between_rows_and_episodes(many, name):
    drawn = many[name]
    low, high = (0.0, 360.0) if name == "gravity_direction" else bounds(name)
    assert drawn.min() >= low
    assert drawn.max() <= high
    whole = {"motor_delay": [0.0, 1.0, 2.0, 3.0], "motor_sign": [-1.0, 1.0]}.get(name)
    if whole is not None:
        found, counts = np.unique(drawn, return_counts=True)
        assert found.tolist() == whole, "both ends included, and nothing between them"
        assert stats.chisquare(counts).pvalue > 1e-3
        assert all(len(set(row)) > 1 for row in [*drawn, *drawn.T])
    else:
        assert stats.kstest(drawn.ravel(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
        assert len(np.unique(drawn)) == drawn.size


def test_draws_of_different_quantities_rows_and_episodes_are_unrelated(many):
    correlation = np.corrcoef([drawn.ravel() for drawn in many.values()])
    assert np.abs(correlation - np.eye(len(many))).max() < 0.08  # four standard deviations of 2560 pairs
    mass = many["mass"]
    assert abs(np.corrcoef(mass[1:].ravel(), mass[:-1].ravel())[0, 1]) < 0.08
    assert abs(np.corrcoef(mass[:, 1:].ravel(), mass[:, :-1].ravel())[0, 1]) < 0.08


def test_the_same_seed_draws_the_same_whatever_else_is_drawn_and_in_whichever_order(many):
    again = draws(dict(reversed(RANGES.items())), 64, 3)
    for name, drawn in many.items():
        assert np.array_equal(again[name], drawn[:3]), name
    alone = draws({"gear": RANGES["gear"]}, 64, 3)
    assert np.array_equal(alone["gear"], many["gear"][:3])
    assert not np.isin(draws(RANGES, 64, 1, seed=999)["mass"], many["mass"]).any()


def test_a_range_of_one_value_is_that_value():
    drawn = draws({"mass": "1.5..1.5", "motor_delay": "2..2", "gear": Range(0.7, 0.7)}, 3, 4)
    assert (drawn["mass"] == 1.5).all()
    assert (drawn["motor_delay"] == 2).all()
    assert (drawn["gear"] == 0.7).all()


@pytest.mark.parametrize("n", [1, 7])
def test_a_row_of_drawn_physics_depends_on_its_seed_and_episode_alone_whatever_their_number(n):
    actions, limit = forceful_actions(64, 45), 15
    all_rows = make_simulator(ID, 64, max_episode_steps=limit, num_threads=2, physics=RANGES)
    expected = run(all_rows, actions, SEED)
    for first in (0, 40):
        rows = slice(first, first + n)
        some = make_simulator(ID, n, max_episode_steps=limit, physics=RANGES)
        batch = run(some, actions[:, rows], SEED + first)
        for name in ("observations", "final", "rewards", "truncations", "starts"):
            assert np.array_equal(getattr(batch, name), getattr(expected, name)[:, rows]), name
        for name, values in some.physics_infos()["physics"].items():
            assert np.array_equal(values, all_rows.physics_infos()["physics"][name][rows]), name


def test_the_single_environment_is_row_i_with_seed_plus_i_physics_delay_noise_and_all():
    actions, limit, row = forceful_actions(9, 45), 15, 5
    batch = make_simulator(ID, 9, max_episode_steps=limit, physics=RANGES)
    single = gymnasium.make(ID, max_episode_steps=limit, physics=RANGES)
    observations, infos = batch.reset(seed=SEED)
    observation, info = single.reset(seed=SEED + row)
    for action in actions:
        assert np.array_equal(observation, observations[row])
        assert info["physics"] == {name: values[row] for name, values in infos["physics"].items()}
        observations, rewards, _, truncations, infos = batch.step(action)
        observation, reward, _, truncated, info = single.step(action[row])
        assert reward == rewards[row]
        assert truncated == truncations[row]
        assert all(isinstance(value, float) for value in info["physics"].values())
        if truncated:
            assert np.array_equal(observation, infos["final_obs"][row])
            assert info["physics"]["mass"] != infos["physics"]["mass"][row]  # the batch is an episode ahead
            observation, info = single.reset()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_infos_hold_what_is_simulated_and_no_draw_builds_on_the_last_one(mode):
    names = ("mass", "damping", "friction", "gear", "cart_mass")
    simulator = make_simulator(
        ID, 5, max_episode_steps=2, autoreset_mode=mode, physics={name: RANGES[name] for name in names}
    )
    model = cart_pole_specification().compile()
    cart = model.body("cart").id
    _, infos = simulator.reset(seed=SEED)
    before = infos["physics"]["mass"]
    changes = 0
    for _ in range(80):
        physics = infos["physics"]
        changes += (physics["mass"] != before).all()
        before = physics["mass"]
        for row in range(5):
            own = simulator.batch.get_model(row)
            mass, damping, friction, gear, cart_mass = (physics[name][row] for name in names)
            assert own.body_mass[cart] == cart_mass * mass
            assert own.body("pole").mass[0] == 0.1 * mass
            assert np.array_equal(own.dof_damping, model.dof_damping * damping)
            assert np.array_equal(own.geom_friction[:, 0], model.geom_friction[:, 0] * friction)
            assert np.array_equal(own.geom_friction[:, 1:], model.geom_friction[:, 1:])
            assert np.array_equal(own.actuator_gainprm, model.actuator_gainprm * gear)
        _, _, _, truncations, infos = simulator.step(np.zeros((5, 1), np.float32))
        if mode is AutoresetMode.NEXT_STEP and truncations.all():  # the next episode begins in the next step
            assert np.array_equal(infos["physics"]["mass"], before)
    assert changes == (39 if mode is AutoresetMode.SAME_STEP else 26)


def test_given_values_and_the_other_rows_stay_when_some_rows_begin_anew():
    simulator = make_simulator(ID, 6, physics={"mass": "0.5..2", "gear": np.linspace(0.5, 1.5, 6)})
    _, before = simulator.reset(seed=SEED)
    mask = np.array([True, False, True, False, False, False])
    _, after = simulator.reset(options={"reset_mask": mask})
    assert np.array_equal(before["physics"]["mass"] != after["physics"]["mass"], mask)
    assert np.array_equal(after["physics"]["gear"], np.linspace(0.5, 1.5, 6))
    for row in range(6):
        own = simulator.batch.get_model(row)
        assert own.body("cart").mass[0] == after["physics"]["mass"][row]
        assert own.actuator("slide").gainprm[0] == np.linspace(0.5, 1.5, 6)[row]


# Late controls


@pytest.mark.parametrize("options", [{}, {"actions": "discrete"}])
def test_a_motor_delay_of_d_makes_controls_arrive_d_steps_later_after_d_steps_of_none(options):
    delays, steps = np.array([0, 1, 3, 20, 3]), 60
    rng = np.random.default_rng(2)
    none: float | int
    if options:
        actions, none = rng.integers(0, 3, (steps, 5)), 1
    else:
        actions, none = rng.uniform(-1.2, 1.2, (steps, 5, 1)).astype(np.float32), 0.0
    shifted = np.full_like(actions, none)
    for row, delay in enumerate(delays):
        shifted[delay:, row] = actions[: steps - delay, row]
    late = make_simulator(ID, 5, physics={"motor_delay": delays}, **options)
    undelayed = make_simulator(ID, 5, **options)
    one, other = run(late, actions, SEED), run(undelayed, shifted, SEED)
    assert np.array_equal(one.observations, other.observations)
    assert not np.array_equal(one.observations[:, 1:], run(undelayed, actions, SEED).observations[:, 1:])


@pytest.mark.parametrize("delay", [3, np.array([1, 2, 3, 4]), "0..3", Range(3, 3)])
def test_a_reset_forgets_the_controls_under_way_in_the_rows_that_it_resets(delay):
    simulator = make_simulator(ID, 4, max_episode_steps=None, physics={"motor_delay": delay})
    full, idle = np.ones((10, 4, 1), np.float32), np.zeros((10, 4, 1), np.float32)
    fresh = run(simulator, idle, SEED)
    run(simulator, full, 7)
    assert_same(run(simulator, idle, SEED), fresh)

    run(simulator, full, 7)
    through = simulator.get_state()
    continued = run(simulator, idle)
    simulator.set_state(through)
    mask = np.array([True, False, True, False])
    simulator.reset(options={"reset_mask": mask})
    masked = run(simulator, idle)
    assert_same(masked, continued, ~mask)
    assert np.abs(masked.observations[..., 3][:, mask]).max() < 0.2, "nothing pushes those begun anew"
    if not isinstance(delay, str):
        assert (np.abs(masked.observations[2, :, 3] - masked.observations[0, :, 3])[~mask] > 0.1).all()


# Noisy sensors


def test_sensor_noise_has_its_standard_deviation_and_leaves_states_and_rewards_untouched():
    deviations = np.repeat([0.0, 0.001, 0.05, 0.3], 16)
    n, steps = len(deviations), 100
    actions = forceful_actions(n, steps)
    noisy = make_simulator(ID, n, physics={"sensor_noise": deviations}, max_episode_steps=30)
    clean = make_simulator(ID, n, max_episode_steps=30)
    one, other = run(noisy, actions, SEED), run(clean, actions, SEED)
    assert np.array_equal(one.rewards, other.rewards)
    assert np.array_equal(one.starts, other.starts)
    assert np.array_equal(one.observations[:, :16], other.observations[:, :16])
    unbounded = [0, 3, 4]  # the cosine and the sine are clipped
    for seen, true in ((one.observations, other.observations), (one.final, other.final)):
        noise = (seen - true)[..., unbounded]
        for deviation in (0.001, 0.05, 0.3):
            drawn = noise[:, deviations == deviation].reshape(-1, 3) / deviation
            assert np.abs(drawn.mean(axis=0)).max() < 0.1
            assert np.abs(drawn.std(axis=0) - 1.0).max() < 0.06
            assert stats.kstest(drawn[:1600, 0], "norm").pvalue > 1e-3
            assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.1
    ended = one.truncations.any(axis=1)
    last = (one.final - other.final)[ended][:, deviations == 0.3][..., unbounded]
    assert abs(last.std() / 0.3 - 1.0) < 0.15, "final observations are as noisy"
    noise = (one.observations - other.observations)[:, deviations == 0.3, 0]
    assert len(np.unique(noise)) > 0.99 * noise.size, "drawn anew for each row and step"
    assert_same(run(noisy, actions, SEED), one)


def test_noise_stays_within_the_observation_space_at_resets_steps_and_ends():
    simulator = make_simulator(ID, 16, max_episode_steps=5, physics={"sensor_noise": 10.0})
    batch = run(simulator, forceful_actions(16, 30), SEED)
    space = simulator.single_observation_space
    for observations in (batch.observations, batch.final):
        assert observations.dtype == np.float32
        assert (observations >= space.low).all()
        assert (observations <= space.high).all()
        assert (np.abs(observations[..., 1]) == 1.0).mean() > 0.8, "clipped, not drawn again"


def test_looking_twice_shows_the_same_noise():
    simulator = make_simulator(ID, 3, physics={"sensor_noise": 0.2})
    observations, _ = simulator.reset(seed=1)
    assert np.array_equal(simulator.observe(), observations)
    assert np.array_equal(simulator.observe(2), observations[2])
    again, _ = simulator.reset(options={"reset_mask": np.array([True, False, False])})
    assert np.array_equal(again[1:], observations[1:])
    assert not np.isclose(again[0], observations[0]).any()


def test_hidden_columns_stay_hidden_under_noise():
    simulator = make_simulator(ID, 3, physics={"sensor_noise": 0.2}, observe_velocity=False)
    assert simulator.reset(seed=1)[0].shape == (3, 3)


# Saving and continuing


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("saved_after", [0, 1, 18, 25, 26])
def test_a_simulation_of_drawn_physics_saved_mid_episode_continues_bit_for_bit(mode, saved_after):
    def build() -> Simulator:
        return make_simulator(ID, 8, max_episode_steps=25, autoreset_mode=mode, physics=RANGES)

    simulator, actions = build(), forceful_actions(8, 90)
    simulator.reset(seed=SEED)
    for action in actions[:saved_after]:
        simulator.step(action)
    state = simulator.get_state()
    seen = simulator.observe()
    through = run(simulator, actions[saved_after:])
    end = simulator.get_state()
    assert not np.array_equal(end["physics/mass"], state["physics/mass"]), "an autoreset has drawn anew"

    dirty = build()
    dirty.reset(seed=999)
    for action in forceful_actions(8, 30, seed=4):
        dirty.step(action)
    for other in (simulator, dirty, build()):
        other.set_state(state)
        assert_same_state(other.get_state(), state)
        assert np.array_equal(other.observe(), seen)
        assert_same(run(other, actions[saved_after:]), through)
        assert_same_state(other.get_state(), end)
        for row in range(8):
            one, expected = other.batch.get_model(row), simulator.batch.get_model(row)
            assert np.array_equal(one.body_inertia, expected.body_inertia)
            assert np.array_equal(one.opt.gravity, expected.opt.gravity)


@pytest.mark.parametrize(
    "spoil",
    [
        {"physics/motor_delay": np.full(4, 20.0)},  # later than any control under way
        {"physics/motor_delay": np.full(4, 0.5)},
        {"physics/mass": np.full(4, np.inf)},
        {"controls_sent": np.zeros((4, 3, 1))},
    ],
)
def test_a_state_of_impossible_physics_is_refused_and_changes_nothing(spoil):
    simulator = make_simulator(ID, 4, physics={"motor_delay": "0..3", "mass": "0.5..2"})
    simulator.reset(seed=0)
    before = simulator.get_state()
    with pytest.raises(GantryError) as caught:
        simulator.set_state({**before, **spoil})
    assert "\n" not in str(caught.value)
    assert_same_state(simulator.get_state(), before)


# What is refused


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        ({"masss": 1.0}, "unknown physical parameter 'masss'.*did you mean mass"),
        ({"mass": "2.0..0.5"}, r"mass 2..0.5 must be a range within 0.2..5 times"),
        ({"mass": Range(0.1, 1.0)}, r"mass 0.1..1 must be a range within 0.2..5"),
        ({"mass": "1..9"}, r"must be a range within"),
        ({"mass": Range(np.nan, 1.0)}, r"must be a range within"),
        ({"mass": "heavy"}, "'heavy' is neither a number"),
        ({"mass": "1..2..3"}, "neither a number"),
        ({"mass": "..2"}, "neither a number"),
        ({"mass": ""}, "neither a number"),
        ({"mass": 0.0}, "mass must lie in 0.2..5 times"),
        ({"mass": "nan"}, "mass must lie in"),
        ({"mass": None}, "mass must"),
        ({"mass": {"low": 1}}, "mass must be a number or a range"),
        ({"mass": [1.0, 1.0]}, "one for each of the 3 environments"),
        ({"mass": [[1.0, 1.0, 1.0]]}, "one for each of the 3 environments"),
        ({"mass": [1.0, 1.0, 6.0]}, "mass must lie in"),
        ({"motor_delay": 0.5}, "motor_delay must be a whole number of control steps"),
        ({"motor_delay": "0.5..2"}, "motor_delay must range over whole numbers of control steps"),
        ({"motor_delay": Range(0, 1.5)}, "motor_delay must range over whole numbers"),
        ({"motor_delay": 21}, "motor_delay must lie in 0..20"),
        ({"motor_delay": -1}, "motor_delay must lie in 0..20"),
        ({"gravity_tilt": 31}, "gravity_tilt must lie in 0..30 degrees"),
        ({"gravity_direction": 3}, "unknown physical parameter"),
        ({"sensor_noise": -0.1}, "sensor_noise must lie in"),
        (3, "physics must be quantities by name"),
        ("mass=2", "physics must be quantities by name"),
    ],
)
def test_physics_that_cannot_be_are_refused_in_one_line(physics, message):
    with pytest.raises(GantryError, match=message) as caught:
        make_simulator(ID, 3, physics=physics)
    assert "\n" not in str(caught.value)


def test_sensor_noise_on_a_dictionary_is_refused_in_one_line():
    with pytest.raises(GantryError, match="one array of floats, not Dict") as caught:
        make_simulator("gantry/ReachGoal-v0", 1, physics={"sensor_noise": 0.1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["damping", "friction", "gravity_tilt"])
def test_physics_that_a_robot_does_not_have_is_refused(name):
    with pytest.raises(GantryError, match=f"{name} changes nothing here") as caught:
        make_simulator("gantry/Vacuum-v0", 1, physics={name: "0..1"})
    assert "\n" not in str(caught.value)
    make_simulator("gantry/Reach-v0", 1, physics={name: "0..1"})  # which has all three


class Remote(CartPole):
    """A cart-pole that reports a dictionary, or a number."""

    def __init__(self, space: gymnasium.Space) -> None:
        super().__init__()
        self.observation_space = space


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-1.0, 1.0)}),
        gymnasium.spaces.Discrete(5),
        gymnasium.spaces.Box(0, 255, (4, 4), np.uint8),
    ],
)
def test_noise_on_what_is_no_array_of_floats_is_refused_in_one_line(space):
    with pytest.raises(GantryError, match="sensor_noise needs observations that are one array of floats") as caught:
        Simulator(Remote(space), 2, physics={"sensor_noise": 0.1})
    assert "\n" not in str(caught.value)
    Simulator(Remote(space), 2, physics={"mass": 2.0})


# With other tools


@pytest.mark.parametrize("name", ["CartPoleSwingUp"])
def test_the_checkers_pass_with_drawn_physics_and_warnings_as_errors(name):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(f"gantry/{name}-v0", physics=RANGES).unwrapped, skip_render_check=True)
        check_sb3(gymnasium.make(f"gantry/{name}-v0", physics=RANGES), warn=True)


WORDS = "cart_mass=0.5..2.0,motor_delay=0..2"


def test_the_command_lines_text_reaches_the_environment():
    options = env_options((), f"{WORDS}, gear=0.7", None)
    assert options == {"physics": {"cart_mass": "0.5..2.0", "motor_delay": "0..2", "gear": "0.7"}}
    env = gymnasium.make_vec(ID, 200, **options)
    physics = env.reset(seed=0)[1]["physics"]
    assert set(physics["motor_delay"]) == {0.0, 1.0, 2.0}
    assert 0.5 <= physics["cart_mass"].min() < 0.6 < 1.9 < physics["cart_mass"].max() <= 2.0
    assert (physics["gear"] == 0.7).all()


SMALL = PPOConfig(num_envs=8, rollout_steps=32, epochs=1, minibatch_size=128, hidden_sizes=(8,))


def metrics(run_: Run) -> list[dict[str, str]]:
    with (run_.folder / "metrics.csv").open() as file:
        return [
            {key: text for key, text in row.items() if key not in WALL_CLOCK_COLUMNS} for row in csv.DictReader(file)
        ]


def test_drawn_physics_survive_a_runs_configuration_and_an_interrupted_run_resumes_to_the_same_numbers(tmp_path):
    options = env_options((), WORDS, None)
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    train(whole, ID, "ppo", SMALL, 1024, env_options=options)

    def interrupt(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, ID, "ppo", SMALL, 1024, env_options=options, progress=interrupt)
    assert len(metrics(stopped)) == 1
    resume(stopped)
    assert metrics(stopped) == metrics(whole)
    assert json.loads((whole.folder / "config.json").read_text())["env_options"] == options
    physics = build_agent(whole.read_config()).env.reset(seed=3)[1]["physics"]
    assert len(set(physics["cart_mass"])) == SMALL.num_envs


def test_training_and_evaluating_take_ranges_from_the_command_line_and_refuse_bad_ones_in_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", ID, "--randomize", WORDS, "--steps", "256", "--num-envs", "8", "--out", str(folder)]
    assert main(words) == 0
    assert json.loads((folder / "config.json").read_text())["env_options"]["physics"]["motor_delay"] == "0..2"
    scores = []
    for flags in ((), ("--randomize", WORDS), ("--randomize", "cart_mass=50,motor_delay=9")):
        capsys.readouterr()
        assert main(["evaluate", str(folder), "--episodes", "2", "--json", *flags]) == 0
        scores.append(json.loads(capsys.readouterr().out.splitlines()[-1])["score"])
    assert scores[0] == scores[1] != scores[2]
    for bad in ("cart_mass=2..1", "cart_mas=1", "cart_mass", "motor_delay=0.5", "cart_mass=[0.5"):
        assert main(["evaluate", str(folder), "--episodes", "1", "--randomize", bad]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
