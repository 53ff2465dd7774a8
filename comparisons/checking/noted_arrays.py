"""Arrays that note what is computed from them: a corner of every result, in order.

Two runs of one function, on arrays of which some have moved, are then held against each other.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np

from .. import user_code
from ..problems.arrays import Array, Arrays, is_real, of_numpy_itself

# How many entries along each axis are noted, by the number of axes.
ENTRIES = (1, 256, 24, 8, 6, 4, 4)
CORNERS = tuple((slice(most),) * axes for axes, most in enumerate(ENTRIES))

Run: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Any]]


class _Enough(BaseException):
    """So many operations were noted that the run can end."""


@dataclass
class Notes:
    """What was computed in one run: a corner of every result, in order.

    What a run leaves behind in somebody's object may be computed with later: that is not noted.
    """

    most: int
    shapes: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    corners: list[Array] = field(default_factory=list[Array])
    cut: bool = False
    over: bool = False

    @cached_property
    def numbers(self) -> Array:
        """All entries of all corners, one after another; of a run that is over."""
        return np.concatenate([np.zeros(0), *(corner.ravel() for corner in self.corners)])

    def take(self, result: Any, outputs: bool = False) -> None:
        """Note the result. Raises _Enough after the last one that is wanted."""
        if isinstance(result, tuple):
            for each in cast(tuple[Any, ...], result):
                self.take(each, outputs)
            return
        if not isinstance(result, np.ndarray | np.floating):
            return
        value: Array = np.asarray(cast(Any, result))
        if value.dtype.kind != "f" or value.ndim >= len(ENTRIES):
            return
        self.shapes.append(value.shape)
        self.corners.append(value[CORNERS[value.ndim]].copy())
        if not outputs and len(self.shapes) >= self.most:
            self.cut = True
            raise _Enough


class _Noted(np.ndarray[Any, Any]):
    """An array that notes what is computed from it; that is noted, too."""

    notes: Notes | None

    def __array_finalize__(self, obj: Any) -> None:
        self.notes = getattr(obj, "notes", None)

    def __getitem__(self, key: Any) -> Any:
        """The part, noted even where NumPy makes a number of it."""
        part = super().__getitem__(key)
        return _noted(part, self.notes) if isinstance(part, np.floating) else part

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """The plain result, noted."""
        plain = [value.view(np.ndarray) if type(value) is _Noted else value for value in inputs]
        if kwargs.get("out"):
            kwargs["out"] = tuple(_plain(value) for value in kwargs["out"])
        return self._note(getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The plain result, noted unless its numbers are those that stood in memory before."""
        del types
        result = func(*_plain(args), **_plain(kwargs))
        return self._note(result, func is not np.empty_like)

    def _note(self, result: Any, computed: bool = True) -> Any:
        if self.notes is None or self.notes.over:
            return result
        if computed:
            self.notes.take(result)
        return _noted(result, self.notes)


def _noted(value: Any, notes: Notes | None) -> Any:
    if isinstance(value, tuple):
        return tuple(_noted(item, notes) for item in cast(tuple[Any, ...], value))
    if not isinstance(value, np.ndarray | np.floating):
        return value
    made = np.asarray(value).view(_Noted)  # pyright: ignore[reportUnknownArgumentType]
    made.notes = notes
    return made


def _plain(value: Any) -> Any:
    return of_numpy_itself(value, _Noted)


@dataclass(frozen=True)
class Watch:
    """A user's function, run on arrays some of which have moved.

    run(named) -> {path: output}   of named arrays
    role                           what the function is called in messages
    named                          all arrays, where they stand
    """

    role: str
    run: Run
    named: Arrays

    def notes(self, most: int, moved: Mapping[str, Array]) -> Notes:
        """What is computed from the arrays, those of `moved` in place of their own.

        Nothing where the function cannot be run on such arrays.
        """
        notes = Notes(most)
        watched: dict[str, Any] = {}
        for name, value in {**self.named, **moved}.items():
            copied = np.array(value)
            watched[name] = _noted(copied, notes) if is_real(copied.dtype) else copied

        def run() -> None:
            with contextlib.suppress(_Enough):
                for value in self.run(watched).values():
                    notes.take(_plain(value), outputs=True)

        try:
            user_code.call(self.role, run)
        except Exception:
            return Notes(most)
        finally:
            notes.over = True
        return notes
