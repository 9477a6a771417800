"""Exported policies against the agents that they are from, and files that must be refused."""

import contextlib
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.vector.utils import batch_space
from zoo import zoo_id

import gantry
from gantry.agents import (
    A2CConfig,
    CEMConfig,
    DDPGConfig,
    DQNConfig,
    NESConfig,
    PlannerConfig,
    PPOConfig,
    QLearningConfig,
    RecurrentPPOConfig,
    ReinforceConfig,
    SACConfig,
    agent_class,
    agent_of_config,
)
from gantry.cli import main
from gantry.errors import GantryError
from gantry.files import config_to_json
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.folder import Run, RunConfig, current_versions
from gantry.spaces.maps import Spaces

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from gantry.export.check import check_export  # noqa: E402
from gantry.export.onnx_file import export_policy  # noqa: E402
from gantry.export.onnx_policy import OnnxPolicy, evaluate_policy  # noqa: E402

SWING_UP, REACH_GOAL = "gantry/CartPoleSwingUp-v0", "gantry/ReachGoal-v0"


def make_run(folder, config, env_id, **env_options):
    """Save an agent whose numbers are all random, as if it had been trained."""
    agent, env = agent_of_config(config), open_env(env_id, 1, env_options)
    spaces = Spaces(env.single_observation_space, env.single_action_space, config.num_envs)
    env.close()
    learner = agent_class(agent)(spaces, config)
    generator = torch.Generator().manual_seed(1)

    def changed(name, tensor):
        if not tensor.numel():
            return tensor
        if not tensor.is_floating_point():
            return tensor + 10 if tensor.dtype == torch.int64 else tensor
        numbers = torch.rand(tensor.shape, generator=generator)
        return tensor + (numbers if name.endswith("variance") else 0.4 * numbers - 0.2)

    state = {name: changed(name, tensor) for name, tensor in learner.checkpoint.policy_state().items()}
    learner.checkpoint.load_policy_state(state, "the test")
    learner.stepper.steps = 40
    run = Run(folder)
    run.write_config(RunConfig(env_id, env_options, agent, 3, 40, config_to_json(config), current_versions()))
    gantry.save(learner, folder)
    return run, gantry.load(folder)


OFF_POLICY = {"num_envs": 2, "buffer_size": 64, "hidden_sizes": (8,)}
DISCRETE = {"actions": "discrete"}
POLICIES = {
    "ppo": (PPOConfig(), SWING_UP),
    "ppo-squashed": (PPOConfig(squash_actions=True, activation="elu"), SWING_UP),
    "ppo-unscaled": (PPOConfig(action_scaling="none", normalize_observation=False), SWING_UP),
    "ppo-discrete": (PPOConfig(), "gantry/CartPoleBalance-v0", DISCRETE),
    "ppo-start": (PPOConfig(), zoo_id("ActionsStarted")),
    "ppo-one-sided": (PPOConfig(), zoo_id("ActionsOneSided")),
    "ppo-unbounded": (PPOConfig(), zoo_id("ActionsUnbounded")),
    "ppo-scalar": (PPOConfig(), zoo_id("ActionsScalar")),
    "ppo-dictionary": (PPOConfig(), zoo_id("DictNested")),
    "ppo-bytes": (PPOConfig(), zoo_id("Bytes")),
    "a2c": (A2CConfig(), zoo_id("TupleObserved")),
    "a2c-shared": (A2CConfig(shared_body=True), zoo_id("ActionsSeveral")),
    "reinforce": (ReinforceConfig(), zoo_id("ActionsBits")),
    "cem": (CEMConfig(), SWING_UP),
    "nes": (NESConfig(hidden_sizes=(8,), squash_actions=True, normalize_observation=True), zoo_id("SeveralDiscrete")),
    "ddpg": (DDPGConfig(**OFF_POLICY), SWING_UP),
    "her": (DDPGConfig(**OFF_POLICY, relative_goals=True, normalize_observation=True), REACH_GOAL),
    "td3": (DDPGConfig(**OFF_POLICY, twin_critics=True), zoo_id("DictUnsorted"), {"actions": "continuous"}),
    "sac": (SACConfig(**OFF_POLICY, normalize_observation=True), SWING_UP),
    "dqn": (DQNConfig(**OFF_POLICY, normalize_observation=True), "CartPole-v1"),
    "dqn-dueling": (DQNConfig(**OFF_POLICY, dueling=True), zoo_id("ActionsStarted")),
}


