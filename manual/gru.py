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

In the sequence form σ(a) = 1 / (1 + e⁻ᵃ), and r̄ = e⁻ᵃ r, with all its digits as well. All of (6)–(10) is dh_t, or q, times what
is computed on the way forward:

    δ_n = k_n ⊙ dh_t,   k_n = z̄ (1 − n²);   δ_z = k_z ⊙ dh_t,   k_z = (h_{t−1} − n) z z̄             (15)
after:   ε_n = k_n r ⊙ dh_t,   δ_r = k_n r v_n r̄ ⊙ dh_t                                          (16a)
before:  δ_r = r h_{t−1} r̄ ⊙ q                                                                   (16b)

Source: Cho et al. 2014 (before); the form "after" is cuDNN's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from manual.activations import sigmoid_and_complement
from manual.cell import Array, Arrays, Halves, Shapes, StepGradients, arriving, pieces
from manual.linear import linear, linear_backward, rows_of

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

    # The sequence form. Each gate is a block (B, H) of its own in memory.

    def sequence(self, params: Arrays, initial: Arrays, x: Array) -> tuple[Arrays, Arrays]:
        """(h_0..h_T (T+1, B, H), {"slopes" by (15) and (16) (T, 5, B, H), what W_hn has "seen" if not h})."""
        (steps, batch), size, after = x.shape[:2], params["W_hh"].shape[1], self.reset == "after"
        W_xh, W_hh, b_x, b_hh = (_turned(params[name]) for name in ("W_xh", "W_hh", "b_x", "b_hh"))
        b_x[: 2 * size if after else None] += b_hh[: 2 * size if after else None]  # r ⊙ b_hn waits for r
        u = np.ascontiguousarray(linear(np, W_xh, rows_of(x, 2)))
        u += b_x
        u, h = u.reshape(steps, batch, 3, size).swapaxes(1, 2), np.empty((steps + 1, batch, size), u.dtype)
        W, W_gates, W_n = (np.ascontiguousarray(weight.T) for weight in (W_hh, W_hh[: 2 * size], W_hh[2 * size :]))
        h[0] = initial["h"]
        slopes, seen = np.empty((steps, 5, batch, size), u.dtype), h[:-1] if after else np.empty_like(h[1:])
        all_pieces = pieces(steps, 13 * h[0].nbytes)
        room = np.empty((all_pieces[0].stop, 8, batch, size), u.dtype)
        for piece in all_pieces:
            own, until = room[: piece.stop - piece.start], h[piece.start : piece.stop + 1]
            if after:
                _gates_after(u[piece], W, b_hh[2 * size :], until, own)
            else:
                _gates_before(u[piece], W_gates, W_n, until, seen[piece], own)
            _slopes(own, h[piece], None if after else seen[piece], slopes[piece])
        return {"h": h}, {"slopes": slopes, **({} if after else {"seen": seen})}

    def sequence_backward(
        self, params: Arrays, x: Array, states: Arrays, tape: Arrays, cotangents: Arrays, carry: Arrays | None
    ) -> StepGradients:
        """(d_params, dx, {"h": dh_0}) from e_1..e_T (T, B, H), and what later steps hand back for h_T."""
        size = params["W_hh"].shape[1]
        walk = _deltas_after if self.reset == "after" else _deltas_before
        delta, epsilon_n, dh_0 = walk(tape["slopes"], params["W_hh"], cotangents["h"], carry)
        d_W_xh, d_x = linear_backward(params["W_xh"], rows_of(x, 2), delta)  # (12)
        d_b_x, gates, h_prev = np.sum(delta, axis=0), delta[:, : 2 * size], states["h"][:-1]
        seen = tape.get("seen", h_prev)
        d_W_hh = np.concatenate([gates.T @ rows_of(h_prev, 2), epsilon_n.T @ rows_of(seen, 2)])  # (13)
        d_b_hh = np.concatenate([d_b_x[: 2 * size], np.sum(epsilon_n, axis=0)])  # (13)
        d_params = {"W_xh": d_W_xh, "W_hh": d_W_hh, "b_x": d_b_x, "b_hh": d_b_hh}
        return d_params, None if d_x is None else d_x.reshape(x.shape), {"h": dh_0}


