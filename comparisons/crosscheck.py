"""Candidate + problem + references → CaseReport. Pure: prints nothing, writes nothing.

The order is fixed. The forward passes are compared first: where the loss or a state differs, the two compute different
functions, and nothing is said of gradients. Then every gradient that a reference tells is held against the candidate's, as a
whole and step by step, with the noise measured on this very problem.
"""

import contextlib
import math
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from comparisons import own_rounding, tolerance
from comparisons.comparator import Yardstick, compare
from comparisons.convention import Convention
from comparisons.diagnosis import diagnose
from comparisons.engines import AnyProblem, Engine, select
from comparisons.errors import CannotFollow, MissingFramework, NothingFollows
from comparisons.overflow import must_be_finite
from comparisons.problem import Answer, Array, Differentiable, Enclosed, FunctionProblem
from comparisons.user_code import at_line, comes_from_outside, describe
from comparisons.verdict import CaseReport, Report, Verdict

FIRST_SAMPLES = 1
HOPELESS = 1e3  # times the limit: no further sample of the noise brings as much
PACKAGES = ("numpy", "torch", "jax", "scipy", "array-api-compat")


class Candidate(Protocol):
    """Whatever answers a problem as the references do."""

    def answer(self, problem: Any) -> Answer:
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


def ask(problem: AnyProblem, engines: Iterable[Engine]) -> tuple[dict[Engine, Answer], dict[str, str]]:
    """(answers, {engine: why it has none}). An exception that comes out of code from outside leaves that engine out.

    Raises NothingFollows where no engine answers.
    """
    answers: dict[Engine, Answer] = {}
    left_out: dict[str, str] = {}
    for engine in engines:
        reason = engine.reason_not(problem)
        if reason is None:
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    answers[engine] = engine.answer(problem)
            except (Exception, SystemExit) as error:
                if not (isinstance(error, CannotFollow) or comes_from_outside(error)):
                    raise
                what = str(error) if isinstance(error, CannotFollow) else describe(error) + at_line(error.__traceback__)
                reason = f"cannot follow: {what}"
        if reason is not None:
            left_out[engine.name] = reason
    if not answers:
        advice = "array-API code says xp.tanh, not np.tanh or math.tanh, and takes no number out with float()"
        broken = {name: reason for name, reason in left_out.items() if reason.startswith("cannot follow")} or left_out
        raise NothingFollows(
            f"{problem.name}: no reference can answer; {advice}. {'; '.join(f'{k}: {v}' for k, v in broken.items())}"
        )
    return answers, left_out


@dataclass(frozen=True)
class Witnesses:
    """What the references say: plain answers, the same under the convention, and the noise of the problem.

    own        the noise of references that round otherwise than the one on which `noise` was measured, torch's modules say
    remarks    what was noticed while noise was measured
    overflown  references whose own gradient is not finite in the precision that the candidate works in
    """

    plain: dict[Engine, Answer]
    told: dict[Engine, Answer]
    left_out: dict[str, str]
    noise: tolerance.Noise
    own: dict[Engine, tolerance.Noise] = field(default_factory=dict[Engine, tolerance.Noise])
    remarks: list[str] = field(default_factory=list[str])
    overflown: list[str] = field(default_factory=list[str])

    @property
    def first(self) -> Engine:
        """The one that tells most."""
        return witness_of(self.plain)

    def noise_against(self, engine: Engine) -> tolerance.Noise:
        """What rounding explains of a difference from this reference."""
        return tolerance.largest(self.noise, self.own[engine]) if engine in self.own else self.noise


def witness_of(answers: Mapping[Engine, Answer]) -> Engine:
    """The engine on which noise is measured: a finite one that tells steps, under stochastic arithmetic if there is one."""

    def last_resort(engine: Engine) -> tuple[bool, ...]:
        finite = all(np.isfinite(value).all() for value in (*answers[engine].gradients.values(), *answers[engine].steps.values()))
        return (not finite, engine.numeric, not engine.tells_steps, not engine.rounds_at_random)

    return min(answers, key=last_resort)


