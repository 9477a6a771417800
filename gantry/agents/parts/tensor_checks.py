"""Checks of tensors before they are written to files, and of what was read before anything is made of it."""

from collections.abc import Mapping
from pathlib import Path

import torch

from gantry.errors import GantryError


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
