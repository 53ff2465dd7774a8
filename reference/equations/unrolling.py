"""A step unrolled over a sequence, in layers and directions, and read.

One scalar function of named arrays.

`SequenceLoss` joins a step and a readout into one scalar function of named arrays,

    function(xp, scan, variables, constants) -> (scalar, outputs by name),

where `scan` is the engine's own time loop and the outputs are the trajectories. It adds to the
parameters of every step, and to every state, an offset that is a variable of its own, such as
"W_hh@t" (T, H, H) or "h@t" (T, B, H) for the suffix "@t", and zero in value. The gradient for an
offset is the share of its step: the terms ∂L/∂s_t and (∂⁺s_t/∂W)ᵀ ∂L/∂s_t that the whole sums.
Offsets that are not among the variables are not added.

A truncated gradient is that of a function in which states are held fixed at certain places, by
`stop_gradient`: at the border of every chunk, or at the beginning of the window of every step,
which is then run again (Williams and Peng 1990).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Named
from .parts import Readout, Step, side_by_side, stop_gradient


def numpy_scan(body: Any, state: Named, per_step: Named) -> dict[str, Any]:
    """The time loop for plain arrays: `body` at every step in turn; states stacked over steps."""
    states: list[dict[str, Any]] = []
    for t in range(len(per_step["x"])):
        state = body(state, {name: value[t] for name, value in per_step.items()})
        states.append(dict(state))
    return {name: np.stack([each[name] for each in states]) for name in states[0]}


@dataclass(frozen=True)
class Arrangement:
    """How a step is made a network: layers, directions, and where its gradient is cut.

    `outputs` names what a layer hands on.
    """

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

    `offset` is the suffix of offsets; parameter_names and state_names are those of the step. A
    constant "lengths" (B,) says how many steps each row has, where they differ; "dropout_l0", … are
    masks on what a layer hands on.
    """

    step: Step
    readout: Readout
    parameter_names: tuple[str, ...]
    state_names: tuple[str, ...]
    offset: str
    arrangement: Arrangement = ONE_RUN

    def __call__(
        self, xp: Any, scan: Any, variables: Named, constants: Named
    ) -> tuple[Any, dict[str, Any]]:
        """(scalar, states)."""
        states = self.run(xp, scan, variables, constants)
        return self.readout(xp, variables, states, constants), states

    def run(self, xp: Any, scan: Any, variables: Named, constants: Named) -> dict[str, Any]:
        """The states by name; no constant is read that is the readout's alone."""
        named = {**constants, **variables}
        signal, states = named["x"], dict[str, Any]()
        lasting = (
            {"alive": xp.arange(signal.shape[0])[:, None] < named["lengths"]}
            if "lengths" in named
            else {}
        )
        for number, layer in enumerate(self.arrangement.suffixes()):
            if number:
                below = self.arrangement.suffixes()[number - 1]
                signal = side_by_side(
                    xp,
                    [
                        states[name + suffix]
                        for suffix in below
                        for name in self.arrangement.outputs
                    ],
                )
                kept = named.get(f"dropout_l{number - 1}")
                signal = signal if kept is None else signal * kept
            for suffix in layer:
                own = {name: named[name + suffix] for name in self.parameter_names}
                moved = [
                    name
                    for name in (*self.parameter_names, *self.state_names)
                    if name + suffix + self.offset in named
                ]
                per_step = {"x": signal, **lasting} | {
                    name: named[name + suffix + self.offset] for name in moved
                }
                body = one_step(xp, self.step, own, self.state_names)
                initial = {name: named[f"{name}{suffix}_0"] for name in self.state_names}
                reverse = suffix.endswith("_reverse")
                loop = partial(cut_scan, xp, scan, self.arrangement)
                trajectory = (
                    in_reverse(xp, loop, body, initial, per_step)
                    if reverse
                    else loop(body, initial, per_step)
                )
                states |= {name + suffix: trajectory[name] for name in self.state_names}
        return states


def one_step(
    xp: Any, step: Step, own: Named, state_names: tuple[str, ...]
) -> Callable[..., dict[str, Any]]:
    """body(state, at_step) -> new state: the step with this step's offsets.

    Rows that are not alive stay as they are.
    """

    def body(state: Named, at_step: Named) -> dict[str, Any]:
        params = {
            name: value + at_step[name] if name in at_step else value for name, value in own.items()
        }
        x = at_step["x"]
        if "alive" in at_step:
            alive = at_step["alive"]
            x = xp.where(alive[:, None] if x.ndim > 1 else alive, x, xp.zeros_like(x))
            new = step(xp, params, state, x)
            new = {name: xp.where(alive[:, None], new[name], state[name]) for name in state_names}
        else:
            new = step(xp, params, state, x)
        return {
            name: new[name] + at_step[name] if name in at_step else new[name]
            for name in state_names
        }

    return body


def in_reverse(xp: Any, loop: Any, body: Any, state: Named, per_step: Named) -> dict[str, Any]:
    """The loop from the last step to the first; what it returns stands in the order of time."""
    trajectory = loop(
        body, state, {name: xp.flip(value, axis=0) for name, value in per_step.items()}
    )
    return {name: xp.flip(value, axis=0) for name, value in trajectory.items()}


def cut_scan(
    xp: Any, scan: Any, arrangement: Arrangement, body: Any, state: Named, per_step: Named
) -> dict[str, Any]:
    """The engine's loop, its gradient cut by window or chunks where the arrangement says so."""
    steps = per_step["x"].shape[0]
    if arrangement.window is not None:
        return windows(
            xp,
            body,
            state,
            [{name: value[t] for name, value in per_step.items()} for t in range(steps)],
            arrangement,
        )
    chunk = arrangement.chunk or steps
    pieces = []
    for first in range(0, steps, chunk):
        pieces.append(
            scan(
                body,
                state,
                {name: value[first : first + chunk] for name, value in per_step.items()},
            )
        )
        state = {name: stop_gradient(value[-1]) for name, value in pieces[-1].items()}
    return (
        pieces[0]
        if len(pieces) == 1
        else {name: xp.concat([piece[name] for piece in pieces], axis=0) for name in pieces[0]}
    )


def windows(
    xp: Any, body: Any, state: Named, at: list[Any], arrangement: Arrangement
) -> dict[str, Any]:
    """Every state by a run of its own over its window, from a state before it that is held fixed.

    s_0 is not.
    """
    trajectory = [dict(state)]
    for t in range(len(at)):
        first = max(0, t - (arrangement.window or 0))
        new = (
            trajectory[0]
            if first == 0
            else {name: stop_gradient(value) for name, value in trajectory[first].items()}
        )
        for k in range(first, t + 1):
            new = body(new, at[k])
        trajectory.append(new)
    return {name: xp.stack([each[name] for each in trajectory[1:]]) for name in state}
