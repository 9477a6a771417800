"""Data sets against single environments and Minari itself, and agents that begin from them."""

import json
import shutil
import types

import gymnasium
import numpy as np
import pytest
import torch
from zoo import zoo_id

import gantry  # noqa: F401  (registers the ids)
from gantry.agents import PPO, DDPGConfig, DQNConfig, PlannerConfig, PPOConfig, SACConfig
from gantry.agents.models.ensemble import EnsembleConfig
from gantry.agents.models.plan_search import SearchConfig
from gantry.agents.parts.experience import Experience
from gantry.agents.parts.replay_collector import ReplayCollector
from gantry.cli import main
from gantry.errors import GantryError
from gantry.files import TEMPORARY
from gantry.runs.datasets.collect import collect
from gantry.runs.environments import open_env
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.train import resume, train
from gantry.spaces.maps import ActionMap, ObservationMap, Spaces

h5py = pytest.importorskip("h5py")

from gantry.runs.datasets.minari_files import DatasetWriter, read_dataset  # noqa: E402

BALANCE, SWING_UP = "gantry/CartPoleBalance-v0", "gantry/CartPoleSwingUp-v0"
SHORT = {"max_episode_steps": 20}


def agent_for(env_id, **options):
    config = PPOConfig(num_envs=2, hidden_sizes=(4,))
    env = open_env(env_id, 1, options)
    spaces = Spaces(env.single_observation_space, env.single_action_space, config.num_envs)
    env.close()
    return PPO(spaces, config)


def episodes_of(folder):
    """Every episode of a data set: path → array, with its seed or None."""
    found = []
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        for index in range(len(file)):
            group, paths = file[f"episode_{index}"], []
            group.visit(paths.append)
            arrays = {path: group[path][()] for path in paths if isinstance(group[path], h5py.Dataset)}
            found.append((arrays, group.attrs.get("seed")))
    return found


