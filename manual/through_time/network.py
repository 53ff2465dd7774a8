"""Cells, the time loop, and what reads the states, put together.

Layers, directions, one scalar loss and all its gradients.

A network is L layers of one cell, in one direction or both. With y⁽⁰⁾ = x, layer l runs its cell
over y⁽ˡ⁻¹⁾, forwards and, in a second copy with weights of its own, backwards in time; its output
is what the cell outputs (h), both directions side by side:

    y_t⁽ˡ⁾ = (h_t⁽ˡ⁾, h_t⁽ˡ'reverse⁾)                            (1)
    x_t⁽ˡ⁺¹⁾ = m_t⁽ˡ⁾ ⊙ y_t⁽ˡ⁾          (dropout between layers with a given mask m; without one, y itself)    (2)

and the way back is the same from the top down: what layer l+1 hands back for its x, times the mask,
is added to the loss's own derivative of layer l's output; each direction's share of it goes through
its own time loop, and the two dx add up:

    dy_t⁽ˡ⁾ = ∂L/∂y_t⁽ˡ⁾ + m_t⁽ˡ⁾ ⊙ dx_t⁽ˡ⁺¹⁾                    (3)
    dx_t⁽ˡ⁾ = dx_t (forwards) + dx_t (backwards)                 (4)

Parameters and states bear torch's suffixes, "W_hh_l0", "h_l1_reverse"; a single layer in one
direction has none. Everything is indexed by the time t of its x, in both directions: the initial
state of a reverse direction stands at T + 1. Rows with fewer steps than T are masked as in
`manual.through_time.bptt`: backwards in time such a row starts at its own last step.

What turns the states into a loss is a *readout*. `Head` is a linear layer on the output of the top
layer, and a loss:

    y_t = W_hy h_t + b_y                       (5)
    L   = loss(y, target, weights)             (6)   see manual.losses
    ∂L/∂h_t  = W_hyᵀ ∂L/∂y_t                   (7)   the cotangent e_t of the time loop
    ∂L/∂W_hy = Σ_t (∂L/∂y_t) h_tᵀ              (8)
    ∂L/∂b_y  = Σ_t ∂L/∂y_t                     (9)

`Projection` reads every part of every state at every step through given random weights C and needs
no head:

    L = Σ_t ⟨C_t, s_t⟩,    e_t = C_t           (10)

which leaves no output of a cell unwatched.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..arrays import Array, Arrays, Named
from ..cell import Cell, Shapes, output_names, output_size, zeros
from ..linear import rows_of
from ..losses import LOSSES, position_weights
from . import bptt, checkpointing, truncation
from .sequences import weight_gradient


@dataclass(frozen=True)
class Direction:
    """One run of the cell: which layer, whether backwards in time, and the suffix of its names."""

    layer: int
    reverse: bool
    suffix: str

    def in_time(self, run: Array) -> Array:
        """An array over steps in the order of the run, in the order of time.

        It is its own inverse.
        """
        return run[::-1] if self.reverse else run

    def own(self, named: Named) -> Arrays:
        """Those of the arrays that bear this suffix, without it."""
        return {name.removesuffix(self.suffix): value for name, value in named.items() if name.endswith(self.suffix)}

    def suffixed(self, own: Named) -> Arrays:
        """The arrays under their names in the network."""
        return {name + self.suffix: value for name, value in own.items()}


def directions(layers: int, bidirectional: bool) -> list[tuple[Direction, ...]]:
    """The runs of each layer, from the lowest up. Raises ValueError for no layer."""
    if layers < 1:
        raise ValueError(f"a network has at least one layer, not {layers}")
    if layers == 1 and not bidirectional:
        return [(Direction(0, False, ""),)]
    both = ((False, ""), (True, "_reverse"))
    return [
        tuple(Direction(layer, reverse, f"_l{layer}{which}") for reverse, which in both[: 1 + bidirectional])
        for layer in range(layers)
    ]


class Readout(Protocol):
    """What turns a trajectory into a loss."""

    def parameter_shapes(self, features: int) -> Shapes:
        """Shapes of the readout's own parameters, for so many features of the top layer."""
        ...

    def value(self, params: Named, states: Named, inputs: Named) -> "Reading":
        """Loss, cotangents and the readout's own gradients, from s_1..s_T: name → (T, B, ·)."""
        ...


