"""How environments are made from an id, Gantry's tasks and any other Gymnasium environment alike."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation

from gantry.envs.mujoco_log import keep_log_out_of_files, quiet
from gantry.envs.registry import PARALLEL, canonical_id, find_task, import_module_of, is_parallel
from gantry.errors import GantryError, described
from gantry.machine.process_state import others_code
from gantry.types import Options


def make(env_id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make a single environment, with its time limit.

    Args:
        env_id: a registered task, also without its `gantry/`; any Gymnasium id; or `module:Env-v0`.
        options: of the environment; `stack=4` shows the last four observations, `trial=4` joins four episodes.

    Raises:
        GantryError: the id is unknown, or the environment cannot be made with these options.
    """
    if is_parallel(env_id):
        with _making(env_id):
            from gantry.envs.parallel_rows import JointEnv, foreign_maker

            return JointEnv(foreign_maker(canonical_id(env_id))(**options))
    with _making(env_id) as spec:
        stack = _foreign_stack(spec, options)
        if "trial" in options and "max_episode_steps" in options:
            options["trial_steps"] = options["max_episode_steps"]
        env = gymnasium.make(spec.id, **options)
        return env if stack == 1 else FrameStackObservation(env, stack)


def make_vec(env_id: str, num_envs: int = 1, **options: Any) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment: one batched simulator of a task, or copies of any other environment.

    The copies are stepped one after another, with SAME_STEP autoreset, unless the environment has a vector form of its
    own.

    Args:
        env_id: a registered task, also without its `gantry/`; any Gymnasium id; or `module:Env-v0`.
        num_envs: number of environments.
        options: of the environment; a task also takes the settings of `gantry.envs.simulator.Simulator`. `wrappers` are
            put around each copy, as Gymnasium does it.

    Raises:
        GantryError: the id is unknown, or the environment cannot be made with these options.
    """
    if is_parallel(env_id):
        options.pop("wrappers", None)
        return SyncVectorEnv([lambda: make(env_id, **options)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    with _making(env_id) as spec, contextlib.ExitStack() as after_first:
        wrappers = options.pop("wrappers", ())
        if (stack := _foreign_stack(spec, options)) != 1:
            wrappers = [lambda env: FrameStackObservation(env, stack), *wrappers]
        if _steps_in_batches(spec, stack):
            return gymnasium.make_vec(spec.id, num_envs, **options)

        def said(env: Any) -> Any:
            after_first.enter_context(quiet())
            return env

        vector_kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP}
        return gymnasium.make_vec(
            spec.id, num_envs, "sync", vector_kwargs=vector_kwargs, wrappers=[*wrappers, said], **options
        )


def steps_in_batches(env_id: str, options: Options | None = None) -> bool:
    """Return whether `make_vec` has one batched form of an environment, rather than copies stepped one after another.

    Raises:
        GantryError: the id is unknown.
    """
    with _making(env_id) as spec:
        return _steps_in_batches(spec, _foreign_stack(spec, dict(options or {})))


def _steps_in_batches(spec: EnvSpec, stack: int) -> bool:
    return spec.vector_entry_point is not None and not spec.additional_wrappers and stack == 1


def _foreign_stack(spec: EnvSpec, options: dict[str, Any]) -> int:
    """Take out of the options how many observations to stack, where the environment is not one of Gantry's kind."""
    stack: object = options.pop("stack", 1) if find_task(spec.id) is None else 1
    if not isinstance(stack, int) or stack < 1:
        raise GantryError(f"stack must be a whole number of at least 1, not {stack!r}")
    return stack


@contextlib.contextmanager
def _making(env_id: str) -> Iterator[EnvSpec]:
    """Yield what is registered under an id; whatever goes wrong in making it becomes one clear line."""
    name = import_module_of(canonical_id(env_id))
    try:
        spec = EnvSpec(PARALLEL) if is_parallel(env_id) else gymnasium.spec(name)
        if isinstance(spec.entry_point, str):
            load_env_creator(spec.entry_point)  # imports MuJoCo, where the environment needs it
        keep_log_out_of_files()
        with others_code():
            yield spec
    except (GantryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise GantryError(f"cannot make the environment {env_id!r}: {described(error)}{remedy(error)}") from error


def remedy(error: BaseException) -> str:
    """Return what to do about what an environment raised, as far as the error tells."""
    text = described(error)
    return next(
        f"; {advice}" for kinds, words, advice in _REMEDIES if isinstance(error, kinds) and re.search(words, text)
    )


_KEYWORD = "unexpected keyword argument"
_MISSING = (ImportError, gymnasium.error.DependencyNotInstalled)
_OLDER = (
    "perhaps it was made for an older Gym: Gymnasium's reset(seed=…, options=…) returns (observation, info), and its "
    "step(action) returns (observation, reward, terminated, truncated, info)"
)
_REMEDIES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str], ...] = (
    (_MISSING, "pygame", "install pygame, which draws it: pip install 'gantry-rl[toy-text]'"),
    (_MISSING, "", "install what it needs"),
    (TypeError, f"{_KEYWORD} '(physics|disturb)'", "--randomize and --disturb are for Gantry's tasks"),
    (
        TypeError,
        f"{_KEYWORD} '(reward|shaping)'",
        "--reward and --shaping are for Gantry's tasks, whose rewards have named terms",
    ),
    (TypeError, f"{_KEYWORD} 'render_mode'", "its constructor must take a render_mode for it to be drawn"),
    (TypeError, f"{_KEYWORD} '(seed|options)'", _OLDER),
    (TypeError, _KEYWORD, "`gantry info` shows an environment's options"),
    (ValueError, "values to unpack", _OLDER),
    (TypeError, "no pair of an observation", _OLDER),
    (
        RuntimeError,
        "sub-environment",
        "its copies must have the same spaces: mend that, or train in one, with --num-envs 1",
    ),
    (BaseException, "", "this is an error of the environment's own, or of the options it was given"),
)
"""Kinds of exceptions, what their message holds, and what to do about them; the first one counts."""
