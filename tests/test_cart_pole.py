import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.cart_pole import (
    CART_HALF_SIZES,
    POLE_RADIUS,
    CartPole,
    box_inertia,
    capsule_inertia,
)
from gantry.errors import GantryError

ID = "gantry/CartPoleSwingUp-v0"

# The model


def test_the_compiled_model_has_dm_controls_published_numbers():
    model = CartPole().load_model()
    cart, pole = model.body("cart"), model.body("pole")
    slider, hinge = model.joint("slider"), model.joint("hinge")
    assert model.opt.timestep == 0.01
    assert model.opt.gravity.tolist() == [0.0, 0.0, -9.81]
    assert model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT
    assert (model.nq, model.nv, model.nu) == (2, 2, 1)
    assert (cart.mass[0], pole.mass[0]) == (1.0, 0.1)
    # The inertias that dm_control's own cartpole.xml compiles to.
    assert cart.inertia == pytest.approx([0.010833333333333334, 0.016666666666666670, 0.020833333333333332], rel=1e-12)
    assert pole.inertia == pytest.approx(
        [0.009424592767295598, 0.009424592767295598, 0.00010010377358490566], rel=1e-12
    )
    assert pole.ipos.tolist() == [0.0, 0.0, 0.5]
    assert cart.pos.tolist() == [0.0, 0.0, 1.0]
    assert (slider.axis.tolist(), hinge.axis.tolist()) == ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    assert (slider.damping[0], hinge.damping[0]) == (5e-4, 2e-6)
    assert (slider.armature[0], hinge.armature[0]) == (0.0, 0.0)
    assert slider.range.tolist() == [-1.8, 1.8]
    assert (slider.limited[0], hinge.limited[0]) == (True, False)
    assert slider.solref.tolist() == [0.08, 1.0]
    assert model.actuator("slide").gear[0] == 10.0
    assert model.actuator("slide").ctrlrange.tolist() == [-1.0, 1.0]
    assert Simulator(CartPole()).control_timestep == 0.02


@pytest.mark.parametrize("mass", [0.001, 1.0, 30.0])
@pytest.mark.parametrize("size", [(0.2, 0.15, 0.1), (0.05, 0.3, 1.0), (0.1, 0.1, 0.1)])
def test_box_inertia_is_what_mujoco_compiles(mass, size):
    model = _compiled("box", " ".join(map(str, size)), mass)
    assert np.sort(model.body_inertia[1]) == pytest.approx(np.sort(box_inertia(np.array([mass]), size)[0]), rel=1e-9)


@pytest.mark.parametrize("mass", [0.001, 0.1, 10.0])
@pytest.mark.parametrize(("radius", "length"), [(0.045, 1.0), (0.045, 0.1), (0.2, 0.6), (0.01, 4.0)])
def test_capsule_inertia_is_what_mujoco_compiles(mass, radius, length):
    model = _compiled("capsule", f"{radius} {length / 2}", mass)
    ours = capsule_inertia(np.array([mass]), radius, np.array([length]))[0]
    assert model.body_inertia[1] == pytest.approx(ours, rel=1e-9)


def _compiled(shape: str, size: str, mass: float) -> mujoco.MjModel:
    geom = f'<geom type="{shape}" size="{size}" mass="{mass}"/>'
    text = f'<mujoco><compiler boundmass="0"/><worldbody><body><freejoint/>{geom}</body></worldbody></mujoco>'
    return mujoco.MjModel.from_xml_string(text)


def _cart_pole_of(
    length: float, pole_mass: float, cart_mass: float, motor_sign: float = 1.0, rail_friction: float = 0.0
) -> mujoco.MjModel:
    """The cart-pole, written out anew with other numbers."""
    return mujoco.MjModel.from_xml_string(f"""
    <mujoco>
      <option timestep="0.01" integrator="implicitfast"><flag contact="disable"/></option>
      <worldbody>
        <body name="cart" pos="0 0 1">
          <joint name="slider" type="slide" axis="1 0 0" limited="true" range="-1.8 1.8" solreflimit="0.08 1"
            damping="5e-4" frictionloss="{rail_friction}"/>
          <geom type="box" size="0.2 0.15 0.1" mass="{cart_mass}"/>
          <body name="pole">
            <joint name="hinge" type="hinge" axis="0 1 0" damping="2e-6"/>
            <geom type="capsule" fromto="0 0 0 0 0 {length}" size="0.045" mass="{pole_mass}"/>
          </body>
        </body>
      </worldbody>
      <actuator><motor joint="slider" gear="{10 * motor_sign}" ctrllimited="true" ctrlrange="-1 1"/></actuator>
    </mujoco>""")


