"""Episodes of environments that others made: seeds, caps, what they report, and their films."""

import gc
import itertools
from typing import get_args

import gymnasium
import imageio.v3 as imageio
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from zoo import KINDS, Walk, zoo_id

from gantry.agents import A2C, A2CConfig
from gantry.cli import main
from gantry.envs import make_sb3, make_vec
from gantry.envs.mujoco_log import say_on_console
from gantry.envs.rendering.raycast import RaycastRenderer
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError
from gantry.film.record import record
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate
from gantry.runs.seeds import FOREIGN_ENVS_PER_SEED, FOREIGN_EPISODES_PER_SEED, FOREIGN_SEEDS, Purpose, environment_seed
from gantry.runs.train import make_agent

WEIGHTS = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


class Network:
    """A policy whose last bits depend on how many observations it is shown at once, as those of networks do."""

    def act(self, observations):
        hidden = np.tanh(np.asarray(observations, np.float32) @ WEIGHTS[: observations.shape[1]])
        for _ in range(3):
            hidden = np.tanh(hidden @ WEIGHTS)
        return hidden[:, :1]


class Steps:
    """A policy that always steps to the right."""

    def act(self, observations):
        return np.ones(len(observations), np.int64)


@pytest.fixture
def registered():
    """Register a class as an environment for the time of a test; returns its id."""
    names = []

    def register(kind, **settings):
        names.append(f"zoo/{kind.__name__}Here-v0")
        gymnasium.register(names[-1], kind, **settings)
        return names[-1]

    yield register
    for name in names:
        del gymnasium.registry[name]


