"""The long short-term memory cell (LSTM) with forget gate, in torch's convention.

Forward, for t = 1..T (conventions: manual/__init__.py); a is the net input of all gates, stacked in
torch's order i, f, g, o:

    a_t = W_xh x_t + W_hh h_{t−1} + b_h                         (1)   (4H,)
    i = σ(a_i),  f = σ(a_f),  g = tanh(a_g),  o = σ(a_o)        (2)
    c_t = f ⊙ c_{t−1} + i ⊙ g                                   (3)
    h_t = o ⊙ tanh(c_t)                                         (4)

Backward. Let dh_t, dc_t be total derivatives of the loss: its own at step t plus what comes back
from step t+1. Both arrive at every step, dc_t also where the loss reads h alone. Through (4) the
cell state receives, before anything goes on,

    d̃c = dc_t + dh_t ⊙ o ⊙ (1 − tanh² c_t)                      (5)

and by the product rule on (4) and (3), then (2),

    δ_o = dh_t ⊙ tanh(c_t) ⊙ o ō                                (6)
    δ_i = d̃c ⊙ g ⊙ i ī                                          (7)
    δ_f = d̃c ⊙ c_{t−1} ⊙ f f̄                                    (8)
    δ_g = d̃c ⊙ i ⊙ (1 − g²)                                     (9)
    dc_{t−1} = d̃c ⊙ f        (the highway: no weight in it)      (10)
    dh_{t−1} = W_hhᵀ δ_t,    δ_t = (δ_i, δ_f, δ_g, δ_o)         (11)
    dx_t     = W_xhᵀ δ_t                                        (12)
    dW_xh = Σ_t δ_t x_tᵀ,  dW_hh = Σ_t δ_t h_{t−1}ᵀ,  db_h = Σ_t δ_t   (13)

Here ō = 1 − o is computed as σ(−a_o), likewise ī and f̄: a difference has no digits left once the
gate is open wide.

torch keeps two biases that only occur as their sum; each has the gradient db_h.

The Jacobian of one step on s = (h, c), from ∂a/∂h_{t−1} = W_hh and the slopes p = ∂c_t/∂a, q =
∂h_t/∂a at fixed c_{t−1}:

    ∂c_t/∂c_{t−1} = diag(f),                 ∂c_t/∂h_{t−1} = p_i W_hi + p_f W_hf + p_g W_hg            (14)
    ∂h_t/∂c_{t−1} = diag(o (1 − tanh² c) f), ∂h_t/∂h_{t−1} = o (1 − tanh² c) ∂c_t/∂h_{t−1} + q_o W_ho  (15)

with p_i = g i ī, p_f = c_{t−1} f f̄, p_g = i (1 − g²), q_o = tanh(c) o ō, each scaling rows.

In the sequence form σ(a) = 1 / (1 + e⁻ᵃ), and σ(−a) = e⁻ᵃ σ(a), with all its digits as well. With
what (3) and (4) have computed, i g, f c_{t−1} and h_t, the factors of dh_t and of d̃c in (5)–(9)
become

    d̃c = dc_t + dh_t ⊙ (o − h_t tanh(c_t)),   δ_o = dh_t ⊙ h_t ō                             (16)
    δ_i = d̃c ⊙ (i g) ī,   δ_f = d̃c ⊙ (f c_{t−1}) f̄,   δ_g = d̃c ⊙ (i − (i g) g)               (17)

They are computed on the way forward, and are all that the way back needs of the gates, with f for
(10). (1) and (13) are one product each, by (1) and (2) of manual.through_time.sequences.

Source: Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber and Cummins 2000.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import sigmoid_and_complement
from ..arrays import Array, Arrays
from ..cell import Halves, Shapes, StepGradients, are_zeros, arriving
from ..linear import linear, linear_backward
from ..through_time.sequences import (
    Joined,
    Multiplier,
    NetInputs,
    TileInputs,
    empty,
    joined_backward,
    tiles,
)

GATES = ("i", "f", "g", "o")


@dataclass(frozen=True)
class LSTM(Halves):
    """c_t = f c_{t−1} + i g, h_t = o tanh c_t.

    Parameters W_xh (4H, I), W_hh (4H, H), b_h (4H,), gates stacked i, f, g, o; states h and c (B,
    H); x is (B, I), or tokens (B,).
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
        p_i, p_f, p_g = (
            g * i * cache["not_i"],
            cache["c_prev"] * f * cache["not_f"],
            i * (1 - g * g),
        )
        through_c = o * (1 - tanh_c * tanh_c)
        c_by_h = p_i[:, :, None] * W_hi + p_f[:, :, None] * W_hf + p_g[:, :, None] * W_hg  # (14)
        h_by_h = (  # (15)
            through_c[:, :, None] * c_by_h + (tanh_c * o * cache["not_o"])[:, :, None] * W_ho
        )
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
        (i, not_i), (f, not_f), (o, not_o) = (  # (2)
            sigmoid_and_complement(xp, a) for a in (a_i, a_f, a_o)
        )
        g = xp.tanh(a_g)  # (2)
        c = f * state["c"] + i * g  # (3)
        tanh_c = xp.tanh(c)
        gates = {"i": i, "f": f, "g": g, "o": o, "not_i": not_i, "not_f": not_f, "not_o": not_o}
        return {"h": o * tanh_c, "c": c}, {  # (4)
            "x": x,
            "h_prev": state["h"],
            "c_prev": state["c"],
            **gates,
            "tanh_c": tanh_c,
        }

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
        """(d_params, dx) summed over every leading axis of delta (…, 4H).

        Each weight gradient is one matrix product.
        """
        rows = delta.reshape(-1, delta.shape[-1])
        h_prev = cache["h_prev"].reshape(-1, params["W_hh"].shape[-1])
        d_W_xh, d_x = linear_backward(params["W_xh"], cache["x"], delta)  # (13), (12)
        return {"W_xh": d_W_xh, "W_hh": rows.T @ h_prev, "b_h": np.sum(rows, axis=0)}, d_x  # (13)

    # The sequence form. o stands first: o, i, f, g.

    def sequence(self, params: Arrays, initial: Arrays, x: Array) -> tuple[Arrays, Arrays]:
        """(h_0..h_T and c_0..c_T (T+1, B, H); tape).

        The tape is s_t, what multiplies dh_t (2, T, B, H), and what multiplies d̃c (4, T, B, H).
        """
        (steps, batch), size = x.shape[:2], params["W_hh"].shape[1]
        joined, (W_hh, b_h, W_xh) = (
            Joined(x, initial["h"]),
            (_turned(params[name]) for name in ("W_hh", "b_h", "W_xh")),
        )
        h, c = joined.h, empty(joined.h.shape, W_hh.dtype)
        c[0] = initial["c"]
        by_h, by_c = (empty((blocks, steps, batch, size), W_hh.dtype) for blocks in (2, 4))
        all_tiles = tiles(steps, batch, 10 * c[0, 0].nbytes)
        net = NetInputs(
            joined.rows,
            joined.weights(W_hh, b_h, W_xh),
            joined.columns(W_xh),
            all_tiles[0].count,
            4,
        )
        room = np.empty((all_tiles[0].count, 6, all_tiles[0].rows.stop, size), W_hh.dtype)
        for tile in all_tiles:
            h_own, c_own, own = (
                h[tile.through],
                c[tile.through],
                (slice(None), tile.steps, tile.rows),
            )
            gates = _gates(net.of(tile), h_own, c_own, room[: tile.count, :, : h_own.shape[1]])
            _slopes(*gates, h_own[1:], by_h[own], by_c[own])
        return {"h": h, "c": c}, {"joined": joined.rows, "by_h": by_h, "by_c": by_c}

    def sequence_backward(
        self, params: Arrays, x: Array, tape: Arrays, cotangents: Arrays, carry: Arrays | None
    ) -> StepGradients:
        """(d_params, dx, {"h": dh_0, "c": dc_0}) from e_1..e_T.

        e is by name, (T, B, ·); carry is what later steps hand back for s_T.
        """
        delta, d_initial = _deltas(tape["by_h"], tape["by_c"], _o_first(params["W_hh"]), cotangents, carry)
        d_W_hh, d_b_h, d_W_xh, d_x = joined_backward(  # (13), (12)
            _o_first(params["W_xh"]), x, tape["joined"], delta
        )
        return (
            {"W_xh": _o_last(d_W_xh), "W_hh": _o_last(d_W_hh), "b_h": _o_last(d_b_h)},
            d_x,
            d_initial,
        )


