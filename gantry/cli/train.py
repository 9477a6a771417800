"""`gantry train`: train an agent in an environment, live."""

import argparse
import dataclasses
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gantry.cli.options import WHOLE_NUMBER, arranged, env_options, parse_options, whole_number
from gantry.cli.output import Pulse, check_needed, console, flags_in, parse, print_json, watched
from gantry.errors import GantryError, shown
from gantry.files import config_from_json
from gantry.runs.environments import canonical_id, registered_id
from gantry.runs.folder import Run, RunConfig, latest_run, new_run
from gantry.runs.step_time_limit import step_time_limit
from gantry.types import Json

if TYPE_CHECKING:
    from gantry.agents import Agent, AgentConfig
    from gantry.runs.evaluation_callback import EvaluationPlan
    from gantry.runs.recipes import Recipe
    from gantry.runs.trackers.protocol import Tracker
    from gantry.runs.trackers.tracking import Tracking

TOTAL_STEPS = 1_000_000
"""Environment steps to learn from where no recipe says otherwise."""


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train an agent in an environment.

    No flag is needed: recipes, tuned settings for an environment and an agent, ship with Gantry. Ctrl-C saves and says
    how to resume. `gantry train ENV --agent AGENT --help` lists the agent's settings, `gantry info ENV` the
    environment's options. Examples:

      gantry train gantry/CartPoleSwingUp-v0

      gantry train gantry/CartPoleBalance-v0 --agent ppo --env actions=discrete --seed 1

      gantry train Pendulum-v1 --agent ppo --config.learning-rate 3e-4

      gantry train my_module:my/Task-v0
    """

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """One of Gantry's environments (`gantry list`), any Gymnasium id, or MODULE:ID, whose module is imported first."""
    agent: str = "ppo"
    """The agent that learns (`gantry list`)."""
    steps: Annotated[int | None, WHOLE_NUMBER] = None
    """Environment steps to learn from, such as 300000, 3e5 or 300k; by default those of the recipe."""
    seed: int = 0
    """Seed of everything random: the same seed gives the same numbers."""
    seeds: Annotated[int | None, WHOLE_NUMBER] = None
    """Train so many seeds, from --seed on, each in a run and a process of its own, side by side."""
    num_envs: Annotated[int | None, WHOLE_NUMBER] = None
    """Environments simulated at once; by default those of the recipe."""
    env: tuple[str, ...] = ()
    """Options of the environment, such as `actions=discrete observe_velocity=false`."""
    randomize: str | None = None
    """Physics to set, or to sample from a range for each episode: "cart_mass=0.5..2.0,motor_delay=0..2"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    reward: str | None = None
    """Weights of the reward's named terms, in place of the task's own reward: "cleaned=1,bump=-0.5"."""
    shaping: bool = False
    """Add potential-based shaping, with the agent's discount, in tasks that offer a potential."""
    skills: tuple[Path, ...] = ()
    """Runs whose policies become the actions of this training, each until it has ended: see docs/skills.md."""
    recipe: Path | None = None
    """A recipe file, as `gantry tune` writes it: agent, settings, options and steps in place of a shipped recipe's."""
    data: Path | None = None
    """The folder of a data set (`gantry collect`) to begin from; for ddpg, td3, sac, dqn and planner."""
    name: str = ""
    """A word for the folder's name: runs/ENV-AGENT-NAME-seedN."""
    out: Path | None = None
    """The run's folder; by default runs/ENV-AGENT-seedN."""
    resume: bool = False
    """Resume a stopped run: the one in --out, else the newest of this environment, agent, name and seed."""
    keep_schedules: bool = False
    """With --resume and more --steps: let schedules of settings end where they did, instead of stretching them."""
    evaluate_every: str | None = None
    """Evaluate the policy during training, every so many environment steps, or seconds with an s ("10s")."""
    evaluate_episodes: int = 20
    """Episodes of each evaluation, always from the same seeds, which training never uses."""
    until: float | None = None
    """Stop once an evaluation scores this much."""
    keep_snapshots: bool = False
    """Keep the policy after 0, 5, 10, 25 and 50 % of the training too, for `gantry record --progress`."""
    step_time_limit: float | None = None
    """Seconds that a step of an environment that others made may take; one that hangs ends the training, saved."""
    track: str | None = None
    """Show curves and settings in tensorboard, wandb, mlflow or trackio too, or in a tracker of yours, MODULE:CLASS."""
    track_video: bool = False
    """With --track: film an episode of the trained policy for the tracker."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


NEEDED = {"--evaluate-episodes": ("--evaluate-every", "--until"), "--keep-schedules": ("--steps",)}
"""Flags that do nothing without one of some others."""


def main(words: Sequence[str]) -> None:
    """Run `gantry train`."""
    if any(word.partition("=")[0] == "--seeds" for word in words) and not {"-h", "--help"} & set(words):
        from gantry.cli.train_seeds import train_seeds

        train_seeds(words, _has_begun)
    else:
        train_run(words)


def train_run(words: Sequence[str]) -> Run:
    """Run `gantry train`, and return the run that it trained."""
    asked = _parse(words)
    arguments, recipe, known = asked.arguments, asked.recipe, asked.known
    screen = console(arguments.json)
    evaluation = _evaluation(arguments)
    _check_together(arguments, known is not None)
    check_needed(words, NEEDED)
    if known is not None:
        total_steps = arguments.steps or known.total_steps
    else:
        total_steps = arguments.steps if arguments.steps is not None else _default_steps(recipe)
    run: Run | None = None

    def begun(chosen: Run) -> None:
        nonlocal run
        run = chosen
        for line in _opening(asked, run):
            _say(screen, line)
        listener.begin(run)

    try:
        listening = _Listener(screen, total_steps, arguments.track)
        with step_time_limit(arguments.step_time_limit), listening as listener:
            agent = _learn(asked, total_steps, evaluation, listener, begun)
            assert run is not None
            if arguments.track_video:
                _film(agent, run, listener)
    except KeyboardInterrupt as stopped:
        if run is not None:
            _say_stopped(screen, stopped, _resume_command(asked, run))
        raise
    finally:
        if run is not None:
            run.release()
    _draw_model(agent, run)
    last = listener.last
    if last:
        _say(
            screen,
            f"trained for {int(last['steps']):,} steps in {last['wall_seconds']:.1f} s "
            f"({last['steps_per_second']:,.0f} steps/s); {_scored(last['score'])}",
        )
    if last.get("divergences"):
        count = int(last["divergences"])
        _say(screen, f"{count} simulations diverged and were cut short: the physics may be too stiff")
    _say(screen, f"next: gantry evaluate {_quoted(run)}   or   gantry record {_quoted(run)}")
    if arguments.json:
        print_json({"run": str(run.folder), **last})
    return run


def _check_together(arguments: TrainArguments, resuming: bool) -> None:
    """Refuse flags that do nothing without, or beside, others (GantryError)."""
    if resuming and arguments.data is not None:
        raise GantryError("a run that has begun keeps what it began from: leave --data away, or train a new run")
    if not resuming and arguments.keep_schedules:
        raise GantryError("--keep-schedules is for a run that goes on: give it with --resume, or leave it away")
    if arguments.track_video and arguments.track is None:
        raise GantryError("--track-video films for a tracker: name one with --track")


def _opening(asked: "_Asked", run: Run) -> Iterator[str]:
    """Yield what is said before training: which run it is, and where its settings are from."""
    what, words = f"{asked.agent} in {asked.env_id}", asked.arguments.env
    if asked.known is not None:
        yield f"resuming {run.folder} ({what}, seed {asked.known.seed})"
        return
    yield f"{what}, seed {asked.arguments.seed} → {run.folder}"
    if asked.recipe is None:
        from gantry.runs.recipes import stepping

        how = stepping(asked.env_id, parse_options(words))
        case = " ".join((what, *words))
        yield f"there is no recipe for {case}: default settings for environments stepped {how} are used"
    elif asked.recipe.source:
        yield f"recipe for {asked.recipe.total_steps:,} steps, from {asked.recipe.source}"


def _learn(
    asked: "_Asked", total_steps: int, evaluation: "EvaluationPlan | None", listener: "_Listener",
    begun: Callable[[Run], None],
) -> "Agent":  # fmt: skip
    """Train, or resume training."""
    from gantry.runs.train import resume, train

    arguments = asked.arguments
    hear: Any = {"progress": listener.update, "evaluated": listener.evaluated, "say": listener.say}
    options = env_options(arguments.env, arguments.randomize, arguments.disturb, arguments.reward)
    if arguments.skills:
        options["skills"] = [str(folder) for folder in arguments.skills]
    if arguments.shaping:
        options["shaping"] = vars(asked.config).get("gamma", 1.0)  # planners and policy search discount nothing
    if asked.known is not None:
        begun(asked.run)
        return resume(
            asked.run,
            arguments.steps,
            config=asked.config,
            env_options=options,
            evaluation=evaluation,
            keep_schedules=arguments.keep_schedules,
            keep_snapshots=arguments.keep_snapshots,
            **hear,
        )
    tuned_for = asked.recipe.env_options if asked.recipe is not None else {}
    if arguments.skills and asked.recipe is not None:
        tuned_for = {**tuned_for, "skill_steps": asked.recipe.skill_steps}
    options = {**tuned_for, **options}
    seed = arguments.seed
    run = Run(arguments.out) if arguments.out else lambda: new_run(asked.env_id, asked.agent, seed, arguments.name)
    return train(
        run, asked.env_id, asked.agent, asked.config, total_steps, seed, options, evaluation=evaluation,
        data=arguments.data, keep_snapshots=arguments.keep_snapshots, begun=begun, **hear,
    )  # fmt: skip


def _film(agent: "Agent", run: Run, listener: "_Listener") -> None:
    """Film an episode of the trained policy for the tracker; where that fails, say so."""
    from gantry.agents import load_agent
    from gantry.film.record import record

    assert listener.tracking is not None
    written = run.read_config()
    path = run.videos / f"steps-{agent.steps}.mp4"
    try:
        record(load_agent(run.folder), written.env_id, path, written.env_id, env_options=written.env_options)
    except GantryError as error:
        listener.say(f"no film for the tracker: {error}")
    else:
        listener.tracking.video(path)


def _evaluation(arguments: TrainArguments) -> "EvaluationPlan | None":
    """Return what the flags ask of evaluations during training."""
    from gantry.runs.evaluate import check_episodes
    from gantry.runs.evaluation_callback import EvaluationPlan

    every, until = arguments.evaluate_every, arguments.until
    if every is None and until is None:
        check_episodes(arguments.evaluate_episodes)
        return None
    steps, seconds = None, None
    if every is not None and every.endswith("s"):
        try:
            seconds = float(every[:-1])
        except ValueError:
            raise GantryError(f"--evaluate-every takes steps (5000) or seconds (10s), not {shown(every)!r}") from None
    elif every is not None:
        steps = whole_number(every, "--evaluate-every")
    return EvaluationPlan(steps, seconds, arguments.evaluate_episodes, until)


def _say(screen: Console, line: str) -> None:
    """Print a line as it is: no markup, no wrapping."""
    screen.print(line, soft_wrap=True, markup=False)


def _say_stopped(screen: Console, stopped: KeyboardInterrupt, command: str) -> None:
    from gantry.runs.train import TrainingStopped

    if not isinstance(stopped, TrainingStopped):
        return  # before training began
    if stopped.steps > 0:
        _say(screen, f"stopped and saved at {stopped.steps:,} steps; resume with: {command}")
    else:
        _say(screen, "stopped before the first update was done: there is nothing to resume")


def _scored(score: float) -> str:
    if math.isnan(score):
        return "no episode has ended yet"
    return f"last training episodes scored {score:.1f}"


def _quoted(run: Run) -> str:
    return shlex.quote(str(run.folder))


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a command line asks for."""

    arguments: TrainArguments
    env_id: str
    agent: str
    config: "AgentConfig"
    recipe: "Recipe | None"
    """Where a new run's settings come from."""
    run: Run
    known: RunConfig | None
    """What the run that is to be resumed says of itself."""