def test_collected_episodes_equal_serial_ones(tmp_path):
    agent = agent_for(SWING_UP, **SHORT)
    assert collect(agent, SWING_UP, tmp_path / "a-v0", SHORT, episodes=5, num_envs=2) == (5, 100)
    found = episodes_of(tmp_path / "a-v0")
    seeds = [seed for _, seed in found if seed is not None]
    assert len(seeds) == 2  # the first episode of each environment begins from its seed
    for arrays, seed in found:
        if seed is None:
            continue
        env = gymnasium.make(SWING_UP, **SHORT)
        observation, _ = env.reset(seed=int(seed))
        for step, action in enumerate(arrays["actions"]):
            np.testing.assert_array_equal(observation, arrays["observations"][step])
            np.testing.assert_allclose(agent.act(observation), action, atol=1e-6)
            observation, reward, terminated, truncated, info = env.step(action)
            assert reward == arrays["rewards"][step]
            assert (terminated, truncated) == (arrays["terminations"][step], arrays["truncations"][step])
            assert info["terms"]["upright"] == arrays["infos/terms/upright"][step + 1]
        np.testing.assert_array_equal(observation, arrays["observations"][-1])
        assert truncated
        assert np.isnan(arrays["infos/terms/upright"][0])


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("CartPole-v1", {}),  # NEXT_STEP autoreset
        (zoo_id("DictNested"), {}),
        (zoo_id("TupleObserved"), {}),
        ("gantry/ReachGoal-v0", SHORT),
    ],
)
def test_episodes_of_others_hang_together_and_load_in_minari(env_id, options, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    collect(agent_for(env_id, **options), env_id, tmp_path / "some-v0", options, episodes=5, num_envs=2)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    loaded = minari.load_dataset("some-v0")
    assert loaded.total_episodes == 5
    assert loaded.total_steps == sum(len(each) for each in loaded)
    env = open_env(env_id, env_options=options)
    assert loaded.observation_space == env.observation_space
    assert loaded.action_space == env.action_space
    for episode in loaded:
        over = episode.terminations | episode.truncations
        assert not over[:-1].any()
        assert over[-1]
        vectors = ObservationMap(env.observation_space).vectors(episode.observations)
        assert len(vectors) == len(episode) + 1
    metadata = next(iter(loaded.storage.get_episode_metadata([0])))
    assert isinstance(metadata["seed"], int)
    assert loaded.env_spec.id == env_id
    if not env_id.startswith("zoo"):  # whose classes are not text
        recovered = loaded.recover_environment()
        assert recovered.observation_space == env.observation_space
        assert recovered.spec.max_episode_steps == options.get("max_episode_steps", 500)


def test_steps_are_exact_and_cut_episodes_count_as_truncated(tmp_path):
    agent = agent_for(BALANCE, **SHORT)
    assert collect(agent, BALANCE, tmp_path / "a-v0", SHORT, steps=101, num_envs=2) == (6, 101)
    lengths = sorted(len(arrays["rewards"]) for arrays, _ in episodes_of(tmp_path / "a-v0"))
    assert lengths == [10, 11, 20, 20, 20, 20]
    assert all(arrays["truncations"][-1] for arrays, _ in episodes_of(tmp_path / "a-v0"))


def test_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a-v0", 0), ("b-v0", 0), ("c-v0", 1)):
        collect(agent_for(BALANCE, **SHORT), BALANCE, tmp_path / name, SHORT, episodes=3, seed=seed)
    one, two, other = ((tmp_path / name / "data" / "main_data.hdf5").read_bytes() for name in ("a-v0", "b-v0", "c-v0"))
    assert one == two != other


def test_two_processes_never_write_one_data_set(tmp_path):
    env, folder = open_env(BALANCE, 1, SHORT), tmp_path / "a-v0"
    first = DatasetWriter(folder, env, BALANCE, SHORT, "ppo")
    with pytest.raises(GantryError, match="another process is writing"):
        collect(agent_for(BALANCE, **SHORT), BALANCE, folder, SHORT, episodes=1)
    assert not folder.exists()
    first.abandon()
    env.close()
    (tmp_path / f"{TEMPORARY}a-v0" / "data").mkdir(parents=True)  # what a kill leaves
    assert collect(agent_for(BALANCE, **SHORT), BALANCE, folder, SHORT, episodes=1) == (1, 20)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("room", [100, 20_000, 60_000])
def test_collection_without_room_is_one_line_and_leaves_nothing(room, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(GantryError, match=r"cannot write .*: File too large"):
            collect(agent_for(BALANCE, **SHORT), BALANCE, tmp_path / "a-v0", SHORT, episodes=40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_failed_collection_leaves_nothing(tmp_path):
    env_id = zoo_id("FailsStep")
    with pytest.raises(GantryError, match="refused to step"):
        collect(agent_for(env_id), env_id, tmp_path / "a-v0", episodes=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "asked", "line"),
    [
        ("taken-v0", {"episodes": 1}, "exists already"),
        ("noversion", {"episodes": 1}, "NAME-vN"),
        ("a-v0", {"episodes": 1, "steps": 1}, "not both"),
        ("a-v0", {}, "not both"),
        ("a-v0", {"episodes": 0}, "must be from 1"),
        ("a-v0", {"steps": 2**80}, "must be from 1"),
        ("a-v0", {"steps": 4, "num_envs": 0}, r"\(--num-envs\) must be at least 1, not 0"),
        ("file/a-v0", {"episodes": 1}, "cannot write"),
    ],
)
def test_unusable_folders_and_numbers_are_refused(name, asked, line, tmp_path):
    (tmp_path / "taken-v0").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(GantryError, match=line):
        collect(agent_for(BALANCE), BALANCE, tmp_path / name, SHORT, **asked)


def test_more_than_disk_and_memory_hold_is_refused_first(tmp_path, monkeypatch):
    agent = agent_for(BALANCE)
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=2**20))
    with pytest.raises(GantryError, match=r"so many steps would take at least .* GiB on the disk, and 0.0 GiB"):
        collect(agent, BALANCE, tmp_path / "a-v0", SHORT, steps=10**9)
    monkeypatch.undo()
    monkeypatch.setattr("gantry.machine.memory.ALWAYS_AT_HAND", 0)
    monkeypatch.setattr("gantry.machine.memory.available_memory", lambda: 1000.0)
    with pytest.raises(GantryError, match=r"num-envs.*the episodes under way would take"):
        collect(agent, BALANCE, tmp_path / "a-v0", SHORT, episodes=2)
    assert list(tmp_path.iterdir()) == []


