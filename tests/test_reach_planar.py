import itertools

import mujoco
import numpy as np
import pytest
import torch

from gantry.envs.simulator import make_simulator, make_task
from gantry.envs.tasks.reach_planar import ReachPlanar
from gantry.errors import GantryError

ID = "gantry/ReachPlanar-v0"
PHYSICS = ("mass", "damping", "gear")
OPTIONS = [{"target": target, "sparse": sparse} for target in ("easy", "hard") for sparse in (False, True)]


def solve(position: np.ndarray) -> np.ndarray:
    """Joint angles (n, 2) whose fingertip is at `position` (n, 2): the textbook's two-link solution, elbow one way."""
    reach = (position**2).sum(1)
    wrist = np.arccos(np.clip((reach - 2 * 0.12**2) / (2 * 0.12**2), -1, 1))
    shoulder = np.arctan2(position[:, 1], position[:, 0]) - wrist / 2
    return np.stack([shoulder, wrist], axis=1)


def drive(offset: float | None, steps: int = 250, **options) -> tuple[np.ndarray, np.ndarray]:
    """Return the reward of the last 50 steps (16,) and the final successes (16,) of a joint-space PD controller that
    aims at `offset` m from the target's middle, or of standing still for None."""
    env = make_simulator(ID, 16, num_threads=1, **options)
    env.reset(seed=5)
    target = env.state.mocap_pos[:, 0, :2].copy()
    total = np.zeros(16)
    aim = None
    if offset is not None:
        radius = np.linalg.norm(target, axis=1, keepdims=True)
        aim = solve(target * (1 + np.where(radius < 0.13, offset, -offset) / radius))
    for step in range(steps):
        action = np.zeros((16, 2))
        if aim is not None:
            error = aim - env.state.qpos
            error[:, 0] = (error[:, 0] + np.pi) % (2 * np.pi) - np.pi
            action = np.clip(4.0 * error - 0.3 * env.state.qvel, -1, 1)
        _, reward, _, _, info = env.step(action)
        total += reward * (step >= steps - 50)
    return total, info["success"]


def test_the_models_physical_constants_are_those_of_dm_control() -> None:
    model = ReachPlanar().load_model()
    links = [model.body(name).id for name in ("upper", "lower", "finger")]
    np.testing.assert_allclose(model.body_mass[links], [0.0418879, 0.03560472, 0.00418879], rtol=1e-6)
    np.testing.assert_allclose(
        model.body_inertia[links, 0], [6.33135639e-05, 3.91756604e-05, 1.67551608e-07], rtol=1e-6
    )
    np.testing.assert_allclose(
        model.body_inertia[links, 2], [2.05250720e-06, 1.73834793e-06, 1.67551608e-07], rtol=1e-6
    )
    np.testing.assert_allclose(model.body_ipos[links], [[0.06, 0, 0], [0.05, 0, 0], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(model.body_pos[links[1:]], [[0.12, 0, 0], [0.12, 0, 0]])
    assert model.dof_damping.tolist() == [0.01, 0.01]
    assert model.dof_armature.tolist() == [0.0, 0.0]
    assert model.actuator_gear[:, 0].tolist() == [0.05, 0.05]
    assert model.jnt_limited.tolist() == [0, 1]
    np.testing.assert_allclose(model.jnt_range[1], [-2.7925268, 2.7925268])
    assert model.opt.timestep == 0.02


def test_a_driven_trajectory_is_the_one_that_dm_control_gives() -> None:
    env = make_simulator(ID, 1)
    env.reset(seed=0)
    env.state.qpos[0], env.state.qvel[0] = [0.3, -0.8], [1.0, -2.0]
    for k in range(50):
        env.step(np.array([[np.sin(0.3 * k), np.cos(0.2 * k)]]))
    # dm_control 1.0.50, reacher: the same state and controls, two steps a control
    np.testing.assert_allclose(env.state.qpos[0], [1.18226369, -1.0022894], rtol=1e-5)
    np.testing.assert_allclose(env.state.qvel[0], [3.44473322, -4.74104773], rtol=1e-5)


def test_physics_equal_a_serial_loop_bit_for_bit() -> None:
    env = make_simulator(ID, 16, num_threads=2)
    env.reset(seed=3)
    model = env.task.load_model()
    states = env.batch.state.copy()
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 16, 2)).astype(np.float32)
    for action in actions:
        env.step(action)
    data = mujoco.MjData(model)
    for row in range(16):
        mujoco.mj_setState(model, data, states[row], mujoco.mjtState.mjSTATE_INTEGRATION)
        for action in actions[:, row]:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, 2)
        assert np.array_equal(data.qpos, env.state.qpos[row])
        assert np.array_equal(data.qvel, env.state.qvel[row])
        assert np.array_equal(data.mocap_pos, env.state.mocap_pos[row])


