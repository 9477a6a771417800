"""Trackers: what they are told, that their failures change nothing, and each package's own files, offline."""

import importlib.machinery
import json
import sys
import time

import numpy as np
import pytest

from gantry.cli import main
from gantry.errors import GantryError
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.trackers import TRACKERS, make_tracker, tracking
from gantry.runs.trackers.protocol import TrackedRun

SWING_UP = "gantry/CartPoleSwingUp-v0"
SHORT = ["train", SWING_UP, "--num-envs", "4", "--config.rollout-steps", "8", "--config.hidden-sizes", "8"]
OWN = """
import json, pathlib, sys, time

class Diary:
    fails = ""

    def __init__(self):
        self.lines = []

    def note(self, what, *told):
        if what == self.fails:
            raise {error}
        self.lines.append([what, *told])

    def start(self, run):
        self.file = run.folder / "diary.json"
        self.note("start", run.name, run.step, run.config["seed"], run.config["config"]["num_envs"])

    def log(self, step, metrics):
        self.note("log", step, dict(metrics))

    def video(self, step, path):
        self.note("video", step, path.name)

    def finish(self):
        self.note("finish")
        self.file.write_text(json.dumps(self.lines))

class Start(Diary): fails = "start"
class Log(Diary): fails = "log"
class Finish(Diary): fails = "finish"
class Stuck(Diary):
    def log(self, step, metrics): time.sleep(60)
class Fussy(Diary):
    def __init__(self): raise ValueError("no")
class Half:
    def log(self, step, metrics): pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own in the current folder; the value is its name."""
    name = f"own_trackers_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("{error}", 'SystemExit("a package exits")'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def trained(folder, *words, steps="64"):
    assert main([*SHORT, "--steps", steps, "--out", str(folder), *words]) == 0
    return Run(folder)


def numbers(run):
    """What a run learned, without times."""
    rows = [{name: row[name] for name in row if name not in WALL_CLOCK_COLUMNS} for row in run.read_metrics()]
    return repr(rows), (run.folder / "policy.safetensors").read_bytes()


def test_tracker_of_the_users_own_hears_everything(own, tmp_path):
    run = trained(tmp_path / "run", "--track", f"{own}:Diary", "--evaluate-every", "32", "--evaluate-episodes", "1")
    started, *lines, finished = json.loads((run.folder / "diary.json").read_text())
    assert started == ["start", "run", 32, 0, 4]
    assert finished == ["finish"]
    logged = [line for line in lines if "entropy" in line[2]]
    assert [line[1] for line in logged] == [row["steps"] for row in run.read_metrics()] == [32, 64]
    assert logged[0][2]["entropy"] == run.read_metrics()[0]["entropy"]
    assert all(np.isfinite(value) for line in lines for value in line[2].values())
    evaluated = [line for line in lines if "evaluation/score" in line[2]]
    assert [line[2]["evaluation/score"] for line in evaluated] == [row["score"] for row in run.evaluations.read()]


def test_resumed_run_starts_where_its_checkpoint_ends(own, tmp_path):
    run = trained(tmp_path / "run")
    trained(run.folder, "--resume", "--track", f"{own}:Diary", steps="128")
    assert json.loads((run.folder / "diary.json").read_text())[0][2] == 96


@pytest.mark.parametrize("kind", ["Start", "Log", "Finish", "Stuck"])
def test_failing_tracker_changes_nothing_and_says_one_line(kind, own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.3)
    monkeypatch.setattr(tracking, "WAITING", 3)
    plain = numbers(trained(tmp_path / "plain", steps="160"))
    capsys.readouterr()
    assert numbers(trained(tmp_path / "run", "--track", f"{own}:{kind}", steps="160")) == plain
    lines = [line for line in capsys.readouterr().out.splitlines() if "the tracker " in line]
    assert len(lines) == 1
    assert "training goes on" in lines[0]


def test_no_tracker_slows_training(own, tmp_path, monkeypatch):
    """One that sleeps for a minute at every row is left behind."""
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.1)
    started = time.monotonic()
    trained(tmp_path / "run", "--track", f"{own}:Stuck")
    assert time.monotonic() - started < 50.0


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tensorbord", "did you mean tensorboard"),
        ("no_such_module:Tracker", "no_such_module"),
        ("{own}:Nobody", "Nobody"),
        ("{own}:Fussy", "ValueError: no"),
        ("{own}:Half", "start, log, video and finish"),
    ],
)
def test_unusable_tracker_is_refused_before_training(name, line, own, tmp_path, capsys):
    with pytest.raises(GantryError, match=line):
        make_tracker(name.format(own=own))
    assert main([*SHORT, "--out", str(tmp_path / "run"), "--track", name.format(own=own)]) == 1
    assert line in capsys.readouterr().err
    assert not Run(tmp_path / "run").exists()


