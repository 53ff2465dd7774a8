"""Ask the references: their answers, and the noise of the problem."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .. import output
from ..errors import BadOption, CannotFollow, MissingFramework, NothingFollows
from ..problems.answer import Answer
from ..problems.arrays import Array, frozen
from ..problems.clipping import Bounds, Entries, Seen, reached
from ..problems.convention import Convention, distances
from ..problems.problem import AnyProblem, FunctionProblem
from ..user_code import at_line, comes_from_outside, describe, printable
from . import tolerance
from .engines import Engine, select
from .left_out import LeftOut, WhyLeftOut

FIRST_SAMPLES = 1
KEPT = 1e-6  # relative: a gradient so near to the plain one was not clipped
CHUNK = 64  # entries of which numeric references tell each one, and not inner products

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
        with output.kept():
            return engine.answer(problem)
    except CannotFollow as error:
        what = printable(" ".join(str(error).split()))  # a user's words may be among them
        return LeftOut(WhyLeftOut.CANNOT_FOLLOW, f"cannot follow: {what}")
    except (Exception, SystemExit) as error:
        if not (is_from_outside(problem) or comes_from_outside(error)):
            raise
        what = describe(error) + at_line(error.__traceback__)
        return LeftOut(WhyLeftOut.CANNOT_FOLLOW, f"cannot follow: {what}")


def is_from_outside(problem: AnyProblem) -> bool:
    """Whether the equations are a user's: what they return to a reference may be anything."""
    return isinstance(problem, FunctionProblem) or problem.step is not None


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
    that the convention applies to, `given` what was given for them. The references answer in
    float64, whatever the candidate works in.
    """

    problem: AnyProblem
    engines: Sequence[Engine]
    convention: Convention
    names: frozenset[str]
    given: Mapping[str, Array] = field(default_factory=dict[str, Array])

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
        told = (self.asked, self.convention, set(self.names))
        return measured(problem, *told, samples, self.seen)

    @cached_property
    def seen(self) -> dict[Engine, Seen]:
        """What each reference knows of the gradients under a convention that clips."""
        problem, bounds = in_double(self.problem), self.convention.bounds
        inputs = frozenset(problem.sliced if isinstance(problem, FunctionProblem) else ())
        found: dict[Engine, Seen] = {}
        for engine, answer in self.asked.answers.items():
            at_bound: dict[str, Entries] = {}
            if bounds.value is not None and isinstance(problem, FunctionProblem):
                wanted = self._reaching(answer, bounds, inputs)
                at_bound = _at_entries(problem, engine, wanted)
            found[engine] = Seen(self.given, at_bound, inputs)
        return found

    def _reaching(self, answer: Answer, bounds: Bounds, inputs: frozenset[str]) -> dict[str, Array]:
        """The entries that reach the bound, of the given gradients that an answer tells along
        directions only.
        """
        params = {name: value for name, value in self.given.items() if name not in inputs}
        found: dict[str, Array] = {}
        for name in answer.directions:
            if name not in self.given:
                continue
            # whichever of them are scaled down together, they have their own largest entry
            together = ({name: self.given[name]}, params, self.given)
            scopes = together[:1] if bounds.of_each else together[1:]
            levels = [bounds.in_given(scope) or 0.0 for scope in scopes if scope]
            found[name] = reached(self.given[name], min(levels))
        return found


def in_double(problem: AnyProblem) -> AnyProblem:
    """The problem with its arrays in float64, for a candidate that works in their own precision."""
    return problem if problem.dtype.itemsize >= 8 else problem.in_precision(problem.dtype)


def measured(
    problem: AnyProblem,
    asked: Asked,
    convention: Convention,
    names: set[str],
    samples: int,
    seen: Mapping[Engine, Seen],
) -> Witnesses:
    """The answers with the noise by so many samples, and under the convention."""
    plain = dict(asked.answers)
    first = witness_of(plain)
    noise, lowered = _noise_by_gradient(problem, plain, first, samples, names)
    own = _own_noise(problem, plain, first, samples)
    meant = convention.followed_by(seen[first], plain[first], problem.steps, problem.batch, names)
    told: dict[Engine, Answer] = {}
    for engine, answer in plain.items():
        told[engine] = meant.apply(answer, problem.steps, problem.batch, names, seen[engine])
    for name, value in plain[first].uncertainty.items():
        noise.total[name] = max(noise.total[name], value)

    # A convention's factor scales the gradient, and with it what rounding does to it.
    size = abs(meant.factor(problem.steps, problem.batch))
    shrunk = meant.shrinkage(plain[first], problem.steps, problem.batch, names, seen[first])
    factor = {name: size * shrunk.get(name, 1.0) for name in names}
    extra = _of_the_norm(noise, told[first], factor, shrunk, meant)
    if isinstance(problem, FunctionProblem):
        for name, level in problem.extra_noise.items():
            extra[name] = extra.get(name, 0.0) + level
    common = tolerance.scaled(noise, factor, extra, convention.allowed)
    each: dict[Engine, tolerance.Noise] = {}
    for engine, found in own.items():
        each[engine] = tolerance.scaled(found, factor, {}, convention.allowed)
    remarks = [remark for answer in plain.values() for remark in answer.remarks]
    remarks += [*lowered.remarks, *_eps_followed(convention, meant, shrunk, problem)]
    remarks += _scope_followed(convention, meant, told[first], seen[first])
    return Witnesses(plain, told, asked.left_out, common, each, remarks, lowered.overflown)


def _of_the_norm(
    noise: tolerance.Noise,
    told: Answer,
    factor: Mapping[str, float],
    shrunk: Mapping[str, float],
    meant: Convention,
) -> dict[str, float]:
    """What the rounding of the norm adds to each gradient that it shrinks.

    With N the norm before clipping, g · c / N is off by |g| c / N · ΔN / N; and where every entry
    of a gradient is off by the same share as its largest, so is its norm.
    """
    beyond = [name for name, coefficient in shrunk.items() if coefficient < 1]
    errors: dict[str, float] = {}  # of the norm of each gradient, as it is after clipping
    for name in beyond:
        spread = 1.0 if name in told.uncertainty else _norm_over_largest(told, name)
        errors[name] = factor[name] * noise.total[name] * spread
    together = float(np.linalg.norm(list(errors.values())))
    found: dict[str, float] = {}
    for name in beyond:
        of_norm = errors[name] if meant.bounds.of_each else together
        largest = float(np.max(np.abs(told.gradients[name]), initial=0.0))
        if name in told.directions and name not in told.uncertainty:
            largest /= _norm_over_largest(told, name)
        found[name] = largest * of_norm / (meant.bounds.norm or 1.0)
    return found


def _norm_over_largest(told: Answer, name: str) -> float:
    """‖g‖ / max|g|: at most √n for n entries, which is taken where they are not told."""
    if name in told.directions:
        return told.directions[name][0].size ** 0.5
    largest = float(np.max(np.abs(told.gradients[name]), initial=0.0))
    return float(np.linalg.norm(told.gradients[name])) / largest if largest > 0 else 1.0


def _eps_followed(
    declared: Convention, meant: Convention, shrunk: Mapping[str, float], problem: AnyProblem
) -> list[str]:
    """A remark where a norm was clipped as torch clips it, though that was not declared."""
    eps = meant.bounds.eps
    if declared.clip_norm_eps is not None or eps == 0 or not shrunk:
        return []
    bound, smallest = meant.bounds.norm or 0.0, min(shrunk.values())
    relative = eps * smallest / bound
    if smallest == 1 or relative <= tolerance.LIMIT * tolerance.epsilon(problem.rounding_dtype):
        return []
    return [
        f"clipping: the gradients follow torch's clip_grad_norm_, which divides by norm + {eps:g}; "
        f"code that divides by the norm itself would be off by a relative {relative:.1g}"
    ]


def _scope_followed(declared: Convention, meant: Convention, told: Answer, seen: Seen) -> list[str]:
    """A remark where the parameters' gradients alone were clipped, though that was not declared."""
    if declared.clipped is not None or meant.clipped != "params":
        return []
    apart = distances(told, set(seen.inputs), seen)
    kept = sorted(name for name, distance in apart.items() if distance <= KEPT)
    if not kept:
        return []
    those = ", ".join(kept)
    return [f"clipping: the gradients of the parameters are clipped, those of {those} are not"]


