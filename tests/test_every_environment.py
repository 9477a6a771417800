"""What holds for every catalogued environment, and for every value of every one of its options."""

import inspect
import typing
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import vector
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from gantry.envs.registry import registered_tasks
from gantry.envs.simulator import Simulator, make_simulator, make_task
from gantry.envs.single import SingleEnvironment, make_single

ROWS = 8
ROOMS = "gantry/VacuumRooms-v0"


def variants() -> list:
    """Every id as it is, and with each option that is a switch or a choice set to each other value, one at a time."""
    cases = []
    for environment_id in registered_tasks():
        kind = type(make_task(environment_id))
        cases.append(pytest.param(environment_id, {}, id=environment_id))
        defaults = {name: setting.default for name, setting in inspect.signature(kind).parameters.items()}
        usual = {**defaults, **registered_tasks()[environment_id].options}
        for name, hint in typing.get_type_hints(kind.__init__).items():
            choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
            values = [value for value in ((False, True) if hint is bool else choices) if value != usual[name]]
            cases += [
                pytest.param(environment_id, {name: value}, id=f"{environment_id}-{name}={value}") for value in values
            ]
    return cases


every_id = pytest.mark.parametrize("environment_id", registered_tasks())
every_variant = pytest.mark.parametrize(("environment_id", "options"), variants())


def flat(space: gymnasium.Space, observations) -> np.ndarray:
    """Batched observations as (n, numbers)."""
    if isinstance(space, gymnasium.spaces.Dict):
        return np.concatenate([flat(part, observations[name]) for name, part in space.spaces.items()], axis=1)
    return np.asarray(observations).reshape(len(observations), -1)


