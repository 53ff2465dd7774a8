"""One candidate at further problems, cheaply: no noise is measured unless something differs.

What is right to half the digits there is right: mistakes that show only at some sizes, or in some
branch, are not of the size of rounding. What is not is asked in full, of one reference.

The half of the digits is that of the reference's gradients, or, for a cell, of one derivative: two
values of its own forward pass tell the slope in a random direction v of all variables together,

    [L(p + h v) − L(p − h v)] / 2h = ⟨gradient, v⟩ + O(h²).                                   (1)

With cotangents on every state at every step no part of the gradient is small beside the others, so
that a mistake in any shows in (1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import QuestionError, Vacuous
from ..problems.answer import Answer
from ..problems.arrays import Array, Arrays
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, Problem
from ..witnesses import tolerance
from ..witnesses.ask import ask, in_double
from ..witnesses.engines import Engine
from . import preflight
from .case_report import CaseReport
from .crosscheck import Manner, check_problem
from .second_point import meant_by

DISTANCE = 5e-5  # h ‖v‖ of (1)
FIRST_CHOICE = "torch"  # which differentiates another problem without compiling it


class Candidate(Protocol):
    """Whatever answers a problem."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


@dataclass(frozen=True)
class Question:
    """A candidate at a further problem: whom to ask, and what it means to return.

    loss   the forward pass alone, where (1) is to be asked first
    """

    problem: AnyProblem
    candidate: Candidate
    engines: tuple[Engine, ...]
    convention: Convention
    manner: Manner
    loss: Callable[[Arrays], float] | None = None


def cheapest(engines: Sequence[Engine]) -> tuple[Engine, ...]:
    """Whom to ask at further problems: the one that compiles nothing, if it is there; else the
    first that differentiates; else all, of which some may not follow.
    """
    exact = [each for each in engines if not each.numeric]
    first = [each for each in exact if each.name == FIRST_CHOICE] or exact
    return tuple(first[:1] or engines)


def wrong_case(question: Question) -> CaseReport | None:
    """The verdicts where something is wrong; None where all is right.

    Raises a QuestionError where nothing can be judged.
    """
    if _agrees_to_half_the_digits(question):
        return None
    case = check_problem(
        question.problem,
        question.candidate,
        question.engines,
        question.convention,
        replace(question.manner, first_of_all=False, beside=False),
    )
    if not case.passed:
        return case
    if all(row.gradient in case.vacuous for row in case.rows):
        raise Vacuous(f"{case.name}: nothing could be seen")
    return None


def _agrees_to_half_the_digits(question: Question) -> bool:
    """Whether the loss, the states and every gradient given are the reference's to √ε."""
    problem = question.problem
    answer = question.candidate.answer(problem)
    preflight.finite_forward(answer, problem.rounding_dtype.name)
    share = tolerance.epsilon(problem.rounding_dtype) ** 0.5
    if question.loss is not None:
        return _has_its_slope(problem, answer, question.loss, share)
    engine = question.engines[0]
    told = None if engine.numeric else _brief_answer(problem, engine)
    if told is None:
        return False
    expected = meant_by(question.convention, problem, told, answer.gradients)
    mine, theirs = tolerance.quantities(answer), tolerance.quantities(expected)
    for name, value in theirs.items():
        if name not in mine and not question.manner.partial:
            return False
        if name in mine and not _near(mine[name], value, share, _in_time(problem, name)):
            return False
    return True


def _has_its_slope(
    problem: AnyProblem, answer: Answer, loss: Callable[[Arrays], float], share: float
) -> bool:
    """(1), to within a share of its terms, which are of either sign."""
    rng = np.random.default_rng([problem.seed, 10])
    given = answer.gradients
    variables = {name: value for name, value in problem.variables.items() if name in given}
    way = {name: rng.normal(size=value.shape) for name, value in variables.items()}
    step = DISTANCE / sum(float(np.vdot(v, v)) for v in way.values()) ** 0.5
    above, below = dict(problem.variables), dict(problem.variables)
    for name, value in variables.items():
        above[name], below[name] = value + step * way[name], value - step * way[name]
    terms = [given[name] * direction for name, direction in way.items()]
    slope = sum(float(np.sum(each)) for each in terms)
    size = sum(float(np.vdot(each, each)) for each in terms) ** 0.5
    told = (loss(above) - loss(below)) / (2 * step)
    return abs(told - slope) <= share * size


def _brief_answer(problem: AnyProblem, engine: Engine) -> Answer | None:
    """The engine's plain answer, without shares of steps; None where it has none."""
    try:
        if isinstance(problem, Problem):
            return engine.answer(in_double(problem), shares=False)
        return ask(in_double(problem), [engine]).answers[engine]
    except Exception:  # the full question tells why
        return None


def _in_time(problem: AnyProblem, name: str) -> bool:
    """Whether the first axis of a gradient is time, so that each step is judged by its own size."""
    return isinstance(problem, Problem) and (name == "x" or name.startswith("state "))


def _near(mine: Array, theirs: Array, share: float, in_time: bool) -> bool:
    """Whether no entry is off by more than a share of the largest, at each step where there are
    steps.
    """
    if mine.shape != theirs.shape:
        return False
    steps = len(theirs) if in_time else 1
    error = np.abs(mine - theirs).reshape(steps, -1).max(axis=1, initial=0.0)
    size = np.abs(theirs).reshape(steps, -1).max(axis=1, initial=0.0)
    return bool(np.all(error <= share * size))


def refusal(error: QuestionError) -> str:
    """Why a further problem could not be judged: the error's class and the first line of it."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]:.200}"
