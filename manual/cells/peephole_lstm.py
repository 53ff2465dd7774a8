"""The LSTM with peepholes: its gates see the cell state.

Forward, for t = 1..T (conventions: manual/__init__.py); the net input is that of
`manual.cells.lstm`, gates stacked i, f, g, o, and p_i, p_f, p_o are vectors, so that each unit's
gates see its own cell only:

    a_t = W_xh x_t + W_hh h_{t−1} + b_h                         (1)   (4H,)
    i = σ(a_i + p_i ⊙ c_{t−1}),  f = σ(a_f + p_f ⊙ c_{t−1}),  g = tanh(a_g)    (2)
    c_t = f ⊙ c_{t−1} + i ⊙ g                                   (3)
    o = σ(a_o + p_o ⊙ c_t)         (the new cell state)         (4)
    h_t = o ⊙ tanh(c_t)                                         (5)

Backward, with dh_t, dc_t the total derivatives that arrive at step t, and ī = 1 − i = σ(−…),
likewise f̄ and ō:

    δ_o = dh_t ⊙ tanh(c_t) ⊙ o ō                                (6)
    d̃c = dc_t + dh_t ⊙ o ⊙ (1 − tanh² c_t) + p_o ⊙ δ_o          (7)   c_t reaches h_t through (5) and, by way of o, through (4)
    δ_i = d̃c ⊙ g ⊙ i ī                                          (8)
    δ_f = d̃c ⊙ c_{t−1} ⊙ f f̄                                    (9)
    δ_g = d̃c ⊙ i ⊙ (1 − g²)                                     (10)
    dc_{t−1} = d̃c ⊙ f + p_i ⊙ δ_i + p_f ⊙ δ_f                   (11)  the highway, and the two gates that saw c_{t−1}
    dh_{t−1} = W_hhᵀ δ_t,   dx_t = W_xhᵀ δ_t                    (12)
    dW_xh = Σ_t δ_t x_tᵀ,  dW_hh = Σ_t δ_t h_{t−1}ᵀ,  db_h = Σ_t δ_t    (13)
    dp_i = Σ_t δ_i ⊙ c_{t−1},  dp_f = Σ_t δ_f ⊙ c_{t−1},  dp_o = Σ_t δ_o ⊙ c_t    (14)   c_t, not c_{t−1}, for o

The Jacobian of one step on s = (h, c), with the slopes s_i = g i ī, s_f = c_{t−1} f f̄, s_g = i (1
− g²), q = tanh(c) o ō scaling rows:

    ∂c_t/∂c_{t−1} = diag(f + s_i p_i + s_f p_f),    ∂c_t/∂h_{t−1} = s_i W_hi + s_f W_hf + s_g W_hg     (15)
    ∂h_t/∂s_{t−1} = (o (1 − tanh² c) + q p_o) ∂c_t/∂s_{t−1} + (q W_ho, 0)                              (16)

Source: Gers, Schraudolph and Schmidhuber 2002, "Learning precise timing with LSTM recurrent
networks", section 3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import sigmoid_and_complement
from ..arrays import Array, Arrays
from ..cell import Halves, Shapes
from ..linear import linear, linear_backward

GATES = ("i", "f", "g", "o")


@dataclass(frozen=True)
class PeepholeLSTM(Halves):
    """The LSTM whose gates i and f see c_{t−1}, and whose gate o sees c_t.

    Parameters W_xh (4H, I), W_hh (4H, H), b_h (4H,), gates stacked i, f, g, o, and p_i, p_f, p_o
    (H,); states h and c (B, H); x is (B, I), or tokens (B,).
    """

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of the LSTM's parameters and of the three peepholes."""
        rows = len(GATES) * hidden_size
        stacked = {"W_xh": (rows, input_size), "W_hh": (rows, hidden_size), "b_h": (rows,)}
        return {**stacked, "p_i": (hidden_size,), "p_f": (hidden_size,), "p_o": (hidden_size,)}

    def state_shapes(self, hidden_size: int) -> Shapes:
        """h, then c."""
        return {"h": (hidden_size,), "c": (hidden_size,)}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """∂s_t/∂s_{t−1} for s = (h, c) by (15) and (16): (B, 2H, 2H)."""
        (i, f, g, o), tanh_c = (cache[gate] for gate in GATES), cache["tanh_c"]
        W_hi, W_hf, W_hg, W_ho = np.split(params["W_hh"], len(GATES))
        s_i, s_f, s_g = (
            g * i * cache["not_i"],
            cache["c_prev"] * f * cache["not_f"],
            i * (1 - g * g),
        )
        q = tanh_c * o * cache["not_o"]
        c_by_c = (f + s_i * params["p_i"] + s_f * params["p_f"])[:, :, None] * np.eye(  # (15)
            f.shape[-1], dtype=f.dtype
        )
        c_by_h = s_i[:, :, None] * W_hi + s_f[:, :, None] * W_hf + s_g[:, :, None] * W_hg  # (15)
        through_c = (o * (1 - tanh_c * tanh_c) + q * params["p_o"])[:, :, None]
        return np.block(  # (16)
            [[through_c * c_by_h + q[:, :, None] * W_ho, through_c * c_by_c], [c_by_h, c_by_c]]
        )

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """W_xh x + b_h: the part of a that does not wait for the state."""
        return linear(xp, params["W_xh"], x) + params["b_h"]

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t, "c": c_t}, cache) given projected = W_xh x_t + b_h."""
        h_prev, c_prev = state["h"], state["c"]
        a = projected + h_prev @ params["W_hh"].T  # (1)
        size = c_prev.shape[-1]
        a_i, a_f, a_g, a_o = (a[:, k * size : (k + 1) * size] for k in range(len(GATES)))
        i, not_i = sigmoid_and_complement(xp, a_i + params["p_i"] * c_prev)  # (2)
        f, not_f = sigmoid_and_complement(xp, a_f + params["p_f"] * c_prev)  # (2)
        g = xp.tanh(a_g)  # (2)
        c = f * c_prev + i * g  # (3)
        o, not_o = sigmoid_and_complement(xp, a_o + params["p_o"] * c)  # (4)
        tanh_c = xp.tanh(c)
        gates = {"i": i, "f": f, "g": g, "o": o, "not_i": not_i, "not_f": not_f, "not_o": not_o}
        return {"h": o * tanh_c, "c": c}, {  # (5)
            "x": x,
            "h_prev": h_prev,
            "c_prev": c_prev,
            **gates,
            "c": c,
            "tanh_c": tanh_c,
        }

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """(δ_t (B, 4H), {"h": dh_{t−1}, "c": dc_{t−1}})."""
        (i, f, g, o), tanh_c, dh = (cache[gate] for gate in GATES), cache["tanh_c"], d_state["h"]
        delta_o = dh * tanh_c * o * cache["not_o"]  # (6)
        dc = d_state["c"] + dh * o * (1 - tanh_c * tanh_c) + params["p_o"] * delta_o  # (7)
        delta_i = dc * g * i * cache["not_i"]  # (8)
        delta_f = dc * cache["c_prev"] * f * cache["not_f"]  # (9)
        delta_g = dc * i * (1 - g * g)  # (10)
        delta = np.concatenate([delta_i, delta_f, delta_g, delta_o], axis=-1)
        d_c_prev = dc * f + params["p_i"] * delta_i + params["p_f"] * delta_f  # (11)
        return delta, {"h": delta @ params["W_hh"], "c": d_c_prev}  # (12)

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 4H)."""
        size = params["W_hh"].shape[-1]
        rows = delta.reshape(-1, delta.shape[-1])
        h_prev, c_prev, c = (cache[name].reshape(-1, size) for name in ("h_prev", "c_prev", "c"))
        delta_i, delta_f, _, delta_o = (rows[:, k * size : (k + 1) * size] for k in range(len(GATES)))
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (13), (12)
        d_params = {"W_xh": d_W_xh, "W_hh": rows.T @ h_prev, "b_h": np.sum(rows, axis=0)}  # (13)
        d_params |= {  # (14)
            "p_i": np.sum(delta_i * c_prev, axis=0),
            "p_f": np.sum(delta_f * c_prev, axis=0),
        }
        return {**d_params, "p_o": np.sum(delta_o * c, axis=0)}, d_x  # (14)
