"""Arrays under names: their types, read-only copies, and what makes two of them the same."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PRECISIONS = ("bfloat16", "float16", "float32", "float64")


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of real floating-point numbers; NumPy does not know bfloat16 for one."""
    return dtype.kind == "f" or dtype == BFLOAT16


def has_digits_of(value: Array, dtype: npt.DTypeLike) -> bool:
    """Whether every entry is a number of this dtype, and finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = value.astype(dtype).astype(value.dtype)
    return bool(np.all(np.isfinite(rounded) & (rounded == value)))


def finfo(dtype: npt.DTypeLike) -> Any:
    """NumPy's, which knows longdouble; for bfloat16, which it does not know, that of ml_dtypes."""
    known: Any = ml_dtypes if np.dtype(dtype) == BFLOAT16 else np
    return known.finfo(dtype)


def frozen(arrays: Mapping[str, Array]) -> Arrays:
    """The same arrays as read-only copies, under a read-only mapping."""
    copies: dict[str, Array] = {}
    for name, value in arrays.items():
        copies[name] = np.array(value)
        copies[name].setflags(write=False)
    return MappingProxyType(copies)


def same_arrays(one: Arrays, other: Arrays) -> bool:
    """Whether both have the same names, and under each the same numbers, bit by bit, of one dtype
    and in one memory order.
    """
    return one is other or (
        one.keys() == other.keys() and all(_same_array(one[name], other[name]) for name in one)
    )


def _same_array(one: Array, other: Array) -> bool:
    if (one.dtype, one.shape, one.strides) != (other.dtype, other.shape, other.strides):
        return False
    return one is other or one.tobytes() == other.tobytes()


def is_tokens(x: Array) -> bool:
    """Whether x holds integers."""
    return x.dtype.kind in "iu"


def of_numpy_itself(value: Any, kind: type[Array]) -> Any:
    """The arrays of a subclass as NumPy's own, however nested among arguments."""
    if isinstance(value, kind):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        items = [of_numpy_itself(item, kind) for item in cast(list[Any], value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        named = cast(dict[str, Any], value)
        return {key: of_numpy_itself(item, kind) for key, item in named.items()}
    return value
