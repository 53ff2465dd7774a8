"""The minimal GRU (minGRU): a gate and a candidate of x alone, so that the recurrence is linear.

Forward, for t = 1..T (conventions: manual/__init__.py), stacked z, h:

    a_t = W_xh x_t + b_h                                        (1)   (2H,), nothing of it waits for the state
    z = σ(a_z),   g = φ(a_h)                                    (2)   φ: "positive" of manual.activations, or another
    h_t = z̄ ⊙ h_{t−1} + z ⊙ g,   z̄ = 1 − z = σ(−a_z)            (3)   here z lets the new in: the GRU's z, reversed

Backward, with dh_t the total derivative:

    δ_z = dh_t ⊙ (g − h_{t−1}) ⊙ z z̄                            (4)
    δ_h = dh_t ⊙ z ⊙ φ′(a_h)                                    (5)
    dh_{t−1} = dh_t ⊙ z̄                                         (6)   no weight in it
    dx_t = W_xhᵀ δ_t,   dW_xh = Σ_t δ_t x_tᵀ,   db_h = Σ_t δ_t  (7)

The Jacobian of one step is diagonal, with entries in (0, 1):

    J_t = diag(z̄)                                               (8)

so that gradients can vanish and never explode.

Source: Feng, Tung, Hajimirsadeghi, Ahmed and Bengio 2024, "Were RNNs all we needed?", section 3.1;
φ of appendix B.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS, sigmoid_and_complement
from ..arrays import Array, Arrays
from ..cell import Halves, Shapes
from ..linear import linear, linear_backward


@dataclass(frozen=True)
class MinGRU(Halves):
    """h_t = (1 − z) h_{t−1} + z φ(·), gate and candidate of x alone.

    Parameters W_xh (2H, I), b_h (2H,), stacked z, h; state h (B, H); x is (B, I), or tokens (B,).
    """

    activation: str = "positive"

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh and b_h."""
        return {"W_xh": (2 * hidden_size, input_size), "b_h": (2 * hidden_size,)}

    def state_shapes(self, hidden_size: int) -> Shapes:
        """The state is h alone."""
        return {"h": (hidden_size,)}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """J_t by (8): (B, H, H)."""
        del params
        return cache["not_z"][:, :, None] * np.eye(  # (8)
            cache["z"].shape[-1], dtype=cache["z"].dtype
        )

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """a by (1)."""
        return linear(xp, params["W_xh"], x) + params["b_h"]  # (1)

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t}, cache) given projected = a_t."""
        del params
        size = state["h"].shape[-1]
        z, not_z = sigmoid_and_complement(xp, projected[:, :size])  # (2)
        a_h = projected[:, size:]
        g = ACTIVATIONS[self.activation].value(xp, a_h)  # (2)
        cache = {"x": x, "h_prev": state["h"], "z": z, "not_z": not_z, "a_h": a_h, "g": g}
        return {"h": not_z * state["h"] + z * g}, cache  # (3)

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """(δ_t (B, 2H), {"h": dh_{t−1}})."""
        del params
        z, not_z, g, dh = cache["z"], cache["not_z"], cache["g"], d_state["h"]
        delta_z = dh * (g - cache["h_prev"]) * z * not_z  # (4)
        delta_h = dh * z * ACTIVATIONS[self.activation].derivative(cache["a_h"], g)  # (5)
        return np.concatenate([delta_z, delta_h], axis=-1), {"h": dh * not_z}  # (6)

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 2H)."""
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (7)
        return {  # (7)
            "W_xh": d_W_xh,
            "b_h": np.sum(delta.reshape(-1, delta.shape[-1]), axis=0),
        }, d_x
