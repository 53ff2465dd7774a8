"""The forward equations, typed a second time as array-API code, for engines that differentiate by themselves.

Nothing here knows a derivative. Steps are `step(xp, params, state, x, **options) -> new state`; readouts are
`readout(xp, params, states, constants, **options) -> scalar` on stacked states (T, B, ·). `xp` is an array-API namespace:
NumPy, torch through array-api-compat, jax.numpy. The conventions are torch's: weights are (out, in), rows are samples; in a
network of several layers or directions the names have the suffixes "_l0", "_l0_reverse", "_l1", ….

`SequenceLoss` joins a step and a readout into one scalar function of named arrays,

    function(xp, scan, variables, constants) -> (scalar, outputs by name),

where `scan` is the engine's own time loop and the outputs are the trajectories. It adds to the parameters of every step, and to
every state, an offset that is a variable of its own, such as "W_hh@t" (T, H, H) or "h@t" (T, B, H) for the suffix "@t", and zero
in value. The gradient for an offset is the share of its step: the terms ∂L/∂s_t and (∂⁺s_t/∂W)ᵀ ∂L/∂s_t that the whole sums.
Offsets that are not among the variables are not added.

A truncated gradient is that of a function in which states are held fixed at certain places, by `stop_gradient`: at the border of
every chunk, or at the beginning of the window of every step, which is then run again (Williams and Peng 1990).
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

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


def positive(xp: Any, z: Any) -> Any:
    """g of Feng et al. 2024, appendix B: the logistic function below 0, its tangent moved to slope 1 from there on."""
    return xp.where(z >= 0, 0.5 + z, sigmoid(xp, z))


NONLINEARITIES: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda xp, z: xp.tanh(z),
    "sigmoid": sigmoid,
    "relu": relu,
    "identity": lambda xp, z: z,
    "softplus": softplus,
    "positive": positive,
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
    return {"h": update * state["h"] + sigmoid(xp, -update_x - update_h) * new}


def peephole_lstm(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any) -> dict[str, Any]:
    """Gers et al. 2002: input and forget gate look at the old cell, the output gate at the new one."""
    old = state["c"]
    gates = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    to_write, to_keep, candidate, to_show = blocks(gates, 4)
    keep, write = sigmoid(xp, to_keep + old * params["p_f"]), sigmoid(xp, to_write + old * params["p_i"])
    cell = keep * old + write * xp.tanh(candidate)
    return {"h": xp.tanh(cell) * sigmoid(xp, to_show + cell * params["p_o"]), "c": cell}


def projected_lstm(
    xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any, *, projection_size: int | None = None
) -> dict[str, Any]:
    """torch.nn.LSTM(proj_size): the LSTM on the projected h, its own h projected."""
    del projection_size  # W_hr has it
    inner = lstm(xp, params, state, x)
    return {"h": affine(xp, inner["h"], params["W_hr"]), "c": inner["c"]}


def residual(
    xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any, *, alpha: float, activation: str
) -> dict[str, Any]:
    """The old state plus α times what an RNN would make of it."""
    return {"h": state["h"] + alpha * rnn(xp, params, state, x, activation=activation)["h"]}


def min_gru(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any, *, activation: str) -> dict[str, Any]:
    """Feng et al. 2024, section 3.1: between the old state and a candidate, update and candidate told by x alone."""
    update, candidate = blocks(affine(xp, x, params["W_xh"]) + params["b_h"], 2)
    return {"h": sigmoid(xp, -update) * state["h"] + sigmoid(xp, update) * NONLINEARITIES[activation](xp, candidate)}


def min_lstm(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any, *, activation: str) -> dict[str, Any]:
    """Feng et al. 2024, section 3.2: forget and input gate over their sum."""
    to_keep, to_write, candidate = blocks(affine(xp, x, params["W_xh"]) + params["b_h"], 3)
    keep, write = sigmoid(xp, to_keep), sigmoid(xp, to_write)
    return {"h": (keep * state["h"] + write * NONLINEARITIES[activation](xp, candidate)) / (keep + write)}


def lru(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any, **drawn_between: float) -> dict[str, Any]:
    """Orvieto et al. 2023: each (re, im) shrunk by exp(−e^ν), turned by the angle e^θ, and moved by e^γ B x."""
    del drawn_between  # radii, which ν has
    shrink, angle = xp.exp(-xp.exp(params["nu"])), xp.exp(params["theta"])
    move_re, move_im = blocks(affine(xp, x, params["W_xh"]), 2)
    gain, re, im = xp.exp(params["gamma"]), state["re"], state["im"]
    return {
        "re": shrink * (re * xp.cos(angle) - im * xp.sin(angle)) + gain * move_re,
        "im": shrink * (re * xp.sin(angle) + im * xp.cos(angle)) + gain * move_im,
    }


def slstm(xp: Any, params: Mapping[str, Any], state: Mapping[str, Any], x: Any) -> dict[str, Any]:
    """Beck et al. 2024, eqs. 8–17, forget gate σ; the maximum is a select, which at a tie goes by the forget gate."""
    gates = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    log_input, to_keep, candidate, to_show = blocks(gates, 4)
    log_kept = state["m"] - xp.logaddexp(xp.zeros_like(to_keep), -to_keep)
    peak = xp.where(log_kept < log_input, log_input, log_kept)
    write, keep = xp.exp(log_input - peak), xp.exp(log_kept - peak)
    cell, normaliser = write * xp.tanh(candidate) + keep * state["c"], write + keep * state["n"]
    return {"h": sigmoid(xp, to_show) * (cell / normaliser), "c": cell, "n": normaliser, "m": peak}


STEPS: dict[str, Step] = {
    "rnn": rnn,
    "irnn": partial(rnn, activation="relu"),
    "residual": residual,
    "lstm": lstm,
    "peephole-lstm": peephole_lstm,
    "projected-lstm": projected_lstm,
    "gru": gru,
    "min-gru": min_gru,
    "min-lstm": min_lstm,
    "lru": lru,
    "slstm": slstm,
}


def outputs(xp: Any, params: Mapping[str, Any], states: Mapping[str, Any], reads: tuple[str, ...]) -> Any:
    """Head: h W_hyᵀ + b_y for every step, (T, B, V), with h the states of these names side by side."""
    return affine(xp, side_by_side(xp, [states[name] for name in reads]), params["W_hy"]) + params["b_y"]


def side_by_side(xp: Any, parts: list[Any]) -> Any:
    """The parts along the last axis."""
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


def average_or_sum(xp: Any, per_position: Any, mask: Any, reduction: str) -> Any:
    """Sum of the masked losses; for "mean", divided by the number of positions that count."""
    total = xp.sum(per_position * mask)
    return total / xp.sum(mask) if reduction == "mean" else total


def softmax_cross_entropy(
    xp: Any,
    params: Mapping[str, Any],
    states: Mapping[str, Any],
    constants: Mapping[str, Any],
    *,
    reduction: str,
    reads: tuple[str, ...] = ("h",),
) -> Any:
    """−log softmax(y)[target] at each position, as logsumexp(y) − y[target]."""
    y = outputs(xp, params, states, reads)
    peak = stop_gradient(xp.max(y, axis=-1, keepdims=True))  # it cancels; a gradient through max would hang on y == max(y)
    logsumexp = xp.log(xp.sum(xp.exp(y - peak), axis=-1)) + peak[..., 0]
    chosen = xp.sum(y * one_hot(xp, constants["target"], y.shape[-1], y), axis=-1)
    return average_or_sum(xp, logsumexp - chosen, constants["mask"], reduction)


def squared_error(
    xp: Any,
    params: Mapping[str, Any],
    states: Mapping[str, Any],
    constants: Mapping[str, Any],
    *,
    reduction: str,
    reads: tuple[str, ...] = ("h",),
) -> Any:
    """½ Σ_v (y − target)² at each position."""
    residual = outputs(xp, params, states, reads) - constants["target"]
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


def numpy_scan(body: Any, state: Mapping[str, Any], per_step: Mapping[str, Any]) -> dict[str, Any]:
    """The time loop for plain arrays: `body` at every step in turn; states stacked over steps."""
    states: list[dict[str, Any]] = []
    for t in range(len(per_step["x"])):
        state = body(state, {name: value[t] for name, value in per_step.items()})
        states.append(dict(state))
    return {name: np.stack([each[name] for each in states]) for name in states[0]}


@dataclass(frozen=True)
class Arrangement:
    """How a step is made a network: layers, directions, and where its gradient is cut; `outputs` names what a layer hands on."""

    layers: int = 1
    bidirectional: bool = False
    window: int | None = None
    chunk: int | None = None
    outputs: tuple[str, ...] = ("h",)

    def suffixes(self) -> list[list[str]]:
        """By layer, the suffixes of its directions; the second runs backwards in time."""
        if self.layers == 1 and not self.bidirectional:
            return [[""]]
        ways = ("", "_reverse") if self.bidirectional else ("",)
        return [[f"_l{number}{way}" for way in ways] for number in range(self.layers)]


ONE_RUN = Arrangement()


@dataclass(frozen=True)
class SequenceLoss:
    """The scalar function of a network of a step, over "x" from "<state>_0", read by a readout.

    `offset` is the suffix of offsets; parameter_names and state_names are those of the step. A constant "lengths" (B,) says how
    many steps each row has, where they differ; "dropout_l0", … are masks on what a layer hands on.
    """

    step: Step
    readout: Readout
    parameter_names: tuple[str, ...]
    state_names: tuple[str, ...]
    offset: str
    arrangement: Arrangement = ONE_RUN

    def __call__(
        self, xp: Any, scan: Any, variables: Mapping[str, Any], constants: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """(scalar, states)."""
        states = self.run(xp, scan, variables, constants)
        return self.readout(xp, variables, states, constants), states

    def run(self, xp: Any, scan: Any, variables: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        """The states by name; no constant is read that is the readout's alone."""
        named = {**constants, **variables}
        signal, states = named["x"], dict[str, Any]()
        lasting = {"alive": xp.arange(signal.shape[0])[:, None] < named["lengths"]} if "lengths" in named else {}
        for number, layer in enumerate(self.arrangement.suffixes()):
            if number:
                below = self.arrangement.suffixes()[number - 1]
                signal = side_by_side(xp, [states[name + suffix] for suffix in below for name in self.arrangement.outputs])
                kept = named.get(f"dropout_l{number - 1}")
                signal = signal if kept is None else signal * kept
            for suffix in layer:
                own = {name: named[name + suffix] for name in self.parameter_names}
                moved = [name for name in (*self.parameter_names, *self.state_names) if name + suffix + self.offset in named]
                per_step = {"x": signal, **lasting} | {name: named[name + suffix + self.offset] for name in moved}
                body = one_step(xp, self.step, own, self.state_names)
                initial = {name: named[f"{name}{suffix}_0"] for name in self.state_names}
                reverse = suffix.endswith("_reverse")
                loop = partial(cut_scan, xp, scan, self.arrangement)
                trajectory = in_reverse(xp, loop, body, initial, per_step) if reverse else loop(body, initial, per_step)
                states |= {name + suffix: trajectory[name] for name in self.state_names}
        return states