def _has_begun(words: Sequence[str]) -> bool:
    """Return whether there is a run that a command line, with --resume, goes on with."""
    env_id, given, *_ = _peek(words)
    if given.out:
        return Run(given.out).exists()
    try:
        _run_to_resume(env_id, given)
    except GantryError:
        return False
    return True


def _peek(words: Sequence[str]) -> tuple[str, argparse.Namespace, list[str], list[str]]:
    """Return the environment, what tells runs and recipes apart, the environment's options, and the words in order."""
    name, options, words = arranged(words, TrainArguments)
    if name is None:
        parse(TrainArguments, "train", words)  # says what is missing, or helps
        raise GantryError("name the environment: gantry train ENV …")
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--agent", "--seed", "--name", "--out", "--recipe"):
        peek.add_argument(flag)
    peek.add_argument("--resume", action="store_true")
    given, _ = peek.parse_known_args([word for word in words if word not in ("-h", "--help")])
    if given.name and given.out:
        raise GantryError("--name is a word of the folder's name, which --out gives as a whole: leave one of them away")
    return canonical_id(name), given, options, words


def _parse(words: Sequence[str]) -> _Asked:
    """Return what a command line asks for.

    Which settings there are depends on the agent, and their defaults on the environment and its options, or on the run
    that is to be resumed; PyTorch is imported only once there is an environment.
    """
    env_id, given, options, words = _peek(words)
    from gantry.agents import config_class
    from gantry.runs.recipes import default_settings, find_recipe

    recipe, known, run = None, None, Run(given.out or ".")
    if given.resume and given.recipe:
        raise GantryError("a recipe (--recipe) is for a new run; --resume has the run's own settings")
    if given.resume and not {"-h", "--help"} & set(words):
        run = _run_to_resume(env_id, given)
        known = run.read_config()
        agent = known.agent
        defaults = config_from_json(config_class(agent), known.config, f"{run.folder}/config.json")
    else:
        if given.recipe:
            recipe = _recipe_of_file(Path(given.recipe), env_id, given.agent)
        agent = (given.agent or TrainArguments.agent).lower() if recipe is None else recipe.agent
        asked_for = parse_options(options)
        defaults = default_settings(env_id, agent, asked_for)  # or says that there is no such agent
        if recipe is None:
            above: Json = {"skills": True} if any(word.partition("=")[0] == "--skills" for word in words) else {}
            recipe = find_recipe(env_id, agent, {**asked_for, **above})
        defaults = defaults if recipe is None else recipe.config
    arguments_class = dataclasses.make_dataclass(
        "TrainArguments", [("config", type(defaults), dataclasses.field(default=defaults))],
        bases=(TrainArguments,), frozen=True, kw_only=True, namespace={"__doc__": TrainArguments.__doc__},
    )  # fmt: skip
    arguments: Any = parse(arguments_class, "train", words)
    if {"--num-envs", "--config.num-envs"} <= flags_in(words):
        raise GantryError("--num-envs and --config.num-envs say the same thing; give one of the two")
    config = arguments.config
    if arguments.num_envs is not None:
        config = dataclasses.replace(config, num_envs=arguments.num_envs)
    return _Asked(arguments, env_id if known is None else known.env_id, agent, config, recipe, run, known)


