"""A cell, the time loop, and what reads its states, put together: one scalar loss and all its gradients.

What turns the trajectory h_1..h_T into a loss is a *readout*. `Head` is a linear layer and a loss:

    y_t = W_hy h_t + b_y                       (1)
    L   = loss(y, target, weights)             (2)   see manual.losses
    ∂L/∂h_t  = W_hyᵀ ∂L/∂y_t                   (3)   the cotangent e_t of the time loop
    ∂L/∂W_hy = Σ_t (∂L/∂y_t) h_tᵀ              (4)
    ∂L/∂b_y  = Σ_t ∂L/∂y_t                     (5)

`Projection` reads every part of the state at every step through given random weights C and needs no head:

    L = Σ_t ⟨C_t, s_t⟩,    e_t = C_t           (6)

which leaves no output of a cell unwatched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from manual import bptt
from manual.losses import LOSSES, position_weights

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]


class Readout(Protocol):
    """What turns a trajectory into a loss."""

    def parameter_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the readout's own parameters."""
        ...

    def value(self, params: Mapping[str, Array], states: Mapping[str, Array], inputs: Mapping[str, Array]) -> "Reading":
        """Loss, cotangents and the readout's own gradients, from s_1..s_T: name → (T, B, ·)."""
        ...


@dataclass(frozen=True)
class Reading:
    """loss, outputs y (or None), cotangents e_1..e_T by state name, and the readout's own parameter gradients."""

    loss: float
    y: Array | None
    cotangents: Arrays
    d_params: Arrays


@dataclass(frozen=True)
class Head:
    """(1)–(5): a linear layer on h and a loss from `manual.losses.LOSSES`; inputs give "target" and "mask" (T, B)."""

    loss: str
    reduction: str
    output_size: int

    def parameter_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """W_hy (V, H) and b_y (V,)."""
        return {"W_hy": (self.output_size, hidden_size), "b_y": (self.output_size,)}

    def value(self, params: Mapping[str, Array], states: Mapping[str, Array], inputs: Mapping[str, Array]) -> Reading:
        """Loss and cotangent of h; the other parts of the state are not read, and their cotangent is zero."""
        h = states["h"]
        y = h @ params["W_hy"].T + params["b_y"]  # (1)
        weights = position_weights(inputs["mask"], self.reduction)
        loss, d_y = LOSSES[self.loss](y, inputs["target"], weights)  # (2)
        cotangents = {name: np.zeros_like(trajectory) for name, trajectory in states.items()}
        cotangents["h"] = d_y @ params["W_hy"]  # (3)
        rows = d_y.reshape(-1, d_y.shape[-1])
        d_params = {"W_hy": rows.T @ h.reshape(-1, h.shape[-1]), "b_y": np.sum(rows, axis=0)}  # (4), (5)
        return Reading(loss, y, cotangents, d_params)


@dataclass(frozen=True)
class Projection:
    """(6): inputs give the weights C as "cotangent_h", "cotangent_c", …, each (T, B, ·)."""

    def parameter_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """None: nothing is learned here."""
        del hidden_size
        return {}

    def value(self, params: Mapping[str, Array], states: Mapping[str, Array], inputs: Mapping[str, Array]) -> Reading:
        """The inner product and its cotangents."""
        del params
        cotangents = {name: inputs[f"cotangent_{name}"] for name in states}
        loss = sum(float(np.sum(cotangents[name] * states[name])) for name in states)  # (6)
        return Reading(loss, None, cotangents, {})


@dataclass(frozen=True)
class Pass:
    """One forward pass: its loss, its outputs, and what backward needs."""

    loss: float
    y: Array | None
    tape: bptt.Tape
    reading: Reading


@dataclass(frozen=True)
class Network:
    """A cell under a readout; state_names are the cell's, in its order.

    Initial states are inputs named "h_0", "c_0", …, the sequence is the input "x".
    """

    cell: bptt.Cell
    readout: Readout
    state_names: tuple[str, ...] = ("h",)

    def parameter_shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the cell's and the readout's parameters."""
        return {**self.cell.parameter_shapes(input_size, hidden_size), **self.readout.parameter_shapes(hidden_size)}

    def forward(self, params: Mapping[str, Array], inputs: Mapping[str, Array]) -> Pass:
        """Loss, outputs and tape for inputs x (T, B, I) or tokens (T, B), the initial states, and the readout's own."""
        initial = {name: inputs[f"{name}_0"] for name in self.state_names}
        tape = bptt.forward(self.cell, params, initial, inputs["x"])
        states = {name: trajectory[1:] for name, trajectory in tape.states.items()}
        reading = self.readout.value(params, states, inputs)
        return Pass(reading.loss, reading.y, tape, reading)

    def backward(self, params: Mapping[str, Array], done: Pass) -> Arrays:
        """Gradient of the loss for every parameter, for x (unless tokens) and for every initial state."""
        swept = bptt.backward(self.cell, params, done.tape, done.reading.cotangents)
        gradients = {**swept.params, **done.reading.d_params}
        if swept.x is not None:
            gradients["x"] = swept.x
        return gradients | {f"{name}_0": d[0] for name, d in swept.d_state.items()}
