"""The loop that joins a session with its server."""

import time
from collections.abc import Callable

from gantry.view.server import Server
from gantry.view.session import Session

PICTURES_PER_SECOND = 60.0
"""Frames that are sent, at most."""
WAIT_SECONDS = 0.05
"""Time between two looks for a page, while there is none: the simulation waits for one."""


def run_live(
    session: Session, server: Server, watch: Callable[[Session], list[tuple[str, bytes]]] | None = None
) -> None:
    """Run a session until an interrupt ends it.

    Args:
        session: what is shown.
        server: where pages connect.
        watch: called at each tick, returns further messages; such as what is new in a training.
    """
    before, shown = time.perf_counter(), False
    while True:
        for command in server.commands():
            session.handle(command)
        now = time.perf_counter()
        if server.pages and shown:
            session.advance(now - before)
        before, shown = now, True  # first the picture, then what time brings
        for kind, message in [*session.messages(), *(watch(session) if watch is not None else ())]:
            server.publish(kind, message)
        rest = before + 1.0 / PICTURES_PER_SECOND - time.perf_counter()
        time.sleep(max(rest, 0.001) if server.pages else WAIT_SECONDS)
