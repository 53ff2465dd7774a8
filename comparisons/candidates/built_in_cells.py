"""What can be put on trial: a cell with a hand-derived backward, under a readout.

Built-in cells take this way too.

Whatever else needs a derivation gets it from here; only the optimisers and the planted mistakes
reach into `manual/` themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import numpy as np

from ...manual import jacobians, layouts
from ...manual.activations import ACTIVATIONS
from ...manual.cell import Cell, HoistedCell
from ...manual.cells.gru import GRU
from ...manual.cells.lru import LRU
from ...manual.cells.lstm import LSTM
from ...manual.cells.min_gru import MinGRU
from ...manual.cells.min_lstm import MinLSTM
from ...manual.cells.peephole_lstm import PeepholeLSTM
from ...manual.cells.projected_lstm import ProjectedLSTM
from ...manual.cells.residual import ResidualRNN
from ...manual.cells.rnn import IRNN, RNN
from ...manual.cells.slstm import SLSTM
from ...manual.through_time import rtrl
from ...manual.through_time.network import Head, Network, Pass, Projection, Readout
from ..errors import BadOption, UnknownName
from ..problems.answer import Answer
from ..problems.arrays import Array, same_arrays
from ..problems.axes import shares_along
from ..problems.problem import PRODUCT_TO_END, STATE_JACOBIAN, FunctionProblem, Problem
from .user_cell import UserCell

CELLS: dict[str, Callable[..., Cell]] = {
    "rnn": RNN,
    "irnn": IRNN,
    "residual": ResidualRNN,
    "lstm": LSTM,
    "peephole-lstm": PeepholeLSTM,
    "projected-lstm": ProjectedLSTM,
    "gru": GRU,
    "min-gru": MinGRU,
    "min-lstm": MinLSTM,
    "lru": LRU,
    "slstm": SLSTM,
}


ALGORITHMS = ("bptt", "rtrl")


@dataclass(frozen=True)
class CellCandidate:
    """A cell under the contract of docs/your-derivation.md: parameter_shapes, state_shapes, step,
    step_backward.

    algorithm: "bptt", or "rtrl", which gives no gradient for x.
    """

    cell: Cell
    algorithm: str = "bptt"

    def network(self, problem: Problem) -> Network:
        """The cell, as often as the problem says, under the problem's readout."""
        names = problem.of_one_run(problem.state_sizes)
        arrangement = (problem.layers, problem.bidirectional, problem.window, problem.chunk)
        return Network(self.cell, _readout(problem), names, *arrangement)

    def answer(self, problem: Problem) -> Answer:
        """All gradients from the sequence form (if the cell has one), the shares of the steps from
        the step form.

        Worked out in the problem's precision, told in float64 where that is a lower one.
        """
        lowered = problem.lowered()
        told = self._answer(lowered)
        return told if lowered is problem else told.astype(problem.dtype)

    def _answer(self, problem: Problem) -> Answer:
        return self.answer_from(problem, self.forward(problem))

    def answer_from(self, problem: Problem, done: Pass) -> Answer:
        """The answer from a forward of this very problem."""
        params, network = dict(problem.variables), self.network(problem)
        if self.algorithm == "rtrl":
            d_params, d_initial = rtrl.gradients(
                self.cell, params, done.tape, done.reading.cotangents
            )
            starts = {f"{name}_0": value for name, value in d_initial.items()}
            gradients = {**d_params, **done.reading.d_params, **starts}
            return Answer(done.loss, gradients, done.states)
        steps = network.backward(params, done, by_step=True)
        gradients = self._whole(problem, done, steps) or network.backward(params, done)
        if problem.jacobians:
            local = jacobians.state_jacobians(self.cell, params, done.tape)
            both = {STATE_JACOBIAN: local, PRODUCT_TO_END: jacobians.products_to_end(local)}
            gradients, steps = gradients | both, steps | both
        if isinstance(self.cell, UserCell) and self.cell.gives_d_x is False:
            gradients, steps = _without_x(gradients), _without_x(steps)
        return Answer(done.loss, gradients, done.states, steps)

    def _whole(self, problem: Problem, done: Pass, steps: Mapping[str, Array]) -> dict[str, Array]:
        """The gradients by adding up the shares, where that is the only way to them: of one run of
        a cell without halves.

        {} for others. The sums are those of `manual.through_time.bptt.added_up`, bit by bit, and
        the cell is asked once instead of twice.
        """
        several = problem.suffixes != [""]
        if isinstance(self.cell, HoistedCell) or several or problem.window is not None:
            return {}
        whole = dict(done.reading.d_params)
        for name in problem.parameter_names:
            if name in steps:
                whole[name] = np.sum(steps[name], axis=0)
        for state in problem.state_sizes:
            whole[f"{state}_0"] = steps[f"{state}_0"][0]
        if "x" in steps:
            whole["x"] = steps["x"]
        return whole

    @property
    def partial(self) -> bool:
        """Whether some gradients are left out by design."""
        return self.algorithm == "rtrl"

    def forward(self, problem: Problem) -> Pass:
        """Loss and tape."""
        named = {**problem.constants, **problem.variables}
        return self.network(problem).forward(dict(problem.variables), named)