def test_every_target_lies_in_its_ring_and_all_bearings_and_poses_occur() -> None:
    env = make_simulator(ID, 2000)
    env.reset(seed=1)
    target = env.state.mocap_pos[:, 0]
    radius = np.linalg.norm(target[:, :2], axis=1)
    assert radius.min() >= 0.05
    assert radius.max() <= 0.20
    assert radius.max() - radius.min() > 0.149
    assert (target[:, 2] == 0.01).all()
    quadrant = (target[:, 0] > 0) * 2 + (target[:, 1] > 0)
    assert np.bincount(quadrant, minlength=4).min() > 400
    assert np.ptp(env.state.qpos[:, 0]) > 6.2
    assert np.ptp(env.state.qpos[:, 1]) > 5.5
    assert (env.state.qvel == 0).all()


def test_observed_geometry_equals_mujocos() -> None:
    env = make_simulator(ID, 64)
    fingertip = env.batch.bind("site_xpos")
    env.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        observations, *_ = env.step(rng.uniform(-1, 1, (64, 2)))
    env.batch.forward(None, mujoco.mjtStage.mjSTAGE_POS)
    to_target = env.state.mocap_pos[:, 0] - fingertip[:, 0]
    np.testing.assert_allclose(observations[:, 3:5], to_target[:, :2], atol=1e-7)
    np.testing.assert_allclose(
        np.arctan2(observations[:, 1], observations[:, 0]) % (2 * np.pi), env.state.qpos[:, 0] % (2 * np.pi), atol=1e-6
    )
    np.testing.assert_allclose(observations[:, 2], env.state.qpos[:, 1], atol=1e-6)
    np.testing.assert_allclose(observations[:, 5:], env.state.qvel, atol=1e-5)


def test_observations_are_bounded_varying_and_no_column_repeats_another() -> None:
    env = make_simulator(ID, 32)
    observations, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    rows = [observations]
    for k in range(100):
        observations, *_ = env.step(np.sign(rng.uniform(-1, 1, (32, 2))) if k % 10 == 0 else np.ones((32, 2)))
        rows.append(observations)
    rows = np.concatenate(rows)
    assert (abs(rows) <= env.single_observation_space.high).all()
    correlation = np.corrcoef(rows.T) - np.eye(7)
    assert rows.std(axis=0).min() > 0.01
    assert abs(correlation).max() < 0.99


def posed(options: dict, shoulder: float, wrist: float, target: tuple[float, float]) -> tuple[float, dict, bool]:
    """Reward, terms and success after one idle step from rest, hence of the pose itself."""
    env = make_simulator(ID, 1, **options)
    env.reset(seed=0)
    env.state.qpos[0], env.state.qvel[0] = [shoulder, wrist], 0.0
    env.state.mocap_pos[0, 0, :2] = target
    _, reward, _, _, info = env.step(np.zeros((1, 2)))
    return reward[0], {name: term[0] for name, term in info["terms"].items()}, info["success"][0]


def test_the_dense_reward_of_a_posed_arm_equals_a_hand_computation() -> None:
    # Upper link along y, lower link along -x: the fingertip is at (-0.12, 0.12); the target 5 cm further along x.
    reward, terms, success = posed({}, np.pi / 2, np.pi / 2, (-0.07, 0.12))
    assert terms["close"] == pytest.approx(0.1, abs=1e-5)
    assert terms["far"] == pytest.approx(0.1 ** ((0.05 / 0.4) ** 2), abs=1e-5)
    assert reward == pytest.approx((0.1 + 0.1 ** (1 / 64)) / 2, abs=1e-5)
    assert success
    assert posed({}, np.pi / 2, np.pi / 2, (-0.12, 0.12))[0] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("target", "radii"), [("easy", 0.06), ("hard", 0.025)])
def test_the_sparse_reward_is_dm_controls(target, radii) -> None:
    for distance in (0.01, radii - 1e-4, radii + 1e-4, 0.2):
        reward, _, success = posed({"target": target, "sparse": True}, 0.0, np.pi / 2, (0.12, 0.12 - distance))
        assert reward == float(distance <= radii)
        assert success == (distance <= radii)


