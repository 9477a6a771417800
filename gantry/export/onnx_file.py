"""A run's policy as an ONNX file: `observation` (B, d) float32 → `action` (B, *action shape), and what they mean.

A policy that remembers also has `memory` → `next_memory` (B, size) float32.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gantry.envs.components import Component
from gantry.export.graph import MEMORY, NEXT_MEMORY, UNSEALED, Graph, sealed
from gantry.export.policies import add_policy
from gantry.export.saved_policy import SavedPolicy, read_policy
from gantry.files import space_to_json, write_bytes
from gantry.runs.environments import open_env
from gantry.runs.folder import Run, current_versions
from gantry.runs.info import interface
from gantry.types import Json

FORMAT = "1"
"""Version of the metadata."""


def export_policy(run: Run, path: Path, policy: str = "last") -> None:
    """Write a run's policy to an ONNX file, whole or not at all; PyTorch is not imported.

    Args:
        run: where it was trained.
        path: the file.
        policy: `last` or `best`.

    Raises:
        GantryError: no such policy, or it is not a network; onnx is not installed; the file cannot be written.
    """
    saved, graph = read_policy(run.policy_folder(policy)), Graph()
    remembered = add_policy(graph, saved, "observation", "action")
    inputs = {"observation": (np.dtype(np.float32), (saved.observations.size,))}
    outputs = {"action": (np.dtype(saved.actions.dtype), saved.actions.shape)}
    if remembered:
        inputs[MEMORY] = outputs[NEXT_MEMORY] = (np.dtype(np.float32), (remembered,))
    metadata = {name: json.dumps(value) for name, value in _metadata(run, saved, policy).items()}
    write_bytes(path, sealed(graph.model(inputs, outputs, {**metadata, "checksum": UNSEALED.decode()})))


def _metadata(run: Run, saved: SavedPolicy, policy: str) -> Json:
    """Return what the file says of itself beside the graph."""
    written = run.read_config()
    env = open_env(written.env_id, 1, written.env_options)
    known = interface(env)
    env.close()
    return {
        "gantry_format": FORMAT,
        "env_id": written.env_id,
        "env_options": written.env_options,
        "agent": written.agent,
        "seed": written.seed,
        "steps": saved.steps,
        "score": _score(run, saved.steps, policy),
        "control_seconds": known.control_seconds,
        "observation": _components(known.observation),
        "action": _components(known.action),
        "observation_space": space_to_json(saved.observation_space),
        "action_space": space_to_json(saved.action_space),
        "versions": {**written.versions, "exported_by": current_versions()["gantry"]},
    }


def _components(components: Sequence[Component]) -> list[Json]:
    """Return names, units and bounds as JSON values, where null is an infinite bound."""
    fields = ("key", "name", "unit", "low", "high", "count", "note")
    return [
        {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in each.items()}
        for each in ({name: asdict(component)[name] for name in fields} for component in components)
    ]


def _score(run: Run, steps: int, policy: str) -> Json | None:
    """Return the policy's score, of an evaluation where there was one, else of the last episodes of training."""
    rows = run.evaluations.read()
    if policy == "last":
        rows = [row for row in rows if row["steps"] == steps]
    if rows:
        row = max(rows, key=lambda each: each["score"])
        return {"of": "evaluation", "mean": row["score"], "ci95": [row["score_low"], row["score_high"]]}
    rows = [row for row in run.read_metrics() if row["steps"] <= steps and math.isfinite(row["score"])]
    return {"of": "training", "mean": rows[-1]["score"]} if rows else None