def _without_x(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in arrays.items() if name != "x"}


@dataclass
class SharedForward:
    """A cell as a candidate for problems that differ in their cotangents alone: it runs forward
    for the first of them.

    The forward is run again for other variables, or for the same in another memory order.
    """

    candidate: CellCandidate
    run: tuple[Problem, Pass] | None = None

    def answer(self, problem: Problem) -> Answer:
        """As CellCandidate tells it."""
        lowered = problem.lowered()
        told = self.candidate.answer_from(lowered, self._forward(lowered))
        return told if lowered is problem else told.astype(problem.dtype)

    def _forward(self, problem: Problem) -> Pass:
        if self.run is None or not _differ_in_cotangents(self.run[0], problem):
            self.run = problem, self.candidate.forward(problem)
        done = self.run[1]
        named = {**problem.constants, **problem.variables}
        readout = self.candidate.network(problem).readout
        reading = readout.value(dict(problem.variables), done.states, named)
        return replace(done, loss=reading.loss, y=reading.y, reading=reading)


def _differ_in_cotangents(one: Problem, other: Problem) -> bool:
    """Whether all other numbers are the same, in the same memory order."""
    if one.step is not other.step or not same_arrays(one.variables, other.variables):
        return False
    return same_arrays(_without_cotangents(one), _without_cotangents(other))


def _without_cotangents(problem: Problem) -> dict[str, Array]:
    cotangents = {f"cotangent_{state}" for state in problem.state_sizes}
    constants = problem.constants.items()
    return {name: value for name, value in constants if name not in cotangents}


def _readout(problem: Problem) -> Readout:
    if problem.readout == "projection":
        return Projection()
    options = problem.readout_options
    return Head(problem.readout, options["reduction"], problem.output_size or 0, options["reads"])


def built_in(name: str, options: Mapping[str, Any], algorithm: str = "bptt") -> CellCandidate:
    """The cell of `manual/` called `name`.

    Raises UnknownName, listing what exists, BadOption for an option that it lacks.
    """
    if name not in CELLS:
        raise UnknownName(f"no cell is called {name!r}; there are {', '.join(CELLS)}")
    if options.get("activation", "tanh") not in ACTIVATIONS:
        raise UnknownName(
            f"no activation is called {options['activation']!r}; there are {', '.join(ACTIVATIONS)}"
        )
    if algorithm not in ALGORITHMS:
        raise UnknownName(
            f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}"
        )
    known = list(signature(CELLS[name]).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise BadOption(f"the cell {name} has no option {', '.join(unknown)}; {has}")
    try:
        return CellCandidate(CELLS[name](**options), algorithm)
    except ValueError as error:
        raise BadOption(f"{name}: {error}") from error


@dataclass(frozen=True)
class FunctionCandidate:
    """Whole-sequence code: a loss (or a function under cotangents) and the gradients that someone
    derived for it.

    value(named) -> scalar                       the forward, in NumPy
    gradients(named) -> {path: array}            the derivation; named arrays in, named arrays out
    copied() -> candidate                        the same on copies of the user's objects, who is
                                                 asked in another precision than float64: nothing
                                                 of it stays in the user's objects

    Gradients are told slice by slice as well, along the problem's `slice_axes`.
    """

    value: Callable[[Mapping[str, Array]], Any]
    gradients: Callable[[Mapping[str, Array]], dict[str, Array]]
    copied: "Callable[[], FunctionCandidate] | None" = None

    def answer(self, problem: FunctionProblem) -> Answer:
        """Loss and gradients as given."""
        if self.copied is not None and problem.dtype != np.float64:
            return self.copied().answer(problem)
        named = {**problem.constants, **problem.variables}
        loss = float(self.value(named))
        gradients = self.gradients(named)
        steps = shares_along(gradients, problem.slice_axes)
        return Answer(loss, gradients, steps=steps)


def weights_from_torch(cell: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters of a network from those of torch's module, or of torch's single cell, under
    their names without prefix.

    Raises ValueError where one is missing or has a wrong shape.
    """
    known = {"irnn": "rnn", "projected-lstm": "lstm"}.get(cell, cell)
    if "weight_hh" in tensors:
        return layouts.from_torch(known, tensors, "")
    return layouts.network_from_torch(known, tensors)
