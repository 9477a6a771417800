"""Opening environments: one function for Gantry's own and for anyone else's, single or vector.

An id is one of Gantry's (`CartPoleSwingUp-v0`, `gantry/CartPoleSwingUp-v0`), any other id that is registered with
Gymnasium (`CartPole-v1`), or `module:ID`, whose module registers the environment when it is imported
(`my_module:my/DoublePendulum-v0`). Modules are looked for where Python finds them, and in the current folder.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import SupportsFloat, overload

import gymnasium
import numpy as np
from gymnasium.core import RenderFrame
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from gantry.envs.factory import make, make_vec, remedy
from gantry.envs.registry import canonical_id, find_task, import_module_of, is_parallel, registered_id
from gantry.errors import GantryError, described, shown
from gantry.files import write_bytes
from gantry.machine.process_state import others_code
from gantry.runs.environment_state import STATE_ERRORS, Rewinder, environment_state, restore_environment
from gantry.runs.step_time_limit import TookTooLong, watches
from gantry.types import SUCCESS, Infos, Json, Observation, Options

FILES = "files"
"""Folder within a run's for the files that its environment's options name."""
SKILLS = "skills"
"""The option that names runs whose policies are the actions; see `gantry.runs.skills`."""


def short_name(env_id: str) -> str:
    """Return an environment's name without module and namespace, such as `CartPoleSwingUp-v0`."""
    if is_parallel(env_id):
        return env_id.rpartition(":")[0].rpartition(".")[2]
    return registered_id(env_id).rpartition("/")[2]


def pack_options(env_options: Options, folder: Path) -> Json:
    """Return options whose files, such as a floor plan, have been copied into a run's folder, so that it can travel.

    An option is a file's where it names one, suffix and all; its value becomes a path within the folder.

    Raises:
        GantryError: a file cannot be copied.
    """
    packed: Json = dict(env_options)
    for name, value in packed.items():
        if name == SKILLS:
            from gantry.runs.skills.policies import keep_skills

            packed[name] = keep_skills(value, folder)
        path = _file(value)
        if path is None:
            continue
        kept = folder / FILES / name / path.name
        if path.resolve() != kept.resolve():
            try:
                content = path.read_bytes()
            except OSError as error:
                raise GantryError(f"cannot read {shown(path)}: {error.strerror}") from error
            write_bytes(kept, content)
        packed[name] = kept.relative_to(folder).as_posix()
    return packed


def unpack_options(packed: Options, folder: Path) -> Json:
    """Return options with the paths of the files that `pack_options` put into a run's folder, wherever that is now."""

    def placed(name: str, value: object) -> object:
        if isinstance(value, list) and name == SKILLS:
            return [placed(name, each) for each in value]
        return str(folder / value) if isinstance(value, str) and value.startswith(f"{FILES}/{name}/") else value

    return {name: placed(name, value) for name, value in packed.items()}


def same_option(name: str, value: object, kept: object) -> bool:
    """Return whether an option that is given again is the one that a run has, be it a copy of the same files."""
    if value == kept:
        return True
    try:
        return (content := _contents(name, value)) is not None and content == _contents(name, kept)
    except OSError:
        return False


def _contents(name: str, value: object) -> list[bytes] | None:
    """Return what the files of an option hold, or None where it names none."""
    if name == SKILLS and isinstance(value, list):
        from gantry.runs.skills.policies import POLICY_FILES

        return [Path(run, file).read_bytes() for run in value for file in POLICY_FILES]
    path = _file(value)
    return None if path is None else [path.read_bytes()]


def _file(value: object) -> Path | None:
    """Return the file that an option names, suffix and all, if it names one."""
    path = Path(value) if isinstance(value, str) else None
    return path if path is not None and path.suffix and "\0" not in str(path) and path.is_file() else None


@overload
def open_env(
    env_id: str,
    num_envs: int,
    env_options: Options | None = None,
    *,
    autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    render_mode: str | None = None,
) -> VectorEnv: ...


