"""Tuning: what is searched, how trials are compared and given up, going on after a stop, and the recipe file."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import gantry.agents
from gantry import cli
from gantry.agents import AGENTS, config_class
from gantry.agents.a2c import A2CConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.sac import SACConfig
from gantry.errors import GantryError
from gantry.files import config_from_json, config_to_json
from gantry.runs import tune as tuning
from gantry.runs.folder import Run
from gantry.runs.pace import steps_within
from gantry.runs.recipes import Recipe
from gantry.runs.recipes.recipe_file import read_recipe, write_recipe
from gantry.runs.seeds import environment_seed
from gantry.runs.tune import RUNGS, TuningPlan, configured, search_space, train_for, tune

SHORT = TuningPlan("CartPole-v1", "a2c", steps=80, episodes=2, trials=3, repeats=1)


def plan(**changes):
    return dataclasses.replace(SHORT, **changes)


def studied(folder):
    """The trials that ended, as (parameters, state, value)."""
    optuna = pytest.importorskip("optuna")
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    (study,) = optuna.get_all_study_names(storage := optuna.storages.JournalStorage(backend))
    return optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)


def scripted(monkeypatch, scores, stop_at=None):
    """Replace trainings: each reports the scores of the next script, one per rung."""
    calls = []

    def train(plan, config, seed, judge=None):
        calls.append((config, seed))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        script = scores[min(len(calls), len(scores)) - 1]
        if isinstance(script, str):
            raise GantryError(script)
        for rung, score in enumerate(script, 1):
            if judge is not None:
                judge(rung, score)
        return script[-1], 100 + len(calls)

    monkeypatch.setattr(tuning, "train_for", train)
    return calls


# What is searched


@pytest.mark.parametrize("name", AGENTS)
def test_search_space_holds_valid_settings(name):
    kind, space = config_class(name), search_space(config_class(name))
    known = config_to_json(kind())
    for setting, values in space.items():
        at = known
        for part in setting.split("."):
            assert part in at
            at = at[part]
        if isinstance(values, list):
            ends = values
        else:
            low, high, logarithmic = values
            assert low < high
            assert low > 0 or not logarithmic
            assert type(low) is type(high)
            ends = [low, high]
        for value in ends:
            configured(kind(), {setting: value})


def test_agents_do_not_import_optuna():
    files = list(Path(gantry.agents.__file__).parent.rglob("*.py"))
    assert files
    assert not any("import optuna" in path.read_text(encoding="utf-8") for path in files)


# How trials are compared


def test_first_trial_has_the_settings_from_before_and_all_train_again_from_the_same_seeds(monkeypatch, tmp_path):
    calls = scripted(monkeypatch, [[1.0] * RUNGS, [5.0] * RUNGS, [3.0] * RUNGS, [4.0], [4.0], [1.0]])
    result = tune(plan(), tmp_path)
    assert calls[0][0] == A2CConfig()
    seeds = [seed for _, seed in calls]
    assert len(set(seeds[:3])) == 3
    assert len(set(seeds[3:])) == 1
    assert set(seeds[:3]).isdisjoint(seeds[3:])
    assert 0 not in seeds  # whose environments are those of evaluations
    assert [config for config, _ in calls[3:]] == [calls[1][0], calls[2][0], calls[0][0]]
    assert (result.number, result.score, result.default_score) == (1, 4.5, 1.0)
    assert result.recipe.config == calls[1][0]
    assert result.recipe.total_steps == 102


def test_trial_below_the_median_of_its_rung_is_given_up(monkeypatch, tmp_path):
    good, bad = [10.0, 20.0, 30.0, 40.0], [1.0, 99.0, 99.0, 99.0]
    scripted(monkeypatch, [*[good] * 6, bad])
    result = tune(plan(trials=7, repeats=0), tmp_path)
    assert result.scores == [(number, 40.0, False) for number in range(6)] + [(6, 1.0, True)]
    assert result.score == 40.0


def test_options_that_a_recipe_was_tuned_for_are_those_of_the_search(monkeypatch, tmp_path):
    scripted(monkeypatch, [[1.0] * RUNGS])
    rooms = plan(env_id="gantry/VacuumRooms-v0", agent="q-learning", trials=1, repeats=0)
    assert tune(rooms, tmp_path).recipe.env_options == {"observation": "discrete"}


def test_td3_stays_td3(monkeypatch, tmp_path):
    scripted(monkeypatch, [[1.0] * RUNGS, [2.0] * RUNGS])
    tune(plan(env_id="Pendulum-v1", agent="td3", trials=2, repeats=0), tmp_path)
    assert read_recipe(tmp_path / "recipe.json").agent == "td3"


def test_settings_that_fail_are_bad_trials_with_their_reason(monkeypatch, tmp_path):
    scripted(monkeypatch, [[1.0] * RUNGS, "learning stopped: NaN", [2.0] * RUNGS])
    heard = []
    result = tune(plan(repeats=0), tmp_path, told=heard.append)
    assert [trial.outcome for trial in heard] == ["complete", "learning stopped: NaN", "complete"]
    assert [trial.remaining for trial in heard] == [2, 1, 0]
    assert math.isnan(heard[1].score)
    assert result.number == 2


def test_search_without_any_whole_trial_says_why(monkeypatch, tmp_path):
    scripted(monkeypatch, ["learning stopped: NaN"])
    with pytest.raises(GantryError, match="no trial came to its end; the first one: learning stopped: NaN"):
        tune(plan(), tmp_path)


@pytest.mark.parametrize("budget", [{"steps": 120}, {"steps": None, "seconds": 0.1}], ids=["steps", "seconds"])
def test_training_is_judged_along_its_budget_and_at_its_end(budget):
    heard = []
    score, steps = train_for(plan(**budget), A2CConfig(num_envs=2), 1, lambda rung, score: heard.append((rung, score)))
    rungs = [rung for rung, _ in heard]
    assert rungs == sorted(set(rungs))
    assert heard[-1] == (RUNGS, score)
    assert steps > 0
    if budget["steps"]:
        assert steps == 120


def test_pace_is_that_of_learning(monkeypatch):
    clock = [0.0]

    class Steady:
        """Takes 10 steps an update, and two seconds for it once it learns."""

        config, steps = dataclasses.replace(SACConfig(), learning_starts=1000), 0

        def learn(self, total_steps, callback):
            going_on = True
            while going_on is not False:
                self.steps += 10
                clock[0] += 0.001 if self.steps <= 1000 else 2.0
                going_on = callback(self, {})

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    random_seconds = 100 * 0.001
    assert steps_within(100.0, Steady()) == round(1000 + 10 * (100 - random_seconds) / 2)


class Remembering(gymnasium.Env):
    """An environment that remembers the seeds it was given."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    seeds: set[int] = set()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            Remembering.seeds.add(seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), float(action), self.time == 4, False, {}