def testify(problem: AnyProblem, engines: Iterable[Engine], convention: Convention, names: set[str]) -> Witnesses:
    """Ask every engine and measure the noise; `names` are the gradients that the convention applies to.

    The references answer in float64, whatever the candidate works in.
    """
    problem = in_double(problem)
    return _measured(problem, ask(problem, engines), convention, names, tolerance.SAMPLES)


def testify_briefly(problem: AnyProblem, engines: Iterable[Engine], convention: Convention, names: set[str]) -> Witnesses:
    """The same with the noise of one sample: it only grows with samples, so that what agrees by one agrees by all."""
    problem = in_double(problem)
    return _measured(problem, ask(problem, engines), convention, names, FIRST_SAMPLES)


def in_double(problem: AnyProblem) -> AnyProblem:
    """The problem for a candidate that works in the arrays' own precision, with the arrays in float64."""
    return problem if problem.dtype.itemsize >= 8 else problem.in_precision(problem.dtype)


def _measured(
    problem: AnyProblem,
    asked: tuple[Mapping[Engine, Answer], dict[str, str]],
    convention: Convention,
    names: set[str],
    samples: int,
) -> Witnesses:
    """The answers with the noise by so many samples, and under the convention."""
    plain, left_out = dict(asked[0]), asked[1]
    first = witness_of(plain)
    noise, lowered = _noise(problem, plain, first, samples)
    own = _own_noise(problem, plain, first, samples)
    told = {engine: convention.apply(answer, problem.steps, problem.batch, names) for engine, answer in plain.items()}
    extra: Mapping[str, float] = problem.extra_noise if isinstance(problem, FunctionProblem) else {}
    factor = dict.fromkeys(names, abs(convention.factor(problem.steps, problem.batch)))
    noise.total.update({name: max(noise.total[name], value) for name, value in plain[first].uncertainty.items()})
    common = tolerance.scaled(noise, factor, extra, convention.allowed)
    each = {engine: tolerance.scaled(found, factor, {}, convention.allowed) for engine, found in own.items()}
    return Witnesses(plain, told, left_out, common, each, lowered.remarks, lowered.overflown)


@dataclass(frozen=True)
class _Lowered:
    """What the frameworks themselves err by in a lower precision, what was noticed, and which of them overflow in it."""

    errors: list[tolerance.Noise] = field(default_factory=list[tolerance.Noise])
    remarks: list[str] = field(default_factory=list[str])
    overflown: list[str] = field(default_factory=list[str])


def _noise(problem: AnyProblem, plain: Mapping[Engine, Answer], first: Engine, samples: int) -> tuple[tolerance.Noise, _Lowered]:
    """The noise measured on `first`; in a lower precision than float64 each framework's own error in it counts as well."""
    samples = 0 if plain[first].uncertainty else (1 if first.numeric else samples)
    lowered = _own_errors(problem, plain)
    unable = problem.lowered() is not problem and (first.numeric or not lowered.errors)
    noise = tolerance.measure(problem, first.answer, plain[first], samples, first.rounds_at_random, in_double=unable)
    return tolerance.largest(noise, *lowered.errors), lowered


def _own_noise(problem: AnyProblem, plain: Mapping[Engine, Answer], first: Engine, samples: int) -> dict[Engine, tolerance.Noise]:
    """What the own rounding of the other references adds, where the full number of samples is asked for."""
    if samples < tolerance.SAMPLES or problem.lowered() is not problem:
        return {}
    others = {engine: answer for engine, answer in plain.items() if engine.rounds_at_random and engine is not first}
    return {engine: tolerance.own_noise(problem, engine.answer, answer, samples) for engine, answer in others.items()}