@overload
def open_env(
    env_id: str,
    num_envs: None = None,
    env_options: Options | None = None,
    *,
    render_mode: str | None = None,
) -> gymnasium.Env: ...


def open_env(
    env_id: str,
    num_envs: int | None = None,
    env_options: Options | None = None,
    *,
    autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    render_mode: str | None = None,
) -> VectorEnv | gymnasium.Env:
    """Open an environment: `num_envs` of it as one vector environment, or a single one.

    Seeds are given to the first `reset` (`gantry.runs.seeds.environment_seed`): environment i gets the seed + i.

    Args:
        env_id: Gantry's, Gymnasium's or `module:ID`.
        num_envs: how many; None opens a single environment.
        env_options: passed on to the environment; `skills` names runs whose policies become its actions.
        autoreset_mode: when a task begins new episodes; other environments do so with SAME_STEP, or as their own vector
            implementation does.
        render_mode: Gymnasium's, such as `rgb_array`.

    Raises:
        GantryError: no such id, or the environment cannot be made; later, whatever a foreign environment raises.
    """
    canonical = canonical_id(env_id)
    options: Json = dict(env_options or {})
    if render_mode is not None:
        options["render_mode"] = render_mode
    if SKILLS in options:
        from gantry.runs.skills.environment import open_with_skills

        above = open_with_skills(canonical, num_envs or 1, options, autoreset_mode)
        return above if num_envs is not None else _OnlyOne(above)
    if num_envs is None and is_parallel(canonical):
        return _ForeignEnv(make(canonical, **options), canonical)
    if num_envs is None:
        spec = gymnasium.spec(import_module_of(canonical))
        if spec.entry_point is None:
            single: gymnasium.Env = _OnlyOne(make_vec(canonical, 1, **options))
        else:
            single = make(canonical, **options)
        return single if _is_ours(canonical) else _ForeignEnv(single, canonical)
    if find_task(canonical) is not None:
        options["autoreset_mode"] = autoreset_mode
    else:
        options["wrappers"] = [_Copy]
    vector = make_vec(canonical, num_envs, **options)
    return vector if _is_ours(canonical) else _ForeignVectorEnv(vector, canonical)


def open_training_env(env_id: str, num_envs: int, env_options: Options | None = None) -> VectorEnv:
    """Open what an agent learns in: `num_envs` environments, or of a team at least as many robots, in whole worlds.

    Raises:
        GantryError: as `open_env`.
    """
    from gantry.envs.capabilities import Team  # imports MuJoCo

    canonical = canonical_id(env_id)
    if is_parallel(canonical):
        return _ForeignTeam(canonical, num_envs, env_options or {})
    task = find_task(canonical)
    if task is None or Team not in task.load_class().__mro__:
        return open_env(canonical, num_envs, env_options)
    from gantry.envs.robot_rows import make_robots

    robots = make_robots(registered_id(canonical), num_envs, **(env_options or {}))
    robots.spec = gymnasium.spec(registered_id(canonical))
    return robots


def _is_ours(env_id: str) -> bool:
    """Return whether Gantry ships the environment, so that an exception in it would be an error of Gantry's own."""
    task = find_task(env_id)
    return task is not None and task.class_path.startswith("gantry.")


