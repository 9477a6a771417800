"""`gantry bench envs`: what the vector environment costs over bare physics, and how it compares with its peers."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from mujoco.batch import Batch

from gantry.benchmark.rows import Report, Row, chosen_parts, median_rate, median_ratio, rounds, seconds
from gantry.benchmark.time_to_score import reason_without_peers
from gantry.envs.simulator import Simulator, make_simulator
from gantry.errors import described
from gantry.machine.cores import available_cores

SWING_UP = "gantry/CartPoleSwingUp-v0"
PENDULUM = "InvertedPendulum-v5"
ENVPOOL_TASK = "CartpoleSwingup-v1"

BLOCK_STEPS = 25_600
"""Environment steps of one timed block, about a tenth of a second."""

OWN_PHYSICS = {
    "gantry/ReachPlanar-v0": (24, None, 0.8),
    "gantry/Reach-v0": (24, 35_000.0, 0.8),
    "gantry/Vacuum-v0": (24, None, 0.8),
    "gantry/VacuumRooms-v0": (3, None, None),
    "gantry/VacuumDrive-v0": (24, None, None),
}
"""Environments compared with their own bare physics → vector steps, and targets for the rate and for the share."""


def measure(report: Report, only: Sequence[str] = (), repeats: int = 15) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        only: the parts to measure, see PARTS; none: all.
        repeats: rounds of each comparison; medians are reported.

    Raises:
        GantryError: there is no such part.
    """
    for name in chosen_parts("envs", PARTS, only):
        PARTS[name](report, repeats)


