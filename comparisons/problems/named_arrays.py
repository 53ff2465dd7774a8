"""Nested parameters as flat named arrays, and back.

People keep parameters as dicts, lists, tuples, lists of dicts, Python floats. `flatten` names
every leaf by its path, "layers[0].W"; `rebuild` puts values back into the shape of the original.
Strings, None, integers and whatever else is not a floating-point number stays where it is and is
no leaf to differentiate.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from .arrays import Array, is_real


def flatten(value: Any, path: str = "") -> dict[str, Array]:
    """{path: array} of every number or array in a nest of mappings, lists and tuples; of any
    dtype.
    """
    return dict(_leaves(value, path))


def repeated(value: Any) -> list[str]:
    """The paths that name more than one leaf, as "a.b" does in {"a": {"b": 1.0}, "a.b": 2.0}."""
    seen: dict[str, int] = {}
    for path, _ in _leaves(value, ""):
        seen[path] = seen.get(path, 0) + 1
    return [path for path, count in seen.items() if count > 1]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Array]]:
    if isinstance(value, Mapping):
        for key, item in cast(Mapping[Any, Any], value).items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast(Sequence[Any], value)):
            yield from _leaves(item, f"{path}[{index}]")
    elif isinstance(value, np.ndarray | np.generic | float | int) and not isinstance(value, bool):
        array = np.asarray(value)
        if array.dtype.kind in "ciub" or is_real(array.dtype):
            yield path, array


def rebuild(template: Any, values: Mapping[str, Any], path: str = "") -> Any:
    """`template` with the leaves that `values` names replaced; where a Python float stood, a NumPy
    value becomes one again.
    """
    if isinstance(template, Mapping):
        items = cast(Mapping[Any, Any], template).items()
        return {
            key: rebuild(item, values, f"{path}.{key}" if path else str(key)) for key, item in items
        }
    if isinstance(template, list):
        return _rebuilt_items(cast(list[Any], template), values, path)
    if isinstance(template, tuple):
        whole = cast(tuple[Any, ...], template)
        items = _rebuilt_items(whole, values, path)
        return type(whole)(*items) if hasattr(whole, "_fields") else tuple(items)
    if path not in values:
        return template
    value = values[path]
    return (
        cast(Any, value).item()
        if type(template) is float and type(value) is np.ndarray  # a subclass watches its use
        else value
    )


def _rebuilt_items(template: Sequence[Any], values: Mapping[str, Any], path: str) -> list[Any]:
    return [rebuild(item, values, f"{path}[{index}]") for index, item in enumerate(template)]


def is_differentiable(array: Array) -> bool:
    """Whether a gradient for it makes sense: real floating point."""
    return is_real(array.dtype)