def one_step(xp: Any, step: Step, own: Mapping[str, Any], state_names: tuple[str, ...]) -> Callable[..., dict[str, Any]]:
    """body(state, at_step) -> new state: the step with this step's offsets; rows that are not alive stay as they are."""

    def body(state: Mapping[str, Any], at_step: Mapping[str, Any]) -> dict[str, Any]:
        params = {name: value + at_step[name] if name in at_step else value for name, value in own.items()}
        x = at_step["x"]
        if "alive" in at_step:
            alive = at_step["alive"]
            x = xp.where(alive[:, None] if x.ndim > 1 else alive, x, xp.zeros_like(x))
            new = step(xp, params, state, x)
            new = {name: xp.where(alive[:, None], new[name], state[name]) for name in state_names}
        else:
            new = step(xp, params, state, x)
        return {name: new[name] + at_step[name] if name in at_step else new[name] for name in state_names}

    return body


def in_reverse(xp: Any, loop: Any, body: Any, state: Mapping[str, Any], per_step: Mapping[str, Any]) -> dict[str, Any]:
    """The loop from the last step to the first; what it returns stands in the order of time."""
    trajectory = loop(body, state, {name: xp.flip(value, axis=0) for name, value in per_step.items()})
    return {name: xp.flip(value, axis=0) for name, value in trajectory.items()}


