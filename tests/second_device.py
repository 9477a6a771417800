"""A stand-in for a graphics card: tensors on the processor that behave as if they were elsewhere.

What is sent to "cuda" becomes an `Elsewhere`, with which ordinary tensors cannot be combined and which NumPy cannot
read, as with the real thing; so code that forgets to move a tensor fails, on a machine without any card.
"""

import torch

CARD = torch.device("cuda", 0)
FACTORIES = ("arange", "empty", "eye", "full", "ones", "rand", "randn", "randperm", "tensor", "zeros")
COPYING = {torch.Tensor.copy_, torch.Tensor.__setitem__}
"""What may write tensors of one device to the other."""


class Elsewhere(torch.Tensor):
    """A tensor that is not where the processor's are."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Refuse what a card would refuse; do the rest."""
        kwargs = kwargs or {}
        if getattr(func, "__self__", None) is torch.Tensor.device:
            return CARD
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert a tensor on a card to NumPy")
        given = [value for value in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        here = [value for value in given if not isinstance(value, cls) and value.dim()]
        backward = torch._C._current_graph_task_id() != -1  # the engine's own tensors are plain
        if here and func not in COPYING and not backward:
            raise RuntimeError(f"{func} of tensors on two devices")
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{func} on a card draws from a generator of the processor")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if func is torch.Tensor.cpu:
                return result.clone().as_subclass(torch.Tensor)
        if func is torch.Tensor.copy_ and not isinstance(args[0], cls):
            return result
        return torch.utils._pytree.tree_map_only(torch.Tensor, sent, result)


def sent(tensor):
    """The tensor as one elsewhere, of the same memory."""
    return tensor if isinstance(tensor, Elsewhere) else tensor.as_subclass(Elsewhere)


def _is_card(device):
    return device is not None and torch.device(device).type == "cuda"


def provide(monkeypatch):
    """Let "cuda" be available, in every thread."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in FACTORIES:
        monkeypatch.setattr(torch, name, _factory(getattr(torch, name)))
    ordinary = torch.Tensor.to

    def to(tensor, device=None, *args, **kwargs):
        if isinstance(device, torch.Tensor):
            return to(ordinary(tensor, device.dtype), device.device)
        if not isinstance(device, str | torch.device):
            return ordinary(tensor, *(() if device is None else (device,)), *args, **kwargs)
        if _is_card(device):
            return tensor if isinstance(tensor, Elsewhere) else sent(tensor.clone())
        return tensor.cpu()

    monkeypatch.setattr(torch.Tensor, "to", to)


def _factory(make):
    def made(*args, device=None, **kwargs):
        if not _is_card(device):
            return make(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise RuntimeError("a card's tensor is drawn from a generator of the processor")
        return sent(make(*args, **kwargs))

    return made
