"""Policy search's target: a linear policy that the cross-entropy method trains to balance the cart-pole."""

import statistics

from gantry.benchmark.cases import FIRST_SEED, train_case
from gantry.benchmark.rows import Report, Row
from gantry.evaluate import evaluate

BALANCE = "gantry/CartPoleBalance-v0"
EPISODES = 100


def measure(report: Report, seeds: int = 5) -> None:
    """Report the score and the learning time, medians over training seeds, with the shipped settings.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds, none of which settings were tuned on.
    """
    scores, spent = [], []
    for seed in range(seeds):
        agent, _, seconds = train_case(BALANCE, "cem", FIRST_SEED + seed)
        scores.append(evaluate(agent.act, BALANCE, EPISODES, purpose="test").score)
        spent.append(seconds)
        agent.env.close()
    note = ", ".join(f"{score:.0f}" for score in scores)
    name = "CEM, linear policy on CartPoleBalance"
    report(Row(f"{name}: score, median of {seeds} seeds", statistics.median(scores), "score", 950.0, note=note))
    note = ", ".join(f"{seconds:.1f} s" for seconds in spent)
    report(Row(f"{name}: learning time, median", statistics.median(spent), "s", 10.0, "lower", note))
