"""Where a function stands at a kink: comparisons, maxima and absolute values of numbers that are
tied.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..problems.arrays import Array
from ..user_code import is_own

TIE = 16  # units in the last place within which two numbers are tied


class Watched(np.ndarray[Any, Any]):
    """An array that notices a comparison, max, min or abs of numbers that are tied.

    What is computed from it is watched too.
    """

    ties: list[str]

    def __array_finalize__(self, obj: Any) -> None:
        self.ties = getattr(obj, "ties", [])

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """The plain result, watched; ties noted."""
        plain = [_plain(value) for value in inputs]
        if kwargs.get("out"):
            kwargs["out"] = tuple(_plain(value) for value in kwargs["out"])
        if method == "__call__" and ufunc.__name__ in KINKS:
            self._note(ufunc.__name__, plain)
        if method == "reduce" and ufunc.__name__ in ("maximum", "minimum"):
            self._note_reduction(ufunc.__name__, np.asarray(plain[0]), kwargs.get("axis"))
        return watch(getattr(ufunc, method)(*plain, **kwargs), self.ties)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The plain result, watched; ties noted for the functions that ask for them in NumPy's own
        code.
        """
        del types
        if func in REDUCTIONS:
            positional = args[1] if len(args) > 1 else None
            axis = kwargs.get("axis", positional)
            self._note_reduction(REDUCTIONS[func], np.asarray(_plain(args[0])), axis)
        if func is np.clip:
            named = [kwargs[name] for name in BOUNDS if name in kwargs]
            for bound in (*args[1:3], *named):
                if bound is not None:
                    self._note("maximum", [_plain(args[0]), _plain(bound)])
        return watch(func(*_plain(args), **_plain(kwargs)), self.ties)

    def _note(self, name: str, values: list[Any]) -> None:
        """Note two numbers that are equal to within some units in the last place."""
        one = np.asarray(values[0])
        other = np.asarray(values[1]) if len(values) > 1 else np.zeros(())
        if one.dtype.kind != "f":
            return
        scale = np.maximum(np.abs(one), np.abs(other))
        near = TIE * np.finfo(one.dtype).eps * scale
        if bool(np.any(np.abs(one - other) <= near)):
            tie = f"{KINKS[name]}{_line_of_user()}"
            if tie not in self.ties:
                self.ties.append(tie)

    def _note_reduction(self, name: str, value: Array, axis: Any) -> None:
        """Note a maximum or minimum that two entries share."""
        if value.dtype.kind != "f" or value.size < 2 or isinstance(axis, tuple):
            return
        if axis is None:
            value, axis = value.reshape(-1), -1
        ordered = np.sort(value, axis=axis)
        last_two = [-1, -2] if name == "maximum" else [0, 1]
        one, other = np.split(np.take(ordered, last_two, axis=axis), 2, axis=axis)
        self._note(name, [one, other])


BOUNDS = ("a_min", "a_max", "min", "max")
REDUCTIONS: dict[Any, str] = {
    np.max: "maximum",
    np.amax: "maximum",
    np.min: "minimum",
    np.amin: "minimum",
}
KINKS = {
    "maximum": "a tie of maximum",
    "minimum": "a tie of minimum",
    "fmax": "a tie of fmax",
    "fmin": "a tie of fmin",
    "absolute": "abs of zero",
    "sign": "sign of zero",
    "greater": "a tie in a comparison (a relu at zero?)",
    "greater_equal": "a tie in a comparison (a relu at zero?)",
    "less": "a tie in a comparison (a relu at zero?)",
    "less_equal": "a tie in a comparison (a relu at zero?)",
}


def watch(value: Any, ties: list[str]) -> Any:
    """The value watched, if it is an array of numbers; containers from inside out."""
    if isinstance(value, tuple):
        items = cast(tuple[Any, ...], value)
        return tuple(watch(item, ties) for item in items)
    if not isinstance(value, np.ndarray | np.floating):
        return value
    watched = np.asarray(value).view(Watched)  # pyright: ignore[reportUnknownArgumentType]
    watched.ties = ties
    return watched


def _plain(value: Any) -> Any:
    if isinstance(value, Watched):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in cast(list[Any], value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        named = cast(dict[str, Any], value)
        return {key: _plain(item) for key, item in named.items()}
    return value


def _line_of_user() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "site-packages" not in path.parts and not is_own(path):
            return f" at {path.name}:{frame.lineno}: {frame.line}"
    return ""


def ties_in(run: Callable[[Callable[[Array], Any]], Any]) -> list[str]:
    """The ties met while `run(watched)` evaluates the function; `watched` turns an array into one
    that notices.

    A function that cannot be run on watched arrays has nothing noted.
    """
    ties: list[str] = []
    try:
        run(lambda value: watch(np.array(value), ties))
    except Exception:
        return []
    return ties