def _own_errors(problem: AnyProblem, plain: Mapping[Engine, Answer]) -> _Lowered:
    """How far each framework in the candidate's precision is from itself in float64."""
    found, lowered = _Lowered(), problem.lowered()
    for engine, answer in plain.items():
        if lowered is problem or engine.numeric or engine.by_name:
            continue
        try:
            told = engine.answer(lowered).astype(np.float64)
        except Exception as error:  # a framework that lacks an operation in that precision says nothing of it
            found.remarks.append(f"{engine.name} does not run in {lowered.dtype.name}: {describe(error)}")
            continue
        if finite(told):
            found.errors.append(tolerance.difference(answer, told))
        else:
            found.overflown.append(engine.name)
            found.remarks.append(f"in {lowered.dtype.name} the gradient of {engine.name} itself is not finite")
    return found


def finite(answer: Answer) -> bool:
    """Whether all that it tells is finite."""
    told = (np.asarray(answer.loss), *answer.gradients.values(), *answer.steps.values(), *answer.states.values())
    return all(bool(np.isfinite(value).all()) for value in told)


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
    first = _measured(wide, asked, convention, set(answer.gradients), FIRST_SAMPLES)
    must_be_finite(problem, {engine.name: told for engine, told in first.plain.items()}, answer, first.noise)
    judged = judge_answer(problem, answer, first, partial)
    if not any(_could_be_rounding(row, first.noise.limit) for row in (*judged[0], *judged[1])):
        return first, judged
    full = _measured(wide, asked, convention, set(answer.gradients), tolerance.SAMPLES)
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


def true_errors(answer: Answer, witnesses: Witnesses) -> dict[str, dict[str, float]]:
    """gradient → {"manual", and each reference: a proven bound of its error}, where a proof was asked for.

    In units in the last place of the gradient's largest entry; along directions, of √n times that for n entries.
    """
    proof = next((told.proof for told in witnesses.plain.values() if told.proof), dict[str, Enclosed]())
    answers = {"manual": answer} | {engine.name: told for engine, told in witnesses.plain.items() if not told.proof}
    found: dict[str, dict[str, float]] = {}
    for name, enclosed in proof.items():
        given = {
            who: told.gradients[name] for who, told in answers.items() if name in told.gradients and name not in told.directions
        }
        for who, value in given.items():
            unit = float(np.spacing(np.max(np.abs(value), initial=0.0)))
            unit *= 1.0 if enclosed.directions is None else math.sqrt(value.size)
            found.setdefault(name, {})[who] = float(np.max(enclosed.distance(value), initial=0.0)) / unit
    return found


def judge_answer(
    problem: AnyProblem, answer: Answer, witnesses: Witnesses, partial: bool = False
) -> tuple[list[Verdict], list[Verdict], list[str]]:
    """(verdicts on the forward pass, verdicts on the gradients, what is not given) of an answer; nobody is asked anything.

    There are none on the gradients where the forward passes differ.
    """
    forward = [
        judge(problem, answer, reference, engine.name, name, witnesses.noise_against(engine))
        for engine, reference in witnesses.told.items()
        for name in ("loss", *(f"state {state}" for state in reference.states))
        if not reference.uncertainty
    ]
    asked = [*problem.variables, *(n for n in witnesses.told[witnesses.first].gradients if n not in problem.variables)]
    not_given = [name for name in asked if name not in answer.gradients] if partial else []
    rows: list[Verdict] = []
    if all(row.passed for row in forward):
        rows = [
            judge(problem, answer, reference, engine.name, name, noise)
            for engine, reference in witnesses.told.items()
            for noise in [witnesses.noise_against(engine)]
            for name in asked
            if name in reference.gradients and name not in not_given
        ]
    return forward, rows, not_given


