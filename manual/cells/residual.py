"""The residual recurrent network: the state is kept, and a step adds to it.

Forward, for t = 1..T (conventions: manual/__init__.py), with a fixed number α:

    z_t = W_xh x_t + W_hh h_{t−1} + b_h                         (1)
    h_t = h_{t−1} + α φ(z_t)                                    (2)

Backward, with dh_t the total derivative. h_{t−1} reaches h_t twice, by (2) directly and through
z_t:

    δ_t      = α φ′(z_t) ⊙ dh_t                                 (3)
    dh_{t−1} = dh_t + W_hhᵀ δ_t       (the identity path: no weight, no slope in it)    (4)
    dx_t     = W_xhᵀ δ_t                                        (5)
    dW_xh = Σ_t δ_t x_tᵀ,   dW_hh = Σ_t δ_t h_{t−1}ᵀ,   db_h = Σ_t δ_t                  (6)

The Jacobian of one step

    J_t = I + α diag(φ′(z_t)) W_hh                              (7)

has eigenvalues near 1 for small α, so that products of it neither vanish nor explode fast; the same
with α a time step is Euler's method for the differential equation h′ = φ(z).

Source: He, Zhang, Ren and Sun 2016 (identity shortcuts), eq. 1, in time; with α: Chang, Chen, Haber
and Chi 2019, eq. 4.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS
from ..arrays import Array, Arrays
from ..cell import Halves, Shapes
from ..linear import linear, linear_backward


@dataclass(frozen=True)
class ResidualRNN(Halves):
    """h_t = h_{t−1} + α φ(W_xh x_t + W_hh h_{t−1} + b_h).

    φ is one of `manual.activations.ACTIVATIONS`.

    Parameters W_xh (H, I), W_hh (H, H), b_h (H,); state h (B, H); x is (B, I), or tokens (B,).
    """

    alpha: float = 0.5
    activation: str = "tanh"

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh, W_hh and b_h."""
        return {
            "W_xh": (hidden_size, input_size),
            "W_hh": (hidden_size, hidden_size),
            "b_h": (hidden_size,),
        }

    def state_shapes(self, hidden_size: int) -> Shapes:
        """The state is h alone."""
        return {"h": (hidden_size,)}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """J_t by (7): (B, H, H)."""
        slope = self.alpha * ACTIVATIONS[self.activation].derivative(cache["z"], cache["phi"])
        return (  # (7)
            np.eye(slope.shape[-1], dtype=slope.dtype) + slope[:, :, None] * params["W_hh"]
        )

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """W_xh x + b_h: the part of z that does not wait for the state."""
        return linear(xp, params["W_xh"], x) + params["b_h"]

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t}, cache) given projected = W_xh x_t + b_h."""
        z = projected + state["h"] @ params["W_hh"].T  # (1)
        phi = ACTIVATIONS[self.activation].value(xp, z)
        return {"h": state["h"] + self.alpha * phi}, {  # (2)
            "x": x,
            "h_prev": state["h"],
            "z": z,
            "phi": phi,
        }

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """(δ_t (B, H), {"h": dh_{t−1}})."""
        delta = (  # (3)
            self.alpha * ACTIVATIONS[self.activation].derivative(cache["z"], cache["phi"]) * d_state["h"]
        )
        return delta, {"h": d_state["h"] + delta @ params["W_hh"]}  # (4)

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, H)."""
        rows = delta.reshape(-1, delta.shape[-1])
        h_prev = cache["h_prev"].reshape(-1, delta.shape[-1])
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (6), (5)
        return {"W_xh": d_W_xh, "W_hh": rows.T @ h_prev, "b_h": np.sum(rows, axis=0)}, d_x  # (6)
