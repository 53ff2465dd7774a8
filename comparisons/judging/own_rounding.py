"""What the candidate's own rounding explains, and how many digits it loses.

Noise is measured on a reference, and knows nothing of a derivation that is right on paper and
loses digits in floating point where the reference does not: 1 − σ of a saturated gate for σ(−z),
say, or long sums that cancel. Such rounding is taken out of what was given, entry by entry, and
what remains is judged as everything else is:

    (1)  remains = given − clip(given − clean, ±cap),
         cap = CAP · ε · scale

`clean` is the candidate's gradient without its rounding. There are two ways to it.

    wider     the same code in longdouble, whose roundoff is two thousand times smaller. A mistake
              is as large there. What is left of rounding is allowed for by 1/GONE of the largest
              own rounding.
    sampled   code that does not take longdouble, as torch's and jax's does not, is asked at
              N problems around this one, so far off that rounding falls anew (a
              millionth is not enough: sums lose the same small terms there), and so near that a
              mistake keeps its sign. Rounding averages out; the mean error that exceeds
              SURE · s/√N, s the standard deviation, is a mistake and stays in `clean`. An entry
              whose doubt is more than HIDDEN of the gradient is not excused.

`scale` is how large the gradient is where nothing is saturated: its largest entry at the problem
itself, and with variables scaled down, each alone and all together; but no more than the loss
changes when the variable changes by its own size. So a gate that has closed has the scale of an
open one, whose rounding it shows. Differences with a tiny step, states rebuilt by division, or a
guard of √ε have no such scale: their error stays, however it would shrink in longdouble. How many
digits are lost is told in either case.

Two things more are asked of an excuse. The candidate in float32 must be as near to the truth as
float32 explains: the frameworks' own error in it, and CAP of its roundoffs. And by the wider way it
must lose more in float32 than in float64: a mistake on a path that float64 alone takes is not
there. Only what "differs" is looked at again; what is all zero, not finite or of a wrong shape
stays what it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import Differentiable
from ..witnesses import tolerance
from ..witnesses.ask import Witnesses
from .judge import project
from .lost_digits import Way
from .verdict import Reason, Verdict

WIDER = 1000.0  # how many times finer longdouble must be
GONE = 128.0  # what is left of rounding in longdouble: 1/2048, and a factor for luck
AROUND = 3  # steps to either side over which a step's own rounding is looked at
CAP = 1e3  # roundoffs of the scale
SURE = 5.0  # standard deviations of a mean
HIDDEN = 1e-10  # of a gradient's largest entry: a mistake that neighbours may leave unseen


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
    answer = asked_in(wide, problem, candidate)
    if answer is None:
        return None
    kept = any(value.dtype == wide for value in answer.gradients.values())
    return answer if kept else None


def in_single(problem: Differentiable, candidate: Candidate) -> Answer | None:
    """What the candidate answers in float32; None where it cannot be asked."""
    return asked_in(np.float32, problem, candidate)


def asked_in(dtype: Any, problem: Differentiable, candidate: Candidate) -> Answer | None:
    """What the candidate answers in that precision; None where it does not take it."""
    try:
        return candidate.answer(problem.astype(dtype))
    except Exception:  # it does not take that precision: the verdict in float64 stands
        return None


@dataclass(frozen=True)
class Clean:
    """A candidate's answer without its own rounding.

    answer   in float64
    doubt    noise of what is left in it
    apart    how far it is from what was given
    """

    way: Way
    answer: Answer
    doubt: tolerance.Noise
    apart: tolerance.Noise


def as_told(answer: Answer, told: Answer) -> Answer:
    """The answer along the directions along which the other is told."""
    gradients = dict(answer.gradients)
    for name, directions in told.directions.items():
        if name in gradients and gradients[name].shape == directions.shape[1:]:
            gradients[name] = project(gradients[name], directions)
    return replace(answer, gradients=gradients)


def error_of(answer: Answer, truth: Answer) -> Answer:
    """How far the one is from the other, entry by entry, with its sign."""
    differences: list[dict[str, Array]] = []
    for mine, theirs in ((answer.gradients, truth.gradients), (answer.steps, truth.steps)):
        found: dict[str, Array] = {}
        for name, value in mine.items():
            if name in theirs and value.shape == theirs[name].shape:
                found[name] = value - theirs[name]
        differences.append(found)
    gradients, steps = differences
    return Answer(0.0, gradients, steps=steps)


def all_means_kept(
    given: Mapping[str, Array], expected: Mapping[str, Array], errors: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """`_mean_kept` of everything whose errors are told."""
    kept = dict(given)
    for name in errors[0]:
        sample = np.stack([each[name] for each in errors])
        kept[name] = _mean_kept(given[name], expected[name], sample)
    return kept


def _mean_kept(given: Array, expected: Array, errors: Array) -> Array:
    """What was given without its rounding: what is expected, and the mean error as far as it is
    sure.

    errors: (N, …). An entry whose mean is too doubtful stays as it was given.
    """
    mean, deviation = errors.mean(axis=0), errors.std(axis=0, ddof=1)
    doubt = SURE * deviation / math.sqrt(len(errors))
    sure = np.sign(mean) * np.maximum(np.abs(mean) - doubt, 0.0)
    seen = doubt <= HIDDEN * np.max(np.abs(expected), initial=0.0)
    return np.where(seen, expected + sure, given)


def caps(scales: tolerance.Noise) -> tolerance.Noise:
    """The largest rounding that is excused."""
    most = CAP * tolerance.epsilon(np.float64)
    total = {name: most * value for name, value in scales.total.items()}
    return replace(scales, total=total, steps={n: most * v for n, v in scales.steps.items()})


def left(apart: tolerance.Noise, answer: Answer) -> tolerance.Noise:
    """1/GONE of the rounding: of the whole, and of a step that of the steps around it by their own
    size, since a single one may have lost little by luck.
    """
    total = {name: value / GONE for name, value in apart.total.items()}
    steps: dict[str, Array] = {}
    for name, lost in apart.steps.items():
        shares = answer.steps.get(name)
        if shares is None or len(shares) != len(lost):
            steps[name] = lost / GONE
            continue
        sizes = np.abs(shares).reshape(len(shares), -1).max(axis=1, initial=0.0)
        relative = np.divide(lost, sizes, out=np.zeros_like(lost), where=sizes > 0)
        around = np.pad(relative, AROUND, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, 2 * AROUND + 1)
        steps[name] = np.maximum(lost, windows.max(axis=1) * sizes) / GONE
    return replace(apart, total=total, steps=steps)


def relieved(given: Answer, clean: Clean, caps: tolerance.Noise) -> tuple[Answer, tolerance.Noise]:
    """(1), and the noise of what remains."""
    gradients: dict[str, Array] = {}
    for name, value in given.gradients.items():
        taken = value - clean.answer.gradients.get(name, value)
        gradients[name] = value - _clipped(taken, np.asarray(caps.total.get(name, 0.0)))
    steps: dict[str, Array] = {}
    for name, value in given.steps.items():
        taken = value - clean.answer.steps.get(name, value)
        cap = caps.steps.get(name, np.zeros(len(value)))
        steps[name] = value - _clipped(taken, cap.reshape(-1, *([1] * (value.ndim - 1))))
    total = {n: min(v, caps.total.get(n, 0.0) / GONE) for n, v in clean.doubt.total.items()}
    shares: dict[str, Array] = {}
    for name, value in clean.doubt.steps.items():
        cap = caps.steps.get(name)
        shares[name] = np.zeros_like(value) if cap is None else np.minimum(value, cap / GONE)
    relieved = replace(given, gradients=gradients, steps=steps)
    return relieved, replace(clean.doubt, total=total, steps=shares)


def _clipped(value: Array, cap: Array) -> Array:
    return np.minimum(np.maximum(value, -cap), cap)


def added(noise: tolerance.Noise, doubt: tolerance.Noise) -> tolerance.Noise:
    """The noise by which a gradient is judged that is in doubt by so much itself."""
    share = 1 / noise.limit
    total = {
        name: level + share * doubt.total.get(name, 0.0) for name, level in noise.total.items()
    }
    steps: dict[str, Array] = {}
    for name, level in noise.steps.items():
        steps[name] = level + share * doubt.steps.get(name, 0.0)
    return replace(noise, total=total, steps=steps)


def excused(row: Verdict, clean: Clean, witnesses: Witnesses, excused: set[str]) -> Verdict:
    """The row with the candidate's own rounding as its noise, where that is excused."""
    if row.kind is not Reason.DIFFERS or row.gradient not in excused:
        return row
    level = max(clean.apart.total[row.gradient], witnesses.noise.total.get(row.gradient, 0.0))
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
