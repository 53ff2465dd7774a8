"""The vanilla (Elman) recurrent network.

Forward, for t = 1..T (conventions: manual/__init__.py):

    z_t = W_xh x_t + W_hh h_{t−1} + b_h                         (1)
    h_t = φ(z_t)                                                (2)

Backward. Let dh_t = ∂L/∂h_t be the total derivative: the loss's own at step t plus what comes back
from step t+1. z_t acts on L through h_t only, which gives (3) from (2); and h_{t−1}, x_t, W_xh,
W_hh and b_h act within step t through z_t only, which gives the rest from (1):

    δ_t      = ∂L/∂z_t = φ′(z_t) ⊙ dh_t                         (3)
    dh_{t−1} = W_hhᵀ δ_t    (the carry, added to the loss's own derivative at t−1)    (4)
    dx_t     = W_xhᵀ δ_t                                        (5)
    dW_xh    = Σ_t δ_t x_tᵀ                                     (6)
    dW_hh    = Σ_t δ_t h_{t−1}ᵀ    (h_{t−1}, not h_t; h_0 counts)    (7)
    db_h     = Σ_t δ_t                                          (8)

The Jacobian of one step:

    J_t = diag(φ′(z_t)) W_hh                                    (9)

so that (4) is dh_{t−1} = J_tᵀ dh_t.

Source: Werbos 1990, "Backpropagation through time: what it does and how to do it". Pascanu, Mikolov
and Bengio 2013, eq. 5, writes the factors of the product as W_recᵀ diag(σ′), the transpose of (9):
right with their column gradient, wrong when pasted beside a row vector δ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS
from ..arrays import Array, Arrays
from ..cell import Halves, Shapes, StepGradients, arriving
from ..linear import linear, linear_backward
from ..through_time.sequences import Joined, Multiplier, NetInputs, empty, joined_backward, tiles


@dataclass(frozen=True)
class RNN(Halves):
    """h_t = φ(W_xh x_t + W_hh h_{t−1} + b_h), with φ one of `manual.activations.ACTIVATIONS`.

    Parameters W_xh (H, I), W_hh (H, H), b_h (H,); state h (B, H); x is (B, I), or integer tokens
    (B,).
    """

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
        """J_t by (9): (B, H, H)."""
        slope = ACTIVATIONS[self.activation].derivative(cache["z"], cache["h"])
        return slope[:, :, None] * params["W_hh"]  # (9)

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """W_xh x + b_h: the part of z that does not wait for the state."""
        return linear(xp, params["W_xh"], x) + params["b_h"]

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"h": h_t}, cache) given projected = W_xh x_t + b_h."""
        z = projected + state["h"] @ params["W_hh"].T  # (1)
        h = ACTIVATIONS[self.activation].value(xp, z)  # (2)
        return {"h": h}, {"x": x, "h_prev": state["h"], "z": z, "h": h}

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """(δ_t (B, H), {"h": dh_{t−1}})."""
        slope = ACTIVATIONS[self.activation].derivative(cache["z"], cache["h"])
        delta = slope * d_state["h"]  # (3)
        return delta, {"h": delta @ params["W_hh"]}  # (4)

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, H).

        Each weight gradient is one matrix product.
        """
        rows = delta.reshape(-1, delta.shape[-1])
        h_prev = cache["h_prev"].reshape(-1, delta.shape[-1])
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (6), (5)
        return {  # (7), (8)
            "W_xh": d_W_xh,
            "W_hh": rows.T @ h_prev,
            "b_h": np.sum(rows, axis=0),
        }, d_x

    # The sequence form.

    def sequence(self, params: Arrays, initial: Arrays, x: Array) -> tuple[Arrays, Arrays]:
        """(h_0..h_T (T+1, B, H); s_t, φ′(z_1)..φ′(z_T) (T, B, H))."""
        (W_hh, b_h, W_xh), activation = (
            (params[name] for name in ("W_hh", "b_h", "W_xh")),
            ACTIVATIONS[self.activation],
        )
        joined, all_tiles = (
            Joined(x, initial["h"]),
            tiles(len(x), len(x[0]), 3 * initial["h"][0].nbytes),
        )
        h, slope = joined.h, empty(joined.h[1:].shape, W_hh.dtype)
        net = NetInputs(joined.rows, joined.weights(W_hh, b_h, W_xh), joined.columns(W_xh), all_tiles[0].count)
        for tile in all_tiles:
            inputs, h_own = net.of(tile), h[tile.through][1:]
            z = inputs.a[:, 0]
            for z_t, h_t in zip(z, h_own, strict=True):
                inputs.compute_next()  # (1), into z_t
                if self.activation == "tanh":
                    np.tanh(z_t, out=h_t)  # (2)
                else:
                    h_t[...] = activation.value(np, z_t)  # (2)
            slope[tile.steps, tile.rows] = activation.derivative(z, h_own)
        return {"h": h}, {"joined": joined.rows, "slope": slope}

    def sequence_backward(
        self, params: Arrays, x: Array, tape: Arrays, cotangents: Arrays, carry: Arrays | None
    ) -> StepGradients:
        """(d_params, dx, {"h": dh_0}) from e_1..e_T (T, B, H).

        carry is what later steps hand back for h_T.
        """
        delta, product = (
            empty(tape["slope"].shape, tape["slope"].dtype),
            Multiplier(params["W_hh"], len(tape["slope"][0])),
        )
        (filled,), ((dh_prev,),) = product.room(1, len(delta[0]))
        dh_prev[...] = arriving(carry, "h", delta[0])
        for e_t, slope_t, delta_t in zip(cotangents["h"][::-1], tape["slope"][::-1], delta[::-1], strict=True):
            np.add(e_t, dh_prev, out=delta_t)
            np.multiply(slope_t, delta_t, out=delta_t)  # (3)
            product.times(delta_t, filled)  # (4)
        d_W_hh, d_b_h, d_W_xh, d_x = joined_backward(  # (7), (8), (6), (5)
            params["W_xh"], x, tape["joined"], delta
        )
        return {"W_xh": d_W_xh, "W_hh": d_W_hh, "b_h": d_b_h}, d_x, {"h": dh_prev}


@dataclass(frozen=True)
class IRNN(RNN):
    """The RNN with φ = relu, started at W_hh = I and b_h = 0 (Le, Jaitly and Hinton 2015).

    By (9) J_t = diag(z_t > 0) at the start: a unit passes its gradient on unchanged as long as it
    is active, and not at all once it is not.
    """

    activation: str = "relu"

    def initialise(self, rng: "np.random.Generator", input_size: int, hidden_size: int, batch: int) -> Arrays:
        """W_hh and b_h."""
        del rng, input_size, batch
        return {"W_hh": np.eye(hidden_size), "b_h": np.zeros(hidden_size)}
