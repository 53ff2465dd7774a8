"""The gated recurrent unit (GRU), in both of its two forms.

Forward, for t = 1..T (conventions: manual/__init__.py); gates stacked in torch's order r, z, n, and
the products with x and with the state kept apart, because the two forms join them differently:

    u_t = W_xh x_t + b_x                                        (1)   (3H,)
    v_t = W_hh h_{t−1} + b_hh                                   (2)   (3H,)
    r = σ(u_r + v_r),   z = σ(u_z + v_z)                        (3)
    reset after the product (torch, cuDNN, Keras ≥ 2):
        n = tanh(u_n + r ⊙ v_n)                                 (4a)
    reset before the product (the original paper; ONNX by default):
        n = tanh(u_n + W_hn (r ⊙ h_{t−1}) + b_hn)               (4b)
    h_t = z̄ ⊙ n + z ⊙ h_{t−1},   z̄ = 1 − z                      (5)

z keeps the old state, as in torch; in some papers z and 1 − z change places. z̄ = 1 − z is computed
as σ(−(u_z + v_z)), and r̄ likewise: a difference has no digits left once the gate is open wide.

Backward, with dh_t the total derivative ∂L/∂h_t:

    dn = dh_t ⊙ z̄,   dz = dh_t ⊙ (h_{t−1} − n)                  (6)
    δ_n = dn ⊙ (1 − n²)    (what arrives inside the tanh)       (7)
    δ_z = dz ⊙ z z̄                                              (8)

after:   dr = δ_n ⊙ v_n,                 ε_n = δ_n ⊙ r          (9a)
before:  q = W_hnᵀ δ_n,  dr = q ⊙ h_{t−1},  ε_n = δ_n           (9b)

    δ_r = dr ⊙ r r̄                                              (10)

Let δ = (δ_r, δ_z, δ_n) be the derivative with respect to u, and ε = (δ_r, δ_z, ε_n) that with
respect to v. Then

after:   dh_{t−1} = dh_t ⊙ z + W_hhᵀ ε                          (11a)
before:  dh_{t−1} = dh_t ⊙ z + W_hrᵀ δ_r + W_hzᵀ δ_z + q ⊙ r    (11b)
    dx_t = W_xhᵀ δ,   dW_xh = Σ_t δ x_tᵀ,   db_x = Σ_t δ        (12)
    dW_hh = Σ_t ε kᵀ,   db_hh = Σ_t ε                           (13)

where k is h_{t−1}, except in the rows of n in the form "before", where it is r ⊙ h_{t−1}. In the
form "after" the share of one step and one row in ∂L/∂b_hn is r ⊙ its share in ∂L/∂b_n. r differs
from step to step and from row to row, so that the sums have no such factor: db_hn = Σ_t r ⊙ δ_n is
not r ⊙ Σ_t δ_n, and the two biases are not redundant. In the form "before" b_x and b_hh only occur
as their sum.

The Jacobian of one step follows by applying (6)–(11) to unit vectors; written out for rows of
∂h_t/∂h_{t−1}, with p_z = (h_{t−1} − n) z z̄ and p_n = z̄ (1 − n²) scaling rows:

after:   J = diag(z) + p_z W_hz + p_n (r W_hn + v_n r r̄ W_hr)                                    (14a)
before:  J = diag(z) + p_z W_hz + p_n W_hn (diag(r) + diag(h_{t−1} r r̄) W_hr)                    (14b)

In the sequence form σ(a) = 1 / (1 + e⁻ᵃ), and σ(−a) = e⁻ᵃ σ(a), with all its digits as well; (5) is
h_t = n + z ⊙ (h_{t−1} − n), which needs no z̄. All of (6)–(10) is dh_t, or q, times what is
computed on the way forward:

    δ_n = k_n ⊙ dh_t,   k_n = z̄ (1 − n²);   δ_z = k_z ⊙ dh_t,   k_z = (h_{t−1} − n) z z̄             (15)
after:   ε_n = k_n r ⊙ dh_t,   δ_r = k_n r v_n r̄ ⊙ dh_t                                          (16a)
before:  δ_r = r h_{t−1} r̄ ⊙ q                                                                   (16b)

The products of (1) and (2) are one for r and z, by (1) of manual.through_time.sequences.

Source: Cho et al. 2014 (before); the form "after" is cuDNN's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import sigmoid_and_complement
from ..arrays import Array, Arrays
from ..cell import Halves, Shapes, StepGradients, arriving
from ..linear import linear, linear_backward, rows_of
from ..through_time.sequences import (
    Joined,
    Multiplier,
    NetInputs,
    TileInputs,
    empty,
    tiles,
    weight_gradient,
    width_of,
)

GATES = ("r", "z", "n")


@dataclass(frozen=True)
class GRU(Halves):
    """h_t = (1 − z) n + z h_{t−1}; reset is "after" or "before" the product with W_hn.

    Parameters W_xh (3H, I), W_hh (3H, H), b_x (3H,), b_hh (3H,), gates stacked r, z, n; state h (B,
    H); x is (B, I), or tokens (B,). Raises ValueError for another reset.
    """

    reset: str = "after"

    def __post_init__(self) -> None:
        if self.reset not in ("after", "before"):
            raise ValueError(f"reset is 'after' or 'before' the product, not {self.reset!r}")

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of W_xh, W_hh, b_x and b_hh."""
        rows = len(GATES) * hidden_size
        return {
            "W_xh": (rows, input_size),
            "W_hh": (rows, hidden_size),
            "b_x": (rows,),
            "b_hh": (rows,),
        }

    def state_shapes(self, hidden_size: int) -> Shapes:
        """The state is h alone."""
        return {"h": (hidden_size,)}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """∂h_t/∂h_{t−1} by (14a) or (14b): (B, H, H)."""
        r, z, n, h_prev, not_z = cache["r"], cache["z"], cache["n"], cache["h_prev"], cache["not_z"]
        W_hr, W_hz, W_hn = np.split(params["W_hh"], len(GATES))
        p_z, p_n = (h_prev - n) * z * not_z, not_z * (1 - n * n)
        if self.reset == "after":
            slope_r = p_n * cache["v_n"] * r * cache["not_r"]
            return _plus_diagonal(  # (14a)
                z, _combined((p_n * r, W_hn), (slope_r, W_hr), (p_z, W_hz))
            )
        through_r = _plus_diagonal(r, _combined((h_prev * r * cache["not_r"], W_hr)))
        return _plus_diagonal(  # (14b)
            z, p_n[:, :, None] * (W_hn @ through_r) + p_z[:, :, None] * W_hz
        )

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
        return {"h": not_z * n + z * h_prev}, {  # (5)
            "x": x,
            "h_prev": h_prev,
            "seen": seen,
            **gates,
            "v_n": v_n,
        }

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """((δ, ε_n) side by side (B, 4H), {"h": dh_{t−1}})."""
        r, z, n, h_prev, not_z, dh = (
            cache["r"],
            cache["z"],
            cache["n"],
            cache["h_prev"],
            cache["not_z"],
            d_state["h"],
        )
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
        return {
            "W_xh": d_W_xh,
            "W_hh": d_W_hh,
            "b_x": np.sum(rows[:, : 3 * size], axis=0),
            "b_hh": d_b_hh,
        }, d_x

    # The sequence form.

    def sequence(self, params: Arrays, initial: Arrays, x: Array) -> tuple[Arrays, Arrays]:
        """(h_0..h_T (T+1, B, H); tape).

        The tape is s_t, "slopes" by (15) and (16) (5, T, B, H), and what W_hn has "seen", if not h.
        """
        (steps, batch), size = x.shape[:2], params["W_hh"].shape[1]
        after = self.reset == "after"
        # c is the bias beside W_hh.
        (W_xr_z, W_xn), (b_r_z, b_n), (c_r_z, c_n), (W_hr_z, W_hn) = (
            np.split(params[name], [2 * size]) for name in ("W_xh", "b_x", "b_hh", "W_hh")
        )
        joined = Joined(x, initial["h"])
        rows, h = joined.rows, joined.h
        all_tiles = tiles(steps, batch, 10 * initial["h"][0].nbytes)
        together = all_tiles[0].count
        W_r_z = -joined.weights(W_hr_z, b_r_z + c_r_z, W_xr_z)  # e⁻ᵃ is wanted
        net = NetInputs(rows, W_r_z, joined.columns(-W_xr_z), together, 2)
        u_n = joined.of_x(W_xn, b_n if after else b_n + c_n)
        slopes = empty((5, steps, batch, size), u_n.dtype)
        if after:
            seen, W_n = h[:-1], np.concatenate([W_hn, c_n[:, None]], axis=1).T
            net_n = NetInputs(rows[..., : size + 1], W_n, [None] * steps, together)
        else:
            seen, net_n = np.empty_like(u_n), Multiplier(W_hn.T, batch)
        room = np.empty((together, 4, all_tiles[0].rows.stop, size), u_n.dtype)
        for tile in all_tiles:
            own, until = (tile.steps, tile.rows), h[tile.through]
            mine = net.of(tile), u_n[own], until, room[: tile.count, :, : until.shape[1]]
            done = _gates_after(*mine, net_n.of(tile)) if isinstance(net_n, NetInputs) else _gates_before(*mine, net_n, seen[own])
            _slopes(*done, after, slopes[:, *own])
        return {"h": h}, {"joined": rows, "slopes": slopes, **({} if after else {"seen": seen})}

    def sequence_backward(
        self, params: Arrays, x: Array, tape: Arrays, cotangents: Arrays, carry: Arrays | None
    ) -> StepGradients:
        """(d_params, dx, {"h": dh_0}) from e_1..e_T (T, B, H).

        carry is what later steps hand back for h_T.
        """
        size, rows = params["W_hh"].shape[1], tape["joined"]
        walk = _deltas_after if self.reset == "after" else _deltas_before
        delta, epsilon_n, dh_0 = walk(tape["slopes"], params["W_hh"], cotangents["h"], carry)
        by_r_z = weight_gradient(rows, delta[..., : 2 * size])  # (12), (13), rows of r and z
        by_x = np.concatenate(  # (12)
            [by_r_z[:, size:], weight_gradient(rows[..., size:], delta[..., 2 * size :])]
        )
        if "seen" in tape:
            d_W_hn, d_b_n = weight_gradient(tape["seen"], epsilon_n), by_x[2 * size :, :1]  # (13)
        else:
            d_W_hn, d_b_n = np.split(  # (13)
                weight_gradient(rows[..., : size + 1], epsilon_n), [size], axis=1
            )
        d_params = {
            "W_xh": by_x[:, 1:].copy() if width_of(x) else linear_backward(params["W_xh"], x, delta)[0],
            "W_hh": np.concatenate([by_r_z[:, :size], d_W_hn]),
            "b_x": by_x[:, 0].copy(),
            "b_hh": np.concatenate([by_x[: 2 * size, 0], d_b_n[:, 0]]),
        }
        return (  # (12)
            d_params,
            (rows_of(delta, 2) @ params["W_xh"]).reshape(x.shape) if width_of(x) else None,
            {"h": dh_0},
        )


