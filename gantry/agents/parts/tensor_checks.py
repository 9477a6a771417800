"""Checks of tensors that were read from files, before anything is made of them."""

from collections.abc import Mapping

import torch

from gantry.errors import GantryError


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
