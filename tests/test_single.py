import statistics
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.single import SingleEnvironment, make_single
from gantry.envs.tasks.cart_pole import CartPole
from gantry.errors import GantryError

ID = "gantry/CartPoleSwingUp-v0"
PUSH = np.array([0.7], np.float32)


def make(**settings) -> gymnasium.Env:
    return gymnasium.make(f"gantry:{ID}", **settings)


def test_values_are_plain_numbers_and_arrays_of_one_environment():
    env = make()
    observation, info = env.reset(seed=0)
    assert (observation.shape, observation.dtype) == ((5,), np.float32)
    assert info == {}
    observation, reward, terminated, truncated, info = env.step(PUSH)
    assert (observation.shape, observation.dtype) == ((5,), np.float32)
    assert type(reward) is float
    assert type(terminated) is type(truncated) is bool
    assert all(type(term) is float for term in info["terms"].values())
    assert env.unwrapped.spec.id == ID


def test_time_limit_is_the_registered_or_the_given_one_and_truncates():
    for given, limit in (({}, 500), ({"max_episode_steps": 7}, 7)):
        env = make(**given)
        env.reset(seed=0)
        ends = [env.step(PUSH)[2:4] for _ in range(limit)]
        assert ends == [(False, False)] * (limit - 1) + [(False, True)]


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(gymnasium.error.ResetNeeded):
        make().step(PUSH)


def test_a_diverging_simulation_is_truncated_flagged_and_needs_a_reset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make()
    env.reset(seed=3)
    last, *_ = env.step(PUSH)
    env.unwrapped.simulator.state.qvel[0, 1] = np.nan
    observation, reward, terminated, truncated, info = env.step(PUSH)
    assert np.array_equal(observation, last)
    assert np.isfinite(reward)
    assert (terminated, truncated, info["diverged"]) == (False, True, True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(PUSH)
    fresh = make()
    fresh.reset(seed=3)
    assert np.array_equal(env.reset()[0], fresh.reset()[0])
    assert np.array_equal(env.step(PUSH)[0], fresh.step(PUSH)[0])


def test_a_seed_begins_its_first_episode_and_no_seed_the_next():
    env = make()
    first, second = env.reset(seed=5)[0], env.reset()[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(env.reset(seed=5)[0], first)
    assert np.array_equal(env.reset()[0], second)
    assert not np.array_equal(make().reset()[0], make().reset()[0])


@pytest.mark.parametrize("physics", [None, {"pole_length": 0.6, "cart_mass": 3.0}])
def test_a_saved_environment_continues_bit_for_bit_here_in_another_and_in_a_batch_of_one(physics):
    env = make(physics=physics)
    env.reset(seed=1)
    for _ in range(20):
        env.step(PUSH)
    state = env.unwrapped.get_state()
    through = [env.step(-PUSH)[:2] for _ in range(50)]
    other = make(physics=physics)
    for again in (env, other):
        again.reset(seed=99)
        again.unwrapped.set_state(state)
        for observation, reward in through:
            found = again.step(-PUSH)
            assert np.array_equal(found[0], observation)
            assert found[1] == reward
    batch = make_simulator(ID, 1, physics=physics)
    batch.set_state(state)
    for observation, reward in through:
        observations, rewards, *_ = batch.step(-PUSH[None])
        assert np.array_equal(observations[0], observation)
        assert rewards[0] == reward


@pytest.mark.parametrize("action", [0.5, [0.1, 0.2], [[0.1]], [np.nan], [np.inf], ["0.5"], None, [None]])
def test_actions_that_are_none_are_refused_in_one_line_before_anything_is_simulated(action):
    env = make()
    env.reset(seed=0)
    before = env.unwrapped.get_state()
    with pytest.raises(GantryError, match="actions must") as caught:
        env.step(action)
    assert "\n" not in str(caught.value)
    for name, array in env.unwrapped.get_state().items():
        assert np.array_equal(array, before[name])


@pytest.mark.parametrize("action", [1.0, 3, -1, [1], "1", None, True])
def test_discrete_actions_that_are_none_are_refused(action):
    env = make(actions="discrete")
    env.reset(seed=0)
    with pytest.raises(GantryError, match="actions must"):
        env.step(action)


@pytest.mark.parametrize("action", [0, 2, np.int64(1), np.array(1), np.uint8(2)])
def test_discrete_actions_of_any_integer_type_are_taken(action):
    env, same = make(actions="discrete"), make(actions="discrete")
    env.reset(seed=0)
    same.reset(seed=0)
    assert np.array_equal(env.step(action)[0], same.step(int(action))[0])


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(gymnasium.error.NameNotFound, match="CartPoleSwingUp"):
        gymnasium.make("gantry/CartPoleSwingUpp-v0")
    with pytest.raises(GantryError, match="did you mean gantry/CartPoleSwingUp-v0"):
        make_single("gantry/CartPoleSwingup-v0")
    with pytest.raises(GantryError, match="no option 'gravity'"):
        make(gravity=3.0)
    with pytest.raises(GantryError, match="render_mode"):
        make_single(ID, render_mode="human")


def test_single_environment_refuses_a_larger_batch_and_autoreset():
    for simulator in (Simulator(CartPole(), 2, autoreset_mode="Disabled"), Simulator(CartPole(), 1)):
        with pytest.raises(ValueError, match="one environment, without autoreset"):
            SingleEnvironment(simulator)


def test_importing_gantry_costs_little_and_loads_neither_torch_nor_mujoco():
    script = (
        "import sys, time, gymnasium\n"
        "assert not any(name.startswith('gantry') for name in sys.modules)\n"
        "start = time.perf_counter(); import gantry; end = time.perf_counter()\n"
        f"assert {ID!r} in gymnasium.registry\n"
        "assert not {'torch', 'mujoco', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "print(end - start)"
    )
    costs = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert statistics.median(costs) < 0.3


def test_gymnasium_makes_the_environments_by_their_full_name_without_an_import_of_ours():
    script = f"import gymnasium; gymnasium.make('gantry:{ID}').reset(seed=0); gymnasium.make({ID!r})"
    subprocess.run([sys.executable, "-c", script], check=True)
