import functools
import warnings
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from gantry.benchmark.environments import peak_memory
from gantry.envs import make as make_one
from gantry.envs import make_vec
from gantry.envs.simulator import Simulator, all_finite, make_simulator, make_task
from gantry.envs.single import SingleEnvironment
from gantry.envs.tasks.cart_pole import CartPole
from gantry.errors import GantryError

ID = "gantry/CartPoleSwingUp-v0"
SEED = 11
LIMIT = 120
STEPS = 300


class Run(NamedTuple):
    """What a simulator returned in T vector steps, and the positions and velocities in which episodes began."""

    observations: np.ndarray  # (T + 1, n, 5)
    final: np.ndarray  # (T, n, 5): the last observation where an episode ended, else the returned one
    rewards: np.ndarray  # (T, n)
    terms: dict[str, np.ndarray]  # (T, n) each
    terminations: np.ndarray  # (T, n)
    truncations: np.ndarray  # (T, n)
    starts: np.ndarray  # (T + 1, n, 4): positions and velocities after each return


def forceful_actions(n: int, steps: int, seed: int = 0) -> np.ndarray:
    """Pushes in one direction for long enough to run into the rail's ends, noise on top, beyond ±1: (steps, n, 1)."""
    rng = np.random.default_rng(seed)
    period = rng.integers(35, 90, n)
    push = np.where((np.arange(steps)[:, None] // period) % 2 == 0, 1.0, -1.0) * rng.choice([-1.0, 1.0], n)
    return (push + rng.normal(0.0, 0.4, (steps, n)))[:, :, None].astype(np.float32)


def run(simulator: Simulator, actions: np.ndarray, seed: int | None = None) -> Run:
    """Step through `actions` (T, n, 1), after a reset where there is a seed."""
    observation = simulator.task.observation(simulator.features) if seed is None else simulator.reset(seed=seed)[0]
    observations, final, rewards, terms, terminations, truncations = [observation], [], [], [], [], []
    starts = [np.concatenate([simulator.state.qpos, simulator.state.qvel], axis=1)]
    for action in actions:
        observation, reward, terminated, truncated, infos = simulator.step(action)
        observations.append(observation)
        ended = infos.get("_final_obs", np.zeros(simulator.num_envs, bool))
        final.append(np.where(ended[:, None], infos.get("final_obs", observation), observation))
        rewards.append(reward)
        terms.append(infos["terms"])
        terminations.append(terminated)
        truncations.append(truncated)
        starts.append(np.concatenate([simulator.state.qpos, simulator.state.qvel], axis=1))
    return Run(
        np.array(observations),
        np.array(final),
        np.array(rewards),
        {name: np.array([step[name] for step in terms]) for name in terms[0]},
        np.array(terminations),
        np.array(truncations),
        np.array(starts),
    )


def assert_same(one: Run, other: Run, rows: slice | np.ndarray = slice(None)) -> None:
    for name in ("observations", "final", "rewards", "terminations", "truncations", "starts"):
        assert np.array_equal(getattr(one, name)[:, rows], getattr(other, name)[:, rows]), name
    assert one.terms.keys() == other.terms.keys()
    for name, term in one.terms.items():
        assert np.array_equal(term[:, rows], other.terms[name][:, rows]), name


def assert_same_state(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f"), name


def serial_observations(models: list[mujoco.MjModel], batch: Run, actions: np.ndarray) -> np.ndarray:
    """The last observation of every step (T, n, 5) by plain `mj_step` loops, each episode from its start in `batch`."""
    steps, n, _ = actions.shape
    states = np.empty((steps, n, 4))
    for row in range(n):
        model, data = models[row], mujoco.MjData(models[row])
        fresh = True
        for t in range(steps):
            if fresh:
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = np.split(batch.starts[t, row], 2)
            data.ctrl[0] = max(-1.0, min(1.0, float(actions[t, row, 0])))
            mujoco.mj_step(model, data)
            mujoco.mj_step(model, data)
            states[t, row] = [*data.qpos, *data.qvel]
            fresh = batch.terminations[t, row] or batch.truncations[t, row]
    angle = states[..., 1].astype(np.float32)
    columns = [states[..., 0], np.cos(angle), np.sin(angle), states[..., 2], states[..., 3]]
    return np.stack(columns, axis=-1).astype(np.float32)


@functools.lru_cache
def singles(n: int, every: int) -> tuple[np.ndarray, ...]:
    """Observations after autoreset, last observations, rewards, terms, ends of every such one of n environments."""
    actions = forceful_actions(n, STEPS)[:, ::every]
    env = gymnasium.make(f"gantry:{ID}", max_episode_steps=LIMIT)
    count = actions.shape[1]
    observations, final = np.empty((STEPS + 1, count, 5), np.float32), np.empty((STEPS, count, 5), np.float32)
    rewards, terms, ends = np.empty((STEPS, count)), np.empty((STEPS, count, 4)), np.empty((STEPS, count, 2), bool)
    for row in range(count):
        observations[0, row], _ = env.reset(seed=SEED + row * every)
        for t in range(STEPS):
            final[t, row], rewards[t, row], *ends[t, row], info = env.step(actions[t, row])
            terms[t, row] = [*info["terms"].values()]
            observations[t + 1, row] = env.reset()[0] if ends[t, row].any() else final[t, row]
    return observations, final, rewards, terms, ends


# Row i is a simulation of its own


@pytest.mark.parametrize(
    ("n", "threads"),
    [
        (1, 2),
        (7, 1),
        pytest.param(1, 1, marks=pytest.mark.slow),
        pytest.param(7, 2, marks=pytest.mark.slow),
        pytest.param(256, 1, marks=pytest.mark.slow),
        (256, 2),
    ],
)
def test_every_row_equals_a_serial_loop_and_its_single_environment_bit_for_bit(n, threads):
    simulator = make_simulator(ID, n, max_episode_steps=LIMIT, num_threads=threads)
    assert simulator.batch.nthread == (threads if n == 256 else 1)
    actions = forceful_actions(n, STEPS)
    batch = run(simulator, actions, SEED)
    assert np.array_equal(batch.truncations.sum(0), np.full(n, STEPS // LIMIT))
    assert np.abs(batch.final[..., 0]).max() > 1.8, "the stops were never touched"

    assert np.array_equal(batch.final, serial_observations([simulator.model] * n, batch, actions))

    every = max(1, n // 16)
    observations, final, rewards, terms, ends = singles(n, every)
    assert np.array_equal(batch.observations[:, ::every], observations)
    assert np.array_equal(batch.final[:, ::every], final)
    assert np.array_equal(batch.rewards[:, ::every], rewards)
    assert np.array_equal(np.stack([*batch.terms.values()], axis=-1)[:, ::every], terms)
    assert np.array_equal(np.stack([batch.terminations, batch.truncations], axis=-1)[:, ::every], ends)


def test_rows_of_differing_physics_equal_serial_loops_on_their_own_models():
    rng = np.random.default_rng(3)
    n = 32
    physics = {
        "pole_length": rng.uniform(0.3, 2.0, n),
        "pole_mass": rng.uniform(0.05, 1.0, n),
        "cart_mass": rng.uniform(0.3, 3.0, n),
    }
    simulator = make_simulator(ID, n, max_episode_steps=LIMIT, num_threads=2, physics=physics)
    assert simulator.batch.nthread == 2
    models = [simulator.batch.get_model(row) for row in range(n)]
    for row, model in enumerate(models):
        assert model.body("pole").mass[0] == physics["pole_mass"][row]
        assert model.body("cart").mass[0] == physics["cart_mass"][row]
        assert model.geom("pole").size[1] == physics["pole_length"][row] / 2
    actions = forceful_actions(n, STEPS)
    batch = run(simulator, actions, SEED)
    assert np.abs(batch.final[..., 0]).max() > 1.8
    assert np.array_equal(batch.final, serial_observations(models, batch, actions))

    for row in (0, n - 1):  # and the single environment of that physics
        one = {name: values[row] for name, values in physics.items()}
        single = gymnasium.make(f"gantry:{ID}", physics=one)
        single.reset(seed=SEED + row)
        for t in range(LIMIT):
            observation, reward, *_ = single.step(actions[t, row])
            assert np.array_equal(observation, batch.final[t, row])
            assert reward == batch.rewards[t, row]


def test_infos_report_the_physics_that_differ_and_are_no_handle_on_them():
    simulator = make_simulator(ID, 2, physics={"pole_length": [0.5, 2.0]})
    _, infos = simulator.reset(seed=0)
    assert infos["physics"].keys() == {"pole_length", "pole_mass", "cart_mass", "motor_sign"}
    assert np.array_equal(infos["physics"]["pole_length"], [0.5, 2.0])
    infos["physics"]["pole_length"][:] = 9.0
    assert np.array_equal(simulator.get_state()["physics/pole_length"], [0.5, 2.0])
    assert "physics" not in make_simulator(ID, 2).reset(seed=0)[1]


# Saving and continuing


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("physics", [None, {"pole_length": np.linspace(0.5, 1.5, 16), "cart_mass": 2.0}])
@pytest.mark.parametrize("saved_after", [1, 37, 50])
def test_a_saved_simulation_continues_bit_for_bit_here_and_in_a_fresh_simulator(mode, physics, saved_after):
    def build(physics):
        return make_simulator(ID, 16, max_episode_steps=50, num_threads=2, physics=physics, autoreset_mode=mode)

    simulator, actions = build(physics), forceful_actions(16, 160)
    simulator.reset(seed=SEED)
    run(simulator, actions[:saved_after])
    state = simulator.get_state()
    waiting = state["ended"].any()
    assert waiting == (mode is AutoresetMode.NEXT_STEP and saved_after == 50)
    through = run(simulator, actions[saved_after:])
    assert through.truncations.sum() >= 2 * 16

    simulator.set_state(state)
    assert_same(run(simulator, actions[saved_after:]), through)

    other_physics = {"pole_length": 1.7} if physics else None  # what the state brings along prevails
    fresh = build(other_physics)
    fresh.reset(seed=999)
    run(fresh, actions[:5])
    fresh.set_state(state)
    assert_same_state(fresh.get_state(), state)
    assert_same(run(fresh, actions[saved_after:]), through)
    assert_same_state(fresh.get_state(), simulator.get_state())

    untouched = build(other_physics)  # nor does it need a reset first
    untouched.set_state(state)
    assert_same(run(untouched, actions[saved_after:]), through)


def test_a_saved_state_is_a_copy():
    simulator = make_simulator(ID, 4)
    simulator.reset(seed=0)
    state = simulator.get_state()
    before = {name: array.copy() for name, array in state.items()}
    run(simulator, forceful_actions(4, 20))
    assert_same_state(state, before)
    simulator.set_state(state)
    run(simulator, forceful_actions(4, 20))
    assert_same_state(state, before)


def _without(state, name):
    return {key: array for key, array in state.items() if key != name}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {},
        lambda state: _without(state, "seeds"),
        lambda state: {**state, "extra": np.zeros(4)},
        lambda state: {name: array[:3] if array.ndim else array for name, array in state.items()},
        lambda state: {**state, "features": state["features"][:, :3]},
        lambda state: {**state, "simulation": state["simulation"][:, 1:]},
        lambda state: {**state, "simulation": np.full(state["simulation"].shape, "x")},
        lambda state: _without(state, "physics/pole_mass"),
        lambda state: {**state, "physics/pole_mass": np.full(4, np.nan)},
        lambda state: {**state, "physics/pole_mass": np.full(4, -1.0)},
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(spoil):
    simulator = make_simulator(ID, 4, physics={"pole_mass": 0.2})
    simulator.reset(seed=0)
    run(simulator, forceful_actions(4, 10))
    before = simulator.get_state()
    with pytest.raises(GantryError) as caught:
        simulator.set_state(spoil(before))
    assert "\n" not in str(caught.value)
    assert_same_state(simulator.get_state(), before)


def test_the_state_of_another_number_of_rows_is_refused():
    simulator, other = make_simulator(ID, 4), make_simulator(ID, 5)
    simulator.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(GantryError, match="does not fit 4 × CartPole"):
        simulator.set_state(other.get_state())


def test_the_state_of_another_task_of_the_same_shapes_is_refused_in_a_line_that_names_both():
    simulator, other = make_simulator(ID, 4), make_simulator("gantry/CartPoleBalance-v0", 4)
    for each in (simulator, other):
        each.reset(seed=0)
    before = simulator.get_state()
    with pytest.raises(GantryError) as caught:
        simulator.set_state(other.get_state())
    assert str(caught.value) == "this state is of CartPole(swing_up=False), not of CartPole()"
    assert_same_state(simulator.get_state(), before)


@pytest.mark.parametrize(
    ("environment", "options"),
    [(ID, {}), ("gantry/CartPoleSwingUp-v0", {"swing_up": True}), ("gantry/CartPoleBalance-v0", {"swing_up": True})],
)
def test_a_state_fits_the_same_task_however_it_was_asked_for(environment, options):
    simulator, other = make_simulator(ID, 4), make_simulator(environment, 4, **options)
    other.reset(seed=3)
    simulator.set_state(other.get_state())
    assert_same_state(simulator.get_state(), other.get_state())


def test_a_state_that_does_not_say_of_which_task_it_is_fits_where_its_shapes_do():
    """States saved before they said so, and those of tasks that were built by hand."""
    simulator, by_hand = make_simulator(ID, 4), Simulator(CartPole(), 4)
    simulator.reset(seed=3)
    run(simulator, forceful_actions(4, 10))
    state = simulator.get_state()
    older = _without(state, "task")
    for other in (by_hand, make_simulator("gantry/CartPoleBalance-v0", 4)):
        other.set_state(older)
        assert_same_state(_without(other.get_state(), "task"), older)
    by_hand.set_state(state)
    simulator.set_state(by_hand.get_state())
    assert_same_state(simulator.get_state(), state)


# Resets and seeds


def test_a_reset_after_impacts_and_odd_controls_equals_a_fresh_start():
    actions = forceful_actions(8, 100)
    fresh = run(make_simulator(ID, 8), actions, SEED)
    simulator = make_simulator(ID, 8)
    dirtied = run(simulator, forceful_actions(8, 170, seed=1), 5)
    assert np.abs(dirtied.final[..., 0]).max() > 1.8
    simulator.state.qvel[3] = 50.0
    simulator.state.qfrc_applied[:] = 3.0
    assert_same(run(simulator, actions, SEED), fresh)


def test_a_masked_reset_begins_new_episodes_in_those_rows_only():
    mask = np.array([True, False, False, True, False])
    actions = forceful_actions(5, 60)
    through, masked = make_simulator(ID, 5, max_episode_steps=40), make_simulator(ID, 5, max_episode_steps=40)
    run(through, actions[:20], SEED)
    run(masked, actions[:20], SEED)
    before = masked.features.copy()
    observations, _ = masked.reset(options={"reset_mask": mask})
    assert np.array_equal(observations[~mask], before[~mask])
    assert not (observations[mask] == before[mask]).all(1).any()
    one, other = run(through, actions[20:]), run(masked, actions[20:])
    assert_same(one, other, ~mask)
    # The rows that go on are truncated at their step 40, those begun anew 20 steps later.
    ends = [np.flatnonzero(other.truncations[:, row]).tolist() for row in range(5)]
    assert ends == [[39], [19], [19], [39], [19]]

    # A new episode is the second one of that row's seed, and with a seed its first.
    second = make_simulator(ID, 5)
    second.reset(seed=SEED)
    assert np.array_equal(observations[mask], second.reset()[0][mask])
    reseeded, _ = masked.reset(seed=77, options={"reset_mask": mask})
    assert np.array_equal(reseeded[mask], second.reset(seed=77)[0][mask])


def test_rows_that_the_first_masked_reset_leaves_out_have_seeds_of_their_own():
    for seed in (None, SEED):
        simulator = make_simulator(ID, 6)
        mask = np.arange(6) < 2
        simulator.reset(seed=seed, options={"reset_mask": mask})
        observations, _ = simulator.reset(options={"reset_mask": ~mask})
        assert len(np.unique(observations, axis=0)) == 6


def test_the_same_seed_gives_the_same_numbers_and_different_seeds_different_ones():
    actions = forceful_actions(3, 30)
    one, same = run(make_simulator(ID, 3), actions, 5), run(make_simulator(ID, 3), actions, 5)
    assert_same(one, same)
    starts = [tuple(make_simulator(ID, 1).reset(seed=seed)[0][0]) for seed in range(50)]
    assert len(set(starts)) == 50
    assert np.array_equal(one.observations[0, 2], starts[7])  # row 2 of seed 5


def test_a_reset_without_a_seed_goes_on_with_new_episodes():
    simulator = make_simulator(ID, 4)
    first, _ = simulator.reset(seed=5)
    second, _ = simulator.reset()
    third, _ = simulator.reset()
    assert len(np.unique(np.concatenate([first, second, third]), axis=0)) == 12
    assert np.array_equal(simulator.reset(seed=5)[0], first)
    assert np.array_equal(simulator.reset()[0], second)


def test_without_any_seed_two_simulators_differ():
    assert not np.array_equal(make_simulator(ID, 2).reset()[0], make_simulator(ID, 2).reset()[0])


def test_a_list_of_seeds_seeds_each_row():
    simulator = make_simulator(ID, 3)
    listed, _ = simulator.reset(seed=[9, 2, 9])
    assert np.array_equal(listed[0], listed[2])
    assert np.array_equal(listed[1], make_simulator(ID, 1).reset(seed=2)[0][0])
    assert np.array_equal(listed, simulator.reset(seed=np.array([9, 2, 9]))[0])
    huge = 2**64 - 1
    assert np.array_equal(simulator.reset(seed=[huge] * 3)[0][0], make_simulator(ID, 1).reset(seed=huge)[0][0])


@pytest.mark.parametrize(
    "seed", [-1, [0, -1, 2], [0, 1], 1.5, "seed", [0.5, 1.0, 2.0], [None, 1, 2], 2**64, 2**64 - 2, [[1], [2, 3], [4]]]
)
def test_seeds_that_are_none_are_refused_in_one_line_and_change_nothing(seed):
    simulator = make_simulator(ID, 3)
    simulator.reset(seed=1)
    before = simulator.get_state()
    with pytest.raises(GantryError) as caught:
        simulator.reset(seed=seed)
    assert "\n" not in str(caught.value)
    assert_same_state(simulator.get_state(), before)


@pytest.mark.parametrize("mask", [[True, False], [1, 0, 1], np.ones((3, 1), bool), "all"])
def test_a_reset_mask_of_another_shape_or_type_is_refused(mask):
    simulator = make_simulator(ID, 3)
    simulator.reset(seed=1)
    with pytest.raises(GantryError, match="reset_mask"):
        simulator.reset(options={"reset_mask": mask})


# Ends of episodes


class Fence(CartPole):
    """The swing-up, over for good once the cart is 0.4 m from the middle: rows end at times of their own."""

    def terminated(self, next_features):
        return abs(next_features[..., 0]) > 0.4


def _fenced(limit: int) -> gymnasium.Env:
    return TimeLimit(SingleEnvironment(Simulator(Fence(), autoreset_mode=AutoresetMode.DISABLED)), limit)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_autoreset_equals_gymnasiums_own_vector_of_our_single_environments(mode):
    n, limit = 6, 16
    ours = Simulator(Fence(), n, max_episode_steps=limit, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: _fenced(limit)] * n, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert np.array_equal(ours.reset(seed=SEED)[0], theirs.reset(seed=SEED)[0])
    rng = np.random.default_rng(0)
    ends = np.zeros(2, int)
    push = rng.uniform(-1.2, 1.2, (n, 1))
    for t in range(200):
        if t in (13, 90):  # a masked reset in between
            mask = rng.random(n) < 0.5
            one = ours.reset(options={"reset_mask": mask})[0]
            other = theirs.reset(options={"reset_mask": mask.copy()})[0]
            assert np.array_equal(one, other)
        actions = (push * np.where(t % 17 == 0, -1.0, 1.0) + rng.normal(0.0, 0.3, (n, 1))).astype(np.float32)
        observations, rewards, terminations, truncations, infos = ours.step(actions)
        expected = theirs.step(actions)
        assert np.array_equal(observations, expected[0])
        assert np.array_equal(rewards, expected[1])
        assert np.array_equal(terminations, expected[2])
        assert np.array_equal(truncations, expected[3])
        ended = terminations | truncations
        ends += [terminations.sum(), (truncations & ~terminations).sum()]
        if mode is AutoresetMode.SAME_STEP and ended.any():
            assert np.array_equal(infos["_final_obs"], expected[4]["_final_obs"])
            assert np.array_equal(infos["_final_obs"], ended)
            for row in np.flatnonzero(ended):
                assert np.array_equal(infos["final_obs"][row], expected[4]["final_obs"][row])
        else:
            assert "final_obs" not in infos
            assert "final_obs" not in expected[4]
    assert (ends >= 5).all(), "both kinds of ends should occur"


def test_same_step_returns_the_last_observation_as_final_and_the_next_episodes_first():
    ends = make_simulator(ID, 3, max_episode_steps=7)
    goes_on = make_simulator(ID, 3, max_episode_steps=None)
    actions = forceful_actions(3, 7)
    one, other = run(ends, actions, SEED), run(goes_on, actions, SEED)
    assert np.array_equal(one.final[-1], other.observations[-1])
    assert np.array_equal(one.observations[-1], goes_on.reset()[0])
    assert not np.array_equal(one.final[-1], one.observations[-1])
    assert np.array_equal(one.rewards, other.rewards)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_time_limit_truncates_and_never_terminates(mode):
    simulator = make_simulator(ID, 3, max_episode_steps=9, autoreset_mode=mode)
    batch = run(simulator, forceful_actions(3, 40), SEED)
    assert not batch.terminations.any()
    period = 9 if mode is AutoresetMode.SAME_STEP else 10  # the reset takes a step of its own
    assert np.array_equal(np.flatnonzero(batch.truncations[:, 0]), np.arange(8, 40, period))
    assert not run(make_simulator(ID, 3, max_episode_steps=None), forceful_actions(3, 600), SEED).truncations.any()


def test_the_catalogues_time_limit_is_the_default():
    batch = run(make_simulator(ID, 1), np.zeros((500, 1, 1), np.float32), SEED)
    assert np.array_equal(np.flatnonzero(batch.truncations), [499])


def test_without_autoreset_a_step_after_the_end_is_refused_until_the_ended_rows_are_reset():
    simulator = make_simulator(ID, 3, max_episode_steps=4, autoreset_mode="Disabled")
    actions = forceful_actions(3, 8)
    with pytest.raises(gymnasium.error.ResetNeeded):
        simulator.step(actions[0])
    simulator.reset(seed=1)
    for action in actions[:2]:
        simulator.step(action)
    mask = np.array([False, True, False])
    simulator.reset(options={"reset_mask": mask})
    for action in actions[2:4]:
        _, _, _, truncations, infos = simulator.step(action)
    assert truncations.tolist() == [True, False, True]
    assert "final_obs" not in infos
    before = simulator.get_state()
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        simulator.step(actions[4])
    assert_same_state(simulator.get_state(), before)
    simulator.reset(options={"reset_mask": truncations})
    simulator.step(actions[5])


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_a_step_before_the_first_reset_is_refused(mode):
    with pytest.raises(gymnasium.error.ResetNeeded):
        make_simulator(ID, 3, autoreset_mode=mode).step(np.zeros((3, 1), np.float32))


# Simulations that blow up


@pytest.mark.parametrize("velocity", [np.nan, np.inf, 1e12])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_diverging_row_is_truncated_flagged_and_counted_and_its_neighbours_do_not_notice(
    mode, velocity, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # MuJoCo notes its warnings in a file in the current folder
    n, at, row = 32, 20, 5
    others = np.arange(n) != row
    actions = forceful_actions(n, 120)

    def build():
        return make_simulator(ID, n, max_episode_steps=50, num_threads=2, autoreset_mode=mode)

    undisturbed = run(build(), actions, SEED)
    simulator = build()
    run(simulator, actions[:at], SEED)
    last = simulator.features[row].copy()
    simulator.state.qvel[row, 1] = velocity
    observations, rewards, terminations, truncations, infos = simulator.step(actions[at])

    expected = ~others
    assert np.array_equal(infos["diverged"], expected)
    assert np.array_equal(truncations, expected)
    assert not terminations.any()
    assert simulator.divergences == 1
    final = infos["final_obs"] if mode is AutoresetMode.SAME_STEP else observations
    assert np.array_equal(final[row], last)
    assert np.isfinite(observations).all()
    assert np.isfinite(rewards).all()
    assert all(np.isfinite(term).all() for term in infos["terms"].values())
    assert np.array_equal(observations[others], undisturbed.observations[at + 1][others])

    for t in range(at + 1, 120):
        observations, rewards, terminations, truncations, infos = simulator.step(actions[t])
        assert "diverged" not in infos
        assert simulator.divergences == 1
        assert np.array_equal(observations[others], undisturbed.observations[t + 1][others])
        assert np.array_equal(rewards[others], undisturbed.rewards[t][others])
        assert np.array_equal(truncations[others], undisturbed.truncations[t][others])
        ends = (at + 51,) if mode is AutoresetMode.NEXT_STEP else (at + 50, at + 100)
        assert truncations[row] == (t in ends)

    # It goes on with the second episode of its seed.
    second = make_simulator(ID, n)
    second.reset(seed=SEED)
    second.reset()
    resumed = build()
    run(resumed, actions[:at], SEED)
    resumed.state.qvel[row, 1] = velocity
    resumed.step(actions[at])
    if mode is AutoresetMode.NEXT_STEP:
        resumed.step(actions[at])
    assert np.array_equal(resumed.features[row], second.features[row])


def test_a_divergence_that_only_the_observation_shows_is_caught_too():
    class Overflowing(CartPole):
        def features(self, state):
            features = super().features(state)
            features[abs(features[:, 4]) > 20.0] = np.inf
            return features

    simulator = Simulator(Overflowing(), 4)
    simulator.reset(seed=0)
    simulator.state.qvel[2, 1] = 25.0
    observations, rewards, _, truncations, infos = simulator.step(np.zeros((4, 1), np.float32))
    assert infos["diverged"].tolist() == truncations.tolist() == [False, False, True, False]
    assert np.isfinite(observations).all()
    assert np.isfinite(infos["final_obs"]).all()
    assert np.isfinite(rewards).all()


def test_the_count_of_divergences_is_part_of_the_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simulator = make_simulator(ID, 4)
    simulator.reset(seed=0)
    simulator.state.qvel[:2] = np.nan
    simulator.step(np.zeros((4, 1), np.float32))
    assert simulator.divergences == 2
    other = make_simulator(ID, 4)
    other.set_state(simulator.get_state())
    assert other.divergences == 2


def test_all_finite_holds_of_the_largest_numbers_too_without_a_warning():
    assert all_finite(np.array([1.0, -2.0], np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_finite(np.array([[3e38], [1.0]], np.float32))
    for bad in (np.nan, np.inf, -np.inf):
        assert not all_finite(np.array([[0.0], [bad]], np.float32))


# What is refused


@pytest.mark.parametrize(
    "actions",
    [
        0.5,
        [0.0, 0.0, 0.0],
        np.zeros((2, 1)),
        np.zeros((3, 2)),
        np.zeros((3, 1, 1)),
        [[np.nan], [0.0], [0.0]],
        [[0.0], [np.inf], [0.0]],
        [[0.0], [0.0], [-np.inf]],
        [["0.5"], ["0"], ["1"]],
        [["left"], ["right"], ["left"]],
        [[None], [0.0], [0.0]],
        np.zeros((3, 1), complex),
        [[0.0], [0.0, 1.0], [0.0]],
        None,
        {},
    ],
)
def test_continuous_actions_that_are_none_are_refused_in_one_line_before_anything_is_simulated(actions):
    simulator = make_simulator(ID, 3)
    simulator.reset(seed=1)
    run(simulator, forceful_actions(3, 5))
    before = simulator.get_state()
    with pytest.raises(GantryError, match="actions must") as caught:
        simulator.step(actions)
    assert "\n" not in str(caught.value)
    assert_same_state(simulator.get_state(), before)


@pytest.mark.parametrize(
    "actions",
    [
        1,
        [0, 1],
        [[0], [1], [2]],
        [0.0, 1.0, 2.0],
        [0, 1, 3],
        [0, 1, -1],
        np.array([2**63 + 1, 0, 0], np.uint64),
        [2**32, 0, 0],
        [True, False, True],
        ["0", "1", "2"],
        [0, None, 1],
        [np.nan, 0, 1],
        None,
    ],
)
def test_discrete_actions_that_are_none_are_refused_in_one_line_before_anything_is_simulated(actions):
    simulator = make_simulator(ID, 3, actions="discrete")
    simulator.reset(seed=1)
    simulator.step(np.array([0, 1, 2]))
    before = simulator.get_state()
    with pytest.raises(GantryError, match="actions must") as caught:
        simulator.step(actions)
    assert "\n" not in str(caught.value)
    assert_same_state(simulator.get_state(), before)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, list])
def test_actions_of_any_numeric_type_are_taken(kind):
    def step(actions):
        simulator = make_simulator(ID, 3)
        simulator.reset(seed=1)
        return simulator.step(actions)[0]

    numbers = [[1], [0], [-1]]
    given = numbers if kind is list else np.array(numbers, kind)
    assert np.array_equal(step(given), step(np.array(numbers, np.float32)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": -3}, "num_envs"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"num_threads": -1}, "num_threads"),
        ({"render_mode": "human"}, "render_mode"),
        ({"actions": "both"}, "actions must be"),
        ({"gravity": 3}, "no option 'gravity'.*there are: sparse, actions"),
        ({"action": "discrete"}, "no option 'action'.*did you mean actions"),
        ({"physics": {"pole_lenght": 1.0}}, "unknown physical parameter 'pole_lenght'.*pole_length"),
        ({"physics": {"pole_length": 5.0}}, "pole_length must lie in 0.1..4 m"),
        ({"physics": {"pole_length": 0.0}}, "pole_length must lie in 0.1..4 m"),
        ({"physics": {"pole_length": np.nan}}, "pole_length must lie"),
        ({"physics": {"pole_mass": [0.1, 11.0]}}, "pole_mass must lie"),
        ({"physics": {"pole_mass": [0.1, 0.1, 0.1]}}, "pole_mass must be one number"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(GantryError, match=message) as caught:
        make_simulator(ID, **{"num_envs": 2, **settings})
    assert "\n" not in str(caught.value)


def test_observations_of_another_shape_than_the_space_are_refused():
    class Narrow(CartPole):
        def observation(self, features):
            return features[..., :2]

    with pytest.raises(GantryError, match=r"Narrow observes arrays \(2,\), where its space is \(5,\)"):
        Simulator(Narrow(), 3).reset(seed=0)


def test_an_unknown_environment_is_refused_with_the_nearest_name():
    for make in (make_simulator, make_task):
        with pytest.raises(GantryError, match=r"did you mean gantry/CartPoleSwingUp-v0"):
            make("gantry/CartPolSwingup-v0")
        with pytest.raises(GantryError, match=r"there are: .*gantry/CartPoleSwingUp-v0"):
            make("Zzzz")


# What is returned


def test_nothing_returned_changes_afterwards_or_is_a_handle_on_the_simulation():
    simulator, untouched = make_simulator(ID, 4, max_episode_steps=5), make_simulator(ID, 4, max_episode_steps=5)
    actions = forceful_actions(4, 12)
    expected = run(untouched, actions, 1)
    returned = [simulator.reset(seed=1)[0]]
    for t, action in enumerate(actions):
        assert np.array_equal(returned[-1], expected.observations[t])
        returned[-1][:] = np.nan
        observations, rewards, terminations, truncations, infos = simulator.step(action)
        arrays = [rewards, terminations, truncations, *infos["terms"].values(), infos.get("final_obs", np.zeros(1))]
        for array in arrays:
            array[...] = True
        returned.append(observations)
    assert np.array_equal(returned[-1], expected.observations[-1])


def test_types_and_shapes_are_those_of_gymnasium():
    simulator = make_simulator(ID, 3)
    assert simulator.observation_space.shape == (3, 5)
    assert simulator.action_space.shape == (3, 1)
    observations, infos = simulator.reset(seed=0)
    assert observations.dtype == np.float32
    assert infos == {}
    observations, rewards, terminations, truncations, infos = simulator.step(simulator.action_space.sample())
    assert simulator.observation_space.contains(observations)
    assert (rewards.dtype, rewards.shape) == (np.float64, (3,))
    assert (terminations.dtype, terminations.shape) == (truncations.dtype, truncations.shape) == (bool, (3,))
    assert all(term.shape == (3,) for term in infos["terms"].values())
    assert simulator.control_timestep == 0.02
    assert simulator.metadata["render_fps"] == 50


def test_4096_environments_fit_in_one_gibibyte():
    assert peak_memory() < 2**30


def test_what_mujoco_computes_is_refused_where_the_task_has_not_named_it_as_it_would_first_read_zero():
    simulator = make_simulator(ID, 2)
    with pytest.raises(GantryError, match="site_xpos is computed by MuJoCo: a task that reads it names it in its `out"):
        _ = simulator.state.site_xpos


def test_a_tasks_outputs_hold_from_the_first_reset_on():
    class Watched(CartPole):
        outputs = ("xpos",)
        stage = mujoco.mjtStage.mjSTAGE_POS

    simulator = Simulator(Watched(), 3)
    simulator.reset(seed=0)
    assert np.array_equal(simulator.state.xpos[:, 1, 0], simulator.state.qpos[:, 0])
    assert (simulator.state.xpos[:, 1, 0] != 0).all()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_stacked_observations_are_the_last_ones_of_the_same_episode(mode):
    settings = {"max_episode_steps": 7, "autoreset_mode": mode, "physics": {"sensor_noise": 0.1, "cart_mass": "0.5..2"}}
    plain, stacked = make_simulator(ID, 4, **settings), make_simulator(ID, 4, stack=3, **settings)
    assert stacked.single_observation_space.shape == (3, 5)
    seen = [plain.reset(seed=SEED)[0]] * 3
    np.testing.assert_array_equal(stacked.reset(seed=SEED)[0], np.stack(seen, 1))
    for step, actions in enumerate(forceful_actions(4, 20), 1):
        observations, *_, infos = plain.step(actions)
        found, *_, said = stacked.step(actions)
        if "final_obs" in infos:
            np.testing.assert_array_equal(said["final_obs"], np.stack([*seen[1:], infos["final_obs"]], 1))
        begins = step % (7 if mode == "SameStep" else 8) == 0
        seen = [observations] * 3 if begins else [*seen[1:], observations]
        np.testing.assert_array_equal(found, np.stack(seen, 1))
        assert found in stacked.observation_space
    restored = make_simulator(ID, 4, stack=3, **settings)
    restored.reset(seed=0)
    restored.set_state(stacked.get_state())
    actions = forceful_actions(4, 1)[0]
    np.testing.assert_array_equal(restored.step(actions)[0], stacked.step(actions)[0])


def test_stacked_observations_of_one_environment_are_those_of_gymnasiums_wrapper():
    ours, theirs = make_one("CartPole-v1", stack=3), FrameStackObservation(gymnasium.make("CartPole-v1"), 3)
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    np.testing.assert_array_equal(ours.step(1)[0], theirs.step(1)[0])
    single, wrapped = make_one(ID, stack=3), FrameStackObservation(gymnasium.make(ID), 3)
    np.testing.assert_array_equal(single.reset(seed=1)[0], wrapped.reset(seed=1)[0])
    for action in forceful_actions(1, 4)[:, 0]:
        np.testing.assert_array_equal(single.step(action)[0], wrapped.step(action)[0])
    vector = make_vec("CartPole-v1", 2, stack=3)
    assert vector.reset(seed=1)[0].shape == (2, 3, 4)


@pytest.mark.parametrize("stack", [0, -1, 2.5, "3"])
def test_stack_that_is_no_number_of_observations_is_refused(stack):
    for env_id in (ID, "CartPole-v1"):
        with pytest.raises(GantryError, match="stack must be a whole number"):
            make_vec(env_id, 2, stack=stack)
    with pytest.raises(GantryError, match="one array"):
        make_vec("gantry/ReachGoal-v0", 2, stack=2)
    with pytest.raises(GantryError, match="leave out stack"):
        make_simulator(ID, 2, stack=2).planning_model()