def _turned(stacked: Array) -> Array:
    """A copy of what is stacked r, z, n, for −a_r, −a_z, a_n."""
    turned = stacked.copy()
    turned[: 2 * len(turned) // len(GATES)] *= -1
    return turned


def _gates_after(u: Array, W: Array, b_hn: Array, h: Array, room: Array) -> None:
    """Fills h (n+1, B, H), and in the room (n, 8, B, H) e⁻ᵃ of r, z, z̄, these themselves, n and v_n."""
    size = h.shape[-1]
    from_h, kept = np.empty((h.shape[1], 3 * size), h.dtype), np.empty_like(h[0])
    from_h_gates, from_h_n = from_h.reshape(-1, 3, size).swapaxes(0, 1)[:2], from_h[:, 2 * size :]
    decays, gates = (room[:, :2], room[:, 1], room[:, 2], room[:, :3]), (room[:, 3:6], room[:, 3], room[:, 4], room[:, 5])
    every = zip(h[:-1], h[1:], u[:, :2], u[:, 2], *decays, *gates, room[:, 6], room[:, 7], strict=True)
    with np.errstate(over="ignore"):  # where e⁻ᵃ is infinite, σ is zero
        for h_prev, h_t, u_gates, u_n, net, net_z, net_not_z, decay, gates_t, r, z, not_z, n, v_n in every:
            np.dot(h_prev, W, out=from_h)  # (2)
            np.add(u_gates, from_h_gates, out=net)
            np.negative(net_z, out=net_not_z)
            np.exp(decay, out=decay)
            np.add(decay, 1, out=gates_t)
            np.reciprocal(gates_t, out=gates_t)  # (3)
            np.add(from_h_n, b_hn, out=v_n)  # (2)
            np.multiply(r, v_n, out=n)
            np.add(n, u_n, out=n)
            np.tanh(n, out=n)  # (4a)
            np.multiply(not_z, n, out=h_t)
            np.multiply(z, h_prev, out=kept)
            np.add(h_t, kept, out=h_t)  # (5)


def _gates_before(u: Array, W_gates: Array, W_n: Array, h: Array, seen: Array, room: Array) -> None:
    """Fills h (n+1, B, H), r h_{t−1}, and in the room (n, 8, B, H) e⁻ᵃ of r, z, z̄, these themselves, and n."""
    size = h.shape[-1]
    from_h, kept = np.empty((h.shape[1], 2 * size), h.dtype), np.empty_like(h[0])
    from_h_gates = from_h.reshape(-1, 2, size).swapaxes(0, 1)
    decays, gates = (room[:, :2], room[:, 1], room[:, 2], room[:, :3]), (room[:, 3:6], room[:, 3], room[:, 4], room[:, 5])
    every = zip(h[:-1], h[1:], u[:, :2], u[:, 2], *decays, *gates, room[:, 6], seen, strict=True)
    with np.errstate(over="ignore"):  # where e⁻ᵃ is infinite, σ is zero
        for h_prev, h_t, u_gates, u_n, net, net_z, net_not_z, decay, gates_t, r, z, not_z, n, seen_t in every:
            np.dot(h_prev, W_gates, out=from_h)  # (2)
            np.add(u_gates, from_h_gates, out=net)
            np.negative(net_z, out=net_not_z)
            np.exp(decay, out=decay)
            np.add(decay, 1, out=gates_t)
            np.reciprocal(gates_t, out=gates_t)  # (3)
            np.multiply(r, h_prev, out=seen_t)
            np.dot(seen_t, W_n, out=kept)
            np.add(kept, u_n, out=n)
            np.tanh(n, out=n)  # (4b)
            np.multiply(not_z, n, out=h_t)
            np.multiply(z, h_prev, out=kept)
            np.add(h_t, kept, out=h_t)  # (5)


def _slopes(room: Array, h_prev: Array, seen: Array | None, slopes: Array) -> None:
    """Fills the factors in δ_r, δ_z, δ_n by (15) and (16), z, and r (before) or the factor in ε_n (after): (n, 5, B, H)."""
    decay_r, _, _, r, z, not_z, n, v_n = room.swapaxes(0, 1)
    k_n, k_z, k_r, last, kept = (slopes[:, place] for place in (3, 2, 1, 0, 4))
    np.multiply(n, n, out=k_n)
    np.subtract(1, k_n, out=k_n)
    k_n *= not_z  # (15)
    np.subtract(h_prev, n, out=k_z)
    k_z *= z
    k_z *= not_z  # (15)
    np.minimum(decay_r, np.finfo(room.dtype).max, out=decay_r)  # ∞ · 0 would be NaN
    decay_r *= r  # r̄
    if seen is None:
        np.multiply(k_n, r, out=last)  # (16a)
        np.multiply(last, v_n, out=k_r)
        k_r *= decay_r  # (16a)
    else:
        last[...] = r
        np.multiply(seen, decay_r, out=k_r)  # (16b)
    kept[...] = z


def _deltas_after(slopes: Array, W_hh: Array, e: Array, carry: Arrays | None) -> tuple[Array, Array, Array]:
    """(δ (T·B, 3H), ε_n (T·B, H), dh_0)."""
    steps, _, batch, size = slopes.shape
    all_four = np.empty((steps, batch, 4 * size), slopes.dtype)  # ε_n, δ_r, δ_z, δ_n
    W = np.concatenate([W_hh[2 * size :], W_hh[: 2 * size]])
    dh, kept = (np.zeros((batch, size), slopes.dtype) for _ in range(2))
    dh_prev = arriving(carry, "h", dh)
    every = (e, slopes[:, :4], slopes[:, 4], all_four.reshape(steps, batch, 4, size).swapaxes(1, 2), all_four[..., : 3 * size])
    for e_t, slopes_t, z, deltas, epsilon in zip(*(each[::-1] for each in every), strict=True):
        np.add(e_t, dh_prev, out=dh)
        np.multiply(slopes_t, dh, out=deltas)  # (15), (16a)
        np.multiply(z, dh, out=kept)
        np.dot(epsilon, W, out=dh_prev)
        np.add(dh_prev, kept, out=dh_prev)  # (11a)
    rows = rows_of(all_four, 2)
    return rows[:, size:], rows[:, :size], dh_prev


def _deltas_before(slopes: Array, W_hh: Array, e: Array, carry: Arrays | None) -> tuple[Array, Array, Array]:
    """(δ (T·B, 3H), ε_n (T·B, H), dh_0)."""
    steps, _, batch, size = slopes.shape
    delta = np.empty((steps, batch, 3 * size), slopes.dtype)
    W_gates, W_n = np.ascontiguousarray(W_hh[: 2 * size]), np.ascontiguousarray(W_hh[2 * size :])
    dh, q, kept = (np.zeros((batch, size), slopes.dtype) for _ in range(3))
    dh_prev = arriving(carry, "h", dh)
    r_z_n, gates_of, n_of = delta.reshape(steps, batch, 3, size).swapaxes(1, 2), delta[..., : 2 * size], delta[..., 2 * size :]
    every = (e, slopes[:, 1], slopes[:, 2:4], slopes[:, 0], slopes[:, 4], r_z_n[:, 0], r_z_n[:, 1:], gates_of, n_of)
    for e_t, k_r, k_z_n, r, z, delta_r, delta_z_n, delta_gates, delta_n in zip(*(each[::-1] for each in every), strict=True):
        np.add(e_t, dh_prev, out=dh)
        np.multiply(k_z_n, dh, out=delta_z_n)  # (15)
        np.dot(delta_n, W_n, out=q)  # (9b)
        np.multiply(k_r, q, out=delta_r)  # (16b)
        np.dot(delta_gates, W_gates, out=dh_prev)
        np.multiply(z, dh, out=kept)
        np.add(dh_prev, kept, out=dh_prev)
        np.multiply(r, q, out=kept)
        np.add(dh_prev, kept, out=dh_prev)  # (11b)
    rows = rows_of(delta, 2)
    return rows, rows[:, 2 * size :], dh_prev
