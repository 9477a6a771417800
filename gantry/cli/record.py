"""`gantry record`: film a trained run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gantry.cli.options import FILM_SIZE, env_options, environment_for, joined_size
from gantry.cli.output import console, parse, print_json, watched
from gantry.errors import GantryError
from gantry.runs.environments import short_name
from gantry.runs.folder import Run
from gantry.runs.step_time_limit import step_time_limit
from gantry.types import Json

if TYPE_CHECKING:
    from gantry.film.side_by_side import Take


@dataclasses.dataclass(frozen=True)
class RecordArguments:
    """Film a trained run, without a screen.

    Draws MuJoCo models, Gantry's and others', with OpenGL (EGL, else OSMesa) or a ray caster that needs no graphics
    library, whichever is faster here, and says which; any other environment draws itself. The film shows the episodes
    that `gantry evaluate` scores with the same seed. Examples:

      gantry record runs/CartPoleSwingUp-v0-ppo-seed0

      gantry record runs/Reach-v0-ppo-seed0 --episodes 3 --out reach.mp4 --size 1080p --trail

      gantry record runs/CartPoleSwingUp-v0-ppo-seed0 --slow-motion 4 --poster

      gantry record runs/CartPoleSwingUp-v0-ppo-seed0 --compare runs/CartPoleSwingUp-v0-sac-seed0

      gantry train gantry/CartPoleSwingUp-v0 --name learning --keep-snapshots
      gantry record runs/CartPoleSwingUp-v0-ppo-learning-seed0 --progress
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as `gantry train` named it."""
    env_id: str | None = None
    """Another environment than that of the training, whose observations and actions are the same."""
    compare: tuple[Path, ...] = ()
    """Film these runs too, an episode of each, side by side with RUN."""
    progress: bool = False
    """Film the policies that `gantry train --keep-snapshots` kept, from the first to the last: how the run learned."""
    out: Path | None = None
    """The film, .mp4 or .gif; by default videos/RUN in the current folder."""
    title: str | None = None
    """First line of the panel; by default the environment's name."""
    episodes: int = 1
    """Number of episodes, one after another."""
    seed: int = 0
    """Block of evaluation seeds."""
    camera: str | None = None
    """The model's camera, by name or number; by default its first: cart-poles have `front`, planar arms `above`, the
    7-joint arm `front`, vacuums `overview` and `top`. A wrong name is answered by the right ones."""
    size: Annotated[tuple[int, int] | None, FILM_SIZE] = None
    """Width and height of the film (pixels), or 1080p and the like; by default a picture of 480 360 above its panel."""
    speed: float = 1.0
    """Playback speed, as a multiple of real time."""
    slow_motion: float | None = None
    """How many times slower than real time: 4 is the same as --speed 0.25."""
    overlay: bool = True
    """Draw time, score, reward terms and action below the picture."""
    trail: bool = False
    """Draw the path of the fingertip, the pole's tip or the vacuum."""
    poster: bool = False
    """Also write twelve pictures of the film on one sheet, beside it: FILM.png."""
    format: Literal["mp4", "gif"] | None = None
    """The film's format; by default that of --out's name, else mp4."""
    renderer: Literal["auto", "egl", "osmesa", "raycast"] = "auto"
    """The renderer; `auto` draws a picture with each that works, and takes the faster."""
    max_steps: int | None = None
    """Steps after which an episode is cut; by default 10,000, or the environment's own limit where that is longer."""
    env: tuple[str, ...] = ()
    """Options of the environment in place of those of the training, name=value."""
    randomize: str | None = None
    """Physics in place of those of the training: "cart_mass=0.5..2.0,motor_delay=0..2"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    reward: str | None = None
    """Weights of the reward's named terms in place of those of the training; scores are of the task's own reward."""
    stochastic: bool = False
    """Let the policy act as it explores, not deterministically."""
    step_time_limit: float | None = None
    """Seconds that a step of an environment that others made may take; one that hangs ends the command."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry record`."""
    arguments = parse(RecordArguments, "record", joined_size(words))
    config = Run(arguments.run).read_config()
    from gantry.agents import load_agent
    from gantry.film.record import record
    from gantry.runs.evaluate import Exploring

    screen = console(arguments.json)
    if arguments.compare or arguments.progress:
        if arguments.stochastic:
            raise GantryError("--stochastic films one run; leave out --compare and --progress")
        _several(arguments, screen)
        return
    agent = load_agent(arguments.run)
    env_id, options = environment_for(config, agent, arguments.env_id, _options(arguments))
    path = film_path(arguments.out, arguments.format, Path("videos") / arguments.run.resolve().name)
    with step_time_limit(arguments.step_time_limit), _bar(screen) as bar:
        film = record(
            Exploring(agent) if arguments.stochastic else agent,
            env_id,
            path,
            title=film_title(env_id) if arguments.title is None else arguments.title,
            episodes=arguments.episodes,
            seed=arguments.seed,
            env_options=options,
            camera=arguments.camera,
            size=arguments.size,
            overlay=arguments.overlay,
            trail=arguments.trail,
            backend=arguments.renderer,
            speed=_speed(arguments),
            max_steps=arguments.max_steps,
            progress=_Episodes(bar, arguments.episodes),
        )
    scores = ", ".join(f"{score:.1f}" for score in film.scores)
    shares = "".join(f"; {name} {', '.join(f'{each:.0%}' for each in values)}" for name, values in film.shares.items())
    summary = f"{film.path}: {film.seconds:.1f} s, {film.frames} frames, score {scores}{shares}"
    screen.print(f"{summary}; drawn by {film.backend}", soft_wrap=True, markup=False)
    if arguments.poster:
        _poster(path, film.frames, screen)
    if film.cut:
        screen.print(f"{film.cut} of {len(film.scores)} episodes were cut by the cap on steps")
    if arguments.json:
        print_json(
            {
                "path": str(film.path),
                "frames": film.frames,
                "seconds": film.seconds,
                "scores": film.scores,
                "shares": film.shares,
                "renderer": film.backend,
                "cut": film.cut,
            }
        )


