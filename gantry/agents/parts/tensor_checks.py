"""Checks of tensors before they are written to files, and of what was read before anything is made of it."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from gantry.errors import GantryError, shown
from gantry.types import Json, Options

LONGEST = 2**20
"""Bytes up to which a tensor's checksum is a CRC; a longer one's is the sum of its 64-bit words, six times as fast."""


def sealed(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str], beside: Json | None = None) -> dict[str, str]:
    """Return metadata with a checksum of all tensors, of itself, and of the JSON file that belongs beside."""
    return {**metadata, "checksum": _checksum(tensors, metadata, beside)}


def check_seal(tensors: Mapping[str, torch.Tensor], metadata: Options, where: Path, beside: Json | None = None) -> None:
    """Refuse what `sealed` did not return the metadata of; raises GantryError."""
    if isinstance(metadata, dict):
        rest = {name: text for name, text in metadata.items() if name != "checksum"}
        if metadata.get("checksum") == _checksum(tensors, rest, beside):
            return
    other = "" if beside is None else ", or is not of the same save as policy.json"
    raise GantryError(f"{shown(where)} is damaged{other} (its checksum does not fit); restore it or train again")


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Options, beside: Json | None) -> str:
    total = zlib.crc32(json.dumps([metadata, beside], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        content = tensor.reshape(-1).view(torch.uint8).numpy()
        if len(content) > LONGEST:
            whole = len(content) // 8 * 8
            words = int(np.add.reduce(content[:whole].view(np.uint64)))
            total, content = zlib.crc32(words.to_bytes(8, "little"), total), content[whole:]
        total = zlib.crc32(content.tobytes(), total)
    return f"{total:08x}"


def check_finite(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Refuse to save a policy that holds NaN or infinity over the last good one in a folder; raises GantryError."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            before = "the one saved before stays" if (folder / "policy.safetensors").exists() else "none was saved"
            raise GantryError(
                f"the policy has diverged ({name} holds NaN or infinite numbers) and is not saved; {before}; lower "
                "learning rates, or look for huge values in observations, rewards and action bounds"
            )


def check_tensors(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse tensors that are missing, unknown, of another shape or type, or hold NaN or infinity (GantryError)."""
    for name, model in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise GantryError(f"{where} is damaged or of another policy: {name} is missing")
        if tensor.shape != model.shape or tensor.dtype != model.dtype:
            found, wanted = (f"{tuple(each.shape)} {each.dtype}" for each in (tensor, model))
            raise GantryError(f"{where} is damaged or of another policy: {name} is {found}, not {wanted}")
        if not bool(torch.isfinite(tensor).all()):
            raise GantryError(f"{where} is damaged: {name} holds NaN or infinite numbers")
    if unknown := sorted(set(tensors) - set(expected)):
        raise GantryError(f"{where} is of another policy: it holds an unknown tensor {unknown[0]}")
