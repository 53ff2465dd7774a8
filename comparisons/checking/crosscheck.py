"""The one way from a problem and a candidate to a report.

Built-in cases and what users bring take it alike.

The order is fixed.

    1  preflight     the candidate answers, and answers the same again, in any memory order of the
       same numbers
    2  forward       the loss and the states are compared; where they differ, nothing is said of
       gradients
    3  gradients     every gradient that a reference tells, as a whole and step by step, by the
       noise of this very problem
    4  diagnosis     where something differs: what mistake would explain it, in whole gradients and
       in single steps

References are asked once. What they said, and the noise that was measured, is handed from stage to
stage, and to whoever asks for it afterwards. Nothing here prints or writes.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..candidates.built_in_cells import CellCandidate
from ..diagnosis.of_gradients import diagnose
from ..diagnosis.of_one_step import LocalCheck, check_one_step
from ..errors import LayoutMatters
from ..judging import own_rounding
from ..judging.judge import (
    Judged,
    coarse,
    judge_answer,
    judged_otherwise,
    kinks,
    references_agree,
    true_errors,
    unseen,
    vacuous,
)
from ..judging.not_seen import NotSeen
from ..judging.overflow import must_be_finite
from ..judging.verdict import OF_SIZE, Verdict
from ..problems.answer import Answer
from ..problems.cases import PROJECTION
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, Problem
from ..witnesses import tolerance
from ..witnesses.ask import Testimony, Witnesses
from ..witnesses.engines import Engine
from . import preflight
from .case_report import CaseReport
from .second_point import AtFirst, Beside, asked_elsewhere, must_be_right
from .why_not_seen import explained

HOPELESS = 1e3  # times the limit: no further sample of the noise brings as much

NUMERIC_ONLY = (
    "the loss is NumPy code, so that only numeric references could be asked: an error below their "
    "uncertainty, "
    "and in large arrays which entry is wrong, are not seen; write it as loss(xp, params, inputs) "
    "to have torch "
    "and jax differentiate it"
)

SAME_LOSS = (
    "the loss is the same, bit by bit, at other params: it does not read them, or it keeps what an "
    "earlier call has computed"
)


class Candidate(Protocol):
    """Whatever answers a problem as the references do."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


def _no_ties(problem: Any) -> list[str]:
    del problem
    return []


@dataclass(frozen=True)
class Manner:
    """How a candidate is asked, and what is made of the answer.

    partial        it need not give every gradient; what it does not give is listed, not failed
    from_outside   it is a user's code: a question that cannot be judged is an error, not a row
    first_of_all   it has not been asked a problem like this before: whether it repeats itself is
                   not yet known
    once           who is asked first; the candidate itself for None, as for the next two
    again, turned  who is asked the second time, and in another memory order
    ties           where the forward pass stands at a kink
    unread         variables on which the function need not depend
    beside         it is asked at other weights too, and the first again after that
    loss           what it evaluates, without its gradients
    """

    partial: bool = False
    from_outside: bool = False
    first_of_all: bool = True
    once: Candidate | None = None
    again: Candidate | None = None
    turned: Candidate | None = None
    ties: Callable[[Any], list[str]] = _no_ties
    unread: frozenset[str] = frozenset()
    beside: bool = False
    loss: Callable[[Any], float] | None = None


BUILT_IN = Manner()


@dataclass(frozen=True)
class Compared:
    """A candidate's answer beside what the references said: verdicts, and what they rest on.

    witnesses   the noise by as many samples as the verdicts needed
    judged      the verdicts before the candidate's own rounding was looked at
    rows        the rows that count
    """

    testimony: Testimony
    answer: Answer
    witnesses: Witnesses
    judged: Judged
    rows: list[Verdict]

    @property
    def problem(self) -> AnyProblem:
        """Of which all are asked."""
        return self.testimony.problem

    @property
    def passed(self) -> bool:
        """Whether there is a row, and every row agrees."""
        return bool(self.rows) and all(row.passed for row in (*self.rows, *self.judged.forward))


@dataclass(frozen=True)
class Examined:
    """A case, and what it rests on: what the candidate answered, and what the references said."""

    case: CaseReport
    answer: Answer
    witnesses: Witnesses


def check_problem(
    problem: AnyProblem,
    candidate: Candidate,
    engines: Iterable[Engine],
    convention: Convention | None = None,
    manner: Manner = BUILT_IN,
) -> CaseReport:
    """The verdicts on one candidate at one problem."""
    return examine(problem, candidate, engines, convention, manner).case


