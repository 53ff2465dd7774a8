"""What can be put on trial: a cell with a hand-derived backward, under a readout. Built-in cells take this way too.

Whatever else needs a derivation gets it from here; only the optimisers and the planted mistakes reach into `manual/` themselves.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import numpy as np

from comparisons.cases import LOSS_LABELS, PROJECTION, SOFTMAX, Case
from comparisons.errors import BadContract, BadOption, UnknownName
from comparisons.problem import PRODUCT_TO_END, STATE_JACOBIAN, Answer, Array, FunctionProblem, Problem, frozen, same_arrays
from manual import bptt, jacobians, layouts, rtrl
from manual.activations import ACTIVATIONS
from manual.cell import Cell, HoistedCell, output_names
from manual.gru import GRU
from manual.losses import LOSSES
from manual.lru import LRU
from manual.lstm import LSTM
from manual.min_gru import MinGRU
from manual.min_lstm import MinLSTM
from manual.network import Head, Network, Pass, Projection, Readout
from manual.peephole_lstm import PeepholeLSTM
from manual.projected_lstm import ProjectedLSTM
from manual.residual import ResidualRNN
from manual.rnn import IRNN, RNN
from manual.slstm import SLSTM
from manual.training import sgd

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
    """A cell under the contract of docs/your-derivation.md: parameter_shapes, state_shapes, step, step_backward.

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
        """All gradients from the sequence form (if the cell has one), the shares of the steps from the step form.

        Worked out in the problem's precision, told in float64 where that is a lower one.
        """
        lowered = problem.lowered()
        return self._answer(problem) if lowered is problem else self._answer(lowered).astype(problem.dtype)

    def _answer(self, problem: Problem) -> Answer:
        return self.answer_from(problem, self.forward(problem))

    def answer_from(self, problem: Problem, done: Pass) -> Answer:
        """The answer from a forward of this very problem."""
        params, network = dict(problem.variables), self.network(problem)
        if self.algorithm == "rtrl":
            d_params, d_initial = rtrl.gradients(self.cell, params, done.tape, done.reading.cotangents)
            d_initial = {f"{name}_0": value for name, value in d_initial.items()}
            return Answer(done.loss, {**d_params, **done.reading.d_params, **d_initial}, done.states)
        steps = network.backward(params, done, by_step=True)
        gradients = self._whole(problem, done, steps) or network.backward(params, done)
        if problem.jacobians:
            local = jacobians.state_jacobians(self.cell, params, done.tape)
            both = {STATE_JACOBIAN: local, PRODUCT_TO_END: jacobians.products_to_end(local)}
            gradients, steps = gradients | both, steps | both
        return Answer(done.loss, gradients, done.states, steps)

    def _whole(self, problem: Problem, done: Pass, steps: Mapping[str, Array]) -> dict[str, Array]:
        """The gradients by adding up the shares, where that is the only way to them: of one run of a cell without halves.

        {} for others. The sums are those of `manual.bptt.added_up`, bit by bit, and the cell is asked once instead of twice.
        """
        if isinstance(self.cell, HoistedCell) or problem.suffixes != [""] or problem.window is not None:
            return {}
        summed = {name: np.sum(steps[name], axis=0) for name in problem.parameter_names if name in steps}
        starts = {f"{name}_0": steps[f"{name}_0"][0] for name in problem.state_sizes}
        return {**done.reading.d_params, **summed, **starts, **{name: steps[name] for name in ("x",) if name in steps}}

    @property
    def partial(self) -> bool:
        """Whether some gradients are left out by design."""
        return self.algorithm == "rtrl"

    def forward(self, problem: Problem) -> Pass:
        """Loss and tape."""
        return self.network(problem).forward(dict(problem.variables), {**problem.constants, **problem.variables})


