"""One candidate at further problems, cheaply: one reference, and no noise unless something differs.

What is right to half the digits there is right: mistakes that show only at some sizes, or in some
branch, are not of the size of rounding. What is not is asked in full, with measured noise.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import QuestionError
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, Problem
from ..witnesses import tolerance
from ..witnesses.ask import ask, in_double
from ..witnesses.engines import Engine
from . import preflight
from .case_report import CaseReport
from .crosscheck import Manner, check_problem

FIRST_CHOICE = "torch"  # which differentiates another problem without compiling it


class Candidate(Protocol):
    """Whatever answers a problem."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


@dataclass(frozen=True)
class Question:
    """A candidate at a further problem: whom to ask, and what it means to return."""

    problem: AnyProblem
    candidate: Candidate
    engine: Engine
    convention: Convention
    manner: Manner


def cheapest(engines: tuple[Engine, ...]) -> Engine:
    """The engine that is asked at further problems: the one that compiles nothing, if it is there.

    Else the first.
    """
    return next((each for each in engines if each.name == FIRST_CHOICE), engines[0])


def wrong_case(question: Question) -> CaseReport | None:
    """The verdicts where something is wrong; None where all is right.

    Raises a QuestionError where nothing can be judged.
    """
    if _agrees_to_half_the_digits(question):
        return None
    case = check_problem(
        question.problem,
        question.candidate,
        [question.engine],
        question.convention,
        replace(question.manner, first_of_all=False, beside=False),
    )
    return None if case.passed else case


def _agrees_to_half_the_digits(question: Question) -> bool:
    """Whether the loss, the states and every gradient given are the reference's to √ε."""
    problem, engine = question.problem, question.engine
    answer = question.candidate.answer(problem)
    preflight.finite_forward(answer, problem.rounding_dtype.name)
    told = _brief_answer(problem, engine)
    if told is None or told.directions or told.uncertainty:
        return False
    names = set(answer.gradients)
    expected = question.convention.apply(told, problem.steps, problem.batch, names)
    share = tolerance.epsilon(problem.rounding_dtype) ** 0.5
    mine, theirs = tolerance.quantities(answer), tolerance.quantities(expected)
    for name, value in theirs.items():
        if name not in mine and not question.manner.partial:
            return False
        if name in mine and not _near(mine[name], value, share, _in_time(problem, name)):
            return False
    return True


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
