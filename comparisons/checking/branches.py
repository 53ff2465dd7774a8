"""Branches of the forward pass that no step took, and problems that take them.

Of a branch that is not taken the derivative is not seen: a clamp that is never active may have any
slope. Other seeds and scaled weights are tried until every branch was taken, or the list of them is
at its end; where one takes a branch, the code under test is asked there as well.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import QuestionError
from ..problems.arrays import Array
from ..problems.problem import AnyProblem
from .case_report import CaseReport
from .elsewhere import Question, wrong_case
from .ties import Branch, Log, Place, in_order

# Times the weights, times x and the initial states. Once other numbers of the same size.
OF_A_CELL = ((1.0, 1.0), (1.0, 5.0), (5.0, 5.0), (1.0, 30.0), (30.0, 30.0), (1.0, 1e-9))
OF_A_FUNCTION = (1.0, -1.0, 3.0, -3.0, 10.0, -10.0, 30.0, -30.0, 0.1, 1e-9)
STEPS = 4  # of a cell's further problems: enough to scale, too few for chaos
BLATANT = 1e-3  # relative error of a slope that was forgotten; rounding far out makes none so large
MOST_ASKED = 3  # problems at which the code under test is asked
PATIENCE = 2.0  # seconds after which no further problem is tried

Missing = set[tuple[Place, bool]]


@dataclass(frozen=True)
class Draw:
    """A further problem, and what is said of it: 'weights × 5'."""

    problem: AnyProblem
    words: str


@dataclass(frozen=True)
class Found:
    """What came of it.

    left    the branches that were taken nowhere
    also    the problems that took one, at which the code under test is right
    wrong   the case of the first at which it is wrong
    """

    left: list[Branch]
    also: list[str] = field(default_factory=list[str])
    wrong: CaseReport | None = None


@dataclass(frozen=True)
class Search:
    """How branches are looked for.

    log       what the problem that was checked took
    draws     further problems
    watch     what one of them takes
    question  the code under test at one of them; None where it cannot be asked
    """

    log: Log
    draws: Iterable[Draw]
    watch: Callable[[Any], Log]
    question: Callable[[Draw], Question | None]


def search(asked: Search) -> Found:
    """The branches that no problem took, once all have been tried."""
    left = asked.log.untaken()
    also: list[str] = []
    chances = MOST_ASKED
    until = time.perf_counter() + PATIENCE
    for draw in asked.draws if left else ():
        if time.perf_counter() > until:
            break
        taken = _taken(left, asked.watch(draw.problem))
        if not taken or not chances:
            continue
        chances -= 1
        question = asked.question(draw)
        if question is None:
            continue
        try:
            case = wrong_case(question)
        except QuestionError:
            continue
        if case is not None and _is_blatant(case):
            never = [branch.where for branch in asked.log.branches(taken)]
            note = f"this branch was never taken at the first problem, and is here: {never[0]}"
            wrong = replace(case, notes=[note, *case.notes])
            return Found(asked.log.branches(left - taken), also, wrong)
        if case is None:
            left -= taken
            also.append(f"{draw.words} (taking {_places(taken)})")
        if not left:
            break
    return Found(asked.log.branches(left), also)


def _taken(left: Missing, log: Log) -> Missing:
    """Those of the branches that a problem takes."""
    found: Missing = set()
    for place, outcome in left:
        true, false = log.taken.get(place, (0, 0))
        if true if outcome else false:
            found.add((place, outcome))
    return found


def _places(taken: Missing) -> str:
    return ", ".join(dict.fromkeys(place.at for place, _ in sorted(taken, key=in_order)))


def _is_blatant(case: CaseReport) -> bool:
    """Whether a gradient is off by far more than rounding makes of large numbers."""
    errors = [row.max_rel_error for row in case.failures()]
    return any(np.isfinite(error) and error > BLATANT for error in errors)


def scaled(
    problem: AnyProblem, factors: Callable[[str], float], seed: int, spread: float
) -> AnyProblem:
    """The problem with every variable times its factor, and moved by up to a part of its size."""
    rng = np.random.default_rng([problem.seed, 9, seed])
    found: dict[str, Array] = {}
    for name, value in problem.variables.items():
        moved = value * factors(name) * (1 + spread * rng.uniform(-1, 1, size=value.shape))
        found[name] = moved.astype(problem.rounding_dtype).astype(value.dtype)
    return problem.with_variables(found)


def of_a_function(problem: AnyProblem, params: Iterable[str]) -> Iterator[Draw]:
    """The problem at other params; its inputs, which may mean something, stay."""
    named = frozenset(params)
    for number, factor in enumerate(OF_A_FUNCTION):
        number_told = f"{factor:g}".replace("-", "−", 1) if factor < 0 else f"{factor:g}"
        words = f"params × {number_told}" if factor != 1.0 else "other params"

        def factors(name: str, factor: float = factor) -> float:
            return factor if name in named else 1.0

        moved = scaled(problem, factors, number, 0.5)
        kept = {name: value for name, value in problem.variables.items() if name not in named}
        yield Draw(moved.with_variables(kept), words)
