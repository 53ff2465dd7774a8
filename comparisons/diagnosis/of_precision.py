"""Whether the arrays hide a lower precision: buffers or casts inside, gradients handed out in it.

It is said only of gradients that agree once the code is judged in that precision, by

    digits       every number is one of the precision, and not so in the true gradient: a number of
                 float64 is one of float32 by chance once in 2²⁹
    randomness   or, at a point that is nearly the same, the error is quite another one, as rounding
                 is and a mistake is not. That says how large the error is, and no more
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..judging.findings import Finding, Mistake
from ..judging.judge import judge_answer
from ..judging.verdict import Reason, Verdict
from ..problems.answer import Answer
from ..problems.arrays import Array, has_digits_of
from ..problems.problem import AnyProblem, FunctionProblem
from ..witnesses.ask import Testimony, in_double, measured, witness_of
from ..witnesses.tolerance import SAMPLES, Noise, epsilon, rms

LOWER = ("bfloat16", "float16", "float32")  # the coarsest first
OF_CELLS = ("float16", "float32")  # in which NumPy computes
# Roundoffs of the largest entry: a larger error is not looked at, and a smaller one is not of the
# size of the precision's rounding.
MOST, LEAST = 32.0, 1 / 64
BESIDE = 4.0  # roundoffs by which variables move to a point where rounding is another
APART = 0.7  # of the error: by as much it changes there, where it is random by 1.4


class Candidate(Protocol):
    """Whatever answers a problem."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


@dataclass(frozen=True)
class Inside:
    """A precision that the code computes in, lower than that of its arrays.

    noise    of every gradient in that precision; None where nothing was found
    """

    findings: list[Finding] = field(default_factory=list[Finding])
    noise: Noise | None = None


def lower_inside(
    testimony: Testimony, candidate: Candidate, answer: Answer, rows: Sequence[Verdict]
) -> Inside:
    """The precision that the code computes in, where it is lower than that of its arrays."""
    failed = [row for row in rows if not row.passed]
    witnesses = testimony.brief
    true = witnesses.told[witnesses.first]
    if not failed or true.directions or witnesses.noise.allowed is not None:
        return Inside()
    differ: dict[str, float] = {}
    for row in failed:
        if row.kind is Reason.DIFFERS:
            differ[row.gradient] = max(row.max_rel_error, differ.get(row.gradient, 0.0))
    own = epsilon(testimony.problem.rounding_dtype)
    known = LOWER if isinstance(testimony.problem, FunctionProblem) else OF_CELLS
    lower = [name for name in known if epsilon(name) > own]
    for name in lower:
        near = _near(differ, name)
        showing = _showing(near, answer.gradients, true.gradients, name)
        judged = _judged_in(name, testimony, answer, showing)
        if judged.explained:
            return Inside([_found(testimony.problem, judged.explained, name)], judged.noise)
    for name in reversed(lower):
        of_size = _near(differ, name, LEAST)
        random = _random(name, testimony, candidate, answer, of_size)
        judged = _judged_in(name, testimony, answer, random)
        if judged.explained:
            return Inside([_of_size(testimony.problem, judged.explained, name)], judged.noise)
    return Inside()


def _near(differ: Mapping[str, float], precision: str, least: float = 0.0) -> list[str]:
    """The gradients whose relative error is between so many roundoffs of this precision."""
    unit = epsilon(precision)
    return [name for name, error in differ.items() if least * unit <= error <= MOST * unit]


def _showing(
    differ: Sequence[str], given: Mapping[str, Array], true: Mapping[str, Array], precision: str
) -> list[str]:
    """The gradients of which every number is one of the precision, and not so in truth."""
    found: list[str] = []
    for name in differ:
        if has_digits_of(given[name], precision) and not has_digits_of(true[name], precision):
            found.append(name)
    return found


@dataclass(frozen=True)
class _Judged:
    """Which gradients agree once they are judged in a precision, and by what noise."""

    explained: list[str]
    noise: Noise | None = None


def _judged_in(
    precision: str, testimony: Testimony, answer: Answer, names: Sequence[str]
) -> _Judged:
    if not names:
        return _Judged([])
    problem = in_double(_declared(testimony.problem, precision))
    asked = testimony.asked
    first = witness_of(asked.answers)
    if first.rounds_at_random:  # it tells all there is to know of a precision
        asked = replace(asked, answers={first: asked.answers[first]})
    names_given = set(testimony.names)
    told = (asked, testimony.convention, names_given)
    witnesses = measured(problem, *told, SAMPLES, testimony.seen)
    rows = judge_answer(problem, answer, witnesses, partial=True).rows
    wrong = {row.gradient for row in rows if not row.passed}
    return _Judged([name for name in names if name not in wrong], witnesses.noise)


def _declared(problem: AnyProblem, precision: str) -> AnyProblem:
    """The problem as it is judged for code in this precision, at the very same numbers."""
    if isinstance(problem, FunctionProblem):
        return replace(problem, precision=precision, accumulate=None, levels={})
    return replace(problem, precision=precision)


def _random(
    precision: str,
    testimony: Testimony,
    candidate: Candidate,
    answer: Answer,
    names: Sequence[str],
) -> list[str]:
    """The gradients whose error is quite another one at a point beside."""
    if not names:
        return []
    beside = _beside(testimony.problem, precision)
    here = testimony.brief
    names_given = set(testimony.names)
    try:
        plain = here.first.answer(in_double(beside))
        there = testimony.convention.apply(plain, beside.steps, beside.batch, names_given)
        again = candidate.answer(beside)
    except Exception:  # nothing can be said of code or references that do not answer there
        return []
    true_here, true_there = here.told[here.first].gradients, there.gradients
    found: list[str] = []
    for name in names:
        if name not in again.gradients or name not in true_there:
            continue
        error = answer.gradients[name] - true_here[name]
        change = again.gradients[name] - true_there[name] - error
        if rms(change) >= APART * rms(error):
            found.append(name)
    return found


def _beside(problem: AnyProblem, precision: str) -> AnyProblem:
    """The problem with every variable moved by some roundoffs of the precision."""
    rng = np.random.default_rng([problem.seed, 6])
    moved: dict[str, Array] = {}
    for name, value in problem.variables.items():
        u = rng.uniform(-1, 1, size=value.shape)
        moved[name] = (value * (1 + BESIDE * epsilon(precision) * u)).astype(value.dtype)
    return problem.with_variables(moved)


def _found(problem: AnyProblem, names: Sequence[str], precision: str) -> Finding:
    told = ", ".join(names)
    text = (
        f"computed in {precision} inside: all numbers of {told} are numbers of {precision}, and "
        f"the errors are those of its rounding; {_advice(problem, precision)}"
    )
    return Finding(Mistake.PRECISION, told, None, 1.0, text)


def _of_size(problem: AnyProblem, names: Sequence[str], precision: str) -> Finding:
    told = ", ".join(names)
    text = (
        f"the error in {told} is of the size of {precision}'s rounding, and as random; if "
        f"something inside is in {precision}, {_advice(problem, precision)}"
    )
    return Finding(Mistake.PRECISION, told, None, 1.0, text)


def _advice(problem: AnyProblem, precision: str) -> str:
    if isinstance(problem, FunctionProblem):
        return f'declare convention={{"precision": "{precision}"}}'
    return f'ask for dtype="{precision}"'
