"""The forward equations, typed a second time as array-API code, for engines that differentiate by themselves.

Nothing here knows a derivative. Steps are `step(xp, params, state, x, **options) -> new state`; readouts are
`readout(xp, params, states, constants, **options) -> scalar` on stacked states (T, B, ·). `xp` is an array-API namespace:
NumPy, torch through array-api-compat, jax.numpy. The conventions are torch's: weights are (out, in), rows are samples.

`sequence_loss` joins a step and a readout into one scalar function of named arrays,

    function(xp, scan, variables, constants) -> (scalar, outputs by name),

where `scan` is the engine's own time loop and the outputs are the trajectory. It adds to the parameters of every step, and to
every state, an offset that is a variable of its own, such as "W_hh@t" (T, H, H) or "h@t" (T, B, H) for the suffix "@t", and zero
in value. The gradient for an offset is the share of its step: the terms ∂L/∂s_t and (∂⁺s_t/∂W)ᵀ ∂L/∂s_t that the whole sums.
Offsets that are not among the variables are not added.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

Step: TypeAlias = Callable[..., dict[str, Any]]
Readout: TypeAlias = Callable[..., Any]
ScalarFunction: TypeAlias = Callable[[Any, Any, Mapping[str, Any], Mapping[str, Any]], tuple[Any, dict[str, Any]]]


def stop_gradient(value: Any) -> Any:
    """The same number, a constant to torch and jax."""
    if hasattr(value, "detach"):
        return value.detach()
    jax = sys.modules.get("jax")
    return value if jax is None or not isinstance(value, jax.Array) else jax.lax.stop_gradient(value)


def relu(xp: Any, z: Any) -> Any:
    """The positive part, with derivative 0 at 0: a select, since the gradient of max at a tie is ½ in torch and jax."""
    return xp.where(z > 0, z, xp.zeros_like(z))


def sigmoid(xp: Any, z: Any) -> Any:
    """The logistic function as exp(−log(1 + e^−z))."""
    return xp.exp(-xp.logaddexp(xp.zeros_like(z), -z))


def softplus(xp: Any, z: Any) -> Any:
    """log(e^0 + e^z)."""
    return xp.logaddexp(xp.zeros_like(z), z)


NONLINEARITIES: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda xp, z: xp.tanh(z),
    "sigmoid": sigmoid,
    "relu": relu,
    "identity": lambda xp, z: z,
    "softplus": softplus,
}


def one_hot(xp: Any, tokens: Any, size: int, like: Any) -> Any:
    """Rows e_k for tokens k: (…, size), of the dtype of `like`."""
    return xp.astype(xp.expand_dims(tokens, axis=-1) == xp.arange(size), like.dtype)


def affine(xp: Any, x: Any, weight: Any) -> Any:
    """x Wᵀ; integer x stands for one-hot rows."""
    if xp.isdtype(x.dtype, "integral"):
        x = one_hot(xp, x, weight.shape[1], weight)
    return xp.matmul(x, xp.matrix_transpose(weight))


def rnn(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any, *, activation: str) -> dict[str, Any]:
    """h ← φ(x W_xhᵀ + h W_hhᵀ + b_h)."""
    net = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    return {"h": NONLINEARITIES[activation](xp, net)}


def blocks(stacked: Any, count: int) -> list[Any]:
    """The `count` equal blocks of the last axis."""
    width = stacked.shape[-1] // count
    return [stacked[..., k * width : (k + 1) * width] for k in range(count)]


def lstm(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any) -> dict[str, Any]:
    """torch.nn.LSTMCell with one bias: input, forget, cell and output gate stacked in this order."""
    gates = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    to_write, to_keep, candidate, to_show = blocks(gates, 4)
    cell = sigmoid(xp, to_keep) * state["c"] + sigmoid(xp, to_write) * xp.tanh(candidate)
    return {"h": sigmoid(xp, to_show) * xp.tanh(cell), "c": cell}


def gru(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any, *, reset: str) -> dict[str, Any]:
    """torch.nn.GRUCell: reset, update and new gate stacked in this order; reset "before" is the paper's form."""
    from_x = affine(xp, x, params["W_xh"]) + params["b_x"]
    from_h = affine(xp, state["h"], params["W_hh"]) + params["b_hh"]
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = blocks(from_x, 3), blocks(from_h, 3)
    open_reset, update = sigmoid(xp, reset_x + reset_h), sigmoid(xp, update_x + update_h)
    if reset == "before":
        start = 2 * state["h"].shape[-1]
        new_h = affine(xp, open_reset * state["h"], params["W_hh"][start:, :]) + params["b_hh"][start:]
    else:
        new_h = open_reset * new_h
    new = xp.tanh(new_x + new_h)
    return {"h": new + update * (state["h"] - new)}


