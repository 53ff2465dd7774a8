"""Real-time recurrent learning (RTRL): the same gradient, forward in time.

Instead of sending each loss back, carry along how the state depends on everything so far. With the
*influence* M_t = ds_t/dW, the total derivative of the state by the weights,

    M_0 = 0,    M_t = J_t M_{t−1} + ∂⁺s_t/∂W                    (1)   ∂⁺: s_{t−1} held fixed
    N_0 = I,    N_t = J_t N_{t−1}                               (2)   the same for the initial state: N_t = P_{t,0}

the gradient is added up as the losses come in, with e_t = ∂L_t/∂s_t:

    ∂L/∂W = Σ_t M_tᵀ e_t                                        (3)
    ∂L/∂s_0 = Σ_t N_tᵀ e_t                                      (4)

(3) is the double sum of `manual.through_time.bptt` with the other sum inside: summing (1) gives M_t
= Σ_{k≤t} P_{t,k} ∂⁺s_k/∂W. So it equals BPTT's gradient exactly, and differs from it by rounding
alone.

Cost, for B rows, S numbers of state and |W| weights: B·S·|W| numbers kept, whatever T is, and
B·S²·|W| multiplications a step; BPTT keeps T·B·S numbers and takes B·|W| multiplications a step.
For a vanilla RNN, |W| ≈ H², that is the O(H⁴) a step of Williams and Zipser 1989 ("A learning
algorithm for continually running fully recurrent neural networks", eqs. 7–10).
"""

import numpy as np

from .. import jacobians
from ..arrays import Arrays, Named
from ..cell import Cell
from . import bptt


def gradients(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named) -> tuple[Arrays, Arrays]:
    """(∂L/∂W by parameter, ∂L/∂s_0 by part of the state (B, ·)), by (3) and (4)."""
    like = {name: trajectory[0] for name, trajectory in tape.states.items()}
    e = jacobians.flatten_state({name: cotangents[name] for name in tape.states})
    batch, size = e.shape[1:]
    influence = {name: np.zeros((batch, size, *params[name].shape), dtype=e.dtype) for name in _names(cell, params, tape)}
    of_start = np.broadcast_to(np.eye(size, dtype=e.dtype), (batch, size, size))
    d_params = {name: np.zeros_like(params[name]) for name in influence}
    d_start = np.zeros_like(e[0])
    for t in range(tape.steps):
        jacobian = jacobians.state_jacobian(cell, params, tape, t)
        at_once = immediate(cell, params, tape, t)
        influence = {  # (1)
            name: np.einsum("bij,bj...->bi...", jacobian, value) + at_once[name] for name, value in influence.items()
        }
        of_start = jacobian @ of_start  # (2)
        d_params = {  # (3)
            name: value + np.einsum("bi,bi...->...", e[t], influence[name]) for name, value in d_params.items()
        }
        d_start = d_start + np.einsum("bi,bij->bj", e[t], of_start)  # (4)
    return d_params, jacobians.split_state(d_start, like)


def _names(cell: Cell, params: Named, tape: bptt.Tape) -> list[str]:
    """The cell's own parameters, as its step_backward names them."""
    zero = {name: np.zeros_like(trajectory[0]) for name, trajectory in tape.states.items()}
    return list(cell.step_backward(params, tape.caches[0], zero)[0])


def immediate(cell: Cell, params: Named, tape: bptt.Tape, t: int) -> Arrays:
    """∂⁺s_{t+1}/∂W by parameter, (B, S, its shape).

    step_backward of each unit cotangent, one row and one unit at a time.
    """
    like = {name: trajectory[t] for name, trajectory in tape.states.items()}
    batch, size = jacobians.flatten_state(like).shape
    rows: list[list[Arrays]] = []
    for b in range(batch):
        rows.append([])
        for i in range(size):
            unit = np.zeros((batch, size), dtype=next(iter(like.values())).dtype)
            unit[b, i] = 1
            total = bptt.within(tape, t, jacobians.split_state(unit, like))
            rows[-1].append(cell.step_backward(params, tape.caches[t], total)[0])
    return {name: np.stack([np.stack([each[name] for each in row]) for row in rows]) for name in rows[0][0]}
