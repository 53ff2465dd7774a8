"""What is asked of code from outside once it was right: other sizes, branches and weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..candidates.built_in_cells import CellCandidate
from ..problems.problem import FunctionProblem, Problem
from ..witnesses.engines import Engine
from .branches import OF_A_CELL, STEPS, Draw, Found, Search, of_a_function, scaled, search
from .case_report import CaseReport
from .crosscheck import Examined
from .elsewhere import Question
from .second_point import AtFirst, asked_elsewhere, must_be_right
from .sizes import CellTrials, Sizes, at_other_sizes
from .ties import Log

PATIENCE = (
    1.0  # seconds that the first check may have taken, for numeric references to be asked more
)


@dataclass(frozen=True)
class FirstAsked:
    """The problem that a cell was asked first, and what was found there."""

    problem: Problem
    examined: Examined


def of_a_cell(
    trials: CellTrials,
    first: FirstAsked,
    watch: Callable[[Problem], Log],
    case: CaseReport,
) -> list[CaseReport]:
    """The case with what was found at other sizes and in other branches; then those at which the
    cell is wrong.

    Raises NotRepeatable where it is wrong beside the first problem as well.
    """
    try:
        sized = at_other_sizes(trials)
    finally:
        trials.restore()
    branched = _branches_of_a_cell(trials, first.problem, watch)
    notes = [*case.notes, *(f"not judged at {reason}" for reason in sized.refused)]
    also = [*sized.also, *branched.also]
    told = replace(case, also=also, notes=notes, not_taken=branched.left)
    wrong = [each for each in (sized.wrong, branched.wrong) if each is not None]
    if wrong:
        beside = asked_elsewhere(first.problem, CellCandidate(trials.cell))
        if beside is not None:
            rows = first.examined.case.rows
            must_be_right(beside, AtFirst(first.examined.witnesses, trials.convention, rows))
    return [told, *wrong]


def _branches_of_a_cell(
    trials: CellTrials, base: Problem, watch: Callable[[Problem], Log]
) -> Found:
    name, cell = base.cell, trials.cell

    def draws() -> Iterator[Draw]:
        own = trials.own
        sizes = Sizes(STEPS, own["batch"], own["input_size"], own["hidden_size"])
        for number, (weights, inputs) in enumerate(OF_A_CELL):
            _, drawn = trials.drawn(sizes, number + 2)
            in_precision = drawn.in_precision(trials.dtype)

            def factor(name: str, weights: float = weights, inputs: float = inputs) -> float:
                return weights if name in base.parameter_names else inputs

            words = f"T = {STEPS}, weights × {weights:g}, x and initial states × {inputs:g}"
            problem = scaled(in_precision, factor, number, 0.0)
            yield Draw(replace(problem, name=f"{name} at {words}"), words)

    def question(draw: Draw) -> Question:
        assert isinstance(draw.problem, Problem)
        return trials.question(cell, draw.problem)

    return search(Search(watch(base), draws(), watch, question))


@dataclass(frozen=True)
class FunctionTrials:
    """How a function is tried at further problems.

    problem   what it was asked first
    params    those of its variables that are scaled
    ask       the question at one of them
    """

    problem: FunctionProblem
    params: list[str]
    engines: tuple[Engine, ...]
    watch: Callable[[FunctionProblem], Log]
    ask: Callable[[FunctionProblem], Question]


def of_a_function_case(trials: FunctionTrials, case: CaseReport) -> list[CaseReport]:
    """The case with what was found in other branches.

    The point that was asked first is the user's own: where another branch, taken at other weights,
    has another derivative than the one given, that is told, and is not what was asked.
    """
    slow = trials.engines[0].numeric and case.seconds > PATIENCE

    def question(draw: Draw) -> Question | None:
        assert isinstance(draw.problem, FunctionProblem)
        named = replace(draw.problem, name=f"{draw.problem.name} at {draw.words}")
        return None if slow else trials.ask(named)

    draws = of_a_function(trials.problem, trials.params)
    found = search(Search(trials.watch(trials.problem), draws, trials.watch, question))
    told = replace(case, also=[*case.also, *found.also], not_taken=found.left)
    if found.wrong is None:
        return [told]
    return [replace(told, notes=[*told.notes, *_wrong_elsewhere(found.wrong)])]


def _wrong_elsewhere(wrong: CaseReport) -> list[str]:
    """Where another branch is taken, and what is wrong there."""
    names = dict.fromkeys(row.gradient for row in wrong.rows if not row.passed)
    return [f"WRONG where another branch is taken: {', '.join(names)} ({wrong.name})", *wrong.notes]
