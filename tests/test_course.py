"""The course: every chapter has its parts, its commands run, and its answers are right."""

import math
import re

import numpy as np
import pytest
import shown_commands
import torch

from scripts.docs import ROOT

COURSE = ROOT / "docs" / "course"
CHAPTERS = sorted(COURSE.glob("[1-9]_*.md"))
QUICK = ("1", "3", "7")
"""Chapters whose commands the quick tests run; those of the others are slow."""
MOST_BYTES = 250_000


def text_of(number):
    return next(COURSE.glob(f"{number}_*.md")).read_text(encoding="utf-8")


def slow_unless_quick(page):
    return pytest.param(page, id=page.stem, marks=() if page.name[0] in QUICK else pytest.mark.slow)


def test_course_has_eight_chapters_that_follow_one_another():
    assert [page.name[0] for page in CHAPTERS] == list("12345678")
    for page, following in zip(CHAPTERS, [*CHAPTERS[1:], COURSE / "index.md"], strict=True):
        assert f"]({following.name})" in page.read_text(encoding="utf-8")
        assert f"]({page.name})" in (COURSE / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_chapter_has_question_idea_command_picture_exercise_and_answer(page):
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == ["The idea", "In equations", "Try it", "Exercise"]
    assert re.search(r"^\*\*(The question|Two questions)\.\*\*", text, re.M)
    tried = text.partition("## Try it")[2].partition("## Exercise")[0]
    assert any(block for block, _ in shown_commands.commands_of(tried))
    assert re.search(r"!\[[^\]]{10,}\]\(", tried), "a picture with a text in its place"
    answer = text.partition("## Exercise")[2]
    assert answer.count("<details markdown") == answer.count("</details>") == 1


def test_pictures_are_small_and_shown():
    shown = "".join(page.read_text(encoding="utf-8") for page in CHAPTERS)
    for picture in (COURSE / "images").iterdir():
        assert f"(images/{picture.name})" in shown
        assert picture.stat().st_size < MOST_BYTES, picture.name


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    with shown_commands.workplace(tmp_path_factory.mktemp("course")) as done:
        yield done


@pytest.mark.parametrize("page", [slow_unless_quick(page) for page in CHAPTERS])
def test_commands_of_chapter_run(page, workplace, monkeypatch, capsys):
    shown_commands.check_commands(shown_commands.commands_of(page.read_text(encoding="utf-8")), workplace, monkeypatch)


# Answers


def minimized(function, method, start, evaluations=20_000, seed=0):
    from gantry.minimization.test_functions import find_function
    from gantry.optimizers.minimize import Budget, minimize

    return minimize(
        find_function(function).problem(),
        method,
        torch.tensor(start, dtype=torch.float64),
        generator=torch.Generator().manual_seed(seed),
        budget=Budget(evaluations=evaluations, target=1e-8),
        trace=False,
    )


def test_fixed_step_takes_the_predicted_number_of_steps():
    from gantry.optimizers.gradient_descent import GradientDescent

    predicted = math.ceil(math.log(2.4 / math.sqrt(2) / math.sqrt(2e-8)) / -math.log(1 - 0.019))
    result = minimized("valley", GradientDescent(rule="fixed", step_size=0.019), (1.8, 0.6))
    assert result.evaluations.total == 2 * predicted + 1 == 981
    assert f"So {predicted} steps" in text_of(1)
    diverged = minimized("valley", GradientDescent(rule="fixed", step_size=0.021), (1.8, 0.6), 2000)
    assert 1e84 < diverged.value < 1e85


def test_three_point_search_depends_on_the_axes():
    from gantry.optimizers.three_point import ThreePoint

    turned = re.search(r'gantry optimize "([^"]+)" --method three-point', text_of(2))[1]
    starts = (8 * torch.rand(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 4).tolist()
    plain = [minimized("rastrigin", ThreePoint(), start) for start in starts]
    assert all(result.value < 1e-8 and result.evaluations.total <= 9 for result in plain)
    assert all(minimized(turned, ThreePoint(), start).value > 0.1 for start in starts)
    assert minimized("rastrigin", ThreePoint(step_size=0.7), starts[0]).value > 0.1, "the first step was lucky"


def test_pairs_cancel_the_constant():
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    mu, sigma, c = 1.0, 0.1, 10.0

    def estimate(z):
        return ((mu + sigma * z) ** 2 + c) * z / sigma

    single, pair = estimate(nodes), 0.5 * (estimate(nodes) + estimate(-nodes))
    for g, variance in ((single, 12_174), (pair, 8)):
        mean = weights @ g
        assert mean == pytest.approx(2 * mu)
        assert weights @ (g - mean) ** 2 == pytest.approx(variance, rel=1e-4)
    assert pytest.approx(1_500, rel=0.02) == 12_174 / 8


def test_values_of_the_living_room():
    from gantry.envs.tasks.vacuum.plan_file import load_plan
    from gantry.envs.tasks.vacuum.rooms import room_mdp, state_number
    from gantry.optimal_control.value_iteration import deterministic_mdp, value_iteration

    mdp = room_mdp(load_plan("apartment").room_neighbors)
    values = value_iteration(deterministic_mdp(mdp.next_state, mdp.reward, mdp.terminal), 0.95)
    # Rooms: living room, kitchen, bedroom 1, bedroom 2.
    np.testing.assert_allclose(values[state_number(0, np.array([0, 0, 2, 0]))], [1.8, -0.145, 2.0, -0.145], atol=1e-6)
    np.testing.assert_allclose(values[state_number(1, np.array([0, 0, 1, 0]))].max(), -0.05, atol=1e-6)


def test_baseline_of_the_bandit():
    gradients = np.array([11 * 0.5, 10 * -0.5])
    assert gradients.mean() == 0.25
    assert gradients.var() == 27.5625
    assert np.array([(11 - 10.5) * 0.5, (10 - 10.5) * -0.5]).tolist() == [0.25, 0.25]
    assert gradients.var() / 0.25**2 == 441


def test_advantages_and_clipped_samples():
    from gantry.agents.parts.advantages import gae
    from gantry.agents.ppo import clipped_surrogate

    zeros, end = np.zeros((3, 1)), np.array([[False], [False], [True]])
    for lam, expected in ((0.0, [0, 0, 1]), (0.5, [0.25, 0.5, 1]), (1.0, [1, 1, 1])):
        rewards = np.array([[0.0], [0.0], [1.0]])
        assert gae(rewards, zeros, zeros, end, end, gamma=1.0, lam=lam).ravel().tolist() == expected
    moves = []
    for ratio, advantage in ((1.5, 1.0), (1.5, -1.0), (0.5, 1.0), (0.5, -1.0)):
        log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
        clipped_surrogate(log_ratio, torch.tensor([advantage]), 0.2).sum().backward()
        moves.append(bool(log_ratio.grad.abs() > 0))
    assert moves == [False, True, True, False]


def test_steps_of_the_model_per_action():
    from gantry.agents.models.plan_search import SearchConfig
    from gantry.optimizers.icem import ImprovedCrossEntropy
    from gantry.runs.recipes import find_recipe

    recipe = find_recipe("gantry/CartPoleSwingUp-v0", "planner", {})
    search = recipe.config.search
    assert search == SearchConfig(horizon=25, population=64, iterations=3)
    method = ImprovedCrossEntropy(population=64, horizon=25)
    plans = sum(method.population_at(iteration) for iteration in range(3))
    assert f"{25 * plans:,} steps of the model" in text_of(8)
    assert f"{25 * 25 * plans:,} steps of the model per second" in text_of(8)
    assert recipe.config.action_repeat * 0.02 == 1 / 25