def test_set_physics_gives_the_accelerations_of_a_model_compiled_with_those_numbers():
    rng = np.random.default_rng(0)
    n = 40
    physics = {
        name: rng.choice(parameter.choices, n)
        if parameter.choices
        else np.exp(rng.uniform(np.log(max(parameter.low, 1e-3)), np.log(parameter.high), n))
        for name, parameter in CartPole.physics.items()
    }
    for index, (name, parameter) in enumerate(CartPole.physics.items()):  # and the ends of every range
        physics[name][2 * index : 2 * index + 2] = parameter.low, parameter.high
    simulator = make_simulator(ID, n, physics=physics)
    for row in range(n):
        ours = simulator.batch.get_model(row)
        values = [physics[name][row] for name in CartPole.physics]
        reference = _cart_pole_of(*values)
        for field in ("body_subtreemass", "dof_M0", "dof_invweight0", "body_invweight0"):
            assert getattr(ours, field) == pytest.approx(getattr(reference, field), rel=1e-9, abs=1e-12), field
        for _ in range(5):
            qpos = [rng.uniform(-2.2, 2.2), rng.uniform(-7.0, 7.0)]  # also beyond the stops
            qvel, control = rng.normal(0.0, [2.0, 8.0]), rng.uniform(-1.0, 1.0)
            found = []
            for model in (ours, reference):
                data = mujoco.MjData(model)
                data.qpos[:], data.qvel[:], data.ctrl[0] = qpos, qvel, control
                mujoco.mj_forward(model, data)
                found.append(data.qacc.copy())
            assert found[0] == pytest.approx(found[1], rel=1e-10, abs=1e-10)
        assert ours.geom("pole").size.tolist() == pytest.approx([POLE_RADIUS, values[0] / 2, 0.0])
        assert ours.geom("pole").pos.tolist() == pytest.approx([0.0, 0.0, values[0] / 2])
        compiled = reference.geom_rbound[1], reference.geom_aabb[1]
        pole = ours.geom("pole").id
        assert ours.geom_rbound[pole] == pytest.approx(compiled[0])
        assert ours.geom_aabb[pole] == pytest.approx(compiled[1])