def test_collecting_episodes_that_never_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gantry.runs.episodes.MAX_STEPS", 20)
    env_id = zoo_id("Endless")
    with pytest.raises(GantryError, match=r"has not ended after 20 steps.*collect --steps"):
        collect(agent_for(env_id), env_id, tmp_path / "a-v0", episodes=2)
    assert list(tmp_path.iterdir()) == []
    done = []
    assert collect(
        agent_for(env_id), env_id, tmp_path / "a-v0", {"max_episode_steps": 30}, episodes=2, progress=done.append
    ) == (2, 60)
    assert done[-1] == 2
    assert done == sorted(done)


# Beginning from data


def experience(lengths, terminal=True, actions=None):
    """Numbered transitions of episodes of some lengths."""
    count = sum(lengths)
    numbers, done = np.arange(count, dtype=np.float32), np.zeros(count, bool)
    done[np.cumsum(lengths) - 1] = True
    acts = np.zeros((count, 1), np.float32) if actions is None else np.array(actions, np.float32)[:, None]
    return Experience(numbers[:, None], acts, numbers, numbers[:, None] + 0.5, done & terminal, done)


def test_experience_fills_the_buffer_with_n_step_returns():
    box = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    config = DDPGConfig(num_envs=1, buffer_size=64, n_step=3, gamma=0.5)
    collector = ReplayCollector(open_env("Pendulum-v1", 1), config, 0, 0)
    collector = ReplayCollector(Spaces(gymnasium.spaces.Box(-9, 9, (1,)), box), config, 0, None)
    collector.buffer = type(collector.buffer)(64, 1, 1, 1, 0.5, 3)
    data = experience((4, 2))
    collector.add_experience(data)
    batch = collector.buffer.gather(torch.arange(6))
    rewards, done = data.rewards, data.done
    for start in range(6):
        last = min(start + 2, int(np.flatnonzero(done[start:])[0]) + start)
        expected = sum(0.5 ** (step - start) * rewards[step] for step in range(start, last + 1))
        assert batch.reward[start] == pytest.approx(expected)
        assert batch.next_observation[start, 0] == last + 0.5
        assert batch.discount[start] == (0.0 if done[last] else 0.5 ** (last - start + 1))


def test_experience_keeps_the_last_that_fit():
    config = DDPGConfig(num_envs=3, buffer_size=12)
    space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    collector = ReplayCollector(Spaces(space, space, 3), config, 0, None)
    collector.buffer = type(collector.buffer)(12, 3, 1, 1, 0.99)
    collector.add_experience(experience((5, 5, 5, 3)))
    assert len(collector.buffer) == 12
    assert sorted(collector.buffer.table[..., 0].reshape(-1).tolist()) == list(range(6, 18))


def test_experience_of_held_actions_sums_rewards():
    data = experience((5, 4), actions=[1, 1, 2, 2, 3, 4, 5, 6, 6])
    held = data.held(2)
    assert held.rewards.tolist() == [0 + 1, 2 + 3, 4, 7 + 8]  # the fifth ends an episode; 4 and 5 differ
    assert held.observations[:, 0].tolist() == [0, 2, 4, 7]
    assert held.next_observations[:, 0].tolist() == [1.5, 3.5, 4.5, 8.5]
    assert held.terminated.tolist() == [False, False, True, True]
    assert experience((5, 4), terminal=False, actions=[1, 1, 2, 2, 3, 4, 5, 6, 6]).held(2).rewards.tolist() == [
        1,
        5,
        15,
    ]