def _o_first(stacked: Array) -> Array:
    """A copy of what is stacked i, f, g, o, in the order o, i, f, g."""
    size = len(stacked) // len(GATES)
    return np.concatenate([stacked[3 * size :], stacked[: 3 * size]])


def _o_last(stacked: Array) -> Array:
    """The way back."""
    size = len(stacked) // len(GATES)
    return np.concatenate([stacked[size:], stacked[:size]])


def _turned(stacked: Array) -> Array:
    """o first, and for −a_o, −a_i, −a_f, a_g."""
    turned = _o_first(stacked)
    turned[: 3 * len(turned) // len(GATES)] *= -1
    return turned


def _gates(inputs: TileInputs, h: Array, c: Array, room: Array) -> tuple[Array, Array, Array]:
    """Fills h and c (n+1, r, H), one step after the other.

    Told are e⁻ᵃ of o, i, f, and g, in the place of a (n, 4, r, H); o, i, f; i g, f c_{t−1}, tanh c.
    """
    a, gates, terms = inputs.a, room[:, :3], room[:, 3:]
    decay, g = a[:, :3], a[:, 3]
    o, i, f = gates.swapaxes(0, 1)
    i_g, f_c, tanh_c = terms.swapaxes(0, 1)
    before_and_after = c[:-1], c[1:], h[1:]
    every = zip(*before_and_after, decay, g, gates, o, i, f, i_g, f_c, tanh_c, strict=True)
    one, infinite = np.ones((), a.dtype), list[str]()
    with np.errstate(over="call", call=lambda kind, _: infinite.append(kind)):
        for c_prev, c_t, h_t, decay_t, g_t, gates_t, o_t, i_t, f_t, i_g_t, f_c_t, tanh_c_t in every:
            inputs.compute_next()  # (1), into decay_t and g_t
            np.exp(decay_t, out=decay_t)
            np.add(decay_t, one, out=gates_t)
            np.reciprocal(gates_t, out=gates_t)  # (2)
            np.tanh(g_t, out=g_t)  # (2)
            np.multiply(i_t, g_t, out=i_g_t)
            np.multiply(f_t, c_prev, out=f_c_t)
            np.add(f_c_t, i_g_t, out=c_t)  # (3)
            np.tanh(c_t, out=tanh_c_t)
            np.multiply(o_t, tanh_c_t, out=h_t)  # (4)
    if infinite:
        np.minimum(decay, np.finfo(a.dtype).max, out=decay)  # ∞ · 0 would be NaN
    return a, gates, terms


def _slopes(a: Array, gates: Array, terms: Array, h: Array, by_h: Array, by_c: Array) -> None:
    """Fills what multiplies dh_t and what multiplies d̃c.

    The first for d̃c and δ_o, the second for δ_i, δ_f, δ_g and dc_{t−1}.
    """
    (e_o, e_i, e_f, g), (o, i, f), (i_g, f_c, tanh_c) = (each.swapaxes(0, 1) for each in (a, gates, terms))
    np.multiply(h, tanh_c, out=by_h[0])
    np.subtract(o, by_h[0], out=by_h[0])  # (16)
    np.multiply(e_o, o, out=by_h[1])
    by_h[1] *= h  # (16)
    np.multiply(e_i, i, out=by_c[0])
    by_c[0] *= i_g  # (17)
    np.multiply(e_f, f, out=by_c[1])
    by_c[1] *= f_c  # (17)
    np.multiply(i_g, g, out=by_c[2])
    np.subtract(i, by_c[2], out=by_c[2])  # (17)
    by_c[3] = f  # (10)


def _deltas(by_h: Array, by_c: Array, W: Array, e: Arrays, carry: Arrays | None) -> tuple[Array, Arrays]:
    """(δ (T, B, 4H), {"h": dh_0, "c": dc_0})."""
    steps, batch, size = by_h.shape[1:]
    delta = empty((steps, batch, 4 * size), by_h.dtype)
    dh, dc = (np.empty((batch, size), delta.dtype) for _ in range(2))
    product = Multiplier(W, batch)
    (filled,), ((dh_prev,),) = product.room(1, batch)
    dh_prev[...], dc_prev = arriving(carry, "h", dh), arriving(carry, "c", dc)
    blocks, reads_c = delta.reshape(steps, batch, 4, size).swapaxes(1, 2), not are_zeros(e["c"])
    inner, o, gates, f = *by_h, by_c[:3].swapaxes(0, 1), by_c[3]
    every = (e["h"], e["c"], inner, o, gates, f, blocks[:, 0], blocks[:, 1:], delta)
    for e_h, e_c, inner_t, o_t, gates_t, f_t, delta_o, delta_gates, delta_t in zip(*(each[::-1] for each in every), strict=True):
        np.add(e_h, dh_prev, out=dh)
        if reads_c:
            np.add(e_c, dc_prev, out=dc_prev)
        np.multiply(inner_t, dh, out=dc)
        np.add(dc, dc_prev, out=dc)  # (16)
        np.multiply(o_t, dh, out=delta_o)  # (16)
        np.multiply(gates_t, dc, out=delta_gates)  # (17)
        np.multiply(f_t, dc, out=dc_prev)  # (10)
        product.times(delta_t, filled)  # (11)
    return delta, {"h": dh_prev, "c": dc_prev}