def _at_entries(
    problem: FunctionProblem, engine: Engine, wanted: Mapping[str, Array]
) -> dict[str, Entries]:
    """The plain derivative at single entries of variables, flat indices, by variable.

    They become variables of their own, so few in each that an engine tells every one.
    """
    places: dict[str, tuple[str, Array]] = {}
    for name, at in wanted.items():
        for start in range(0, len(at), CHUNK):
            places[str(len(places))] = name, at[start : start + CHUNK]
    if not places:
        return {}
    point = {**problem.constants, **problem.variables}

    def at_places(function: Any) -> Any:
        def moved(xp: Any, named: Mapping[str, Any]) -> Any:
            whole: dict[str, Any] = {**point}
            for key, (name, at) in places.items():
                whole[name] = _put(xp, whole[name], at, named[key])
            return function(xp, whole)

        return moved

    def copied(world: Any) -> Any:
        return at_places(problem.function if problem.copied is None else problem.copied(world))

    pieces = {key: point[name].reshape(-1)[at] for key, (name, at) in places.items()}
    function = at_places(problem.function)
    asked = FunctionProblem(
        problem.name, function, frozen(pieces), {}, problem.seed, problem.numpy_only
    )
    asked = replace(asked, copied=copied)
    answer = _ask_one(asked, engine)
    if isinstance(answer, LeftOut):
        raise BadOption(
            f"convention: clip_value needs the entries that reach it of {', '.join(wanted)}, and "
            f"{engine.name} does not tell them: {answer}"
        )
    found: dict[str, Entries] = {}
    for name in wanted:
        mine = [key for key, (owner, _) in places.items() if owner == name]
        values = [answer.gradients[key] for key in mine]
        doubts = [answer.uncertainty.get(key, 0.0) for key in mine]
        if mine:
            at = np.concatenate([places[key][1] for key in mine])
            found[name] = Entries(at, np.concatenate(values), max(doubts))
    return found