SMALL_MEMORY = {"memory_size": 8, "hidden_sizes": (8,), "num_envs": 2}
RECURRENT = {
    "gru": (RecurrentPPOConfig(**SMALL_MEMORY), "gantry/CartPoleBalance-v0"),
    "gru-alone": (RecurrentPPOConfig(**SMALL_MEMORY, observe_change=False, observe_action=False), SWING_UP),
    "lstm": (RecurrentPPOConfig(**SMALL_MEMORY, memory="lstm", squash_actions=True), SWING_UP),
    "attention": (
        RecurrentPPOConfig(**SMALL_MEMORY, memory="attention", attention_window=5, attention_layers=2), SWING_UP,
    ),
    "several-choices": (RecurrentPPOConfig(**SMALL_MEMORY), zoo_id("ActionsSeveral")),
}  # fmt: skip


@pytest.mark.parametrize("case", RECURRENT)
def test_exported_memory_gives_the_runs_actions_over_an_episode(case, tmp_path):
    config, env_id = RECURRENT[case]
    run, agent = make_run(tmp_path / "run", config, env_id)
    export_policy(run, tmp_path / "policy.onnx")
    policy, env = OnnxPolicy(tmp_path / "policy.onnx"), open_env(env_id, 3)
    assert policy.memory_size == agent.policy.size
    observation, _ = env.reset(seed=1)
    agent.begin(env)
    policy.begin(env)
    actions, exported = [agent.act(observation)], [policy.act(observation)]
    for _ in range(100):
        observation = env.step(actions[-1])[0]
        actions.append(agent.act(observation))
        exported.append(policy.act(observation))
    env.close()
    assert np.abs(np.stack(exported).astype(float) - np.stack(actions)).max() < 1e-5
    policy.begin(env)
    if policy.action_space.dtype.kind == "f":  # choices may be the same
        assert not np.array_equal(policy.act(observation), exported[-1])


def test_evaluation_of_an_exported_policy_carries_its_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("gantry.export.check.TIMED", 1)
    options = {"observe_velocity": False, "max_episode_steps": 100}
    run, agent = make_run(tmp_path / "run", RecurrentPPOConfig(**SMALL_MEMORY), SWING_UP, **options)
    export_policy(run, tmp_path / "policy.onnx")
    _, result = evaluate_policy(OnnxPolicy(tmp_path / "policy.onnx"), episodes=2)
    assert result.score == pytest.approx(evaluate_agent(agent, SWING_UP, 2, env_options=options).score, abs=0.01)
    check = check_export(agent, OnnxPolicy(tmp_path / "policy.onnx"), SWING_UP, options, 500)
    assert check.largest_difference < 1e-5


@pytest.mark.parametrize("case", POLICIES)
def test_exported_actions_equal_the_runs(case, tmp_path):
    config, env_id, *options = POLICIES[case]
    run, agent = make_run(tmp_path / "run", config, env_id, **(options[0] if options else {}))
    export_policy(run, tmp_path / "policy.onnx")
    policy = OnnxPolicy(tmp_path / "policy.onnx")
    assert policy.observation_space == agent.env.single_observation_space
    space = batch_space(policy.observation_space, 10_000)
    space.seed(0)
    observations = space.sample()
    actions, exported = agent.act(observations), policy.act(observations)
    assert exported.dtype == actions.dtype
    assert exported.shape == actions.shape
    assert np.unique(actions, axis=0).shape[0] > 1
    distance = np.abs(exported.astype(np.float64) - actions.astype(np.float64)) / np.maximum(1.0, np.abs(actions))
    differs = distance.reshape(10_000, -1).max(1) > 1e-5
    # Rounding decides between values that are equal to the last bits.
    assert differs.sum() <= (0 if np.issubdtype(actions.dtype, np.floating) else 1)


def test_single_observation_gives_a_single_action(tmp_path):
    run, agent = make_run(tmp_path / "run", PPOConfig(), SWING_UP)
    export_policy(run, tmp_path / "policy.onnx")
    observation = np.linspace(-1, 1, 5, dtype=np.float32)
    action = OnnxPolicy(tmp_path / "policy.onnx").act(observation)
    assert action.shape == (1,)
    assert action == pytest.approx(agent.act(observation), abs=1e-5)