@pytest.mark.parametrize("name", TRACKERS)
def test_missing_package_gives_the_install_command(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(GantryError, match=rf"pip install 'gantry-rl\[{name}\]'"):
        make_tracker(name)


def test_film_needs_a_tracker(tmp_path, capsys):
    assert main([*SHORT, "--out", str(tmp_path / "run"), "--track-video"]) == 1
    assert "name one with --track" in capsys.readouterr().err


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A run and its film, for trackers to show."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    run = trained(folder, "--config.learning-rate", "0.25")
    film = folder / "film.mp4"
    import imageio.v3 as iio

    iio.imwrite(film, np.zeros((12, 48, 64, 3), np.uint8), plugin="FFMPEG", fps=25)
    return run, film


def show(name, told):
    """Let a tracker show a run, in this thread, so that what it raises is seen."""
    run, film = told
    tracker = make_tracker(name)
    config = {"seed": 7, "config": {"learning_rate": 0.25}}
    tracker.start(TrackedRun(run.folder, "a-name", config, 32))
    for step in (32, 64):
        tracker.log(step, {"score": 1.5 * step, "evaluation/score": 2.0 * step})
    tracker.video(64, film)
    tracker.finish()


def test_tensorboard_shows_curves_settings_and_film(told):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    show("tensorboard", told)
    shown = EventAccumulator(str(told[0].folder / "tensorboard"))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("evaluation/score")] == [(32, 64.0), (64, 128.0)]
    (image,) = shown.Images("policy")
    assert image.step == 64
    assert image.encoded_image_string.startswith(b"GIF8")
    (text,) = shown.Tensors("config/text_summary")
    assert b'"learning_rate": 0.25' in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_wandb_works_offline(told, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    show("wandb", told)
    (kept,) = (told[0].folder / "wandb").glob("offline-run-*")
    (file,) = kept.glob("*.wandb")
    assert file.name == f"run-{(told[0].folder / 'wandb-id.txt').read_text().strip()}.wandb"
    for _ in range(100):  # a process of its own writes the file, and may do so after the run has ended
        if b"evaluation/score" in file.read_bytes():
            break
        time.sleep(0.1)
    assert b"evaluation/score" in file.read_bytes()
    assert list(kept.rglob("*.mp4"))


@pytest.mark.slow
def test_mlflow_works_with_local_files(told, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracked.db")
    show("mlflow", told)
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("gantry").experiment_id])
    assert run.info.run_name == "a-name"
    assert run.info.status == "FINISHED"
    assert run.data.params["config.learning_rate"] == "0.25"
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "score")] == [
        (32, 48.0), (64, 96.0)
    ]  # fmt: skip
    assert [each.path for each in client.list_artifacts(run.info.run_id, "videos")] == ["videos/film.mp4"]


class StandInForTrackio:
    """Trackio's public interface, as far as it is used here; what it is told is kept."""

    __spec__ = importlib.machinery.ModuleSpec("trackio", None)  # it stands where a module does

    class Video:
        def __init__(self, value, caption=None, fps=None, format=None):
            self.value = value

    def __init__(self):
        self.begun, self.rows, self.finished = None, [], False

    def init(
        self, project, name=None, group=None, space_id=None, dataset_id=None, config=None, resume="never",
        settings=None, private=None, embed=True,
    ):  # fmt: skip
        assert resume in ("must", "allow", "never")
        self.begun = (project, name, config, resume)
        return self  # in place of a Run

    def log(self, metrics, step=None):
        self.rows.append((step, metrics))

    def finish(self):
        self.finished = True


def test_trackio_is_told_of_curves_settings_and_film(told, monkeypatch):
    trackio = StandInForTrackio()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    show("trackio", told)
    assert trackio.begun == ("gantry", "a-name", {"seed": 7, "config": {"learning_rate": 0.25}}, "allow")
    *curves, (step, film) = trackio.rows
    assert curves == [(32, {"score": 48.0, "evaluation/score": 64.0}), (64, {"score": 96.0, "evaluation/score": 128.0})]
    assert (step, film["policy"].value) == (64, str(told[1]))
    assert trackio.finished


@pytest.mark.slow
def test_trackio_works_locally(told, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    show("trackio", told)
    assert any(tmp_path.rglob("*"))
