"""What a user put into params or inputs, before anything is made of it."""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from ..errors import BadContract, QuestionError
from ..problems.arrays import is_real
from ..problems.named_arrays import items_in, path_of
from ..problems.tensors import array_of, is_tensor
from ..user_code import describe

PLAIN = (np.ndarray, np.memmap)  # the classes of arrays that are nothing but numbers


def must_be_readable(what: str, given: Mapping[str, Any], of_numbers: bool | None = None) -> None:
    """Raises BadContract, naming the place, for an array that could only be misread.

    Masked arrays, matrices and others of a meaning of their own; names that cannot be printed;
    tensors without numbers. of_numbers: whether arrays of anything but numbers are refused, too;
    by default they are among params.
    """
    strict = what == "params" if of_numbers is None else of_numbers
    try:
        items = list(items_in(given))
        for keys, item in items:
            place = f"{what}: {path_of(keys)}"
            if not place.isprintable():
                raise BadContract(
                    f"{place[:80]!a}: a name holds a character that cannot be printed"
                )
            _must_be_clear(place, item)
            if strict:
                _must_be_numbers(place, item)
    except QuestionError:
        raise
    except RecursionError as error:
        raise BadContract(f"{what} is nested too deeply, or holds itself") from error
    except Exception as error:
        raise BadContract(f"{what} cannot be read: {describe(error)}") from error


def _must_be_clear(place: str, item: Any) -> None:
    if isinstance(item, np.ma.MaskedArray):
        raise BadContract(f"{place} is a masked array: fill it, and give its mask by itself")
    if isinstance(item, np.ndarray) and type(cast(Any, item)) not in PLAIN:
        kind = type(cast(Any, item)).__name__
        raise BadContract(f"{place} is a {kind}, not a plain array: give np.asarray(…) of it")
    if is_tensor(item):
        try:
            array_of(item)
        except Exception as error:
            raise BadContract(f"{place} has no numbers to read: {describe(error)}") from error


def _must_be_numbers(place: str, item: Any) -> None:
    """Of what looks like an array, and would else be passed by in silence."""
    if isinstance(item, np.ndarray | np.generic):
        dtype = cast(Any, item).dtype
        if dtype.kind not in "ciub" and not is_real(dtype):
            raise BadContract(f"{place} is an array of {dtype}: give it as floating-point numbers")
    elif not is_tensor(item) and _is_like_an_array(item):
        raise BadContract(f"{place} is a {type(item).__name__}: give it as a NumPy array")
    elif _may_hold_arrays(item):
        raise BadContract(
            f"{place} is a {type(item).__name__}: give its arrays in a dict or a list"
        )


def _is_like_an_array(item: Any) -> bool:
    if isinstance(item, type):
        return False
    return isinstance(item, array) or hasattr(item, "shape") or hasattr(item, "__array__")


def _may_hold_arrays(item: Any) -> bool:
    """Whether it is a collection that is not gone through, or an object that keeps arrays."""
    if isinstance(item, str | bytes | bytearray | range | type) or is_tensor(item):
        return False
    if isinstance(item, Iterable):
        return True
    own = getattr(item, "__dict__", None)
    held = cast(dict[str, Any], own).values() if isinstance(own, dict) else ()
    return not callable(item) and any(isinstance(each, np.ndarray) for each in held)