def _combined(*terms: tuple[Array, Array]) -> Array:
    """Σ diag(p) W for factors p (B, H) of the rows of W (H, H).

    Told is (B, H, H); row by row it is one product of all p and W.
    """
    factors, weights = (np.stack(each, axis=-2) for each in zip(*terms, strict=True))
    found = np.empty((len(factors), *weights[:, 0].shape), weights.dtype)
    np.matmul(np.ascontiguousarray(factors.transpose(2, 0, 1)), weights, out=found.swapaxes(0, 1))
    return found


def _plus_diagonal(values: Array, matrices: Array) -> Array:
    """matrices + diag(values), in the place of the matrices: (B, H), (B, H, H)."""
    matrices.reshape(len(matrices), -1)[:, :: values.shape[-1] + 1] += values
    return matrices


def _gates_after(inputs: TileInputs, u: Array, h: Array, room: Array, inputs_n: TileInputs) -> tuple[Array, Array, Array]:
    """Fills h (n+1, r, H), one step after the other.

    Told are r̄, z̄, in the place of a (n, 2, r, H); r, z, n, h_{t−1} − n (n, 4, r, H); v.
    """
    a, v, gates = inputs.a, inputs_n.a[:, 0], room[:, :2]
    r, z, n, apart = room.swapaxes(0, 1)
    every = zip(h[:-1], h[1:], a, u, v, gates, r, z, n, apart, strict=True)
    one, kept, infinite = np.ones((), a.dtype), np.empty_like(h[0]), list[str]()
    with np.errstate(over="call", call=lambda kind, _: infinite.append(kind)):
        for h_prev, h_t, a_t, u_t, v_t, gates_t, r_t, z_t, n_t, apart_t in every:
            inputs.compute_next()  # (1), (2), r and z, into a_t
            inputs_n.compute_next()  # (2), n, into v_t
            np.exp(a_t, out=a_t)
            np.add(a_t, one, out=gates_t)
            np.reciprocal(gates_t, out=gates_t)  # (3)
            np.multiply(r_t, v_t, out=n_t)
            np.add(n_t, u_t, out=n_t)
            np.tanh(n_t, out=n_t)  # (4a)
            np.subtract(h_prev, n_t, out=apart_t)
            np.multiply(z_t, apart_t, out=kept)
            np.add(n_t, kept, out=h_t)  # (5)
    return _complements(a, gates, infinite), room, v


