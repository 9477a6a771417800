"""What notebooks show: results as HTML that stands alone, and the notebooks of docs/, which run."""

import dataclasses
import json
import re

import pytest

from gantry.film.record import Film
from gantry.runs.evaluate import Evaluation
from gantry.runs.folder import Run
from gantry.runs.notebook import curve_html
from scripts.docs import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
BUDGETS = {
    r"^STEPS, EPISODES = (300|60)_000.*$": "STEPS, EPISODES = 400, 2",
    # Long enough for an episode to end, of which there is one per environment and 500 steps.
    r"^STEPS, EPISODES = 200_000.*$": "import dataclasses\nSTEPS, EPISODES = 2_400, 2",
    r"config = find_recipe\((.*)\)\.config$": r"config = dataclasses.replace(find_recipe(\1).config, num_envs=2)",
    r"^ENV, AGENTS, SEEDS = (.*), \(0, 1\)$": r"ENV, AGENTS, SEEDS = \1, (0,)",
}
"""What a notebook's first lines say → what the test puts in their place."""
MOST_BYTES = 200_000


def reduced(code):
    for shown, instead in BUDGETS.items():
        code = re.sub(shown, instead, code, flags=re.M)
    return code


def test_evaluation_shows_an_escaped_table():
    fields = {field.name: 0 for field in dataclasses.fields(Evaluation)}
    fields |= {"score": 512.0, "score_ci95": (500.0, 520.0), "success": 0.5, "terms": {"<b>near": 0.5}, "metrics": {}}
    fields["trial_scores"] = ()
    result = Evaluation(**fields)
    shown = result._repr_html_()
    assert shown.startswith("<table>")
    assert "512.0" in shown
    assert "500.0 to 520.0" in shown
    assert "50.0%" in shown
    assert "reward term &lt;b&gt;near" in shown
    assert "<b>" not in shown


def test_run_shows_its_curve(tmp_path):
    run = Run(tmp_path / "a&b")
    run.folder.mkdir()
    for steps, score in ((100, float("nan")), (200, 10.0), (300, 30.0), (400, 20.0)):
        run.append_metrics({"steps": steps, "score": score, "wall_seconds": 1.0})
    shown = run._repr_html_()
    assert "a&amp;b" in shown
    line = re.search(r'<polyline points="([^"]+)"', shown)[1]
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert len(heights) >= 3, "the first row has no score"
    assert heights[0] > heights[2] > heights[1], "10, 30, 20: downward is lower on a screen"


def test_curve_without_numbers_says_so():
    assert "no episode has ended" in curve_html("run", "steps", "score", [(1.0, float("nan"))])


def test_long_curve_is_thinned():
    shown = curve_html("run", "steps", "score", [(float(x), float(x)) for x in range(100_000)])
    assert len(shown) < 10_000


@pytest.mark.parametrize(("name", "tag"), [("film.mp4", "<video"), ("film.gif", "<img")])
def test_film_plays_from_its_own_bytes(tmp_path, name, tag):
    (tmp_path / name).write_bytes(b"bytes")
    fields = {field.name: 0 for field in dataclasses.fields(Film)} | {"path": tmp_path / name, "scores": [3.0]}
    shown = Film(**fields)._repr_html_()
    assert shown.startswith(tag)
    assert "base64,Ynl0ZXM=" in shown
    assert "://" not in shown


def test_notebooks_are_small_and_named_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        assert path.stat().st_size < MOST_BYTES
        assert f"(notebooks/{path.name})" in index


def test_own_environment_notebook_runs(capsys):
    names = {"__name__": "notebook"}
    path = next(path for path in NOTEBOOKS if path.stem == "bring_your_own_environment")
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(reduced("".join(cell["source"])), names)
    assert names["run"]._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_a_kernel(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = reduced(cell.source)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any({"text/html", "image/png"} & set(output.get("data", {})) for output in shown)
