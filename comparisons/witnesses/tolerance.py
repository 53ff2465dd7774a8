"""How much disagreement rounding explains: measured on the problem at hand, not guessed.

Two correct programs for one gradient differ by rounding, and by how much depends on the problem:
on its dtype, on how many terms are accumulated, on cancellation, on how the recurrence amplifies.
The noise of a gradient, and of each step's share in it, is the larger of what is measured on a
reference, never on the candidate:

    (1) response   the largest change of the reference when every operation, forward and backward,
                   rounds at random, and the weights move by a random |Δ| ≤ ε|v|, by another amount
                   at every step: what recurrence and cancellation make of rounding. A reference
                   without stochastic arithmetic answers to moved weights alone.
    (2) floor      ε m + τ n: ε the dtype's unit roundoff, τ its smallest normal number (below which
                   results may be flushed to zero), n = T (B + H + I) the number of accumulated
                   terms, m the magnitude of what is summed: Σ_t max|share of step t| for the whole,
                   max|share| for one step. Terms that cancel do not hide, and a step that has
                   nearly vanished is judged by its own size. Where the shares are not told (the
                   head, the loss), and where nothing rounds at random, ε √n m: within a sum over n
                   terms errors add up as a random walk does.

The true gradient is always that in float64, at the weights that the candidate is given. Where the
candidate works in a lower precision, (1) is measured there: how far the references themselves, run
in that precision, are from their own float64.

Below float32, and where sums are finer than arrays, ε is no longer small, and √n of it would allow
anything. There, where the shares are not told, the noise is

    (3) the largest error of the references run in that precision, and of the reference in float64
        when every operation is moved at random by as much as nearest rounding of what the
        candidate adds up in, ε/2, and what comes out by that of its arrays,
    (4) plus what lets LOW_LIMIT times the noise hold one ε max|g| more, ε of the arrays.

There the error of all entries together, by root mean square, is held against that of (3) too, plus
RMS_SHARE of ε: a factor that hides below the largest error moves every entry.

A row passes if error ≤ limit · noise; there is no absolute tolerance. LIMIT holds in float64;
below it noise is the frameworks' own error, of which a candidate may make no more than LOW_LIMIT
times as much. All are calibrated by experiments that `comparisons/trial/calibration.py`,
`comparisons/trial/low_precision.py` and `report.py trial` repeat and docs/tolerance.md describes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from ...reference import roundoff
from ..problems.answer import Answer
from ..problems.arrays import Array, finfo
from ..problems.problem import OFFSET, Differentiable

AnyProblem = TypeVar("AnyProblem", bound=Differentiable)
Ask = Callable[[Any, int], Answer]

LIMIT = 16.0
LOW_LIMIT = 4.0
SAMPLES = 4
RMS_SHARE = 0.5  # of ε, by which the root mean square of the error may be more than LOW_LIMIT · (3)
SHORT = 1e-5  # ε above which √n of it is no small number: float16 and bfloat16


@dataclass(frozen=True)
class Noise:
    """Absolute noise by quantity: of the whole tensor, and of each step (first axis) where there
    are steps.

    limit: how many times as large an error may be. allowed: (rtol, atol) that were asked for in
    place of it, for gradients. rms: of the root mean square of all entries of a gradient, where
    that is told; infinite where it is told and not judged.
    """

    total: dict[str, float]
    steps: dict[str, Array]
    limit: float = field(default_factory=lambda: LIMIT)
    allowed: tuple[float, float] | None = None
    rms: dict[str, float] = field(default_factory=dict[str, float])


def epsilon(dtype: Any) -> float:
    """ε: the spacing of the dtype's numbers above 1."""
    return float(finfo(dtype).eps)


def smallest(dtype: Any) -> float:
    """τ: the smallest normal number; in float16, which nobody flushes, the smallest of all."""
    found = finfo(dtype)
    return float(found.smallest_subnormal if np.dtype(dtype) == np.float16 else found.tiny)


def greatest(dtype: Any) -> float:
    """The largest number of the dtype."""
    return float(finfo(dtype).max)


def limit_of(problem: Differentiable) -> float:
    """LIMIT, or LOW_LIMIT where the candidate works in a lower precision than float64."""
    return LOW_LIMIT if epsilon(problem.rounding_dtype) > epsilon(np.float64) else LIMIT


