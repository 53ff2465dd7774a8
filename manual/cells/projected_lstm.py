"""The LSTM with a projected output: h and c differ in size.

Forward, for t = 1..T (conventions: manual/__init__.py); h is (P,), c and the gates are (H,), the
net input stacked i, f, g, o:

    a_t = W_xh x_t + W_hh h_{t−1} + b_h                         (1)   (4H,), W_hh is (4H, P)
    i = σ(a_i),  f = σ(a_f),  g = tanh(a_g),  o = σ(a_o)        (2)
    c_t = f ⊙ c_{t−1} + i ⊙ g                                   (3)
    m_t = o ⊙ tanh(c_t)                                         (4)   (H,)
    h_t = W_hr m_t                                              (5)   W_hr is (P, H): what recurs is the projection

Backward, with dh_t (P,), dc_t (H,) the total derivatives that arrive at step t, and ī = 1 − i =
σ(−a_i), likewise f̄ and ō:

    dm = W_hrᵀ dh_t                                             (6)
    d̃c = dc_t + dm ⊙ o ⊙ (1 − tanh² c_t)                        (7)
    δ_o = dm ⊙ tanh(c_t) ⊙ o ō                                  (8)
    δ_i = d̃c ⊙ g ⊙ i ī,   δ_f = d̃c ⊙ c_{t−1} ⊙ f f̄,   δ_g = d̃c ⊙ i ⊙ (1 − g²)    (9)
    dc_{t−1} = d̃c ⊙ f,    dh_{t−1} = W_hhᵀ δ_t,    dx_t = W_xhᵀ δ_t               (10)
    dW_xh = Σ_t δ_t x_tᵀ,  dW_hh = Σ_t δ_t h_{t−1}ᵀ,  db_h = Σ_t δ_t              (11)
    dW_hr = Σ_t dh_t m_tᵀ                                       (12)  dh_t is the total derivative, the carry included

The Jacobian of one step on s = (h, c), S = P + H, with p_i = g i ī, p_f = c_{t−1} f f̄, p_g = i (1
− g²), q = tanh(c) o ō scaling rows:

    ∂c_t/∂c_{t−1} = diag(f),    ∂c_t/∂h_{t−1} = p_i W_hi + p_f W_hf + p_g W_hg                         (13)
    ∂h_t/∂s_{t−1} = W_hr [o (1 − tanh² c) ∂c_t/∂s_{t−1} + (q W_ho, 0)]                                 (14)

Source: Sak, Senior and Beaufays 2014, "Long short-term memory based recurrent neural network
architectures", section 2.2; torch's nn.LSTM(proj_size=P).
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
class ProjectedLSTM(Halves):
    """The LSTM with h_t = W_hr (o ⊙ tanh c_t).

    Parameters W_xh (4H, I), W_hh (4H, P), b_h (4H,), gates stacked i, f, g, o, and W_hr (P, H);
    states h (B, P) and c (B, H); x is (B, I), or tokens (B,). P is projection_size, or half of H,
    rounded up, for None. Raises ValueError where it is not 1 … H.
    """

    projection_size: int | None = None

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh, W_hh, b_h and W_hr."""
        rows, size = len(GATES) * hidden_size, self._projected(hidden_size)
        return {
            "W_xh": (rows, input_size),
            "W_hh": (rows, size),
            "b_h": (rows,),
            "W_hr": (size, hidden_size),
        }

    def state_shapes(self, hidden_size: int) -> Shapes:
        """h (P,), then c (H,)."""
        return {"h": (self._projected(hidden_size),), "c": (hidden_size,)}

    def _projected(self, hidden_size: int) -> int:
        size = (hidden_size + 1) // 2 if self.projection_size is None else self.projection_size
        if not 1 <= size <= hidden_size:
            raise ValueError(f"projection_size is 1 … {hidden_size}, the hidden size, not {size}")
        return size

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """∂s_t/∂s_{t−1} for s = (h, c) by (13) and (14): (B, P+H, P+H)."""
        (i, f, g, o), tanh_c, W_hr = (
            (cache[gate] for gate in GATES),
            cache["tanh_c"],
            params["W_hr"],
        )
        W_hi, W_hf, W_hg, W_ho = np.split(params["W_hh"], len(GATES))
        p_i, p_f, p_g = (
            g * i * cache["not_i"],
            cache["c_prev"] * f * cache["not_f"],
            i * (1 - g * g),
        )
        c_by_h = p_i[:, :, None] * W_hi + p_f[:, :, None] * W_hf + p_g[:, :, None] * W_hg  # (13)
        c_by_c = f[:, :, None] * np.eye(f.shape[-1], dtype=f.dtype)  # (13)
        through_c = (o * (1 - tanh_c * tanh_c))[:, :, None]
        m_by_h = through_c * c_by_h + (tanh_c * o * cache["not_o"])[:, :, None] * W_ho
        return np.block([[W_hr @ m_by_h, W_hr @ (through_c * c_by_c)], [c_by_h, c_by_c]])  # (14)

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """W_xh x + b_h: the part of a that does not wait for the state."""
        return linear(xp, params["W_xh"], x) + params["b_h"]

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t, "c": c_t}, cache) given projected = W_xh x_t + b_h."""
        a = projected + state["h"] @ params["W_hh"].T  # (1)
        size = state["c"].shape[-1]
        a_i, a_f, a_g, a_o = (a[:, k * size : (k + 1) * size] for k in range(len(GATES)))
        (i, not_i), (f, not_f), (o, not_o) = (  # (2)
            sigmoid_and_complement(xp, a) for a in (a_i, a_f, a_o)
        )
        g = xp.tanh(a_g)  # (2)
        c = f * state["c"] + i * g  # (3)
        tanh_c = xp.tanh(c)
        m = o * tanh_c  # (4)
        gates = {"i": i, "f": f, "g": g, "o": o, "not_i": not_i, "not_f": not_f, "not_o": not_o}
        cache = {
            "x": x,
            "h_prev": state["h"],
            "c_prev": state["c"],
            **gates,
            "tanh_c": tanh_c,
            "m": m,
        }
        return {"h": m @ params["W_hr"].T, "c": c}, cache  # (5)

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """((δ_t, dh_t) side by side (B, 4H+P), {"h": dh_{t−1}, "c": dc_{t−1}})."""
        (i, f, g, o), tanh_c = (cache[gate] for gate in GATES), cache["tanh_c"]
        dm = d_state["h"] @ params["W_hr"]  # (6)
        dc = d_state["c"] + dm * o * (1 - tanh_c * tanh_c)  # (7)
        delta_o = dm * tanh_c * o * cache["not_o"]  # (8)
        delta_i, delta_f = (  # (9)
            dc * g * i * cache["not_i"],
            dc * cache["c_prev"] * f * cache["not_f"],
        )
        delta_g = dc * i * (1 - g * g)  # (9)
        delta = np.concatenate([delta_i, delta_f, delta_g, delta_o], axis=-1)
        return np.concatenate([delta, d_state["h"]], axis=-1), {  # (10)
            "h": delta @ params["W_hh"],
            "c": dc * f,
        }

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 4H+P) = (δ, dh)."""
        width, size = params["W_hh"].shape
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta[..., :width])  # (11), (10)
        rows = delta.reshape(-1, delta.shape[-1])
        gates, dh = rows[:, :width], rows[:, width:]
        h_prev, m = cache["h_prev"].reshape(-1, size), cache["m"].reshape(-1, width // len(GATES))
        d_params = {"W_xh": d_W_xh, "W_hh": gates.T @ h_prev, "b_h": np.sum(gates, axis=0)}  # (11)
        return {**d_params, "W_hr": dh.T @ m}, d_x  # (12)