class Chaotic(Walk):
    """Each step multiplies a difference in the actions."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, **settings):
        super().__init__(**settings)
        type(self).made = getattr(type(self), "made", 0) + 1

    def step(self, action):
        self.draw *= (3.9 + 0.05 * float(action[0])) * (1.0 - self.draw)
        self.place, self.time = self.draw, self.time + 1
        return self.seen(), self.draw, self.time >= 60, False, {}


def test_episodes_do_not_depend_on_how_they_are_dealt_out(registered):
    """Whatever the number of copies and of episodes, and in films too."""
    env_id, policy = registered(Chaotic), Network()
    whole = evaluate(policy.act, env_id, 11, seed=2)
    assert whole.success is None
    for copies in (1, 3, 20):
        Chaotic.made = 0
        assert evaluate(policy.act, env_id, 11, seed=2, num_envs=copies) == whole
        assert Chaotic.made <= copies
    singles = []
    for number in range(11):
        env = open_env(env_id)
        seen, _ = env.reset(seed=environment_seed("evaluation", 2, 11, env_id) + number)
        total, ended = 0.0, False
        while not ended:
            seen, reward, ended, _, _ = env.step(policy.act(np.repeat(seen[None], 8, 0))[0])
            total += reward
        singles.append(total)
    assert whole.return_mean == np.mean(singles)


def test_films_show_the_episodes_that_evaluate_scores(registered, tmp_path):
    env_id, policy = registered(Chaotic), Network()
    film = record(policy, env_id, tmp_path / "film.gif", episodes=3, seed=2)
    assert np.mean(film.scores) == evaluate(policy.act, env_id, 3, seed=2).score


def test_seeds_of_others_environments_are_disjoint_and_fit_the_older_generator():
    sizes = {"training": 2**12, "evaluation": 2**17, "test": 2**17, "tuning": 2**17}
    blocks = sorted(
        (environment_seed(purpose, seed, size, "CartPole-v1"), size)
        for purpose, size in sizes.items()
        for seed in (0, 1, FOREIGN_SEEDS // size - 1)
    )
    assert all(first + size <= later for (first, size), (later, _) in itertools.pairwise(blocks))
    assert blocks[0][0] == 0
    assert blocks[-1][0] + blocks[-1][1] <= 2**31
    assert FOREIGN_EPISODES_PER_SEED >= 100_000
    assert evaluate(Steps().act, zoo_id("RandomState"), 3, seed=4095).score == 5.0


@given(st.lists(st.tuples(st.sampled_from(get_args(Purpose)), st.integers(0, 2**40 - 1)), unique=True, max_size=9))
def test_seed_blocks_in_others_environments_never_overlap(asked):
    blocks = []
    for purpose, seed in asked:
        size = FOREIGN_ENVS_PER_SEED if purpose == "training" else FOREIGN_EPISODES_PER_SEED
        for each in (seed, seed % (FOREIGN_SEEDS // size)):
            if each < FOREIGN_SEEDS // size:
                blocks.append((environment_seed(purpose, each, size, "CartPole-v1"), size))
            else:
                with pytest.raises(GantryError, match="a seed here must be from 0 to"):
                    environment_seed(purpose, each, 1, "CartPole-v1")
    blocks = sorted(set(blocks))
    assert all(first + size <= later for (first, size), (later, _) in itertools.pairwise(blocks))
    assert all(first >= 0 and first + size <= 2**31 for first, size in blocks)


def test_streams_of_different_seeds_are_disjoint_in_python_and_for_sb3():
    def started(agent):
        agent.stepper.begin_episodes()
        return agent.stepper.observation

    config = A2CConfig(num_envs=3, hidden_sizes=(4,))
    first, second = (started(A2C(make_vec(zoo_id("FloatMax"), 3), config, seed)) for seed in (0, 1))
    assert not np.isin(first[:, 1], second[:, 1]).any()
    assert np.array_equal(first, started(A2C(make_vec(zoo_id("FloatMax"), 3), config, 0)))
    for env_id in ("gantry/CartPoleBalance-v0", zoo_id("FloatMax")):
        first, second = (make_sb3(env_id, 3, seed=seed).reset() for seed in (0, 1))
        assert not np.isin(first[:, 1], second[:, 1]).any()
        assert np.array_equal(first, make_sb3(env_id, 3, seed=0).reset())


def test_sb3_takes_others_environments_by_module():
    env = make_sb3(f"zoo:{zoo_id('RewardWhole')}", 2)
    env.reset()
    for _ in range(5):
        _, rewards, dones, infos = env.step(np.array([1, 0]))
    np.testing.assert_array_equal(rewards, [1.0, 0.0])
    assert dones.all()
    assert infos[0]["terminal_observation"][0] == 5.0


def test_endless_episodes_are_cut_and_counted(tmp_path):
    result = evaluate(Steps().act, zoo_id("Endless"), 3, max_steps=7)
    assert (result.cut, result.length_mean, result.return_mean) == (3, 7.0, 7.0)
    film = record(Steps(), zoo_id("Endless"), tmp_path / "film.gif", episodes=2, max_steps=7)
    assert (film.cut, film.scores) == (2, [7.0, 7.0])
    ours = "gantry/CartPoleBalance-v0"
    result = evaluate(lambda seen: np.zeros((len(seen), 1), np.float32), ours, 2, max_steps=7)
    assert (result.cut, result.length_mean) == (2, 7.0)
    for limit in (0, -1):
        with pytest.raises(GantryError, match="max-steps"):
            evaluate(Steps().act, zoo_id("Endless"), 3, max_steps=limit)


def test_a_time_limit_beyond_the_usual_cap_is_kept(registered, monkeypatch):
    monkeypatch.setattr("gantry.runs.episodes.MAX_STEPS", 4)
    assert evaluate(Steps().act, registered(KINDS["Endless"], max_episode_steps=9), 2).length_mean == 9.0
    assert evaluate(Steps().act, zoo_id("Endless"), 2).length_mean == 4.0


def test_environments_with_a_vector_form_alone_are_evaluated_and_filmed(tmp_path):
    class Vector(gymnasium.vector.SyncVectorEnv):
        def __init__(self, num_envs, render_mode=None, max_episode_steps=None):
            kind = KINDS["SuccessObjects"]
            super().__init__([lambda: kind(render_mode)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
            self.render_mode = render_mode

    gymnasium.register("zoo/VectorOnly-v0", vector_entry_point=Vector)
    try:
        result = evaluate(Steps().act, "zoo/VectorOnly-v0", 3)
        assert (result.score, result.success, result.length_mean) == (5.0, 1.0, 5.0)
        film = record(Steps(), "zoo/VectorOnly-v0", tmp_path / "film.gif")
        assert (film.scores, film.frames) == ([5.0], 15)
    finally:
        del gymnasium.registry["zoo/VectorOnly-v0"]


def test_info_of_a_vector_environment_named_like_ours_changes_no_training():
    class Named(gymnasium.vector.SyncVectorEnv):
        def __init__(self, num_envs, render_mode=None, max_episode_steps=None):
            super().__init__([KINDS["FloatMax"]] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

        def step(self, actions):
            *result, infos = super().step(actions)
            ones = np.ones(self.num_envs)
            return *result, {**infos, "waiting": ones > 0, "elapsed_steps": 7 * ones, "objective": 9 * ones}

    gymnasium.register("zoo/Named-v0", vector_entry_point=Named)
    try:
        agent = make_agent("a2c", "zoo/Named-v0", A2CConfig(num_envs=2, rollout_steps=10, hidden_sizes=(4,)))
        agent.learn(20)
        metrics = agent.stepper.metrics()
        assert (metrics["steps"], metrics["length_mean"]) == (20, 5.0)
        assert "objective_mean" not in metrics
    finally:
        del gymnasium.registry["zoo/Named-v0"]


@pytest.mark.parametrize("wrong", [6, -1])
def test_discrete_observations_outside_their_space_are_one_line_in_training_and_evaluation(registered, wrong):
    class Outside(Walk):
        observation_space = gymnasium.spaces.Discrete(6)

        def observe(self):
            return wrong if self.time == 3 else self.time

    env_id, said = (
        registered(Outside),
        rf"failed in step\(\): ValueError: its observation {wrong} is not one of",
    )
    with pytest.raises(GantryError, match=said):
        evaluate(Steps().act, env_id, 1)
    agent = make_agent("a2c", env_id, A2CConfig(num_envs=2, rollout_steps=10, hidden_sizes=(4,)))
    with pytest.raises(GantryError, match=said):
        agent.learn(20)


def test_exceptions_that_are_no_errors_are_one_line_too(registered):
    class Gone(Walk):
        def step(self, action):
            raise GeneratorExit("left")

    with pytest.raises(GantryError, match=r"failed in step\(\): GeneratorExit: left"):
        evaluate(Steps().act, registered(Gone), 1)


@pytest.mark.parametrize(("kind", "success"), [("SuccessObjects", 1.0), ("SuccessOnlyIfTrue", 0.6), ("InfoText", None)])
def test_success_is_found_under_either_name_and_where_only_true_is_said(kind, success):
    assert evaluate(Steps().act, zoo_id(kind), 5).success == success


def test_info_keys_named_like_ours_are_numbers_like_any_other(tmp_path):
    result = evaluate(Steps().act, zoo_id("InfoLikeOurs"), 3)
    assert (result.cut, result.terms, result.metrics["cut"]) == (0, {}, 7.0)
    assert record(Steps(), zoo_id("InfoLikeOurs"), tmp_path / "film.gif").scores == [5.0]


@pytest.mark.parametrize("kind", ["RewardNaN", "RewardInf", "RewardNone"])
def test_rewards_that_are_no_finite_number_are_one_line(kind):
    with pytest.raises(GantryError, match="it must be finite"):
        evaluate(Steps().act, zoo_id(kind), 2)


@pytest.mark.parametrize("call", ["Make", "Reset", "Step"])
def test_what_an_environment_raises_names_it_and_the_call(call):
    with pytest.raises(
        GantryError, match=rf"Fails{call}-v0.* refused to {call.lower()} \(zoo.py, line \d+\); "
    ) as raised:
        evaluate(Steps().act, zoo_id(f"Fails{call}"), 2)
    assert "\n" not in str(raised.value)
    with pytest.raises(GantryError, match="SystemExit"):
        evaluate(Steps().act, zoo_id("Exits"), 2)


def test_a_failing_close_is_said_and_costs_nothing(capsys, monkeypatch):
    monkeypatch.setattr("gantry.runs.environments._SAID", set())
    assert evaluate(Steps().act, zoo_id("FailsClose"), 3).score == 5.0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "close()" in line


def test_a_missing_pygame_names_the_extra(registered, tmp_path):
    class Unequipped(Walk):
        def render(self):
            raise gymnasium.error.DependencyNotInstalled('pygame is not installed, run `pip install "gymnasium[x]"`')

    with pytest.raises(GantryError, match=r"pip install 'gantry-rl\[toy-text\]'"):
        record(Steps(), registered(Unequipped), tmp_path / "film.gif")
    assert list(tmp_path.iterdir()) == []


# --- films ----------------------------------------------------------------------------------------------------------


def test_film_ends_with_the_last_picture_and_reward(tmp_path):
    film = record(Steps(), zoo_id("FloatMax"), tmp_path / "film.mp4", overlay=False)
    assert (film.scores, film.frames) == ([5.0], 15)  # 5 steps, 10 a second, at 30 frames a second
    brightness = imageio.imread(film.path).mean((1, 2, 3))
    np.testing.assert_allclose(brightness, np.repeat([40, 80, 120, 160, 200], 3), atol=12)
    quick = record(Steps(), zoo_id("FloatMax"), tmp_path / "quick.mp4", overlay=False, speed=5.0)
    assert imageio.imread(quick.path)[-1].mean() == pytest.approx(200, abs=12)


def test_film_keeps_no_frames(registered, tmp_path, monkeypatch):
    """Pictures are encoded while the episode plays, and only those that are shown are drawn."""
    order = []

    class Filmed(Walk):
        def render(self):
            order.append(f"drawn {self.time}")
            return super().render()

    class Writer:
        frames = 0

        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add(self, frame):
            order.append("written")

    monkeypatch.setattr("gantry.film.record.VideoWriter", Writer)
    record(Steps(), registered(Filmed), tmp_path / "film.mp4", speed=6.0)
    assert order == ["drawn 1", "drawn 3", "written", "drawn 5", "written", "written"]


def test_film_has_the_size_that_was_asked_for(tmp_path):
    for kind in ("FloatMax", "OddPictures"):
        film = record(Steps(), zoo_id(kind), tmp_path / "film.mp4", size=(64, 40))
        assert imageio.imread(film.path).shape[1:3] == (40, 64)
    assert imageio.imread(record(Steps(), zoo_id("OddPictures"), tmp_path / "film.mp4").path).shape[1:3] == (34, 48)


def test_a_mujoco_model_is_drawn_by_our_renderer(tmp_path):
    env_id = zoo_id("CarriesMuJoCo")
    views = [
        record(Steps(), env_id, tmp_path / f"{camera}.mp4", camera=camera, size=(48, 32), backend="raycast")
        for camera in (None, "side", "top")
    ]
    assert {film.backend for film in views} == {"raycast"}
    default, side, top = (imageio.imread(film.path).astype(int) for film in views)
    np.testing.assert_array_equal(default, side)  # the model's first
    assert np.abs(side - top).max() > 50
    assert np.abs(side[0] - side[-1]).max() > 50  # it moves


def test_films_leave_nothing_in_memory(tmp_path):
    """Each simulation and renderer is freed at once, not when garbage is next collected."""

    def alive():
        return sum(type(each) in (Simulator, RaycastRenderer) for each in gc.get_objects())

    before = alive()
    gc.disable()
    try:
        record(
            Network(), "gantry/CartPoleBalance-v0", tmp_path / "film.gif", size=(32, 32), backend="raycast", max_steps=1
        )
        record(Steps(), zoo_id("CarriesMuJoCo"), tmp_path / "film.gif", size=(32, 32), backend="raycast")
        assert alive() == before
    finally:
        gc.enable()


def test_mujoco_warns_once_for_many_copies_and_into_no_file(registered, tmp_path, monkeypatch, capfd):
    class Warns(Walk):
        def __init__(self, **settings):
            super().__init__(**settings)
            mujoco.MjModel.from_xml_string('<mujoco><compiler settotalmass="1"/><worldbody/></mujoco>')

    monkeypatch.chdir(tmp_path)
    say_on_console(True)
    env = make_vec(registered(Warns), 3)
    assert env.num_envs == 3
    assert capfd.readouterr().err.count("settotalmass") == 1
    assert evaluate(Steps().act, "zoo/WarnsHere-v0", 3).score == 5.0
    assert capfd.readouterr().err.count("settotalmass") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("CarriesMuJoCo", {"camera": "9" * 5000}, "it has 2, counted from 0"),
        ("FloatMax", {"camera": "top"}, "draws itself"),
        ("FloatMax", {"backend": "raycast"}, "draws itself"),
        ("CarriesMuJoCo", {"camera": "front"}, "side, top"),
        ("NoPictures", {}, "no render mode rgb_array"),
        ("NoPicture", {}, "gives nothing"),
        ("FloatPictures", {}, "array of float64"),
        ("FailsRender", {}, "refused to render"),
    ],
)
def test_what_cannot_be_filmed_is_one_line_and_leaves_no_file(kind, settings, expected, tmp_path):
    with pytest.raises(GantryError, match=expected) as raised:
        record(Steps(), zoo_id(kind), tmp_path / "film.mp4", **settings)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["ActionsUnbounded", "ActionsOneSided", "ActionsFloatMax"])
def test_films_show_actions_without_bounds(kind, tmp_path):
    space = KINDS[kind].action_space

    class Zero:
        def act(self, observations):
            return np.zeros((len(observations), *space.shape), space.dtype)

    assert record(Zero(), zoo_id(kind), tmp_path / "film.gif").frames == 15


def test_commands_take_options_caps_and_stochastic_policies(tmp_path, capsys):
    folder = str(tmp_path / "run")
    small = ["--num-envs", "2", "--config.rollout-steps", "4", "--config.hidden-sizes", "4", "--steps", "16"]
    assert main(["train", f"zoo:{zoo_id('Endless')}", "--out", folder, *small]) == 0
    flags = ["--env", "observation=own", "--max-steps", "6"]
    assert main(["evaluate", folder, "--episodes", "3", *flags, "--stochastic"]) == 0
    assert "3 of 3 episodes" in capsys.readouterr().out
    assert main(["record", folder, "--out", str(tmp_path / "film.gif"), *flags]) == 0
    assert "1 of 1 episodes were cut" in capsys.readouterr().out
    assert main(["record", folder, "--compare", folder, "--out", str(tmp_path / "two.gif"), *flags]) == 0
    assert "2 of 2 episodes were cut" in capsys.readouterr().out
    for command in (["evaluate", folder], ["record", folder, "--out", str(tmp_path / "no.gif")]):
        assert main([*command, "--env", "wheels=3"]) == 1
        assert "wheels" in capsys.readouterr().err