@dataclass(frozen=True)
class Reading:
    """The loss, outputs y or None, cotangents e_1..e_T, and the readout's own gradients.

    Cotangents are by the names of states, gradients by those of parameters.
    """

    loss: float
    y: Array | None
    cotangents: Arrays
    d_params: Arrays


@dataclass(frozen=True)
class Head:
    """(5)–(9): a linear layer on the states named in `reads`, side by side, and a loss.

    The loss is a key of `manual.losses.LOSSES`.

    inputs give "target" and "mask" (T, B).
    """

    loss: str
    reduction: str
    output_size: int
    reads: tuple[str, ...] = ("h",)

    def parameter_shapes(self, features: int) -> Shapes:
        """W_hy (V, features) and b_y (V,)."""
        return {"W_hy": (self.output_size, features), "b_y": (self.output_size,)}

    def value(self, params: Named, states: Named, inputs: Named) -> Reading:
        """Loss and cotangents of what is read.

        The other parts of the state are not, and their cotangent is zero.
        """
        parts = [rows_of(states[name], 2) for name in self.reads]
        h = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        y = (h @ params["W_hy"].T + params["b_y"]).reshape(*inputs["mask"].shape, -1)  # (5)
        weights = position_weights(inputs["mask"], self.reduction)
        loss, d_y = LOSSES[self.loss](y, inputs["target"], weights)  # (6)
        cotangents = {name: zeros(trajectory) for name, trajectory in states.items()}
        ends, rows = np.cumsum([states[name].shape[-1] for name in self.reads]), rows_of(d_y, 2)
        d_h = (rows @ params["W_hy"]).reshape(*d_y.shape[:2], -1)
        cotangents |= dict(zip(self.reads, np.split(d_h, ends[:-1], axis=-1), strict=True))  # (7)
        d_params = {"W_hy": weight_gradient(h, rows), "b_y": np.sum(rows, axis=0)}  # (8), (9)
        return Reading(loss, y, cotangents, d_params)


@dataclass(frozen=True)
class Projection:
    """(10): inputs give the weights C as "cotangent_h", "cotangent_c", …, each (T, B, ·)."""

    def parameter_shapes(self, features: int) -> Shapes:
        """None: nothing is learned here."""
        del features
        return {}

    def value(self, params: Named, states: Named, inputs: Named) -> Reading:
        """The inner product and its cotangents."""
        del params
        cotangents = {name: inputs[f"cotangent_{name}"] for name in states}
        loss = sum(float(np.sum(cotangents[name] * states[name])) for name in states)  # (10)
        return Reading(loss, None, cotangents, {})


@dataclass(frozen=True)
class Pass:
    """One forward pass: its loss, its outputs, and what backward needs.

    tapes are by suffix, each in the order of its own run; states are s_1..s_T by name, (T, B, ·),
    in the order of time; dropout is the mask (T, B, ·) on each layer's output, or None.
    """

    loss: float
    y: Array | None
    tapes: dict[str, bptt.Tape]
    states: Arrays
    dropout: list[Array | None]
    reading: Reading

    @property
    def tape(self) -> bptt.Tape:
        """The tape of a network of one layer in one direction."""
        (tape,) = self.tapes.values()
        return tape