class _OnlyOne(gymnasium.Env):
    """The one environment of a vector environment, where others offer no single one."""

    def __init__(self, vector: VectorEnv) -> None:
        self._vector = vector
        self.observation_space, self.action_space = vector.single_observation_space, vector.single_action_space
        self.metadata, self.spec, self.render_mode = vector.metadata, vector.spec, vector.render_mode

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Observation, Infos]:
        """Begin a new episode."""
        observations, infos = self._vector.reset(seed=seed, options=options)
        return _first(observations), _first(infos)

    def step(self, action: Observation) -> tuple[Observation, SupportsFloat, bool, bool, Infos]:
        """Advance by one step."""
        observations, rewards, terminated, truncated, infos = self._vector.step(np.asarray(action)[None])
        if (terminated[0] or truncated[0]) and "final_obs" in infos:  # the next episode has begun already
            observations, infos = infos["final_obs"], infos.get("final_info", infos)
        return _first(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _first(infos)

    def render(self) -> RenderFrame | list[RenderFrame] | None:
        """Return what the environment draws."""
        frames = self._vector.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the environment."""
        self._vector.close()


def _first(batch: Observation) -> Observation:
    """Return the first of a batch of observations or infos."""
    if isinstance(batch, dict):
        return {name: _first(part) for name, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_first(part) for part in batch)
    return batch[0] if isinstance(batch, np.ndarray | list) and len(batch) else batch


class _Copy(gymnasium.Wrapper):
    """One of the copies that others' environments are trained in: what copies return fits into arrays.

    Of an `info` it keeps what training looks at, as others' keys and shapes may not go together.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._check = _observation_check(env)

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Observation, Infos]:
        """Begin a new episode."""
        result: object = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise TypeError("it returns no pair of an observation and a dictionary, as Gymnasium asks of it")
        self._check(result[0])
        return result[0], _successes(result[1])

    def step(self, action: Observation) -> tuple[Observation, SupportsFloat, bool, bool, Infos]:
        """Advance by one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        try:
            if hasattr(reward, "detach"):  # PyTorch's, which may carry a gradient
                reward = reward.detach()
            reward = reward.item() if isinstance(reward, np.ndarray) else float(reward)
        except (TypeError, ValueError):
            raise TypeError(f"its reward is {shown(reward)}, not a number") from None
        self._check(observation)
        return observation, reward, terminated, truncated, _successes(info)


def _observation_check(env: gymnasium.Env) -> Callable[[Observation], None]:
    """Return what raises ValueError where a number is not one of the environment's Discrete observations."""
    space = env.observation_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        return lambda observation: None
    first, end = int(space.start), int(space.start) + int(space.n)

    def check(observation: Observation) -> None:
        if not first <= int(observation) < end:
            raise ValueError(f"its observation {shown(observation)} is not one of {space}")

    return check


def _successes(info: Infos) -> Infos:
    if info is None:
        return {}
    if not isinstance(info, dict):
        raise TypeError(f"its info is {type(info).__name__}, not a dictionary")
    return {name: info[name] for name in SUCCESS if info.get(name) is not None}


class _ForeignEnv(gymnasium.Wrapper):
    """A single environment that others made: what it raises becomes one clear line."""

    def __init__(self, env: gymnasium.Env, env_id: str) -> None:
        super().__init__(env)
        self._env_id, self._check = env_id, _observation_check(env)

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Observation, Infos]:
        """Begin a new episode."""
        with one_line(self._env_id, "in reset()"):
            observation, info = self.env.reset(seed=seed, options=options)
            self._check(observation)
            return observation, info

    def step(self, action: Observation) -> tuple[Observation, SupportsFloat, bool, bool, Infos]:
        """Advance by one step."""
        with one_line(self._env_id, "in step()"):
            result = self.env.step(action)
            self._check(result[0])
            return result

    def render(self) -> RenderFrame | list[RenderFrame] | None:
        """Return what the environment draws."""
        with one_line(self._env_id, "to draw itself"):
            return self.env.render()

    def close(self) -> None:
        """Close the environment; a failure is said, and spoils nothing that came before."""
        with _said(self._env_id):
            self.env.close()


