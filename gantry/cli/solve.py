"""`gantry solve`: plan an environment's episodes by optimal control, as a reference for agents."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from gantry.cli.options import parse_options
from gantry.cli.output import check_needed, console, counted, parse, print_json
from gantry.errors import GantryError

if TYPE_CHECKING:
    from gantry.optimal_control.solve import ControlResult

FILMS, PICTURES = (".mp4", ".gif"), (".png", ".svg", ".pdf")


@dataclasses.dataclass(frozen=True)
class SolveArguments:
    """Plan an environment's episodes by optimal control, which knows its physics and its reward.

    `lqr`: the linear-quadratic regulator around the pose of the highest reward. `ilqr`: iterative LQR, Newton's method
    on whole trajectories, on the reward itself. The plans are played in the environment, on the episodes that
    `gantry evaluate` scores agents on with the same seed. Examples:

      gantry solve gantry/CartPoleSwingUp-v0

      gantry solve gantry/ReachPlanar-v0 --method ilqr --film reach.mp4 --plot reach.png
    """

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """An environment with a smooth reward and no state beside its joints: the cart-poles and the arms."""
    method: Literal["lqr", "ilqr", "all"] = "all"
    """The planning method."""
    episodes: int = 3
    """Number of episodes, each planned separately: seconds for a cart-pole, about ten for seven joints."""
    seed: int = 0
    """Block of evaluation seeds."""
    env: tuple[str, ...] = ()
    """Options of the environment, name=value, such as control=torque."""
    film: Path | None = None
    """Film the first episode of the last method, .mp4 or .gif."""
    size: tuple[int, int] = (480, 360)
    """Width and height of the film (pixels)."""
    speed: float = 1.0
    """Playing speed as a multiple of real time."""
    plot: Path | None = None
    """Draw how ilqr converged, .png, .svg or .pdf."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry solve`."""
    arguments = parse(SolveArguments, "solve", words)
    from gantry.film.record import check_film, record
    from gantry.optimal_control.solve import METHODS, Playback, solve
    from gantry.runs.environments import canonical_id, short_name

    for path, suffixes in ((arguments.film, FILMS), (arguments.plot, PICTURES)):
        if path is not None and path.suffix.lower() not in suffixes:
            raise GantryError(f"cannot write {path}: its name must end in {' or '.join(suffixes)}")
    check_film(arguments.size, arguments.speed)
    check_needed(words, {"--size": ("--film",), "--speed": ("--film",)})
    if arguments.plot is not None and arguments.method == "lqr":
        raise GantryError("--plot shows iterations, and lqr has none; choose --method ilqr")
    screen = console(arguments.json)
    env_id = canonical_id(arguments.env_id)
    options = parse_options(arguments.env)
    results = []
    with screen.status("planning") as status:

        def progress(episode: int, iteration: int, score: float) -> None:
            status.update(f"ilqr, episode {episode + 1} of {arguments.episodes}, iteration {iteration}: {score:.1f}")

        for method in METHODS if arguments.method == "all" else (arguments.method,):
            status.update(method)
            results.append(solve(env_id, method, arguments.episodes, arguments.seed, options, progress=progress))
    screen.print(_table(results))
    if arguments.plot is not None:
        from gantry.plots.ilqr_convergence import draw_convergence

        draw_convergence(arguments.plot, results[-1])
        screen.print(f"drawn: {arguments.plot}", soft_wrap=True, markup=False)
    if arguments.film is not None:
        last = results[-1]
        film = record(
            Playback(last.actions[:1]),
            env_id,
            arguments.film,
            title=f"{short_name(env_id).rpartition('-v')[0]}, {last.method}",
            seed=arguments.seed,
            env_options=options,
            size=arguments.size,
            speed=arguments.speed,
        )
        screen.print(
            f"{film.path}: {film.seconds:.1f} s, score {film.scores[0]:.1f}; drawn by {film.backend}",
            soft_wrap=True,
            markup=False,
        )
    if arguments.json:
        print_json({"methods": [result.to_json() for result in results]})


def _table(results: "Sequence[ControlResult]") -> Table:
    episodes = results[0].evaluation.episodes
    title = f"optimal control in {results[0].env_id}, {counted(episodes, 'episode')}"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("score", "95 % interval", "success", "iterations", "seconds an episode"):
        table.add_column(heading, justify="right")
    for result in results:
        low, high = result.evaluation.score_ci95
        success = result.evaluation.success
        table.add_row(
            result.method,
            f"[bold]{result.evaluation.score:.1f}",
            f"{low:.1f} to {high:.1f}",
            "–" if success is None else f"{success:.0%}",
            ", ".join(str(len(scores) - 1) for scores in result.planned_scores) or "–",
            f"{result.seconds / episodes:.1f}",
        )
    return table
