"""`gantry view`: watch and steer a simulation live in a browser."""

import dataclasses
import sys
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gantry.cli.options import env_options
from gantry.cli.output import check_needed, parse
from gantry.errors import GantryError
from gantry.runs.folder import Run

if TYPE_CHECKING:
    from gantry.agents.protocol import Controller
    from gantry.view.show import Show


@dataclasses.dataclass(frozen=True)
class ViewArguments:
    """Show a simulation live in a browser: a run's policy, or an environment to be moved by hand.

    Prints an address that only this machine answers, and ends with Ctrl-C or its terminal. The browser draws, so this
    machine needs neither a screen nor a graphics card; from elsewhere, `ssh -L PORT:127.0.0.1:PORT` leads there.

    Examples:
      gantry view runs/CartPoleSwingUp-v0-ppo-seed0

      gantry view gantry/Reach-v0

      gantry view runs/CartPoleSwingUp-v0-ppo-seed0 runs/CartPoleSwingUp-v0-planner-seed0

      gantry view --training runs/CartPoleSwingUp-v0-ppo-seed0
    """

    show: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|ENV ...")]
    """Folders of runs, or ids of environments; the page switches between them."""
    training: bool = False
    """Follow a training under way: take each policy that it saves, and show its learning curve."""
    policy: Literal["last", "best"] = "last"
    """The policy as training left it, or the one that scored best while `--evaluate-every` evaluated it."""
    seed: int = 0
    """Block of evaluation seeds; `gantry evaluate` scores the same episodes, as long as nobody interferes."""
    env: tuple[str, ...] = ()
    """Options of the environment in place of those of the training, name=value."""
    randomize: str | None = None
    """Physics in place of those of the training: "cart_mass=0.5..2.0,motor_delay=0..2"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    max_steps: int | None = None
    """Steps after which an episode is cut; by default 10,000, or the environment's own limit where that is longer."""
    open: bool = False
    """Open the address in this machine's browser."""
    port: int = 0
    """Port to listen on; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs --allow-network."""
    allow_network: bool = False
    """With --host: let other machines connect. Whoever has the address then steers, and nothing is encrypted."""


def main(words: Sequence[str]) -> None:
    """Run `gantry view`."""
    arguments = parse(ViewArguments, "view", words)
    check_needed(words, {"--allow-network": ("--host",)})
    if arguments.training and len(arguments.show) != 1:
        raise GantryError("--training follows one run: name one")
    if not arguments.show:
        raise GantryError("name a run's folder, or an environment such as gantry/CartPoleSwingUp-v0")
    if not 0 <= arguments.port < 65536:
        raise GantryError(f"--port must be from 0 to 65535, not {arguments.port}")
    shows = [_show(each, arguments) for each in arguments.show]
    from gantry.view.server import Server

    with Server(arguments.host, arguments.port, arguments.allow_network) as server:
        print(server.address, flush=True)
        if arguments.allow_network:
            print("gantry: whoever has this address can watch and steer; nothing is encrypted", file=sys.stderr)
        if arguments.open:
            webbrowser.open(server.address)
        # The browser opens the page while what simulates is imported.
        from gantry.view.live import run_live
        from gantry.view.session import Session
        from gantry.view.training import TrainingWatch

        worker = ThreadPoolExecutor(1, "policy")
        try:
            session = Session(shows, arguments.seed, arguments.max_steps, submit=worker.submit)
            watch = None
            if arguments.training and shows[0].load is not None:
                watch = TrainingWatch(Path(arguments.show[0]), shows[0].load, submit=worker.submit)
            run_live(session, server, watch)
        finally:
            worker.shutdown(wait=False, cancel_futures=True)


def _show(name: str, arguments: ViewArguments) -> "Show":
    """Return what a word of the command line stands for: a run's folder, or an environment."""
    from gantry.view.show import Show

    options = env_options(arguments.env, arguments.randomize, arguments.disturb)
    if Path(name).is_dir() or arguments.training:
        run = Run(Path(name))
        config = run.read_config()
        folder = run.policy_folder(arguments.policy)
        return Show(
            run.folder.name, config.env_id, {**config.env_options, **options}, _loader(folder, not arguments.training)
        )
    from gantry.envs.registry import canonical_id

    try:
        env_id = canonical_id(name)
    except GantryError as error:
        raise GantryError(f"no run at {name}, and {error}") from None
    return Show(env_id, env_id, options, None)


def _loader(folder: Path, must_exist: bool) -> "Callable[[], Controller | None]":
    def load() -> "Controller | None":
        if not must_exist and not (folder / "policy.safetensors").exists():
            return None
        from gantry.agents import load_agent

        return load_agent(folder)

    return load
