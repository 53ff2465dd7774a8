"""jax as a contender in memory.

The gradient of a long run by lax.scan, and by a scan of scans under jax.checkpoint.

`loss_of` reads h at every step through given weights, L = Σ_t ⟨C_t, h_t⟩. Plain, the scan leaves
what its way back needs of every step. Checkpointed, an outer scan goes over segments, each an inner
scan that jax.checkpoint computes once more: kept are the states at the segments' borders, and what
one segment leaves. Cells and their shapes are those of reference.by_jax.jax_throughput.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as xp
import numpy as np

from ..arrays import Array, Arrays, Named
from .jax_throughput import STEPS


def _scanned(cell: str, own: Named, state: Any, at: Any) -> tuple[Any, Any]:
    """(the last state, the loss of these steps) from x and C of so many steps.

    What does not recur is computed within the step.
    """

    def body(before: Any, step: Any) -> tuple[Any, Any]:
        x, weights = step
        new = STEPS[cell](own, before, x @ own["W_xh"].T + own["b_x" if cell == "gru" else "b_h"])
        return new, xp.sum(weights * new[0])

    last, losses = jax.lax.scan(body, state, at)
    return last, xp.sum(losses)


def loss_of(cell: str, variables: Named, weights: Any, segment: int | None) -> Any:
    """Σ_t ⟨C_t, h_t⟩ of x (T, B, I) for weights C (T, B, H).

    In segments of so many steps, the rest after them.
    """
    at = (variables["x"], weights)
    state = tuple(variables[f"{name}_0"] for name in (("h", "c") if cell == "lstm" else ("h",)))
    if segment is None:
        return _scanned(cell, variables, state, at)[1]
    count = len(weights) // segment
    own = {name: value for name, value in variables.items() if name != "x"}
    one = jax.checkpoint(lambda before, steps: _scanned(cell, own, before, steps))
    whole = tuple(each[: count * segment].reshape(count, segment, *each.shape[1:]) for each in at)
    last, losses = jax.lax.scan(one, state, whole)
    return xp.sum(losses) + one(last, tuple(each[count * segment :] for each in at))[1]


def gradient(
    cell: str, variables: Named, weights: Array, checkpointed: bool
) -> Callable[[], Arrays]:
    """A function of no arguments: the gradient for every variable, in float64.

    In segments of √T steps if checkpointed.
    """
    segment = math.isqrt(len(weights)) if checkpointed else None
    function = jax.jit(jax.grad(lambda leaves, C: loss_of(cell, leaves, C, segment)))
    with jax.enable_x64(True):
        leaves, C = (
            {name: xp.asarray(value) for name, value in variables.items()},
            xp.asarray(weights),
        )

    def run() -> Arrays:
        with jax.enable_x64(True):
            found = jax.block_until_ready(function(leaves, C))
            return {name: np.asarray(value) for name, value in found.items()}

    return run
