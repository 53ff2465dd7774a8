"""Candidate + problem + references → CaseReport. Pure: prints nothing, writes nothing.

The order is fixed. The forward passes are compared first: where the loss or a state differs, the two compute different
functions, and nothing is said of gradients. Then every gradient that a reference tells is held against the candidate's, as a
whole and step by step, with the noise measured on this very problem.
"""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any, Protocol

from comparisons import tolerance
from comparisons.comparator import Yardstick, compare
from comparisons.engines import Engine, select
from comparisons.errors import MissingFramework, QuestionError
from comparisons.problem import Answer, Problem, first_step_number
from comparisons.verdict import CaseReport, Report, Verdict

PACKAGES = ("numpy", "torch", "jax", "array-api-compat")


class Candidate(Protocol):
    """Whatever answers a problem as the references do."""

    def answer(self, problem: Problem) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


def environment(seed: int, dtype: str) -> dict[str, Any]:
    """What a report must say to be repeated: versions (null where not installed), seed, dtype."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version(), "seed": seed, "dtype": dtype}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def available(references: Sequence[str] | None) -> tuple[tuple[Engine, ...], dict[str, str]]:
    """(the engines that can be loaded, {missing ones: how to install them}). Raises MissingFramework when none can."""
    engines, missing = select(None if references is None else tuple(references)), dict[str, str]()
    for engine in engines:
        try:
            engine.load()
        except MissingFramework as error:
            missing[engine.name] = str(error)
    if len(missing) == len(engines):
        raise MissingFramework("; ".join(missing.values()) or "no reference was named")
    return tuple(engine for engine in engines if engine.name not in missing), missing


def check_problem(problem: Problem, candidate: Candidate, engines: Iterable[Engine]) -> CaseReport:
    """The verdicts on one candidate at one problem."""
    start = time.perf_counter()
    reasons = {engine.name: engine.reason_not(problem) for engine in engines}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    asked = [engine for engine in engines if engine.name not in left_out]
    if not asked:
        raise QuestionError(f"{problem.name}: no reference applies ({'; '.join(left_out.values())})")
    answer = candidate.answer(problem)
    answers = {engine.name: engine.answer(problem) for engine in asked}
    witness = min(asked, key=lambda engine: (not engine.tells_steps, not engine.rounds_at_random))
    others = [other for name, other in answers.items() if name != witness.name]
    noise = tolerance.measure(problem, witness.answer, [answers[witness.name], *others])
    judge = _judge(answer, noise)
    forward = [judge(name, engine, reference) for engine, reference in answers.items() for name in _forward_names(reference)]
    rows: list[Verdict] = []
    if all(row.passed for row in forward):
        rows = [judge(name, engine, reference) for engine, reference in answers.items() for name in reference.gradients]
    sizes: dict[str, Any] = dict(problem.sizes())
    seconds = time.perf_counter() - start
    about = (problem.name, problem.cell, problem.loss_label)
    return CaseReport(*about, **sizes, seconds=seconds, rows=rows, forward=forward, left_out=left_out)


def _forward_names(reference: Answer) -> list[str]:
    return ["loss", *(f"state {name}" for name in reference.states)]


def _judge(answer: Answer, noise: tolerance.Noise) -> Callable[[str, str, Answer], Verdict]:
    """judge(quantity, reference's name, its answer) → Verdict, for one candidate's answer."""
    mine, my_steps = tolerance.quantities(answer), tolerance.step_quantities(answer)

    def judge(name: str, engine: str, reference: Answer) -> Verdict:
        expected, expected_steps = tolerance.quantities(reference)[name], tolerance.step_quantities(reference).get(name)
        yardstick = Yardstick(noise.total[name], noise.steps.get(name), tolerance.LIMIT)
        steps = (my_steps.get(name), expected_steps)
        return compare((name, engine), (mine.get(name), expected), steps, yardstick, first_step_number(name))

    return judge


def check_problems(
    trials: Iterable[tuple[Problem, Candidate]], engines: Sequence[Engine], watch: Callable[[CaseReport], None] | None = None
) -> list[CaseReport]:
    """check_problem for each; `watch` hears of each one when it is done."""
    reports: list[CaseReport] = []
    for problem, candidate in trials:
        reports.append(check_problem(problem, candidate, engines))
        if watch is not None:
            watch(reports[-1])
    return reports


def report_of(cases: list[CaseReport], seed: int, dtype: str, notes: Sequence[str] = ()) -> Report:
    """The Report of these cases."""
    return Report(environment(seed, dtype), cases, notes=list(notes))
