"""What the candidate's own rounding explains: the same code run once more in longdouble.

Noise is measured on a reference, and knows nothing of a derivation that is right on paper and
loses digits in floating point where the reference does not: 1 − σ of a saturated gate for σ(−z),
say. The candidate's own rounding is the difference

    (1)  r = |gradient in float64 − gradient in longdouble|

and it counts as noise of a row only if in longdouble, whose roundoff is two thousand times
smaller, nearly all of the error is gone:

    (2)  |gradient in longdouble − reference| ≤ r / GONE + limit · noise measured on the reference.

By (2) no mistake is excused that rounding would not hide: one in the mathematics is as large in
longdouble. And rounding is worse in float32, where (1) has to be at least as large: a mistake on a
path that float64 alone takes is not there. Only what "differs" is looked at again; what is all
zero, not finite or of a wrong shape stays what it is. Code that does not take longdouble, as
torch's and jax's does not, has no second look, nor has a machine whose longdouble is its double.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..problems.answer import Answer
from ..problems.problem import Differentiable
from ..witnesses import tolerance
from .verdict import Reason, Verdict

WIDER = 1000.0  # how many times finer longdouble must be
GONE = 32.0


class Candidate(Protocol):
    """Whatever answers a problem."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


def in_longdouble(problem: Differentiable, candidate: Candidate) -> Answer | None:
    """What the candidate answers in longdouble; None where it cannot be asked, or did not keep to
    it.
    """
    wide = np.dtype(np.longdouble)
    wider = WIDER * float(np.finfo(wide).eps) < tolerance.epsilon(np.float64)
    if problem.rounding_dtype != np.float64 or not wider:
        return None
    answer = _asked_in(wide, problem, candidate)
    if answer is None:
        return None
    kept = any(value.dtype == wide for value in answer.gradients.values())
    return answer if kept else None


def in_single(problem: Differentiable, candidate: Candidate) -> Answer | None:
    """What the candidate answers in float32; None where it cannot be asked."""
    return _asked_in(np.float32, problem, candidate)


def _asked_in(dtype: Any, problem: Differentiable, candidate: Candidate) -> Answer | None:
    try:
        return candidate.answer(problem.astype(dtype))
    except Exception:  # it does not take that precision: the verdict in float64 stands
        return None


@dataclass(frozen=True)
class OwnRounding:
    """How far a candidate in float64, and in float32, is from itself in longdouble.

    And its answer there, in float64.

    in_double is r of (1).
    """

    in_double: tolerance.Noise
    in_single: tolerance.Noise
    wide: Answer


def own_rounding_of(
    problem: Differentiable, candidate: Candidate, answer: Answer
) -> OwnRounding | None:
    """The candidate's own rounding, by two further runs of it.

    None where one of them cannot be had.
    """
    wide = in_longdouble(problem, candidate)
    single = in_single(problem, candidate)
    if wide is None or single is None:
        return None
    in_double = tolerance.difference(answer, wide)
    return OwnRounding(in_double, tolerance.difference(single, wide), wide.astype(np.float64))


def allowed(noise: tolerance.Noise, own: tolerance.Noise) -> tolerance.Noise:
    """The noise by which a gradient in longdouble is judged: limit times it is the right side of
    (2).
    """
    share = 1 / (GONE * noise.limit)
    total = {name: level + share * own.total.get(name, 0.0) for name, level in noise.total.items()}
    steps = {name: level + share * own.steps.get(name, 0.0) for name, level in noise.steps.items()}
    return replace(noise, total=total, steps=steps)


def reconsidered(
    rows: Sequence[Verdict],
    own: OwnRounding,
    wide_rows: Sequence[Verdict],
    noise: tolerance.Noise,
) -> list[Verdict]:
    """The rows, some of those that differ passed.

    Those whose likes in longdouble pass by (2), and of which float32 loses more.
    """
    right = {(row.gradient, row.reference) for row in wide_rows if row.passed}
    found: list[Verdict] = []
    for row in rows:
        told = row.kind is Reason.DIFFERS and (row.gradient, row.reference) in right
        lost_in_single = own.in_single.total.get(row.gradient, 0.0)
        excused = told and own.in_double.total[row.gradient] <= lost_in_single
        found.append(_excused(row, own.in_double, noise) if excused else row)
    return found


def _excused(row: Verdict, own: tolerance.Noise, noise: tolerance.Noise) -> Verdict:
    """The row with the candidate's own rounding as its noise."""
    level = max(own.total[row.gradient], noise.total.get(row.gradient, 0.0))
    return replace(
        row,
        noise=level,
        error_over_noise=row.max_abs_error / level if level > 0 else 0.0,
        step_error_over_noise=None if row.step_error_over_noise is None else 1.0,
        where=None,
        axes=[],
        step_axis=None,
        wrong_slices=None,
        wrong_steps=None,
        first_wrong_step=None,
        kind=None,
    )


def remarks(before: Sequence[Verdict], after: Sequence[Verdict]) -> list[str]:
    """A note on the gradients that the candidate's own rounding explains."""
    least = np.finfo(np.float64).eps
    lost: dict[str, float] = {}
    for old, new in zip(before, after, strict=True):
        if new.passed and not old.passed:
            lost[old.gradient] = max(old.max_rel_error, least)
    if not lost:
        return []
    told = ", ".join(f"{name} (relative error {error:.1g})" for name, error in lost.items())
    return [
        f"the code's own rounding explains the difference in {told}: run in longdouble it agrees. "
        "It loses "
        "digits where the reference does not, as 1 − σ does for a saturated gate"
    ]
