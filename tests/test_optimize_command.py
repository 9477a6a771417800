import json

import numpy as np
import pytest

from gantry.cli import main
from gantry.minimization.film import ellipse, film_steps


def run(capsys, *words):
    status = main(["optimize", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_optimize_json_lists_evaluations(capsys):
    status, out, _ = run(capsys, "rosenbrock", "--method", "newton", "--json")
    assert status == 0
    result = json.loads(out.splitlines()[-1])
    rows = {row["method"]: row for row in result["methods"]}
    assert set(rows) == {"newton", "SciPy trust-exact", "SciPy Newton-CG"}
    for row in rows.values():
        assert row["value"] <= 1e-8
        assert row["evaluations"] == row["spent"] > 10
        np.testing.assert_allclose(row["point"], [1, 1], atol=1e-3)
    assert out.count("\n") == 1


def test_optimize_table_lists_every_method(capsys):
    status, out, _ = run(capsys, "(x - 1)**2 + (y + 2)**2 + 3", "--method", "all", "--budget", "600", "--no-scipy")
    assert status == 0
    for name in ("gradient-descent", "newton", "three-point", "cross-entropy", "nes", "icem", "mppi"):
        assert name in out
    assert "newton: the gradient is zero" in out
    assert "3 at (1, -2)" in out


def test_optimize_is_deterministic(capsys):
    words = ("himmelblau", "--method", "cross-entropy", "--json", "--no-scipy", "--seed", "7")
    assert run(capsys, *words)[1] == run(capsys, *words)[1]


def test_optimize_settings_start_and_bounds(capsys):
    words = ["quadratic", "--method", "gradient-descent", "--set", "rule=fixed", "step_size=0.1", "--start", "0", "0"]
    result = json.loads(run(capsys, *words, "--bounds", "-0.5", "0.5", "--json")[1])
    (row,) = result["methods"]
    np.testing.assert_allclose(row["point"], [0.5, -0.25], atol=1e-6)  # on the bound x = ½ the bowl is least at −¼


def test_optimize_noisy_function_is_scored_without_noise(capsys):
    words = ("noisy", "--method", "cross-entropy", "--budget", "3000", "--no-scipy", "--json")
    result = json.loads(run(capsys, *words)[1])
    assert result["minimum"] == 0
    assert 0 <= result["methods"][0]["value"] < 0.05


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.real"], "not arithmetic"),
        (["rosenbrok"], "did you mean rosenbrock"),
        (["quadratic", "--method", "newtn"], "did you mean newton"),
        (["quadratic", "--method", "cross-entropy", "--set", "elites=99"], "elites must be from 1 to"),
        (["quadratic", "--method", "icem", "--set", "horizon=0"], "horizon must be at least 1"),
        (["quadratic", "--set", "sped=1"], "no setting 'sped'"),
        (["quadratic", "--set", "radius=wide"], "radius is a number"),
        (["quadratic", "--set", "radius"], "name=value"),
        (["quadratic", "--method", "cross-entropy", "--set", "elites=2.5"], "elites is a whole number"),
        (["quadratic", "--method", "all", "--set", "elites=2"], "need one method"),
        (["quadratic", "--bounds", "-1", "1", "--start", "2", "0"], "outside its bounds"),
        (["quadratic", "--bounds", "1", "-1"], "lower bound"),
        (["quadratic", "--start", "nan", "0"], "not finite"),
        (["quadratic", "--tolerance", "0"], "must be positive"),
        (["quadratic", "--budget", "0"], "must be positive"),
        (["quadratic", "--out", "film.avi"], "must end in"),
        (["quadratic", "--set", "radius=1" + "0" * 400], "radius is a number below 1e+18"),
        (["quadratic", "--method", "nes", "--set", "population=99999999999999999998"], "a whole number below 1e+18"),
        (["quadratic", "--method", "cross-entropy", "--set", "population=1000000000000"], "GiB"),
        (["quadratic", "--seed", "99999999999999999999"], "the seed must be"),
        (["log(x)"], "objective is nan"),
        (["exp(x**8)", "--start", "9", "0"], "objective is inf"),
        (["sqrt(x)", "--start", "0", "0"], "gradient is not finite"),
    ],
)
def test_optimize_refuses_bad_input_in_one_line(capsys, words, message):
    status, out, err = run(capsys, *words)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    "suffix", ["png", pytest.param("mp4", marks=pytest.mark.slow), pytest.param("gif", marks=pytest.mark.slow)]
)
def test_optimize_writes_pictures_and_films(capsys, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("gantry.minimization.film.SIZE", (320, 240))
    monkeypatch.setattr("gantry.minimization.film.HOLD_FRAMES", 2)
    path = tmp_path / f"search.{suffix}"
    words = ("himmelblau", "--method", "cross-entropy", "--budget", "150", "--no-scipy", "--out", str(path))
    assert run(capsys, *words)[0] == 0
    heads = {"png": b"\x89PNG", "mp4": b"ftyp", "gif": b"GIF8"}
    assert heads[suffix] in path.read_bytes()[:12]
    assert path.stat().st_size > 5_000
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_ellipse_points_have_mahalanobis_distance():
    covariance = np.array([[2.0, 0.6], [0.6, 0.5]])
    away = ellipse(np.array([1.0, -1.0]), covariance, 2.0) - [1.0, -1.0]
    distances = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
    np.testing.assert_allclose(distances, 4.0)


def test_film_steps_subsample_long_searches():
    assert film_steps(40) == list(range(40))
    thinned = film_steps(5000)
    assert thinned[:20] == list(range(20))
    assert thinned[-1] == 4999
    assert len(thinned) <= 130