class _ForeignVectorEnv(VectorWrapper):
    """A vector environment that others made: what it raises becomes one clear line, and its state is kept if known."""

    _reserved = frozenset(("waiting", "elapsed_steps", "objective"))
    """Entries of `infos` that mean something to agents, which others' of the same name do not."""

    def __init__(self, env: VectorEnv, env_id: str) -> None:
        super().__init__(env)
        self._env_id = env_id
        self._unknown = False
        self._rewinder = Rewinder(env)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the state of all environments, or nothing where it cannot be read."""
        if not self._unknown:
            try:
                return environment_state(self.env)
            except STATE_ERRORS:
                self._unknown = True
        return {}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore the state, in environments that have been reset."""
        self._rewinder = Rewinder(self.env)
        self._reset(0, None)
        with one_line(self._env_id, "to take back its state"):
            restore_environment(self.env, state)

    def mark(self) -> None:
        """Begin steps that `rollback` undoes, where the state can be read."""
        if not self._unknown:
            try:
                self._rewinder.mark()
            except STATE_ERRORS:
                self._unknown = True

    def rollback(self) -> None:
        """Return to the last `mark`, exactly.

        Raises:
            GantryError: the environment fails.
            UnknownState: its state is not known.
        """
        self._rewinder.rewind(self._reset, self._step)

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Observation, Infos]:
        """Begin new episodes."""
        result = self._reset(seed, options)
        self._rewinder.called({"seed": seed, "options": options})
        return result

    def step(self, actions: Observation) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Advance every environment by one step."""
        result = self._step(actions)
        self._rewinder.called(actions)
        return result

    def _reset(self, seed: int | None, options: Json | None) -> tuple[Observation, Infos]:
        with one_line(self._env_id, "in reset()"):
            return self.env.reset(seed=seed, options=options)

    def _step(self, actions: Observation) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        with one_line(self._env_id, "in step()"):
            *result, infos = self.env.step(actions)
            return *result, {name: value for name, value in infos.items() if name not in self._reserved}

    def render(self) -> tuple[RenderFrame, ...] | None:
        """Return what each environment draws."""
        with one_line(self._env_id, "to draw itself"):
            return self.env.render()

    def close(self, **settings: object) -> None:
        """Close the environments; a failure is said, and spoils nothing that came before."""
        with _said(self._env_id):
            self.env.close(**settings)


class _ForeignTeam(_ForeignVectorEnv):
    """The agents of PettingZoo environments that others made, one after another, as a vector environment.

    Attributes:
        team_size: agents of each world.
    """

    _reserved = frozenset()  # Gantry makes the vector environment

    def __init__(self, env_id: str, num_envs: int, options: Options) -> None:
        from gantry.envs.parallel_rows import Parallel, ParallelRows, foreign_maker

        maker = foreign_maker(env_id)

        def made() -> Parallel:
            with one_line(env_id, "to be made"):
                return maker(**options)

        rows = ParallelRows(made, num_envs)
        super().__init__(rows, env_id)
        self.team_size = rows.team_size


class one_line:
    """Turn what another package's environment raises in a call, such as "in step()", into a GantryError of one line.

    A class, since a context manager made from a generator takes longer than some environments' step.
    """

    def __init__(self, env_id: str, call: str) -> None:
        self._env_id, self._call = env_id, call
        self._watch = watches[-1] if watches else None
        self._apart = others_code(quick=call == "in step()")

    def __enter__(self) -> None:
        self._apart.__enter__()
        if self._watch is not None:
            self._watch.begin(self._env_id, self._call)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._watch is not None:
            try:
                self._watch.end()
            except TookTooLong as late:
                error = late
        self._apart.__exit__()
        if error is None or isinstance(error, GantryError):
            return
        if isinstance(error, TookTooLong):
            assert self._watch is not None
            raise GantryError(self._watch.line()) from None
        if not isinstance(error, KeyboardInterrupt) and not _is_ours(self._env_id):
            raise GantryError(f"{self._env_id} failed {self._call}: {described(error)}{remedy(error)}") from error


@contextlib.contextmanager
def _said(env_id: str) -> Iterator[None]:
    """Say what an environment raises in close() on standard error, and go on."""
    try:
        with one_line(env_id, "in close()"):
            yield
    except GantryError as error:
        if str(error) not in _SAID:
            _SAID.add(str(error))
            print(f"gantry: {error}; its results are whole", file=sys.stderr)


_SAID: set[str] = set()
"""What has been said already, of another copy."""
