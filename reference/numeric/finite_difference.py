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
some convention chooses. It is told of the entries that stand at the kink, and widens what is right
of those alone: random directions leave them out, and some of them are looked at by themselves.
Where f is smooth nothing changes. What looks like a kink, or does not converge, may be a value of
lower precision: larger steps then tell more, and reference.numeric's short_values takes them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import differentiate

from ..arrays import Array, Arrays, Named
from . import short_values

Value = Callable[[Arrays], Any]

ENTRIES = 80  # up to this size every entry, above it random directions
DIRECTIONS = 16
# The h of (1) in steps, and by how much it shrinks: a kink nearer than h / SHRINK counts as one.
NEAR, SHRINK = (
    1e-4,
    8.0,
)
# A kink that lies within the steps, though not at the point, keeps differences from converging:
# where the estimated error is a larger share of the derivative, they are taken with shorter steps.
POOR = 1e-6
SHORTER = (1 / 64, 1 / 1024)
SHORTENED = 256.0  # by how much the steps are shortened before they are given up
SAFETY = 10.0  # the estimate is a difference between two orders: no bound
DOUBTFUL = 1e-9  # of a derivative: differences of float64 values are nearer


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
) -> tuple[float, Arrays, Arrays, dict[str, float], Arrays, Arrays]:
    """(value, gradients, directions, uncertainty, kinks, kinked), the last five by variable.

    For a gradient its inner products along directions may stand; the uncertainty is absolute.

    kinks: half the gap between the one-sided derivatives, in the shape of what is found; kinked:
    the same of every entry, in the variable's shape. Both only where there is a kink.
    """
    point = {name: np.array(variable) for name, variable in variables.items()}
    found: Arrays = {}
    directions: Arrays = {}
    uncertainty: dict[str, float] = {}
    kinks: Arrays = {}
    kinked: Arrays = {}
    for name, variable in point.items():
        chosen = lines(variable, seed)
        along = units(variable) if chosen is None else chosen
        slopes = [_slope(value, point, name, direction) for direction in along]
        if chosen is not None and any(slope[2] for slope in slopes):
            kinked[name] = _of_entries(value, point, name)
            chosen = along = _beside_kinks(chosen, kinked[name])
            slopes = [_slope(value, point, name, direction) for direction in along]
        derivatives, gaps = (np.array([slope[part] for slope in slopes]) for part in (0, 2))
        found[name] = derivatives.reshape(variable.shape) if chosen is None else derivatives
        uncertainty[name] = SAFETY * max((slope[1] for slope in slopes), default=0.0)
        if chosen is not None:
            directions[name] = chosen
        if gaps.any():
            kinks[name] = gaps.reshape(variable.shape) if chosen is None else gaps
            kinked.setdefault(name, kinks[name])
    return float(value(point)), found, directions, uncertainty, kinks, kinked


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
        short = _slope_of_short_values(along, step)
        if short is not None:
            return *short, 0.0
        (right, right_error), (left, left_error) = (
            _derivative(along, step / 16, side) for side in (1, -1)
        )
        error = max(right_error, left_error) + 16 * rounding
        if abs(right - left) > 2 * SAFETY * error:
            return (right + left) / 2, error, abs(right - left) / 2
    derivative, error = _derivative(along, step, 0)
    if not error <= DOUBTFUL * max(abs(derivative), abs(middle) / step):
        short = _slope_of_short_values(along, step)
        if short is not None:
            derivative, error = short if not error <= short[1] else (derivative, error + rounding)
            return derivative, error, 0.0
    if error > POOR * abs(derivative) and error > POOR * _rise(along, step, middle):
        finer = _with_shorter_steps(along, step, rounding)
        if finer is not None and finer[1] < error:
            return *finer, 0.0
    return derivative, error + rounding, 0.0


def _rise(along: Any, step: float, middle: float) -> float:
    """How steep the function is within a step."""
    return abs(float(along(np.array([step]))[0]) - middle) / step


def _with_shorter_steps(along: Any, step: float, rounding: float) -> tuple[float, float] | None:
    """(derivative, its estimated error) by shorter steps; None where two lengths do not agree."""
    (one, its_error), (other, other_error) = (
        _derivative(along, step * shorter, 0) for shorter in SHORTER
    )
    rounded = SHORTENED * rounding / SHORTER[-1]
    doubt = its_error + other_error + rounded
    apart = abs(one - other)
    return (one, doubt + apart) if apart <= SAFETY * doubt else None


def _slope_of_short_values(along: Any, step: float) -> tuple[float, float] | None:
    """(derivative, its estimated error) where the values are of lower precision; else None.

    The jumps are measured, not estimated from two orders: they are counted once, not SAFETY times.
    """
    sigma = short_values.jumps_of(along, step)
    if not sigma:
        return None
    slope = short_values.slope(along, step, sigma)
    return slope.value, slope.missed + slope.jumps / SAFETY


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


def _of_entries(value: Value, point: Arrays, name: str) -> Array:
    """Half the gap of every entry, in the variable's shape."""
    middle = float(value(point))
    gaps = [_gap(*_line(value, point, name, unit), middle) for unit in units(point[name])]
    return np.reshape(gaps, point[name].shape) / 2


def _beside_kinks(directions: Array, half_gaps: Array) -> Array:
    """The directions without the entries at a kink, and with some of these by themselves."""
    smooth = np.where(half_gaps > 0, 0.0, directions)
    at_kink = np.argwhere(half_gaps > 0)
    alone = np.zeros((min(len(at_kink), DIRECTIONS), *half_gaps.shape))
    chosen = at_kink[np.linspace(0, len(at_kink) - 1, len(alone)).astype(int)]
    for number, entry in enumerate(chosen):
        alone[(number, *entry)] = 1.0
    return np.concatenate([smooth, alone]) if smooth.any() else alone
