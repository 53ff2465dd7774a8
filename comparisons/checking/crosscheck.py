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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..candidates.built_in_cells import CellCandidate
from ..diagnosis.of_gradients import diagnose
from ..diagnosis.of_one_step import LocalCheck, check_one_step
from ..diagnosis.of_precision import Inside, lower_inside
from ..diagnosis.of_truncation import truncation
from ..errors import LayoutMatters
from ..judging import lost_digits
from ..judging.decidable import Undecided, not_decidable, remark, undecided
from ..judging.findings import Finding, LostDigits
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
from ..witnesses.ask import Testimony, Witnesses, is_exact
from ..witnesses.engines import Engine
from ..witnesses.one_sided import slopes_along
from . import preflight
from .case_report import CaseReport
from .second_look import SecondLook
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


def _no_loss_of_its_own(compared: "Compared") -> None:
    del compared


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
    own_loss       raises ForwardMismatch where the candidate's own loss is another than the one it
                   is judged by
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
    own_loss: Callable[["Compared"], None] = _no_loss_of_its_own
    beside: bool = False
    loss: Callable[[Any], float] | None = None


BUILT_IN = Manner()


@dataclass(frozen=True)
class Compared:
    """A candidate's answer beside what the references said: verdicts, and what they rest on.

    witnesses   the noise by as many samples as the verdicts needed
    judged      the verdicts before the candidate's own rounding was looked at
    rows        the rows that count
    undecided   what the problem leaves no digits of
    lost_digits   what the candidate's own rounding costs it
    """

    testimony: Testimony
    answer: Answer
    witnesses: Witnesses
    judged: Judged
    rows: list[Verdict]
    undecided: Undecided | None = None
    lost_digits: list[LostDigits] = field(default_factory=list[LostDigits])

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
    given = answer.gradients
    testimony = Testimony(problem, engines, declared, frozenset(given), given)
    _must_not_depend_on_layout(answered, testimony)
    compared = _compare(testimony, candidate, answer, manner.partial)
    manner.own_loss(compared)
    lost = compared.undecided
    if lost is not None and lost.gradients and compared.passed:
        return _of_first_steps(compared, lost, candidate, manner)
    local = _local_check(problem, candidate, compared)
    inside = Inside()
    if manner.from_outside:
        inside = lower_inside(testimony, candidate, answer, compared.rows)
    case = _case(compared, local, time.perf_counter() - start, inside)
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
            remarks = must_be_right(answered.beside, at_first)
            case = replace(case, notes=[*case.notes, *remarks])
    notes = [*case.notes]
    beside = answered.beside
    if beside is not None and not case.passed and beside.answer.loss == answer.loss:
        notes.append(SAME_LOSS)
    if all(engine.numeric for engine in compared.witnesses.plain):
        notes.append(NUMERIC_ONLY)
    notes += [f"at a kink: {tie}" for tie in ties]
    if answered.second is not None:
        notes += preflight.order_of_sums(answer, answered.second)
    return Examined(replace(case, notes=notes), answer, compared.witnesses)


@dataclass(frozen=True)
class _Answered:
    """What a candidate answers, and what it answers to the same numbers in another memory order.

    second    what it answers when it is asked once more; None where it was not
    beside   what it answers beside them, where it was asked
    """

    answer: Answer
    turned: Answer
    second: Answer | None = None
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
    roundoff = tolerance.epsilon(problem.rounding_dtype)
    second = None
    if manner.first_of_all or not preflight.is_repeated(answer, in_another_order, roundoff):
        second = again.answer(problem)
        preflight.repeatable(answer, second, roundoff)
    return _Answered(answer, in_another_order, second, beside)


def _must_not_depend_on_layout(answered: _Answered, testimony: Testimony) -> None:
    """Raises LayoutMatters where another memory order got another gradient, beyond rounding."""
    roundoff = tolerance.epsilon(testimony.problem.rounding_dtype)
    told = (answered.answer, answered.turned)
    try:
        preflight.same_in_any_layout(*told, roundoff)
    except LayoutMatters:
        # a gradient that is nothing but rounding is another one in every order of summation
        try:
            preflight.same_in_any_layout(*told, roundoff, testimony.brief.noise)
        except LayoutMatters:
            # and where rounding is amplified one sample says little of another
            lost = _undecided(testimony, testimony.full)
            noise = testimony.full.noise if lost is None else lost.noise
            preflight.same_in_any_layout(*told, roundoff, noise)


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
    exact = {engine.name for engine, told in witnesses.plain.items() if is_exact(engine, told)}
    doubtful = [row for row in judged.rows if row.kind in OF_SIZE and row.reference in exact]
    if doubtful or any(_could_be_rounding(row, limit) for row in (*judged.forward, *judged.rows)):
        witnesses = testimony.full
        judged = judge_answer(problem, answer, witnesses, partial)
    lost = _undecided(testimony, witnesses)
    if lost is not None:
        judged = judge_answer(problem, answer, replace(witnesses, noise=lost.noise), partial)
    compared = Compared(testimony, answer, witnesses, judged, judged.rows, lost)
    looked = SecondLook(testimony, witnesses, candidate, answer, judged.rows, partial).looked()
    return replace(compared, rows=looked.rows, lost_digits=looked.findings)


