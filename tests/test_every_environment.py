"""What holds for every registered task, and for every value of every one of its options.

What a task does not declare (see `gantry.envs.capabilities`) is skipped, and the reason names the capability. Another
package's task takes the same tests: `python -m pytest tests/test_every_environment.py --task my_module:my/Task-v0`.
"""

import functools
import inspect
import math
import typing
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import vector
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from gantry.envs.capabilities import Disturbable, GoalConditioned, PlanDrawable, Plannable, Randomizable
from gantry.envs.components import box
from gantry.envs.registry import registered_id, registered_tasks, require_task
from gantry.envs.simulator import Simulator, make_simulator, make_task
from gantry.envs.single import SingleEnvironment, make_single

NUM_ENVS = 8
SHIPPED = [env_id for env_id, task in registered_tasks().items() if task.class_path.startswith("gantry.envs.tasks.")]
SLOW = {"gantry/VacuumHouse-v0"}
"""Ids that `make test` leaves to `make test-all`: its moves are those of gantry/Vacuum-v0, which is always tested."""
SLOW_VARIANTS = {"gantry/VacuumRooms-v0", "gantry/VacuumTeam-v0"}
"""Ids whose options it leaves to it too: their steps are long. test_vacuum.py changes all options of the first at once;
those of the second are options of gantry/ReachTeam-v0 and gantry/Vacuum-v0."""
SLOW_DISTURBED = {
    "gantry/CartPoleBalance-v0",
    "gantry/CartPoleSwingUpSparse-v0",
    "gantry/ReachPlanarOrder-v0",
    "gantry/ReachGoal-v0",
}
"""Ids whose disturbances it leaves to it too: they are another id's, in the same model."""


def usual(env_id: str) -> dict:
    """Every option of an id with the value that it has unless another is given."""
    spec = require_task(env_id)
    defaults = {name: each.default for name, each in inspect.signature(spec.load_class()).parameters.items()}
    return {**defaults, **spec.options}


def variants(env_id: str) -> list[dict]:
    """The id as it is, and with each option that is a switch or a choice set to each other value, one at a time."""
    values, found = usual(env_id), [{}]
    for name, hint in typing.get_type_hints(require_task(env_id).load_class().__init__).items():
        choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        found += [{name: value} for value in ((False, True) if hint is bool else choices) if value != values.get(name)]
    return found + [{"target_visible": 0.2}] * ("target_visible" in values)


def repeated(cases: list[tuple[str, dict]]) -> list[bool]:
    """Whether each case makes the very task of another id, or of a case before it."""
    made = [f"{require_task(env_id).class_path} {sorted((usual(env_id) | given).items())}" for env_id, given in cases]
    ids = {task for task, (_, options) in zip(made, cases, strict=True) if not options}
    return [
        bool(case[1]) and (task in ids or task in made[:at])
        for at, (task, case) in enumerate(zip(made, cases, strict=True))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test for every shipped id, or for the one that `--task` names; with `options`, for every variant."""
    given = metafunc.config.getoption("--task")
    ids = SHIPPED if given is None else [given]
    if "options" in metafunc.fixturenames:
        cases = [(env_id, options) for env_id in ids for options in variants(env_id)]
        names = ["-".join([env_id, *(f"{key}={value}" for key, value in options.items())]) for env_id, options in cases]
        marked = [
            pytest.param(*case, marks=[pytest.mark.slow] * again or slowly(*case))
            for case, again in zip(cases, repeated(cases), strict=True)
        ]
        metafunc.parametrize(("env_id", "options"), marked, ids=names)
    elif "env_id" in metafunc.fixturenames:
        disturbed = "kind" in metafunc.fixturenames
        metafunc.parametrize("env_id", [pytest.param(env_id, marks=slowly(env_id, {}, disturbed)) for env_id in ids])


def slowly(env_id: str, options: dict, disturbed: bool = False) -> list[pytest.MarkDecorator]:
    slow = env_id in SLOW or (env_id in SLOW_VARIANTS and options) or (env_id in SLOW_DISTURBED and disturbed)
    return [pytest.mark.slow] * bool(slow)


def require(env_id: str, capability: type) -> None:
    """Skip the test where the task does not declare `capability`."""
    if not isinstance(make_task(env_id), capability):
        pytest.skip(f"{env_id} is not {capability.__name__}")


def flat(space: gymnasium.Space, observations) -> np.ndarray:
    """Batched observations as (n, numbers)."""
    if isinstance(space, gymnasium.spaces.Dict):
        return np.concatenate([flat(part, observations[name]) for name, part in space.spaces.items()], axis=1)
    return np.asarray(observations).reshape(len(observations), -1)


def wander(simulator: Simulator, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Everything that `steps` vector steps under random actions return, (T, n, ...) each.

    Every observation must lie in its space.
    """
    simulator.action_space.seed(seed)
    observations, _ = simulator.reset(seed=seed)
    assert simulator.observation_space.contains(observations)
    seen: dict[str, list] = {"observations": [flat(simulator.single_observation_space, observations)]}
    for _ in range(steps):
        observations, rewards, terminations, truncations, infos = simulator.step(simulator.action_space.sample())
        assert simulator.observation_space.contains(observations)
        returned = {
            "observations": flat(simulator.single_observation_space, observations),
            "rewards": rewards,
            "terminations": terminations,
            "truncations": truncations,
            **{f"term {name}": term for name, term in infos["terms"].items()},
        }
        for name, value in returned.items():
            seen.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in seen.items()}