def _put(xp: Any, array: Any, at: Array, values: Any) -> Any:
    """The array with other values at these flat indices, in operations that any namespace has."""
    size = int(np.size(array))
    index = np.arange(size) + len(at)
    index[at] = np.arange(len(at))
    flat = xp.reshape(xp.asarray(array), (size,))
    return xp.reshape(xp.concat([values, flat])[index], array.shape)


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
    narrowed = plain[first].narrowed
    if narrowed is not None:
        noise = tolerance.of_precision(noise, plain[first], narrowed)
    return noise, lowered


def is_exact(engine: Engine, answer: Answer) -> bool:
    """Whether an engine that evaluates the function alone tells its derivative to rounding."""
    return engine.numeric and not answer.uncertainty


def _own_noise(
    problem: AnyProblem, plain: Mapping[Engine, Answer], first: Engine, samples: int
) -> dict[Engine, tolerance.Noise]:
    """What the own rounding of the other references adds, where all samples are asked for."""
    if samples < tolerance.SAMPLES or problem.lowered() is not problem:
        return {}
    found: dict[Engine, tolerance.Noise] = {}
    for engine, answer in plain.items():
        if is_exact(engine, answer) and engine is not first and not first.numeric:
            found[engine] = tolerance.own_noise(problem, engine.answer, answer, FIRST_SAMPLES)
        if engine.rounds_at_random and engine is not first:
            found[engine] = tolerance.own_noise(problem, engine.answer, answer, samples)
    return found


def _own_errors(problem: AnyProblem, plain: Mapping[Engine, Answer]) -> _Lowered:
    """How far each framework in the candidate's precision is from itself in float64."""
    found, lowered = _Lowered(), problem.lowered()
    if lowered is problem:
        return found
    for engine, answer in plain.items():
        if engine.numeric or (engine.by_name and not engine.for_numpy_code):
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