def test_tuning_touches_tuning_seeds_alone(monkeypatch, tmp_path):
    gymnasium.register("test/Remembering-v0", Remembering)
    try:
        tune(plan(env_id="test/Remembering-v0", trials=2, steps=40), tmp_path)
    finally:
        del gymnasium.registry["test/Remembering-v0"]
    firsts = {
        purpose: environment_seed(purpose, 0, env_id="test/Remembering-v0")
        for purpose in ("training", "evaluation", "test", "tuning")
    }
    beyond = min(first for first in [*firsts.values(), 2**31] if first > firsts["tuning"])
    assert Remembering.seeds
    assert firsts["tuning"] <= min(Remembering.seeds)
    assert max(Remembering.seeds) < beyond


# Going on


def test_same_command_goes_on_to_the_number_of_trials(monkeypatch, tmp_path):
    scripted(monkeypatch, [[1.0] * RUNGS, [3.0] * RUNGS])
    tune(plan(trials=2, repeats=0), tmp_path)
    before = [trial.params for trial in studied(tmp_path)]
    calls = scripted(monkeypatch, [[2.0] * RUNGS])
    result = tune(plan(trials=4, repeats=0), tmp_path)
    assert len(calls) == 2
    assert [trial.params for trial in studied(tmp_path)][:2] == before
    assert result.number == 1
    params = [json.dumps(trial.params, sort_keys=True) for trial in studied(tmp_path)]
    assert len(set(params)) == 4


