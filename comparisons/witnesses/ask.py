"""Ask the references: their answers, and the noise of the problem."""

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..errors import CannotFollow, MissingFramework, NothingFollows
from ..problems.answer import Answer
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, FunctionProblem
from ..user_code import at_line, comes_from_outside, describe
from . import tolerance
from .engines import Engine, select
from .left_out import LeftOut, WhyLeftOut

FIRST_SAMPLES = 1

ADVICE = (
    "array-API code says xp.tanh, not np.tanh or math.tanh, and takes no number out with float()"
)


def available(
    references: Sequence[str] | None,
) -> tuple[tuple[Engine, ...], dict[str, LeftOut]]:
    """(the engines that can be loaded, {missing ones: how to install them}).

    Raises MissingFramework when none can.
    """
    engines = select(None if references is None else tuple(references))
    missing: dict[str, LeftOut] = {}
    for engine in engines:
        try:
            engine.load()
        except MissingFramework as error:
            missing[engine.name] = LeftOut(WhyLeftOut.MISSING, str(error))
    if len(missing) == len(engines):
        advice = "; ".join(str(left) for left in missing.values())
        raise MissingFramework(advice or "no reference was named")
    return tuple(engine for engine in engines if engine.name not in missing), missing


@dataclass(frozen=True)
class Asked:
    """The plain answers of those who could be asked, and why the others were not."""

    answers: dict[Engine, Answer]
    left_out: dict[str, LeftOut]


def ask(problem: AnyProblem, engines: Iterable[Engine]) -> Asked:
    """What each engine answers. An exception out of code from outside leaves that engine out.

    Raises NothingFollows where no engine answers.
    """
    answers: dict[Engine, Answer] = {}
    left_out: dict[str, LeftOut] = {}
    for engine in engines:
        told = _ask_one(problem, engine)
        if isinstance(told, LeftOut):
            left_out[engine.name] = told
        else:
            answers[engine] = told
    if not answers:
        raise _nothing_follows(problem, left_out)
    return Asked(answers, left_out)


def _ask_one(problem: AnyProblem, engine: Engine) -> Answer | LeftOut:
    reason = engine.reason_not(problem)
    if reason is not None:
        return LeftOut(WhyLeftOut.NOT_APPLICABLE, reason)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return engine.answer(problem)
    except CannotFollow as error:
        return LeftOut(WhyLeftOut.CANNOT_FOLLOW, f"cannot follow: {error}")
    except (Exception, SystemExit) as error:
        if not comes_from_outside(error):
            raise
        what = describe(error) + at_line(error.__traceback__)
        return LeftOut(WhyLeftOut.CANNOT_FOLLOW, f"cannot follow: {what}")


def _nothing_follows(problem: AnyProblem, left_out: Mapping[str, LeftOut]) -> NothingFollows:
    """The error, with the reasons of those who were asked; of all where nobody was."""
    tried = {name: left for name, left in left_out.items() if left.kind is WhyLeftOut.CANNOT_FOLLOW}
    told = [f"{name}: {left}" for name, left in (tried or left_out).items()]
    return NothingFollows(f"{problem.name}: no reference can answer; {ADVICE}. {'; '.join(told)}")


@dataclass(frozen=True)
class Witnesses:
    """What the references say: plain answers, the same under the convention, and the noise.

    own        the noise of references that round otherwise than the one on which `noise` was
               measured, torch's modules say
    remarks    what was noticed while noise was measured
    overflown  references whose own gradient is not finite in the precision that the candidate
               works in
    """

    plain: dict[Engine, Answer]
    told: dict[Engine, Answer]
    left_out: dict[str, LeftOut]
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
        if engine not in self.own:
            return self.noise
        return tolerance.largest(self.noise, self.own[engine])


def witness_of(answers: Mapping[Engine, Answer]) -> Engine:
    """The engine on which noise is measured: a finite one that tells steps, under stochastic
    arithmetic if there is one.
    """

    def last_resort(engine: Engine) -> tuple[bool, ...]:
        told = answers[engine]
        arrays = (*told.gradients.values(), *told.steps.values())
        is_finite = all(np.isfinite(value).all() for value in arrays)
        return (not is_finite, engine.numeric, not engine.tells_steps, not engine.rounds_at_random)

    return min(answers, key=last_resort)


@dataclass(frozen=True)
class Testimony:
    """What the references say of one problem: they are asked once, and the noise is measured as
    far as it is wanted.

    It only grows with samples, so that what agrees by one agrees by all. `names` are the gradients
    that the convention applies to. The references answer in float64, whatever the candidate works
    in.
    """

    problem: AnyProblem
    engines: Sequence[Engine]
    convention: Convention
    names: frozenset[str]

    @cached_property
    def asked(self) -> Asked:
        """Their plain answers."""
        return ask(in_double(self.problem), self.engines)

    @cached_property
    def brief(self) -> Witnesses:
        """With the noise by one sample."""
        return self._measured(FIRST_SAMPLES)

    @cached_property
    def full(self) -> Witnesses:
        """With the noise by all samples."""
        return self._measured(tolerance.SAMPLES)

    def _measured(self, samples: int) -> Witnesses:
        problem = in_double(self.problem)
        return measured(problem, self.asked, self.convention, set(self.names), samples)


