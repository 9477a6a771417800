"""A policy that was exported to an ONNX file, run by onnxruntime."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.errors import GantryError, shown
from gantry.export.graph import MEMORY, NEEDED, seal_fits
from gantry.files import space_from_json
from gantry.runs.environments import open_training_env, registered_id
from gantry.runs.evaluate import Evaluation, evaluate
from gantry.spaces.maps import ObservationMap
from gantry.types import Array, Json, Observation, Options, Space

if TYPE_CHECKING:
    import onnx

OPERATORS = {
    "Add", "ArgMax", "Cast", "Clip", "Concat", "Elu", "Gather", "Gemm", "LayerNormalization", "MatMul", "Max", "Min",
    "Mul", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Sub", "Tanh", "Transpose",
}  # fmt: skip
"""ONNX's own operators of which exported policies consist."""


class OnnxPolicy:
    """A policy from an ONNX file that `gantry export` wrote.

    Loading one executes nothing: the file is refused where it holds operators other than `OPERATORS`, functions, or
    tensors in other files.

    Args:
        path: the file.

    Attributes:
        metadata: what the file says of itself; docs/export.md lists it.
        agent: the id of the agent that was trained.
        env_id, env_options: where that was.
        observation_space, action_space: of a single environment.
        memory_size: numbers that it carries from step to step; 0 for policies without a memory.

    Raises:
        GantryError: no such file, a damaged one, or none that `gantry export` wrote; or a package is missing.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise GantryError(f"ONNX policies need onnx and onnxruntime: {NEEDED}") from error
        where = shown(path)
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError) as error:
            raise GantryError(f"cannot read {where}: {getattr(error, 'strerror', None) or error}") from error
        try:
            model = onnx.load_model_from_string(content)
            onnx.checker.check_model(model)
        except Exception as error:  # protobuf's, and the checker's own
            raise GantryError(f"{where} is damaged or not an ONNX file ({shown(error)}); export it again") from error
        _check_harmless(model, where)
        self.metadata = _metadata(model, where)
        if "checksum" in self.metadata and not seal_fits(content, self.metadata["checksum"]):
            raise GantryError(f"{where} is damaged or was changed (its checksum does not fit); export it again")
        try:
            self.agent = str(self.metadata["agent"])
            self.env_id, self.env_options = str(self.metadata["env_id"]), dict(self.metadata["env_options"])
            self.observation_space: Space = space_from_json(self.metadata["observation_space"])
            self.action_space: Space = space_from_json(self.metadata["action_space"])
            self._observations = ObservationMap(self.observation_space)
        except (KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError) as error:
            raise GantryError(f"{where} says no spaces and no environment ({error!r}); export it again") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # small networks gain nothing by more
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            sizes = {given.name: int(given.shape[-1]) for given in self._session.get_inputs()}
            self.memory_size = sizes.get(MEMORY, 0)
            self._memory: Array | None = None
            for _ in range(2 if self.memory_size else 1):  # what it remembers must fit its own input
                single = self.run(np.zeros((1, self._observations.size), np.float32))
            self._memory = None
        except Exception as error:  # onnxruntime has many
            raise GantryError(f"onnxruntime cannot run {where} ({shown(error)}); export it again") from error
        if single.shape[1:] != self.action_space.shape or single.dtype != self.action_space.dtype:
            raise GantryError(f"{where} is damaged: its actions are not of {shown(self.action_space)}; export it again")

    def begin(self, env: VectorEnv) -> None:
        """Forget what was observed: new episodes have begun in all environments of `env`."""
        self._memory = None

    def run(self, vectors: NDArray[np.float32]) -> Array:
        """Return actions (k, *action shape) for observation vectors (k, d), remembering those since `begin`."""
        if not self.memory_size:
            actions: Array = self._session.run(None, {"observation": vectors})[0]
            return actions
        if self._memory is None or len(self._memory) != len(vectors):  # episodes begin, or other environments
            self._memory = np.zeros((len(vectors), self.memory_size), np.float32)
        actions, self._memory = self._session.run(None, {"observation": vectors, MEMORY: self._memory})
        return actions

    def act(self, observation: Observation) -> Array:
        """Return the action for one observation or (k, *action shape) for a batch of k, as `Agent.act` does.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        vectors, single = self._observations.given(observation)
        actions = self.run(vectors)
        return actions[0] if single else actions

    def check_fit(self, observation_space: Space, action_space: Space) -> None:
        """Refuse an environment whose spaces are not the policy's.

        Raises:
            GantryError: they differ.
        """
        given = ObservationMap(observation_space)
        if (given.size, given.slices) != (self._observations.size, self._observations.slices):
            raise GantryError(
                f"the policy observes {shown(self.observation_space)}, the environment gives {shown(observation_space)}"
            )
        if action_space != self.action_space:
            raise GantryError(
                f"the policy acts in {shown(self.action_space)}, the environment in {shown(action_space)}"
            )


def evaluate_policy(
    policy: OnnxPolicy,
    env_id: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    env_options: Options | None = None,
    num_envs: int | None = None,
    max_steps: int | None = None,
) -> tuple[str, Evaluation]:
    """Let an exported policy act in a number of episodes, and return the environment's id and a summary of them.

    Args:
        policy: acts.
        env_id: None: where it was trained, with the options of then.
        episodes, seed, num_envs, max_steps: see `gantry.runs.evaluate.evaluate`.
        env_options: in place of those of the training.

    Raises:
        GantryError: the environment's spaces are not the policy's, or only the file names the module of the
            environment, which would be imported.
    """
    options = dict(env_options or {})
    if env_id is None:
        env_id, options = policy.env_id, {**policy.env_options, **options}
        if ":" in env_id:
            raise GantryError(
                f"the policy was trained in {shown(env_id)}, whose module would be imported; if you trust it, say "
                f"--env-id {shown(env_id)}"
            )
    elif registered_id(env_id) == registered_id(policy.env_id):
        options = {**policy.env_options, **options}
    env = open_training_env(env_id, 1, options)
    try:
        policy.check_fit(env.single_observation_space, env.single_action_space)
    finally:
        env.close()
    begin = policy.begin if policy.memory_size else None
    result = evaluate(policy.act, env_id, episodes, seed, options, begin=begin, num_envs=num_envs, max_steps=max_steps)
    return env_id, result


def _check_harmless(model: "onnx.ModelProto", where: str) -> None:
    """Refuse a model that could do anything but arithmetic on numbers of its own (GantryError)."""
    from onnx import AttributeProto, TensorProto

    foreign = [node.op_type for node in model.graph.node if node.domain or node.op_type not in OPERATORS]
    if foreign:
        raise GantryError(f"{where} holds the operator {shown(foreign[0])}, which exported policies do not have")
    plain = {AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.FLOATS, AttributeProto.INTS}
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if model.functions or model.graph.sparse_initializer or any(each.type not in plain for each in attributes):
        raise GantryError(f"{where} holds functions or subgraphs, which exported policies do not have")
    if any(each.external_data or each.data_location == TensorProto.EXTERNAL for each in model.graph.initializer):
        raise GantryError(f"{where} refers to other files, which exported policies do not")


def _metadata(model: "onnx.ModelProto", where: str) -> Json:
    def entries() -> Iterator[tuple[str, object]]:
        for entry in model.metadata_props:
            try:
                yield entry.key, json.loads(entry.value)
            except (ValueError, RecursionError):
                yield entry.key, entry.value

    found = dict(entries())
    if found.get("gantry_format") != "1":
        raise GantryError(f"{where} is not a policy that this version of `gantry export` wrote")
    return found