def test_the_dense_reward_falls_strictly_with_the_distance_and_is_the_same_in_torch() -> None:
    task = ReachPlanar()
    features = np.zeros((400, 7), np.float32)
    features[:, 3] = np.linspace(0, 0.44, 400) * 0.6
    features[:, 4] = np.linspace(0, 0.44, 400) * 0.8
    reward, terms = task.reward(features, np.zeros((400, 2)), features)
    assert reward[0] == 1.0
    assert (np.diff(reward) < 0).all()
    assert all(((term >= 0) & (term <= 1)).all() for term in terms.values())
    in_torch, _ = task.reward(torch.tensor(features), torch.zeros(400, 2), torch.tensor(features).reshape(20, 20, 7))
    np.testing.assert_allclose(in_torch.reshape(-1).numpy(), reward, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_hovering_near_the_target_or_standing_still_never_beats_reaching_it(options) -> None:
    reaching, success = drive(0.0, **options)
    assert success.all()
    touching = make_simulator(ID, 1, **options).task.touching
    hovering, _ = drive(touching + 0.02, **options)
    still, lucky = drive(None, **options)
    assert (reaching > hovering + 1).all()
    assert (reaching > still + 1)[~lucky].all()


def test_energy_does_not_grow_in_the_undriven_undamped_arm() -> None:
    model = ReachPlanar().load_model()
    model.dof_damping[:] = 0
    model.opt.enableflags |= int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    model.opt.timestep = 1e-3
    model.jnt_limited[:] = 0
    data = mujoco.MjData(model)
    data.qvel[:] = [3.0, -4.0]
    mujoco.mj_forward(model, data)
    start = data.energy[1]
    largest = 0.0
    for _ in range(5000):
        mujoco.mj_step(model, data)
        largest = max(largest, data.energy[1])
    assert 0.9 * start < data.energy[1]
    assert largest < 1.01 * start


def test_a_wrong_target_size_is_refused_with_the_choices() -> None:
    from gantry.errors import GantryError

    with pytest.raises(GantryError, match="'easy' or 'hard'"):
        make_simulator(ID, 1, target="huge")


@pytest.mark.parametrize("environment", ["gantry/ReachPlanar-v0", "gantry/Reach-v0"])
def test_the_reward_of_one_row_equals_that_of_the_row_in_a_batch_bit_for_bit(environment):
    task, rng = make_task(environment), np.random.default_rng(0)
    features = make_simulator(environment, 1).reset(seed=0)[0].repeat(3000, axis=0)
    features += 0.3 * rng.normal(size=features.shape).astype(np.float32)
    control = rng.uniform(-1, 1, (3000, *task.action_space.shape)).astype(np.float32)
    rewards, _ = task.reward(features, control, features)
    single = [task.reward(each, action, each)[0] for each, action in zip(features, control, strict=True)]
    assert np.array_equal(rewards, np.array(single, rewards.dtype))


def test_physics_within_the_accepted_ranges_does_not_diverge():
    """At all corners of mass, damping and gear, with full torque in one direction and in turns."""
    ranges = [(ReachPlanar.common_physics[name].low, ReachPlanar.common_physics[name].high) for name in PHYSICS]
    corners = np.array(list(itertools.product(*ranges))).T
    simulator = make_simulator(ID, corners.shape[1], physics=dict(zip(PHYSICS, corners, strict=True)))
    for swing in (1e9, 20.0):
        simulator.reset(seed=0)
        for step in range(200):
            torque = np.sign(np.cos(np.pi * step / swing))
            simulator.step(np.full((corners.shape[1], 2), torque, np.float32))
    assert simulator.divergences == 0
    for name, beyond in (("damping", 0.4), ("gear", 5.0)):
        with pytest.raises(GantryError, match=name):
            make_simulator(ID, 1, physics={name: beyond})


@pytest.mark.parametrize(("env_id", "target", "steps"), [(ID, slice(3, 5), 5), ("gantry/Reach-v0", slice(14, 20), 10)])
def test_target_shows_for_the_seconds_asked_for_and_nothing_else_changes(env_id, target, steps):
    shown, hidden = (make_simulator(env_id, 3, max_episode_steps=13, **more) for more in ({}, {"target_visible": 0.2}))
    shown.action_space.seed(0)
    observations = [env.reset(seed=4)[0] for env in (shown, hidden)]
    for step in range(30):
        expected = observations[0].copy()
        if step % 13 >= steps:
            expected[:, target] = 0.0
        np.testing.assert_array_equal(observations[1], expected)
        actions = shown.action_space.sample()
        (first, rewards, *_), (second, same_rewards, *_) = (env.step(actions) for env in (shown, hidden))
        np.testing.assert_array_equal(rewards, same_rewards)
        observations = [first, second]
    assert make_task(env_id).observes_features
    assert not make_task(env_id, target_visible=0.2).observes_features
    with pytest.raises(GantryError, match="target_visible must be above 0"):
        make_task(env_id, target_visible=0.0)