def cut_scan(
    xp: Any, scan: Any, arrangement: Arrangement, body: Any, state: Mapping[str, Any], per_step: Mapping[str, Any]
) -> dict[str, Any]:
    """The engine's loop, its gradient cut by window or chunks where the arrangement says so."""
    steps = per_step["x"].shape[0]
    if arrangement.window is not None:
        return windows(xp, body, state, [{name: value[t] for name, value in per_step.items()} for t in range(steps)], arrangement)
    chunk = arrangement.chunk or steps
    pieces = []
    for first in range(0, steps, chunk):
        pieces.append(scan(body, state, {name: value[first : first + chunk] for name, value in per_step.items()}))
        state = {name: stop_gradient(value[-1]) for name, value in pieces[-1].items()}
    return pieces[0] if len(pieces) == 1 else {name: xp.concat([piece[name] for piece in pieces], axis=0) for name in pieces[0]}


def windows(xp: Any, body: Any, state: Mapping[str, Any], at: list[Any], arrangement: Arrangement) -> dict[str, Any]:
    """Every state by a run of its own over its window, from a state before it that is held fixed; s_0 is not."""
    trajectory = [dict(state)]
    for t in range(len(at)):
        first = max(0, t - (arrangement.window or 0))
        new = trajectory[0] if first == 0 else {name: stop_gradient(value) for name, value in trajectory[first].items()}
        for k in range(first, t + 1):
            new = body(new, at[k])
        trajectory.append(new)
    return {name: xp.stack([each[name] for each in trajectory[1:]]) for name in state}
