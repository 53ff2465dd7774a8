"""Central differences of high order with an adaptive step and an error estimate.

scipy.differentiate on NumPy code.

Needs nothing of the function but its value. Small variables are differentiated entry by entry;
larger ones along random directions of ±1, whose inner products with the gradient are told instead.
What differences cannot see: an error below their own uncertainty (given with every result), and,
along directions, which entry is wrong.

At a kink (relu or |x| at 0, a tie of max) central differences converge, to the middle of the
derivatives from the right and from the left, with an error estimate of zero: what does not converge
tells no kinks. Second differences do,

    (f(h) − 2 f(0) + f(−h)) / h  →  f″ h where f is smooth, at a kink the gap of the slopes   (1)

at the cost of four more values a derivative. Where (1) does not shrink with h, one-sided
differences settle it; half the gap is then told beside the middle, for any number between is what
some convention chooses. Where f is smooth nothing changes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import differentiate

from ..arrays import Array, Arrays, Named

Value = Callable[[Arrays], Any]

ENTRIES = 80  # up to this size every entry, above it random directions
DIRECTIONS = 16
# The h of (1) in steps, and by how much it shrinks: a kink nearer than h / SHRINK counts as one.
NEAR, SHRINK = (
    1e-4,
    8.0,
)
SAFETY = 10.0  # the estimate is a difference between two orders: no bound


def lines(variable: Array, seed: int) -> Array | None:
    """None for entry by entry, or the random directions (DIRECTIONS, shape)."""
    if variable.size <= ENTRIES:
        return None
    return np.random.default_rng([seed, variable.size]).choice(
        (-1.0, 1.0), size=(DIRECTIONS, *variable.shape)
    )


def units(variable: Array) -> Array:
    """The unit vectors (size, shape)."""
    return np.eye(variable.size).reshape(variable.size, *variable.shape)


def gradients(
    value: Value, variables: Named, seed: int
) -> tuple[float, Arrays, Arrays, dict[str, float], Arrays]:
    """(value, gradients, directions, uncertainty, kinks), the last four by variable.

    For a gradient its inner products along directions may stand; the uncertainty is absolute.

    The last: half the gap between the one-sided derivatives, in the shape of what is found; only
    where there is a kink.
    """
    point = {name: np.array(variable) for name, variable in variables.items()}
    found: Arrays = {}
    directions: Arrays = {}
    uncertainty: dict[str, float] = {}
    kinks: Arrays = {}
    for name, variable in point.items():
        chosen = lines(variable, seed)
        along = units(variable) if chosen is None else chosen
        slopes = [_slope(value, point, name, direction) for direction in along]
        derivatives, gaps = (np.array([slope[part] for slope in slopes]) for part in (0, 2))
        found[name] = derivatives.reshape(variable.shape) if chosen is None else derivatives
        uncertainty[name] = SAFETY * max(slope[1] for slope in slopes)
        if chosen is not None:
            directions[name] = chosen
        if gaps.any():
            kinks[name] = (
                gaps.reshape(variable.shape)
                if chosen is None
                else _of_all_entries(value, point, name, len(gaps))
            )
    return float(value(point)), found, directions, uncertainty, kinks


def _line(value: Value, point: Arrays, name: str, direction: Array) -> tuple[Any, float]:
    """(the function along the direction, the step of differences)."""

    def along(distance: Array) -> Array:
        values = [
            float(value({**point, name: point[name] + d * direction})) for d in np.ravel(distance)
        ]
        return np.array(values).reshape(np.shape(distance))

    return along, 0.1 * max(1.0, float(np.max(np.abs(point[name] * (direction != 0)))))


def _slope(value: Value, point: Arrays, name: str, direction: Array) -> tuple[float, float, float]:
    """(derivative along the direction, its estimated error, half the gap where there is a kink)."""
    along, step = _line(value, point, name, direction)
    told = value(point)
    middle = float(told)
    rounding = _epsilon(told) * abs(middle) / step
    if _gap(along, step, middle):
        (right, right_error), (left, left_error) = (
            _derivative(along, step / 16, side) for side in (1, -1)
        )
        error = max(right_error, left_error) + 16 * rounding
        if abs(right - left) > 2 * SAFETY * error:
            return (right + left) / 2, error, abs(right - left) / 2
    derivative, error = _derivative(along, step, 0)
    return derivative, error + rounding, 0.0


def _epsilon(told: Any) -> float:
    """The spacing of numbers above 1 in the precision of a value, which may be less than double."""
    dtype = getattr(told, "dtype", np.dtype(np.float64))
    low = dtype in (np.dtype(np.float16), np.dtype(np.float32))
    return float(np.finfo(dtype if low else np.float64).eps)


def _derivative(along: Any, step: float, side: int) -> tuple[float, float]:
    """(derivative at 0, its estimated error): central, or from the right (1) or the left (−1)."""
    with np.errstate(all="ignore"):
        options: dict[str, Any] = {
            "initial_step": step,
            "maxiter": 8,
            "tolerances": {"rtol": 1e-13, "atol": 0.0},
        }
        result = differentiate.derivative(along, 0.0, step_direction=side, **options)
    return float(result.df), float(result.error)


def _gap(along: Any, step: float, middle: float) -> float:
    """(1), where it does not shrink with h and is more than rounding; else 0."""
    wide = NEAR * step
    sides = along(np.array([wide, -wide, wide / SHRINK, -wide / SHRINK]))
    far, near = (
        (sides[0] - 2 * middle + sides[1]) / wide,
        (sides[2] - 2 * middle + sides[3]) / (wide / SHRINK),
    )
    rounding = 16 * np.finfo(np.float64).eps * abs(middle) / (wide / SHRINK)
    return abs(float(near)) if abs(near) > max(rounding, abs(far) / 4) else 0.0


def _of_all_entries(value: Value, point: Arrays, name: str, count: int) -> Array:
    """Half the gaps of all entries together, for each of so many directions.

    Kinks up and down do not cancel in it.
    """
    middle = float(value(point))
    gaps = [_gap(*_line(value, point, name, unit), middle) for unit in units(point[name])]
    return np.full(count, sum(gaps) / 2)