def in_double(problem: AnyProblem) -> AnyProblem:
    """The problem with its arrays in float64, for a candidate that works in their own precision."""
    return problem if problem.dtype.itemsize >= 8 else problem.in_precision(problem.dtype)


def measured(
    problem: AnyProblem, asked: Asked, convention: Convention, names: set[str], samples: int
) -> Witnesses:
    """The answers with the noise by so many samples, and under the convention."""
    plain = dict(asked.answers)
    first = witness_of(plain)
    noise, lowered = _noise_by_gradient(problem, plain, first, samples, names)
    own = _own_noise(problem, plain, first, samples)
    told: dict[Engine, Answer] = {}
    for engine, answer in plain.items():
        told[engine] = convention.apply(answer, problem.steps, problem.batch, names)
    for name, value in plain[first].uncertainty.items():
        noise.total[name] = max(noise.total[name], value)

    # A convention's factor scales the gradient, and with it what rounding does to it.
    extra: Mapping[str, float] = {}
    if isinstance(problem, FunctionProblem):
        extra = problem.extra_noise
    factor = dict.fromkeys(names, abs(convention.factor(problem.steps, problem.batch)))
    common = tolerance.scaled(noise, factor, extra, convention.allowed)
    each: dict[Engine, tolerance.Noise] = {}
    for engine, found in own.items():
        each[engine] = tolerance.scaled(found, factor, {}, convention.allowed)
    return Witnesses(plain, told, asked.left_out, common, each, lowered.remarks, lowered.overflown)


@dataclass(frozen=True)
class _Lowered:
    """What the frameworks themselves err by in a lower precision.

    remarks    what was noticed
    overflown  those that overflow in it
    """

    errors: list[tolerance.Noise] = field(default_factory=list[tolerance.Noise])
    remarks: list[str] = field(default_factory=list[str])
    overflown: list[str] = field(default_factory=list[str])


def _noise_by_gradient(
    problem: AnyProblem,
    plain: Mapping[Engine, Answer],
    first: Engine,
    samples: int,
    names: set[str],
) -> tuple[tolerance.Noise, _Lowered]:
    """The noise of each gradient in its own array's precision, of all else in the problem's."""
    noise, lowered = _noise(problem, plain, first, samples)
    levels: Mapping[str, str] = {}
    if isinstance(problem, FunctionProblem):
        levels = problem.levels
    told = {name: level for name, level in levels.items() if name in names & noise.total.keys()}
    measured_in: dict[str, tolerance.Noise] = {}
    for level in set(told.values()):
        there = replace(problem, precision=level, accumulate=None)
        measured_in[level], also = _noise(there, plain, first, samples)
        lowered = _Lowered(
            lowered.errors,
            [*lowered.remarks, *also.remarks],
            [*lowered.overflown, *also.overflown],
        )
    by_name = {name: measured_in[level] for name, level in told.items()}
    return tolerance.by_gradient(noise, by_name), lowered


def _noise(
    problem: AnyProblem, plain: Mapping[Engine, Answer], first: Engine, samples: int
) -> tuple[tolerance.Noise, _Lowered]:
    """The noise measured on `first`; in a lower precision than float64 each framework's own error
    in it counts as well.
    """
    if plain[first].uncertainty:
        samples = 0
    elif first.numeric:
        samples = 1
    lowered = _own_errors(problem, plain)
    unable = problem.lowered() is not problem and (first.numeric or not lowered.errors)
    noise = tolerance.measure(
        problem,
        first.answer,
        plain[first],
        samples,
        first.rounds_at_random,
        in_double=unable,
        others=lowered.errors,
    )
    return noise, lowered


def _own_noise(
    problem: AnyProblem, plain: Mapping[Engine, Answer], first: Engine, samples: int
) -> dict[Engine, tolerance.Noise]:
    """What the own rounding of the other references adds, where all samples are asked for."""
    if samples < tolerance.SAMPLES or problem.lowered() is not problem:
        return {}
    found: dict[Engine, tolerance.Noise] = {}
    for engine, answer in plain.items():
        if engine.rounds_at_random and engine is not first:
            found[engine] = tolerance.own_noise(problem, engine.answer, answer, samples)
    return found


def _own_errors(problem: AnyProblem, plain: Mapping[Engine, Answer]) -> _Lowered:
    """How far each framework in the candidate's precision is from itself in float64."""
    found, lowered = _Lowered(), problem.lowered()
    if lowered is problem:
        return found
    for engine, answer in plain.items():
        if engine.numeric or engine.by_name:
            continue
        try:
            told = engine.answer(lowered).astype(problem.rounding_dtype).astype(np.float64)
        except Exception as error:  # one that lacks an operation in that precision says nothing
            found.remarks.append(
                f"{engine.name} does not run in {lowered.dtype.name}: {describe(error)}"
            )
            continue
        if finite(told):
            found.errors.append(tolerance.error_of(answer, told))
        else:
            found.overflown.append(engine.name)
            found.remarks.append(
                f"in {lowered.dtype.name} the gradient of {engine.name} itself is not finite"
            )
    return found


def finite(answer: Answer) -> bool:
    """Whether all that it tells is finite."""
    arrays = (*answer.gradients.values(), *answer.steps.values(), *answer.states.values())
    told = (np.asarray(answer.loss), *arrays)
    return all(bool(np.isfinite(value).all()) for value in told)