def _gates_before(
    inputs: TileInputs, u: Array, h: Array, room: Array, product: Multiplier, seen: Array
) -> tuple[Array, Array, Array]:
    """The same, and r ⊙ h_{t−1}, in place of v."""
    a, gates = inputs.a, room[:, :2]
    r, z, n, apart = room.swapaxes(0, 1)
    every = zip(h[:-1], h[1:], a, u, seen, gates, r, z, n, apart, strict=True)
    (filled,), ((kept,),) = product.room(1, h.shape[1])
    one, infinite = np.ones((), a.dtype), list[str]()
    with np.errstate(over="call", call=lambda kind, _: infinite.append(kind)):
        for h_prev, h_t, a_t, u_t, seen_t, gates_t, r_t, z_t, n_t, apart_t in every:
            inputs.compute_next()  # (1), (2), r and z, into a_t
            np.exp(a_t, out=a_t)
            np.add(a_t, one, out=gates_t)
            np.reciprocal(gates_t, out=gates_t)  # (3)
            np.multiply(r_t, h_prev, out=seen_t)
            product.times(seen_t, filled)
            np.add(kept, u_t, out=n_t)
            np.tanh(n_t, out=n_t)  # (4b)
            np.subtract(h_prev, n_t, out=apart_t)
            np.multiply(z_t, apart_t, out=kept)
            np.add(n_t, kept, out=h_t)  # (5)
    return _complements(a, gates, infinite), room, seen


