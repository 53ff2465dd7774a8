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

A row passes if error ≤ limit · noise; there is no absolute tolerance. LIMIT holds in float64;
below it noise is the frameworks' own error, of which a candidate may make no more than LOW_LIMIT
times as much. Both are calibrated by experiments that `comparisons/trial/calibration.py` and
`report.py trial` repeat and docs/tolerance.md describes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from ..problems.answer import Answer
from ..problems.arrays import BFLOAT16, Array
from ..problems.problem import OFFSET, Differentiable

AnyProblem = TypeVar("AnyProblem", bound=Differentiable)
Ask = Callable[[Any, int], Answer]

LIMIT = 16.0
LOW_LIMIT = 4.0
SAMPLES = 4


@dataclass(frozen=True)
class Noise:
    """Absolute noise by quantity: of the whole tensor, and of each step (first axis) where there
    are steps.

    limit: how many times as large an error may be. allowed: (rtol, atol) that were asked for in
    place of it, for gradients.
    """

    total: dict[str, float]
    steps: dict[str, Array]
    limit: float = field(default_factory=lambda: LIMIT)
    allowed: tuple[float, float] | None = None


def _finfo(dtype: Any) -> Any:
    """NumPy's, which knows longdouble; for bfloat16, which it does not know, that of ml_dtypes."""
    known: Any = ml_dtypes if np.dtype(dtype) == BFLOAT16 else np
    return known.finfo(dtype)


def epsilon(dtype: Any) -> float:
    """ε: the spacing of the dtype's numbers above 1."""
    return float(_finfo(dtype).eps)


def smallest(dtype: Any) -> float:
    """τ: the smallest normal number; in float16, which nobody flushes, the smallest of all."""
    found = _finfo(dtype)
    return float(found.smallest_subnormal if np.dtype(dtype) == np.float16 else found.tiny)


def greatest(dtype: Any) -> float:
    """The largest number of the dtype."""
    return float(_finfo(dtype).max)


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
) -> Noise:
    """Noise by (1) and (2), from what ask(problem, rounding_seed) tells.

    `reference` is the answer without a seed; `at_random`: whether a seed makes operations round at
    random; `in_double`: where the reference cannot run in the candidate's precision. What others
    say has no part in it: references that contradict each other would explain any mistake.
    """
    asked = problem if in_double else problem.lowered()
    moved = _responses(problem, asked, ask, reference, samples, 1)
    return largest(_floor(problem, reference, at_random), *moved, limit=limit_of(problem))


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
    )


def of_precision(noise: Noise, reference: Answer, dtype: str) -> Noise:
    """The noise where the code itself rounds to a lower precision: at least its unit roundoff of
    the largest entry, which a single random sample may miss.
    """
    total = dict(noise.total)
    for name, value in quantities(reference).items():
        total[name] = max(total[name], epsilon(dtype) * _size(value))
    return replace(noise, total=total)


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
    return Noise(total, steps, first.limit if limit is None else limit, first.allowed)


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
    return Noise(total, steps, noise.limit, allowed)


def _size(value: Array) -> float:
    return float(np.max(np.abs(value), initial=0.0))


def _step_sizes(value: Array) -> Array:
    """max|·| within each index of the first axis."""
    with np.errstate(invalid="ignore"):
        return np.abs(value).reshape(len(value), -1).max(axis=1, initial=0.0).astype(np.float64)
