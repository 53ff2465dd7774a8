"""Hold one array against another, step by step, and say how far apart they are in units of rounding noise.

This module does not know who made the values. Everything is written so that NaN fails: a ratio passes only when it is
known to be at most the limit.
"""

import math
from dataclasses import dataclass

import numpy as np

from comparisons.problem import Array
from comparisons.verdict import Verdict


@dataclass(frozen=True)
class Yardstick:
    """noise of the whole tensor (absolute), noise of each step (first axis) if there are steps, and the ratio allowed."""

    total: float
    steps: Array | None
    limit: float


def ratios(error: Array, noise: Array | float) -> Array:
    """error / noise, where no error is 0 whatever the noise, and an error without noise is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0, np.asarray(error, dtype=np.float64) / noise)


def step_errors(actual: Array, expected: Array) -> Array:
    """Largest absolute error within each index of the first axis: (T,)."""
    return np.abs(actual - expected).reshape(len(expected), -1).max(axis=1, initial=0.0)


def reason_to_reject(actual: Array | None, expected: Array) -> str | None:
    """What disqualifies a value before any tolerance is looked at, or None."""
    if actual is None:
        return "missing"
    if actual.shape != expected.shape:
        return f"wrong shape: {actual.shape} where {expected.shape} belongs,"
    if not np.isfinite(actual).all():
        return "not finite"
    if not np.isfinite(expected).all():
        return "not finite in the reference"
    if expected.any() and not actual.any():
        return "all zero"
    return None


def compare(
    names: tuple[str, str],
    values: tuple[Array | None, Array],
    steps: tuple[Array | None, Array | None],
    yardstick: Yardstick,
    first_step: int = 1,
) -> Verdict:
    """The verdict on values = (actual, expected) called names = (gradient, reference).

    `steps` are the shares of each step on both sides, first axis the step, its index 0 being step `first_step`; a side that does
    not tell them is None, and only the whole is judged.
    """
    actual, expected = values
    reason = reason_to_reject(actual, expected)
    if actual is None or actual.shape != expected.shape:
        nan = math.nan
        return Verdict(*names, nan, nan, yardstick.total, nan, None, None, None, None, None, reason, False)
    with np.errstate(invalid="ignore"):
        error = np.abs(actual - expected)
    over = ratios(error, yardstick.total)
    worst_step, first_wrong = _judge_steps(steps, yardstick, first_step)
    if reason is None and not (_largest(over) <= yardstick.limit and (worst_step is None or worst_step <= yardstick.limit)):
        reason = "differs"
    worst = np.unravel_index(int(np.argmax(error)), error.shape) if error.size else None
    scale = _largest(np.abs(expected))
    return Verdict(
        *names,
        max_abs_error=_largest(error),
        max_rel_error=float(ratios(np.asarray(_largest(error)), scale)),
        noise=yardstick.total,
        error_over_noise=_largest(over),
        step_error_over_noise=worst_step,
        worst_index=None if worst is None else [int(i) for i in worst],
        candidate_value=None if worst is None else float(actual[worst]),
        reference_value=None if worst is None else float(expected[worst]),
        first_wrong_step=first_wrong,
        reason=reason,
        passed=reason is None,
    )


def _largest(values: Array) -> float:
    """max, 0 for nothing; NaN where there is one."""
    return float(np.max(values, initial=0.0))


def _judge_steps(
    steps: tuple[Array | None, Array | None], yardstick: Yardstick, first_step: int
) -> tuple[float | None, int | None]:
    """(worst ratio of any step, number of the first step that is wrong when walking back from the last)."""
    actual, expected = steps
    if actual is None or expected is None or yardstick.steps is None:
        return None, None
    if actual.shape != expected.shape:
        return math.inf, None
    with np.errstate(invalid="ignore"):
        over = ratios(step_errors(actual, expected), yardstick.steps)
    wrong = [index for index in range(len(over)) if not over[index] <= yardstick.limit]
    return _largest(over), (wrong[-1] + first_step if wrong else None)