def _undecided(testimony: Testimony, witnesses: Witnesses) -> Undecided | None:
    """What the problem itself leaves no digits of."""
    return undecided(testimony.problem, witnesses, testimony.convention, testimony.names)


def _of_first_steps(
    compared: Compared, lost: Undecided, candidate: Candidate, manner: Manner
) -> Examined:
    """The verdicts on the first steps, which have digits, where one of them is wrong.

    Raises NotDecidable where all of them are right, or cannot be told from the others.
    """
    problem, testimony = compared.problem, compared.testimony
    if not isinstance(problem, Problem) or not problem.can_be_cut_short:
        raise not_decidable(problem, lost, 0)
    steps = lost.sure if lost.sure < problem.steps else problem.steps // 2
    if steps < 1:
        raise not_decidable(problem, lost, 0)
    alone = replace(manner, once=None, again=None, first_of_all=False)
    short = problem.of_first_steps(steps)
    found = examine(short, candidate, testimony.engines, testimony.convention, alone)
    if found.case.passed:
        raise not_decidable(problem, lost, steps)
    return replace(found, case=replace(found.case, notes=[*found.case.notes, remark(lost)]))


def _could_be_rounding(row: Verdict, limit: float) -> bool:
    """Whether a row that fails by the first sample might pass by more of them."""
    return row.kind in OF_SIZE and row.worst_over_noise <= HOPELESS * limit


def _local_check(problem: AnyProblem, candidate: Candidate, compared: Compared) -> LocalCheck:
    """step_backward by itself, where whole gradients are wrong and its steps are known."""
    failed = any(not row.passed for row in compared.rows)
    if not failed or not isinstance(problem, Problem) or not isinstance(candidate, CellCandidate):
        return LocalCheck()
    cut = problem.window is not None or problem.chunk is not None or "lengths" in problem.constants
    if cut or problem.suffixes != [""] or problem.readout != PROJECTION or candidate.partial:
        return LocalCheck()
    return check_one_step(candidate.cell, problem, compared.testimony.full)


def _case(compared: Compared, local: LocalCheck, seconds: float, inside: Inside) -> CaseReport:
    problem, answer, witnesses = compared.problem, compared.answer, compared.witnesses
    rows = compared.rows
    findings: list[Finding | LostDigits] = [*compared.lost_digits, *inside.findings]
    findings += local.findings
    if any(not row.passed for row in rows):
        first = witnesses.told[witnesses.first]
        findings += diagnose(problem, answer, first, inside.noise or witnesses.noise)
        wrong = [row.gradient for row in rows if not row.passed]
        if compared.testimony.convention.is_plain:
            findings += truncation(problem, answer, witnesses, wrong)
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
        references_agree=references_agree(problem, witnesses, {row.gradient for row in rows}),
        local=local.rows,
        diagnosis=findings,
        notes=_notes(compared),
        true_error=true_errors(answer, witnesses) if compared.testimony.convention.is_plain else {},
        layout=problem.axes_told,
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
    lost = [] if compared.undecided is None else [remark(compared.undecided)]
    return [
        *witnesses.remarks,
        *lost,
        *kinks(witnesses),
        *coarse(witnesses),
        *judged_otherwise(witnesses),
        *lost_digits.remarks(compared.judged.rows, compared.rows, compared.lost_digits),
    ]


def _outside_kink(compared: Compared) -> bool:
    """Whether what was given is beyond both one-sided derivatives of a kink that a reference saw.

    No convention chooses that, and no framework.
    """
    told = compared.witnesses.told
    saw = {engine.name for engine, answer in told.items() if answer.kinks}
    if any(row.reference in saw and not row.passed for row in compared.rows):
        return True
    return compared.testimony.convention.is_plain and any(
        _is_outside_both(compared, row) for row in compared.rows if row.kind in OF_SIZE
    )


def _is_outside_both(compared: Compared, row: Verdict) -> bool:
    """Whether a gradient is beyond both one-sided derivatives, where it is most wrong or all along
    its error.
    """
    engine = next(e for e in compared.witnesses.told if e.name == row.reference)
    reference, name = compared.witnesses.told[engine], row.gradient
    if name not in compared.problem.variables or name in reference.directions:
        return False
    given = compared.answer.gradients[name]
    error = given - reference.gradients[name]
    at_worst = np.zeros(error.shape)
    at_worst[np.unravel_index(np.argmax(np.abs(error)), error.shape)] = 1.0
    for direction in (at_worst, np.sign(error)):
        slopes = slopes_along(compared.problem, name, direction)
        if slopes.exclude(float(np.sum(given * direction))):
            return True
    return False


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
    given = answer.gradients
    testimony = Testimony(moved, engines, convention, frozenset(given), given)
    return _compare(testimony, candidate, answer, manner.partial).passed
