"""Problems with their numbers: drawn from a seed, and trained where the case says so."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...manual.cell import output_names
from ...manual.losses import LOSSES
from ...manual.through_time.network import Head, Network, Projection
from ...manual.training import sgd
from ..errors import BadContract, BadOption, UnknownName
from ..problems.arrays import Array, frozen
from ..problems.cases import LOSS_LABELS, PROJECTION, SOFTMAX, Case
from ..problems.problem import Problem
from .built_in_cells import CellCandidate, built_in


def cell_problem(
    name: str,
    shapes: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]],
    sizes: Mapping[str, int],
    seed: int,
    cell: Any = None,
) -> Problem:
    """A cell from outside under random cotangents on every state at every step, from a random
    initial state.

    shapes are those of its parameters and of its states; sizes are steps, batch, input_size,
    hidden_size. A `cell` with the method `initialise` draws some of them itself.
    """
    case = replace(Case(name, name), **sizes)
    must_fit(case, case.hidden_size * (case.hidden_size + case.input_size))
    numbers = case.steps * (
        sum(map(math.prod, shapes[0].values()))
        + case.batch * sum(map(math.prod, shapes[1].values()))
    )
    if numbers > LARGEST:
        raise BadContract(
            f"{name}: its shapes make {numbers:,} numbers over {case.steps} steps; at most "
            f"{LARGEST:,} are compared"
        )
    draw = _Draw(np.random.default_rng(seed))
    draw.weights(shapes[0])
    draw.sequence(case)
    draw.initial_state(case, shapes[1])
    draw.cotangents(case, shapes[1])
    draw.own(cell, case, moved=MOVED)
    return Problem(
        name=name,
        cell=name,
        options={},
        readout="projection",
        readout_options={},
        parameter_names=tuple(shapes[0]),
        state_sizes={state: int(np.prod(shape)) for state, shape in shapes[1].items()},
        input_size=case.input_size,
        hidden_size=case.hidden_size,
        variables=frozen(draw.variables),
        constants=frozen(draw.constants),
        seed=seed,
        jacobians=False,
        loss_label="cotangents",
    )


@dataclass
class _Draw:
    """Random values for a case, all from one seed and in a fixed order."""

    rng: np.random.Generator
    variables: dict[str, Array] = field(default_factory=dict[str, Array])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])

    def weights(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Matrices with entries of deviation 1/√fan-in, so that W_hh has gain one and is not
        symmetric; biases of deviation ½.
        """
        for name, shape in shapes.items():
            scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.5
            self.variables[name] = self.rng.normal(scale=scale, size=shape)

    def sequence(self, case: Case) -> None:
        """x: rows, or tokens."""
        if case.inputs == "tokens":
            self.constants["x"] = self.rng.integers(0, case.input_size, (case.steps, case.batch))
        else:
            self.variables["x"] = self.rng.normal(size=(case.steps, case.batch, case.input_size))

    def initial_state(self, case: Case, state_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """h_0 and its like: random, or zero."""
        for name, shape in state_shapes.items():
            value = self.rng.normal(size=(case.batch, *shape))
            self.variables[f"{name}_0"] = (
                value if case.initial_state == "random" else np.zeros_like(value)
            )

    def targets(self, case: Case) -> None:
        """Targets, and the mask that says where the loss counts: within each row's own steps, and
        never nowhere.
        """
        shape = (case.steps, case.batch)
        indices = self.rng.integers(0, case.output_size, shape)
        rows = self.rng.normal(size=(*shape, case.output_size))
        self.constants["target"] = indices if case.loss == SOFTMAX else rows
        mask = (
            (self.rng.random(shape) < 0.6)
            if case.positions == "masked"
            else np.ones(shape, dtype=bool)
        )
        last = self.constants.get("lengths", np.full(case.batch, case.steps)) - 1
        ends = np.arange(case.steps)[:, None] == last
        mask = (
            ends
            if case.positions == "last"
            else (mask | ends) & (np.arange(case.steps)[:, None] <= last)
        )
        self.constants["mask"] = mask.astype(np.float64)

    def lengths(self, case: Case) -> None:
        """The number of steps of each row: T for one of them, and fewer, at least 1, for the
        others.
        """
        lengths = self.rng.integers(1, max(case.steps, 2), case.batch)
        lengths[self.rng.integers(case.batch)] = case.steps
        self.constants["lengths"] = lengths

    def dropout(self, case: Case, features: int) -> None:
        """A mask on what each layer but the last hands on: 0, or 1/(1 − p), so that the mean
        stays.
        """
        for layer in range(case.layers - 1):
            kept = self.rng.random((case.steps, case.batch, features)) >= case.dropout
            self.constants[f"dropout_l{layer}"] = kept / (1 - case.dropout)

    def cotangents(self, case: Case, state_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Random weights on every state at every step."""
        for name, shape in state_shapes.items():
            self.constants[f"cotangent_{name}"] = self.rng.normal(
                size=(case.steps, case.batch, *shape)
            )

    def own(self, cell: Any, case: Case, suffix: str = "", moved: float = 0.0) -> None:
        """What the cell itself wants to draw, in place of what was drawn; moved at random by this
        part of its size.
        """
        if hasattr(cell, "initialise"):
            sizes = (
                self.variables["W_xh" + suffix].shape[1]
                if "W_xh" + suffix in self.variables
                else case.input_size
            )
            for name, value in cell.initialise(
                self.rng, sizes, case.hidden_size, case.batch
            ).items():
                full = (
                    f"{name.removesuffix('_0')}{suffix}_0" if name.endswith("_0") else name + suffix
                )
                size = float(np.linalg.norm(value)) / math.sqrt(value.size) or 1.0
                self.variables[full] = (
                    value + moved * size * self.rng.uniform(-1, 1, size=value.shape)
                    if moved
                    else value
                )


# Of a user's cell's own draw: an identity, or zeros, would hide a transposed or forgotten weight.
MOVED = 0.1

# Numbers in the shares of all steps: 400 MB in float64, and each reference keeps some copies.
LARGEST = 50_000_000


def must_fit(case: Case, weights: int | None = None) -> None:
    """Raises BadOption for sizes whose shares of the steps, T copies of the weights, would not fit
    into memory.

    weights: how many there are; None for those of the built-in cell.
    """
    per_row = (
        case.input_size
        + case.output_size
        + case.layers * (1 + case.bidirectional) * case.hidden_size
    )
    numbers = case.steps * (
        (numbers_in(case) if weights is None else weights) + case.batch * per_row
    )
    if numbers > LARGEST:
        sizes = f"T={case.steps}, B={case.batch}, I={case.input_size}, H={case.hidden_size}"
        raise BadOption(
            f"{case.name}: {sizes} is too large to compare step by step: {numbers:,} numbers, at "
            f"most {LARGEST:,}"
        )


def arranged(case: Case) -> Network:
    """The case's cell in its layers and directions, under no head.

    Raises BadOption for what does not go together.
    """
    cell = built_in(case.cell, case.options, case.algorithm).cell
    try:
        network = Network(
            cell, Projection(), (), case.layers, case.bidirectional, case.window, case.chunk
        )
        network.state_shapes(case.hidden_size)
    except ValueError as error:
        raise BadOption(f"{case.name}: {error}") from error
    return network


def state_size(case: Case) -> int:
    """S: how many numbers the states of all runs hold together, for one row."""
    return sum(map(math.prod, arranged(case).state_shapes(case.hidden_size).values()))


def numbers_in(case: Case) -> int:
    """How many weights the case has, its head included."""
    network = arranged(case)
    head = case.output_size * (network.features(case.hidden_size) + 1)
    return head + sum(
        map(math.prod, network.parameter_shapes(case.input_size, case.hidden_size).values())
    )


def must_make_sense(case: Case) -> None:
    """Raises UnknownName for a loss that does not exist, BadOption for a size below 1, or for
    parts that do not go together.
    """
    if case.loss not in (*LOSSES, PROJECTION):
        known = ", ".join((*LOSSES, PROJECTION))
        raise UnknownName(f"no loss is called {case.loss!r}; there are {known}")
    for name in AT_LEAST_ONE:
        if getattr(case, name) < 1:
            raise BadOption(f"{name} must be at least 1, not {getattr(case, name)}")
    _must_have_room_for_dropout(case)
    stacked = case.layers > 1 or case.bidirectional
    cut = case.window is not None or case.chunk is not None
    if case.algorithm == "rtrl" and (stacked or cut):
        raise BadOption(
            f"{case.name}: real-time recurrent learning is for one layer in one direction, "
            "untruncated"
        )
    if case.jacobians and (stacked or case.unequal):
        raise BadOption(
            f"{case.name}: Jacobians are compared for one layer in one direction, all rows of the "
            "same length"
        )


AT_LEAST_ONE = ("steps", "batch", "input_size", "hidden_size", "output_size", "layers")


def _must_have_room_for_dropout(case: Case) -> None:
    """Raises BadOption for a share that is none, or where there is nothing to drop between."""
    if not 0 <= case.dropout < 1:
        raise BadOption(
            f"{case.name}: dropout drops a share of at least 0 and below 1, not {case.dropout}"
        )
    if case.dropout and case.layers == 1:
        raise BadOption(f"{case.name}: dropout stands between layers, and there is one layer")


def problem_of(case: Case, seed: int = 0, dtype: str = "float64") -> Problem:
    """The case with its numbers: drawn from the seed, trained as the case says, then cast to dtype.

    Raises UnknownName for a cell, activation or loss that does not exist, BadOption for a size
    below 1 and for parts that do not go together.
    """
    candidate = built_in(case.cell, case.options, case.algorithm)
    must_make_sense(case)
    cell = candidate.cell
    network = arranged(case)
    must_fit(case)
    shapes, states = (
        network.parameter_shapes(case.input_size, case.hidden_size),
        network.state_shapes(case.hidden_size),
    )
    reads, features = network.reads(), network.features(case.hidden_size)
    head = Head(case.loss, case.reduction, case.output_size, reads)
    draw = _Draw(np.random.default_rng(seed))
    draw.weights(shapes | (head.parameter_shapes(features) if case.loss != PROJECTION else {}))
    draw.sequence(case)
    draw.initial_state(case, states)
    if case.unequal:
        draw.lengths(case)
    if case.loss == PROJECTION:
        draw.cotangents(case, states)
    else:
        draw.targets(case)
    if case.dropout:
        draw.dropout(case, features)
    for run in (run for layer in network.directions() for run in layer):
        draw.own(cell, case, run.suffix)
    label = (
        "cotangents"
        if case.loss == PROJECTION
        else f"{LOSS_LABELS[case.loss]} {case.positions} {case.reduction}"
    )
    problem = Problem(
        name=case.name,
        cell=case.cell,
        options=case.options,
        readout=case.loss,
        readout_options={}
        if case.loss == PROJECTION
        else {"reduction": case.reduction, "reads": reads},
        parameter_names=tuple(shapes),
        state_sizes={name: shape[-1] for name, shape in states.items()},
        input_size=case.input_size,
        hidden_size=case.hidden_size,
        variables=frozen(draw.variables),
        constants=frozen(draw.constants),
        seed=seed,
        jacobians=case.jacobians,
        loss_label=label,
        layers=case.layers,
        bidirectional=case.bidirectional,
        output_names=output_names(cell),
        window=case.window,
        chunk=case.chunk,
    )
    return train(problem, candidate, case.trained, case.learning_rate).astype(dtype)


def train(
    problem: Problem, candidate: CellCandidate, updates: int, learning_rate: float
) -> Problem:
    """The problem after plain SGD on its own data; x and the initial states stay. The rate is that
    of the mean loss.
    """
    if updates and problem.readout == PROJECTION:
        raise BadOption(f"{problem.name}: a random projection of the states is nothing to train on")
    network = candidate.network(problem)
    whole = problem.readout == PROJECTION or problem.readout_options["reduction"] == "mean"
    counted = 1.0 if whole else float(problem.constants["mask"].sum())
    for _ in range(updates):
        gradients = network.backward(problem.variables, candidate.forward(problem))
        problem = update(problem, gradients, learning_rate / counted)
    return problem


def update(problem: Problem, gradients: Mapping[str, Array], learning_rate: float) -> Problem:
    """The problem after one step of plain SGD along the gradients, from whomever they come."""
    weights = {name: problem.variables[name] for name in problem.weight_names}
    return problem.with_variables(sgd(weights, gradients, learning_rate))
