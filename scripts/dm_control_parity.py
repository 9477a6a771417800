"""A cart-pole policy that scores S in Gantry scores S ± 2 % in dm_control's own cart-pole.

Run with Gantry's interpreter; dm_control runs in another one, given by `--python`, since it pins another MuJoCo
(scripts/README.md says how to make it). The policy goes there as plain NumPy weights. Exit status 1: the scores
differ by more than 2 %, or the two simulations drift apart under equal controls.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOLERANCE = 0.02
"""The scores' ratio may differ from 1 by so much."""
TASKS = {
    "gantry/CartPoleSwingUp-v0": "swingup",
    "gantry/CartPoleBalance-v0": "balance",
    "gantry/CartPoleSwingUpSparse-v0": "swingup_sparse",
}
"""Our id → dm_control's task of its domain `cartpole`."""
STEPS = 500
"""Control steps an episode, of two physics steps (20 ms) each."""
OPEN_LOOP_STEPS = 50
OPEN_LOOP_BOUNDS = {("implicitfast", 50): 1e-6, ("RK4", 10): 0.03}
"""(dm_control's integrator, control steps) → how far positions (m) and angles (rad) may be apart.

dm_control integrates its cart-pole with RK4, Gantry with MuJoCo's implicitfast, which is of first order, at the same
10 ms. Given our integrator, dm_control's model must move as ours does; with its own, the two start to drift apart.
"""

