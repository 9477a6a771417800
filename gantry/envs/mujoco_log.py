"""MuJoCo's own log, kept out of the user's folder, and from saying the same once for each copy of an environment."""

import contextlib
import sys
from collections.abc import Iterator


def keep_log_out_of_files() -> None:
    """Stop MuJoCo from writing MUJOCO_LOG.TXT into the user's folder; does nothing before something imports MuJoCo."""
    _set(logto_file=False)


def say_on_console(yes: bool) -> None:
    """Let MuJoCo print its warnings on the console, or not."""
    _set(logto_console=yes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MuJoCo from printing, for the making of a copy of an environment whose first has said it all."""
    before = _set(logto_console=False)
    try:
        yield
    finally:
        _set(**before)


def _set(**changes: bool) -> dict[str, bool]:
    """Change fields of the log's configuration, where MuJoCo is imported, and return what they were."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None or not hasattr(mujoco, "MjLogConfig"):
        return {}
    config = mujoco.MjLogConfig.get()
    before = {name: getattr(config, name) for name in changes}
    for name, value in changes.items():
        setattr(config, name, value)
    config.set()
    return before
