import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from gantry.envs.simulator import make_simulator
from gantry.envs.tasks.reach import HIGHEST, HOME, INCREMENTS, LOWEST, Reach, fingertip
from gantry.errors import GantryError

REACH, GOAL = "gantry/Reach-v0", "gantry/ReachGoal-v0"
VARIANTS = [(name, {"control": control}) for name in (REACH, GOAL) for control in ("position", "torque")]
SPEEDS = np.array([2.175] * 4 + [2.61] * 3)
TORQUES = np.array([87.0] * 4 + [12.0] * 3)


def denavit_hartenberg(positions: np.ndarray) -> np.ndarray:
    """The fingertip (3,) by the maker's table of modified Denavit-Hartenberg parameters (a, d, alpha)."""
    quarter = np.pi / 2
    table = [
        (0, 0.333, 0),
        (0, 0, -quarter),
        (0, 0.316, quarter),
        (0.0825, 0, quarter),
        (-0.0825, 0.384, -quarter),
        (0, 0, quarter),
        (0.088, 0, quarter),
        (0, 0.107, 0),
    ]
    transform = np.eye(4)
    for (a, d, alpha), theta in zip(table, [*positions, 0.0], strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
        transform = transform @ np.array(
            [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    return (transform @ [0, 0, 0.1034, 1])[:3]


def flatten(observation) -> np.ndarray:
    if isinstance(observation, dict):
        return np.concatenate([observation[key] for key in sorted(observation)], axis=-1)
    return observation


def bold_actions(steps: int, rows: int, seed: int = 0) -> np.ndarray:
    """Full drive in random directions (steps, rows, 7), each held for 10 control steps."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (steps // 10 + 1, rows, 7))
    return np.repeat(signs, 10, axis=0)[:steps].astype(np.float32)


def test_the_fingertip_is_where_the_published_kinematics_put_it() -> None:
    model = Reach().load_model()
    data = mujoco.MjData(model)
    poses = np.random.default_rng(0).uniform(LOWEST, HIGHEST, (50, 7))
    for pose, tip in zip(poses, fingertip(poses), strict=True):
        data.qpos[:] = pose
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(tip, denavit_hartenberg(pose), atol=1e-12)
        np.testing.assert_allclose(data.site("fingertip").xpos, tip, atol=1e-12)


def test_ranges_torques_and_speeds_are_the_published_ones() -> None:
    model = Reach().load_model()
    np.testing.assert_array_equal(
        model.jnt_range.T,
        [
            [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973],
            [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973],
        ],
    )
    np.testing.assert_array_equal(model.jnt_actfrcrange[:, 1], TORQUES)
    drag = model.dof_damping * SPEEDS + model.dof_dampingpoly[:, 1] * SPEEDS**3
    np.testing.assert_allclose(drag, TORQUES, rtol=1e-4)
    assert model.opt.timestep * Reach.decimation == 0.02


def test_an_unknown_control_is_refused_with_the_choices() -> None:
    with pytest.raises(GantryError, match="'position' or 'torque'"):
        make_simulator(REACH, 1, control="voltage")


@pytest.mark.parametrize("control", ["position", "torque"])
def test_physics_equal_a_serial_loop_bit_for_bit_through_contacts_with_floor_and_itself(control) -> None:
    env = make_simulator(REACH, 16, num_threads=2, max_episode_steps=None, control=control)
    env.reset(seed=3)
    env.state.qpos[8:] = env.state.userdata[8:]
    if control == "position":
        env.state.ctrl[:] = env.state.qpos
    states = env.batch.state.copy()
    actions = bold_actions(100, 16)
    actions[:, 0] = [0, 1, 0, 1, 0, -1, 0]  # down onto the floor
    actions[:, 1] = [0, -1, 0, -1, 0, -1, 0]  # folded onto itself
    for action in actions:
        env.step(action)
    model = env.task.load_model()
    data = mujoco.MjData(model)
    floor = model.geom("floor").id
    touches, self_touches = 0, 0
    for row in range(16):
        mujoco.mj_setState(model, data, states[row], mujoco.mjtState.mjSTATE_INTEGRATION)
        for action in actions[:, row]:
            if control == "position":
                lowest, highest = np.maximum(data.qpos - 0.25, LOWEST), np.minimum(data.qpos + 0.25, HIGHEST)
                data.ctrl[:] = np.clip(data.ctrl + action * INCREMENTS, lowest, highest)
            else:
                data.ctrl[:] = action
            for _ in range(2):
                mujoco.mj_step(model, data)
                touched = (data.contact.geom[: data.ncon] == floor).any(axis=1)
                touches += touched.sum()
                self_touches += (~touched).sum()
        assert np.array_equal(data.qpos, env.state.qpos[row])
        assert np.array_equal(data.qvel, env.state.qvel[row])
        assert np.array_equal(data.ctrl, env.state.ctrl[row])
    assert touches > 100
    assert self_touches > 10


def test_only_neighbouring_links_are_spared_each_others_contacts() -> None:
    model = Reach().load_model()
    solid = [g for g in range(model.ngeom) if model.geom_contype[g] and model.geom_conaffinity[g]]
    assert {model.geom_bodyid[g] for g in solid} == set(range(model.nbody)) - {model.body("target").id}
    excluded = [(signature >> 16, signature & 0xFFFF) for signature in model.exclude_signature]
    assert excluded == [(model.body("base").id, model.body("link1").id)]


def test_every_generated_target_is_the_fingertip_of_a_stored_collision_free_pose() -> None:
    env = make_simulator(REACH, 600)
    env.reset(seed=11)
    model = env.task.load_model()
    data = mujoco.MjData(model)
    targets, poses = env.state.mocap_pos[:, 0], env.state.userdata
    for target, pose in zip(targets, poses, strict=True):
        assert ((pose >= LOWEST) & (pose <= HIGHEST)).all()
        data.qpos[:] = pose
        mujoco.mj_fwdPosition(model, data)
        assert data.ncon == 0
        np.testing.assert_allclose(data.site("fingertip").xpos, target, rtol=0, atol=1e-9)
    assert len(np.unique(targets, axis=0)) == 600
    assert not np.isclose(poses, HOME).all(axis=1).any()
    spread = (poses - LOWEST) / (HIGHEST - LOWEST)
    assert (spread.min(axis=0) < 0.05).all()
    assert (spread.max(axis=0) > 0.95).all()


def test_episodes_start_at_rest_near_home_free_of_collisions() -> None:
    env = make_simulator(REACH, 300)
    contacts = env.batch.bind("ncon")
    env.reset(seed=4)
    env.batch.forward()
    assert not contacts.any()
    assert abs(env.state.qpos - HOME).max() <= 0.1
    assert env.state.qpos.std(axis=0).min() > 0.03
    assert not env.state.qvel.any()
    assert np.array_equal(env.state.ctrl, env.state.qpos)


@pytest.mark.parametrize("control", ["position", "torque"])
def test_torques_and_speeds_respect_the_drives_limits(control) -> None:
    env = make_simulator(REACH, 32, max_episode_steps=None, control=control)
    torque, gravity = env.batch.bind("qfrc_actuator"), env.batch.bind("qfrc_gravcomp")
    env.reset(seed=0)
    fastest, heaviest = np.zeros(7), 0.0
    for action in bold_actions(300, 32):
        env.step(action)
        assert (abs(torque) <= TORQUES + 1e-9).all()
        fastest = np.maximum(fastest, np.quantile(abs(env.state.qvel), 0.95, axis=0) / SPEEDS)
        heaviest = max(heaviest, abs(gravity).max())
    assert heaviest > 20  # the drives do carry the weight
    # What one joint does to the next, and blows, exceed a limit for a moment; no drive of its own does (next test).
    assert fastest.min() > 0.75
    assert fastest.max() < (1.15 if control == "position" else 1.4)


@pytest.mark.parametrize("joint", [0, 6])
def test_full_torque_settles_at_the_speed_limit(joint) -> None:
    model = Reach(control="torque").load_model()
    model.jnt_limited[:] = 0
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    data = mujoco.MjData(model)
    data.qpos[:] = [0, 0, 0, -0.0698, 0, 0, 0]
    speeds = []
    for _ in range(300):
        data.qpos[1:6], data.qvel[1:6] = [0, 0, -0.0698, 0, 0], 0  # hold the others
        data.ctrl[joint] = 1.0
        mujoco.mj_step(model, data)
        speeds.append(data.qvel[joint])
    assert max(speeds) <= SPEEDS[joint] * 1.02
    assert speeds[-1] == pytest.approx(SPEEDS[joint], rel=0.02)


def test_gravity_sags_a_held_pose_by_less_than_a_centimetre_in_five_seconds() -> None:
    env = make_simulator(REACH, 24, max_episode_steps=None)
    env.reset(seed=6)
    env.state.qpos[:] = env.state.userdata
    env.state.qpos[0] = [0, np.pi / 2, 0, -0.07, 0, np.pi / 2 + 1.8, 0]  # stretched out
    env.state.ctrl[:] = env.state.qpos
    before = fingertip(env.state.qpos)
    worst = 0.0
    for _ in range(250):
        env.step(np.zeros((24, 7)))
        worst = max(worst, np.linalg.norm(fingertip(env.state.qpos) - before, axis=1).max())
    assert worst < 0.01


def undriven(control: str = "torque") -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = Reach(control=control).load_model()
    model.body_gravcomp[:] = 0
    model.opt.enableflags |= int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    model.jnt_limited[:] = 0
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = HOME, 0.3
    mujoco.mj_forward(model, data)
    return model, data


def energies(model: mujoco.MjModel, data: mujoco.MjData, seconds: float) -> np.ndarray:
    found = [data.energy.sum()]
    for _ in range(round(seconds / model.opt.timestep)):
        mujoco.mj_step(model, data)
        found.append(data.energy.sum())
    return np.array(found)


def test_energy_is_conserved_in_the_undriven_undamped_arm() -> None:
    model, data = undriven()
    model.dof_damping[:] = 0
    model.dof_dampingpoly[:] = 0
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_RK4
    model.opt.timestep = 0.002
    found = energies(model, data, 5.0)
    assert data.energy[1] > 20  # it swings
    assert abs(found - found[0]).max() < 1e-3 * found[0]


def test_energy_never_grows_in_the_undriven_arm_as_shipped() -> None:
    found = energies(*undriven(), 5.0)
    assert (np.diff(found) < 1e-3 * found[0]).all()
    assert found[-1] < found[0]


def posed(features: dict[str, list[float]], servos: bool = True) -> np.ndarray:
    row = np.zeros(27 if servos else 20, np.float32)
    for name, values in features.items():
        start = {"velocity": 7, "to_target": 14, "target": 17}[name]
        row[start : start + len(values)] = values
    return row


def test_the_reward_of_a_posed_arm_equals_a_hand_computation() -> None:
    env = make_simulator(REACH, 1)
    env.reset(seed=0)
    env.state.mocap_pos[0, 0] = fingertip(env.state.qpos)[0] + [0.03, 0.0, 0.04]
    _, reward, _, _, info = env.step(np.zeros((1, 7)))
    assert reward[0] == pytest.approx((0.1 + 0.1**0.04 + 0.1**0.0025) / 3, abs=1e-5)
    assert info["terms"]["steady"][0] == pytest.approx(1.0, abs=1e-6)
    assert not info["success"][0]

    task = Reach()
    moving = posed({"velocity": [1.0] * 7, "to_target": [0.0, 0.05, 0.0]})
    reward, terms = task.reward(moving, np.full(7, 0.5), moving)
    # distance 5 cm: close 0.1; 1 rad/s: steady = 1 - 0.5 × 0.1 × 0.9; control 0.5: gentle = 1 - 0.25 / 10
    assert terms["steady"] == pytest.approx(0.955, abs=1e-6)
    assert terms["gentle"] == pytest.approx(0.975, abs=1e-6)
    assert reward == pytest.approx((0.1 + 0.1**0.04 + 0.1**0.0025) / 3 * 0.955 * 0.975, abs=1e-6)


def test_the_reward_is_computed_from_the_state_after_the_step() -> None:
    env = make_simulator(REACH, 4)
    env.reset(seed=1)
    action = bold_actions(1, 4)[0]
    for _ in range(5):
        observations, rewards, *_ = env.step(action)
    distance = np.linalg.norm(env.state.mocap_pos[:, 0] - fingertip(env.state.qpos), axis=1)
    np.testing.assert_allclose(np.linalg.norm(observations[:, 14:17], axis=1), distance, atol=1e-6)
    speed = np.sqrt((env.state.qvel**2).mean(axis=1))
    far, near, close = (0.1 ** ((distance / margin) ** 2) for margin in (1.0, 0.25, 0.05))
    expected = (far + near + close) / 3 * (1 - 0.5 * close * (1 - 0.1 ** (speed**2))) * 0.9
    np.testing.assert_allclose(rewards, expected, rtol=1e-4)


def test_reward_terms_are_bounded_peak_at_rest_on_the_target_and_agree_in_torch() -> None:
    task = Reach()
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (200, 27)).astype(np.float32)
    control = rng.uniform(-1, 1, (200, 7)).astype(np.float32)
    reward, terms = task.reward(features, control, features)
    assert all((term >= 0).all() and (term <= 1).all() for term in (reward, *terms.values()))
    tensors = [torch.tensor(array).reshape(10, 20, -1) for array in (features, control, features)]
    np.testing.assert_allclose(task.reward(*tensors)[0].reshape(-1).numpy(), reward, atol=1e-6)
    resting = np.stack([posed({"to_target": [x, 0.0, 0.0]}) for x in np.linspace(0, 1.5, 300)])
    falling = task.reward(resting, np.zeros((300, 7)), resting)[0]
    assert falling[0] == 1.0
    assert (np.diff(falling) < 0).all()


def test_success_counts_at_two_centimetres_and_where_the_episode_ends() -> None:
    env = make_simulator(REACH, 2, max_episode_steps=3)
    env.reset(seed=0)
    for offset, expected in (([0.0, 0.019, 0.0], True), ([0.021, 0.0, 0.0], False), ([0.0, 0.0, 0.019], True)):
        env.state.mocap_pos[:, 0] = fingertip(env.state.qpos) + offset
        _, _, _, truncated, info = env.step(np.zeros((2, 7)))
        assert (info["success"] == expected).all()
    assert truncated.all()


@pytest.mark.parametrize("shape", [(), (5,), (4, 3)])
def test_compute_reward_over_many_goals_equals_one_at_a_time(shape) -> None:
    env = gymnasium.make(GOAL).unwrapped
    rng = np.random.default_rng(0)
    desired = rng.uniform(-0.5, 0.5, (*shape, 3)).astype(np.float32)
    achieved = desired + rng.uniform(-0.02, 0.02, (*shape, 3)).astype(np.float32)
    rewards = np.asarray(env.compute_reward(achieved, desired, {}))
    assert rewards.shape == shape
    one_by_one = [
        -float(np.linalg.norm(a - d) > 0.02)
        for a, d in zip(achieved.reshape(-1, 3), desired.reshape(-1, 3), strict=True)
    ]
    assert rewards.reshape(-1).tolist() == one_by_one
    vector = make_simulator(GOAL, 2)
    assert np.array_equal(vector.compute_reward(achieved, desired, {}), rewards)
    in_torch = env.compute_reward(torch.tensor(achieved), torch.tensor(desired), {})
    assert np.array_equal(in_torch.numpy(), rewards)


def test_only_the_goal_form_looks_goal_conditioned() -> None:
    assert hasattr(make_simulator(GOAL, 1), "compute_reward")
    assert not hasattr(make_simulator(REACH, 1), "compute_reward")
    assert not hasattr(gymnasium.make(REACH).unwrapped, "compute_reward")


def test_the_goal_form_rewards_what_compute_reward_says_and_hands_out_final_dictionaries() -> None:
    env = make_simulator(GOAL, 6, max_episode_steps=12)
    env.reset(seed=2)
    env.state.mocap_pos[:3, 0] = fingertip(env.state.qpos[:3])
    for action in np.zeros((12, 6, 7)):
        observations, rewards, terminated, truncated, infos = env.step(action)
        seen = infos.get("final_obs", observations)
        assert np.array_equal(rewards, env.compute_reward(seen["achieved_goal"], seen["desired_goal"], infos))
        assert np.array_equal(infos["success"], rewards == 0)
    assert rewards.tolist() == [0, 0, 0, -1, -1, -1]
    assert truncated.all()
    assert not terminated.any()
    assert set(seen) == {"observation", "achieved_goal", "desired_goal"}
    assert env.observation_space.contains(seen)
    assert env.observation_space.contains(observations)
    assert not np.array_equal(seen["desired_goal"], observations["desired_goal"])
    np.testing.assert_allclose(observations["achieved_goal"], fingertip(env.state.qpos), atol=1e-6)
    np.testing.assert_allclose(observations["desired_goal"], env.state.mocap_pos[:, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_observations_are_bounded_varying_and_no_column_repeats_another(name, options) -> None:
    env = make_simulator(name, 32, **options)
    observations, _ = env.reset(seed=0)
    rows = [flatten(observations)]
    for action in bold_actions(60, 32):
        observations, *_ = env.step(action)
        assert env.observation_space.contains(observations)
        rows.append(flatten(observations))
    rows = np.concatenate(rows)
    assert rows.std(axis=0).min() > 0.01
    assert abs(np.corrcoef(rows.T) - np.eye(rows.shape[1])).max() < 0.99


def drive(poses: np.ndarray | None, seed: int, rows: int, **options) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rows,) and final successes of moving the servos' aims to `poses` (rows, 7), or of standing still."""
    env = make_simulator(REACH, rows, **options)
    env.reset(seed=seed)
    total = np.zeros(rows)
    for _ in range(150):
        action = np.zeros((rows, 7)) if poses is None else (poses - env.state.ctrl) / INCREMENTS
        _, reward, _, _, info = env.step(np.clip(action, -1, 1))
        total += reward
    return total, info["success"]


def test_hovering_near_the_target_or_standing_still_never_beats_reaching_it() -> None:
    env = make_simulator(REACH, 32)
    env.reset(seed=8)
    start, pose, target = env.state.qpos.copy(), env.state.userdata.copy(), env.state.mocap_pos[:, 0].copy()
    hover = pose.copy()
    for share in np.linspace(1.0, 0.0, 400):  # the last pose on the way that is at least 4 cm from the target
        there = np.linalg.norm(fingertip(hover) - target, axis=1) >= 0.04
        hover[~there] = (start + share * (pose - start))[~there]
    reaching, success = drive(pose, 8, 32)
    hovering, hover_success = drive(hover, 8, 32)
    still, _ = drive(None, 8, 32)
    assert success.mean() > 0.8  # a straight way in joint space may meet the floor
    assert not hover_success.any()
    assert (reaching > hovering + 5)[success].all()
    assert (reaching > still + 5)[success].all()
