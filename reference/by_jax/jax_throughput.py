"""jax as a contender in speed.

jax.jit(jax.value_and_grad) of a cell under lax.scan, a linear head and softmax cross-entropy.

`compiled` returns a function of no arguments, to be timed, which gives the loss and the gradient
for every variable; all that can be done once is done before. Variables and shapes are those of
reference.equations; sigmoid, tanh and log-softmax are jax's own, and what does not wait for the
state is computed for all steps at once.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

import jax
import jax.numpy as xp
import numpy as np

from ..arrays import Array, Arrays, Named

Run: TypeAlias = Callable[[], tuple[float, Arrays]]
State: TypeAlias = tuple[Any, ...]


def rnn(own: Named, state: State, u: Any) -> State:
    """h ← tanh(u + W_hh h)."""
    return (xp.tanh(u + state[0] @ own["W_hh"].T),)


def lstm(own: Named, state: State, u: Any) -> State:
    """(h, c) ← the LSTM's, gates stacked i, f, g, o."""
    h, c = state
    i, f, g, o = xp.split(u + h @ own["W_hh"].T, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * xp.tanh(g)
    return jax.nn.sigmoid(o) * xp.tanh(c), c


def gru(own: Named, state: State, u: Any) -> State:
    """h ← the GRU's with the reset after the product, gates stacked r, z, n."""
    (h,) = state
    (u_r, u_z, u_n), (v_r, v_z, v_n) = (
        xp.split(u, 3, axis=-1),
        xp.split(h @ own["W_hh"].T + own["b_hh"], 3, axis=-1),
    )
    z, n = jax.nn.sigmoid(u_z + v_z), xp.tanh(u_n + jax.nn.sigmoid(u_r + v_r) * v_n)
    return ((1 - z) * n + z * h,)


STEPS: dict[str, Callable[..., State]] = {"rnn": rnn, "lstm": lstm, "gru": gru}


def loss_of(cell: str, variables: Named, target: Any) -> Any:
    """Softmax cross-entropy of the head's outputs, summed over all steps and rows."""
    u = variables["x"] @ variables["W_xh"].T + variables["b_x" if cell == "gru" else "b_h"]
    start = tuple(variables[f"{name}_0"] for name in (("h", "c") if cell == "lstm" else ("h",)))

    def body(state: State, at: Any) -> tuple[State, Any]:
        new = STEPS[cell](variables, state, at)
        return new, new[0]

    y = jax.lax.scan(body, start, u)[1] @ variables["W_hy"].T + variables["b_y"]
    return -xp.sum(xp.take_along_axis(jax.nn.log_softmax(y), target[..., None], axis=-1))


def compiled(cell: str, variables: Named, target: Array) -> Run:
    """The loop by lax.scan, compiled with its gradient.

    64-bit mode, where the variables want it, is on in the calls only.
    """
    double = np.dtype(np.float64) in {value.dtype for value in variables.values()}
    mode: Callable[[], Any] = (lambda: jax.enable_x64(True)) if double else nullcontext
    function = jax.jit(jax.value_and_grad(lambda leaves, target: loss_of(cell, leaves, target)))
    with mode():
        leaves, targets = (
            {name: xp.asarray(value) for name, value in variables.items()},
            xp.asarray(target.astype(np.int32)),
        )

    def run() -> tuple[float, Arrays]:
        with mode():
            value, found = jax.block_until_ready(function(leaves, targets))
        return float(value), {name: np.asarray(gradient) for name, gradient in found.items()}

    return run


def step_jacobians(
    cell: str, variables: Named, before: Array, split: Callable[..., State]
) -> Callable[[], Array]:
    """∂s_t/∂s_{t−1} of every step and row, (T, B, S, S), at the states `before` (T, B, S).

    By jit(vmap(vmap(jacrev(step)))).
    """
    mode: Callable[[], Any] = (
        (lambda: jax.enable_x64(True)) if before.dtype == np.float64 else nullcontext
    )

    def one_step(s: Any, x: Any, own: Any) -> Any:
        u = own["W_xh"] @ x + own["b_x" if cell == "gru" else "b_h"]
        return xp.concatenate(STEPS[cell](own, split(s), u))

    function = jax.jit(jax.vmap(jax.vmap(jax.jacrev(one_step), (0, 0, None)), (0, 0, None)))
    with mode():
        own, s, x = (
            {name: xp.asarray(value) for name, value in variables.items()},
            xp.asarray(before),
            xp.asarray(variables["x"]),
        )

    def run() -> Array:
        with mode():
            return np.asarray(jax.block_until_ready(function(s, x, own)))

    return run