STEPS: dict[str, Step] = {
    "rnn": rnn,
    "lstm": lstm,
    "gru": gru,
}


def outputs(xp: Any, params: Mapping[str, Any], states: Mapping[str, Any]) -> Any:
    """Head: h W_hyᵀ + b_y for every step, (T, B, V)."""
    return affine(xp, states["h"], params["W_hy"]) + params["b_y"]


def average_or_sum(xp: Any, per_position: Any, mask: Any, reduction: str) -> Any:
    """Sum of the masked losses; for "mean", divided by the number of positions that count."""
    total = xp.sum(per_position * mask)
    return total / xp.sum(mask) if reduction == "mean" else total


def softmax_cross_entropy(
    xp: Any, params: Mapping[str, Any], states: Mapping[str, Any], constants: Mapping[str, Any], *, reduction: str
) -> Any:
    """−log softmax(y)[target] at each position, as logsumexp(y) − y[target]."""
    y = outputs(xp, params, states)
    peak = stop_gradient(xp.max(y, axis=-1, keepdims=True))  # it cancels; a gradient through max would hang on y == max(y)
    logsumexp = xp.log(xp.sum(xp.exp(y - peak), axis=-1)) + peak[..., 0]
    chosen = xp.sum(y * one_hot(xp, constants["target"], y.shape[-1], y), axis=-1)
    return average_or_sum(xp, logsumexp - chosen, constants["mask"], reduction)


def squared_error(
    xp: Any, params: Mapping[str, Any], states: Mapping[str, Any], constants: Mapping[str, Any], *, reduction: str
) -> Any:
    """½ Σ_v (y − target)² at each position."""
    residual = outputs(xp, params, states) - constants["target"]
    return average_or_sum(xp, xp.sum(residual**2, axis=-1) / 2, constants["mask"], reduction)


def projection(xp: Any, params: Mapping[str, Any], states: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    """Inner product of every state with the given cotangents."""
    del params
    products = [xp.sum(state * constants[f"cotangent_{name}"]) for name, state in states.items()]
    return sum(products[1:], start=products[0])


READOUTS: dict[str, Readout] = {
    "softmax-cross-entropy": softmax_cross_entropy,
    "squared-error": squared_error,
    "projection": projection,
}


def bound_step(name: str, options: Mapping[str, Any]) -> Step:
    """The step of STEPS called `name`, its options filled in."""
    return partial(STEPS[name], **options)


def bound_readout(name: str, options: Mapping[str, Any]) -> Readout:
    """The readout of READOUTS called `name`, its options filled in."""
    return partial(READOUTS[name], **options)


def sequence_loss(
    step: Step, readout: Readout, parameter_names: tuple[str, ...], state_names: tuple[str, ...], offset: str
) -> ScalarFunction:
    """The scalar function of a step unrolled over "x" from "<state>_0" and read by a readout; `offset` is the suffix."""

    def function(xp: Any, scan: Any, variables: Mapping[str, Any], constants: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        named = {**constants, **variables}
        moved = [name for name in (*parameter_names, *state_names) if name + offset in named]
        per_step = {"x": named["x"]} | {name: named[name + offset] for name in moved}

        def body(state: Mapping[str, Any], at_step: Mapping[str, Any]) -> dict[str, Any]:
            params = {name: named[name] + at_step[name] if name in at_step else named[name] for name in parameter_names}
            new = step(xp, params, state, at_step["x"])
            return {name: new[name] + at_step[name] if name in at_step else new[name] for name in state_names}

        states = scan(body, {name: named[f"{name}_0"] for name in state_names}, per_step)
        return readout(xp, variables, states, constants), states

    return function