def examine(
    problem: AnyProblem,
    candidate: Candidate,
    engines: Iterable[Engine],
    convention: Convention | None = None,
    manner: Manner = BUILT_IN,
) -> Examined:
    """The verdicts on one candidate at one problem, with what it and the references said.

    Raises a QuestionError where nothing can be judged.
    """
    start = time.perf_counter()
    engines, declared = tuple(engines), convention or Convention()
    answered = _answered(problem, candidate, manner)
    answer = answered.answer
    ties = manner.ties(problem)
    _begin(problem, engines)
    testimony = Testimony(problem, engines, declared, frozenset(answer.gradients))
    _must_not_depend_on_layout(answered, testimony)
    compared = _compare(testimony, candidate, answer, manner.partial)
    local = _local_check(problem, candidate, compared)
    case = _case(compared, local, time.perf_counter() - start)
    if manner.from_outside and manner.first_of_all:
        case = replace(case, not_seen=_not_seen(compared, manner))
    if manner.from_outside:
        preflight.same_forward(case)
        preflight.finite_references(case)
        if ties and not case.passed and not _outside_kink(compared):
            beside = _agrees_beside(problem, candidate, engines, declared, manner)
            preflight.not_at_kink(case, beside, ties)
        if case.passed and manner.first_of_all:
            preflight.not_vacuous(case, manner.unread)
        if case.passed and answered.beside is not None:
            at_first = AtFirst(compared.witnesses, declared, compared.rows, manner.loss)
            must_be_right(answered.beside, at_first)
    notes = [*case.notes]
    beside = answered.beside
    if beside is not None and not case.passed and beside.answer.loss == answer.loss:
        notes.append(SAME_LOSS)
    if all(engine.numeric for engine in engines):
        notes.append(NUMERIC_ONLY)
    notes += [f"at a kink: {tie}" for tie in ties]
    return Examined(replace(case, notes=notes), answer, compared.witnesses)


@dataclass(frozen=True)
class _Answered:
    """What a candidate answers, and what it answers to the same numbers in another memory order.

    beside   what it answers beside them, where it was asked
    """

    answer: Answer
    turned: Answer
    beside: Beside | None = None


def _answered(problem: AnyProblem, candidate: Candidate, manner: Manner) -> _Answered:
    """What the candidate answers, once it has shown that it answers the same again.

    Unless it is the first of several problems for one code, its answer in another memory order is
    enough where it is as near to the first as the second had to be.
    """
    once, again = manner.once or candidate, manner.again or candidate
    turned = manner.turned or candidate
    answer = once.answer(problem)
    if manner.from_outside:
        preflight.finite_forward(answer, problem.rounding_dtype.name)
    in_another_order = turned.answer(problem.in_fortran_order())
    # Just before it is asked again: what it keeps is then that of another point.
    beside = asked_elsewhere(problem, candidate) if manner.beside else None
    if manner.first_of_all or not preflight.is_repeated(answer, in_another_order):
        preflight.repeatable(answer, again.answer(problem))
    return _Answered(answer, in_another_order, beside)


def _must_not_depend_on_layout(answered: _Answered, testimony: Testimony) -> None:
    """Raises LayoutMatters where another memory order got another gradient, beyond rounding."""
    roundoff = tolerance.epsilon(testimony.problem.rounding_dtype)
    told = (answered.answer, answered.turned)
    try:
        preflight.same_in_any_layout(*told, roundoff)
    except LayoutMatters:
        # a gradient that is nothing but rounding is another one in every order of summation
        preflight.same_in_any_layout(*told, roundoff, testimony.brief.noise)


def _begin(problem: AnyProblem, engines: Iterable[Engine]) -> None:
    """Begin what the references' answers wait for, where they can do so on another thread."""
    for engine in engines:
        if engine.reason_not(problem) is None:
            with contextlib.suppress(Exception):  # who cannot will say so when it is asked
                engine.begin(problem)


def _compare(testimony: Testimony, candidate: Candidate, answer: Answer, partial: bool) -> Compared:
    """An answer beside the references': the noise by one sample, and by all where that changes a
    verdict.
    """
    problem, witnesses = testimony.problem, testimony.brief
    plain = {engine.name: told for engine, told in witnesses.plain.items()}
    must_be_finite(problem, plain, answer, witnesses.noise)
    judged = judge_answer(problem, answer, witnesses, partial)
    limit = witnesses.noise.limit
    if any(_could_be_rounding(row, limit) for row in (*judged.forward, *judged.rows)):
        witnesses = testimony.full
        judged = judge_answer(problem, answer, witnesses, partial)
    compared = Compared(testimony, answer, witnesses, judged, judged.rows)
    return replace(compared, rows=_second_look(compared, candidate, partial))