@functools.cache
def wandered(env_id: str, options: tuple[tuple[str, object], ...] = ()) -> tuple[Simulator, dict[str, np.ndarray]]:
    """A simulator that has wandered for a while, and what it returned; for tests that only look."""
    simulator = make_simulator(env_id, NUM_ENVS, **dict(options))
    return simulator, wander(simulator, steps_for(simulator))


def long_steps(simulator: Simulator) -> bool:
    """Whether a control step takes seconds of simulated time, and so a good while to simulate."""
    return simulator.control_timestep > 1.5


def steps_for(simulator: Simulator) -> int:
    return 8 if long_steps(simulator) else 40


def limit_for(simulator: Simulator) -> int:
    """An episode in which a disturbance happens, and that ends soon where control steps are long."""
    return min(90, 2 + math.ceil(2.3 / simulator.control_timestep))


def test_gymnasiums_checker_has_no_complaint(env_id, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, **options).unwrapped, skip_render_check=True)


def test_stable_baselines3s_checker_has_no_complaint(env_id, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env_for_sb3(gymnasium.make(env_id, **options).unwrapped, warn=True, skip_render_check=True)


def test_observations_are_finite_inside_their_space_and_say_something(env_id, options):
    simulator, seen = wandered(env_id, tuple(options.items()))  # which looks whether they are inside
    numbers = np.concatenate(seen["observations"])
    assert np.isfinite(numbers).all()
    assert simulator.divergences == 0
    assert len(np.unique(numbers, axis=0)) > NUM_ENVS / 2


def test_components_name_every_observation_and_action_with_the_bounds_of_the_spaces(env_id, options):
    task = make_task(env_id, **options)
    sides = ((task.observation_components, task.observation_space), (task.action_components, task.action_space))
    for components, space in sides:
        if not components:
            pytest.skip(f"{env_id} names no components")
        assert all(component.name and component.count >= 1 for component in components)
        parts = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {"": space}
        assert {component.key for component in components} == set(parts)
        for key, part in parts.items():
            own = [component for component in components if component.key == key]
            count = sum(component.count for component in own)
            if isinstance(part, gymnasium.spaces.Discrete):
                assert count == part.n
            elif isinstance(part, gymnasium.spaces.MultiDiscrete):
                assert count == part.nvec.sum()
            elif len(part.shape) == 3:
                assert count == part.shape[0]  # an image's channels
            else:
                assert box(own) == part


def test_no_column_of_the_observation_is_constant_or_repeats_another(env_id):
    simulator, seen = wandered(env_id)
    if not all(component.varies for component in simulator.task.observation_components):
        pytest.skip(f"{env_id} observes what a few random steps need not change")
    numbers = seen["observations"]
    columns = numbers.reshape(-1, numbers.shape[-1])
    assert (np.ptp(columns, axis=0) > 0).all(), np.flatnonzero(np.ptp(columns, axis=0) == 0)
    if isinstance(simulator.task, GoalConditioned):
        return  # its observations repeat the achieved goal by definition
    same = [
        (one, other)
        for one in range(columns.shape[1])
        for other in range(one)
        if np.array_equal(columns[:, one], columns[:, other])
    ]
    assert not same


def test_equal_seeds_give_equal_numbers_and_other_seeds_other_starts(env_id):
    simulator = make_simulator(env_id, NUM_ENVS)
    one, same = (wander(make_simulator(env_id, NUM_ENVS), steps_for(simulator), seed=3) for _ in range(2))
    for name, values in one.items():
        assert np.array_equal(values, same[name]), name
    starts, states = [], []
    for seed in (3, 1000):
        starts.append(flat(simulator.single_observation_space, simulator.reset(seed=seed)[0]))
        states.append(simulator.batch.state.copy())
    assert not np.array_equal(*starts)
    assert len(np.unique(np.concatenate(states), axis=0)) == 2 * NUM_ENVS
    different = len(np.unique(np.concatenate(starts), axis=0))
    varying = all(component.varies for component in simulator.task.observation_components)
    assert different == 2 * NUM_ENVS if varying else different >= 5


def test_rewards_are_finite_with_named_terms_and_not_all_the_same(env_id, options):
    _, seen = wandered(env_id, tuple(options.items()))
    terms = {name: values for name, values in seen.items() if name.startswith("term ")}
    assert terms
    assert all(name.removeprefix("term ").isidentifier() for name in terms)
    for name in ("rewards", *terms):
        assert seen[name].shape == seen["rewards"].shape
        assert np.isfinite(seen[name]).all()
    sparse = all(np.isin(values, (0.0, 1.0)).all() for values in terms.values())
    if not sparse:  # what is seldom met may never be met by chance
        assert len(np.unique(seen["rewards"])) > 1


def test_rewards_and_ends_are_the_same_numbers_for_scalars_arrays_and_any_leading_shape(env_id, options):
    """A batch of one is rewarded on NumPy scalars, a batch on arrays, a planner's rollouts on (steps, n)."""
    simulator = make_simulator(env_id, NUM_ENVS, max_episode_steps=None, autoreset_mode="NextStep", **options)
    simulator.action_space.seed(5)
    simulator.reset(seed=5)
    task, path, controls = simulator.task, [simulator.features.copy()], []
    for _ in range(6):
        action = simulator.action_space.sample()
        controls.append(task.control(action))
        simulator.step(action)
        path.append(simulator.features.copy())
    features, control = np.stack(path), np.stack(controls)
    rewards, terms = task.reward(features[:-1], control, features[1:])
    ends = task.terminated(features[1:])
    assert rewards.shape == ends.shape == (6, NUM_ENVS)
    for step, index in np.ndindex(6, NUM_ENVS):
        one = task.reward(features[step, index], control[step, index], features[step + 1, index])
        assert one[0] == rewards[step, index]
        assert {name: float(term) for name, term in one[1].items()} == {
            name: float(term[step, index]) for name, term in terms.items()
        }
        assert task.terminated(features[step + 1, index]) == ends[step, index]


def test_a_planner_is_told_the_features_or_that_they_are_hidden(env_id, options):
    simulator = make_simulator(env_id, NUM_ENVS, **options)
    model = simulator.planning_model()
    observations, _ = simulator.reset(seed=2)
    told = model.features(observations) if not isinstance(observations, dict) else None
    if told is None:
        assert not simulator.task.observes_features
        if not isinstance(simulator.task, Plannable):
            pytest.skip(f"{env_id} is not Plannable with {options}")
    else:
        assert np.array_equal(told, simulator.features[:, : told.shape[1]])
    point = model.point(simulator.features)
    assert (point is not None) == isinstance(simulator.task, PlanDrawable)
    assert point is None or (point.shape == (NUM_ENVS, 3) and np.isfinite(point).all())


def test_own_quantities_at_their_defaults_are_the_model_itself_and_other_values_are_not(env_id):
    require(env_id, Randomizable)
    task = make_task(env_id)
    defaults = {name: parameter.default for name, parameter in task.physics.items()}
    plain = wander(make_simulator(env_id, 3), 20)["observations"]
    same = wander(make_simulator(env_id, 3, physics=defaults), 20)["observations"]
    assert np.allclose(plain, same, rtol=1e-4, atol=1e-4)
    for name, parameter in task.physics.items():
        assert parameter.low <= parameter.default <= parameter.high
        for value in {parameter.low, parameter.high} - {parameter.default}:
            other = wander(make_simulator(env_id, 3, physics={name: value}), 20)["observations"]
            assert not np.allclose(plain, other, rtol=1e-4, atol=1e-4), name


def test_rows_equal_single_environments_bit_for_bit(env_id, options):
    n, limit = 3, 4 if long_steps(make_simulator(env_id)) else 15
    batch = make_simulator(env_id, n, max_episode_steps=limit, **options)
    steps = 2 * limit + 2
    batch.action_space.seed(0)
    actions = [batch.action_space.sample() for _ in range(steps)]
    observations, _ = batch.reset(seed=7)
    space = batch.single_observation_space
    found = [(flat(space, observations), None, None, None)]
    metrics = []
    for action in actions:
        observations, *rest, infos = batch.step(action)
        found.append((flat(space, observations), *rest[:3]))
        metrics.append({name: infos[name] for name in batch.task.metrics(batch.features)})
    single = gymnasium.make(env_id, max_episode_steps=limit, **options)
    for row in (0, n - 1):
        observation, _ = single.reset(seed=7 + row)
        assert np.array_equal(_one(space, observation), found[0][0][row])
        for action, (expected, rewards, terminations, truncations), values in zip(
            actions, found[1:], metrics, strict=True
        ):
            observation, reward, terminated, truncated, info = single.step(action[row])
            assert (reward, terminated, truncated) == (rewards[row], terminations[row], truncations[row])
            assert {name: info[name] for name in values} == {name: value[row] for name, value in values.items()}
            if terminated or truncated:
                observation, _ = single.reset()
            assert np.array_equal(_one(space, observation), expected[row])


def _one(space: gymnasium.Space, observation) -> np.ndarray:
    if isinstance(space, gymnasium.spaces.Dict):
        return flat(space, {name: part[None] for name, part in observation.items()})[0]
    return np.asarray(observation).ravel()


def test_every_way_to_make_it_gives_the_same_environment(env_id):
    limit = require_task(env_id).max_episode_steps
    by_gymnasium = gymnasium.make_vec(registered_id(env_id), num_envs=3)
    by_function = make_simulator(env_id, 3)
    by_constructor = Simulator(make_task(env_id), 3, max_episode_steps=limit)
    assert isinstance(by_gymnasium.unwrapped, Simulator)
    assert by_gymnasium.spec.id == registered_id(env_id)
    steps = 6 if long_steps(by_function) else 20
    runs = [wander(env.unwrapped, steps, seed=2) for env in (by_gymnasium, by_function, by_constructor)]
    for other in runs[1:]:
        for name, values in runs[0].items():
            assert np.array_equal(values, other[name]), name
    for env in (by_gymnasium, by_function, by_constructor):
        assert env.unwrapped.max_episode_steps == limit

    made, built = gymnasium.make(env_id), make_single(env_id)
    assert isinstance(made.unwrapped, SingleEnvironment)
    assert made.spec.max_episode_steps == limit
    space = made.observation_space
    for env in (made, built):
        observation, _ = env.reset(seed=2)
        assert np.array_equal(_one(space, observation), runs[0]["observations"][0][0])
        assert env.observation_space == by_function.single_observation_space
        assert env.action_space == by_function.single_action_space


@pytest.mark.parametrize("kind", ["pushes", "balls"])
def test_disturbed_rows_equal_single_environments_bit_for_bit_and_differ_from_undisturbed_ones(env_id, kind):
    require(env_id, Disturbable)
    n, limit = 4, limit_for(make_simulator(env_id))
    batch = make_simulator(env_id, n, max_episode_steps=limit, num_threads=2, disturb=kind)
    plain = make_simulator(env_id, n, max_episode_steps=limit)
    batch.action_space.seed(0)
    actions = [batch.action_space.sample() for _ in range(limit + limit // 4 + 1)]
    batch.reset(seed=40)
    plain.reset(seed=40)
    assert np.array_equal(batch.features, plain.features)
    seen, different = [], np.zeros(n, bool)
    for action in actions:
        _, *returned, _ = batch.step(action)
        plain.step(action)
        different |= (batch.state.qpos != plain.state.qpos).any(axis=1)
        seen.append((batch.features.copy(), batch.batch.state.copy(), *returned))
    assert different.any()
    for row in (0, 3):
        single = make_simulator(env_id, 1, max_episode_steps=limit, disturb=kind)
        single.reset(seed=40 + row)
        for action, (features, state, rewards, terminations, truncations) in zip(actions, seen, strict=True):
            _, reward, terminated, truncated, _ = single.step(action[row : row + 1])
            assert np.array_equal(single.features[0], features[row])
            assert np.array_equal(single.batch.state[0], state[row])
            assert (reward[0], terminated[0], truncated[0]) == (rewards[row], terminations[row], truncations[row])


def check_resume(env_id: str, **settings) -> None:
    """Check that a saved simulation continues in a fresh one as in itself, bit for bit."""
    limit, steps = (4, 6) if long_steps(make_simulator(env_id)) else (12, 18)
    one, other = (make_simulator(env_id, 4, max_episode_steps=limit, **settings) for _ in range(2))
    # Waiting for a reset, or in the middle.
    wander(one, limit if settings.get("autoreset_mode") == "NextStep" else limit // 2 + 1)
    other.set_state(one.get_state())
    one.action_space.seed(9)
    space = one.single_observation_space
    for _ in range(steps):
        action = one.action_space.sample()
        found, expected = other.step(action), one.step(action)
        assert np.array_equal(flat(space, found[0]), flat(space, expected[0]))
        for a, b in zip(found[1:4], expected[1:4], strict=True):
            assert np.array_equal(a, b)
        for name in one.task.metrics(one.features):
            assert np.array_equal(found[4][name], expected[4][name])
    assert np.array_equal(one.batch.state, other.batch.state)


def test_a_saved_simulation_continues_bit_for_bit(env_id, options):
    check_resume(env_id, **options)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [pytest.param("NextStep", None, marks=pytest.mark.slow), ("NextStep", "pushes"), ("SameStep", "balls")],
)
def test_a_saved_simulation_continues_bit_for_bit_in_every_mode_and_disturbed(env_id, mode, kind):
    if kind is not None:
        require(env_id, Disturbable)
    check_resume(env_id, autoreset_mode=mode, disturb=kind)


def test_a_simulation_saved_at_any_moment_continues_bit_for_bit_even_in_contact(env_id):
    require(env_id, Disturbable)
    one = make_simulator(env_id, 4, max_episode_steps=12, disturb="balls")
    one.reset(seed=3)
    one.action_space.seed(3)
    for _ in range(4 if long_steps(one) else 12):
        other = make_simulator(env_id, 4, max_episode_steps=12, disturb="balls")
        other.set_state(one.get_state())
        for _ in range(2 if long_steps(one) else 1):
            action = one.action_space.sample()
            other.step(action)
            one.step(action)
        assert np.array_equal(one.batch.state, other.batch.state)


def test_under_motor_delay_nothing_is_asked_for_until_the_first_action_arrives(env_id):
    n, delays = 5, np.array([0, 1, 2, 3, 2])
    late = make_simulator(env_id, n, max_episode_steps=None, physics={"motor_delay": delays})
    plain = make_simulator(env_id, n, max_episode_steps=None)
    late.action_space.seed(3)
    actions = [late.action_space.sample() for _ in range(8)]
    sent = [plain.task.control(action) for action in actions]
    for each in (late, plain):
        each.reset(seed=3)
    begun = plain.state.qpos.copy()
    for t, action in enumerate(actions):
        # The very task, whose controls are those of `delay` steps ago, or at first its neutral ones.
        arriving = np.full_like(sent[t], plain.task.neutral)
        for row, delay in enumerate(delays):
            if t >= delay:
                arriving[row] = sent[t - delay][row]
        plain.task.control = lambda _, arriving=arriving: arriving
        late.transition(action)
        plain.transition(action)
        assert np.array_equal(late.features, plain.features)
        if plain.task.terminated(plain.features).any():
            break
    assert not np.array_equal(late.state.qpos, begun)


@pytest.mark.parametrize(
    "holding", ["gantry/Reach-v0", "gantry/Vacuum-v0", "gantry/VacuumRooms-v0", "gantry/VacuumDrive-v0"]
)
def test_neutral_control_keeps_a_robot_where_it_is(holding):
    simulator = make_simulator(holding, 5, max_episode_steps=None, physics={"motor_delay": 3})
    simulator.reset(seed=3)
    simulator.action_space.seed(3)
    begun = simulator.state.qpos.copy()
    for _ in range(3):  # until the first action arrives
        simulator.step(simulator.action_space.sample())
        assert np.abs(simulator.state.qpos - begun)[:, :2].max() < 0.01


@pytest.mark.parametrize("size", [np.float32(1e38), np.float32(-3e38), np.float64(1e300)])
def test_actions_far_beyond_their_bounds_are_clipped_without_a_warning(env_id, size):
    space = make_task(env_id).action_space
    if not isinstance(space, gymnasium.spaces.Box):
        pytest.skip("its actions are numbered")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (1, 3):
            one, other = make_simulator(env_id, n), make_simulator(env_id, n)
            one.reset(seed=0)
            other.reset(seed=0)
            bound = space.high if size > 0 else space.low
            for _ in range(3):
                huge, full = np.full((n, *space.shape), size), np.tile(bound, (n, 1))
                for found, expected in zip(one.step(huge)[:4], other.step(full)[:4], strict=True):
                    if not isinstance(found, dict):
                        assert np.array_equal(found, expected)
        single = make_single(env_id)
        single.reset(seed=0)
        single.step(np.full(space.shape, size))


def test_gymnasiums_vector_wrappers_work_on_it(env_id):
    n, limit = 3, 4 if long_steps(make_simulator(env_id)) else 10
    env = vector.RecordEpisodeStatistics(gymnasium.make_vec(registered_id(env_id), num_envs=n, max_episode_steps=limit))
    env.reset(seed=0)
    env.action_space.seed(0)
    sums, lengths, ended = np.zeros(n), np.zeros(n), 0
    for _ in range(2 * limit):
        _, rewards, terminations, truncations, infos = env.step(env.action_space.sample())
        sums += rewards
        lengths += 1
        ends = terminations | truncations
        if ends.any():
            assert np.array_equal(infos["_episode"], ends)
            assert np.allclose(infos["episode"]["r"][ends], sums[ends])
            assert np.array_equal(infos["episode"]["l"][ends], lengths[ends])
            ended += ends.sum()
            sums[ends] = lengths[ends] = 0
    assert ended >= 2 * n

    listed = vector.DictInfoToList(gymnasium.make_vec(registered_id(env_id), num_envs=n, max_episode_steps=limit))
    plain = gymnasium.make_vec(registered_id(env_id), num_envs=n, max_episode_steps=limit)
    assert listed.reset(seed=0)[1] == [{}] * n
    plain.reset(seed=0)
    for _ in range(limit):
        action = plain.action_space.sample()
        infos, expected = listed.step(action)[4], plain.step(action)[4]
        for row, info in enumerate(infos):
            for name, term in expected["terms"].items():
                assert info["terms"][name] == term[row]
            assert ("final_obs" in info) == ("final_obs" in expected and expected["_final_obs"][row])
    assert "final_obs" in expected

    if isinstance(env.single_observation_space, gymnasium.spaces.Box):
        made = gymnasium.make_vec(registered_id(env_id), num_envs=n, max_episode_steps=limit, autoreset_mode="NextStep")
        normalized = vector.NormalizeObservation(made)
        normalized.reset(seed=0)
        for _ in range(2 * limit + 2):
            assert np.isfinite(normalized.step(normalized.action_space.sample())[0]).all()
