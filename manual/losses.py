"""Losses over a sequence, each with its gradient under it.

With outputs y (T, B, V), a target per step and row, and weights w (T, B):

    L = Σ_{t,b} w[t,b] · ℓ(y[t,b], target[t,b])                                        (1)

    softmax cross-entropy   p = softmax(y),  ℓ = −log p[target]                        (2)
                            ∂ℓ/∂y = p − onehot(target)                                 (3)
    squared error           ℓ = ½ ‖y − target‖²                                        (4)
                            ∂ℓ/∂y = y − target                                         (5)

The ½ in (4) is what makes (5) free of a factor 2. "y − target" is often quoted for cross-entropy as
well; that holds only with p in place of y. The weights say which positions count and how they are
reduced:

    sum     w = mask                                                                   (6)
    mean    w = mask / Σ mask     (over counted positions, not over V)                 (7)

A loss at the last step alone is a mask that is zero before it. Losses at each step, or at the last,
for padded rows, are masks as well: one mechanism.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .arrays import Array


def position_weights(mask: Array, reduction: str) -> Array:
    """w (T, B) by (6) or (7).

    Raises ValueError for a reduction other than "sum" and "mean", and for a mean over no position
    at all.
    """
    if reduction == "sum":
        return mask  # (6)
    if reduction != "mean":
        raise ValueError(f"reduction must be 'sum' or 'mean', not {reduction!r}")
    count = mask.sum()
    if not count > 0:
        raise ValueError("a mean over no position: the mask is zero everywhere")
    return mask / count  # (7)


def softmax_cross_entropy(y: Array, target: Array, weights: Array) -> tuple[float, Array]:
    """(L, ∂L/∂y) for y (T, B, V), integer targets (T, B) and weights (T, B)."""
    # Only differences of y matter, and are formed.
    shifted = (y - y.max(axis=-1, keepdims=True)).reshape(-1, y.shape[-1])
    p, w, at_target = (
        np.exp(shifted),
        weights.reshape(-1),
        (np.arange(target.size), target.reshape(-1)),
    )
    total = p.sum(axis=-1)
    loss = -(w * (shifted[at_target] - np.log(total))).sum()  # (1), (2)
    p *= (w / total)[:, None]
    p[at_target] -= w  # (3)
    return float(loss), p.reshape(y.shape)


def squared_error(y: Array, target: Array, weights: Array) -> tuple[float, Array]:
    """(L, ∂L/∂y) for y and targets (T, B, V) and weights (T, B)."""
    difference = y - target
    loss = (weights * (difference * difference).sum(axis=-1)).sum() / 2  # (1), (4)
    return float(loss), difference * weights[..., None]  # (5)


Loss: TypeAlias = Callable[[Array, Array, Array], tuple[float, Array]]

LOSSES: dict[str, Loss] = {
    "softmax-cross-entropy": softmax_cross_entropy,
    "squared-error": squared_error,
}
