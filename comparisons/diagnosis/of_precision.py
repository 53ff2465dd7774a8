"""Whether float64 arrays hide a lower precision: buffers or casts inside, gradients handed out in it.

It is said only where all gradients that differ agree once the code is judged in that precision, and

    digits       every number of one of them is a number of the precision, which those of the true
                 gradient are not: a number of float64 is one of float32 by chance once in 2²⁹
    randomness   or, of float32: at a point that is nearly the same the error is quite another one,
                 as rounding is and a mistake is not. That says how large the error is, and no more
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from ..judging.findings import Finding, Mistake
from ..judging.judge import judge_answer
from ..judging.verdict import Reason, Verdict
from ..problems.answer import Answer
from ..problems.arrays import Array, has_digits_of
from ..problems.problem import AnyProblem, FunctionProblem
from ..witnesses.ask import Testimony
from ..witnesses.tolerance import epsilon, rms

COARSEST_FIRST = ("bfloat16", "float16", "float32")
BESIDE = 16.0  # roundoffs by which variables move to a point where rounding is another
APART = 0.7  # of the error: by as much it changes there, where it is random by 1.4


class Candidate(Protocol):
    """Whatever answers a problem."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


def lower_inside(
    testimony: Testimony, candidate: Candidate, answer: Answer, rows: Sequence[Verdict]
) -> list[Finding]:
    """The precision that the code computes in, where it is lower than that of its arrays."""
    problem = testimony.problem
    differ = {row.gradient for row in rows if not row.passed}
    of_size = all(row.kind is Reason.DIFFERS for row in rows if not row.passed)
    if not differ or not of_size or testimony.brief.noise.allowed is not None:
        return []
    witnesses = testimony.brief
    truth = witnesses.told[witnesses.first]
    for name in COARSEST_FIRST:
        if epsilon(name) <= epsilon(problem.rounding_dtype) or truth.directions:
            continue
        showing = _showing(differ, answer.gradients, truth.gradients, name)
        if showing and _agree(testimony, answer, differ, name):
            return [_found(problem, showing, name)]
    single = epsilon(problem.rounding_dtype) < epsilon(np.float32)
    if not single or truth.directions or not _agree(testimony, answer, differ, "float32"):
        return []
    random = _random(testimony, candidate, answer, differ)
    return [_of_size(problem, random)] if random else []


def _showing(
    differ: set[str], given: Mapping[str, Array], true: Mapping[str, Array], precision: str
) -> list[str]:
    """The gradients of which every number is one of the precision, and not so in truth."""
    names = [name for name in given if name in differ and name in true]
    found: list[str] = []
    for name in names:
        if has_digits_of(given[name], precision) and not has_digits_of(true[name], precision):
            found.append(name)
    return found


def _agree(testimony: Testimony, answer: Answer, differ: set[str], precision: str) -> bool:
    """Whether all that differs agrees once it is judged in the precision."""
    problem = _declared(testimony.problem, precision)
    witnesses = replace(testimony, problem=problem).full
    rows = judge_answer(problem, answer, witnesses, partial=True).rows
    return all(row.passed for row in rows if row.gradient in differ)


def _declared(problem: AnyProblem, precision: str) -> AnyProblem:
    """The problem as it is judged for code in this precision, at the very same numbers."""
    if isinstance(problem, FunctionProblem):
        return replace(problem, precision=precision, accumulate=None, levels={})
    return replace(problem, precision=precision)


def _random(
    testimony: Testimony, candidate: Candidate, answer: Answer, differ: set[str]
) -> list[str]:
    """The gradients, if all that differ are such, whose error is quite another one beside."""
    problem = testimony.problem
    rng = np.random.default_rng([problem.seed, 6])
    moved: dict[str, Array] = {}
    for name, value in problem.variables.items():
        u = rng.uniform(-1, 1, size=value.shape)
        moved[name] = (value * (1 + BESIDE * epsilon(np.float32) * u)).astype(value.dtype)
    beside = problem.with_variables(moved)
    here = testimony.brief
    try:
        there = replace(testimony, problem=beside).brief
        again = candidate.answer(beside)
    except Exception:  # nothing can be said of code or references that do not answer there
        return []
    true_here, true_there = here.told[here.first].gradients, there.told[there.first].gradients
    found: list[str] = []
    for name in sorted(differ & again.gradients.keys() & true_there.keys()):
        error = answer.gradients[name] - true_here[name]
        change = again.gradients[name] - true_there[name] - error
        if rms(change) >= APART * rms(error):
            found.append(name)
    return found if len(found) == len(differ) else []


def _found(problem: AnyProblem, names: list[str], precision: str) -> Finding:
    text = (
        f"computed in {precision} inside: {', '.join(names)} hold numbers of {precision} alone, and "
        f"the errors are those of its rounding; {_advice(problem, precision)}"
    )
    return Finding(Mistake.PRECISION, ", ".join(names), None, 1.0, text)


def _of_size(problem: AnyProblem, names: list[str]) -> Finding:
    text = (
        f"the error in {', '.join(names)} is of the size of float32's rounding, and as random; if "
        f"something inside is in float32, {_advice(problem, 'float32')}"
    )
    return Finding(Mistake.PRECISION, ", ".join(names), None, 1.0, text)


def _advice(problem: AnyProblem, precision: str) -> str:
    if isinstance(problem, FunctionProblem):
        return f'declare convention={{"precision": "{precision}"}}'
    return f'ask for dtype="{precision}"'