def test_actions_there_and_back():
    box = ActionMap(gymnasium.spaces.Box(np.array([-2.0, 1.0], np.float32), np.array([4.0, 3.0], np.float32)))
    given = np.array([[-2.0, 1.0], [1.0, 2.5], [9.0, 0.0]], np.float32)
    np.testing.assert_allclose(box.from_environment(given), [[-1, -1], [0, 0.5], [1, -1]], atol=1e-6)
    discrete = ActionMap(gymnasium.spaces.Discrete(3, start=5))
    assert discrete.from_environment(np.array([5, 7])).tolist() == [0, 2]


OFF_POLICY = {"num_envs": 2, "buffer_size": 400, "hidden_sizes": (4,), "batch_size": 8, "learning_starts": 4,
              "report_every": 10}  # fmt: skip
CONFIGS = {
    "ddpg": DDPGConfig(**OFF_POLICY, normalize_observation=True),
    "td3": DDPGConfig(**OFF_POLICY, twin_critics=True, n_step=2),
    "sac": SACConfig(**OFF_POLICY),
    "dqn": DQNConfig(**OFF_POLICY, prioritized=True),
    "planner": PlannerConfig(
        search=SearchConfig(horizon=3, population=8, iterations=1, elites=2),
        model=EnsembleConfig(ensemble_size=2, hidden_sizes=(4,), gradient_steps=5), initial_random_steps=8, fit_every=8,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data sets of 100 steps by kind of action."""
    folder, found = tmp_path_factory.mktemp("data"), {}
    for kind in ("continuous", "discrete"):
        options = {"actions": kind, **SHORT}
        found[kind] = folder / f"{kind}-v0"
        collect(agent_for(BALANCE, **options), BALANCE, found[kind], options, episodes=5, deterministic=False)
    return found


def started(folder, name, data, **settings):
    kind = "discrete" if name == "dqn" else "continuous"
    options = {"actions": kind, **SHORT}
    return train(Run(folder), BALANCE, name, CONFIGS[name], 40, 0, options, data=data[kind], **settings)


def numbers(run):
    """What a run learned, without times."""
    rows = [{name: row[name] for name in row if name not in WALL_CLOCK_COLUMNS} for row in run.read_metrics()]
    return repr(rows), (run.folder / "policy.safetensors").read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_agents_begin_from_data_and_resume_exactly(name, data, tmp_path):
    agent = started(tmp_path / "whole", name, data)
    assert agent.steps == 40
    assert len(agent.dataset if name == "planner" else agent.replay.buffer) > 100

    def stop(row):
        if row["steps"] >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(tmp_path / "halves", name, data, progress=stop)
    resume(Run(tmp_path / "halves"))
    whole = numbers(Run(tmp_path / "whole"))
    assert numbers(Run(tmp_path / "halves")) == whole
    # Killed before its first checkpoint, a run begins from the data again.
    shutil.rmtree(tmp_path / "whole" / "trainer")
    resume(Run(tmp_path / "whole"))
    assert numbers(Run(tmp_path / "whole")) == whole
    assert Run(tmp_path / "whole").read_config().data["folder"].endswith("-v0")


def test_data_of_another_kind_are_refused_in_one_line(data, tmp_path):
    def refused(line, name="ddpg", env_id=BALANCE, folder=data["continuous"], config=None, **options):
        with pytest.raises(GantryError, match=line):
            train(Run(tmp_path / "run"), env_id, name, config or CONFIGS[name], 40, 0, options, data=folder)
        assert not Run(tmp_path / "run").exists()

    refused("is of gantry/CartPoleBalance-v0, not of gantry/CartPoleSwingUp-v0", env_id=SWING_UP)
    refused("another observation_space", observe_velocity=False)
    refused("another action_space", name="dqn", actions="discrete")
    refused("ppo cannot begin from data", name="ppo", config=PPOConfig(num_envs=2))
    refused("cannot read the data set", folder=tmp_path / "none")
    refused("set dynamics=learned", name="planner", config=PlannerConfig(dynamics="simulator"))
    repeating = PlannerConfig(**{**vars(CONFIGS["planner"]), "action_repeat": 7})
    refused("no action in the data is held", name="planner", config=repeating)


def test_damaged_data_are_refused_or_equal(data, tmp_path):
    env = open_env(BALANCE, 2, SHORT)
    whole = read_dataset(data["continuous"], env, BALANCE)
    assert len(whole) == 100
    copy = tmp_path / "copy-v0"
    shutil.copytree(data["continuous"], copy)
    file, generator = copy / "data" / "main_data.hdf5", np.random.default_rng(0)
    content = file.read_bytes()
    for attempt in range(60):
        changed = bytearray(content)
        if attempt % 3 == 0:
            del changed[generator.integers(len(changed)) :]
        else:
            changed[generator.integers(len(changed) if attempt % 3 == 1 else 4000)] ^= 1 << generator.integers(8)
        file.write_bytes(changed)
        try:
            found = read_dataset(copy, env, BALANCE)
        except GantryError:
            continue
        assert (
            found.observations.shape == whole.observations.shape
        )  # a changed number is one, as there are no checksums


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda file: file["episode_1"].pop("rewards"), "damaged"),
        (lambda file: file["episode_1/rewards"].write_direct(np.full(20, np.nan)), "NaN or infinite"),
        (lambda file: file.move("episode_4", "episode_9"), "damaged"),
        (lambda file: (file["episode_1"].pop("rewards"),
                       file["episode_1"].update({"rewards": h5py.ExternalLink("other.hdf5", "/rewards")})), "damaged"),
        (lambda file: (file["episode_1"].pop("rewards"),
                       file["episode_1"].create_dataset("rewards", (20,), "f8", external="other")), "not an array"),
    ],
)  # fmt: skip
def test_files_that_say_something_else_are_refused(change, line, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").write_bytes(bytes(400))
    shutil.copytree(data["continuous"], tmp_path / "copy-v0")
    with h5py.File(tmp_path / "copy-v0" / "data" / "main_data.hdf5", "a") as file:
        change(file)
    with pytest.raises(GantryError, match=line):
        read_dataset(tmp_path / "copy-v0", open_env(BALANCE, 2, SHORT), BALANCE)


def test_changed_data_are_noticed_when_a_run_begins_again(data, tmp_path):
    shutil.copytree(data["continuous"], tmp_path / "copy-v0")
    started(tmp_path / "run", "ddpg", {"continuous": tmp_path / "copy-v0"})
    shutil.rmtree(tmp_path / "run" / "trainer")
    with h5py.File(tmp_path / "copy-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/rewards"][0] = 0.5
    with pytest.raises(GantryError, match="is not as it was"):
        resume(Run(tmp_path / "run"))


def test_commands_collect_and_train_from_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--num-envs", "2", "--steps", "40", "--env", "max_episode_steps=20", "--config.hidden-sizes", "4"]
    assert main(["train", BALANCE, *small, "--out", "ppo"]) == 0
    assert main(["collect", "ppo", "--episodes", "3", "--out", "data/a-v0", "--stochastic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 60
    words = ["train", BALANCE, "--agent", "ddpg", "--data", "data/a-v0", *small, "--out", "ddpg"]
    assert main(words) == 0
    assert main([*words, "--resume"]) == 1
    assert "leave --data away" in capsys.readouterr().err
