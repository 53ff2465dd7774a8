"""How much disagreement rounding explains: measured on the problem at hand, not guessed.

Two correct programs for one gradient differ by rounding, and by how much depends on the problem: on its dtype, on how many terms
are accumulated, on cancellation, on how the recurrence amplifies. The noise of a gradient, and of each step's share in it, is the
larger of two estimates, both taken from a reference, never from the candidate:

    (1) floor      ε √n m + τ n: ε the dtype's unit roundoff, τ its smallest normal number (below which results may be
                   flushed to zero), n = T (B + H + I) the number of accumulated terms, m the magnitude of what is summed:
                   Σ_t max|share of step t| for the whole, max|share| for one step. Terms that cancel do not hide, and a
                   step that has nearly vanished is judged by its own size.
    (2) response   the largest change of the reference when every operation, forward and backward, rounds at random, and
                   the weights move by a random |Δ| ≤ ε|v|, by another amount at every step: what recurrence and
                   cancellation make of rounding. A reference without stochastic arithmetic answers to moved weights alone.
                   Where the candidate works in a lower precision than the arrays, the reference in that precision too.

A row passes if error ≤ LIMIT · noise; there is no absolute tolerance. LIMIT is calibrated by an experiment that
`comparisons/calibration.py` repeats and docs/tolerance.md describes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from comparisons.problem import OFFSET, Answer, Array, Differentiable

AnyProblem = TypeVar("AnyProblem", bound=Differentiable)

LIMIT = 64.0
SAMPLES = 4


@dataclass(frozen=True)
class Noise:
    """Absolute noise by quantity: of the whole tensor, and of each step (first axis) where there are steps.

    allowed: (rtol, atol) that were asked for in place of it, for gradients.
    """

    total: dict[str, float]
    steps: dict[str, Array]
    allowed: tuple[float, float] | None = None


def quantities(answer: Answer) -> dict[str, Array]:
    """Everything an answer holds under one naming: "loss", "state h", …, and the gradients."""
    forward = {"loss": np.asarray(answer.loss)} | {f"state {name}": value for name, value in answer.states.items()}
    return forward | answer.gradients


def step_quantities(answer: Answer) -> dict[str, Array]:
    """The same for what is told step by step, first axis the step."""
    return {f"state {name}": value for name, value in answer.states.items()} | answer.steps


def measure(problem: Differentiable, ask: Callable[[Any, int], Answer], reference: Answer, samples: int = SAMPLES) -> Noise:
    """Noise by (1) and (2).

    `reference` is the answer that ask(problem, rounding_seed) gives without a seed. What others say has no part in it: references
    that contradict each other would explain any mistake.
    """
    rng = np.random.default_rng([problem.seed, 1])
    response = [ask(perturb(problem, rng), int(rng.integers(2**31))) for _ in range(samples)]
    if problem.rounding_dtype != problem.dtype:
        response.append(ask(problem.astype(problem.rounding_dtype), 0))
    return _largest(_floor(problem, reference), *[_difference(reference, other) for other in response])


def perturb(problem: AnyProblem, rng: np.random.Generator, every_step: bool = True) -> AnyProblem:
    """The problem with every variable moved by up to one unit roundoff, the cell's weights by another amount at every step."""
    epsilon = np.finfo(problem.rounding_dtype).eps

    def nudge(value: Array, shape: tuple[int, ...]) -> Array:
        return (epsilon * value * rng.uniform(-1, 1, size=shape)).astype(value.dtype)

    moved = {name: value + nudge(value, value.shape) for name, value in problem.variables.items()}
    for name in problem.per_step_names if every_step else ():
        value = problem.variables[name]
        moved[name + OFFSET] = nudge(value, (problem.steps or 0, *value.shape))
    return problem.with_variables(moved)


def unit(problem: Differentiable, repetitions: int = 1) -> float:
    """ε √n of (1), for a computation done `repetitions` times over."""
    return float(np.finfo(problem.rounding_dtype).eps) * (problem.accumulated_terms * max(repetitions, 1)) ** 0.5


def _floor(problem: Differentiable, reference: Answer) -> Noise:
    scale, least = unit(problem), float(np.finfo(problem.rounding_dtype).tiny) * problem.accumulated_terms
    steps = {name: scale * _step_sizes(value) for name, value in step_quantities(reference).items()}
    total = {name: scale * float(np.max(np.abs(value), initial=0.0)) for name, value in quantities(reference).items()}
    total |= {name: float(steps[name].sum()) for name in problem.per_step_names if name in steps}
    return Noise({name: value + least for name, value in total.items()}, {name: value + least for name, value in steps.items()})


def _difference(reference: Answer, other: Answer) -> Noise:
    """How far the two are apart."""
    others, other_steps = quantities(other), step_quantities(other)
    with np.errstate(invalid="ignore"):
        total = {n: float(np.max(np.abs(v - others[n]), initial=0.0)) for n, v in quantities(reference).items()}
        steps = {n: _step_sizes(v - other_steps[n]) for n, v in step_quantities(reference).items()}
    return Noise(total, steps)


def _largest(*noises: Noise) -> Noise:
    """The largest of each; NaN where there is one."""
    with np.errstate(invalid="ignore"):
        total = {name: float(np.max([noise.total[name] for noise in noises])) for name in noises[0].total}
        return Noise(total, {name: np.max([noise.steps[name] for noise in noises], axis=0) for name in noises[0].steps})


def _step_sizes(value: Array) -> Array:
    """max|·| within each index of the first axis."""
    with np.errstate(invalid="ignore"):
        return np.abs(value).reshape(len(value), -1).max(axis=1, initial=0.0).astype(np.float64)
