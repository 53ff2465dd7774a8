"""Hold one array against another, step by step, and say how far apart they are in units of rounding noise.

This module does not know who made the values. Everything is written so that NaN fails: a ratio passes only when it is
known to be at most the limit.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..problems.arrays import Array
from .verdict import Verdict


@dataclass(frozen=True)
class Yardstick:
    """noise of the whole tensor, or of every entry; of each step (first axis) if there are steps; the ratio allowed."""

    total: float | Array
    steps: Array | None
    limit: float


def ratios(error: Array, noise: Array | float) -> Array:
    """error / noise: no error is 0 whatever the noise, an error without noise is infinite, infinite noise explains nothing."""
    with np.errstate(all="ignore"):
        over = np.where(np.isfinite(noise), np.asarray(error, dtype=np.float64) / noise, np.nan)
    return np.where(error == 0, 0.0, over)


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
    return None


def compare(
    names: tuple[str, str],
    values: tuple[Array | None, Array],
    steps: tuple[Array | None, Array | None],
    yardstick: Yardstick,
    first_step: int = 1,
    reverse: bool = False,
) -> Verdict:
    """The verdict on values = (actual, expected) called names = (gradient, reference).

    `steps` are the shares of each step on both sides, first axis the step, its index 0 being step `first_step`; a side that does
    not tell them is None, and only the whole is judged. `reverse`: the run is backwards in time, and its way back forwards.
    """
    actual, expected = values
    reason, noise = reason_to_reject(actual, expected), _largest(np.asarray(yardstick.total))
    if actual is None or actual.shape != expected.shape:
        nan = math.nan
        return Verdict(*names, nan, nan, noise, nan, None, None, None, None, None, None, None, reason, False)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(actual - expected)
    over = ratios(error, yardstick.total)
    over_steps = _judge_steps(steps, yardstick)
    wrong = [] if over_steps is None else [t for t in range(len(over_steps)) if not over_steps[t] <= yardstick.limit]
    worst_step = None if over_steps is None else _largest(over_steps)
    if reason is None and not (_largest(over) <= yardstick.limit and (worst_step is None or worst_step <= yardstick.limit)):
        reason = "differs" if actual.any() else "all zero"
    worst = np.unravel_index(int(np.argmax(error)), error.shape) if error.size else None
    scale = _largest(np.abs(expected))
    return Verdict(
        *names,
        max_abs_error=_largest(error),
        max_rel_error=float(ratios(np.asarray(_largest(error)), scale)),
        noise=noise,
        error_over_noise=_largest(over),
        step_error_over_noise=worst_step,
        where=None if reason is None else where_wrong(~(over <= yardstick.limit)),
        wrong_steps=which_steps(wrong, len(over_steps), first_step) if wrong and over_steps is not None else None,
        worst_index=None if worst is None else [int(i) for i in worst],
        candidate_value=None if worst is None else float(actual[worst]),
        reference_value=None if worst is None else float(expected[worst]),
        first_wrong_step=wrong[0 if reverse else -1] + first_step if wrong else None,
        reason=reason,
        passed=reason is None,
    )


def _largest(values: Array) -> float:
    """max, 0 for nothing; NaN where there is one."""
    return float(np.max(values, initial=0.0))


def _judge_steps(steps: tuple[Array | None, Array | None], yardstick: Yardstick) -> Array | None:
    """Error over noise of each step; None where one side does not tell its steps."""
    actual, expected = steps
    if actual is None or expected is None or yardstick.steps is None:
        return None
    if actual.shape != expected.shape:
        return np.full(len(expected), math.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        return ratios(step_errors(actual, expected), yardstick.steps)


def which_steps(wrong: list[int], count: int, first_step: int) -> str:
    """The wrong steps in words: '3–9 of 1–12'; `wrong` are indices."""
    return f"{_runs([index + first_step for index in wrong])} of {_span(first_step, count - 1 + first_step)}"


def _runs(numbers: list[int]) -> str:
    """'0, 3–5', from 0, 3, 4, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(_span(run[0], run[-1]) for run in runs)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def where_wrong(wrong: Array) -> str | None:
    """The part of a matrix or vector that is wrong, where that is less than all: rows, columns, one of k blocks of rows."""
    if not 1 <= wrong.ndim <= 2 or wrong.all() or not wrong.any() or wrong.size < 2:
        return None
    rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
    if wrong.sum() == 1:
        return "one entry only"
    blocks = _blocks(rows, len(wrong))
    if len(rows) < len(wrong):
        return f"rows {_runs([int(row) for row in rows])} of {len(wrong)} only{blocks}"
    columns = np.flatnonzero(wrong.any(axis=0)) if wrong.ndim == 2 else rows
    if len(columns) < wrong.shape[-1]:
        return f"columns {_runs([int(column) for column in columns])} of {wrong.shape[-1]} only"
    return None


def _blocks(rows: Array, count: int) -> str:
    """' (block 2 of 4)', where the rows fall into one of 4 or 3 equal blocks, as gates stacked on the first axis do."""
    for gates in (4, 3):
        if count % gates == 0 and count > gates:
            touched = sorted({int(row) // (count // gates) for row in rows})
            if len(touched) == 1:
                return f" (block {touched[0] + 1} of {gates}, as gates are stacked)"
    return ""