def test_physics_at_their_defaults_move_as_the_model_does():
    physics = {name: parameter.default for name, parameter in CartPole.physics.items()}
    plain, given_anew = make_simulator(ID, 2), make_simulator(ID, 2, physics=physics)
    one, other = plain.reset(seed=0)[0], given_anew.reset(seed=0)[0]
    assert np.array_equal(one, other)
    for _ in range(50):
        action = np.array([[0.7], [-1.0]], np.float32)
        assert np.allclose(plain.step(action)[0], given_anew.step(action)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("defaults", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("pumped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_features_stay_in_the_observation_space_for_all_physics_that_are_accepted(pumped, defaults):
    """At the corners of what is accepted, and with each quantity also at its default."""
    ends = [(p.low, p.default, p.high) if defaults else (p.low, p.high) for p in CartPole.physics.values()]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*ends, indexing="ij")], axis=1).repeat(8, axis=0)
    n = len(grid)
    simulator = make_simulator(
        ID, n, max_episode_steps=None, physics=dict(zip(CartPole.physics, grid.T, strict=True)), num_threads=2
    )
    simulator.reset(seed=0)
    period = np.tile([3, 7, 15, 25, 40, 60, 90, 130], n // 8)
    largest = np.zeros(5)
    for t in range(600):
        features = simulator.features
        push = np.where((t // period) % 2 == 0, 1.0, -1.0)
        if pumped:  # bang-bang control that feeds energy into the pole or the cart
            spin = np.sign(features[:, 4] * features[:, 1])
            push = np.select(
                [period % 4 == 0, period % 4 == 1, period % 4 == 2], [np.sign(features[:, 3]), spin, -spin], push
            )
        observations, *_ = simulator.step(push[:, None].astype(np.float32))
        largest = np.maximum(largest, np.abs(observations).max(axis=0))
    assert (largest <= simulator.single_observation_space.high).all()
    assert largest[0] > 1.8
    assert simulator.divergences == 0


# Motion


def total_energy(simulator: Simulator) -> np.ndarray:
    """Kinetic and potential energy (n,) in J, from the textbook's formulas."""
    cart, pole, half, inertia = 1.0, 0.1, 0.5, 0.009424592767295598
    velocity, spin = simulator.state.qvel.T
    angle = simulator.state.qpos[:, 1]
    horizontal, vertical = velocity + half * spin * np.cos(angle), half * spin * np.sin(angle)
    kinetic = cart * velocity**2 / 2 + pole * (horizontal**2 + vertical**2) / 2 + inertia * spin**2 / 2
    return kinetic + pole * 9.81 * half * np.cos(angle)


def test_without_control_the_energy_of_the_pole_is_kept():
    """The scale is m g L = 0.98 J between hanging and upright; damping and integrator may take or give 5 % of it."""
    simulator = make_simulator(ID, 64, max_episode_steps=None)
    simulator.reset(seed=0)
    rng = np.random.default_rng(0)
    angle, spin = rng.uniform(-np.pi, np.pi, 64), rng.uniform(-5.0, 5.0, 64)
    simulator.state.qpos[:] = np.stack([np.zeros(64), angle], axis=1)
    simulator.state.qvel[:] = np.stack([-0.05 * spin * np.cos(angle) / 1.1, spin], axis=1)  # no momentum along the rail
    before, worst, furthest = total_energy(simulator), np.zeros(64), 0.0
    for _ in range(500):
        simulator.step(np.zeros((64, 1), np.float32))
        worst = np.maximum(worst, np.abs(total_energy(simulator) - before))
        furthest = max(furthest, np.abs(simulator.state.qpos[:, 0]).max())
    assert furthest < 1.8, "the stops were touched"
    assert worst.max() < 0.05
    assert np.ptp(before) > 0.9


def test_a_push_accelerates_cart_and_pole_as_newton_has_it():
    simulator = make_simulator(ID, 1)
    simulator.reset(seed=0)
    simulator.state.qpos[:] = [0.0, np.pi]
    simulator.state.qvel[:] = 0.0
    simulator.step(np.ones((1, 1), np.float32))
    # (M + m) ẍ - m l θ̈ = 10 N and (I + m l²) θ̈ = m l ẍ for a hanging pole.
    pole_inertia = 0.009424592767295598 + 0.1 * 0.25
    acceleration = 10.0 / (1.1 - 0.05**2 / pole_inertia)
    assert simulator.state.qvel[0, 0] == pytest.approx(0.02 * acceleration, rel=5e-3)
    assert simulator.state.qvel[0, 1] == pytest.approx(0.02 * 0.05 * acceleration / pole_inertia, rel=5e-3)


def test_actions_beyond_the_range_equal_clipped_ones():
    wild, tame = make_simulator(ID, 6), make_simulator(ID, 6)
    wild.reset(seed=0)
    tame.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.normal(0.0, 3.0, (6, 1)).astype(np.float32)
        for one, other in zip(wild.step(actions)[:4], tame.step(np.clip(actions, -1.0, 1.0))[:4], strict=True):
            assert np.array_equal(one, other)


def test_discrete_actions_are_full_force_left_none_and_right():
    discrete, continuous = make_simulator(ID, 4, actions="discrete"), make_simulator(ID, 4)
    assert np.array_equal(discrete.reset(seed=0)[0], continuous.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(80):
        chosen = rng.integers(0, 3, 4)
        pushes = np.array([-1.0, 0.0, 1.0], np.float32)[chosen][:, None]
        for one, other in zip(discrete.step(chosen)[:4], continuous.step(pushes)[:4], strict=True):
            assert np.array_equal(one, other)


def test_hidden_velocities_are_the_last_two_columns_and_change_no_reward():
    whole, partial = make_simulator(ID, 4), make_simulator(ID, 4, observe_velocity=False)
    assert partial.single_observation_space.shape == (3,)
    assert np.array_equal(whole.reset(seed=0)[0][:, :3], partial.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.uniform(-1.0, 1.0, (4, 1)).astype(np.float32)
        seen, rewards, *_ = whole.step(actions)
        hidden, same, *_ = partial.step(actions)
        assert np.array_equal(seen[:, :3], hidden)
        assert np.array_equal(rewards, same)


# Starts


def test_swing_ups_start_hanging_and_balancing_starts_upright():
    hanging = Simulator(CartPole(swing_up=True), 4000)
    hanging.reset(seed=0)
    position, velocity = hanging.state.qpos - [0.0, np.pi], hanging.state.qvel
    for column in (*position.T, *velocity.T):
        assert column.std() == pytest.approx(0.01, rel=0.05)
        assert abs(column.mean()) < 5 * 0.01 / 4000**0.5
    upright = Simulator(CartPole(swing_up=False), 4000)
    upright.reset(seed=0)
    for column, bound in zip(upright.state.qpos.T, (0.1, 0.034), strict=True):
        assert 0.99 * bound < np.abs(column).max() <= bound
        assert column.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert upright.state.qvel.std(axis=0) == pytest.approx([0.01, 0.01], rel=0.05)


# Rewards


def posed(swing_up: bool, sparse: bool, x: float, angle: float, spin: float, action: float):
    """The reward and terms of the transition into exactly this pose, as the task computes it."""
    features = np.array([x, np.cos(angle), np.sin(angle), 0.3, spin], np.float32)
    task = CartPole(swing_up=swing_up, sparse=sparse)
    return task.reward(features, np.array([action], np.float32), features)


@pytest.mark.parametrize(
    ("x", "angle", "spin", "action", "expected"),
    [
        (0.0, 0.0, 0.0, 0.0, (1.0, 1.0, 1.0, 1.0)),
        (0.0, np.pi, 0.0, 0.0, (0.0, 1.0, 1.0, 1.0)),
        (2.0, np.pi / 2, 0.0, 0.0, (0.5, 0.55, 1.0, 1.0)),  # (1 + 0.1) / 2 at the margin
        (-2.0, -np.pi / 2, 5.0, 1.0, (0.5, 0.55, 0.8, 0.55)),
        (1.0, np.pi / 3, -5.0, -0.5, (0.75, (1 + 0.1**0.25) / 2, (4 + 0.75) / 5, 0.55)),
        (0.5, 0.1, 2.0, 0.3, ((1 + np.cos(0.1)) / 2, (1 + 0.1 ** (1 / 16)) / 2, 4.91 / 5, (1 + 0.1**0.16) / 2)),
    ],
)
def test_the_dense_reward_is_the_product_of_terms_computed_by_hand(x, angle, spin, action, expected):
    reward, terms = posed(True, False, x, angle, spin, action)
    assert list(terms) == ["upright", "centered", "small_control", "small_velocity"]
    assert [*terms.values()] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert reward == pytest.approx(np.prod(expected), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("x", "cosine", "expected"),
    [
        (0.0, 1.0, 1.0),
        (0.249, 0.9951, 1.0),
        (-0.249, 0.9951, 1.0),
        (0.251, 1.0, 0.0),
        (-0.251, 1.0, 0.0),
        (0.0, 0.9949, 0.0),
        (0.0, -1.0, 0.0),
    ],
)
def test_the_sparse_reward_is_one_exactly_within_its_thresholds(x, cosine, expected):
    reward, terms = posed(True, True, x, np.arccos(cosine), 9.0, 1.0)
    assert reward == expected
    assert set(terms) == {"upright", "centered"}
    assert reward == terms["upright"] * terms["centered"]


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_rewards_lie_in_0_to_1_and_numpy_and_torch_agree_for_any_leading_shape(seed, sparse):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-4.0, 4.0, (3, 4))
    columns = [
        rng.normal(0, 0.5, (3, 4)),
        np.cos(angle),
        np.sin(angle),
        rng.normal(size=(3, 4)),
        rng.normal(0, 4, (3, 4)),
    ]
    features = np.stack(columns, axis=-1).astype(np.float32)
    control = rng.uniform(-1.0, 1.0, (3, 4, 1)).astype(np.float32)
    task = CartPole(sparse=sparse)
    reward, terms = task.reward(features, control, features)
    imagined, its_terms = task.reward(*(torch.from_numpy(array) for array in (features, control, features)))
    assert reward.shape == imagined.shape == (3, 4)
    assert ((reward >= 0.0) & (reward <= 1.0)).all()
    assert np.allclose(imagined.numpy(), reward, rtol=1e-5, atol=1e-7)
    for name, term in terms.items():
        assert ((term >= 0.0) & (term <= 1.0)).all()
        assert np.allclose(its_terms[name].numpy(), term, rtol=1e-5, atol=1e-7)
    assert not task.terminated(features).any()
    assert not task.terminated(torch.from_numpy(features)).any()


def test_the_reward_in_a_simulation_is_that_of_the_state_reached_and_the_action_taken():
    simulator = make_simulator(ID, 8)
    simulator.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(100):
        actions = rng.uniform(-1.5, 1.5, (8, 1)).astype(np.float32)
        observations, rewards, _, _, infos = simulator.step(actions)
        x, cosine, _, _, spin = observations.astype(np.float64).T
        push = np.clip(actions[:, 0].astype(np.float64), -1.0, 1.0)
        expected = (1 + cosine) / 2 * (1 + 0.1 ** (x**2 / 4)) / 2
        expected *= (4 + 1 - push**2) / 5 * (1 + 0.1 ** (spin**2 / 25)) / 2
        assert rewards == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert rewards == pytest.approx(np.prod([*infos["terms"].values()], axis=0), rel=1e-5, abs=1e-7)


def test_unknown_kinds_of_actions_are_refused():
    with pytest.raises(GantryError, match="'continuous' or 'discrete'"):
        CartPole(actions="both")


def test_the_published_sizes_are_used():
    assert POLE_RADIUS == 0.045
    assert CART_HALF_SIZES == (0.2, 0.15, 0.1)