@dataclass
class OneForward:
    """A cell as a candidate for problems that differ in their cotangents alone: it runs forward for the first of them.

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
        done, named = self.run[1], {**problem.constants, **problem.variables}
        reading = self.candidate.network(problem).readout.value(dict(problem.variables), done.states, named)
        return replace(done, loss=reading.loss, y=reading.y, reading=reading)


def _differ_in_cotangents(one: Problem, other: Problem) -> bool:
    """Whether all other numbers are the same, in the same memory order."""
    lasting = [
        {name: value for name, value in each.constants.items() if not name.startswith("cotangent_")} for each in (one, other)
    ]
    return one.step is other.step and same_arrays(one.variables, other.variables) and same_arrays(*lasting)


def local_gradients(
    cell: Cell, problem: Problem, d_state: Mapping[str, Array], params: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(share of every step in each parameter and in x, d_state_prev of every step), from step_backward given d_state.

    d_state: name → (T+1, B, ·), someone else's total derivatives; each step stands by itself. `params` are what step_backward is
    given; the forward runs on the problem's own.
    """
    lowered = problem.lowered()
    given, weights = (
        {name: value.astype(lowered.dtype, copy=False) for name, value in arrays.items()} for arrays in (d_state, params)
    )
    caches = CellCandidate(cell).forward(lowered).tape.caches
    terms = [
        cell.step_backward(weights, cache, {name: value[t + 1] for name, value in given.items()})
        for t, cache in enumerate(caches)
    ]
    shares = {name: _told([term[0][name] for term in terms]) for name in problem.parameter_names}
    shares["x"] = _told([term[1] for term in terms])
    return shares, {name: _told([term[2][name] for term in terms]) for name in d_state}


def _told(arrays: list[Any]) -> Array:
    """Stacked over steps, in float64."""
    return np.stack([np.asarray(array) for array in arrays]).astype(np.float64, copy=False)


def walk(problem: Problem, candidate: CellCandidate) -> Iterator[tuple[str, Array]]:
    """(name, array) of all that the derivation can show along the sequence; names and layout as in comparisons.dump.

    Of several layers or directions each run stands by itself, in the order of its own steps, with its suffix before the name.
    """
    problem = problem.lowered()
    params, network, done = problem.variables, candidate.network(problem), candidate.forward(problem)
    by_step = network.backward(params, done, by_step=True)
    for layer in network.directions():
        for run in layer:
            prefix, tape = f"{run.suffix.lstrip('_')}/" if run.suffix else "", done.tapes[run.suffix]
            d_state = {name: run.in_time(by_step[f"{name}{run.suffix}_0"]) for name in tape.states}
            for name, array in _walk_run(candidate.cell, run.own(params), tape, d_state):
                yield prefix + name, array
    if len(done.tapes) == 1 and network.window is None and network.chunk is None:
        norms = jacobians.contribution_norms(candidate.cell, params, done.tape, done.reading.cotangents)
        yield from ((f"contribution_norm/{name}", value) for name, value in norms.items())
    for name, gradient in network.backward(params, done).items():
        yield f"gradient/{name}", gradient


