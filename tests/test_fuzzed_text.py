"""Odd text: expressions, physics, disturbances, rewards, grids and floor plans work, or one line says what is wrong."""

import contextlib
import math
import random
import warnings

import numpy as np
import pytest
import torch
from fuzzing import TooLongError, limited
from test_floor_plan import PLAN

from gantry.cli.options import env_options
from gantry.envs import make_vec
from gantry.envs.tasks.vacuum.apartment import specify_apartment
from gantry.envs.tasks.vacuum.plan_file import MOST_CELLS, load_plan, parse_plan
from gantry.errors import LONGEST_LINE, GantryError
from gantry.minimization.test_functions import find_function, parse_expression
from gantry.runs.info import information
from gantry.transfer.physics_grid import parse_grid

NUMBERS = (
    "0", "1", "2", "-1", "0.5", "0.9", "1.5", "20", "1e-320", "1e300", "1e999", "-1e999", "nan", "inf", "1_0", "٣", "½",
    "", " ", "x", "9" * 400, "0x10", "+1", "1.", "True", "None", "\udcff", "é", "−1", "1\u00a0", "\0", "1..2", "[1]",
    "{}",
)  # fmt: skip
VALUES = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**63, 10**30, 0.5, -0.5, 1e300, 1e-300, math.nan, math.inf, "", "x",
    "a" * 5000,
    "é\u202e", "a\0b", "0.5..1.5", "..", "true", "/dev/null", "../..", [], [1], [0.5, 1.5], (1, 2), {}, {"mass": 1},
    b"x", 1j, np.float32(1), np.int64(2), np.array([1.0, 2.0]), np.array([[1.0]]), np.array(["a"]), object(), [None],
    set(),
)  # fmt: skip
"""What somebody may give for an option in Python."""
PIECES = (
    *"xy+-*/().,019eE ", "**", "pi", "π", "²", "½", "sin", "cos", "exp", "log", "sqrt", "abs", "\0", "\n", "#", "'",
    '"',
    "[", "]", "{", "}", ":", "=", "lambda ", "__import__", "x.y", "1e999", "1j", "True", "None", "if ", "not ", "𝗑",
    "é",
    "\udcff", "\u202e", "%", "//", "@", "<", "~", "^", "0x", "1_", "f'", "\\", "\t", ";", "for ", "*x", "yield ",
    "0777",
)  # fmt: skip
LINES = (
    "room C: attic\n", "cell: nan\n", "cell: 1e999\n", "plan:\n", "title:\n", "room é: x\n", "room Ａ: x\n",
    "furniture s: a, inf\n", "room A: hall, dirty, dirty\n", "# \n", "room  : x\n", "a" * 3000, "\ufeff", "\u2028",
    "\0",
)  # fmt: skip
TASKS = (
    "gantry/CartPoleSwingUp-v0", "gantry/ReachPlanar-v0", "gantry/Reach-v0", "gantry/ReachGoal-v0",
    "gantry/ReachTeam-v0",
    "gantry/ReachPlanarOrder-v0", "gantry/Vacuum-v0", "gantry/VacuumDrive-v0", "gantry/VacuumHouse-v0",
    "gantry/VacuumRooms-v0", "gantry/VacuumTeam-v0",
)  # fmt: skip
OPTIONS = (
    "max_episode_steps",
    "physics",
    "disturb",
    "reward",
    "shaping",
    "trial",
    "skills",
    "integrator",
    "substeps",
    "x",
)
"""Options of every task, beside its own."""
SECONDS = 20.0
"""Processor time of a case."""


def outcome(case, work):
    """Return what work comes to, or None where one line refuses it."""
    try:
        with limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            return work()
    except GantryError as error:
        line = str(error)
    except (Exception, TooLongError) as error:
        raise AssertionError(f"{case!r}"[:600]) from error
    assert len(line) <= LONGEST_LINE, case
    assert "\n" not in line, case
    return None


# Expressions


