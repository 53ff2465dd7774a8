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
    parameters, states = shapes
    weights = sum(map(math.prod, parameters.values()))
    state_numbers = sum(map(math.prod, states.values()))
    numbers = case.steps * (weights + case.batch * state_numbers)
    if numbers > LARGEST:
        raise BadContract(
            f"{name}: its shapes make {numbers:,} numbers over {case.steps} steps; at most "
            f"{LARGEST:,} are compared"
        )
    draw = _Draw(np.random.default_rng(seed))
    draw.weights(parameters)
    draw.sequence(case)
    draw.initial_state(case, states)
    draw.cotangents(case, states)
    draw.own(cell, case, moved=MOVED)
    return Problem(
        name=name,
        cell=name,
        options={},
        readout="projection",
        readout_options={},
        parameter_names=tuple(parameters),
        state_sizes={state: int(np.prod(shape)) for state, shape in states.items()},
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
            # drawn in either case, so that what is drawn later is the same in both
            drawn = self.rng.normal(size=(case.batch, *shape))
            is_random = case.initial_state == "random"
            self.variables[f"{name}_0"] = drawn if is_random else np.zeros_like(drawn)

    def targets(self, case: Case) -> None:
        """Targets, and the mask that says where the loss counts: within each row's own steps, and
        never nowhere.
        """
        shape = (case.steps, case.batch)
        indices = self.rng.integers(0, case.output_size, shape)
        rows = self.rng.normal(size=(*shape, case.output_size))
        self.constants["target"] = indices if case.loss == SOFTMAX else rows
        steps = np.arange(case.steps)[:, None]
        last = self.constants.get("lengths", np.full(case.batch, case.steps)) - 1
        ends, within = steps == last, steps <= last
        if case.positions == "last":
            mask = ends
        elif case.positions == "masked":
            # a row's last step counts always: no row is without a loss
            mask = ((self.rng.random(shape) < 0.6) | ends) & within
        else:
            mask = within
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
            size = (case.steps, case.batch, *shape)
            self.constants[f"cotangent_{name}"] = self.rng.normal(size=size)

    def own(self, cell: Any, case: Case, suffix: str = "", moved: float = 0.0) -> None:
        """What the cell itself wants to draw, in place of what was drawn; moved at random by this
        part of its size.
        """
        if not hasattr(cell, "initialise"):
            return
        # the input of a higher layer is as wide as the layer below
        reads = self.variables.get("W_xh" + suffix)
        input_size = case.input_size if reads is None else reads.shape[1]
        drawn = cell.initialise(self.rng, input_size, case.hidden_size, case.batch)
        for name, value in drawn.items():
            if moved:
                value = self._moved(value, moved)
            if name.endswith("_0"):
                self.variables[f"{name.removesuffix('_0')}{suffix}_0"] = value
            else:
                self.variables[name + suffix] = value

    def _moved(self, value: Array, part: float) -> Array:
        """The value, moved at random by up to this part of its size (zeros: of 1)."""
        size = float(np.linalg.norm(value)) / math.sqrt(value.size) or 1.0
        return value + part * size * self.rng.uniform(-1, 1, size=value.shape)


# Of a user's cell's own draw: an identity, or zeros, would hide a transposed or forgotten weight.
MOVED = 0.1

# Numbers in the shares of all steps: 400 MB in float64, and each reference keeps some copies.
LARGEST = 50_000_000


def must_fit(case: Case, weights: int | None = None, dumped: bool = False) -> None:
    """Raises BadOption for sizes whose shares of the steps, T copies of the weights, would not fit
    into memory, nor the Jacobians that are compared, or dumped, with them.

    weights: how many there are; None for those of the built-in cell.
    """
    built = weights is None
    if weights is None:
        weights = numbers_in(case)
    runs = case.layers * (1 + case.bidirectional)
    per_row = case.input_size + case.output_size + runs * case.hidden_size
    numbers = case.steps * (weights + case.batch * per_row)
    sizes = f"T={case.steps}, B={case.batch}, I={case.input_size}, H={case.hidden_size}"
    if numbers > LARGEST:
        raise BadOption(
            f"{case.name}: {sizes} is too large to compare step by step: {numbers:,} numbers, at "
            f"most {LARGEST:,}"
        )
    with_jacobians = numbers + jacobian_numbers(case, dumped) if built else numbers
    if with_jacobians > LARGEST:
        raise BadOption(
            f"{case.name}: {sizes} is too large for its Jacobians: {with_jacobians:,} numbers, at "
            f"most {LARGEST:,}"
        )


def jacobian_numbers(case: Case, dumped: bool = False) -> int:
    """How many numbers its Jacobians have: those of every step and their products to the end, where
    they are compared or dumped; the influence of the weights, where that is carried forward.
    """
    runs = case.layers * (1 + case.bidirectional)
    whole = state_size(case)
    numbers = 0
    if case.jacobians or dumped:
        numbers += 2 * case.steps * case.batch * runs * (whole // runs) ** 2
    if dumped:  # norms by t and k: of the products, and of each parameter's terms
        numbers += (case.steps + 1) ** 2 * (case.batch + len(arranged(case).parameter_shapes(1, 1)))
    if case.algorithm == "rtrl":
        numbers += case.batch * whole * numbers_in(case)
    return numbers


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
    shapes = network.parameter_shapes(case.input_size, case.hidden_size)
    return head + sum(map(math.prod, shapes.values()))


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
    network = arranged(case)
    must_fit(case)
    draw = _drawn(case, network, seed)
    if case.loss == PROJECTION:
        label, readout_options = "cotangents", dict[str, Any]()
    else:
        label = f"{LOSS_LABELS[case.loss]} {case.positions} {case.reduction}"
        readout_options = {"reduction": case.reduction, "reads": network.reads()}
    states = network.state_shapes(case.hidden_size)
    problem = Problem(
        name=case.name,
        cell=case.cell,
        options=case.options,
        readout=case.loss,
        readout_options=readout_options,
        parameter_names=tuple(network.parameter_shapes(case.input_size, case.hidden_size)),
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
        output_names=output_names(candidate.cell),
        window=case.window,
        chunk=case.chunk,
    )
    return train(problem, candidate, case.trained, case.learning_rate).astype(dtype)


def _drawn(case: Case, network: Network, seed: int) -> _Draw:
    """The case's numbers. Their order is part of what a seed means."""
    states, features = network.state_shapes(case.hidden_size), network.features(case.hidden_size)
    shapes = dict(network.parameter_shapes(case.input_size, case.hidden_size))
    if case.loss != PROJECTION:
        head = Head(case.loss, case.reduction, case.output_size, network.reads())
        shapes |= head.parameter_shapes(features)
    draw = _Draw(np.random.default_rng(seed))
    draw.weights(shapes)
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
    for layer in network.directions():
        for run in layer:
            draw.own(network.cell, case, run.suffix)
    return draw


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