def _recipe_of_file(path: Path, env_id: str, agent: str | None) -> "Recipe":
    """Read a recipe; raises GantryError where it is for another environment or agent than the command line names."""
    from gantry.runs.recipes.recipe_file import read_recipe

    recipe = read_recipe(path)
    if registered_id(recipe.env_id) != registered_id(env_id):
        raise GantryError(f"{shown(path)} is a recipe for {recipe.env_id}, not for {env_id}")
    if agent is not None and agent.lower() != recipe.agent:
        raise GantryError(f"{shown(path)} is a recipe for the agent {recipe.agent}, not for {agent}")
    return recipe


def _run_to_resume(env_id: str, given: argparse.Namespace) -> Run:
    """Return the run that --resume means; raises GantryError where it is another than the flags say."""
    seed = int(given.seed) if given.seed and given.seed.isdecimal() and len(given.seed) < 20 else 0
    if not given.out:
        return latest_run(env_id, given.agent or TrainArguments.agent, seed, given.name or "")
    run = Run(given.out)
    known = run.read_config()
    for what, asked, actual in (
        ("of", env_id.rpartition(":")[2], known.env_id.rpartition(":")[2]),
        ("of the agent", (given.agent or known.agent).lower(), known.agent),
        ("with seed", str(seed) if given.seed else str(known.seed), str(known.seed)),
    ):
        if asked != actual:
            raise GantryError(f"{shown(run.folder)} is a run {what} {actual}, not {shown(asked)}: it cannot become one")
    return run