def _against_bare_physics(report: Report, repeats: int) -> None:
    for num_envs in (256, 4096):
        _against_bare_batch(report, num_envs, repeats)
    for env_id in OWN_PHYSICS:
        _against_own_physics(report, env_id, max(3, repeats // 2))


def _stepper(env: gymnasium.vector.VectorEnv, vector_steps: int, reset: bool = True) -> Callable[[], None]:
    """Return a block of steps of a vector environment with random actions, autoresets included."""
    if reset:
        env.reset(seed=0)
    generator, space = np.random.default_rng(0), env.single_action_space
    shape = (vector_steps, env.num_envs)
    if isinstance(space, gymnasium.spaces.Box):
        actions = generator.uniform(space.low, space.high, (*shape, *space.shape)).astype(space.dtype)
    else:
        assert isinstance(space, gymnasium.spaces.Discrete)
        actions = generator.integers(space.n, size=shape)

    def block() -> None:
        for action in actions:
            env.step(action)

    return block


def _bare(env: Simulator, vector_steps: int) -> Callable[[], None]:
    """Return the same physics without an environment around it: set the controls, step the batch."""
    twin = make_simulator(SWING_UP, env.num_envs)
    twin.reset(seed=0)
    batch, control = twin.batch, twin.state.ctrl
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (vector_steps, env.num_envs, 1))
    decimation = twin.task.decimation

    def block() -> None:
        for action in actions:
            control[:] = action
            batch.step(nstep=decimation)

    return block


def _against_bare_batch(report: Report, num_envs: int, repeats: int) -> None:
    vector_steps = max(8, BLOCK_STEPS // num_envs)
    env = make_simulator(SWING_UP, num_envs)
    times = rounds([_bare(env, vector_steps), _stepper(env, vector_steps)], repeats)
    steps = vector_steps * num_envs
    report(Row(f"swing-up, {num_envs} environments: rate", median_rate(times, 1, steps), "steps/s"))
    report(Row(f"swing-up, {num_envs} environments: bare Batch.step", median_rate(times, 0, steps), "steps/s"))
    ratio = median_ratio(times, 0, 1)
    report(Row(f"swing-up, {num_envs} environments: share of bare Batch.step", ratio, "ratio", 0.85))


class _Recorder:
    """Stand in for a batch and note how it was stepped: environments, steps, controls, resets."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._was_reset = np.zeros(batch.nsim, bool)
        self.calls: list[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, int]] = []
        """Environments reset since the last call (k,) and their states (k, numbers), environments stepped (n,) bool or
        None for all, controls (n, nu), and physics steps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def reset(self, ids: np.ndarray, stage: int) -> None:
        """Note the environments and pass the call on."""
        self._was_reset[ids] = True
        self._batch.reset(ids, stage=stage)

    def step(self, ids: np.ndarray | None = None, nstep: int = 1, stage: int = 0) -> None:
        """Note the call and pass it on."""
        reset = np.flatnonzero(self._was_reset)
        self._was_reset[:] = False
        mask = None if ids is None else ids.copy()
        self.calls.append((reset, self._batch.state[reset], mask, self._batch.bind("ctrl").copy(), nstep))
        self._batch.step(ids, nstep, stage)


def _against_own_physics(report: Report, env_id: str, repeats: int) -> None:
    """Compare an environment with the bare physics of its own first steps, replayed control by control."""
    count, (vector_steps, rate_target, share_target) = 256, OWN_PHYSICS[env_id]
    env, twin = make_simulator(env_id, count), make_simulator(env_id, count)
    for vector in (env, twin):
        vector.reset(seed=0)
    step, first = _stepper(env, vector_steps, reset=False), env.get_state()

    def block() -> None:
        env.set_state(first)  # both sides take the same steps in every round
        step()

    batch, control, begin = twin.batch, twin.batch.bind("ctrl"), twin.batch.state.copy()
    twin.batch = twin.state.batch = recorder = _Recorder(batch)
    _stepper(twin, vector_steps, reset=False)()

    def bare() -> None:
        batch.state[:] = begin
        for reset, states, mask, controls, steps in recorder.calls:
            if len(reset):
                batch.state[reset] = states
            control[:] = controls
            batch.step(mask, steps)

    times = rounds([bare, block], repeats)
    name, steps = env_id.removeprefix("gantry/"), vector_steps * count
    report(Row(f"{name}, {count} environments: rate", median_rate(times, 1, steps), "steps/s", rate_target))
    share = median_ratio(times, 0, 1)
    report(Row(f"{name}, {count} environments: share of bare Batch.step", share, "ratio", share_target))


def _randomized(report: Report, repeats: int) -> None:
    """Compare swing-up whose physics are sampled at every reset with swing-up as it is."""
    physics = {"cart_mass": "0.5..2.0", "pole_mass": "0.05..0.2", "pole_length": "0.7..1.3", "motor_delay": "0..2"}
    varied, plain = make_simulator(SWING_UP, 256, physics=physics), make_simulator(SWING_UP, 256)
    vector_steps = 600  # more than an episode, so that every environment is reset and sampled anew
    times = rounds([_stepper(plain, vector_steps), _stepper(varied, vector_steps)], repeats)
    share = 1.0 - median_ratio(times, 0, 1)
    report(Row("swing-up: throughput that randomized physics cost", share, "share", 0.15, "lower"))


def _plan_loading(report: Report, repeats: int) -> None:
    times = [seconds(lambda: make_simulator("gantry/Vacuum-v0", 1, plan="eight_rooms")) for _ in range(min(5, repeats))]
    report(Row("loading the plan of eight rooms", statistics.median(times), "s", 1.0, "lower"))


def _against_gymnasium(report: Report, repeats: int) -> None:
    ours, count = make_simulator(SWING_UP, 256), 256
    peer = gymnasium.make_vec(PENDULUM, 16, "sync")
    times = rounds([_stepper(peer, 64), _stepper(ours, BLOCK_STEPS // count)], repeats)
    peer_rate, rate = 64 * 16, BLOCK_STEPS
    per_step = statistics.median((row[0] / peer_rate) / (row[1] / rate) for row in times)
    report(Row(f"Gymnasium SyncVectorEnv, {PENDULUM}", median_rate(times, 0, peer_rate), "steps/s"))
    report(Row("swing-up over Gymnasium's SyncVectorEnv", per_step, "times", 10.0))
    peer.close()


def against_envpool(report: Report, repeats: int) -> None:
    """Compare swing-up with EnvPool's, or say why it cannot be."""
    name = f"swing-up over EnvPool's {ENVPOOL_TASK}"
    if (why := reason_without_peers(True, "envpool")) is not None:
        report(Row(name, None, "times", 2.0, note=why))
        return
    try:
        import envpool
    except (ImportError, OSError) as error:  # some of its wheels lack files that it reads when it is imported
        report(Row(name, None, "times", 2.0, note=f"EnvPool cannot be imported: {described(error)}"))
        return
    count, vector_steps = 256, BLOCK_STEPS // 256
    peer = envpool.make(ENVPOOL_TASK, env_type="gymnasium", num_envs=count, num_threads=available_cores(), seed=0)
    peer.reset()
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (vector_steps, count, 1))

    def block() -> None:
        for action in actions:
            peer.step(action)

    times = rounds([block, _stepper(make_simulator(SWING_UP, count), vector_steps)], repeats)
    report(Row(f"EnvPool {ENVPOOL_TASK}", median_rate(times, 0, BLOCK_STEPS), "steps/s"))
    report(Row(name, median_ratio(times, 0, 1), "times", 2.0))


def _single(report: Report, repeats: int) -> None:
    """Time single environments as users make them, random actions and resets included."""
    steps = 2000

    def play(env_id: str) -> Callable[[], None]:
        env = gymnasium.make(env_id)
        env.reset(seed=0)
        space = env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        actions = np.random.default_rng(0).uniform(space.low, space.high, (steps, *space.shape)).astype(np.float32)

        def block() -> None:
            for action in actions:
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()

        return block

    times = rounds([play(PENDULUM), play(SWING_UP)], repeats)
    report(Row("single swing-up", median_rate(times, 1, steps), "steps/s"))
    report(Row(f"single swing-up over Gymnasium's {PENDULUM}", median_ratio(times, 0, 1), "times", 1.0))


def _threads(report: Report, repeats: int) -> None:
    cores = available_cores()
    blocks = [
        _stepper(make_simulator(SWING_UP, 1024, num_threads=threads), BLOCK_STEPS // 1024) for threads in (1, cores)
    ]
    times = rounds(blocks, repeats)
    report(Row(f"swing-up, {cores} threads over 1", median_ratio(times, 0, 1), "times", 0.8 * cores))


def peak_memory() -> int:
    """Return the bytes that a process of its own that makes and steps 4096 environments holds at most."""
    program = (
        "import gantry, gymnasium, pathlib, re, resource, sys, numpy as np\n"
        f"env = gymnasium.make_vec({SWING_UP!r}, 4096)\n"
        "env.reset(seed=0)\n"
        "for _ in range(5): env.step(np.zeros((4096, 1), np.float32))\n"
        "status = pathlib.Path('/proc/self/status')\n"
        # On Linux not getrusage, whose peak is handed down from the process that starts this one.
        "if status.exists(): print(int(re.search(r'VmHWM:\\s+(\\d+) kB', status.read_text())[1]) * 1024)\n"
        "else: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))\n"
    )
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)


def _memory(report: Report, repeats: int) -> None:
    report(Row("resident memory with 4096 environments", peak_memory() / 2**20, "MiB", 1024.0, "lower"))


def _import_time(report: Report, repeats: int) -> None:
    def spent(module: str) -> float:
        program = f"import time; begun = time.perf_counter(); import {module}; print(time.perf_counter() - begun)"
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)

    extra = [spent("gantry") - spent("gymnasium") for _ in range(min(7, repeats))]
    report(Row("import gantry, beyond import gymnasium", statistics.median(extra), "s", 0.3, "lower"))


PARTS: dict[str, Callable[[Report, int], None]] = {
    "physics": _against_bare_physics,
    "randomization": _randomized,
    "plan": _plan_loading,
    "gymnasium": _against_gymnasium,
    "envpool": against_envpool,
    "single": _single,
    "threads": _threads,
    "memory": _memory,
    "import": _import_time,
}
"""Name of a part, for --only → what measures it, given the number of rounds."""
