"""The minimal LSTM (minLSTM): gates of x alone, normalised so that they add up to one.

Forward, for t = 1..T (conventions: manual/__init__.py), stacked f, i, h:

    a_t = W_xh x_t + b_h                                        (1)   (3H,), nothing of it waits for the state
    f = σ(a_f),   i = σ(a_i),   g = φ(a_h)                      (2)   φ: "positive" of manual.activations, or another
    f′ = f / (f + i),   i′ = i / (f + i)                        (3)   f′ + i′ = 1
    h_t = f′ ⊙ h_{t−1} + i′ ⊙ g                                 (4)

Backward, with dh_t the total derivative. By i′ = 1 − f′ both gates act through f′ alone,

    df′ = dh_t ⊙ (h_{t−1} − g)                                  (5)
    ∂f′/∂f = i / (f + i)²,   ∂f′/∂i = −f / (f + i)²             (6)

and with σ′ = f f̄ (f̄ = 1 − f = σ(−a_f), likewise ī) the powers of f + i collect into f′ i′:

    δ_f =  df′ ⊙ f′ i′ f̄                                        (7)
    δ_i = −df′ ⊙ f′ i′ ī                                        (8)
    δ_h = dh_t ⊙ i′ ⊙ φ′(a_h)                                   (9)
    dh_{t−1} = dh_t ⊙ f′                                        (10)
    dx_t = W_xhᵀ δ_t,   dW_xh = Σ_t δ_t x_tᵀ,   db_h = Σ_t δ_t  (11)

The Jacobian of one step is diagonal, with entries in (0, 1):

    J_t = diag(f′)                                              (12)

Source: Feng, Tung, Hajimirsadeghi, Ahmed and Bengio 2024, "Were RNNs all we needed?", section 3.2;
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
class MinLSTM(Halves):
    """h_t = f′ h_{t−1} + i′ φ(·), gates of x alone with f′ + i′ = 1.

    Parameters W_xh (3H, I), b_h (3H,), stacked f, i, h; state h (B, H); x is (B, I), or tokens
    (B,).
    """

    activation: str = "positive"

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh and b_h."""
        return {"W_xh": (3 * hidden_size, input_size), "b_h": (3 * hidden_size,)}

    def state_shapes(self, hidden_size: int) -> Shapes:
        """The state is h alone."""
        return {"h": (hidden_size,)}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """J_t by (12): (B, H, H)."""
        del params
        return cache["keep"][:, :, None] * np.eye(  # (12)
            cache["keep"].shape[-1], dtype=cache["keep"].dtype
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
        f, not_f = sigmoid_and_complement(xp, projected[:, :size])  # (2)
        i, not_i = sigmoid_and_complement(xp, projected[:, size : 2 * size])  # (2)
        a_h = projected[:, 2 * size :]
        g = ACTIVATIONS[self.activation].value(xp, a_h)  # (2)
        keep, write = f / (f + i), i / (f + i)  # (3)
        cache = {
            "x": x,
            "h_prev": state["h"],
            "keep": keep,
            "write": write,
            "not_f": not_f,
            "not_i": not_i,
            "a_h": a_h,
            "g": g,
        }
        return {"h": keep * state["h"] + write * g}, cache  # (4)

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """(δ_t (B, 3H), {"h": dh_{t−1}})."""
        del params
        keep, write, g, dh = cache["keep"], cache["write"], cache["g"], d_state["h"]
        d_keep = dh * (cache["h_prev"] - g)  # (5)
        shared = d_keep * keep * write
        delta_f, delta_i = shared * cache["not_f"], -shared * cache["not_i"]  # (7), (8)
        delta_h = dh * write * ACTIVATIONS[self.activation].derivative(cache["a_h"], g)  # (9)
        return np.concatenate([delta_f, delta_i, delta_h], axis=-1), {"h": dh * keep}  # (10)

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 3H)."""
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (11)
        return {  # (11)
            "W_xh": d_W_xh,
            "b_h": np.sum(delta.reshape(-1, delta.shape[-1]), axis=0),
        }, d_x
