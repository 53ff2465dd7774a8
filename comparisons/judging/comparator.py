"""Hold one array against another, step by step, in units of rounding noise.

This module does not know who made the values. Everything is written so that NaN fails: a ratio
passes only when it is known to be at most the limit.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..problems.arrays import Array
from ..problems.axes import TIME, UNKNOWN, Letters
from .verdict import Reason, Verdict
from .where import Where, WrongAxis, runs, span, where_wrong


@dataclass(frozen=True)
class Yardstick:
    """How far apart two arrays may be.

    total   noise of the whole tensor, or of every entry
    steps   noise of each step (first axis), where there are steps
    limit   how many times the noise an error may be
    rms     noise of the root mean square of all entries, in a lower precision than float64;
            infinite where it is told and not judged
    """

    total: float | Array
    steps: Array | None
    limit: float
    rms: float | None = None


@dataclass(frozen=True)
class Side:
    """What one side says of a quantity.

    whole    the array; None where it is missing
    shares   the share of each step in it, first axis the step; None where they are not told
    """

    whole: Array | None
    shares: Array | None = None


@dataclass(frozen=True)
class Walk:
    """How the steps of a quantity are numbered, and which way the walk back goes.

    first_step   the number of the step that index 0 of its shares stands for
    reverse      the run is backwards in time, and its way back forwards
    letters      what the axes of the whole stand for
    axis         along which of them its steps are, where that has to be said
    in_time      whether they are steps of time; they are slices along the axis otherwise
    """

    first_step: int = 1
    reverse: bool = False
    letters: Letters = ()
    axis: int | None = None
    in_time: bool = True

    def first_wrong(self, wrong: list[int]) -> int | None:
        """The number of the step at which the walk back first meets a wrong share.

        `wrong` are indices.
        """
        if not wrong:
            return None
        return self.first_step + (wrong[0] if self.reverse else wrong[-1])


def ratios(error: Array, noise: Array | float) -> Array:
    """error / noise: no error is 0 whatever the noise, an error without noise is infinite,
    infinite noise explains nothing.
    """
    with np.errstate(all="ignore"):
        over = np.asarray(error, dtype=np.float64) / noise
    over = np.where(np.isfinite(noise), over, np.nan)
    return np.where(error == 0, 0.0, over)


def step_errors(actual: Array, expected: Array) -> Array:
    """Largest absolute error within each index of the first axis: (T,)."""
    return np.abs(actual - expected).reshape(len(expected), -1).max(axis=1, initial=0.0)


def reason_to_reject(actual: Array | None, expected: Array) -> Reason | None:
    """What disqualifies a value before any tolerance is looked at, or None."""
    if actual is None:
        return Reason.MISSING
    if actual.shape != expected.shape:
        return Reason.WRONG_SHAPE
    if not np.isfinite(actual).all():
        return Reason.NOT_FINITE
    if not np.isfinite(expected).all():
        return Reason.NOT_FINITE_IN_REFERENCE
    return None


def compare(
    gradient: str,
    reference: str,
    actual: Side,
    expected: Side,
    yardstick: Yardstick,
    walk: Walk = Walk(),
) -> Verdict:
    """The verdict on what `actual` says of a gradient, held against what the reference says.

    Single steps are judged where both sides tell them; else the whole alone is.
    """
    mine, theirs = actual.whole, expected.whole
    assert theirs is not None
    kind = reason_to_reject(mine, theirs)
    noise = _largest(np.asarray(yardstick.total))
    if mine is None or mine.shape != theirs.shape:
        shapes = "" if mine is None else f": {mine.shape} where {theirs.shape} belongs,"
        return Verdict(gradient, reference, noise=noise, kind=kind, detail=shapes)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(mine - theirs)
    over = ratios(error, yardstick.total)
    worst = max(_largest(over), _rms_over_noise(error, yardstick))
    steps = _judge_steps(actual.shares, expected.shares, yardstick)
    wrong = _beyond(steps, yardstick.limit)
    if kind is None and (wrong or not worst <= yardstick.limit):
        kind = Reason.DIFFERS if mine.any() else Reason.ALL_ZERO
    verdict = Verdict(
        gradient,
        reference,
        max_abs_error=_largest(error),
        max_rel_error=_relative(error, theirs),
        noise=noise,
        error_over_noise=worst,
        rms_ratio=None if yardstick.rms is None else _rms_ratio(error, theirs),
        kind=kind,
    )
    if kind is not None:
        place = _place(~(over <= yardstick.limit), mine, theirs, yardstick, walk, bool(wrong))
        verdict = replace(verdict, where=place.words, axes=place.axes)
    verdict = replace(verdict, **_worst_entry(error, mine, theirs))
    return verdict if steps is None else replace(verdict, **_of_steps(steps, wrong, walk))


def _place(
    wrong: Array, mine: Array, theirs: Array, yardstick: Yardstick, walk: Walk, by_step: bool
) -> Where:
    """Where the whole is wrong; what the walk over steps says is not said twice."""
    allowed = np.asarray(yardstick.total) * yardstick.limit
    with np.errstate(invalid="ignore"):
        telling = np.maximum(np.abs(mine), np.abs(theirs)) > allowed
    told = [walk.letters.index(TIME)] if by_step and TIME in walk.letters else []
    return where_wrong(wrong, telling, walk.letters, told)


def _rms_over_noise(error: Array, yardstick: Yardstick) -> float:
    """The root mean square of the error over its noise; 0 where it is not judged."""
    if yardstick.rms is None or yardstick.rms == math.inf:
        return 0.0
    return float(ratios(np.asarray(_root_mean_square(error)), yardstick.rms))


def _rms_ratio(error: Array, theirs: Array) -> float:
    """‖given − true‖ / ‖true‖ by root mean square, as flash-linear-attention holds kernels to."""
    size = _root_mean_square(theirs)
    return float(ratios(np.asarray(_root_mean_square(error)), size))


def _root_mean_square(value: Array) -> float:
    """0 of no entries."""
    wide = np.asarray(value, dtype=np.float64)
    return math.sqrt(float(np.mean(np.square(wide)))) if wide.size else 0.0


def _relative(error: Array, theirs: Array) -> float:
    """The largest error over the reference's largest entry."""
    return float(ratios(np.asarray(_largest(error)), _largest(np.abs(theirs))))


