"""The long short-term memory cell (LSTM) with forget gate, in torch's convention.

Forward, for t = 1..T, columns as in the literature; a is the net input of all gates, stacked in torch's order i, f, g, o:

    a_t = W_xh x_t + W_hh h_{t−1} + b_h                         (1)   (4H,)
    i = σ(a_i),  f = σ(a_f),  g = tanh(a_g),  o = σ(a_o)        (2)
    c_t = f ⊙ c_{t−1} + i ⊙ g                                   (3)
    h_t = o ⊙ tanh(c_t)                                         (4)

Backward. Let dh_t, dc_t be total derivatives of the loss: its own at step t plus what comes back from step t+1. Both arrive at
every step, dc_t also where the loss reads h alone. Through (4) the cell state receives, before anything goes on,

    d̃c = dc_t + dh_t ⊙ o ⊙ (1 − tanh² c_t)                      (5)

and by the product rule on (4) and (3), then (2),

    δ_o = dh_t ⊙ tanh(c_t) ⊙ o ō                                (6)   ō = 1 − o = σ(−a_o), likewise ī and f̄: computed
    δ_i = d̃c ⊙ g ⊙ i ī                                          (7)   as 1 − o, it has no digits left once the gate
    δ_f = d̃c ⊙ c_{t−1} ⊙ f f̄                                    (8)   is open wide
    δ_g = d̃c ⊙ i ⊙ (1 − g²)                                     (9)
    dc_{t−1} = d̃c ⊙ f        (the highway: no weight in it)      (10)
    dh_{t−1} = W_hhᵀ δ_t,    δ_t = (δ_i, δ_f, δ_g, δ_o)         (11)
    dx_t     = W_xhᵀ δ_t                                        (12)
    dW_xh = Σ_t δ_t x_tᵀ,  dW_hh = Σ_t δ_t h_{t−1}ᵀ,  db_h = Σ_t δ_t   (13)

torch keeps two biases that only occur as their sum; each has the gradient db_h.

The Jacobian of one step on s = (h, c), from ∂a/∂h_{t−1} = W_hh and the slopes p = ∂c_t/∂a, q = ∂h_t/∂a at fixed c_{t−1}:

    ∂c_t/∂c_{t−1} = diag(f),                 ∂c_t/∂h_{t−1} = p_i W_hi + p_f W_hf + p_g W_hg            (14)
    ∂h_t/∂c_{t−1} = diag(o (1 − tanh² c) f), ∂h_t/∂h_{t−1} = o (1 − tanh² c) ∂c_t/∂h_{t−1} + q_o W_ho  (15)

with p_i = g i ī, p_f = c_{t−1} f f̄, p_g = i (1 − g²), q_o = tanh(c) o ō, each scaling rows.

Source: Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber and Cummins 2000.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from manual.activations import sigmoid_and_complement
from manual.cell import Array, Arrays, Halves, Shapes
from manual.linear import linear, linear_backward

GATES = ("i", "f", "g", "o")


@dataclass(frozen=True)
class LSTM(Halves):
    """c_t = f c_{t−1} + i g, h_t = o tanh c_t.

    Parameters W_xh (4H, I), W_hh (4H, H), b_h (4H,), gates stacked i, f, g, o; states h and c (B, H); x is (B, I), or tokens
    (B,).
    """

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh, W_hh and b_h."""
        rows = len(GATES) * hidden_size
        return {"W_xh": (rows, input_size), "W_hh": (rows, hidden_size), "b_h": (rows,)}

    def state_shapes(self, hidden_size: int) -> Shapes:
        """h, then c."""
        return {"h": (hidden_size,), "c": (hidden_size,)}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """∂s_t/∂s_{t−1} for s = (h, c) by (14) and (15): (B, 2H, 2H)."""
        (i, f, g, o), tanh_c = (cache[gate] for gate in GATES), cache["tanh_c"]
        W_hi, W_hf, W_hg, W_ho = np.split(params["W_hh"], len(GATES))
        p_i, p_f, p_g = g * i * cache["not_i"], cache["c_prev"] * f * cache["not_f"], i * (1 - g * g)
        through_c = o * (1 - tanh_c * tanh_c)
        c_by_h = p_i[:, :, None] * W_hi + p_f[:, :, None] * W_hf + p_g[:, :, None] * W_hg  # (14)
        h_by_h = through_c[:, :, None] * c_by_h + (tanh_c * o * cache["not_o"])[:, :, None] * W_ho  # (15)
        eye = np.eye(f.shape[-1], dtype=f.dtype)
        c_by_c, h_by_c = f[:, :, None] * eye, (through_c * f)[:, :, None] * eye  # (14), (15)
        return np.block([[h_by_h, h_by_c], [c_by_h, c_by_c]])

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """W_xh x + b_h: the part of a that does not wait for the state."""
        return linear(xp, params["W_xh"], x) + params["b_h"]

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t, "c": c_t}, cache) given projected = W_xh x_t + b_h."""
        a = projected + state["h"] @ params["W_hh"].T  # (1)
        size = state["h"].shape[-1]
        a_i, a_f, a_g, a_o = (a[:, k * size : (k + 1) * size] for k in range(len(GATES)))
        (i, not_i), (f, not_f), (o, not_o) = (sigmoid_and_complement(xp, a) for a in (a_i, a_f, a_o))  # (2)
        g = xp.tanh(a_g)  # (2)
        c = f * state["c"] + i * g  # (3)
        tanh_c = xp.tanh(c)
        gates = {"i": i, "f": f, "g": g, "o": o, "not_i": not_i, "not_f": not_f, "not_o": not_o}
        return {"h": o * tanh_c, "c": c}, {"x": x, "h_prev": state["h"], "c_prev": state["c"], **gates, "tanh_c": tanh_c}  # (4)

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """(δ_t (B, 4H), {"h": dh_{t−1}, "c": dc_{t−1}})."""
        (i, f, g, o), tanh_c, dh = (cache[gate] for gate in GATES), cache["tanh_c"], d_state["h"]
        dc = d_state["c"] + dh * o * (1 - tanh_c * tanh_c)  # (5)
        delta_o = dh * tanh_c * o * cache["not_o"]  # (6)
        delta_i = dc * g * i * cache["not_i"]  # (7)
        delta_f = dc * cache["c_prev"] * f * cache["not_f"]  # (8)
        delta_g = dc * i * (1 - g * g)  # (9)
        delta = np.concatenate([delta_i, delta_f, delta_g, delta_o], axis=-1)
        return delta, {"h": delta @ params["W_hh"], "c": dc * f}  # (11), (10)

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 4H); each weight gradient is one matrix product."""
        rows = delta.reshape(-1, delta.shape[-1])
        h_prev = cache["h_prev"].reshape(-1, params["W_hh"].shape[-1])
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (13), (12)
        return {"W_xh": d_W_xh, "W_hh": rows.T @ h_prev, "b_h": np.sum(rows, axis=0)}, d_x  # (13)