@dataclass(frozen=True)
class Network:
    """Layers and directions of a cell, under a readout; state_names are the cell's, in its order.

    Initial states are inputs named "h_0", "c_0", … ("h_l0_0", …), the sequence is the input "x",
    the number of steps of each row "lengths" (B,), where they differ, and the mask on the output of
    layer l "dropout_l<l>" (T, B, ·), where there is one. `window` and `chunk` cut the gradient as
    in `manual.through_time.truncation` and in `manual.through_time.bptt`. `checkpoint` and `budget`
    are those of `manual.through_time.checkpointing`, for each direction of each layer: the same
    gradient in less memory.
    """

    cell: Cell
    readout: Readout
    state_names: tuple[str, ...] = ("h",)
    layers: int = 1
    bidirectional: bool = False
    window: int | None = None
    chunk: int | None = None
    checkpoint: int | None = None
    budget: float = checkpointing.BUDGET

    def __post_init__(self) -> None:
        if self.window is not None and (self.layers > 1 or self.bidirectional):
            raise ValueError("a window cuts one layer in one direction: through others a loss reaches steps that are no window")
        if self.chunk is not None and self.bidirectional:
            raise ValueError("chunks need one direction: backwards in time the state does not come from the chunk before")
        if (self.window is not None and self.window < 0) or (self.chunk is not None and self.chunk < 1):
            raise ValueError(f"a window is at least 0 steps and a chunk at least 1, not {self.window} and {self.chunk}")
        if self.window is not None and self.chunk is not None:
            raise ValueError("a gradient is cut by a window or by chunks, not by both")
        if self.window is not None and self.checkpoint is not None:
            raise ValueError("a window needs the caches of all steps at once: checkpoints would save nothing")

    def directions(self) -> list[tuple[Direction, ...]]:
        """The runs of each layer."""
        return directions(self.layers, self.bidirectional)

    def features(self, hidden_size: int) -> int:
        """How many numbers a layer hands on for each step of each row."""
        return output_size(self.cell, hidden_size) * len(self.directions()[0])

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of the cell's parameters in every run, and of the readout's."""
        shapes: Shapes = {}
        for layer in self.directions():
            for run in layer:
                inputs = self.features(hidden_size) if run.layer else input_size
                shapes |= {name + run.suffix: shape for name, shape in self.cell.parameter_shapes(inputs, hidden_size).items()}
        return shapes | self.readout.parameter_shapes(self.features(hidden_size))

    def state_shapes(self, hidden_size: int) -> Shapes:
        """Shapes of the states of every run, without the batch axis."""
        runs = [run for layer in self.directions() for run in layer]
        shapes = self.cell.state_shapes(hidden_size)
        return {name + run.suffix: shape for run in runs for name, shape in shapes.items()}

    def reads(self) -> tuple[str, ...]:
        """The states that the top layer hands on."""
        return self._outputs(self.directions()[-1])

    def _outputs(self, layer: tuple[Direction, ...]) -> tuple[str, ...]:
        """The names of what a layer hands on, in the order of (1)."""
        own = output_names(self.cell)
        return tuple(name + run.suffix for run in layer for name in own)

    def forward(self, params: Named, inputs: Named) -> Pass:
        """Loss, outputs and tapes.

        The inputs are x (T, B, I) or tokens (T, B), the initial states, and the readout's own.
        """
        y = inputs["x"]
        mask = steps_of(inputs["lengths"], len(y)) if "lengths" in inputs else None
        tapes: dict[str, bptt.Tape] = {}
        states: Arrays = {}
        dropout: list[Array | None] = []
        for number, layer in enumerate(self.directions()):
            if number:
                below = self.directions()[number - 1]
                y = np.concatenate([states[name] for name in self._outputs(below)], axis=-1)  # (1)
                dropped = dropout[-1]
                y = y if dropped is None else dropped * y  # (2)
            for run in layer:
                tape = self._run(run, params, inputs, y, mask)
                tapes[run.suffix] = tape
                later = {name: run.in_time(s[1:]) for name, s in tape.states.items()}
                states |= run.suffixed(later)
            dropout.append(inputs.get(f"dropout_l{number}"))
        reading = self.readout.value(params, states, inputs)
        return Pass(reading.loss, reading.y, tapes, states, dropout, reading)

    def _run(self, run: Direction, params: Named, inputs: Named, y: Array, mask: Array | None) -> bptt.Tape:
        """One run of the cell."""
        initial = {name: inputs[f"{name}{run.suffix}_0"] for name in self.state_names}
        own = run.own(params)
        own_mask = None if mask is None else run.in_time(mask)
        return checkpointing.run(self.cell, own, initial, run.in_time(y), own_mask, self.checkpoint, self.budget)

    def backward(self, params: Named, done: Pass, by_step: bool = False) -> Arrays:
        """Gradient of the loss for all parameters, for x (unless tokens) and all initial states.

        by_step: the shares of the steps, from the plain step_backward. Then a parameter of the cell
        is (T, its shape), and an initial state stands for ∂L/∂s_t at t = 0..T, (T+1, B, ·), for a
        reverse direction at t = 1..T+1; the readout's own are left out.
        """
        gradients: Arrays = {} if by_step else dict(done.reading.d_params)
        d_y: Array | None = None
        for layer in reversed(self.directions()):
            mask = done.dropout[layer[0].layer]
            d_y = d_y if mask is None or d_y is None else mask * d_y  # (3)
            d_x: list[Array] = []
            for run, own in zip(layer, self._apart(layer, done, d_y), strict=True):
                tape = done.tapes[run.suffix]
                cotangents = {name: done.reading.cotangents[name + run.suffix] for name in self.state_names}
                total = {  # (3)
                    name: run.in_time(value + own[name] if name in own else value) for name, value in cotangents.items()
                }
                swept = self._sweep(run, params, tape, total, by_step)
                gradients |= run.suffixed({n: run.in_time(v) if by_step else v for n, v in swept.params.items()})
                d_x += [] if swept.x is None else [run.in_time(swept.x)]
                for name, d in swept.d_state.items():
                    gradients[f"{name}{run.suffix}_0"] = run.in_time(d) if by_step else d[0]
            d_y = sum(d_x[1:], start=d_x[0]) if d_x else None  # (4)
        return gradients if d_y is None else {**gradients, "x": d_y}

    def _apart(self, layer: tuple[Direction, ...], done: Pass, d_y: Array | None) -> list[Arrays]:
        """What the layer above hands back, by direction and part of the state."""
        if d_y is None:
            return [{} for _ in layer]
        names = [(name, run.suffix) for run in layer for name in output_names(self.cell)]
        ends = np.cumsum([done.states[name + suffix].shape[-1] for name, suffix in names])
        parts = dict(zip(names, np.split(d_y, ends[:-1], axis=-1), strict=True))
        return [{name: parts[name, run.suffix] for name in output_names(self.cell)} for run in layer]

    def _sweep(self, run: Direction, params: Named, tape: bptt.Tape, cotangents: Arrays, by_step: bool) -> bptt.SequenceGradients:
        own = run.own(params)
        if self.window is not None:
            cut = truncation.shares if by_step else truncation.backward
            return cut(self.cell, own, tape, cotangents, self.window)
        if isinstance(tape.caches, checkpointing.Blocks) and not by_step:
            return checkpointing.gradients(self.cell, own, tape, cotangents, self.chunk)
        found = bptt.shares if by_step else bptt.gradients
        return found(self.cell, own, tape, cotangents, self.chunk)


def steps_of(lengths: Array, steps: int) -> Array:
    """The mask (T, B): true at t ≤ length of the row.

    Raises ValueError for a length below 1 or above T.
    """
    if lengths.min() < 1 or lengths.max() > steps:
        told = f"{lengths.min()} … {lengths.max()}"
        raise ValueError(f"lengths are 1 … {steps}, the number of steps; not {told}")
    return np.arange(1, steps + 1)[:, None] <= lengths