def test_metadata_describes_the_policy(tmp_path):
    run, _ = make_run(tmp_path / "run", PPOConfig(), SWING_UP)
    run.append_metrics({"steps": 40, "score": 123.0, "wall_seconds": 1.0})
    export_policy(run, tmp_path / "policy.onnx")
    model = onnx.load(tmp_path / "policy.onnx")
    assert [opset.version for opset in model.opset_import] == [18]
    shape = model.graph.input[0].type.tensor_type.shape
    assert (shape.dim[0].dim_param, shape.dim[1].dim_value) == ("batch", 5)
    found = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert found["env_id"] == SWING_UP
    assert found["control_seconds"] == 0.02
    assert found["seed"] == 3
    assert found["score"] == {"of": "training", "mean": 123.0}
    assert found["versions"]["gantry"] == gantry.__version__
    (force,) = found["action"]
    assert (force["low"], force["high"]) == (-1.0, 1.0)
    assert sum(each["count"] for each in found["observation"]) == 5
    assert {"name", "unit", "low", "high"} <= found["observation"][0].keys()


def test_export_gives_the_same_bytes(tmp_path):
    run, _ = make_run(tmp_path / "run", PPOConfig(), SWING_UP)
    for name in ("one.onnx", "two.onnx"):
        export_policy(run, tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_export_reads_the_files_without_pytorch(tmp_path):
    run, _ = make_run(tmp_path / "run", PPOConfig(), SWING_UP)
    words = ["export", str(run.folder), str(tmp_path / "policy.onnx")]
    code = f"import sys; from gantry.cli import main; assert main({words}) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "policy.onnx").exists()


def test_export_refuses_a_damaged_policy_in_one_line(tmp_path):
    run, _ = make_run(tmp_path / "run", PPOConfig(), SWING_UP)
    numbers = run.folder / "policy.safetensors"
    content = bytearray(numbers.read_bytes())
    content[-1] ^= 1
    numbers.write_bytes(content)
    with pytest.raises(GantryError, match="its checksum does not fit"):
        export_policy(run, tmp_path / "policy.onnx")


def test_evaluation_equals_that_of_the_run(tmp_path):
    run, agent = make_run(tmp_path / "run", PPOConfig(), SWING_UP)
    export_policy(run, tmp_path / "policy.onnx")
    env_id, result = evaluate_policy(OnnxPolicy(tmp_path / "policy.onnx"), episodes=3)
    assert env_id == SWING_UP
    expected = evaluate_agent(agent, SWING_UP, 3)
    assert result.score == pytest.approx(expected.score, abs=0.01)
    check = check_export(agent, OnnxPolicy(tmp_path / "policy.onnx"), SWING_UP, {}, 200)
    assert check.observations == 200
    assert check.largest_difference < 1e-5


def test_commands_export_and_evaluate(tmp_path, capsys):
    run, _ = make_run(tmp_path / "run", DQNConfig(**OFF_POLICY), "CartPole-v1")
    file = str(tmp_path / "policy.onnx")
    assert main(["export", str(run.folder), file, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["different"] == 0
    scores = []
    for what in (file, str(run.folder)):
        assert main(["evaluate", what, "--episodes", "3", "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["score"])
    assert scores[0] == scores[1]
    assert main(["inspect", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["policy"]["agent"], found["policy"]["env_id"]) == ("dqn", "CartPole-v1")
    assert found["operators"]["ArgMax"] == 1
    assert found["inputs and outputs"]["action"] == "Discrete(2)"
    assert all(found["weights"].values())
    for words, line in (
        (["export", str(run.folder), "policy.pt"], "must end in .onnx"),
        (["evaluate", file, "--stochastic"], "acts deterministically"),
        (["evaluate", file, "--env-id", SWING_UP], "the policy observes"),
        (["evaluate", file, "--env-id", "gantry/CartPoleBalance-v0"], "the policy observes"),
        (["evaluate", str(run.folder), "--env-id", SWING_UP], "has other observations or actions"),
        (["evaluate", str(tmp_path / "none.onnx")], "No such file"),
    ):
        assert main(words) == 1
        assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "env_id", "options", "line"),
    [
        (QLearningConfig(), "gantry/VacuumRooms-v0", {"observation": "discrete"}, "its policy is a table"),
        (PlannerConfig(), SWING_UP, {}, "it plans anew"),
    ],
)
def test_agents_without_a_network_say_why_not(config, env_id, options, line, tmp_path):
    run, _ = make_run(tmp_path / "run", config, env_id, **options)
    with pytest.raises(GantryError, match=line):
        export_policy(run, tmp_path / "policy.onnx")
    assert not (tmp_path / "policy.onnx").exists()


@pytest.fixture
def model(tmp_path):
    run, _ = make_run(tmp_path / "run", PPOConfig(hidden_sizes=(4,)), SWING_UP)
    export_policy(run, tmp_path / "policy.onnx")
    return onnx.load(tmp_path / "policy.onnx")


def external(model):
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")


def custom(model):
    model.opset_import.append(onnx.helper.make_opsetid("evil", 1))
    model.graph.node[0].domain = "evil"


def looped(model):
    node = model.graph.node[0]
    body = onnx.helper.make_graph([], "body", [], [])
    node.attribute.append(onnx.helper.make_attribute("body", body))


def replaced(model, key, value):
    entries = {entry.key: entry for entry in model.metadata_props}
    entries[key].value = json.dumps(value)
    model.metadata_props.remove(entries["checksum"])  # as whoever changes it would


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (external, "other files|damaged"),
        (custom, "the operator Sub|damaged"),
        (looped, "subgraphs|damaged"),
        (lambda model: setattr(model.graph.node[0], "op_type", "Erf"), "the operator Erf|damaged"),
        (lambda model: replaced(model, "gantry_format", "9"), "not a policy that this version"),
        (lambda model: replaced(model, "observation_space", {"type": "box"}), "says no spaces"),
        (lambda model: replaced(model, "action_space", {"type": "discrete", "n": 2, "start": 0, "dtype": "int64"}),
         "actions are not of"),
        (lambda model: model.graph.initializer.pop(), "damaged"),
    ],
)  # fmt: skip
def test_harmful_or_damaged_files_are_refused_in_one_line(change, line, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.zeros(100, np.float32).tobytes())
    change(model)
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GantryError, match=line):
        OnnxPolicy(tmp_path / "changed.onnx")


def test_changed_weights_are_noticed(model, tmp_path):
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    expected = OnnxPolicy(path).act(np.ones(5, np.float32))
    weights = next(each for each in model.graph.initializer if len(each.dims) == 2)
    weights.raw_data = bytes([weights.raw_data[0] ^ 1]) + weights.raw_data[1:]
    path.write_bytes(model.SerializeToString(deterministic=True))
    with pytest.raises(GantryError, match="its checksum does not fit"):
        OnnxPolicy(path)
    (seal,) = (entry for entry in model.metadata_props if entry.key == "checksum")
    model.metadata_props.remove(seal)
    path.write_bytes(model.SerializeToString(deterministic=True))
    np.testing.assert_allclose(OnnxPolicy(path).act(np.ones(5, np.float32)), expected, atol=1e-3)


def test_flipped_bits_are_refused_or_harmless(model, tmp_path):
    content, generator = model.SerializeToString(), np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(content)
        changed[generator.integers(len(changed))] ^= 1 << generator.integers(8)
        (tmp_path / "changed.onnx").write_bytes(changed)
        with contextlib.suppress(GantryError):
            policy = OnnxPolicy(tmp_path / "changed.onnx")
            assert policy.act(np.zeros(5, np.float32)).shape == (1,)


def test_modules_named_by_a_file_are_not_imported(model, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    replaced(model, "env_id", "evil:my/Env-v0")
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GantryError, match="--env-id evil:my/Env-v0"):
        evaluate_policy(OnnxPolicy(tmp_path / "changed.onnx"))


def test_best_policy_is_exported_where_asked(tmp_path):
    run, _ = make_run(tmp_path / "run", CEMConfig(), SWING_UP)
    with pytest.raises(GantryError, match="no best policy"):
        export_policy(run, tmp_path / "policy.onnx", "best")
    make_run(run.best, dataclasses.replace(CEMConfig(), hidden_sizes=(3,)), SWING_UP)
    export_policy(run, tmp_path / "policy.onnx", "best")
    assert any(each.dims == [5, 3] for each in onnx.load(tmp_path / "policy.onnx").graph.initializer)
