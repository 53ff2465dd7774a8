"""Nested parameters as flat named arrays, and back.

People keep parameters as dicts, lists, tuples, lists of dicts, Python floats. `flatten` names
every leaf by its path, "layers[0].W"; `rebuild` puts values back into the shape of the original.
Tensors of torch and jax count as arrays. Strings, None, integers and whatever else is not a
floating-point number stays where it is and is no leaf to differentiate.

Two paths may read the same, "a.b" for the key "a.b" and for "b" within "a". The keys are then put
in quotes where they hold a dot or a bracket: "['a.b']".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from .arrays import Array, is_real
from .tensors import array_of, is_tensor

IN_PATHS = frozenset(".[]'")


@dataclass(frozen=True)
class Step:
    """One step down into a nest: a key of a mapping, or an index into a sequence."""

    key: Any
    is_index: bool = False

    def after(self, path: str, quoted: bool = False) -> str:
        """The path that goes on with it."""
        if self.is_index:
            return f"{path}[{self.key}]"
        name = str(self.key)
        if quoted and (not name or IN_PATHS & set(name)):
            return f"{path}[{name!r}]"
        return f"{path}.{name}" if path else name or repr(name)


Keys: TypeAlias = tuple[Step, ...]


def flatten(value: Any, path: str = "") -> dict[str, Array]:
    """{path: array} of every number or array in a nest of mappings, lists and tuples; of any
    dtype, in native byte order.
    """
    leaves = list(_arrays_in(value))
    names = _named([keys for keys, _ in leaves], path)
    return {names[keys]: array for keys, array in leaves}


def repeated(value: Any) -> list[str]:
    """The paths that name more than one leaf, as 1 and "1" do in {1: 1.0, "1": 2.0}."""
    seen: dict[str, int] = {}
    for name in names_in(value).values():
        seen[name] = seen.get(name, 0) + 1
    return [path for path, count in seen.items() if count > 1]


def names_in(value: Any, path: str = "") -> dict[Keys, str]:
    """The path of every number or array in a nest, by the keys that lead there."""
    return _named([keys for keys, _ in _arrays_in(value)], path)


def leaves_in(value: Any, path: str = "") -> dict[str, Any]:
    """{path: whatever stands there} of all that is neither a mapping nor a list or tuple."""
    leaves = list(items_in(value))
    names = _named([keys for keys, _ in leaves], path)
    return {names[keys]: leaf for keys, leaf in leaves}


def items_in(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """(keys, what stands there) of a nest."""
    if isinstance(value, Mapping):
        for key, item in cast(Mapping[Any, Any], value).items():
            yield from items_in(item, (*keys, Step(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast(Sequence[Any], value)):
            yield from items_in(item, (*keys, Step(index, is_index=True)))
    else:
        yield keys, value


def path_of(keys: Keys, path: str = "", quoted: bool = False) -> str:
    """The keys in words."""
    for step in keys:
        path = step.after(path, quoted)
    return path


def _named(every: list[Keys], path: str) -> dict[Keys, str]:
    """A path for each; in quotes where two would read the same."""
    plain = {keys: path_of(keys, path) for keys in every}
    if len(set(plain.values())) == len(plain):
        return plain
    names = list(plain.values())
    twice = {name for name in plain.values() if names.count(name) > 1}
    told: dict[Keys, str] = {}
    for keys, name in plain.items():
        told[keys] = path_of(keys, path, quoted=True) if name in twice else name
    return told


def _arrays_in(value: Any) -> Iterator[tuple[Keys, Array]]:
    for keys, item in items_in(value):
        array = as_leaf(item)
        if array is not None:
            yield keys, array


def as_leaf(value: Any) -> Array | None:
    """The array that a leaf of a nest is, in native byte order; None for what is none."""
    if is_tensor(value):
        array = array_of(value)
    elif isinstance(value, np.ndarray | np.generic | float | int) and not isinstance(value, bool):
        array = np.asarray(value)
    else:
        return None
    if array.dtype.kind not in "ciub" and not is_real(array.dtype):
        return None
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def rebuild(
    template: Any,
    values: Mapping[str, Any],
    path: str = "",
    names: Mapping[Keys, str] | None = None,
) -> Any:
    """`template` with the leaves that `values` names replaced; `names` are those of its leaves,
    where they are known.

    Where a Python number stood, a NumPy value becomes one again; an integer stays one.
    """
    known = names_in(template, path) if names is None else names
    return _rebuilt(template, values, known, ())


def _rebuilt(
    template: Any, values: Mapping[str, Any], names: Mapping[Keys, str], keys: Keys
) -> Any:
    if isinstance(template, Mapping):
        told: dict[Any, Any] = {}
        for key, item in cast(Mapping[Any, Any], template).items():
            told[key] = _rebuilt(item, values, names, (*keys, Step(key)))
        return told
    if isinstance(template, list | tuple):
        whole, items = cast(Sequence[Any], template), list[Any]()
        for index, item in enumerate(whole):
            items.append(_rebuilt(item, values, names, (*keys, Step(index, is_index=True))))
        if isinstance(template, list):
            return items
        return type(whole)(*items) if hasattr(whole, "_fields") else tuple(items)
    name = names.get(keys)
    if name is None or name not in values:
        return template
    value = values[name]
    if type(template) in (float, int) and type(value) is np.ndarray:  # a subclass watches its use
        return cast(Any, value).item()
    return template if type(template) is int else value


def is_differentiable(array: Array) -> bool:
    """Whether a gradient for it makes sense: real floating point."""
    return is_real(array.dtype)