def _complements(decay: Array, gates: Array, infinite: Sequence[str]) -> Array:
    """1 − σ(a) from e⁻ᵃ, in its place, and σ(a)."""
    if infinite:
        np.minimum(decay, np.finfo(decay.dtype).max, out=decay)  # ∞ · 0 would be NaN
    np.multiply(decay, gates, out=decay)
    if infinite:
        np.copyto(decay, 1, where=gates == 0)
    return decay


def _slopes(complements: Array, room: Array, with_r: Array, after: bool, slopes: Array) -> None:
    """Fills the five slopes by (15) and (16).

    They are the factor in ε_n (after) or r (before), those in δ_r, δ_z, δ_n, and z.
    """
    (not_r, not_z), (r, z, n, apart), (last, k_r, k_z, k_n, kept) = (
        complements.swapaxes(0, 1),
        room.swapaxes(0, 1),
        slopes,
    )
    np.multiply(n, n, out=k_n)
    np.subtract(1, k_n, out=k_n)
    k_n *= not_z  # (15)
    np.multiply(apart, z, out=k_z)
    k_z *= not_z  # (15)
    if after:
        np.multiply(k_n, r, out=last)  # (16a)
        np.multiply(last, with_r, out=k_r)  # v_n
        k_r *= not_r  # (16a)
    else:
        last[...] = r
        np.multiply(with_r, not_r, out=k_r)  # (16b), with r h_{t−1}
    kept[...] = z