def _walk_run(cell: Cell, params: Mapping[str, Array], tape: bptt.Tape, d_state: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    local = jacobians.state_jacobians(cell, params, tape)
    products = jacobians.products_to_end(local)
    yield STATE_JACOBIAN, local
    yield PRODUCT_TO_END, products
    yield "singular_values", jacobians.singular_values(products)
    yield "product_norm", jacobians.product_norms(local)
    yield "growth_rates", jacobians.growth_rates(local)
    if isinstance(cell, HoistedCell):
        totals = [bptt.within(tape, t, {name: value[t + 1] for name, value in d_state.items()}) for t in range(tape.steps)]
        yield "delta", np.stack([cell.delta(params, tape.caches[t], total)[0] for t, total in enumerate(totals)])
    yield "d_state", jacobians.flatten_state(d_state)


def _readout(problem: Problem) -> Readout:
    if problem.readout == "projection":
        return Projection()
    options = problem.readout_options
    return Head(problem.readout, options["reduction"], problem.output_size or 0, options["reads"])


def built_in(name: str, options: Mapping[str, Any], algorithm: str = "bptt") -> CellCandidate:
    """The cell of `manual/` called `name`. Raises UnknownName, listing what exists, BadOption for an option that it lacks."""
    if name not in CELLS:
        raise UnknownName(f"no cell is called {name!r}; there are {', '.join(CELLS)}")
    if options.get("activation", "tanh") not in ACTIVATIONS:
        raise UnknownName(f"no activation is called {options['activation']!r}; there are {', '.join(ACTIVATIONS)}")
    if algorithm not in ALGORITHMS:
        raise UnknownName(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
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
    """Whole-sequence code: a loss (or a function under cotangents) and the gradients that someone derived for it.

    value(named) -> scalar                       the forward, in NumPy
    gradients(named) -> {path: array}            the derivation; named arrays in, named arrays out
    """

    value: Callable[[Mapping[str, Array]], Any]
    gradients: Callable[[Mapping[str, Array]], dict[str, Array]]
    per_step: tuple[str, ...] = ()

    def answer(self, problem: FunctionProblem) -> Answer:
        """Loss and the gradients that are given; those of `per_step` have the step as first axis."""
        named = {**problem.constants, **problem.variables}
        loss = float(self.value(named))
        gradients = self.gradients(named)
        return Answer(loss, gradients, steps={name: gradients[name] for name in self.per_step if name in gradients})


def cell_problem(
    name: str,
    shapes: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]],
    sizes: Mapping[str, int],
    seed: int,
    cell: Any = None,
) -> Problem:
    """A cell from outside under random cotangents on every state at every step, from a random initial state.

    shapes are those of its parameters and of its states; sizes are steps, batch, input_size, hidden_size. A `cell` with the
    method `initialise` draws some of them itself.
    """
    case = replace(Case(name, name), **sizes)
    must_fit(case, case.hidden_size * (case.hidden_size + case.input_size))
    numbers = case.steps * (sum(map(math.prod, shapes[0].values())) + case.batch * sum(map(math.prod, shapes[1].values())))
    if numbers > LARGEST:
        raise BadContract(
            f"{name}: its shapes make {numbers:,} numbers over {case.steps} steps; at most {LARGEST:,} are compared"
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
        """Matrices with entries of deviation 1/√fan-in, so that W_hh has gain one and is not symmetric; biases of deviation ½."""
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
            self.variables[f"{name}_0"] = value if case.initial_state == "random" else np.zeros_like(value)

    def targets(self, case: Case) -> None:
        """Targets, and the mask that says where the loss counts: within each row's own steps, and never nowhere."""
        shape = (case.steps, case.batch)
        indices = self.rng.integers(0, case.output_size, shape)
        rows = self.rng.normal(size=(*shape, case.output_size))
        self.constants["target"] = indices if case.loss == SOFTMAX else rows
        mask = (self.rng.random(shape) < 0.6) if case.positions == "masked" else np.ones(shape, dtype=bool)
        last = self.constants.get("lengths", np.full(case.batch, case.steps)) - 1
        ends = np.arange(case.steps)[:, None] == last
        mask = ends if case.positions == "last" else (mask | ends) & (np.arange(case.steps)[:, None] <= last)
        self.constants["mask"] = mask.astype(np.float64)

    def lengths(self, case: Case) -> None:
        """The number of steps of each row: T for one of them, and fewer, at least 1, for the others."""
        lengths = self.rng.integers(1, max(case.steps, 2), case.batch)
        lengths[self.rng.integers(case.batch)] = case.steps
        self.constants["lengths"] = lengths

    def dropout(self, case: Case, features: int) -> None:
        """A mask on what each layer but the last hands on: 0, or 1/(1 − p), so that the mean stays."""
        for layer in range(case.layers - 1):
            kept = self.rng.random((case.steps, case.batch, features)) >= case.dropout
            self.constants[f"dropout_l{layer}"] = kept / (1 - case.dropout)

    def cotangents(self, case: Case, state_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Random weights on every state at every step."""
        for name, shape in state_shapes.items():
            self.constants[f"cotangent_{name}"] = self.rng.normal(size=(case.steps, case.batch, *shape))

    def own(self, cell: Any, case: Case, suffix: str = "", moved: float = 0.0) -> None:
        """What the cell itself wants to draw, in place of what was drawn; moved at random by this part of its size."""
        if hasattr(cell, "initialise"):
            sizes = self.variables["W_xh" + suffix].shape[1] if "W_xh" + suffix in self.variables else case.input_size
            for name, value in cell.initialise(self.rng, sizes, case.hidden_size, case.batch).items():
                full = f"{name.removesuffix('_0')}{suffix}_0" if name.endswith("_0") else name + suffix
                size = float(np.linalg.norm(value)) / math.sqrt(value.size) or 1.0
                self.variables[full] = value + moved * size * self.rng.uniform(-1, 1, size=value.shape) if moved else value


MOVED = 0.1  # of a user's cell's own draw: an identity, or zeros, would hide a transposed or forgotten weight
LARGEST = 50_000_000  # numbers in the shares of all steps: 400 MB in float64, and each reference keeps some copies


def must_fit(case: Case, weights: int | None = None) -> None:
    """Raises BadOption for sizes whose shares of the steps, T copies of the weights, would not fit into memory.

    weights: how many there are; None for those of the built-in cell.
    """
    per_row = case.input_size + case.output_size + case.layers * (1 + case.bidirectional) * case.hidden_size
    numbers = case.steps * ((numbers_in(case) if weights is None else weights) + case.batch * per_row)
    if numbers > LARGEST:
        sizes = f"T={case.steps}, B={case.batch}, I={case.input_size}, H={case.hidden_size}"
        raise BadOption(f"{case.name}: {sizes} is too large to compare step by step: {numbers:,} numbers, at most {LARGEST:,}")


def arranged(case: Case) -> Network:
    """The case's cell in its layers and directions, under no head. Raises BadOption for what does not go together."""
    cell = built_in(case.cell, case.options, case.algorithm).cell
    try:
        network = Network(cell, Projection(), (), case.layers, case.bidirectional, case.window, case.chunk)
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
    return head + sum(map(math.prod, network.parameter_shapes(case.input_size, case.hidden_size).values()))


def must_make_sense(case: Case) -> None:
    """Raises UnknownName for a loss that does not exist, BadOption for a size below 1, or for parts that do not go together."""
    if case.loss not in (*LOSSES, PROJECTION):
        raise UnknownName(f"no loss is called {case.loss!r}; there are {', '.join(LOSSES)}, {PROJECTION}")
    for name in ("steps", "batch", "input_size", "hidden_size", "output_size", "layers"):
        if getattr(case, name) < 1:
            raise BadOption(f"{name} must be at least 1, not {getattr(case, name)}")
    if not 0 <= case.dropout < 1:
        raise BadOption(f"{case.name}: dropout drops a share of at least 0 and below 1, not {case.dropout}")
    if case.dropout and case.layers == 1:
        raise BadOption(f"{case.name}: dropout stands between layers, and there is one layer")
    stacked = case.layers > 1 or case.bidirectional
    if case.algorithm == "rtrl" and (stacked or case.window is not None or case.chunk is not None):
        raise BadOption(f"{case.name}: real-time recurrent learning is for one layer in one direction, untruncated")
    if case.jacobians and (stacked or case.unequal):
        raise BadOption(f"{case.name}: Jacobians are compared for one layer in one direction, all rows of the same length")


def problem_of(case: Case, seed: int = 0, dtype: str = "float64") -> Problem:
    """The case with its numbers: drawn from the seed, trained as the case says, then cast to dtype.

    Raises UnknownName for a cell, activation or loss that does not exist, BadOption for a size below 1 and for parts that do not
    go together.
    """
    candidate = built_in(case.cell, case.options, case.algorithm)
    must_make_sense(case)
    cell = candidate.cell
    network = arranged(case)
    must_fit(case)
    shapes, states = network.parameter_shapes(case.input_size, case.hidden_size), network.state_shapes(case.hidden_size)
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
    label = "cotangents" if case.loss == PROJECTION else f"{LOSS_LABELS[case.loss]} {case.positions} {case.reduction}"
    problem = Problem(
        name=case.name,
        cell=case.cell,
        options=case.options,
        readout=case.loss,
        readout_options={} if case.loss == PROJECTION else {"reduction": case.reduction, "reads": reads},
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


def weights_from_torch(cell: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters of a network from those of torch's module, or of torch's single cell, under their names without prefix.

    Raises ValueError where one is missing or has a wrong shape.
    """
    known = {"irnn": "rnn", "projected-lstm": "lstm"}.get(cell, cell)
    if "weight_hh" in tensors:
        return layouts.from_torch(known, tensors, "")
    return layouts.network_from_torch(known, tensors)


def train(problem: Problem, candidate: CellCandidate, updates: int, learning_rate: float) -> Problem:
    """The problem after plain SGD on its own data; x and the initial states stay. The rate is that of the mean loss."""
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
