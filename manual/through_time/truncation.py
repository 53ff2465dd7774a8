"""Windowed truncation: every loss goes back at most K steps.

The double sum of `manual.through_time.bptt`, its inner sum cut at k ≥ t − K, needs at each step k

    d_k = Σ_{t=k..min(k+K, T)} P_{t,k}ᵀ e_t,     P_{t,k} = J_t ⋯ J_{k+1}                  (1)
    ∂L/∂W = Σ_k (∂⁺s_k/∂W)ᵀ d_k,     ∂L/∂s_0 = J_1ᵀ d_1                                   (2)

The popular code goes back K + 1 steps from every loss, and forms a weight gradient at each: O(T·K)
of all. Here the d_k come first, and (2) is formed once a step, as in the untruncated walk. For the
d_k there are two ways; neither subtracts.

By ages. The terms of (1) are carried back side by side, one for each age t − k = 0..K; before each
step the oldest leaves and a new one enters:

    D_k[0] = e_k,    D_k[a] = J_{k+1}ᵀ D_{k+1}[a−1],    d_k = Σ_{a=0..K} D_k[a]           (3)

K + 1 vectors go through each step: O(T·K) in Jᵀv, and in nothing else.

By blocks of K + 1 steps (the sliding-window sum of van Herk 1992 and of Gil and Werman 1993, here
for products that do not commute). The window of k ends in the block after k's own; with b the last
step of k's block,

    d_k = Σ_{t=k..b} P_{t,k}ᵀ e_t  +  P_{b,k}ᵀ Σ_{t=b+1..min(k+K,T)} P_{t,b}ᵀ e_t         (4)

for k = 1..T; what is told as d_0 is ∂L/∂s_0 by (2), in (3) and (4) alike. The first sum is the
plain walk, started anew at each block's end; the second is a running sum over the next block. Both
products, P_{b,k} = P_{b,k+1} J_{k+1} and P_{t,b} = J_t P_{t−1,b}, grow by one factor a step: O(T)
products of (S, S) matrices whatever K is, cheaper than (3) once K is several times S.

K ≥ T − 1 cuts nothing, and is the plain walk itself. Source of the truncation: Williams and Peng
1990, BPTT(h).
"""

import numpy as np

from .. import jacobians
from ..arrays import Array, Arrays, Named
from ..cell import Cell, HoistedCell
from . import bptt

# How many times S the window must be before two products of (S, S) matrices a step cost less than K
# vectors.
BLOCKS_PAY = 4


def backward(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named, window: int) -> bptt.SequenceGradients:
    """Gradients by (2), from cotangents e_1..e_T: name → (T, B, ·).

    Raises ValueError for a negative window.
    """
    if cuts_nothing(tape, window):
        return bptt.backward(cell, params, tape, cotangents)
    totals = windowed_totals(cell, params, tape, cotangents, window)
    if not isinstance(cell, HoistedCell):
        return bptt.added_up(bptt.shares_of_totals(cell, params, tape, totals))
    steps = range(tape.steps)
    inside = [bptt.within(tape, t, {name: value[t + 1] for name, value in totals.items()}) for t in steps]
    delta = np.stack([cell.delta(params, tape.caches[t], inside[t])[0] for t in steps])
    d_params, d_x = cell.accumulate(params, bptt.stack_caches(tape.caches), delta)  # (2)
    return bptt.SequenceGradients(d_params, d_x, totals, delta)


def shares(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named, window: int) -> bptt.SequenceGradients:
    """The same with each step's term of (2) by itself, from the plain step_backward.

    The params found are (T, their shape).
    """
    if cuts_nothing(tape, window):
        return bptt.shares(cell, params, tape, cotangents)
    return bptt.shares_of_totals(cell, params, tape, windowed_totals(cell, params, tape, cotangents, window))


def cuts_nothing(tape: bptt.Tape, window: int) -> bool:
    """Whether every loss reaches s_0 within its window."""
    if window < 0:
        raise ValueError(f"a window of {window} steps: at least 0, the step of the loss itself")
    return window >= tape.steps - 1


