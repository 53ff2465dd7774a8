"""Central differences of high order with an adaptive step and an error estimate: scipy.differentiate on NumPy code.

Needs nothing of the function but its value. Small variables are differentiated entry by entry; larger ones along random
directions of ±1, whose inner products with the gradient are told instead. What differences cannot see: an error below
their own uncertainty (given with every result), and, along directions, which entry is wrong.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import differentiate

Arrays = dict[str, npt.NDArray[Any]]
Value = Callable[[Arrays], Any]

ENTRIES = 80  # up to this size every entry, above it random directions
DIRECTIONS = 16
SAFETY = 10.0  # the estimate is a difference between two orders: no bound


def lines(variable: npt.NDArray[Any], seed: int) -> npt.NDArray[Any] | None:
    """None for entry by entry, or the random directions (DIRECTIONS, shape)."""
    if variable.size <= ENTRIES:
        return None
    return np.random.default_rng([seed, variable.size]).choice((-1.0, 1.0), size=(DIRECTIONS, *variable.shape))


def units(variable: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The unit vectors (size, shape)."""
    return np.eye(variable.size).reshape(variable.size, *variable.shape)


def gradients(value: Value, variables: Mapping[str, Any], seed: int) -> tuple[float, Arrays, Arrays, dict[str, float]]:
    """(value, gradient or inner products by variable, directions of the latter, absolute uncertainty by variable)."""
    point = {name: np.array(variable) for name, variable in variables.items()}
    found: Arrays = {}
    directions: Arrays = {}
    uncertainty: dict[str, float] = {}
    for name, variable in point.items():
        chosen = lines(variable, seed)
        along = units(variable) if chosen is None else chosen
        slopes = [_slope(value, point, name, direction) for direction in along]
        derivatives = np.array([derivative for derivative, _ in slopes])
        found[name] = derivatives.reshape(variable.shape) if chosen is None else derivatives
        uncertainty[name] = SAFETY * max(error for _, error in slopes)
        if chosen is not None:
            directions[name] = chosen
    return float(value(point)), found, directions, uncertainty


def _slope(value: Value, point: Arrays, name: str, direction: npt.NDArray[Any]) -> tuple[float, float]:
    """(derivative along the direction, its estimated error)."""

    def along(distance: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values = [float(value({**point, name: point[name] + d * direction})) for d in np.ravel(distance)]
        return np.array(values).reshape(np.shape(distance))

    step = 0.1 * max(1.0, float(np.max(np.abs(point[name] * (direction != 0)))))
    with np.errstate(all="ignore"):
        result = differentiate.derivative(along, 0.0, initial_step=step, maxiter=8, tolerances={"rtol": 1e-13, "atol": 0.0})
    rounding = np.finfo(np.float64).eps * abs(float(value(point))) / step
    return float(result.df), float(result.error) + rounding
