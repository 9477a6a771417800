"""What a file or folder of Gantry's holds: a run, a policy, a trainer's state, a recipe. Nothing in it is executed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium

from gantry.agents.parts.policy_format import read_policy
from gantry.errors import GantryError, shown
from gantry.files import load_tensors, read_json, read_tensors, space_from_json
from gantry.runs.folder import Run, flattened
from gantry.types import Json, Space

if TYPE_CHECKING:
    from torch import Tensor

Sections = dict[str, Json]
"""Title → name → what is known, in the order in which it is told."""


def inspect_folder(folder: Path) -> Sections:
    """Return what a run's or a policy's folder holds, with every file read whole and its checksum compared.

    Raises:
        GantryError: it is neither, or a file is damaged.
    """
    sections: Sections = {}
    run = Run(folder)
    if run.exists():
        sections["run"] = _run(run)
    if (folder / "policy.json").exists() or (folder / "policy.safetensors").exists():
        sections |= inspect_policy(folder)
    if run.can_resume():
        sections["trainer"] = inspect_tensors(folder / "trainer" / "state.safetensors")["tensors"]
    if run.best.is_dir():
        sections |= {f"best {title}": section for title, section in inspect_policy(run.best).items()}
    if not sections:
        raise GantryError(f"{shown(folder)} holds no run and no policy that `gantry train` made")
    return sections


def inspect_policy(folder: Path) -> Sections:
    """Return what the two files of a policy hold.

    Raises:
        GantryError: one is missing or damaged, or they do not belong together.
    """
    content, tensors, metadata = read_policy(folder, load_tensors)
    try:
        spaces = {
            name: space_in_words(space_from_json(content[name])) for name in ("observation_space", "action_space")
        }
        known: Json = {"agent": content["agent"], "environment": content["env_id"], "format": content["format"]}
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError) as error:
        raise GantryError(
            f"{shown(folder / 'policy.json')} is damaged ({shown(error)}); restore it or train again"
        ) from error
    settings = content.get("config")
    return {
        "policy": {**known, **spaces, "steps": metadata.get("steps", "unknown"), **_sizes(tensors), "checksum": "fits"},
        "networks": {name: _shape(tensor) for name, tensor in tensors.items()},
        "settings": flattened(settings, empty=True) if isinstance(settings, dict) else {},
    }


def space_in_words(space: Space) -> str:
    """Return a space in a few words: a Box by its shape, as its bounds are many, and a Dict part by part."""
    if isinstance(space, gymnasium.spaces.Box):
        return f"Box {space.shape} {space.dtype}"
    if isinstance(space, gymnasium.spaces.Dict):
        return "Dict " + ", ".join(f"{key}: {space_in_words(part)}" for key, part in space.items())
    return shown(space)


def inspect_tensors(path: Path) -> Sections:
    """Return what a safetensors file holds: each part's tensors, their shapes, and whether its checksum fits.

    Raises:
        GantryError: it is damaged.
    """
    tensors, _, has_checksum = read_tensors(path)
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(name.partition(".")[0], []).append(tensor)
    told = {name: f"{len(group)} tensors, {_numbers(group)}" for name, group in sorted(parts.items())}
    return {"tensors": {**_sizes(tensors), "checksum": "fits" if has_checksum else "none", **told}}


def inspect_json(path: Path) -> Sections:
    """Return what a JSON file of Gantry's holds, such as a recipe.

    Raises:
        GantryError: it is damaged.
    """
    return {path.name: flattened(read_json(path), empty=True)}


def _run(run: Run) -> Json:
    config = run.read_config()
    rows = run.read_metrics()
    evaluations = run.evaluations.read()
    last = rows[-1] if rows else {}
    known: Json = {
        "environment": config.env_id,
        "options": config.env_options or "none",
        "agent": config.agent,
        "seed": config.seed,
        "steps": f"{int(last.get('steps', 0)):,} of {config.total_steps:,}",
        "updates": len(rows),
    }
    if "score" in last:
        ended = not math.isnan(last["score"])
        known["score"] = f"{last['score']:.1f}, of the last training episodes" if ended else "no episode has ended yet"
    if "wall_seconds" in last:
        known["seconds"] = f"{last['wall_seconds']:.1f}"
    if evaluations:
        best = max(row["score"] for row in evaluations)
        known["evaluations"] = f"{len(evaluations)}, the last {evaluations[-1]['score']:.1f}, the best {best:.1f}"
    known["can be resumed"] = "yes" if run.can_resume() else "no: it has no trainer state"
    return {**known, "versions": " ".join(f"{name} {version}" for name, version in config.versions.items())}


def _sizes(tensors: Mapping[str, "Tensor"]) -> Json:
    return {"tensors": len(tensors), "numbers": _numbers([*tensors.values()])}


def _numbers(tensors: "list[Tensor]") -> str:
    count = sum(tensor.numel() for tensor in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return f"{count:,} numbers, {size / 1e6:.2f} MB"


def _shape(tensor: "Tensor") -> str:
    shape = " × ".join(map(str, tensor.shape)) or "one number"
    return f"{shape}, {str(tensor.dtype).removeprefix('torch.')}"
