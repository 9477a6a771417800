"""Temporal-difference targets, and the slowly moving copies of networks that set them."""

import torch

from gantry.agents.parts.networks import MLP


def td_target(reward: torch.Tensor, discount: torch.Tensor, next_value: torch.Tensor) -> torch.Tensor:
    """Return the target of a value, r + discount · V(s'), (B,) (temporal difference, Sutton 1988).

    Args:
        reward: (B,) of one step, or the discounted sum of n.
        discount: (B,) γ to the number of steps, or 0 where the episode terminated. A truncation leaves it unchanged.
        next_value: (B,) of the state that those steps led to.
    """
    return torch.addcmul(reward, discount, next_value)


def polyak_update(target: MLP, source: MLP, tau: float) -> None:
    """Move the parameters of `target` a share `tau` of the way to those of `source`: θ' ← (1 - τ) θ' + τ θ."""
    target.vector.detach().lerp_(source.vector.detach(), tau)


def hard_update(target: MLP, source: MLP) -> None:
    """Copy the parameters of `source` to `target`."""
    target.vector.detach().copy_(source.vector.detach())