def judge(problem: Differentiable, answer: Answer, reference: Answer, engine: str, name: str, noise: tolerance.Noise) -> Verdict:
    """The verdict on one quantity of an answer against one reference."""
    mine, expected = tolerance.quantities(answer).get(name), tolerance.quantities(reference)[name]
    level = noise.total[name]
    if mine is not None and name in reference.directions:
        directions = reference.directions[name]
        if mine.shape == directions.shape[1:]:
            mine = project(mine, directions)
    level = max(level, reference.uncertainty.get(name, 0.0))
    if name in reference.directions and not reference.uncertainty:
        level *= math.sqrt(reference.directions[name][0].size)  # errors of the entries add up in an inner product with ±1
    yardstick = Yardstick(level, noise.steps.get(name), noise.limit)
    if noise.allowed is not None and name in reference.gradients:
        rtol, atol = noise.allowed
        yardstick = Yardstick(atol + rtol * np.abs(expected), None, 1.0)
    if name in reference.kinks:
        yardstick = replace(yardstick, total=yardstick.total + reference.kinks[name] / yardstick.limit)
    steps = (tolerance.step_quantities(answer).get(name), tolerance.step_quantities(reference).get(name))
    verdict = compare((name, engine), (mine, expected), steps, yardstick, problem.first_step(name), problem.runs_backwards(name))
    return replace(verdict, where=None, along_directions=True) if name in reference.directions else verdict


def project(gradient: Array, directions: Array) -> Array:
    """Inner products of a gradient with each direction: (K,)."""
    return np.tensordot(directions, gradient, axes=gradient.ndim)


def vacuous(witnesses: Witnesses) -> list[str]:
    """The gradients whose true value does not rise above rounding."""
    first, noise = witnesses.told[witnesses.first], witnesses.noise
    sizes = {name: float(np.max(np.abs(value), initial=0.0)) for name, value in first.gradients.items()}
    return [
        name for name, size in sizes.items() if size <= noise.limit * max(noise.total[name], first.uncertainty.get(name, 0.0))
    ]


def kinks(witnesses: Witnesses) -> list[str]:
    """A note for every gradient at a kink of the function, as differences see it."""
    notes: list[str] = []
    for engine, told in witnesses.told.items():
        for name, gap in told.kinks.items():
            entries = [list(map(int, at)) for at in np.argwhere(gap)[:3]]
            more = ", …" if np.count_nonzero(gap) > len(entries) else ""
            at = "" if name in told.directions or not gap.ndim else f" at {', '.join(map(str, entries))}{more}"
            notes.append(f"the function has a kink in {name}{at}: {engine.name} allow all between its one-sided derivatives")
    return notes


COARSE = 1e-3


def coarse(witnesses: Witnesses) -> list[str]:
    """A note on the gradients in which an error of a thousandth could not be seen."""
    first, unseen = witnesses.told[witnesses.first], dict[str, float]()
    for name, value in first.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        least = witnesses.noise.limit * max(witnesses.noise.total[name], first.uncertainty.get(name, 0.0))
        if COARSE * size < least < size:
            unseen[name] = least / size
    told = ", ".join(f"{share:.1g} of {name}" for name, share in unseen.items())
    return [f"rounding is so large here that errors below {told} could not be seen"] if unseen else []


def judged_otherwise(witnesses: Witnesses) -> list[str]:
    """A note where rtol and atol stand in place of the measured noise."""
    if witnesses.noise.allowed is None:
        return []
    rtol, atol = witnesses.noise.allowed
    return [
        f"gradients are judged by rtol={rtol:g}, atol={atol:g}, as asked for, not by measured noise; single steps are not judged"
    ]


def references_agree(problem: Differentiable, witnesses: Witnesses) -> bool:
    """Whether every reference is within the limit of the first, in every gradient that both tell."""
    first = witnesses.told[witnesses.first]
    rows = [
        judge(problem, first, reference, engine.name, name, witnesses.noise_against(engine))
        for engine, reference in witnesses.told.items()
        if not reference.directions and engine is not witnesses.first
        for name in reference.gradients
        if name in first.gradients and name not in first.directions
    ]
    return all(row.passed for row in rows)


def report_of(cases: list[CaseReport], seed: int, dtype: str, notes: Sequence[str] = ()) -> Report:
    """The Report of these cases."""
    return Report(environment(seed, dtype), cases, notes=list(notes))