def _could_be_rounding(row: Verdict, limit: float) -> bool:
    """Whether a row that fails by the first sample might pass by more of them."""
    return row.kind in OF_SIZE and row.worst_over_noise <= HOPELESS * limit


def _second_look(compared: Compared, candidate: Candidate, partial: bool) -> list[Verdict]:
    """The rows, as far as the candidate's own rounding explains those that differ."""
    rows, witnesses = compared.rows, compared.witnesses
    if all(row.passed for row in rows) or witnesses.noise.allowed is not None:
        return rows
    own = own_rounding.own_rounding_of(compared.problem, candidate, compared.answer)
    if own is None:
        return rows
    eased = replace(witnesses, noise=own_rounding.allowed(witnesses.noise, own.in_double))
    again = judge_answer(compared.problem, own.wide, eased, partial).rows
    return own_rounding.reconsidered(rows, own, again, witnesses.noise)


def _local_check(problem: AnyProblem, candidate: Candidate, compared: Compared) -> LocalCheck:
    """step_backward by itself, where whole gradients are wrong and its steps are known."""
    failed = any(not row.passed for row in compared.rows)
    if not failed or not isinstance(problem, Problem) or not isinstance(candidate, CellCandidate):
        return LocalCheck()
    cut = problem.window is not None or problem.chunk is not None or "lengths" in problem.constants
    if cut or problem.suffixes != [""] or problem.readout != PROJECTION or candidate.partial:
        return LocalCheck()
    return check_one_step(candidate.cell, problem, compared.testimony.full)


def _case(compared: Compared, local: LocalCheck, seconds: float) -> CaseReport:
    problem, answer, witnesses = compared.problem, compared.answer, compared.witnesses
    rows = compared.rows
    findings = [*local.findings]
    if any(not row.passed for row in rows):
        first = witnesses.told[witnesses.first]
        findings += diagnose(problem, answer, first, witnesses.noise)
    return CaseReport(
        name=problem.name,
        cell=problem.cell,
        loss=problem.loss_label,
        **dict[str, Any](problem.sizes()),
        seconds=seconds,
        rows=rows,
        forward=compared.judged.forward,
        left_out=witnesses.left_out,
        not_given=compared.judged.not_given,
        vacuous=vacuous(witnesses),
        references_agree=references_agree(problem, witnesses),
        local=local.rows,
        diagnosis=findings,
        notes=_notes(compared),
        true_error=true_errors(answer, witnesses) if compared.testimony.convention.is_plain else {},
    )


def _not_seen(compared: Compared, manner: Manner) -> list[NotSeen]:
    """The gradients given of which nothing could be seen, and why; not those that are wrong."""
    wrong = {row.gradient for row in compared.rows if not row.passed}
    judged = {row.gradient for row in compared.rows} - manner.unread - wrong
    found: list[NotSeen] = []
    for each in unseen(compared.witnesses):
        if each.gradient in judged and each.gradient in compared.problem.variables:
            why = explained(each, compared.problem, manner.loss) if manner.loss else each
            found += [why] if why is not None else []
    return found


def _notes(compared: Compared) -> list[str]:
    witnesses = compared.witnesses
    return [
        *witnesses.remarks,
        *kinks(witnesses),
        *coarse(witnesses),
        *judged_otherwise(witnesses),
        *own_rounding.remarks(compared.judged.rows, compared.rows),
    ]


def _outside_kink(compared: Compared) -> bool:
    """Whether what was given is beyond both one-sided derivatives of a kink that a reference saw.

    No convention chooses that.
    """
    told = compared.witnesses.told
    saw = {engine.name for engine, answer in told.items() if answer.kinks}
    return any(row.reference in saw and not row.passed for row in compared.rows)


def _agrees_beside(
    problem: AnyProblem,
    candidate: Candidate,
    engines: Sequence[Engine],
    convention: Convention,
    manner: Manner,
) -> bool:
    """Whether beside the kink all agrees, or there is no beside."""
    moved = preflight.beside(problem)
    if manner.ties(moved):
        return True
    answer = candidate.answer(moved)
    testimony = Testimony(moved, engines, convention, frozenset(answer.gradients))
    return _compare(testimony, candidate, answer, manner.partial).passed
