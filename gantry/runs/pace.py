"""The pace of a training: how many environment steps fit into a time, for schedules to run over."""

import time

from gantry.agents.protocol import Agent, Metrics

SHARE = 0.1
"""Share of the time for which an agent is tried."""
LEAST_UPDATES = 4
"""Updates that an agent is tried for, whatever they take."""
UNBOUNDED = 2**62
"""The steps of a training that ends by the clock."""


def steps_within(seconds: float, agent: Agent) -> int:
    """Return how many steps a training like this fresh agent's takes in so many seconds, by letting it begin one.

    Its pace is that of the second half of what was tried: the first one fills caches, and off-policy agents begin with
    random actions, which cost nearly nothing.
    """
    marks: list[tuple[float, int]] = []
    random_steps = getattr(agent.config, "learning_starts", 0)
    started = time.perf_counter()

    def on_update(learner: Agent, metrics: Metrics) -> bool:
        passed = time.perf_counter() - started
        if learner.steps > random_steps:
            marks.append((passed, learner.steps))
        return passed < SHARE * seconds or len(marks) < LEAST_UPDATES

    agent.learn(UNBOUNDED, on_update)
    (first, before), (last, after) = marks[len(marks) // 2 - 1], marks[-1]
    return max(1, round(after + (after - before) / (last - first) * (seconds - last)))