class Forward(str):
    """The name of a quantity of the forward pass: no gradient's is the same, whatever it is called.

    To a person it is its text, which `str` tells.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Forward) and str.__eq__(self, other)

    def __hash__(self) -> int:
        return hash((Forward, str.__hash__(self)))


LOSS = Forward("loss")


def of_state(name: str) -> Forward:
    """The name of the trajectory of a state."""
    return Forward(f"state {name}")


def is_short(problem: Differentiable) -> bool:
    """Whether (3) and (4) hold: the candidate's arrays are shorter than float32, or than its sums.

    Not for a cell, whose terms are known step by step: (2) holds.
    """
    if problem.per_step_names:
        return False
    return epsilon(problem.rounding_dtype) > SHORT or problem.accumulate is not None


def quantities(answer: Answer) -> dict[str, Array]:
    """Everything an answer holds under one naming: LOSS, `of_state("h")`, …, and the gradients."""
    states = {of_state(name): value for name, value in answer.states.items()}
    return {LOSS: np.asarray(answer.loss)} | states | answer.gradients


def step_quantities(answer: Answer) -> dict[str, Array]:
    """The same for what is told step by step, first axis the step."""
    return {of_state(name): value for name, value in answer.states.items()} | answer.steps


def measure(
    problem: Differentiable,
    ask: Ask,
    reference: Answer,
    samples: int = SAMPLES,
    at_random: bool = False,
    in_double: bool = False,
    others: Sequence[Noise] = (),
) -> Noise:
    """Noise by (1) and (2), or by (3) and (4), from what ask(problem, rounding_seed) tells.

    `reference` is the answer without a seed; `at_random`: whether a seed makes operations round at
    random; `in_double`: where the reference cannot run in the candidate's precision; `others`: how
    far each reference in that precision is from itself. What references say of each other has no
    part in it: those that contradict each other would explain any mistake.
    """
    if is_short(problem) and not in_double:
        rounded = _rounded_at_random if at_random else _responses
        errors = rounded(problem, problem.lowered(), ask, reference, samples, 1)
        return _sum_of(_least(problem, reference), [*others, *errors])
    asked = problem if in_double else problem.lowered()
    moved = _responses(problem, asked, ask, reference, samples, 1)
    floor = _floor(problem, reference, at_random)
    return largest(floor, *others, *moved, limit=limit_of(problem))


def own_noise(
    problem: Differentiable, ask: Ask, reference: Answer, samples: int = SAMPLES
) -> Noise:
    """Noise by (1) alone, of another reference than the one that `measure` was asked of."""
    moved = _responses(problem, problem, ask, reference, samples, 8)
    return largest(*moved, limit=limit_of(problem))


def _responses(
    problem: Differentiable,
    lowered: Differentiable,
    ask: Ask,
    reference: Answer,
    samples: int,
    stream: int,
) -> list[Noise]:
    """How far so many runs of the lowered problem, moved and rounded at random, are from the
    reference.
    """
    rng = np.random.default_rng([problem.seed, stream])

    def response() -> Noise:
        moved = perturb(lowered, rng)
        rounding_seed = int(rng.integers(2**31))
        return difference(reference, ask(moved, rounding_seed))

    return [response() for _ in range(samples)]


def _rounded_at_random(
    problem: Differentiable,
    lowered: Differentiable,
    ask: Ask,
    reference: Answer,
    samples: int,
    stream: int,
) -> list[Noise]:
    """(3): how far so many runs in float64, rounded at random as the candidate's arithmetic rounds,
    are from the reference.
    """
    rng = np.random.default_rng([problem.seed, stream])
    in_sums = epsilon(problem.accumulation_dtype) / 2
    at_numbers = lowered.astype(np.float64)

    def error() -> Noise:
        with roundoff.of(in_sums):
            told = ask(at_numbers, int(rng.integers(2**31)))
        if problem.accumulate is not None:
            told = _told_in(epsilon(problem.rounding_dtype) / 2, told, rng)
        return error_of(reference, told)

    return [error() for _ in range(samples)]


def _told_in(half: float, answer: Answer, rng: np.random.Generator) -> Answer:
    """The answer, all that it tells moved at random by up to half an ε of itself."""

    def moved(arrays: Mapping[str, Array]) -> dict[str, Array]:
        told: dict[str, Array] = {}
        for name, value in arrays.items():
            told[name] = value * (1 + half * rng.uniform(-1, 1, size=value.shape))
        return told

    states, gradients = moved(answer.states), moved(answer.gradients)
    return replace(answer, states=states, gradients=gradients, steps=moved(answer.steps))


def perturb(problem: AnyProblem, rng: np.random.Generator, every_step: bool = True) -> AnyProblem:
    """The problem with every variable moved by up to one unit roundoff, the cell's weights by
    another amount at every step.
    """
    unit_roundoff = epsilon(problem.rounding_dtype)

    def nudge(value: Array, shape: tuple[int, ...]) -> Array:
        return (unit_roundoff * value * rng.uniform(-1, 1, size=shape)).astype(value.dtype)

    moved = {name: value + nudge(value, value.shape) for name, value in problem.variables.items()}
    for name in problem.per_step_names if every_step else ():
        value = problem.variables[name]
        moved[name + OFFSET] = nudge(value, (problem.steps or 0, *value.shape))
    return problem.with_variables(moved)


def unit(problem: Differentiable, repetitions: int = 1) -> float:
    """ε √n, for a computation of n terms done `repetitions` times over."""
    terms = problem.accumulated_terms * max(repetitions, 1)
    return epsilon(problem.rounding_dtype) * terms**0.5


def _floor(problem: Differentiable, reference: Answer, at_random: bool) -> Noise:
    least = smallest(problem.rounding_dtype) * problem.accumulated_terms
    # Of what is a single sum over all steps and rows, and of what is told step by step.
    of_a_sum = unit(problem)
    of_a_step = epsilon(problem.rounding_dtype) if at_random else of_a_sum
    shares, whole = step_quantities(reference), quantities(reference)
    steps = {name: of_a_step * _step_sizes(value) for name, value in shares.items()}
    total = {name: of_a_sum * _size(value) for name, value in whole.items()}
    total |= {name: float(steps[name].sum()) for name in problem.per_step_names if name in steps}
    return Noise(
        {name: value + least for name, value in total.items()},
        {name: value + least for name, value in steps.items()},
        rms={} if limit_of(problem) == LIMIT else dict.fromkeys(reference.gradients, math.inf),
    )


def of_precision(noise: Noise, reference: Answer, dtype: str) -> Noise:
    """The noise where the code itself rounds to a lower precision: at least its unit roundoff of
    the largest entry, which a single random sample may miss.
    """
    total = dict(noise.total)
    for name, value in quantities(reference).items():
        total[name] = max(total[name], epsilon(dtype) * _size(value))
    return replace(noise, total=total)


def _least(problem: Differentiable, reference: Answer) -> Noise:
    """(4) alone, and what sums of n terms leave where they are in float32 or better."""
    flushed = smallest(problem.rounding_dtype) * problem.accumulated_terms
    share = epsilon(problem.rounding_dtype) / LOW_LIMIT
    in_sums = epsilon(problem.accumulation_dtype)
    if in_sums <= SHORT:
        share += in_sums * problem.accumulated_terms**0.5
    total = {name: share * _size(value) for name, value in quantities(reference).items()}
    steps = {name: share * _step_sizes(value) for name, value in step_quantities(reference).items()}
    by_mean = RMS_SHARE * share
    return Noise(
        {name: value + flushed for name, value in total.items()},
        {name: value + flushed for name, value in steps.items()},
        rms={name: by_mean * rms(value) + flushed for name, value in reference.gradients.items()},
    )


def _sum_of(least: Noise, errors: Sequence[Noise]) -> Noise:
    """The largest error of each kind, and on top of it the least that is allowed."""
    worst = largest(_none_of(least), *errors)
    total = {name: value + worst.total[name] for name, value in least.total.items()}
    steps = {name: value + worst.steps[name] for name, value in least.steps.items()}
    by_mean = {name: value + worst.rms[name] for name, value in least.rms.items()}
    return Noise(total, steps, LOW_LIMIT, rms=by_mean)


def _none_of(noise: Noise) -> Noise:
    """No noise, of everything that this one tells."""
    steps = {name: np.zeros_like(value) for name, value in noise.steps.items()}
    return Noise(dict.fromkeys(noise.total, 0.0), steps, rms=dict.fromkeys(noise.rms, 0.0))


def rms(value: Array) -> float:
    """The root of the mean square of all entries; 0 of none."""
    wide = value.astype(np.float64, copy=False)
    return math.sqrt(float(np.mean(np.square(wide)))) if value.size else 0.0


def error_of(reference: Answer, lowered: Answer) -> Noise:
    """`difference` from what a reference tells in a lower precision, by root mean square too."""
    by_mean: dict[str, float] = {}
    with np.errstate(all="ignore"):
        for name, value in reference.gradients.items():
            if name in lowered.gradients:
                by_mean[name] = rms(value - lowered.gradients[name])
    return replace(difference(reference, lowered), rms=by_mean)


def difference(reference: Answer, other: Answer) -> Noise:
    """How far the two are apart, in everything that both tell."""
    others, other_steps = quantities(other), step_quantities(other)
    total: dict[str, float] = {}
    steps: dict[str, Array] = {}
    # What overflows in one of them differs by an infinity, or by NaN: a noise that says so.
    with np.errstate(all="ignore"):
        for name, value in quantities(reference).items():
            if name in others:
                total[name] = _size(value - others[name])
        for name, value in step_quantities(reference).items():
            if name in other_steps:
                steps[name] = _step_sizes(value - other_steps[name])
    return Noise(total, steps)


def largest(*noises: Noise, limit: float | None = None) -> Noise:
    """The largest of each, for everything that the first tells; NaN where there is one.

    The limit is the one given, or the first's; what was asked for in its place is the first's.
    """
    first = noises[0]
    total: dict[str, float] = {}
    for name in first.total:
        totals = [noise.total[name] for noise in noises if name in noise.total]
        total[name] = float(max_of(totals))
    steps: dict[str, Array] = {}
    for name in first.steps:
        told = [noise.steps[name] for noise in noises if name in noise.steps]
        steps[name] = max_of(told)
    by_mean: dict[str, float] = {}
    for name in first.rms:
        by_mean[name] = float(max_of([noise.rms[name] for noise in noises if name in noise.rms]))
    return Noise(total, steps, first.limit if limit is None else limit, first.allowed, by_mean)


def max_of(values: list[Any]) -> Any:
    """The largest, entry by entry; NaN where there is one."""
    with np.errstate(invalid="ignore"):
        return np.max(values, axis=0)


def scaled(
    noise: Noise,
    factor: Mapping[str, float],
    extra: Mapping[str, float],
    allowed: tuple[float, float] | None,
) -> Noise:
    """The noise of gradients times their factor (1 where there is none), and an extra amount on
    the whole.
    """
    total: dict[str, float] = {}
    for name, value in noise.total.items():
        total[name] = value * factor.get(name, 1.0) + extra.get(name, 0.0)
    steps: dict[str, Array] = {}
    for name, value in noise.steps.items():
        steps[name] = value * factor.get(name, 1.0)
    by_mean: dict[str, float] = {}
    for name, value in noise.rms.items():
        by_mean[name] = value * factor.get(name, 1.0) + extra.get(name, 0.0)
    return Noise(total, steps, noise.limit, allowed, by_mean)


def by_gradient(noise: Noise, shorter: Mapping[str, Noise]) -> Noise:
    """The noise, that of some gradients measured in a shorter precision: {gradient: all of it}.

    One limit holds for all; where two belong, the noise of those with the smaller is told in units
    that make the limit theirs.
    """
    total, steps, by_mean = dict(noise.total), dict(noise.steps), dict(noise.rms)
    for name, other in shorter.items():
        share = other.limit / noise.limit
        total[name] = share * other.total[name]
        if name in other.steps:
            steps[name] = share * other.steps[name]
        by_mean[name] = share * other.rms[name]
    return replace(noise, total=total, steps=steps, rms=by_mean)


def _size(value: Array) -> float:
    return float(np.max(np.abs(value), initial=0.0))


def _step_sizes(value: Array) -> Array:
    """max|·| within each index of the first axis."""
    with np.errstate(invalid="ignore"):
        return np.abs(value).reshape(len(value), -1).max(axis=1, initial=0.0).astype(np.float64)
