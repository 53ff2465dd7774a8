"""Differences of a function whose value is of a lower precision than float64, whatever its dtype.

Where float32 is computed with inside, the value jumps by its roundoff from one point to the next,
and a step that is right for float64 tells nothing but the jumps. How large they are is seen in a
table of differences (Hamming 1962; Moré and Wild 2011, "Estimating computational noise"): of k-th
differences of values at equal distances a smooth function leaves next to nothing, and independent
errors of variance σ² leave

    σ² = (k!)² / (2k)! · mean (Δᵏ f)²                                                    (1)

The derivative is then that step's whose two errors are smallest together (Moré and Wild 2012,
"Estimating derivatives of noisy functions"):

    |D₈(h) − D₆(h)|    what central differences of order 6 miss                          (2)
    σ √(2 Σ c²) / h    what the jumps make of D₈(h) = Σ c_j (f(jh) − f(−jh)) / h          (3)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array

Along = Callable[[Array], Any]

ORDER = 4  # k of (1)
POINTS = 9
# The distance of the points in steps of differences, and how often it grows where values repeat.
NEAR, GROWTH, TRIES = 1e-5, 32.0, 4
SHRINK = 8.0
ROUGH = 64.0  # roundoffs of float64 above which a value is of a lower precision
EIGHTH = np.array([4 / 5, -1 / 5, 4 / 105, -1 / 280])
SIXTH = np.array([3 / 4, -3 / 20, 1 / 60, 0.0])
STEPS = 2.0 ** np.arange(1, -6, -1)  # in steps of differences for float64
SIGMAS = 3.0  # of (3), within which (2) is nothing but jumps


@dataclass(frozen=True)
class Slope:
    """A derivative at 0, what is missed of it by (2), and the standard deviation of it by (3)."""

    value: float
    missed: float
    jumps: float


def jumps_of(along: Along, step: float) -> float:
    """σ of (1), where it is more than float64 explains; else 0.

    It is asked on either side of 0, where there may be a kink, and the smaller counts; and again at
    SHRINK times nearer points, where jumps are fewer and as large, or there are none, and what is
    smooth has shrunk by the fourth power.
    """
    return min(_jumps_on(along, side * step) for side in (1.0, -1.0))


def _jumps_on(along: Along, step: float) -> float:
    distance = NEAR * step
    for _ in range(TRIES):
        table = _tables(along, distance)
        if np.count_nonzero(np.diff(table)) >= table.size // 4:
            break
        distance *= GROWTH
    else:
        return 0.0
    nearer = _tables(along, distance / SHRINK)
    sigma = _sigma(table)
    stays = not np.diff(nearer).any() or _sigma(nearer) > sigma / SHRINK**2
    roundoff = float(np.finfo(np.float64).eps * np.max(np.abs(table)))
    return sigma if stays and sigma > ROUGH * roundoff else 0.0


def _tables(along: Along, distance: float) -> Array:
    """Values at equal distances, and at as many others: (2, POINTS).

    Of one distance the slope may be a whole number of the value's units, and no jump is seen.
    """
    places = np.arange(1, POINTS + 1)
    distances = distance * np.array([1.0, math.sqrt(2)])
    return np.stack([along(each * places) for each in distances])


def _sigma(table: Array) -> float:
    """σ of (1), the larger of the two."""
    kept = math.factorial(ORDER) ** 2 / math.factorial(2 * ORDER)
    with np.errstate(all="ignore"):
        of_order = np.mean(np.square(np.diff(table, ORDER)), axis=-1)
        return math.sqrt(kept * float(np.max(of_order)))


def slope(along: Along, step: float, sigma: float) -> Slope:
    """The derivative at 0 of a function whose values jump by σ."""
    found = [_slope_by(along, step * times, sigma) for times in STEPS]
    return min(found, key=lambda one: one.missed + one.jumps)


def _slope_by(along: Along, h: float, sigma: float) -> Slope:
    places = h * np.arange(1, len(EIGHTH) + 1)
    values = along(np.concatenate([places, -places]))
    apart = values[: len(places)] - values[len(places) :]
    eighth, sixth = float(EIGHTH @ apart) / h, float(SIXTH @ apart) / h
    of_both = sigma * math.sqrt(2 * float(np.sum((EIGHTH - SIXTH) ** 2))) / h
    missed = max(0.0, abs(eighth - sixth) - SIGMAS * of_both)
    if not math.isfinite(eighth):
        missed = math.inf
    return Slope(eighth, missed, sigma * math.sqrt(2 * float(np.sum(EIGHTH**2))) / h)
