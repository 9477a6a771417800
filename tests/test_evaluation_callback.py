"""Evaluation during training: on seeds of its own, without changing the training; the best policy is kept."""

import json

import pytest

from gantry.agents import config_class, load_agent
from gantry.agents.ppo import PPOConfig
from gantry.cli import main
from gantry.errors import GantryError
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.evaluation_callback import SEED_BLOCK, EvaluationPlan, acting_copy
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.train import make_agent, resume, train

CART_POLE = "CartPole-v1"
SMALL = PPOConfig(num_envs=4, rollout_steps=16, epochs=2, minibatch_size=32, hidden_sizes=(8,), learning_rate=1e-2)
STEPS = 4 * 16 * 6
PLAN = EvaluationPlan(every_steps=100, episodes=4)
TIMES = (*WALL_CLOCK_COLUMNS, "evaluation_seconds")


def rows(table):
    return str([{name: value for name, value in row.items() if name not in TIMES} for row in table.read()])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run") / "evaluated")
    train(run, CART_POLE, "ppo", SMALL, STEPS, evaluation=PLAN)
    return run


def test_evaluations_do_not_change_the_training(evaluated, tmp_path):
    run = Run(tmp_path / "plain")
    train(run, CART_POLE, "ppo", SMALL, STEPS)
    assert rows(run.metrics) == rows(evaluated.metrics)
    for name in ("policy.safetensors", "policy.json"):
        assert (run.folder / name).read_bytes() == (evaluated.folder / name).read_bytes()
    assert not run.best.exists()


def test_evaluations_are_due_every_so_many_steps_and_at_the_end(evaluated):
    assert [row["steps"] for row in evaluated.evaluations.read()] == [124, 247, 310, 384]  # of 62, 124, 186, …


def test_best_policy_scores_the_best_evaluation(evaluated):
    table = evaluated.evaluations.read()
    best = max(table, key=lambda row: row["score"])
    agent = load_agent(evaluated.policy_folder("best"))
    assert agent.steps == best["steps"]
    assert evaluate_agent(agent, CART_POLE, 4, SEED_BLOCK).score == pytest.approx(best["score"])
    assert evaluate_agent(load_agent(evaluated.folder), CART_POLE, 4, SEED_BLOCK).score == table[-1]["score"]


def test_training_stops_at_a_score_and_resume_says_so(tmp_path, capsys):
    run = Run(tmp_path / "run")
    train(run, CART_POLE, "ppo", SMALL, STEPS, evaluation=EvaluationPlan(every_steps=50, episodes=2, until=1.0))
    (row,) = run.read_metrics()
    resume(run)
    assert "reached the score" in capsys.readouterr().err
    assert str(run.read_metrics()) == str([row])


def test_training_that_names_a_score_alone_is_evaluated_fifty_times():
    assert EvaluationPlan(until=1.0).settled(10_000).every_steps == 200
    assert PLAN.settled(10_000) == PLAN


def test_plan_in_seconds_evaluates_by_training_time(tmp_path):
    run = Run(tmp_path / "run")
    train(run, CART_POLE, "ppo", SMALL, 128, evaluation=EvaluationPlan(every_seconds=1e-4, episodes=1))
    assert [row["steps"] for row in run.evaluations.read()] == [row["steps"] for row in run.read_metrics()]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_steps": 1, "every_seconds": 1.0}, "not both"),
        ({"every_steps": 0}, "positive"),
        ({"every_seconds": float("nan")}, "positive"),
        ({"every_steps": 1, "episodes": 0}, "episodes must be from 1"),
        ({"until": float("nan")}, "number"),
    ],
)
def test_plan_refuses_what_cannot_work(settings, words):
    with pytest.raises(GantryError, match=words):
        EvaluationPlan(**settings)


def test_interrupted_run_resumes_to_the_same_evaluations(tmp_path):
    run, plan = Run(tmp_path / "stopped"), EvaluationPlan(every_steps=150, episodes=1)

    def stop(row):
        if row["steps"] == 192:
            raise KeyboardInterrupt

    where = {"env_id": "gantry/CartPoleBalance-v0", "env_options": {"max_episode_steps": 100}}
    with pytest.raises(KeyboardInterrupt):
        train(run, agent="ppo", config=SMALL, total_steps=STEPS, evaluation=plan, progress=stop, **where)
    resume(run)
    whole = Run(tmp_path / "whole")
    train(whole, agent="ppo", config=SMALL, total_steps=STEPS, evaluation=plan, **where)
    assert rows(run.evaluations) == rows(whole.evaluations)
    assert rows(run.metrics) == rows(whole.metrics)
    assert (run.best / "policy.safetensors").read_bytes() == (whole.best / "policy.safetensors").read_bytes()


def test_planner_is_evaluated_alike_whatever_was_evaluated_before():
    """A planner carries plans and a generator from step to step, which an evaluation must not inherit."""
    agent = make_agent("planner", "gantry/CartPoleBalance-v0", config_class("planner")(num_envs=1))
    first = acting_copy(agent)
    assert acting_copy(agent, first) is not first
    learner = make_agent("ppo", "gantry/CartPoleBalance-v0", SMALL)
    first = acting_copy(learner)
    assert acting_copy(learner, first) is first


def test_command_evaluates_the_best_policy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", CART_POLE, "--num-envs", "4", "--steps", "1k", "--out", "run"]
    assert main([*words, "--evaluate-every", "256", "--evaluate-episodes", "2"]) == 0
    assert main(["evaluate", "run", "--policy", "best", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 2
    assert main(["train", CART_POLE, "--num-envs", "4", "--steps", "64", "--out", "plain"]) == 0
    assert main(["evaluate", "plain", "--policy", "best"]) == 1
    assert "--evaluate-every" in capsys.readouterr().err
    for word in ("soon", "1.5", "xs"):
        assert main([*words[:-1], "none", "--evaluate-every", word]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
