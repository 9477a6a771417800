"""Learning curves show the metrics of runs."""

import numpy as np
import pytest

from gantry.cli import main
from gantry.errors import GantryError, GantryWarning
from gantry.plots.learning_curves import Curve, draw_learning_curves, learning_curves
from gantry.runs.folder import Run, RunConfig


def run(folder, agent, seed, rows, environment="CartPole-v1", settings=None, options=None):
    written = Run(folder)
    written.write_config(RunConfig(environment, options or {}, agent, seed, 100, settings or {}, {}))
    for steps, score in rows:
        written.append_metrics({"steps": steps, "score": score, "wall_seconds": steps / 10})
    return folder


@pytest.fixture
def folders(tmp_path):
    return [
        run(tmp_path / "a", "ppo", 0, [(10, float("nan")), (20, 1.0), (40, 3.0)]),
        run(tmp_path / "b", "ppo", 1, [(20, 5.0), (60, 5.0)]),
        run(tmp_path / "c", "a2c", 0, [(5, 2.0)]),
    ]


def test_learning_curve_is_median_and_range_over_seeds(folders):
    ppo, a2c = learning_curves(folders)
    assert (ppo.label, ppo.seeds, a2c.label, a2c.seeds) == ("ppo", 2, "a2c", 1)
    assert (ppo.x[0], ppo.x[-1]) == (20, 40)
    middle = np.interp(30, ppo.x, ppo.median)
    assert middle == pytest.approx((2.0 + 5.0) / 2)
    assert np.interp(30, ppo.x, ppo.low) == pytest.approx(2.0)
    assert (ppo.high == 5.0).all()
    assert (a2c.median == 2.0).all()
    assert learning_curves(folders, against="wall_seconds")[0].x[-1] == 4.0


def test_logarithmic_grid_has_even_ratios(folders):
    ppo = learning_curves(folders, logarithmic=True)[0]
    assert (ppo.x[0], ppo.x[-1]) == pytest.approx((20, 40))
    assert np.diff(np.log(ppo.x)) == pytest.approx(np.log(2) / (len(ppo.x) - 1))
    assert np.interp(30, ppo.x, ppo.median) == pytest.approx((2.0 + 5.0) / 2, abs=1e-3)


def test_logarithmic_axis_widens_early_steps(tmp_path):
    from imageio.v3 import imread

    at = np.geomspace(1.0, 1000.0, 400)
    step = (at > 10.0) * 1.0
    columns = []
    for logarithmic in (False, True):
        draw_learning_curves(tmp_path / "step.png", [Curve("step", at, step, step, step, 1)], logarithmic=logarithmic)
        picture = imread(tmp_path / "step.png")[..., :3].astype(int)
        line = np.abs(picture - [0x3B, 0x6F, 0xD4]).sum(-1) < 30
        columns.append(line.sum(0).argmax() / line.shape[1])  # where the line rises
    assert columns[0] < 0.2 < 0.3 < columns[1] < 0.45


def test_labels_name_environments_if_several(folders, tmp_path):
    other = run(tmp_path / "d", "ppo", 0, [(1, 1.0)], "gantry/Reach-v0")
    assert [curve.label for curve in learning_curves([folders[0], other])] == ["ppo in CartPole-v1", "ppo in Reach-v0"]


def test_runs_of_different_settings_are_curves_of_their_own(tmp_path):
    def made(name, seed, rate=1e-3, options=None, agent="ppo"):
        settings = {"learning_rate": rate, "hidden_sizes": [8, 8], "search": {"horizon": seed * 0 + 5}}
        return run(tmp_path / name, agent, seed, [(1, float(seed))], settings=settings, options=options)

    folders = [
        made("a", 0),
        made("b", 1),
        made("c", 0, 3e-4),
        made("d", 1, 3e-4),
        made("e", 0, options={"actions": "discrete"}),
        made("f", 0, 5e-4, agent="a2c"),
    ]
    assert [(curve.label, curve.seeds) for curve in learning_curves(folders)] == [
        ("ppo, learning_rate=0.001", 2),
        ("ppo, learning_rate=0.0003", 2),
        ("ppo, learning_rate=0.001, actions=discrete", 1),
        ("a2c", 1),
    ]


