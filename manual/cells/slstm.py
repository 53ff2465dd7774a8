"""The sLSTM: an LSTM with exponential gates, a normaliser n and a stabiliser m.

Forward, for t = 1..T (conventions: manual/__init__.py), net input stacked i, f, z, o:

    a_t = W_xh x_t + W_hh h_{t−1} + b_h                         (1)   (4H,)
    p = a_i,   q = log σ(a_f) + m_{t−1}                         (2)   logarithms of the input and of the forget gate
    m_t = max(q, p)                                             (3)   the stabiliser
    i = exp(p − m_t),   f = exp(q − m_t)                        (4)   both at most 1, and one of them is 1
    z = tanh(a_z),   o = σ(a_o)                                 (5)
    c_t = f ⊙ c_{t−1} + i ⊙ z                                   (6)
    n_t = f ⊙ n_{t−1} + i                                       (7)
    h_t = o ⊙ c_t / n_t                                         (8)

What is meant are the cell e^m c and the normaliser e^m n: m only keeps their floating-point values
in range, and cancels in (8). A loss that reads h alone therefore has a gradient that does not
depend on how (3) is differentiated, at a tie neither. As parts of the state, c, n and m can each be
read, and then (3) counts: w = 1 where q ≥ p, else 0. At a tie, torch.maximum and jnp.maximum give ½
to each; here all goes to q.

Backward, with dh, dc, dn, dm the total derivatives that arrive at step t, and ō = 1 − o = σ(−a_o),
f̄ = σ(−a_f) = d log σ(a_f)/d a_f:

    δ_o = dh ⊙ (c_t/n_t) ⊙ o ō                                  (9)
    d̃c = dc + dh ⊙ o / n_t,    d̃n = dn − dh ⊙ h_t / n_t         (10)
    di = d̃c ⊙ z + d̃n,          df = d̃c ⊙ c_{t−1} + d̃n ⊙ n_{t−1}    (11)
    d̃m = dm − di ⊙ i − df ⊙ f                                   (12)  by (4)
    dp = di ⊙ i + (1 − w) ⊙ d̃m,   dq = df ⊙ f + w ⊙ d̃m          (13)  by (4) and (3)
    δ_i = dp,   δ_f = dq ⊙ f̄,   δ_z = d̃c ⊙ i ⊙ (1 − z²)         (14)
    dm_{t−1} = dq,   dc_{t−1} = d̃c ⊙ f,   dn_{t−1} = d̃n ⊙ f     (15)
    dh_{t−1} = W_hhᵀ δ_t,   dx_t = W_xhᵀ δ_t                    (16)
    dW_xh = Σ_t δ_t x_tᵀ,  dW_hh = Σ_t δ_t h_{t−1}ᵀ,  db_h = Σ_t δ_t    (17)

The Jacobian of one step on s = (h, c, n, m). Let Δ be the row of ∂(p − q): in h, W_i − f̄ W_f; in
m, −1. By (3) p − m_t = w (p − q) and q − m_t = −(1 − w)(p − q), so that, with y = w i, ȳ = (1 − w)
f,

    ∂m_t = w ∂q + (1 − w) ∂p,     ∂c_t = f ∂c_{t−1} + (y z − ȳ c_{t−1}) Δ + i (1 − z²) W_z ∂h_{t−1}          (18)
    ∂n_t = f ∂n_{t−1} + (y − ȳ n_{t−1}) Δ,     ∂h_t = (o ∂c_t − h_t ∂n_t) / n_t + (c_t/n_t) o ō W_o ∂h_{t−1}    (19)

Source: Beck et al. 2024, "xLSTM: extended long short-term memory", eqs. 8–17, with the forget gate
σ; one head.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import sigmoid_and_complement, softplus
from ..arrays import Array, Arrays
from ..cell import Halves, Shapes
from ..linear import linear, linear_backward

GATES = ("i", "f", "z", "o")


@dataclass(frozen=True)
class SLSTM(Halves):
    """h_t = o c_t / n_t with exponential input gate, forget gate σ, and stabiliser m.

    Parameters W_xh (4H, I), W_hh (4H, H), b_h (4H,), stacked i, f, z, o; states h, c, n, m (B, H);
    x is (B, I), or tokens (B,). `initialise` draws n_0 positive, as a sum of gates is.
    """

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh, W_hh and b_h."""
        rows = len(GATES) * hidden_size
        return {"W_xh": (rows, input_size), "W_hh": (rows, hidden_size), "b_h": (rows,)}

    def state_shapes(self, hidden_size: int) -> Shapes:
        """h, c, n, m."""
        return dict.fromkeys(("h", "c", "n", "m"), (hidden_size,))

    def initialise(self, rng: "np.random.Generator", input_size: int, hidden_size: int, batch: int) -> Arrays:
        """n_0 between ½ and 2."""
        del input_size
        return {"n_0": rng.uniform(0.5, 2, size=(batch, hidden_size))}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """∂s_t/∂s_{t−1} for s = (h, c, n, m) by (18) and (19): (B, 4H, 4H)."""
        i, f, z, o, w, v, n = (cache[name][:, :, None] for name in ("i", "f", "z", "o", "w", "v", "n"))
        c_prev, n_prev, not_f, not_o = (cache[name][:, :, None] for name in ("c_prev", "n_prev", "not_f", "not_o"))
        W_i, W_f, W_z, W_o = np.split(params["W_hh"], len(GATES))
        eye = np.eye(f.shape[1], dtype=f.dtype)
        none = np.zeros_like(f * eye)
        by_state = np.concatenate  # columns: h, c, n, m
        gap = by_state([W_i - not_f * W_f, none, none, none - eye], axis=-1)  # Δ
        m = by_state([w * not_f * W_f + (1 - w) * W_i, none, none, w * eye], axis=-1)  # (18)
        c = (  # (18)
            by_state([i * (1 - z * z) * W_z, f * eye, none, none], axis=-1) + (w * i * z - (1 - w) * f * c_prev) * gap
        )
        d_n = (  # (19)
            by_state([none, none, f * eye, none], axis=-1) + (w * i - (1 - w) * f * n_prev) * gap
        )
        h = (o * c - o * v * d_n) / n + by_state(  # (19)
            [v * o * not_o * W_o, none, none, none], axis=-1
        )
        return np.concatenate([h, c, d_n, m], axis=-2)

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """W_xh x + b_h: the part of a that does not wait for the state."""
        return linear(xp, params["W_xh"], x) + params["b_h"]

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t, "c": c_t, "n": n_t, "m": m_t}, cache) given projected = W_xh x_t + b_h."""
        a = projected + state["h"] @ params["W_hh"].T  # (1)
        size = state["h"].shape[-1]
        p, a_f, a_z, a_o = (a[:, k * size : (k + 1) * size] for k in range(len(GATES)))
        q = state["m"] - softplus(xp, -a_f)  # (2): log σ(a) = −log(1 + e^−a)
        to_q = q >= p
        m = xp.where(to_q, q, p)  # (3)
        i, f = xp.exp(p - m), xp.exp(q - m)  # (4)
        z, (o, not_o), (_, not_f) = (  # (5)
            xp.tanh(a_z),
            sigmoid_and_complement(xp, a_o),
            sigmoid_and_complement(xp, a_f),
        )
        c, n = f * state["c"] + i * z, f * state["n"] + i  # (6), (7)
        v = c / n
        gates = {
            "i": i,
            "f": f,
            "z": z,
            "o": o,
            "not_f": not_f,
            "not_o": not_o,
            "w": xp.astype(to_q, p.dtype),
        }
        before = {"h_prev": state["h"], "c_prev": state["c"], "n_prev": state["n"]}
        return {"h": o * v, "c": c, "n": n, "m": m}, {  # (8)
            "x": x,
            **before,
            **gates,
            "v": v,
            "n": n,
        }

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """(δ_t (B, 4H), {"h", "c", "n", "m": the total derivatives one step before})."""
        i, f, z, o, w, v, n = (cache[name] for name in ("i", "f", "z", "o", "w", "v", "n"))
        dh = d_state["h"]
        delta_o = dh * v * o * cache["not_o"]  # (9)
        dc, dn = d_state["c"] + dh * o / n, d_state["n"] - dh * o * v / n  # (10)
        di, df = dc * z + dn, dc * cache["c_prev"] + dn * cache["n_prev"]  # (11)
        dm = d_state["m"] - di * i - df * f  # (12)
        dp, dq = di * i + (1 - w) * dm, df * f + w * dm  # (13)
        delta = np.concatenate(  # (14)
            [dp, dq * cache["not_f"], dc * i * (1 - z * z), delta_o], axis=-1
        )
        return delta, {"h": delta @ params["W_hh"], "c": dc * f, "n": dn * f, "m": dq}  # (16), (15)

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 4H)."""
        rows = delta.reshape(-1, delta.shape[-1])
        h_prev = cache["h_prev"].reshape(-1, params["W_hh"].shape[-1])
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (17), (16)
        return {"W_xh": d_W_xh, "W_hh": rows.T @ h_prev, "b_h": np.sum(rows, axis=0)}, d_x  # (17)
