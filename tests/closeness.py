"""How far an array is from what it should be, judged so that nothing can hide: no absolute
tolerance, and NaN never agrees.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

ROUNDING = 1e-12


def relative_error(found: npt.ArrayLike, expected: npt.ArrayLike, *, separately: int = 0) -> float:
    """max |found − expected| / max |expected|, the worst over the leading `separately` axes, each
    index by its own norm.

    It is infinite where zeros are expected and not found, and NaN, neither small nor large, where
    anything is not finite.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{found.shape} is not {expected.shape}"
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("nan")
    return float(np.max([_relative(f, e) for f, e in _parts(found, expected, separately)]))


def _parts(found: npt.NDArray[Any], expected: npt.NDArray[Any], separately: int) -> Any:
    leading = expected.shape[:separately]
    return ((found[index], expected[index]) for index in np.ndindex(leading))


def _relative(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    error, norm = float(np.max(np.abs(found - expected))), float(np.max(np.abs(expected)))
    if norm == 0:
        return float("inf") if error > 0 else 0.0
    return error / norm