def test_label_names_nested_settings_and_counts_the_rest(tmp_path):
    folders = [
        run(
            tmp_path / str(k),
            "ppo",
            0,
            [(1, 1.0)],
            settings={"search": {"horizon": k}, **{f"s{n}": k for n in range(5)}},
        )
        for k in (1, 2)
    ]
    assert learning_curves(folders)[0].label == "ppo, search.horizon=1, s0=1, s1=1, s2=1, 2 more"


def test_evaluations_are_metrics_too(tmp_path):
    folder = run(tmp_path / "a", "ppo", 0, [(1, 1.0)])
    with pytest.raises(GantryError, match="--evaluate-every"):
        learning_curves([folder], "evaluation/score")
    Run(folder).evaluations.append({"steps": 5.0, "score": 7.0, "wall_seconds": 0.5})
    (curve,) = learning_curves([folder], "evaluation/score")
    assert (curve.x[0], curve.median[0]) == (5.0, 7.0)


def test_learning_curves_refuse_bad_input_in_one_line(folders, tmp_path):
    with pytest.raises(GantryError, match="at least one"):
        learning_curves([])
    with pytest.raises(GantryError, match="no metric 'loss'; it has steps, score"):
        learning_curves(folders, "loss")
    with pytest.raises(GantryError, match="no metrics"):
        learning_curves([run(tmp_path / "empty", "ppo", 0, [])])
    with pytest.raises(GantryError, match="only NaN"):
        learning_curves([run(tmp_path / "nan", "ppo", 0, [(1, float("nan"))])])
    with pytest.warns(GantryWarning, match="nan has only NaN for 'score': no episode ended; it is left out"):
        assert len(learning_curves([*folders, tmp_path / "nan"])) == len(learning_curves(folders))
    with pytest.raises(GantryError, match=r"\.png, \.svg or \.pdf"):
        draw_learning_curves(tmp_path / "picture.txt", learning_curves(folders))


def test_plot_command_writes_png_svg_pdf(folders, tmp_path, capsys):
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        out = tmp_path / f"curves.{suffix}"
        assert main(["plot", *map(str, folders), "--out", str(out)]) == 0
        assert out.read_bytes().startswith(start)
    assert main(["plot", *map(str, folders), "--out", str(out), "--log"]) == 0
    assert "3 runs" in capsys.readouterr().out
    assert main(["plot", str(tmp_path / "nothing")]) == 1


def test_higher_curve_is_drawn_higher(tmp_path):
    from imageio.v3 import imread

    at = np.linspace(0, 1, 50)
    flat = [Curve("low", at, at * 0, at * 0, at * 0, 1), Curve("high", at, at * 0 + 1, at * 0 + 1, at * 0 + 1, 1)]
    draw_learning_curves(tmp_path / "two.png", flat)
    picture = imread(tmp_path / "two.png")[..., :3].astype(int)
    rows = [
        np.flatnonzero((np.abs(picture - color).sum(-1) < 30).sum(1) > 200)
        for color in ([0x3B, 0x6F, 0xD4], [0xE2, 0x57, 0x2B])
    ]
    assert rows[1].max() < rows[0].min()


def test_second_metric_is_dashed_on_an_axis_of_its_own(folders, tmp_path, capsys):
    words = ["plot", str(folders[1]), "--against", "wall_seconds", "--out", str(tmp_path / "both.svg")]
    assert main(words) == 0
    assert "stroke-dasharray" not in (tmp_path / "both.svg").read_text()
    assert main([*words, "--second", "steps"]) == 0
    assert "stroke-dasharray" in (tmp_path / "both.svg").read_text()
    assert main([*words, "--second", "reward_mean"]) == 1
    assert "has no metric 'reward_mean'" in capsys.readouterr().err
