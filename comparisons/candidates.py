"""What can be put on trial: a cell with a hand-derived backward, under a readout. Built-in cells take this way too.

This is the only module that imports `manual/`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from comparisons.cases import LOSS_LABELS, SOFTMAX, Case
from comparisons.errors import BadContract, BadOption, UnknownName
from comparisons.problem import PRODUCT_TO_END, STATE_JACOBIAN, Answer, Array, FunctionProblem, Problem, frozen
from manual import bptt, jacobians
from manual.activations import ACTIVATIONS
from manual.gru import GRU
from manual.losses import LOSSES
from manual.lstm import LSTM
from manual.network import Head, Network, Pass, Projection, Readout
from manual.rnn import RNN
from manual.training import sgd

CELLS: dict[str, Callable[..., bptt.Cell]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
}


@dataclass(frozen=True)
class CellCandidate:
    """A cell under the contract of docs/your-derivation.md: parameter_shapes, state_shapes, step, step_backward."""

    cell: bptt.Cell

    def network(self, problem: Problem) -> Network:
        """The cell under the problem's readout."""
        return Network(self.cell, _readout(problem), tuple(problem.state_sizes))

    def answer(self, problem: Problem) -> Answer:
        """All gradients from the sequence form (if the cell has one), the shares of the steps from the step form."""
        params = dict(problem.variables)
        done = self.forward(problem)
        gradients = self.network(problem).backward(params, done)
        terms, d_state = bptt.step_gradients(self.cell, params, done.tape, done.reading.cotangents)
        steps = {name: np.stack([d_params[name] for d_params, _ in terms]) for name in problem.parameter_names}
        steps |= {f"{name}_0": d for name, d in d_state.items()}
        if "x" in problem.variables:
            steps["x"] = np.stack([np.asarray(d_x) for _, d_x in terms])
        if problem.jacobians:
            local = jacobians.state_jacobians(self.cell, params, done.tape)
            both = {STATE_JACOBIAN: local, PRODUCT_TO_END: jacobians.products_to_end(local)}
            gradients, steps = gradients | both, steps | both
        states = {name: trajectory[1:] for name, trajectory in done.tape.states.items()}
        return Answer(done.loss, gradients, states, steps)

    def forward(self, problem: Problem) -> Pass:
        """Loss and tape."""
        return self.network(problem).forward(dict(problem.variables), {**problem.constants, **problem.variables})