def _several(arguments: RecordArguments, screen: Console) -> None:
    """Film several runs side by side, or what a run kept of its training one after another."""
    from gantry.film.side_by_side import record_in_turn, record_side_by_side
    from gantry.film.video import film_facts

    flag, wishes = (
        "--progress" if arguments.progress else "--compare",
        (arguments.camera, arguments.title, arguments.env_id),
    )
    if arguments.compare and arguments.progress:
        raise GantryError("--compare and --progress make different films: give one of the two")
    if arguments.episodes != 1 or any(wish is not None for wish in wishes) or not arguments.overlay or arguments.trail:
        raise GantryError(f"{flag} films one episode of each policy, with its panel: leave out other wishes")
    takes = _snapshots(arguments) if arguments.progress else _runs(arguments)
    name = f"{arguments.run.resolve().name}-{'progress' if arguments.progress else 'compared'}"
    path = film_path(arguments.out, arguments.format, Path("videos") / name)
    with step_time_limit(arguments.step_time_limit), _bar(screen) as bar:
        task = bar.add_task("filming", total=len(takes))
        films = (record_in_turn if arguments.progress else record_side_by_side)(
            takes,
            path,
            arguments.seed,
            arguments.size,
            arguments.renderer,
            _speed(arguments),
            arguments.max_steps,
            lambda done, count: bar.update(task, completed=done, total=count),
        )
    scores = [film.scores[0] for film in films]
    shown = "; ".join(f"{take.label} {score:.1f}" for take, score in zip(takes, scores, strict=True))
    screen.print(f"{path}: {shown}", soft_wrap=True, markup=False)
    if cut := sum(film.cut for film in films):
        screen.print(f"{cut} of {len(films)} episodes were cut by the cap on steps")
    if arguments.poster:
        _poster(path, film_facts(path)["frames"], screen)
    if arguments.json:
        print_json({"path": str(path), "scores": scores})


