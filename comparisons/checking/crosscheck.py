"""Candidate + problem + references → CaseReport. Pure: prints nothing, writes nothing.

The order is fixed. The forward passes are compared first: where the loss or a state differs, the two compute different
functions, and nothing is said of gradients. Then every gradient that a reference tells is held against the candidate's, as a
whole and step by step, with the noise measured on this very problem.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from ..diagnosis.of_gradients import diagnose
from ..judging import own_rounding
from ..judging.judge import coarse, judge_answer, judged_otherwise, kinks, references_agree, true_errors, vacuous
from ..judging.overflow import must_be_finite
from ..judging.verdict import Verdict
from ..problems.answer import Answer
from ..problems.convention import Convention
from ..problems.problem import AnyProblem
from ..witnesses import tolerance
from ..witnesses.ask import FIRST_SAMPLES, Witnesses, ask, in_double, measured
from ..witnesses.engines import Engine
from .case_report import CaseReport

HOPELESS = 1e3  # times the limit: no further sample of the noise brings as much


class Candidate(Protocol):
    """Whatever answers a problem as the references do."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


def check_problem(
    problem: AnyProblem,
    candidate: Candidate,
    engines: Iterable[Engine],
    convention: Convention | None = None,
    partial: bool = False,
) -> CaseReport:
    """The verdicts on one candidate at one problem.

    `partial`: the candidate need not give every gradient; what it does not give is listed, not failed.
    """
    start = time.perf_counter()
    answer = candidate.answer(problem)
    declared = convention or Convention()
    witnesses, (forward, strict, not_given) = _testify_and_judge(problem, answer, engines, declared, partial)
    rows = _second_look(problem, candidate, answer, witnesses, strict, partial)
    failed = any(not row.passed for row in rows)
    return CaseReport(
        name=problem.name,
        cell=problem.cell,
        loss=problem.loss_label,
        **dict[str, Any](problem.sizes()),
        seconds=time.perf_counter() - start,
        rows=rows,
        forward=forward,
        left_out=witnesses.left_out,
        not_given=not_given,
        vacuous=vacuous(witnesses),
        references_agree=references_agree(problem, witnesses),
        notes=[
            *witnesses.remarks,
            *kinks(witnesses),
            *coarse(witnesses),
            *judged_otherwise(witnesses),
            *own_rounding.remarks(strict, rows),
        ],
        true_error=true_errors(answer, witnesses) if declared.is_plain else {},
        diagnosis=diagnose(problem, answer, witnesses.told[witnesses.first], witnesses.noise) if failed else [],
    )


def _testify_and_judge(
    problem: AnyProblem, answer: Answer, engines: Iterable[Engine], convention: Convention, partial: bool
) -> tuple[Witnesses, tuple[list[Verdict], list[Verdict], list[str]]]:
    """(what the references say, the verdicts): the noise by one sample, and by all where that changes a verdict.

    It only grows with samples: what agrees by one agrees by all.
    """
    wide = in_double(problem)
    asked = ask(wide, engines)
    first = measured(wide, asked, convention, set(answer.gradients), FIRST_SAMPLES)
    must_be_finite(problem, {engine.name: told for engine, told in first.plain.items()}, answer, first.noise)
    judged = judge_answer(problem, answer, first, partial)
    if not any(_could_be_rounding(row, first.noise.limit) for row in (*judged[0], *judged[1])):
        return first, judged
    full = measured(wide, asked, convention, set(answer.gradients), tolerance.SAMPLES)
    return full, judge_answer(problem, answer, full, partial)


def _could_be_rounding(row: Verdict, limit: float) -> bool:
    """Whether a row that fails by the first sample might pass by more of them."""
    return not row.passed and row.reason in ("differs", "all zero") and row.worst_over_noise <= HOPELESS * limit


def _second_look(
    problem: AnyProblem, candidate: Candidate, answer: Answer, witnesses: Witnesses, rows: list[Verdict], partial: bool
) -> list[Verdict]:
    """The rows, as far as the candidate's own rounding explains those that differ; see comparisons.own_rounding."""
    if all(row.passed for row in rows) or witnesses.noise.allowed is not None:
        return rows
    wide = own_rounding.in_longdouble(problem, candidate)
    single = own_rounding.in_single(problem, candidate)
    if wide is None or single is None:
        return rows
    own = tolerance.difference(answer, wide)
    eased = replace(witnesses, noise=own_rounding.allowed(witnesses.noise, own))
    again = judge_answer(problem, wide.astype(np.float64), eased, partial)[1]
    return own_rounding.reconsidered(rows, own, tolerance.difference(single, wide), again, witnesses.noise)
