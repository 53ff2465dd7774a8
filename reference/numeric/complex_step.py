"""Complex step: f′(a) = Im f(a + ih) / h with h = 1e-30, exact to rounding.

It runs NumPy code that follows complex numbers.

No difference is taken, so that nothing cancels (Squire and Trapp 1998, "Using complex variables to
estimate derivatives of real functions"). It needs an analytic function written in operations that
carry complex numbers through: abs, max, comparisons and conversions to float do not, and may be
silently wrong. Therefore the result is held against central differences before it is believed,
along one random direction; where they disagree, `DoesNotFollow` is raised.
"""

from typing import Any

import numpy as np

from ..arrays import Arrays, Named
from . import finite_difference
from .discarded import discarding_is_an_error
from .finite_difference import Value

STEP = 1e-30


class ComplexNumPy:
    """NumPy, with what it does not offer for complex numbers and what is analytic none the less."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def logaddexp(self, x: Any, y: Any) -> Any:
        """log(e^x + e^y), shifted by the larger real part."""
        shift = np.maximum(np.real(x), np.real(y))
        return shift + np.log(np.exp(x - shift) + np.exp(y - shift))


NAMESPACE = ComplexNumPy()


class DoesNotFollow(ValueError):
    """The function does not carry complex numbers through."""


def gradients(value: Value, variables: Named, seed: int) -> tuple[float, Arrays, Arrays]:
    """(value, gradient or inner products by variable, directions of the latter).

    Raises DoesNotFollow.
    """
    point = {name: np.array(variable) for name, variable in variables.items()}
    found: Arrays = {}
    directions: Arrays = {}
    for name, variable in point.items():
        chosen = finite_difference.lines(variable, seed)
        along = finite_difference.units(variable) if chosen is None else chosen
        slopes = np.array([_slope(value, point, {name: direction}) for direction in along])
        found[name] = slopes.reshape(variable.shape) if chosen is None else slopes
        if chosen is not None:
            directions[name] = chosen
    _believe(value, point, seed)
    return float(np.real(value(point))), found, directions


def _slope(value: Value, point: Arrays, directions: Arrays) -> float:
    moved = {name: point[name] + 1j * STEP * direction for name, direction in directions.items()}
    with discarding_is_an_error():
        try:
            result = np.asarray(value({**point, **moved}))
        except (TypeError, ValueError, Warning) as error:
            raise DoesNotFollow(
                f"the function does not carry complex numbers through ({error})"
            ) from error
    return float(np.imag(result).sum() / STEP)


def _believe(value: Value, point: Arrays, seed: int) -> None:
    """Raises DoesNotFollow where central differences along a random direction say otherwise.

    The direction is one over all variables.
    """
    rng = np.random.default_rng([seed, 3])
    directions = {
        name: rng.choice((-1.0, 1.0), size=variable.shape) for name, variable in point.items()
    }

    def along(distance: Arrays) -> Any:
        return value(
            {
                name: point[name] + distance["d"] * direction
                for name, direction in directions.items()
            }
        )

    _, differences, _, uncertainty, _ = finite_difference.gradients(
        along, {"d": np.zeros(())}, seed
    )
    slope = _slope(value, point, directions)
    if not abs(slope - float(differences["d"])) <= uncertainty["d"] + 1e-6 * abs(slope):
        both = (
            f"complex step gives {slope:.6g} where differences give {float(differences['d']):.6g}"
        )
        raise DoesNotFollow(f"{both}: some operation drops the imaginary part")
