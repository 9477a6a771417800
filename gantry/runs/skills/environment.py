"""An environment above another one: its actions are skills, policies that act below until they have ended.

Source: Sutton, Precup and Singh, "Between MDPs and semi-MDPs: a framework for temporal abstraction in reinforcement
learning", Artificial Intelligence 112, 1999. A skill is an option that can begin in every state; the level above sees a
semi-Markov decision process, whose discount is γ to the number of steps that a skill took.
"""

from collections.abc import Sequence

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gantry.agents.protocol import AgentConfig, EpisodicActor
from gantry.envs.components import Component
from gantry.envs.factory import make_vec
from gantry.envs.registry import is_task
from gantry.envs.simulator import Simulator
from gantry.errors import GantryError, shown
from gantry.runs.skills.policies import Skill, check_fit, load_skill
from gantry.types import Array, Infos, Json, Observation, Options

UPPER_LEVELS = ("ppo", "dqn", "q-learning", "a2c")
"""Agents that discount by the time that a step took."""
SKILL_STEPS = 50
"""Steps after which a skill ends, where nobody says how many."""


class SkillsEnv(VectorWrapper):
    """n copies of a task whose actions are skills.

    An action runs its skill in its environment until the episode ends, a goal-conditioned skill reaches a goal that was
    not reached when it began, or `skill_steps` have passed. All n environments begin and end a step of this one
    together: those whose skill has ended are not simulated while others' go on. So each step is, in every environment,
    just one transition of a semi-Markov decision process. A skill that remembers begins each time with nothing.

    The reward is Σ γⁱ r_i over the skill's steps. `infos` holds `elapsed_steps` (n,), how many these were; the reward's
    named terms and, where γ < 1, `objective`, summed over them without a discount; metrics as the task reports them.

    Args:
        simulator: the task, with NEXT_STEP autoreset.
        skills: one or more that each fit the task's own observations and are chosen among; or one that is told a goal,
            where the task has a choice of goals, of which an action is one.
        skill_steps: steps after which a skill ends.
        gamma: the discount per step γ of the agent that learns above.
        autoreset_mode: SAME_STEP or NEXT_STEP.

    Attributes:
        environment_steps: steps of the task so far, over all environments.
        skill_names: what each action does, in words.

    Raises:
        GantryError: a skill does not fit, or a setting is out of range.
    """

    def __init__(
        self, simulator: Simulator, skills: Sequence[Skill], skill_steps: int = SKILL_STEPS, gamma: float = 1.0,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    ) -> None:  # fmt: skip
        super().__init__(simulator)
        if not isinstance(skill_steps, int) or isinstance(skill_steps, bool) or skill_steps < 1:
            raise GantryError(f"skill_steps must be a whole number of at least 1, not {skill_steps!r}")
        if autoreset_mode is AutoresetMode.DISABLED or simulator.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise GantryError("skills need SAME_STEP or NEXT_STEP autoreset, above a simulator with NEXT_STEP")
        self.simulator, self.skills, self.skill_steps, self.gamma = simulator, tuple(skills), skill_steps, gamma
        self._goals = check_fit(self.skills, simulator)
        names = self._goals.subgoals if self._goals is not None else [skill.name for skill in self.skills]
        self.skill_names = tuple(names)
        self.single_action_space = gymnasium.spaces.Discrete(len(names))
        self.action_space = batch_space(self.single_action_space, simulator.num_envs)
        self.autoreset_mode = autoreset_mode
        self.metadata = {**simulator.metadata, "autoreset_mode": autoreset_mode}
        below = simulator.single_action_space
        self._still = np.zeros((simulator.num_envs, *(below.shape or ())), below.dtype)
        self.environment_steps = 0

    @property
    def action_components(self) -> tuple[Component, ...]:
        """What each action does."""
        return tuple(map(Component, self.skill_names))

    def reset(
        self, *, seed: int | list[int] | Array | None = None, options: Json | None = None
    ) -> tuple[Observation, Infos]:
        """Begin new episodes, as the simulator does."""
        return self.simulator.reset(seed=seed, options=options)

    def step(self, actions: Array) -> tuple[Observation, Array, Array, Array, Infos]:
        """Run a skill in every environment.

        Args:
            actions: (n,) which skill, or which goal.

        Raises:
            GantryError: there is no such skill.
        """
        chosen = np.asarray(actions)
        if not self.action_space.contains(chosen.astype(self.action_space.dtype)) or chosen.dtype.kind not in "iu":
            raise GantryError(f"actions must be {self.num_envs} integers below {len(self.skill_names)}")
        simulator, gamma, count = self.simulator, self.gamma, self.num_envs
        waiting = simulator.ended
        running, begun = ~waiting, self._reached(chosen)
        rewards, objective, weight = np.zeros(count), np.zeros(count), np.ones(count)
        elapsed = np.zeros(count, np.int64)
        terminated, truncated, diverged = np.zeros((3, count), np.bool_)
        terms: dict[str, Array] = {}
        for skill in self.skills:
            if isinstance(skill.policy, EpisodicActor):
                skill.policy.begin(simulator)
        while running.any():
            given, named, ends, cuts, blown = simulator.step_only(self._below(chosen, running), running)
            rewards += np.where(running, weight * given, 0.0)
            objective += np.where(running, simulator.objective if simulator.designed else given, 0.0)
            for name, term in named.items():
                terms[name] = terms.get(name, 0.0) + np.where(running, term, 0.0)
            weight[running] *= gamma
            elapsed += running
            terminated |= ends
            truncated |= cuts
            if blown is not None:
                diverged |= blown
            running &= ~(ends | cuts) & (elapsed < self.skill_steps)
            running &= begun | ~self._reached(chosen)
            if simulator.state.watcher is not None:  # a film shows what lies between
                simulator.state.watcher()
        self.environment_steps += int(elapsed.sum())
        infos: Infos = {"terms": terms, "elapsed_steps": elapsed, **simulator.task.metrics(simulator.features)}
        if gamma != 1.0 or simulator.designed:
            infos["objective"] = objective
        if diverged.any():
            infos["diverged"] = diverged
        begins = waiting
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            begins = terminated | truncated
            if begins.any():
                infos["final_obs"], infos["_final_obs"] = simulator.observe(), begins
        if begins.any():
            simulator.reset(options={"reset_mask": begins})
        infos.update(simulator.physics_infos())
        return simulator.observe(), rewards, terminated, truncated, infos

    def _reached(self, goals: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return where a goal-conditioned skill has reached its goal, (n,)."""
        if self._goals is None:
            return np.zeros(self.num_envs, np.bool_)
        return self._goals.subgoal_reached(self.simulator.features, goals)

    def _below(self, chosen: NDArray[np.integer], running: NDArray[np.bool_]) -> Array:
        """Return the task's actions (n, ...) of the skills in charge.

        A skill is shown all environments, also those where it is not in charge: what it does in one must not depend, by
        the rounding of matrix products, on how many others it runs in.
        """
        simulator = self.simulator
        if self._goals is not None:
            return self.skills[0].policy.act(self._goals.skill_observation(simulator.features, chosen))
        observations, actions = simulator.observe(), self._still.copy()
        for number, skill in enumerate(self.skills):
            own = running & (chosen == number)
            if own.any():
                actions[own] = skill.policy.act(observations)[own]
        return actions


def open_with_skills(env_id: str, num_envs: int, options: Options, autoreset_mode: AutoresetMode) -> SkillsEnv:
    """Open copies of a task whose actions are the skills that its options name.

    Args:
        env_id: a task's.
        num_envs: how many, n.
        options: the task's, with `skills`, a list of runs' folders, and perhaps `skill_steps`.
        autoreset_mode: SAME_STEP or NEXT_STEP.

    Raises:
        GantryError: it is not a task of Gantry's kind, or a skill is missing or does not fit.
    """
    settings = dict(options)
    runs, skill_steps = settings.pop("skills"), settings.pop("skill_steps", SKILL_STEPS)
    if not is_task(env_id):
        raise GantryError(
            f"skills act in tasks of Gantry's kind, whose environments can wait; {env_id} is another kind"
        )
    if not isinstance(runs, list | tuple) or not all(isinstance(run, str) for run in runs):
        raise GantryError(f"skills are the folders of runs, not {shown(runs)}")
    skills = [load_skill(run) for run in runs]
    simulator = make_vec(env_id, num_envs, **settings, autoreset_mode=AutoresetMode.NEXT_STEP).unwrapped
    assert isinstance(simulator, Simulator)
    return SkillsEnv(simulator, skills, skill_steps, autoreset_mode=autoreset_mode)


def discount_as(agent: str, config: AgentConfig, env: VectorEnv) -> None:
    """Discount the rewards within a skill as the agent that is to learn above does between them.

    Raises:
        GantryError: the agent does not discount by the time that a step takes.
    """
    if agent.lower() not in UPPER_LEVELS:
        raise GantryError(
            f"{agent} does not discount by the steps that a skill takes; above skills use {', '.join(UPPER_LEVELS)}"
        )
    assert isinstance(env, SkillsEnv)
    env.gamma = float(vars(config)["gamma"])
