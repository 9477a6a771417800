"""Skills: policies of runs, loaded to act below another level, and kept in the folder of the run above."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from gantry.agents.protocol import Agent, Controller, PlanningAgent
from gantry.envs.capabilities import Subgoals
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError, shown
from gantry.files import write_bytes
from gantry.spaces.maps import ObservationMap
from gantry.types import Space

POLICY_FILES = ("policy.json", "policy.safetensors")
"""What a skill's folder holds."""


@dataclasses.dataclass(frozen=True)
class Skill:
    """A policy that acts below another level."""

    name: str
    policy: Controller
    observation_space: Space
    action_space: Space


def load_skill(folder: str | Path) -> Skill:
    """Load the policy of a run's folder, or of a folder that `keep_skills` made, as a skill.

    Raises:
        GantryError: there is no such policy, it is damaged, or it plans.
    """
    path = Path(folder)
    if not (path / POLICY_FILES[0]).is_file():
        raise GantryError(f"no skill at {shown(path)}: name the folder of a run that `gantry train` has finished")
    from gantry.agents import load_agent  # imports PyTorch

    agent: Agent = load_agent(path)
    if isinstance(agent, PlanningAgent):
        raise GantryError(f"{shown(path)} is a run of {agent.name}, which plans: skills are policies that do not")
    spaces = agent.env
    return Skill(path.resolve().name, agent, spaces.single_observation_space, spaces.single_action_space)


def check_fit(skills: Sequence[Skill], simulator: Simulator) -> Subgoals | None:
    """Return the task as one with goals to choose from, where a goal-conditioned skill is given, else None.

    Raises:
        GantryError: there is no skill, or one does not fit the task.
    """
    if not skills:
        raise GantryError("skills need at least one run: --skills RUN …")
    if simulator.in_trials:
        raise GantryError("skills act in single episodes, not in trials: leave out trial")
    task = simulator.task
    for skill in skills:
        if skill.action_space != simulator.single_action_space:
            raise GantryError(
                f"the skill {skill.name} acts in {shown(skill.action_space)}, the environment in "
                f"{shown(simulator.single_action_space)}: it does not fit"
            )
    own = simulator.single_observation_space
    if isinstance(task, Subgoals) and all(
        _same(skill.observation_space, task.skill_observation_space) for skill in skills
    ):
        if len(skills) > 1:
            raise GantryError(f"{task.name} gives one skill its goals; name one run, not {len(skills)}")
        return task
    for skill in skills:
        if not _same(skill.observation_space, own):
            raise GantryError(
                f"the skill {skill.name} observes {_described(skill.observation_space)}, the environment gives "
                f"{_described(own)}: it does not fit"
            )
    return None


def _same(one: Space, other: Space) -> bool:
    ours, theirs = ObservationMap(one), ObservationMap(other)
    return (ours.size, ours.slices, ours.choices) == (theirs.size, theirs.slices, theirs.choices)


def _described(space: Space) -> str:
    return f"{ObservationMap(space).size} numbers"


def keep_skills(runs: Sequence[str], folder: Path) -> list[str]:
    """Copy the policies of runs into a run's folder; return where they are, as paths within it.

    Raises:
        GantryError: a policy cannot be read or written.
    """
    kept: list[str] = []
    for number, run in enumerate(runs):
        source = Path(run)
        name = source.resolve().name
        within = Path("files") / "skills" / f"{number + 1}" / name
        if source.resolve() != (folder / within).resolve():
            for file in POLICY_FILES:
                try:
                    content = (source / file).read_bytes()
                except OSError as error:
                    raise GantryError(f"cannot read {shown(source / file)}: {error.strerror}") from error
                write_bytes(folder / within / file, content)
        kept.append(within.as_posix())
    return kept
