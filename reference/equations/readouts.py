"""What turns the states of a sequence into one number."""

from functools import partial
from typing import Any

from ..arrays import Named
from .parts import Readout, affine, one_hot, side_by_side, stop_gradient


def outputs(xp: Any, params: Named, states: Named, reads: tuple[str, ...]) -> Any:
    """Head: h W_hyᵀ + b_y for every step, (T, B, V), h the states of these names side by side."""
    return (
        affine(xp, side_by_side(xp, [states[name] for name in reads]), params["W_hy"])
        + params["b_y"]
    )


def average_or_sum(xp: Any, per_position: Any, mask: Any, reduction: str) -> Any:
    """Sum of the masked losses; for "mean", divided by the number of positions that count."""
    total = xp.sum(per_position * mask)
    return total / xp.sum(mask) if reduction == "mean" else total


def softmax_cross_entropy(
    xp: Any,
    params: Named,
    states: Named,
    constants: Named,
    *,
    reduction: str,
    reads: tuple[str, ...] = ("h",),
) -> Any:
    """−log softmax(y)[target] at each position, as logsumexp(y) − y[target]."""
    y = outputs(xp, params, states, reads)
    peak = stop_gradient(
        xp.max(y, axis=-1, keepdims=True)
    )  # it cancels; a gradient through max would hang on y == max(y)
    logsumexp = xp.log(xp.sum(xp.exp(y - peak), axis=-1)) + peak[..., 0]
    chosen = xp.sum(y * one_hot(xp, constants["target"], y.shape[-1], y), axis=-1)
    return average_or_sum(xp, logsumexp - chosen, constants["mask"], reduction)


def squared_error(
    xp: Any,
    params: Named,
    states: Named,
    constants: Named,
    *,
    reduction: str,
    reads: tuple[str, ...] = ("h",),
) -> Any:
    """½ Σ_v (y − target)² at each position."""
    residual = outputs(xp, params, states, reads) - constants["target"]
    return average_or_sum(xp, xp.sum(residual**2, axis=-1) / 2, constants["mask"], reduction)


def projection(xp: Any, params: Named, states: Named, constants: Named) -> Any:
    """Inner product of every state with the given cotangents."""
    del params
    products = [xp.sum(state * constants[f"cotangent_{name}"]) for name, state in states.items()]
    return sum(products[1:], start=products[0])


READOUTS: dict[str, Readout] = {
    "softmax-cross-entropy": softmax_cross_entropy,
    "squared-error": squared_error,
    "projection": projection,
}


def bound_readout(name: str, options: Named) -> Readout:
    """The readout of READOUTS called `name`, its options filled in."""
    return partial(READOUTS[name], **options)