def _draw_model(agent: "Agent", run: Run) -> None:
    """Draw how well the model of an agent that learns one predicts."""
    from gantry.agents.protocol import ModelLearner

    if isinstance(agent, ModelLearner) and agent.accuracy:
        from gantry.plots.model_calibration import draw_model_calibration

        draw_model_calibration(run.folder / "dynamics.png", agent.accuracy)


def _default_steps(recipe: "Recipe | None") -> int:
    return TOTAL_STEPS if recipe is None else recipe.total_steps


def _resume_command(asked: _Asked, run: Run) -> str:
    return f"gantry train {shlex.quote(asked.env_id)} --agent {asked.agent} --out {_quoted(run)} --resume"


class _Listener:
    """Shows how training goes: a progress bar, or a line every ten seconds where no one watches, and a tracker."""

    def __init__(self, screen: Console, total_steps: int, track: str | None) -> None:
        self._screen, self._total, self._pulse = screen, total_steps, Pulse(screen)
        self.last: dict[str, float] = {}
        self._evaluation = ""
        self._track, self._tracker = track, _tracker(track) if track is not None else None
        self.tracking: Tracking | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=screen,
            disable=not watched(screen),
        )
        self._task = self._bar.add_task("training", total=total_steps, numbers="")

    def begin(self, run: Run) -> None:
        """Show from here on how a run's training goes."""
        if self._tracker is not None:
            from gantry.runs.trackers.tracking import Tracking

            self.tracking = Tracking(self._tracker, str(self._track), run, self.say)
        self._bar.start()

    def __enter__(self) -> "_Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self.tracking is not None:
            self.tracking.close()

    def say(self, line: str) -> None:
        """Show a line beside the progress bar."""
        _say(self._screen, line)

    def evaluated(self, row: dict[str, float]) -> None:
        """Show an evaluation."""
        self._evaluation = f"  evaluated {row['score']:.1f}"
        if self.tracking is not None:
            self.tracking.evaluated(row)

    def update(self, row: dict[str, float]) -> None:
        """Show an update's metrics."""
        self.last.update(row)
        if self.tracking is not None:
            self.tracking.update(row)
        score = "–" if math.isnan(row["score"]) else f"{row['score']:.1f}"
        numbers = f"score [bold]{score}[/]{self._evaluation}"
        if not math.isnan(row.get("success_mean", math.nan)):
            numbers += f"  success {row['success_mean']:.0%}"
        numbers += f"  {row['steps_per_second']:,.0f} steps/s"
        if not math.isnan(row.get("planning_ms", math.nan)):
            numbers += f"  plans in {row['planning_ms']:.0f} ms, {row['real_time_factor']:.1f} × real time"
        self._bar.update(self._task, completed=row["steps"], numbers=numbers)
        if self._pulse.due():
            self._screen.print(f"  {row['steps'] / self._total:4.0%}  {numbers}")
            sys.stdout.flush()


def _tracker(track: str) -> "Tracker":
    """Make the tracker that --track names."""
    from gantry.runs.trackers import make_tracker

    return make_tracker(track)