def wander(simulator: Simulator, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Everything that `steps` vector steps under random actions return, (T, n, ...) each."""
    simulator.action_space.seed(seed)
    observations, _ = simulator.reset(seed=seed)
    seen: dict[str, list] = {"observations": [flat(simulator.single_observation_space, observations)]}
    for _ in range(steps):
        observations, rewards, terminations, truncations, infos = simulator.step(simulator.action_space.sample())
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


def steps_for(environment_id: str) -> int:
    return 25 if environment_id == ROOMS else 60  # a step there is a whole drive to a room


@every_variant
def test_gymnasiums_checker_has_no_complaint(environment_id, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(environment_id, **options).unwrapped, skip_render_check=True)


@every_variant
def test_stable_baselines3s_checker_has_no_complaint(environment_id, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env_for_sb3(gymnasium.make(environment_id, **options).unwrapped, warn=True, skip_render_check=True)


@every_variant
def test_observations_are_finite_inside_their_space_and_say_something(environment_id, options):
    simulator = make_simulator(environment_id, ROWS, **options)
    simulator.action_space.seed(1)
    observations, _ = simulator.reset(seed=1)
    assert simulator.observation_space.contains(observations)
    rows = [flat(simulator.single_observation_space, observations)]
    for _ in range(steps_for(environment_id)):
        observations, *_ = simulator.step(simulator.action_space.sample())
        assert simulator.observation_space.contains(observations)
        rows.append(flat(simulator.single_observation_space, observations))
    numbers = np.concatenate(rows)
    assert np.isfinite(numbers).all()
    assert simulator.divergences == 0
    assert len(np.unique(numbers, axis=0)) > ROWS / 2


# A vacuum that wanders at random leaves far rooms as dirty as they were, so some of what it sees stays the same.
@pytest.mark.parametrize("environment_id", [name for name in registered_tasks() if "Vacuum" not in name])
def test_no_column_of_the_observation_is_constant_or_repeats_another(environment_id):
    numbers = wander(make_simulator(environment_id, ROWS), steps_for(environment_id))["observations"]
    columns = numbers.reshape(-1, numbers.shape[-1])
    assert (np.ptp(columns, axis=0) > 0).all(), np.flatnonzero(np.ptp(columns, axis=0) == 0)
    space = make_simulator(environment_id, 1).single_observation_space
    if isinstance(space, gymnasium.spaces.Dict):
        return  # goal-conditioned observations repeat the achieved goal by their definition
    same = [
        (one, other)
        for one in range(columns.shape[1])
        for other in range(one)
        if np.array_equal(columns[:, one], columns[:, other])
    ]
    assert not same


@every_id
def test_equal_seeds_give_equal_numbers_and_other_seeds_other_starts(environment_id):
    one, same = (wander(make_simulator(environment_id, ROWS), steps_for(environment_id), seed=3) for _ in range(2))
    for name, values in one.items():
        assert np.array_equal(values, same[name]), name
    starts = one["observations"][0]
    other = wander(make_simulator(environment_id, ROWS), 1, seed=1000)["observations"][0]
    assert not np.array_equal(starts, other)
    different = len(np.unique(np.concatenate([starts, other]), axis=0))
    assert different >= 5 if "Vacuum" in environment_id else different == 2 * ROWS  # rooms have few states


@every_variant
def test_rewards_are_finite_with_named_terms_and_not_all_the_same(environment_id, options):
    simulator = make_simulator(environment_id, ROWS, **options)
    seen = wander(simulator, steps_for(environment_id))
    terms = {name: values for name, values in seen.items() if name.startswith("term ")}
    assert terms
    assert all(name.removeprefix("term ").isidentifier() for name in terms)
    for name in ("rewards", *terms):
        assert seen[name].shape == seen["rewards"].shape
        assert np.isfinite(seen[name]).all()
    if "CartPole" in environment_id:
        assert ((seen["rewards"] >= 0.0) & (seen["rewards"] <= 1.0)).all()
        assert np.allclose(seen["rewards"], np.prod([*terms.values()], axis=0), rtol=1e-5, atol=1e-7)
    if not getattr(simulator.task, "sparse", False) and "Goal" not in environment_id:
        assert len(np.unique(seen["rewards"])) > 1


@every_variant
def test_rows_equal_single_environments_bit_for_bit(environment_id, options):
    steps, n = steps_for(environment_id) - 5, 3
    batch = make_simulator(environment_id, n, max_episode_steps=15, **options)
    batch.action_space.seed(0)
    actions = [batch.action_space.sample() for _ in range(steps)]
    observations, _ = batch.reset(seed=7)
    space = batch.single_observation_space
    found = [(flat(space, observations), None, None, None)]
    for action in actions:
        observations, *rest, _ = batch.step(action)
        found.append((flat(space, observations), *rest[:3]))
    single = gymnasium.make(environment_id, max_episode_steps=15, **options)
    for row in range(n):
        observation, _ = single.reset(seed=7 + row)
        assert np.array_equal(_one(space, observation), found[0][0][row])
        for action, (expected, rewards, terminations, truncations) in zip(actions, found[1:], strict=True):
            observation, reward, terminated, truncated, _ = single.step(action[row])
            assert (reward, terminated, truncated) == (rewards[row], terminations[row], truncations[row])
            if terminated or truncated:
                observation, _ = single.reset()
            assert np.array_equal(_one(space, observation), expected[row])


def _one(space: gymnasium.Space, observation) -> np.ndarray:
    if isinstance(space, gymnasium.spaces.Dict):
        return flat(space, {name: part[None] for name, part in observation.items()})[0]
    return np.asarray(observation).ravel()


@every_id
def test_every_way_to_make_it_gives_the_same_environment(environment_id):
    limit = registered_tasks()[environment_id].max_episode_steps
    by_gymnasium = gymnasium.make_vec(environment_id, num_envs=3)
    by_function = make_simulator(environment_id, 3)
    by_constructor = Simulator(make_task(environment_id), 3, max_episode_steps=limit)
    assert isinstance(by_gymnasium.unwrapped, Simulator)
    assert by_gymnasium.spec.id == environment_id
    runs = [wander(env.unwrapped, 20, seed=2) for env in (by_gymnasium, by_function, by_constructor)]
    for other in runs[1:]:
        for name, values in runs[0].items():
            assert np.array_equal(values, other[name]), name
    for env in (by_gymnasium, by_function, by_constructor):
        assert env.unwrapped.max_episode_steps == limit

    made, built = gymnasium.make(environment_id), make_single(environment_id)
    assert isinstance(made.unwrapped, SingleEnvironment)
    assert made.spec.max_episode_steps == limit
    space = made.observation_space
    for env in (made, built):
        observation, _ = env.reset(seed=2)
        assert np.array_equal(_one(space, observation), runs[0]["observations"][0][0])
        assert env.observation_space == by_function.single_observation_space
        assert env.action_space == by_function.single_action_space


@every_id
@pytest.mark.parametrize("kind", ["pushes", "balls"])
def test_disturbed_rows_equal_single_environments_bit_for_bit_and_differ_from_undisturbed_ones(environment_id, kind):
    n, limit = 4, {ROOMS: 3, "gantry/VacuumDrive-v0": 25, "gantry/Vacuum-v0": 6}.get(environment_id, 90)
    batch = make_simulator(environment_id, n, max_episode_steps=limit, num_threads=2, disturb=kind)
    plain = make_simulator(environment_id, n, max_episode_steps=limit)
    batch.action_space.seed(0)
    actions = [batch.action_space.sample() for _ in range(2 * limit + 2)]
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
        single = make_simulator(environment_id, 1, max_episode_steps=limit, disturb=kind)
        single.reset(seed=40 + row)
        for action, (features, state, rewards, terminations, truncations) in zip(actions, seen, strict=True):
            _, reward, terminated, truncated, _ = single.step(action[row : row + 1])
            assert np.array_equal(single.features[0], features[row])
            assert np.array_equal(single.batch.state[0], state[row])
            assert (reward[0], terminated[0], truncated[0]) == (rewards[row], terminations[row], truncations[row])


@every_id
@pytest.mark.parametrize("kind", [None, "pushes", "balls"])
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_a_saved_simulation_continues_bit_for_bit_in_a_fresh_one(environment_id, mode, kind):
    def build():
        return make_simulator(environment_id, 4, max_episode_steps=12, autoreset_mode=mode, disturb=kind)

    one, other = build(), build()
    wander(one, 12 if mode == "NextStep" else 7)  # with rows that wait for their reset, or in the middle
    other.set_state(one.get_state())
    one.action_space.seed(9)
    for _ in range(14 if environment_id == ROOMS else 30):
        action = one.action_space.sample()
        found, expected = other.step(action), one.step(action)
        space = one.single_observation_space
        assert np.array_equal(flat(space, found[0]), flat(space, expected[0]))
        for a, b in zip(found[1:4], expected[1:4], strict=True):
            assert np.array_equal(a, b)
    assert np.array_equal(one.batch.state, other.batch.state)


@every_id
def test_from_wherever_it_is_saved_a_simulation_goes_on_as_it_did_even_while_it_touches_something(environment_id):
    one = make_simulator(environment_id, 8, max_episode_steps=12, disturb="balls")
    one.reset(seed=3)
    one.action_space.seed(3)
    for _ in range(6 if environment_id == ROOMS else 20):
        other = make_simulator(environment_id, 8, max_episode_steps=12, disturb="balls")
        other.set_state(one.get_state())
        for _ in range(2 if environment_id == ROOMS else 1):
            action = one.action_space.sample()
            other.step(action)
            one.step(action)
        assert np.array_equal(one.batch.state, other.batch.state)


@every_id
def test_under_motor_delay_nothing_is_asked_for_until_the_first_action_arrives(environment_id):
    n, delays = 5, np.array([0, 1, 2, 3, 2])
    late = make_simulator(environment_id, n, max_episode_steps=None, physics={"motor_delay": delays})
    plain = make_simulator(environment_id, n, max_episode_steps=None)
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
        if "Vacuum" in environment_id or environment_id == "gantry/Reach-v0":
            still = t < delays
            assert np.abs(late.state.qpos - begun)[still][:, :2].max(initial=0.0) < 0.01, "it stays where it is"
        if plain._some_ended:
            break
    assert not np.array_equal(late.state.qpos, begun)


@every_id
@pytest.mark.parametrize("size", [np.float32(1e38), np.float32(-3e38), np.float64(1e300)])
def test_actions_far_beyond_their_bounds_are_clipped_without_a_warning(environment_id, size):
    space = make_task(environment_id).action_space
    if not isinstance(space, gymnasium.spaces.Box):
        pytest.skip("its actions are numbered")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (1, 3):
            one, other = make_simulator(environment_id, n), make_simulator(environment_id, n)
            one.reset(seed=0)
            other.reset(seed=0)
            bound = space.high if size > 0 else space.low
            for _ in range(3):
                huge, full = np.full((n, *space.shape), size), np.tile(bound, (n, 1))
                for found, expected in zip(one.step(huge)[:4], other.step(full)[:4], strict=True):
                    if not isinstance(found, dict):
                        assert np.array_equal(found, expected)
        single = make_single(environment_id)
        single.reset(seed=0)
        single.step(np.full(space.shape, size))


@every_id
def test_gymnasiums_vector_wrappers_work_on_it(environment_id):
    n, limit = 3, 10
    env = vector.RecordEpisodeStatistics(gymnasium.make_vec(environment_id, num_envs=n, max_episode_steps=limit))
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

    listed = vector.DictInfoToList(gymnasium.make_vec(environment_id, num_envs=n, max_episode_steps=limit))
    plain = gymnasium.make_vec(environment_id, num_envs=n, max_episode_steps=limit)
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
        made = gymnasium.make_vec(environment_id, num_envs=n, max_episode_steps=limit, autoreset_mode="NextStep")
        normalized = vector.NormalizeObservation(made)
        normalized.reset(seed=0)
        for _ in range(2 * limit + 2):
            assert np.isfinite(normalized.step(normalized.action_space.sample())[0]).all()
