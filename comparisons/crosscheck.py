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
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from comparisons import tolerance
from comparisons.comparator import Yardstick, compare
from comparisons.convention import Convention
from comparisons.diagnosis import diagnose
from comparisons.engines import AnyProblem, Engine, select
from comparisons.errors import CannotFollow, MissingFramework, NothingFollows
from comparisons.problem import Answer, Array, Differentiable, Enclosed, FunctionProblem
from comparisons.user_code import at_line, comes_from_outside, describe
from comparisons.verdict import CaseReport, Report, Verdict

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
    """What the references say: plain answers, the same under the convention, and the noise of the problem."""

    plain: dict[Engine, Answer]
    told: dict[Engine, Answer]
    left_out: dict[str, str]
    noise: tolerance.Noise

    @property
    def first(self) -> Engine:
        """The one that tells most."""
        return witness_of(self.plain)


def witness_of(answers: Mapping[Engine, Answer]) -> Engine:
    """The engine on which noise is measured: a finite one that tells steps, under stochastic arithmetic if there is one."""

    def last_resort(engine: Engine) -> tuple[bool, ...]:
        finite = all(np.isfinite(value).all() for value in (*answers[engine].gradients.values(), *answers[engine].steps.values()))
        return (not finite, engine.numeric, not engine.tells_steps, not engine.rounds_at_random)

    return min(answers, key=last_resort)


def testify(problem: AnyProblem, engines: Iterable[Engine], convention: Convention, names: set[str]) -> Witnesses:
    """Ask every engine and measure the noise; `names` are the gradients that the convention applies to."""
    plain, left_out = ask(problem, engines)
    first = witness_of(plain)
    samples = 0 if plain[first].uncertainty else (1 if first.numeric else tolerance.SAMPLES)
    noise = tolerance.measure(problem, first.answer, plain[first], samples)
    told = {engine: convention.apply(answer, problem.steps, problem.batch, names) for engine, answer in plain.items()}
    extra: Mapping[str, float] = problem.extra_noise if isinstance(problem, FunctionProblem) else {}
    factor = abs(convention.factor(problem.steps, problem.batch))
    noise.total.update({name: max(noise.total[name], value) for name, value in plain[first].uncertainty.items()})
    scaled = tolerance.Noise(
        {name: value * (factor if name in names else 1) + extra.get(name, 0.0) for name, value in noise.total.items()},
        {name: value * (factor if name in names else 1) for name, value in noise.steps.items()},
        convention.allowed,
    )
    return Witnesses(plain, told, left_out, scaled)


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
    names = set(answer.gradients)
    witnesses = testify(problem, engines, convention or Convention(), names)
    forward, rows, not_given = judge_answer(problem, answer, witnesses, partial)
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
        notes=[*coarse(witnesses), *judged_otherwise(witnesses)],
        true_error=true_errors(answer, witnesses) if convention is None or convention.is_plain else {},
        diagnosis=diagnose(problem, answer, witnesses.told[witnesses.first], witnesses.noise) if failed else [],
    )


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
        judge(problem, answer, reference, engine.name, name, witnesses.noise)
        for engine, reference in witnesses.told.items()
        for name in ("loss", *(f"state {state}" for state in reference.states))
        if not reference.uncertainty
    ]
    asked = [*problem.variables, *(n for n in witnesses.told[witnesses.first].gradients if n not in problem.variables)]
    not_given = [name for name in asked if name not in answer.gradients] if partial else []
    rows: list[Verdict] = []
    if all(row.passed for row in forward):
        rows = [
            judge(problem, answer, reference, engine.name, name, witnesses.noise)
            for engine, reference in witnesses.told.items()
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
    yardstick = Yardstick(level, noise.steps.get(name), tolerance.LIMIT)
    if noise.allowed is not None and name in reference.gradients:
        rtol, atol = noise.allowed
        yardstick = Yardstick(atol + rtol * np.abs(expected), None, 1.0)
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
        name for name, size in sizes.items() if size <= tolerance.LIMIT * max(noise.total[name], first.uncertainty.get(name, 0.0))
    ]


COARSE = 1e-3


def coarse(witnesses: Witnesses) -> list[str]:
    """A note for every gradient in which an error of a thousandth could not be seen."""
    first, notes = witnesses.told[witnesses.first], list[str]()
    for name, value in first.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        least = tolerance.LIMIT * max(witnesses.noise.total[name], first.uncertainty.get(name, 0.0))
        if COARSE * size < least < size:
            notes.append(f"rounding is so large here that an error below {least / size:.1g} of {name} could not be seen")
    return notes


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
        judge(problem, first, reference, engine.name, name, witnesses.noise)
        for engine, reference in witnesses.told.items()
        if not reference.directions and engine is not witnesses.first
        for name in reference.gradients
        if name in first.gradients and name not in first.directions
    ]
    return all(row.passed for row in rows)


def report_of(cases: list[CaseReport], seed: int, dtype: str, notes: Sequence[str] = ()) -> Report:
    """The Report of these cases."""
    return Report(environment(seed, dtype), cases, notes=list(notes))
