"""`gantry bench adaptation`: held-out physics, and figures from scores."""

import numpy as np
import pytest

from gantry.benchmark import adaptation
from gantry.benchmark.adaptation import Case, held_out
from gantry.benchmark.plan import suite
from gantry.benchmark.rows import Row
from gantry.envs.simulator import make_simulator
from gantry.errors import GantryError
from gantry.runs.recipes import find_recipe

BALANCE = adaptation.ENVIRONMENTS["balance"]


def test_held_out_physics_lie_inside_or_outside_the_range_of_training():
    inside, outside = held_out("inside"), held_out("outside")
    assert adaptation.ranges().keys() == inside.keys() - {"motor_sign"}
    for name, spread in adaptation.ranges().items():
        low, high = spread.low, spread.high
        within, beyond = np.array(inside[name]), np.array(outside[name])
        assert ((within > low) & (within < high)).all()
        assert ((beyond < low) | (beyond > high)).all()
        assert beyond.min() >= low / adaptation.BEYOND
        assert beyond.max() <= high * adaptation.BEYOND
    assert set(outside["motor_sign"]) == {-1.0, 1.0}
    physics = make_simulator(BALANCE, adaptation.SAMPLES, physics=outside).physics_infos()["physics"]
    assert {name: values.tolist() for name, values in physics.items()} == outside, "the simulator accepts it all"


def test_adaptation_rows_are_medians_regrets_and_shares_of_the_oracle(monkeypatch):
    def trained(case: Case) -> adaptation.Scores:
        base = 100.0 * (case.seed - adaptation.FIRST_SEED)
        if case.agent == "RL²":
            return dict.fromkeys(adaptation.PLACES, (base, 500.0 + base, 590.0 + base))
        score = base + (600.0 if case.agent == "oracle" else 100.0)
        return dict.fromkeys(adaptation.PLACES, (score,))

    monkeypatch.setattr(adaptation, "trained", trained)
    monkeypatch.setattr(adaptation, "planned_score", lambda case: 1000.0)
    monkeypatch.setattr(adaptation, "ENVIRONMENTS", {"balance": BALANCE})
    with pytest.raises(GantryError, match="did you mean balance"):
        adaptation.measure(print, only=["balanc"])
    rows: dict[str, Row] = {}
    adaptation.measure(lambda row: rows.update({row.name: row}), seeds=3)
    assert rows["CartPoleBalance-v0, inside: RL², episode 2"].value == 600.0
    assert "regret 40.0%" in rows["CartPoleBalance-v0, inside: RL², episode 2"].note
    assert rows["CartPoleBalance-v0, outside: no memory"].value == 200.0
    shares = [row for name, row in rows.items() if "lowest over the oracle's" in name]
    assert [row.value for row in shares] == [pytest.approx(600.0 / 700.0)] * 2
    assert [row.met for row in shares] == [False, None]


@pytest.mark.parametrize("env_id", adaptation.ENVIRONMENTS.values())
def test_recipes_for_trials_leave_the_action_before_to_the_environment(env_id):
    recipe = find_recipe(env_id, "recurrent-ppo", {**adaptation.TRIAL, "physics": adaptation.PHYSICS})
    assert recipe is not None
    assert recipe.config.observe_action is False
    oracle = find_recipe(env_id, "ppo", {"physics": adaptation.PHYSICS, "observe_physics": True})
    assert oracle == find_recipe(env_id, "ppo")


def test_adaptation_suite_has_recipes_for_trials():
    chosen = suite("adaptation")
    for env_id in chosen.environments:
        for agent in chosen.algorithms:
            recipe = find_recipe(env_id, agent, chosen.env_options)
            assert recipe is not None
            assert recipe.env_options == adaptation.TRIAL


@pytest.mark.slow
def test_adaptation_trains_and_scores_every_kind_of_agent():
    for agent, episodes in (("RL²", 4), ("oracle", 1), ("no memory", 1)):
        scores = adaptation.trained(Case(BALANCE, agent, 0, steps=8192))
        sampled = {f"{where}{adaptation.SAMPLED}" for where in adaptation.PLACES if agent == "RL²"}
        assert scores.keys() == {*adaptation.PLACES, *sampled}
        for each in scores.values():
            assert len(each) == episodes
            assert all(0.0 < score < 1000.0 for score in each)
