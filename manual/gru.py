"""The gated recurrent unit (GRU), in both of its two forms.

Forward, for t = 1..T, columns as in the literature; gates stacked in torch's order r, z, n, and the products with x and with
the state kept apart, because the two forms join them differently:

    u_t = W_xh x_t + b_x                                        (1)   (3H,)
    v_t = W_hh h_{t−1} + b_hh                                   (2)   (3H,)
    r = σ(u_r + v_r),   z = σ(u_z + v_z)                        (3)
    reset after the product (torch, cuDNN, Keras ≥ 2):
        n = tanh(u_n + r ⊙ v_n)                                 (4a)
    reset before the product (the original paper; ONNX by default):
        n = tanh(u_n + W_hn (r ⊙ h_{t−1}) + b_hn)               (4b)
    h_t = z̄ ⊙ n + z ⊙ h_{t−1},   z̄ = 1 − z                      (5)

z keeps the old state, as in torch; in some papers z and 1 − z change places. z̄ = 1 − z is computed as σ(−(u_z + v_z)), and r̄
likewise: a difference has no digits left once the gate is open wide.

Backward, with dh_t the total derivative ∂L/∂h_t:

    dn = dh_t ⊙ z̄,   dz = dh_t ⊙ (h_{t−1} − n)                  (6)
    δ_n = dn ⊙ (1 − n²)    (what arrives inside the tanh)       (7)
    δ_z = dz ⊙ z z̄                                              (8)

after:   dr = δ_n ⊙ v_n,                 ε_n = δ_n ⊙ r          (9a)
before:  q = W_hnᵀ δ_n,  dr = q ⊙ h_{t−1},  ε_n = δ_n           (9b)

    δ_r = dr ⊙ r r̄                                              (10)

Let δ = (δ_r, δ_z, δ_n) be the derivative with respect to u, and ε = (δ_r, δ_z, ε_n) that with respect to v. Then

after:   dh_{t−1} = dh_t ⊙ z + W_hhᵀ ε                          (11a)
before:  dh_{t−1} = dh_t ⊙ z + W_hrᵀ δ_r + W_hzᵀ δ_z + q ⊙ r    (11b)
    dx_t = W_xhᵀ δ,   dW_xh = Σ_t δ x_tᵀ,   db_x = Σ_t δ        (12)
    dW_hh = Σ_t ε kᵀ,   db_hh = Σ_t ε                           (13)

where k is h_{t−1}, except in the rows of n in the form "before", where it is r ⊙ h_{t−1}. In the form "after" ∂L/∂b_hn is r ⊙
∂L/∂b_n and the two biases are not redundant; in the form "before" b_x and b_hh only occur as their sum.

The Jacobian of one step follows by applying (6)–(11) to unit vectors; written out for rows of ∂h_t/∂h_{t−1}, with
p_z = (h_{t−1} − n) z z̄ and p_n = z̄ (1 − n²) scaling rows:

after:   J = diag(z) + p_z W_hz + p_n (r W_hn + v_n r r̄ W_hr)                                    (14a)
before:  J = diag(z) + p_z W_hz + p_n W_hn (diag(r) + diag(h_{t−1} r r̄) W_hr)                    (14b)

Source: Cho et al. 2014 (before); the form "after" is cuDNN's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from manual.activations import sigmoid_and_complement
from manual.cell import Array, Arrays, Halves, Shapes
from manual.linear import linear, linear_backward

GATES = ("r", "z", "n")


@dataclass(frozen=True)
class GRU(Halves):
    """h_t = (1 − z) n + z h_{t−1}; reset is "after" or "before" the product with W_hn.

    Parameters W_xh (3H, I), W_hh (3H, H), b_x (3H,), b_hh (3H,), gates stacked r, z, n; state h (B, H); x is (B, I), or
    tokens (B,). Raises ValueError for another reset.
    """

    reset: str = "after"

    def __post_init__(self) -> None:
        if self.reset not in ("after", "before"):
            raise ValueError(f"reset is 'after' or 'before' the product, not {self.reset!r}")

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh, W_hh, b_x and b_hh."""
        rows = len(GATES) * hidden_size
        return {"W_xh": (rows, input_size), "W_hh": (rows, hidden_size), "b_x": (rows,), "b_hh": (rows,)}

    def state_shapes(self, hidden_size: int) -> Shapes:
        """The state is h alone."""
        return {"h": (hidden_size,)}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """∂h_t/∂h_{t−1} by (14a) or (14b): (B, H, H)."""
        r, z, n, h_prev, not_z = cache["r"], cache["z"], cache["n"], cache["h_prev"], cache["not_z"]
        W_hr, W_hz, W_hn = np.split(params["W_hh"], len(GATES))
        p_z, p_n = (h_prev - n) * z * not_z, not_z * (1 - n * n)
        eye = np.eye(z.shape[-1], dtype=z.dtype)
        J = z[:, :, None] * eye + p_z[:, :, None] * W_hz
        if self.reset == "after":
            slope_r = cache["v_n"] * r * cache["not_r"]
            return J + p_n[:, :, None] * (r[:, :, None] * W_hn + slope_r[:, :, None] * W_hr)  # (14a)
        through_r = r[:, :, None] * eye + (h_prev * r * cache["not_r"])[:, :, None] * W_hr
        return J + p_n[:, :, None] * (W_hn @ through_r)  # (14b)

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """u by (1)."""
        return linear(xp, params["W_xh"], x) + params["b_x"]  # (1)

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t}, cache) given projected = u."""
        h_prev, W_hh, b_hh = state["h"], params["W_hh"], params["b_hh"]
        size = h_prev.shape[-1]
        v = h_prev @ W_hh[: 2 * size].T + b_hh[: 2 * size]  # (2), r and z
        r, not_r = sigmoid_and_complement(xp, projected[:, :size] + v[:, :size])  # (3)
        z, not_z = sigmoid_and_complement(xp, projected[:, size : 2 * size] + v[:, size:])  # (3)
        W_hn, b_hn, u_n = W_hh[2 * size :], b_hh[2 * size :], projected[:, 2 * size :]
        seen = h_prev if self.reset == "after" else r * h_prev
        v_n = seen @ W_hn.T + b_hn
        n = xp.tanh(u_n + r * v_n) if self.reset == "after" else xp.tanh(u_n + v_n)  # (4a), (4b)
        gates = {"r": r, "z": z, "n": n, "not_r": not_r, "not_z": not_z}
        return {"h": not_z * n + z * h_prev}, {"x": x, "h_prev": h_prev, "seen": seen, **gates, "v_n": v_n}  # (5)

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """((δ, ε_n) side by side (B, 4H), {"h": dh_{t−1}})."""
        r, z, n, h_prev, not_z, dh = cache["r"], cache["z"], cache["n"], cache["h_prev"], cache["not_z"], d_state["h"]
        W_hr, W_hz, W_hn = np.split(params["W_hh"], len(GATES))
        delta_n = dh * not_z * (1 - n * n)  # (6), (7)
        delta_z = dh * (h_prev - n) * z * not_z  # (6), (8)
        if self.reset == "after":
            epsilon_n = delta_n * r  # (9a)
            delta_r = delta_n * cache["v_n"] * r * cache["not_r"]  # (9a), (10)
            through_n = epsilon_n @ W_hn
        else:
            epsilon_n, q = delta_n, delta_n @ W_hn  # (9b)
            delta_r = q * h_prev * r * cache["not_r"]  # (9b), (10)
            through_n = q * r
        d_h_prev = dh * z + delta_r @ W_hr + delta_z @ W_hz + through_n  # (11a), (11b)
        return np.concatenate([delta_r, delta_z, delta_n, epsilon_n], axis=-1), {"h": d_h_prev}

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 4H) = (δ_r, δ_z, δ_n, ε_n)."""
        size = params["W_hh"].shape[-1]
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta[..., : 3 * size])  # (12)
        rows = delta.reshape(-1, delta.shape[-1])
        gates, epsilon_n = rows[:, : 2 * size], rows[:, 3 * size :]
        h_prev, seen = cache["h_prev"].reshape(-1, size), cache["seen"].reshape(-1, size)
        d_W_hh = np.concatenate([gates.T @ h_prev, epsilon_n.T @ seen])  # (13)
        d_b_hh = np.concatenate([gates.sum(axis=0), epsilon_n.sum(axis=0)])  # (13)
        return {"W_xh": d_W_xh, "W_hh": d_W_hh, "b_x": np.sum(rows[:, : 3 * size], axis=0), "b_hh": d_b_hh}, d_x