def _worst_entry(error: Array, mine: Array, theirs: Array) -> dict[str, Any]:
    """Where the error is largest, and what both sides have there; nothing of an empty array."""
    if not error.size:
        return {}
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    return {
        "worst_index": [int(i) for i in worst],
        "candidate_value": float(mine[worst]),
        "reference_value": float(theirs[worst]),
    }


def _of_steps(over: Array, wrong: list[int], walk: Walk) -> dict[str, Any]:
    """The worst step or slice, and which are wrong."""
    told: dict[str, Any] = {"step_error_over_noise": _largest(over)}
    if not wrong:
        return told
    if not walk.in_time:
        return {**told, "wrong_slices": WrongAxis(walk.axis or 0, len(over), UNKNOWN, wrong)}
    return {
        **told,
        "wrong_steps": which_steps(wrong, len(over), walk.first_step),
        "first_wrong_step": walk.first_wrong(wrong),
        "step_axis": walk.axis,
    }


def _largest(values: Array) -> float:
    """max, 0 for nothing; NaN where there is one."""
    return float(np.max(values, initial=0.0))


def _beyond(over: Array | None, limit: float) -> list[int]:
    """The indices at which a ratio is not known to be within the limit."""
    if over is None:
        return []
    return [int(at) for at in np.flatnonzero(~(over <= limit))]


def _judge_steps(
    actual: Array | None, expected: Array | None, yardstick: Yardstick
) -> Array | None:
    """Error over noise of each step; None where one side does not tell its steps."""
    if actual is None or expected is None or yardstick.steps is None:
        return None
    if actual.shape != expected.shape:
        return np.full(len(expected), math.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        return ratios(step_errors(actual, expected), yardstick.steps)


def which_steps(wrong: list[int], count: int, first_step: int) -> str:
    """The wrong steps in words: '3–9 of 1–12'; `wrong` are indices."""
    numbers = [index + first_step for index in wrong]
    return f"{runs(numbers)} of {span(first_step, count - 1 + first_step)}"
