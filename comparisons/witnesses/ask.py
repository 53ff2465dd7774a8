"""Ask the references: their answers, and the noise of the problem."""

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import CannotFollow, MissingFramework, NothingFollows
from ..problems.answer import Answer
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, FunctionProblem
from ..user_code import at_line, comes_from_outside, describe
from . import tolerance
from .engines import Engine, select

FIRST_SAMPLES = 1


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
    return measured(problem, ask(problem, engines), convention, names, tolerance.SAMPLES)


def testify_briefly(problem: AnyProblem, engines: Iterable[Engine], convention: Convention, names: set[str]) -> Witnesses:
    """The same with the noise of one sample: it only grows with samples, so that what agrees by one agrees by all."""
    problem = in_double(problem)
    return measured(problem, ask(problem, engines), convention, names, FIRST_SAMPLES)


def in_double(problem: AnyProblem) -> AnyProblem:
    """The problem for a candidate that works in the arrays' own precision, with the arrays in float64."""
    return problem if problem.dtype.itemsize >= 8 else problem.in_precision(problem.dtype)


def measured(
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