def windowed_totals(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named, window: int) -> Arrays:
    """d_1..d_T by (1) and d_0 by (2).

    Each is (T+1, B, ·), by ages or by blocks, whichever costs less.
    """
    size = sum(trajectory.shape[-1] for trajectory in tape.states.values())
    by_blocks = hasattr(cell, "step_jacobian") and window > BLOCKS_PAY * size
    return (totals_by_blocks if by_blocks else totals_by_ages)(cell, params, tape, cotangents, window)


def totals_by_ages(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named, window: int) -> Arrays:
    """d_1..d_T by (3), and d_0 by (2)."""
    ages: Arrays = {name: value[:0] for name, value in tape.states.items()}  # (age, B, ·)
    totals: list[Arrays] = []
    for t in reversed(range(tape.steps)):
        ages = {  # (3)
            name: np.concatenate([cotangents[name][t][None], old[:window]]) for name, old in ages.items()
        }
        totals.append({name: value.sum(axis=0) for name, value in ages.items()})
        ages = bptt.past(tape, t, _pull_back(cell, params, tape.caches[t], bptt.within(tape, t, ages)), ages)
    totals.append({name: value.sum(axis=0) for name, value in ages.items()})  # (2)
    return {name: np.stack([total[name] for total in reversed(totals)]) for name in tape.states}


def _pull_back(cell: Cell, params: Named, cache: Arrays, ages: Arrays) -> Arrays:
    """Jᵀ of one step, applied to every age."""
    if isinstance(cell, HoistedCell):
        return cell.delta(params, cache, ages)[1]
    count = len(next(iter(ages.values())))
    pulled = [cell.step_backward(params, cache, {name: value[age] for name, value in ages.items()})[2] for age in range(count)]
    return {name: np.stack([each[name] for each in pulled]) for name in ages}


def totals_by_blocks(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named, window: int) -> Arrays:
    """d_1..d_T by (4), and d_0 by (2)."""
    local = jacobians.state_jacobians(cell, params, tape)  # J_{t+1} at index t
    e = jacobians.flatten_state({name: cotangents[name] for name in tape.states})
    totals = np.empty((tape.steps + 1, *e.shape[1:]), dtype=e.dtype)
    for first in range(0, tape.steps, window + 1):
        end = min(first + window + 1, tape.steps)  # the block is the steps first+1 .. end
        ahead = _running_sums(local[end:], e[end:], window)
        product, own = (
            np.broadcast_to(np.eye(e.shape[-1], dtype=e.dtype), local.shape[1:]),
            np.zeros_like(e[0]),
        )
        for k in range(end, first, -1):
            if k < end:
                own, product = _transposed(local[k], own), product @ local[k]
            own = own + e[k - 1]
            # How far the window reaches into the next block.
            beyond = min(k + window - end, len(ahead) - 1)
            totals[k] = own + _transposed(product, ahead[beyond])  # (4)
    totals[0] = _transposed(local[0], totals[1])  # (2)
    like = {name: trajectory[0] for name, trajectory in tape.states.items()}
    return jacobians.split_state(totals, like)


def _running_sums(local: Array, e: Array, count: int) -> list[Array]:
    """[Σ_{t=b+1..b+j} P_{t,b}ᵀ e_t for j = 0, 1, …, count], fewer at the end of the sequence.

    Index 0 of both follows b.
    """
    sums = [np.zeros(e.shape[1:], dtype=e.dtype)]
    product = np.broadcast_to(np.eye(e.shape[-1], dtype=e.dtype), (*e.shape[1:], e.shape[-1]))
    for jacobian, cotangent in zip(local[:count], e[:count], strict=True):
        product = jacobian @ product
        sums.append(sums[-1] + _transposed(product, cotangent))
    return sums


def _transposed(matrix: Array, vector: Array) -> Array:
    """matrixᵀ vector for each row of the batch: (B, S)."""
    return np.einsum("bij,bi->bj", matrix, vector)