def local_gradients(
    cell: bptt.Cell, problem: Problem, d_state: Mapping[str, Array], params: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(share of every step in each parameter and in x, d_state_prev of every step), from step_backward given d_state.

    d_state: name → (T+1, B, ·), someone else's total derivatives; each step stands by itself. `params` are what step_backward is
    given; the forward runs on the problem's own.
    """
    caches = CellCandidate(cell).forward(problem).tape.caches
    terms = [
        cell.step_backward(params, cache, {name: value[t + 1] for name, value in d_state.items()})
        for t, cache in enumerate(caches)
    ]
    shares = {name: np.stack([term[0][name] for term in terms]) for name in problem.parameter_names}
    shares["x"] = np.stack([np.asarray(term[1]) for term in terms])
    return shares, {name: np.stack([term[2][name] for term in terms]) for name in d_state}


def walk(problem: Problem, candidate: CellCandidate) -> Iterator[tuple[str, Array]]:
    """(name, array) of all that the derivation can show along the sequence; names and layout as in comparisons.dump."""
    params = problem.variables
    done = candidate.forward(problem)
    swept = bptt.backward(candidate.cell, params, done.tape, done.reading.cotangents)
    local = jacobians.state_jacobians(candidate.cell, params, done.tape)
    products = jacobians.products_to_end(local)
    yield STATE_JACOBIAN, local
    yield PRODUCT_TO_END, products
    yield "singular_values", jacobians.singular_values(products)
    yield "product_norm", jacobians.product_norms(local)
    yield "growth_rates", jacobians.growth_rates(local)
    if swept.delta is not None:
        yield "delta", swept.delta
    yield "d_state", jacobians.flatten_state(swept.d_state)
    for name, norms in jacobians.contribution_norms(candidate.cell, params, done.tape, done.reading.cotangents).items():
        yield f"contribution_norm/{name}", norms
    for name, gradient in candidate.network(problem).backward(params, done).items():
        yield f"gradient/{name}", gradient


def _readout(problem: Problem) -> Readout:
    if problem.readout == "projection":
        return Projection()
    return Head(problem.readout, problem.readout_options["reduction"], problem.output_size or 0)


def built_in(name: str, options: Mapping[str, Any]) -> CellCandidate:
    """The cell of `manual/` called `name`. Raises UnknownName, listing what exists."""
    if name not in CELLS:
        raise UnknownName(f"no cell is called {name!r}; there are {', '.join(CELLS)}")
    if options.get("activation", "tanh") not in ACTIVATIONS:
        raise UnknownName(f"no activation is called {options['activation']!r}; there are {', '.join(ACTIVATIONS)}")
    return CellCandidate(CELLS[name](**options))


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
    name: str, shapes: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]], sizes: Mapping[str, int], seed: int
) -> Problem:
    """A cell from outside under random cotangents on every state at every step, from a random initial state.

    shapes are those of its parameters and of its states; sizes are steps, batch, input_size, hidden_size.
    """
    case = replace(Case(name, name), **sizes)
    must_fit(case)
    numbers = case.steps * (sum(map(math.prod, shapes[0].values())) + case.batch * sum(map(math.prod, shapes[1].values())))
    if numbers > LARGEST:
        raise BadContract(
            f"{name}: its shapes make {numbers:,} numbers over {case.steps} steps; at most {LARGEST:,} are compared"
        )
    draw = _Draw(np.random.default_rng(seed))
    draw.weights(shapes[0])
    draw.sequence(case)
    draw.initial_state(case, shapes[1])
    for state, shape in shapes[1].items():
        draw.constants[f"cotangent_{state}"] = draw.rng.normal(size=(case.steps, case.batch, *shape))
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
        """Targets, and the mask that says where the loss counts; never nowhere."""
        shape = (case.steps, case.batch)
        indices = self.rng.integers(0, case.output_size, shape)
        rows = self.rng.normal(size=(*shape, case.output_size))
        self.constants["target"] = indices if case.loss == SOFTMAX else rows
        mask = (self.rng.random(shape) < 0.6) if case.positions == "masked" else np.ones(shape, dtype=bool)
        mask[-1] = True
        if case.positions == "last":
            mask[:-1] = False
        self.constants["mask"] = mask.astype(np.float64)


LARGEST = 50_000_000  # numbers in the shares of all steps: 400 MB in float64, and each reference keeps some copies


def must_fit(case: Case) -> None:
    """Raises BadOption for sizes whose shares of the steps, T copies of the weights, would not fit into memory."""
    weights = case.hidden_size * (case.hidden_size + case.input_size + case.output_size)
    numbers = case.steps * (weights + case.batch * (case.input_size + case.hidden_size + case.output_size))
    if numbers > LARGEST:
        sizes = f"T={case.steps}, B={case.batch}, I={case.input_size}, H={case.hidden_size}"
        raise BadOption(f"{case.name}: {sizes} is too large to compare step by step: {numbers:,} numbers, at most {LARGEST:,}")


def problem_of(case: Case, seed: int = 0, dtype: str = "float64") -> Problem:
    """The case with its numbers: drawn from the seed, trained as the case says, then cast to dtype.

    Raises UnknownName for a cell, activation or loss that does not exist, BadOption for a size below 1.
    """
    candidate = built_in(case.cell, case.options)
    if case.loss not in LOSSES:
        raise UnknownName(f"no loss is called {case.loss!r}; there are {', '.join(LOSSES)}")
    for name in ("steps", "batch", "input_size", "hidden_size", "output_size"):
        if getattr(case, name) < 1:
            raise BadOption(f"{name} must be at least 1, not {getattr(case, name)}")
    cell = candidate.cell
    must_fit(case)
    state_shapes, shapes = cell.state_shapes(case.hidden_size), cell.parameter_shapes(case.input_size, case.hidden_size)
    draw = _Draw(np.random.default_rng(seed))
    draw.weights({**shapes, **Head(case.loss, case.reduction, case.output_size).parameter_shapes(case.hidden_size)})
    draw.sequence(case)
    draw.initial_state(case, state_shapes)
    draw.targets(case)
    problem = Problem(
        name=case.name,
        cell=case.cell,
        options=case.options,
        readout=case.loss,
        readout_options={"reduction": case.reduction},
        parameter_names=tuple(shapes),
        state_sizes={name: shape[-1] for name, shape in state_shapes.items()},
        input_size=case.input_size,
        hidden_size=case.hidden_size,
        variables=frozen(draw.variables),
        constants=frozen(draw.constants),
        seed=seed,
        jacobians=case.jacobians,
        loss_label=f"{LOSS_LABELS[case.loss]} {case.positions} {case.reduction}",
    )
    return train(problem, candidate, case.trained, case.learning_rate).astype(dtype)


def train(problem: Problem, candidate: CellCandidate, updates: int, learning_rate: float) -> Problem:
    """The problem after plain SGD on its own data; x and the initial states stay. The rate is that of the mean loss."""
    network = candidate.network(problem)
    counted = 1.0 if problem.readout_options["reduction"] == "mean" else float(problem.constants["mask"].sum())
    for _ in range(updates):
        gradients = network.backward(problem.variables, candidate.forward(problem))
        problem = update(problem, gradients, learning_rate / counted)
    return problem


def update(problem: Problem, gradients: Mapping[str, Array], learning_rate: float) -> Problem:
    """The problem after one step of plain SGD along the gradients, from whomever they come."""
    weights = {name: problem.variables[name] for name in problem.weight_names}
    return problem.with_variables(sgd(weights, gradients, learning_rate))