def _runs(arguments: RecordArguments) -> "list[Take]":
    """Return the runs of --compare as parts of a film."""
    from gantry.agents import load_agent
    from gantry.film.side_by_side import Take

    folders = (arguments.run, *arguments.compare)
    configs = [Run(folder).read_config() for folder in folders]
    several = len({config.env_id for config in configs}) > 1
    labels = [f"{each.agent} seed {each.seed}{f', {film_title(each.env_id)}' if several else ''}" for each in configs]
    if len({*labels}) < len(labels):
        labels = [folder.resolve().name for folder in folders]
    wishes = _options(arguments)
    return [
        Take(label, load_agent(folder), config.env_id, {**config.env_options, **wishes})
        for label, folder, config in zip(labels, folders, configs, strict=True)
    ]


def _snapshots(arguments: RecordArguments) -> "list[Take]":
    """Return what a run kept of its training as parts of a film."""
    from gantry.agents import load_agent
    from gantry.film.side_by_side import Take
    from gantry.runs.snapshots import progress

    run = Run(arguments.run)
    config, kept = run.read_config(), progress(run)
    options = {**config.env_options, **_options(arguments)}
    return [
        Take(
            f"{_short(each.steps)} steps, {each.steps / kept[-1].steps:.0%}",
            load_agent(each.folder),
            config.env_id,
            options,
        )
        for each in kept
    ]


def _short(steps: int) -> str:
    """Return a number of steps as the panel has room for it."""
    if steps < 10_000:
        return f"{steps:,}"
    return f"{steps / 1e3:.0f}k" if steps < 1_000_000 else f"{steps / 1e6:.1f}M"


def _options(arguments: RecordArguments) -> Json:
    return env_options(arguments.env, arguments.randomize, arguments.disturb, arguments.reward)


def _speed(arguments: RecordArguments) -> float:
    """Return the playing speed from --speed and --slow-motion, of which one may be given."""
    if arguments.slow_motion is None:
        return arguments.speed
    if arguments.speed != RecordArguments.speed:
        raise GantryError("--speed and --slow-motion say the same thing; give one of the two")
    if not 0.001 <= arguments.slow_motion <= 100.0:
        raise GantryError(f"--slow-motion takes a number from 0.001 to 100, not {arguments.slow_motion:g}")
    return 1.0 / arguments.slow_motion


def _bar(screen: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), "left")
    return Progress(*columns, console=screen, disable=not watched(screen))


class _Episodes:
    """Shows how far the drawing of each episode is."""

    def __init__(self, bar: Progress, episodes: int) -> None:
        self._bar, self._episodes, self._episode = bar, episodes, 0
        self._task = bar.add_task("playing the episode", total=None)

    def __call__(self, done: int, count: int | None) -> None:
        if done == 1:
            self._episode += 1
            name = "filming" if self._episodes == 1 else f"filming episode {self._episode} of {self._episodes}"
            self._bar.reset(self._task, description=name)
        self._bar.update(self._task, completed=done, total=count)


def _poster(path: Path, frames: int, screen: Console) -> None:
    from gantry.film.poster import write_poster

    poster = path.with_suffix(".png")
    write_poster(path, poster, frames)
    screen.print(f"{poster}: its poster", soft_wrap=True, markup=False)


def film_title(env_id: str) -> str:
    """Return the environment's name without namespace and version, as the film's panel shows it."""
    name = short_name(env_id)
    return name.rpartition("-v")[0] or name


def film_path(out: Path | None, kind: str | None, default: Path) -> Path:
    """Return the film's path from the flags; a suffix and a format that disagree are an error."""
    if out is None:
        return default.with_name(f"{default.name}.{kind or 'mp4'}")
    if not out.name:
        raise GantryError("--out takes the name of a film, such as film.mp4")
    if not out.suffix:
        return out.with_name(f"{out.name}.{kind or 'mp4'}")
    if kind is not None and out.suffix.lower() != f".{kind}":
        raise GantryError(f"--out {out} and --format {kind} disagree; give one of the two")
    return out