def _deltas_after(slopes: Array, W_hh: Array, e: Array, carry: Arrays | None) -> tuple[Array, Array, Array]:
    """(δ (T, B, 3H), ε_n (T, B, H), dh_0)."""
    steps, batch, size = slopes.shape[1:]
    all_four = empty((steps, batch, 4 * size), slopes.dtype)  # ε_n, δ_r, δ_z, δ_n
    product = Multiplier(np.concatenate([W_hh[2 * size :], W_hh[: 2 * size]]), batch)
    (filled,), ((dh_prev,),) = product.room(1, batch)
    dh, kept = (np.empty((batch, size), slopes.dtype) for _ in range(2))
    dh_prev[...] = arriving(carry, "h", dh)
    blocks, epsilon = (
        all_four.reshape(steps, batch, 4, size).swapaxes(1, 2),
        all_four[..., : 3 * size],
    )
    every = (e, slopes[:4].swapaxes(0, 1), slopes[4], blocks, epsilon)
    for e_t, slopes_t, z, deltas, epsilon_t in zip(*(each[::-1] for each in every), strict=True):
        np.add(e_t, dh_prev, out=dh)
        np.multiply(slopes_t, dh, out=deltas)  # (15), (16a)
        np.multiply(z, dh, out=kept)
        product.times(epsilon_t, filled)
        np.add(dh_prev, kept, out=dh_prev)  # (11a)
    return all_four[..., size:], all_four[..., :size], dh_prev


def _deltas_before(slopes: Array, W_hh: Array, e: Array, carry: Arrays | None) -> tuple[Array, Array, Array]:
    """(δ (T, B, 3H), ε_n (T, B, H), dh_0)."""
    steps, batch, size = slopes.shape[1:]
    delta = empty((steps, batch, 3 * size), slopes.dtype)
    by_gates, by_n = Multiplier(W_hh[: 2 * size], batch), Multiplier(W_hh[2 * size :], batch)
    ((filled,), ((dh_prev,),)), ((filled_n,), ((q,),)) = (product.room(1, batch) for product in (by_gates, by_n))
    dh, kept = (np.empty((batch, size), slopes.dtype) for _ in range(2))
    dh_prev[...] = arriving(carry, "h", dh)
    blocks, gates, n = (
        delta.reshape(steps, batch, 3, size).swapaxes(1, 2),
        delta[..., : 2 * size],
        delta[..., 2 * size :],
    )
    every = (
        e,
        slopes[1],
        slopes[2:4].swapaxes(0, 1),
        slopes[0],
        slopes[4],
        blocks[:, 0],
        blocks[:, 1:],
        gates,
        n,
    )
    for e_t, k_r, k_z_n, r, z, delta_r, delta_z_n, delta_gates, delta_n in zip(*(each[::-1] for each in every), strict=True):
        np.add(e_t, dh_prev, out=dh)
        np.multiply(k_z_n, dh, out=delta_z_n)  # (15)
        by_n.times(delta_n, filled_n)  # q by (9b)
        np.multiply(k_r, q, out=delta_r)  # (16b)
        by_gates.times(delta_gates, filled)
        np.multiply(z, dh, out=kept)
        np.add(dh_prev, kept, out=dh_prev)
        np.multiply(r, q, out=kept)
        np.add(dh_prev, kept, out=dh_prev)  # (11b)
    return delta, delta[..., 2 * size :], dh_prev