def test_interrupted_trial_is_tried_again(monkeypatch, tmp_path):
    calls = scripted(monkeypatch, [[1.0] * RUNGS], stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        tune(plan(repeats=0), tmp_path)
    assert read_recipe(tmp_path / "recipe.json").config == A2CConfig()
    again = scripted(monkeypatch, [[1.0] * RUNGS])
    tune(plan(repeats=0), tmp_path)
    assert len(again) == 2
    assert again[0][0] == calls[1][0]


def test_trial_of_a_killed_process_is_tried_again(monkeypatch, tmp_path):
    scripted(monkeypatch, [[1.0] * RUNGS], stop_at=2)
    monkeypatch.setattr(tuning, "_give_back", lambda study, number: None)  # as after kill -9
    with pytest.raises(KeyboardInterrupt):
        tune(plan(repeats=0), tmp_path)
    monkeypatch.undo()
    assert studied(tmp_path)[1].state.name == "RUNNING"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    text = (tmp_path / "journal.log").read_text().replace(f":{tuning.os.getpid()}", f":{dead.pid}")
    (tmp_path / "journal.log").write_text(text)
    again = scripted(monkeypatch, [[1.0] * RUNGS])
    tune(plan(repeats=0), tmp_path)
    states = [trial.state.name for trial in studied(tmp_path)]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert len(again) == 2
    assert studied(tmp_path)[2].params == studied(tmp_path)[1].params


def test_search_without_room_is_one_line_and_goes_on(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    scripted(monkeypatch, [[1.0] * RUNGS])
    tune(plan(trials=1, repeats=0), tmp_path)
    before, size = resource.getrlimit(resource.RLIMIT_FSIZE), (tmp_path / "journal.log").stat().st_size
    for room in (100, 1_500, 2_500):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, before[1]))
        try:
            with pytest.raises(GantryError, match=r"cannot write .*journal\.log: File too large; make room"):
                tune(plan(trials=6, repeats=0), tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    tune(plan(trials=6, repeats=0), tmp_path)
    assert sum(trial.state.name == "COMPLETE" for trial in studied(tmp_path)) == 6


def test_another_case_in_the_same_folder_is_refused(monkeypatch, tmp_path):
    scripted(monkeypatch, [[1.0] * RUNGS])
    tune(plan(trials=1, repeats=0), tmp_path)
    with pytest.raises(GantryError, match="with steps 80, not 90; choose another --out"):
        tune(plan(steps=90), tmp_path)


# The command and the recipe


def test_tune_command_writes_a_recipe_that_train_takes(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["CartPole-v1", "--agent", "a2c", "--steps", "40", "--trials", "2", "--episodes", "1", "--repeats", "0"]
    assert cli.main(["tune", *words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    recipe = read_recipe(tmp_path / said["recipe"])
    assert (tmp_path / "runs" / "tune-CartPole-v1-a2c" / "tuning.png").stat().st_size > 0
    assert cli.main(["train", "CartPole-v1", "--recipe", said["recipe"], "--out", "one", "--config.gamma", "0.5"]) == 0
    written = Run("one").read_config()
    assert (written.agent, written.total_steps) == ("a2c", recipe.total_steps)
    assert config_from_json(A2CConfig, written.config, "") == dataclasses.replace(recipe.config, gamma=0.5)
    assert cli.main(["evaluate", "one", "--episodes", "1"]) == 0
    capsys.readouterr()
    for words, message in (
        (["train", "Acrobot-v1", "--recipe", said["recipe"]], "is a recipe for CartPole-v1"),
        (["train", "CartPole-v1", "--agent", "ppo", "--recipe", said["recipe"]], "is a recipe for the agent a2c"),
        (["train", "CartPole-v1", "--recipe", "nowhere.json"], "cannot read nowhere.json"),
        (["train", "CartPole-v1", "--recipe", said["recipe"], "--resume"], "is for a new run"),
        (["tune", "CartPole-v1", "--steps", "9", "--seconds", "9"], "either in --seconds or in --steps"),
        (["tune", "CartPole-v1", "--seconds", "nan"], "must train for more than nothing"),
        (["tune", "CartPole-v1", "--steps", "9" * 30], "less than 2^63"),
        (["tune", "CartPole-v1", "--trials", "0"], "from 1 to"),
        (["tune", "CartPole-v1", "--steps", "9", "--repeats", "9" * 9], "repeats must be at least 0 and below"),
        (["tune", "CartPole-v1", "--agent", "q-learning", "--steps", "9"], "q-learning keeps a table"),
        (["tune", "CartPole-v1", "--storage", "nosql://x"], "cannot open the search's storage"),
    ):
        assert cli.main(words) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line


def test_recipe_file_round_trip(tmp_path):
    recipe = Recipe("Pendulum-v1", PPOConfig(num_envs=4, hidden_sizes=(8, 8)), 1234, {"g": 9.0})
    write_recipe(tmp_path / "recipe.json", recipe)
    assert read_recipe(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [({"total_steps": 0}, "at least 1"), ({"agent": "pppo"}, "did you mean ppo"), ({"config": {"gama": 1}}, "gama"),
     ({"config": {"gamma": 2.0}}, "gamma"), ({"env_id": 3}, "'env_id' is missing or wrong"), ({"format": 9}, "later")],
)  # fmt: skip
def test_wrong_recipe_files_are_refused_in_one_line(change, message, tmp_path):
    write_recipe(tmp_path / "recipe.json", Recipe("Pendulum-v1", PPOConfig(), 10))
    content = json.loads((tmp_path / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(GantryError, match=message) as caught:
        read_recipe(tmp_path / "recipe.json")
    assert "\n" not in str(caught.value)


def test_missing_optuna_is_said_with_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(GantryError, match=r"gantry-rl\[tune\]"):
        tune(plan(), tmp_path)


def test_tuning_trains_with_the_reward_that_is_asked_for(tmp_path, monkeypatch, capsys):
    asked = []

    def tune(plan, *_):
        asked.append(plan.env_options)
        raise GantryError("enough")

    monkeypatch.setattr("gantry.runs.tune.tune", tune)
    words = ["tune", "CartPoleBalance-v0", "--reward", "upright=1", "--env", "actions=discrete", "--out", str(tmp_path)]
    assert cli.main(words) == 1
    assert asked == [{"actions": "discrete", "reward": {"upright": 1.0}}]


# A damaged journal


def test_journal_with_a_line_that_a_kill_left_unfinished_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    scripted(monkeypatch, [[1.0, 2.0, 3.0, 4.0]])
    tune(plan(trials=1), tmp_path)
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])
    tune(plan(trials=2), tmp_path)
    assert len(studied(tmp_path)) == 2
    assert journal.read_bytes().startswith(whole)


@pytest.mark.parametrize("line", [b"{", b"[]", b"[" * 20_000, b"\xff"])
def test_journal_with_a_damaged_line_is_refused(tmp_path, monkeypatch, line):
    pytest.importorskip("optuna")
    scripted(monkeypatch, [[1.0, 2.0, 3.0, 4.0]])
    tune(plan(trials=1), tmp_path)
    journal = tmp_path / "journal.log"
    first, rest = journal.read_bytes().split(b"\n", 1)
    journal.write_bytes(b"\n".join((first, line, rest)))
    with pytest.raises(GantryError, match=r"journal.log is damaged \(line 2\); remove that line"):
        tune(plan(trials=2), tmp_path)
