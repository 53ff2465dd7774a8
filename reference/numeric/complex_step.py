"""Complex step: f′(a) = Im f(a + ih) / h with h = 1e-30, exact to rounding.

It runs NumPy code that follows complex numbers.

No difference is taken, so that nothing cancels (Squire and Trapp 1998, "Using complex variables to
estimate derivatives of real functions"). It needs an analytic function written in operations that
carry complex numbers through: abs, norms, conjugates and real parts do not, and may be silently
wrong by any small share of the gradient; max and comparisons choose by the real parts, and do where
those are not tied. `Watched` arrays, which are what the function is given, see every operation of
NumPy's on them, and raise `DoesNotFollow` at one that is not analytic. What happens out of their
sight, conversions to float above all, is found out by holding the result against central
differences along one random direction, and `DoesNotFollow` raised where they disagree.
"""

from typing import Any

import numpy as np

from ..arrays import Arrays, Named
from . import finite_difference
from .discarded import discarding_is_an_error
from .finite_difference import Value

STEP = 1e-30


# What has no complex derivative, and what takes a part of the numbers.
NOT_ANALYTIC = frozenset(
    "absolute fabs conjugate conj sign signbit heaviside floor ceil rint trunc round around "
    "arctan2 hypot copysign real imag angle real_if_close norm matrix_norm vector_norm vdot "
    "vecdot vecmat cond svd svdvals eigh eigvalsh cholesky std var nanstd nanvar isclose "
    "allclose nan_to_num digitize histogram interp unwrap".split()
)
# What chooses among numbers, by their real parts: analytic where those are not tied.
COMPARISONS = frozenset("greater greater_equal less less_equal maximum minimum fmax fmin".split())


class Watched(np.ndarray[Any, Any]):
    """An array that lets analytic operations alone be done with its complex numbers."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """The ufunc's result, watched. Raises DoesNotFollow for one that is not analytic."""
        plain = [_plain(value) for value in inputs]
        _must_be_analytic(ufunc.__name__, plain)
        if "out" in kwargs:
            kwargs["out"] = tuple(_plain(value) for value in kwargs["out"])
        return _watched(getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The function's result, watched. Raises DoesNotFollow for one that is not analytic."""
        _must_be_analytic(func.__name__, _arrays_in((args, kwargs)))
        return super().__array_function__(func, types, args, kwargs)

    def __getitem__(self, index: Any) -> Any:
        """A part of it, single numbers included, watched."""
        return _watched(super().__getitem__(index))

    @property
    def real(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raises DoesNotFollow where the numbers are complex."""
        _must_be_analytic("real", [_plain(self)])
        return _plain(self).real

    @property
    def imag(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raises DoesNotFollow where the numbers are complex."""
        _must_be_analytic("imag", [_plain(self)])
        return _plain(self).imag


def _method(name: str) -> Any:
    def method(self: Watched, *args: Any, **kwargs: Any) -> Any:
        _must_be_analytic(name, [_plain(self)])
        return _watched(getattr(_plain(self), name)(*args, **kwargs))

    return method


for _name in (
    "max min argmax argmin argsort sort ptp clip conj conjugate round partition argpartition "
    "searchsorted sum mean prod std var dot cumsum cumprod trace item".split()
):
    if hasattr(np.ndarray, _name):
        setattr(Watched, _name, _method(_name))


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Watched) else value


def _watched(value: Any) -> Any:
    """The arrays and complex numbers of a result, watched."""
    if isinstance(value, np.complexfloating | complex):
        return np.asarray(value).view(Watched)
    if isinstance(value, np.ndarray) and value.dtype.kind == "c":
        return value.view(Watched)
    return value


def _arrays_in(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, list | tuple):
        return [array for item in value for array in _arrays_in(item)]
    if isinstance(value, dict):
        return [array for item in value.values() for array in _arrays_in(item)]
    return []


def _must_be_analytic(name: str, values: list[Any]) -> None:
    """Raises DoesNotFollow for an operation on complex numbers that has no complex derivative."""
    kinds = {getattr(value, "dtype", np.dtype(object)).kind for value in values}
    if "c" not in kinds:
        return
    if name in NOT_ANALYTIC:
        raise DoesNotFollow(f"{name} of complex numbers is not analytic")
    if name in COMPARISONS and len(values) == 2 and _are_tied(*values):
        raise DoesNotFollow(f"{name} of numbers that are tied has no derivative")


def _are_tied(one: Any, other: Any) -> bool:
    """Whether two numbers differ in their imaginary parts alone."""
    one, other = np.asarray(one), np.asarray(other)
    return bool(np.any((one.real == other.real) & (one.imag != other.imag)))


class ComplexNumPy:
    """NumPy, with what it does not offer for complex numbers and what is analytic none the less."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def logaddexp(self, x: Any, y: Any) -> Any:
        """log(e^x + e^y), shifted by the larger real part."""
        shift = np.maximum(np.real(_plain(x)), np.real(_plain(y)))
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
    moved: Arrays = {}
    for name, direction in directions.items():
        moved[name] = (point[name] + 1j * STEP * direction).view(Watched)
    with discarding_is_an_error():
        try:
            result = np.asarray(value({**point, **moved}))
        except DoesNotFollow as error:
            raise DoesNotFollow(
                f"the function does not carry complex numbers through ({error})"
            ) from error
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

    _, differences, _, uncertainty, *_ = finite_difference.gradients(
        along, {"d": np.zeros(())}, seed
    )
    slope = _slope(value, point, directions)
    if not abs(slope - float(differences["d"])) <= uncertainty["d"] + 1e-6 * abs(slope):
        both = (
            f"complex step gives {slope:.6g} where differences give {float(differences['d']):.6g}"
        )
        raise DoesNotFollow(f"{both}: some operation drops the imaginary part")
