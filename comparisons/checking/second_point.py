"""The candidate at a second point: the same object, asked at other weights.

A derivation that reads a state or a weight of an earlier call, or hands out what was computed
beforehand, is right wherever nothing but one point is asked. Two points are added.

    far    every number moved by up to a third: the candidate alone is asked there, so that what
           it keeps is another thing when the first point is asked again
    near   every number moved by up to a thousandth: the gradient is held against a reference
           there. A derivation that is right at the first point to rounding is right beside it too,
           unless its answer depends on what was asked before: such an error is of the size of the
           move, 1e-3, and no rounding is.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import NothingFollows, NotRepeatable, QuestionError
from ..judging.verdict import Verdict
from ..problems.answer import Answer
from ..problems.arrays import Array, Arrays, frozen, is_real
from ..problems.clipping import Seen
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, FunctionProblem, Scalar
from ..witnesses.ask import Witnesses, ask, in_double

FAR, NEAR = 0.3, 1e-3  # by which part of themselves numbers are moved
SEEN = 1e-3 * NEAR  # of a gradient: a smaller error is not of the size of the move
STEP = 1e-5  # the same, for a slope of the loss
CLOSELY = 1e-8  # of a slope's terms
ROOM = 100.0  # times the errors at the first point: beside it they may be larger
OWN_INPUTS = (
    "the gradients do not follow the inputs that are handed over: the code reads inputs of its "
    "own, or those of an earlier call; what it would give for others is not known"
)
ALONG = "distance"  # the only variable of a problem along a line


class Candidate(Protocol):
    """Whatever answers a problem."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


@dataclass(frozen=True)
class Beside:
    """What a candidate answers beside the first point: at other weights; at other inputs too."""

    problem: AnyProblem
    answer: Answer
    other_inputs: "Beside | None" = None


@dataclass(frozen=True)
class AtFirst:
    """What is known at the first point: the references, the convention, and the verdicts.

    loss   the forward pass alone; None where it cannot be asked for itself
    """

    witnesses: Witnesses
    convention: Convention
    rows: list[Verdict]
    loss: Callable[[Any], float] | None = None

    @property
    def clips(self) -> bool:
        """Whether the convention cuts gradients, which then are no longer slopes of the loss."""
        return self.convention.clips

    def room(self, name: str) -> float:
        """The error that is not of the size of the move: far above what was found at first."""
        noise = self.witnesses.noise
        errors = [row.max_abs_error for row in self.rows if row.gradient == name]
        return ROOM * max(noise.limit * noise.total.get(name, 0.0), *errors, 0.0)


def moved(problem: AnyProblem, part: float, inputs_too: bool = True) -> AnyProblem:
    """The problem with every weight moved at random by up to this part of itself, and every input.

    Inputs that hold whole numbers stay: masks, indicators, lengths, times.
    """
    rng = np.random.default_rng([problem.seed, 6])
    stays: set[str] = set()
    own: Mapping[str, str] = {}
    if isinstance(problem, FunctionProblem):
        given = {name: problem.variables[name] for name in problem.sliced}
        inputs, own = {**problem.constants, **given}, problem.levels
        for name, value in inputs.items():
            if not inputs_too or _may_mean_something_else(value):
                stays.add(name)

    def move(value: Array, dtype: str) -> Array:
        away = np.asarray(value * (1 + part * rng.uniform(-1, 1, size=value.shape)))
        return away.astype(dtype).astype(value.dtype)

    variables: dict[str, Array] = {}
    for name, value in problem.variables.items():
        if name not in stays:
            variables[name] = move(value, own.get(name, problem.rounding_dtype.name))
    found = problem.with_variables(variables)
    if not isinstance(found, FunctionProblem):
        return found
    constants = dict(problem.constants)
    for name, value in problem.constants.items():
        if name not in stays:
            constants[name] = move(value, value.dtype.name)
    return replace(found, constants=frozen(constants))


def _may_mean_something_else(value: Array) -> bool:
    """Whether an array holds a whole number other than zero, or none at all but zeros."""
    if not is_real(value.dtype):
        return True
    plain = value.astype(np.float64)
    return not plain.any() or bool(np.any((plain == np.round(plain)) & (plain != 0)))


def asked_elsewhere(problem: AnyProblem, candidate: Candidate) -> Beside | None:
    """The candidate's answer beside the point; after that, it is asked far from it.

    None where it cannot be asked beside it.
    """
    near = replace(moved(problem, NEAR, inputs_too=False), name=f"{problem.name}, beside")
    beside: Beside | None = None
    with contextlib.suppress(QuestionError):
        beside = Beside(near, candidate.answer(near))
    if beside is not None and isinstance(problem, FunctionProblem):
        with contextlib.suppress(QuestionError):
            other = replace(moved(problem, NEAR), name=f"{problem.name}, with other inputs")
            beside = replace(beside, other_inputs=Beside(other, candidate.answer(other)))
    with contextlib.suppress(QuestionError):
        candidate.answer(moved(problem, FAR))
    return beside


