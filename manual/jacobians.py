"""The Jacobians of the recurrence, their products, and how gradients vanish and explode.

With the whole state flattened to S numbers per row, s_t (B, S), numerator layout:

    J_t     = ∂s_t/∂s_{t−1},          J[i, j] = ∂s_t[i]/∂s_{t−1}[j]                       (1)
    P_{t,k} = ∂s_t/∂s_k = J_t J_{t−1} ⋯ J_{k+1},   P_{t,t} = I     (newest factor on the left)   (2)
    P_{t,k} = P_{t,k+1} J_{k+1}                                                            (3)

`norms` are spectral: ‖P‖₂ is the largest factor by which any gradient grows on the way from t back
to k. What is known of it is ‖P_{t,k}‖ ≤ Π ‖J_j‖: the largest singular value of W_hh times max|φ′|
below 1 is sufficient for vanishing, and so the same above 1 is necessary for exploding (Pascanu,
Mikolov and Bengio 2013, section 2.1). Neither holds with eigenvalues in place of singular values,
as it is often quoted: a nilpotent W_hh, whose spectral radius is 0, can let gradients grow at every
step.

The long-run growth rates are the Lyapunov exponents λ_i = lim (1/T) log σ_i(P_{T,0}), computed
without forming the product, which would under- or overflow, by re-orthonormalising at each step
(Engelken, Wolf and Abbott 2023):

    Q_t R_t = J_t Q_{t−1},    λ_i = (1/T) Σ_t log |R_t[i, i]|                              (4)
"""

from typing import Any, cast

import numpy as np

from .arrays import Array, Arrays, Named
from .cell import Cell, jacobian_takes_rows_of_steps
from .linear import rows_of
from .through_time import bptt
from .through_time.sequences import CACHE


def flatten_state(state: Named) -> Array:
    """s (…, S): the parts of the state side by side, in their order."""
    return np.concatenate(list(state.values()), axis=-1)


def split_state(flat: Array, like: Named) -> Arrays:
    """The parts of the state, given their last sizes by `like`; inverse of `flatten_state`."""
    ends = np.cumsum([part.shape[-1] for part in like.values()])
    return dict(zip(like, np.split(flat, ends[:-1], axis=-1), strict=True))


def state_jacobians(cell: Cell, params: Named, tape: bptt.Tape) -> Array:
    """J_t for t = 1..T by (1): (T, B, S, S).

    From the cell's step_jacobian, or else from its step_backward.

    A row that has no step (the tape's mask) keeps its state: its Jacobian is the identity.
    """
    if not jacobian_takes_rows_of_steps(cell):
        return np.stack([state_jacobian(cell, params, tape, t) for t in range(tape.steps)])
    first = flatten_state({name: trajectory[0] for name, trajectory in tape.states.items()})
    # So many steps in one call that what it computes on the way stays in the processor's cache.
    together = max(1, 2 * CACHE // (first.nbytes * first.shape[-1]))
    step_jacobian = cast(Any, cell).step_jacobian
    parts: list[Array] = []
    for start in range(0, tape.steps, together):
        caches = tape.caches[start : start + together]
        stacked = bptt.stack_caches(caches)
        local = step_jacobian(params, {name: rows_of(value, 2) for name, value in stacked.items()})
        parts.append(local.reshape(len(caches), *first.shape, first.shape[-1]))
    found = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return found if tape.mask is None else _kept(tape.mask, found)


def state_jacobian(cell: Cell, params: Named, tape: bptt.Tape, t: int) -> Array:
    """J_{t+1} alone: (B, S, S)."""
    one_step = getattr(cell, "step_jacobian", None)
    cache = tape.caches[t]
    local = one_step(params, cache) if one_step else _rows_by_backward(cell, params, tape, t)
    return local if tape.mask is None else _kept(tape.mask[t], local)


def _kept(mask: Array, local: Array) -> Array:
    """The identity for rows that have no step."""
    return np.where(mask.astype(bool)[..., None, None], local, np.eye(local.shape[-1], dtype=local.dtype))


def _rows_by_backward(cell: Cell, params: Named, tape: bptt.Tape, t: int) -> Array:
    """J_t (B, S, S) row by row: pulling the unit cotangent e_i back through step t gives row i."""
    like = {name: trajectory[t] for name, trajectory in tape.states.items()}
    shape = flatten_state(like).shape
    rows: list[Array] = []
    for i in range(shape[-1]):
        unit = np.zeros(shape, dtype=next(iter(like.values())).dtype)
        unit[:, i] = 1
        rows.append(flatten_state(cell.step_backward(params, tape.caches[t], split_state(unit, like))[2]))
    return np.stack(rows, axis=1)


def products_to_end(jacobians: Array) -> Array:
    """P_{T,k} for k = 0..T−1 by (3): (T, B, S, S) from J (T, B, S, S)."""
    products = np.empty(jacobians.shape, jacobians.dtype)
    products[-1:] = jacobians[-1:]  # P_{T,T} = I
    for k in reversed(range(len(jacobians) - 1)):
        np.matmul(products[k + 1], jacobians[k], out=products[k])  # (3)
    return products


def product_norms(jacobians: Array) -> Array:
    """‖P_{t,k}‖₂: (T+1, T+1, B), entry [t, k]; 1 on the diagonal, NaN above it (k > t)."""
    steps, batch = jacobians.shape[:2]
    norms = np.full((steps + 1, steps + 1, batch), np.nan, dtype=jacobians.dtype)
    for t in range(steps + 1):
        norms[t, t] = 1
        if t:
            norms[t, :t] = np.linalg.norm(products_to_end(jacobians[:t]), ord=2, axis=(-2, -1))
    return norms


def singular_values(products: Array) -> Array:
    """Singular values of each product, largest first: (T, B, S)."""
    return np.linalg.svd(products, compute_uv=False)


def growth_rates(jacobians: Array) -> Array:
    """Lyapunov exponents λ (B, S) per step by (4), largest first.

    A direction that dies out is −inf where R is exactly zero, else what rounding leaves of it:
    about log ε for that step.
    """
    steps, batch, size = jacobians.shape[:3]
    frame = np.broadcast_to(np.eye(size, dtype=jacobians.dtype), (batch, size, size))
    total = np.zeros((batch, size), dtype=jacobians.dtype)
    for jacobian in jacobians:
        frame, upper = np.linalg.qr(jacobian @ frame)  # (4)
        with np.errstate(divide="ignore"):
            total += np.log(np.abs(np.diagonal(upper, axis1=-2, axis2=-1)))
    return -np.sort(-total / steps, axis=-1)


def contribution_norms(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named) -> Arrays:
    """‖(∂⁺s_k/∂W)ᵀ P_{t,k}ᵀ e_t‖ by parameter: (T+1, T+1), entry [t, k].

    NaN where there is no such term.

    The terms themselves add up to the gradient (the double sum of manual.through_time.bptt); steps
    are counted from 1.
    """
    size = tape.steps + 1
    norms: Arrays = {}
    for t, k, term in bptt.double_sum_terms(cell, params, tape, cotangents):
        for name, value in term.items():
            norms.setdefault(name, np.full((size, size), np.nan))[t, k] = np.linalg.norm(value)
    return norms
