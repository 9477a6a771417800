"""Scores that pages promise of the trainings that they show, on episodes of full length."""

import json
import shlex

import pytest
from shown_commands import commands_of, run

from scripts.docs import ROOT

PROMISES = [
    ("README.md", "gantry train gantry/CartPoleSwingUp-v0", 850.0),
    ("README.md", "gantry train gantry/CartPoleBalance-v0 --env actions=discrete --seed 1", 950.0),
]
"""Page, a command that it shows, and the score that its run must reach on 100 evaluation episodes."""


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line", "score"), PROMISES, ids=[line for _, line, _ in PROMISES])
def test_shown_trainings_reach_their_score(page, line, score, tmp_path, capsys):
    assert (True, line) in commands_of((ROOT / page).read_text(encoding="utf-8"))
    assert run([*shlex.split(line)[1:], "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["score"] >= score