DM_CONTROL_SIDE = '''
"""Runs where dm_control is: drives its cart-pole at action repeat 2 by weights in an .npz file; prints JSON."""
import json
import sys

import mujoco
import numpy as np
from dm_control import suite

path, task, episodes, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
policy = np.load(path)
squash = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0.0), "elu": lambda z: np.where(z > 0, z, np.expm1(z))}


def act(observation):
    hidden = observation.astype(np.float32)
    if policy["normalize"]:
        scale = 1.0 / np.sqrt(policy["variance"] + policy["epsilon"])
        hidden = np.clip((hidden - policy["mean"]) * scale, -policy["limit"], policy["limit"])
    layers = int(policy["layers"])
    for index in range(layers):
        hidden = hidden @ policy[f"weight{index}"] + policy[f"bias{index}"]
        if index < layers - 1:
            hidden = squash[str(policy["activation"])](hidden)
    return np.clip(hidden, -1.0, 1.0)


def repeat_twice(environment, action):
    first = environment.step(action)
    return environment.step(action) if not first.last() else first


scores = []
environment = suite.load("cartpole", task, task_kwargs={"random": 0})
for _ in range(episodes):
    step = environment.reset()
    total = 0.0
    for _ in range(steps):
        position, velocity = step.observation["position"], step.observation["velocity"]
        step = repeat_twice(environment, act(np.concatenate([position, velocity])))
        total += step.reward
    assert step.last()
    scores.append(1000.0 * total / steps)

physics, paths = environment.physics, {}
kinds = {"RK4": mujoco.mjtIntegrator.mjINT_RK4, "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST}
assert physics.model.opt.integrator == kinds["RK4"]
for name, integrator in kinds.items():
    physics.model.opt.integrator = integrator
    paths[name] = []
    for state, controls in zip(policy["open_loop_states"], policy["open_loop_controls"]):
        with physics.reset_context():
            physics.set_state(state)
        paths[name].append([])
        for control in controls:
            physics.set_control([control])
            physics.step(2)
            paths[name][-1].append(physics.get_state().tolist())
print(json.dumps({"scores": scores, "paths": paths}))
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", type=Path, help="folder with policy.json and policy.safetensors, of a PPO agent")
    parser.add_argument("--python", required=True, help="an interpreter that has dm_control")
    parser.add_argument("--env", choices=TASKS, default=None, help="where it learned, if the policy does not say")
    parser.add_argument("--episodes", type=int, default=100)
    arguments = parser.parse_args()

    from gantry.agents import load_agent
    from gantry.envs.simulator import make_simulator

    agent = load_agent(arguments.policy)
    environment_id = arguments.env or agent.stepper.env_id
    if environment_id not in TASKS:
        parser.error(f"--env must be one of {', '.join(TASKS)}; the policy learned in {environment_id}")
    ours = our_scores(agent, make_simulator(environment_id, arguments.episodes))
    states, controls, our_paths = open_loop(make_simulator(environment_id, 40, max_episode_steps=None))

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "policy.npz"
        np.savez(weights, **numpy_policy(agent), open_loop_states=states, open_loop_controls=controls)
        script = Path(folder) / "drive.py"
        script.write_text(DM_CONTROL_SIDE, encoding="utf-8")
        order = [
            arguments.python,
            str(script),
            str(weights),
            TASKS[environment_id],
            str(arguments.episodes),
            str(STEPS),
        ]
        done = subprocess.run(order, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return 1
    found = json.loads(done.stdout.splitlines()[-1])

    theirs = np.array(found["scores"])
    ratio = theirs.mean() / ours.mean()
    print(f"{environment_id} and dm_control's cartpole {TASKS[environment_id]}, {arguments.episodes} episodes each")
    for name, scores in (("Gantry", ours), ("dm_control", theirs)):
        error = 1.96 * scores.std(ddof=1) / len(scores) ** 0.5
        spread = f"{scores.min():.1f} to {scores.max():.1f}"
        print(f"  {name:<11} {scores.mean():7.2f} ± {error:.2f} (95 % interval of the mean; episodes from {spread})")
    holds = bool(abs(ratio - 1.0) <= TOLERANCE)
    print(f"  ratio       {ratio:7.4f} {'within' if holds else 'OUTSIDE'} 1 ± {TOLERANCE}")
    print("  Under equal random controls from equal states, positions and angles are apart by (m or rad)")
    for integrator, paths in found["paths"].items():
        apart = np.abs(np.array(paths)[..., :2] - our_paths).max(axis=2)  # (n, OPEN_LOOP_STEPS)
        for steps in (10, OPEN_LOOP_STEPS):
            each = apart[:, :steps].max(axis=1)
            bound = OPEN_LOOP_BOUNDS.get((integrator, steps), np.inf)
            near = bool(each.max() <= bound)
            holds &= near
            verdict = "" if np.isinf(bound) else f", {'within' if near else 'OUTSIDE'} {bound:g}"
            print(
                f"    {integrator:<12} {steps} steps: median {np.median(each):.1e}, at most {each.max():.1e}{verdict}"
            )
    return 0 if holds else 1


def our_scores(agent, simulator) -> np.ndarray:
    """Scores (n,) of the first episodes of seeds 0..n-1 under the likeliest actions."""
    observations, _ = simulator.reset(seed=0)
    total = np.zeros(simulator.num_envs)
    for _ in range(STEPS):
        observations, rewards, _, _, _ = simulator.step(agent.act(observations, deterministic=True))
        total += rewards
    return 1000.0 * total / STEPS


def open_loop(simulator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First states (n, 4), controls (n, T), and positions and angles (n, T, 2) under them.

    Controls are random but weak, so that no cart reaches the rail's ends, where a step's difference in the moment of
    impact would be all that is measured.
    """
    rng = np.random.default_rng(0)
    n = simulator.num_envs
    simulator.reset(seed=0)
    simulator.state.qpos[:, 1] = rng.uniform(-np.pi, np.pi, n)
    simulator.state.qvel[:] = rng.normal(0.0, [0.2, 2.0], (n, 2))
    states = np.concatenate([simulator.state.qpos, simulator.state.qvel], axis=1)
    controls = rng.uniform(-0.5, 0.5, (n, OPEN_LOOP_STEPS)).astype(np.float32)
    paths = np.empty((n, OPEN_LOOP_STEPS, 2))
    for t in range(OPEN_LOOP_STEPS):
        simulator.step(controls[:, t, None])
        paths[:, t] = simulator.state.qpos
    if np.abs(paths[..., 0]).max() > 1.7:
        raise SystemExit("an open-loop cart came near the rail's end; weaken the controls")
    return states, controls.astype(np.float64), paths


def numpy_policy(agent) -> dict[str, np.ndarray]:
    """All that the deterministic policy is, as NumPy arrays."""
    normalizer, actor = agent.observation_normalizer, agent.actor
    policy = {
        "normalize": np.array(normalizer.enabled),
        "mean": normalizer.moments.mean,
        "variance": normalizer.moments.variance,
        "epsilon": np.array(normalizer.epsilon),
        "limit": np.array(normalizer.limit),
        "activation": np.array(actor.activation),
        "layers": np.array(len(actor.weights)),
    }
    for index, (weight, bias) in enumerate(zip(actor.weights, actor.biases, strict=True)):
        policy[f"weight{index}"], policy[f"bias{index}"] = weight.cpu().numpy(), bias.cpu().numpy()
    return policy


if __name__ == "__main__":
    sys.exit(main())