def arithmetic(rng, depth):
    """Return a random expression in x and y."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(("x", "y", "pi", "e", "1", "2", "0.5", "3", "0", "1e3", "64", "65", "1e-300", "1e300"))
    inner = [arithmetic(rng, depth - 1) for _ in range(2)]
    return rng.choice(
        (
            f"({inner[0]} {rng.choice(('+', '-', '*', '/', '**'))} {inner[1]})",
            f"{rng.choice(('sin', 'cos', 'exp', 'log', 'sqrt', 'abs'))}({inner[0]})",
            f"-{inner[0]}",
        )
    )


def calculated(text, x, y):
    """Return what Python makes of an expression, or None where that is not a finite real number."""
    names = {name: getattr(math, name) for name in ("sin", "cos", "exp", "log", "sqrt", "pi", "e")}
    with contextlib.suppress(ArithmeticError, ValueError, TypeError):  # a function of a complex number
        value = eval(text, {"__builtins__": {}}, {**names, "abs": math.fabs, "x": x, "y": y})
        return value if isinstance(value, float) and math.isfinite(value) else None
    return None


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_expressions_have_pythons_values(count):
    rng, compared = random.Random(count), 0
    points = [(0.3, -0.7), (1.0, 2.0), (-2.5, 0.1)]
    for _ in range(count):
        text = arithmetic(rng, rng.randrange(1, 4))
        function = outcome(text, lambda text=text: parse_expression(text))
        if function is None:
            continue
        for value, (x, y) in zip(function(torch.tensor(points, dtype=torch.float64)).tolist(), points, strict=True):
            if (expected := calculated(text, x, y)) is not None:
                assert value == pytest.approx(expected, rel=1e-6, abs=1e-6), (text, x, y)
                compared += 1
    assert compared > count / 2


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_odd_expressions_are_functions_or_refused_in_one_line(count):
    rng, counts = random.Random(count), {True: 0, False: 0}
    deep = (
        ("(", ")"),
        ("-", ""),
        ("sin(", ")"),
        ("x+", ""),
        ("2**", ""),
        ("1/(", ")"),
        ("9", ""),
        ("[", "]"),
        ("not ", ""),
    )
    for number in range(count):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 12)))
        if number % 5 == 0:
            (left, right), times = rng.choice(deep), rng.randrange(1, 600)
            text = f"{left * times}x{right * times}"[: rng.choice((500, 501, 10**4))]

        def values(text=text):
            return find_function(text).function(torch.ones(3, 2, dtype=torch.float64))

        found = outcome(text, values)
        assert found is None or found.shape == (3,), text
        counts[found is None] += 1
    assert min(counts.values()) > 0


# Physics, disturbances, rewards and other options of environments


def odd_options(rng, known):
    """Return odd options of a task, as a function that makes them of text, or as Python gives them."""
    physics, terms = [*known.physics, "massx", "Mass", "", "gravity_direction"], [*known.reward_terms, "x", ""]
    names = [*(option.name for option in known.options), *OPTIONS]
    choices = [choice for option in known.options for choice in option.choices]

    def numbers():
        return rng.choice((rng.choice(NUMBERS), f"{rng.choice(NUMBERS)}..{rng.choice(NUMBERS)}", "0.9..1.1"))

    def words(left):
        return [
            f"{rng.choice(left)}{rng.choice(('=', '=', '=', ':', ''))}{numbers()}" for _ in range(rng.randrange(1, 4))
        ]

    kind = rng.randrange(5)
    if kind == 0:
        return ("--randomize", text := ",".join(words(physics))), lambda: env_options([], text, None)
    if kind == 1:
        return ("--reward", text := ",".join(words(terms))), lambda: env_options([], None, None, text)
    if kind == 2:
        return ("--env", given := words(names)), lambda: env_options(given, None, None)
    if kind == 3:
        given = {"physics": {rng.choice(physics): rng.choice(VALUES) for _ in range(rng.randrange(1, 3))}}
        return given, lambda: given
    given = {rng.choice(names): rng.choice((*VALUES, *choices, "pushes", "balls")) for _ in range(rng.randrange(1, 3))}
    return given, lambda: given


def check_options(env_ids, count):
    rng, counts = random.Random(count), {"works": 0, "refused": 0}
    known = {env_id: information(env_id, {}) for env_id in env_ids}
    for _ in range(count):
        env_id = rng.choice(env_ids)
        case, options = odd_options(rng, known[env_id])

        def played(env_id=env_id, options=options):
            with contextlib.closing(make_vec(env_id, 2, **options())) as env:
                seen, rewards = [env.reset(seed=0)[0]], []
                for _ in range(3):
                    observation, reward, *_ = env.step(env.action_space.sample())
                    seen.append(observation)
                    rewards.append(reward)
            return seen, rewards

        found = outcome((env_id, case), played)
        counts["refused" if found is None else "works"] += 1
        if found is not None:
            parts = [part for each in found[0] for part in (each.values() if isinstance(each, dict) else [each])]
            assert all(np.isfinite(part).all() for part in (*parts, *found[1])), (env_id, case)
    print(counts)
    assert min(counts.values()) > 0


def test_some_odd_options_of_environments_work_or_are_refused_in_one_line():
    check_options(["gantry/CartPoleSwingUp-v0", "gantry/ReachPlanar-v0"], 40)


@pytest.mark.slow
def test_odd_options_of_environments_work_or_are_refused_in_one_line():
    check_options(TASKS, 4000)


@pytest.mark.parametrize("steps", [2**62, 2**63, 10**30])
def test_time_limits_beyond_64_bits_are_refused(steps):
    with pytest.raises(GantryError, match=r"max_episode_steps must be at least 1 and below 2\^62"):
        make_vec("gantry/CartPoleSwingUp-v0", 2, max_episode_steps=steps)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_odd_grids_are_finite_values_or_refused_in_one_line(count):
    rng, counts = random.Random(count), {True: 0, False: 0}
    pieces = (
        "0",
        "1",
        "9",
        "..",
        "/",
        "|",
        "-",
        "e",
        "nan",
        "inf",
        "1e999",
        ".",
        "½",
        "٣",
        "euler",
        " ",
        "9" * 400,
        "_",
    )
    for _ in range(count):
        names = rng.choices(("mass", "cart_mass", "x", "", " substeps"), k=rng.randrange(1, 3))
        text = ",".join(f"{name}={''.join(rng.choices(pieces, k=rng.randrange(6)))}" for name in names)
        found = outcome(text, lambda text=text: parse_grid(text))
        counts[found is None] += 1
    assert min(counts.values()) > 0


# Floor plans


def odd_plan(rng):
    """Return a plan with characters and lines changed, doubled, moved and removed."""
    text = PLAN
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = start + rng.randrange(12)
        lines = text.split("\n")
        one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
        text = rng.choice(
            (
                text[:start] + rng.choice("+-|=: @ABsC\n.#,0é\0\t\u2028½\ufeff") + text[start + 1 :],
                text[:start] + text[end:],
                text[:start] + text[start:end] + text[start:],
                text[:start] + rng.choice(LINES) + text[start:],
                "\n".join(lines),
                text[: start + 50],
            )
        )
    return text


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_odd_floor_plans_are_apartments_or_refused_in_one_line(count):
    rng, counts = random.Random(count), {True: 0, False: 0}
    for _ in range(count):
        text = odd_plan(rng)

        def model(text=text):
            plan = parse_plan(text, "home")
            assert plan.distances.min() == 0
            return specify_apartment(plan).compile()

        counts[outcome(text, model) is None] += 1
    assert min(counts.values()) > 0


def open_floor(rows, columns):
    """Return the text of a plan of one room."""
    wall, space = f"+{'-' * (2 * columns - 1)}+", f"|{' ' * (2 * columns - 1)}|"
    cells = [f"|{' '.join('@' if row == column == 0 else 'A' for column in range(columns))}|" for row in range(rows)]
    return "\n".join(["room A: hall", "plan:", wall, f"\n{space}\n".join(cells), wall])


def test_floor_plans_too_large_to_plan_are_refused(tmp_path):
    path = tmp_path / "field.plan.txt"
    path.write_text(open_floor(500, 500))
    with pytest.raises(GantryError, match=r"row 3, column 1: the drawing holds 250,000 cells; at most 2,500"):
        load_plan(str(path))
    assert len(parse_plan(open_floor(2, 9)).cells) == 18
    assert MOST_CELLS == 2500