def must_be_right(beside: Beside, first: AtFirst) -> list[str]:
    """Remarks on what is right beside the first point as long as inputs stay.

    Raises NotRepeatable where a gradient that is right at the first point is wrong at other
    weights beside it.
    """
    wrong = _wrong(beside, first)
    if wrong:
        raise NotRepeatable(
            f"right at the point that was asked first, {', '.join(wrong)} is wrong at weights that "
            "differ from it by a thousandth: what the code under test answers depends on what it "
            "was asked before (it reads states or weights of an earlier call), or was computed "
            "beforehand; it must answer for the params it is given: reset what it keeps in setup="
        )
    inputs = beside.other_inputs
    return [OWN_INPUTS] if inputs is not None and _wrong(inputs, first) else []


def _wrong(beside: Beside, first: AtFirst) -> list[str]:
    """The gradients that are wrong there."""
    if _has_its_slope(beside, first):
        return []
    if first.witnesses.first.numeric:
        return _wrong_along_a_line(beside, first)
    return _wrong_gradients(beside, first)


def _has_its_slope(beside: Beside, first: AtFirst) -> bool:
    """Whether two values of the loss tell the slope in a random direction that the gradients do.

    Far more closely than the size of the move; then no reference need be asked.
    """
    convention, problem = first.convention, beside.problem
    loss = first.loss
    if loss is None or first.clips or convention.truncation is not None:
        return False
    way = _way(problem, beside.answer.gradients)
    terms = [beside.answer.gradients[name] * direction for name, direction in way.items()]
    values: list[float] = []
    for step in (STEP, -STEP):
        there = {
            name: problem.variables[name] + step * direction for name, direction in way.items()
        }
        try:
            values.append(loss(problem.with_variables(there)))
        except QuestionError:
            return False
    factor = convention.factor(problem.steps, problem.batch)
    slope = factor * (values[0] - values[1]) / (2 * STEP)
    size = sum(float(np.vdot(each, each)) for each in terms) ** 0.5
    return abs(slope - sum(float(np.sum(each)) for each in terms)) <= CLOSELY * size


def _wrong_gradients(beside: Beside, first: AtFirst) -> list[str]:
    """The gradients that differ beside the point from those of the reference that tells most."""
    problem, answer = beside.problem, beside.answer
    told = _told(in_double(problem), first)
    if told is None:
        return []
    declared = meant_by(first.convention, problem, told, answer.gradients)
    wrong: list[str] = []
    for name, expected in declared.gradients.items():
        if name in answer.gradients and name not in declared.directions:
            error = _largest(answer.gradients[name] - expected)
            if error > max(SEEN * _largest(expected), first.room(name)):
                wrong.append(name)
    return wrong


def meant_by(convention: Convention, problem: AnyProblem, told: Answer, given: Arrays) -> Answer:
    """What code under the convention ought to return, where a reference says `told`."""
    inputs = frozenset(problem.sliced if isinstance(problem, FunctionProblem) else ())
    seen, sizes = Seen(given, {}, inputs), (problem.steps, problem.batch, set(given))
    return convention.followed_by(seen, told, *sizes).apply(told, *sizes, seen)


def _wrong_along_a_line(beside: Beside, first: AtFirst) -> list[str]:
    """The gradients together, where their derivative along a line is not that of the function.

    One derivative is all that numeric references have to be asked for.
    """
    convention, problem = first.convention, beside.problem
    if first.clips or not isinstance(problem, FunctionProblem):
        return []
    way = _way(problem, beside.answer.gradients)
    told = _told(_along(problem, way), first)
    if told is None or told.kinks:
        return []
    factor = convention.factor(problem.steps, problem.batch)
    mine = size = room = 0.0
    for name, direction in way.items():
        terms = beside.answer.gradients[name] * direction
        mine += float(np.sum(terms))
        size += float(np.sum(np.abs(terms)))
        room += first.room(name) * float(np.sum(np.abs(direction)))
    doubt = first.witnesses.noise.limit * abs(factor) * told.uncertainty.get(ALONG, 0.0)
    error = abs(mine - factor * float(told.gradients[ALONG][0]))
    return [", ".join(way)] if error > max(SEEN * size, doubt, room) else []


def _told(problem: AnyProblem, first: AtFirst) -> Answer | None:
    """What the reference that tells most answers there; None where it cannot, or is not finite."""
    try:
        told = ask(problem, [first.witnesses.first]).answers[first.witnesses.first]
    except NothingFollows:
        return None
    finite = all(np.isfinite(value).all() for value in told.gradients.values())
    return told if finite else None


def _way(problem: AnyProblem, given: Mapping[str, Array]) -> dict[str, Array]:
    """A random direction in the variables of which a gradient is given, in proportion to them."""
    rng = np.random.default_rng([problem.seed, 7])
    way: dict[str, Array] = {}
    for name, value in problem.variables.items():
        if name in given:
            way[name] = value * rng.uniform(-1, 1, size=value.shape)
    return way


def _along(problem: FunctionProblem, way: Arrays) -> FunctionProblem:
    """The function along the line, of the distance alone."""
    point = {**problem.constants, **problem.variables}

    def on_the_line(function: Scalar) -> Scalar:
        def along(xp: Any, named: Mapping[str, Any]) -> Any:
            distance = named[ALONG][0]
            there = {name: point[name] + distance * direction for name, direction in way.items()}
            return function(xp, {**point, **there})

        return along

    only, nothing = frozen({ALONG: np.zeros(1)}), frozen({})
    made = problem.of(on_the_line)
    return replace(made, variables=only, constants=nothing, sliced=(), extra_noise={})


def _largest(value: Array) -> float:
    return float(np.max(np.abs(value), initial=0.0))
