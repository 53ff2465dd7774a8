"""Where a function stands at a kink, and which of its branches it takes.

A kink is a comparison, a maximum or an absolute value of numbers that are tied. A branch is what a
comparison chooses, in `where` or in an `if`: the derivative of one that no number takes is not
seen. Both are noticed by arrays that watch what is done with them.
"""

import linecache
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np

from ..problems.arrays import Array, of_numpy_itself
from ..user_code import STDLIB, is_own

TIE = 16  # units in the last place within which two numbers are tied


@dataclass(frozen=True)
class Place:
    """Where in a user's code two numbers are compared: the line, and which comparison of it."""

    file: str
    line: int
    instruction: int
    operation: str

    @property
    def code(self) -> str:
        """The line itself."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def at(self) -> str:
        """'my_cell.py:14'."""
        return f"{Path(self.file).name}:{self.line}"

    @property
    def named(self) -> str:
        """'my_cell.py:14: the line', or without the line where it is not known."""
        return f"{self.at}: {self.code}" if self.code else self.at


@dataclass(frozen=True)
class Branch:
    """A branch that no number took.

    where     'my_cell.py:14: the line'
    untaken   what was never the case
    times     how many numbers were compared
    """

    where: str
    untaken: str
    times: int

    def sentence(self) -> str:
        """One line for a person."""
        return f"{self.where}: {self.untaken} 0 of {self.times} times, nothing is known of it"


def in_order(each: tuple[Place, bool]) -> tuple[str, int, int, bool]:
    """Where a branch stands in the code."""
    place, outcome = each
    return place.file, place.line, place.instruction, outcome


@dataclass
class Log:
    """What was noticed.

    ties    descriptions of kinks
    taken   by place: how often the comparison was true, and how often it was false
    """

    ties: list[str] = field(default_factory=list[str])
    taken: dict[Place, tuple[int, int]] = field(default_factory=dict[Place, tuple[int, int]])

    def add(self, place: Place, true: int, false: int) -> None:
        """Count so many numbers more."""
        before = self.taken.get(place, (0, 0))
        self.taken[place] = before[0] + true, before[1] + false

    def untaken(self) -> set[tuple[Place, bool]]:
        """(place, what the comparison never was)."""
        found: set[tuple[Place, bool]] = set()
        for place, (true, false) in self.taken.items():
            if not true:
                found.add((place, True))
            if not false:
                found.add((place, False))
        return found

    def branches(self, left: Iterable[tuple[Place, bool]]) -> list[Branch]:
        """Those of the branches in words, in the order of the code."""
        found: list[Branch] = []
        for place, outcome in sorted(left, key=in_order):
            when_true, when_false = OUTCOMES[place.operation]
            times = sum(self.taken.get(place, (0, 0)))
            found.append(Branch(place.named, when_true if outcome else when_false, times))
        return found


class Watched(np.ndarray[Any, Any]):
    """An array that notices comparisons, max, min and abs: of numbers that are tied, and which way
    they went.

    What is computed from it is watched too.
    """

    log: Log

    def __array_finalize__(self, obj: Any) -> None:
        log = getattr(obj, "log", None)
        self.log = Log() if log is None else log

    def __getitem__(self, index: Any) -> Any:
        """The entries, watched; a single one too."""
        return watch(super().__getitem__(_plain(index)), self.log)

    def item(self, *args: Any) -> Any:
        """A single number, watched if it is a floating-point one."""
        number = super().item(*args)
        return watch(np.float64(number), self.log) if isinstance(number, float) else number

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """The plain result, watched; ties noted."""
        plain = [_plain(value) for value in inputs]
        if kwargs.get("out"):
            kwargs["out"] = tuple(_plain(value) for value in kwargs["out"])
        if method == "__call__" and ufunc.__name__ in KINKS:
            self._note(ufunc.__name__, plain)
        if method == "__call__" and ufunc.__name__ == "clip":
            self._note_clip(plain[0], plain[1], plain[2])
        if method == "reduce" and ufunc.__name__ in ("maximum", "minimum"):
            self._note_reduction(ufunc.__name__, np.asarray(plain[0]), kwargs.get("axis"))
        return watch(getattr(ufunc, method)(*plain, **kwargs), self.log)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The plain result, watched; what the functions choose that ask for it in NumPy's own code
        is noted.
        """
        del types
        if func in REDUCTIONS:
            positional = args[1] if len(args) > 1 else None
            axis = kwargs.get("axis", positional)
            self._note_reduction(REDUCTIONS[func], np.asarray(_plain(args[0])), axis)
        if func is np.clip:
            bounds = [*args[1:3], None, None][:2]
            lower, upper = (
                next((kwargs[name] for name in names if name in kwargs), bound)
                for names, bound in zip(BOUNDS, bounds, strict=True)
            )
            self._note_clip(_plain(args[0]), _plain(lower), _plain(upper))
        return watch(func(*_plain(args), **_plain(kwargs)), self.log)

    def _note_clip(self, value: Any, lower: Any, upper: Any) -> None:
        if lower is not None:
            self._note("maximum", [value, lower], "below")
        if upper is not None:
            self._note("minimum", [value, upper], "above")

    def _note(self, name: str, values: list[Any], counted_as: str | None = None) -> None:
        """Note two numbers that are equal to within some units in the last place, and which of two
        is the larger.
        """
        one = np.asarray(values[0])
        two = len(values) > 1 and name != "heaviside"
        other = np.asarray(values[1]) if two else np.zeros(())
        if one.dtype.kind not in "fiu" or other.dtype.kind not in "fiu":
            return
        dtype = np.result_type(one, other)
        if dtype.kind != "f":
            return
        one = one.astype(dtype)  # a whole number may come first: maximum(0, z)
        self._count(counted_as or name, one, other)
        self._note_tie(name, one, other)

    def _count(self, name: str, one: Array, other: Array) -> None:
        place = _place_in_user_code(name)
        if place is not None:
            true = ORDER[name](one, other)
            trues = int(np.count_nonzero(true))
            self.log.add(place, trues, int(np.size(true)) - trues)

    def _note_tie(self, name: str, one: Array, other: Array) -> None:
        scale = np.maximum(np.abs(one), np.abs(other))
        near = TIE * np.finfo(one.dtype).eps * scale
        if bool(np.any(np.abs(one - other) <= near)):
            place = _place_in_user_code(name)
            tie = KINKS[name] if place is None else f"{KINKS[name]} at {place.named}"
            if tie not in self.log.ties:
                self.log.ties.append(tie)

    def _note_reduction(self, name: str, value: Array, axis: Any) -> None:
        """Note a maximum or minimum that two entries share."""
        if value.dtype.kind != "f" or value.size < 2 or isinstance(axis, tuple):
            return
        if axis is None:
            value, axis = value.reshape(-1), -1
        ordered = np.sort(value, axis=axis)
        last_two = [-1, -2] if name == "maximum" else [0, 1]
        one, other = np.split(np.take(ordered, last_two, axis=axis), 2, axis=axis)
        self._note_tie(name, one, other)


BOUNDS = (("a_min", "min"), ("a_max", "max"))
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
    "fabs": "abs of zero",
    "sign": "sign of zero",
    "heaviside": "a step at zero",
    "greater": "a tie in a comparison (a relu at zero?)",
    "greater_equal": "a tie in a comparison (a relu at zero?)",
    "less": "a tie in a comparison (a relu at zero?)",
    "less_equal": "a tie in a comparison (a relu at zero?)",
}


# What is true of two numbers where the first branch is taken.
ORDER: dict[str, Callable[[Array, Array], Any]] = {
    "maximum": np.greater,
    "fmax": np.greater,
    "minimum": np.less,
    "fmin": np.less,
    "below": np.less,
    "above": np.greater,
    "absolute": np.less,
    "fabs": np.less,
    "sign": np.less,
    "heaviside": np.less,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
}
_FIRST_OR_SECOND = ("its first argument was chosen", "its second argument was chosen")
_SIGNS = ("a negative number was met", "a positive number was met")
_TRUTH = ("the comparison was true", "the comparison was false")
# Place.operation → what is said of the branch where it is true, and where it is false.
OUTCOMES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("maximum", "fmax", "minimum", "fmin"), _FIRST_OR_SECOND),
    **dict.fromkeys(("absolute", "fabs", "sign", "heaviside"), _SIGNS),
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal"), _TRUTH),
    "below": ("the lower bound of the clip was reached", "the lower bound was not reached"),
    "above": ("the upper bound of the clip was reached", "the upper bound was not reached"),
}


def watch(value: Any, log: Log) -> Any:
    """The value watched, if it is an array of numbers; containers from inside out."""
    if isinstance(value, tuple):
        items = cast(tuple[Any, ...], value)
        return tuple(watch(item, log) for item in items)
    if not isinstance(value, np.ndarray | np.floating):
        return value
    watched = np.asarray(value).view(Watched)  # pyright: ignore[reportUnknownArgumentType]
    watched.log = log
    return watched


def _plain(value: Any) -> Any:
    return of_numpy_itself(value, Watched)


def _place_in_user_code(operation: str) -> Place | None:
    """The innermost line within the watched run that belongs neither to an installed package nor
    to this one.
    """
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code is not watched_in.__code__:
        file = frame.f_code.co_filename
        if from_outside(file):
            return Place(file, frame.f_lineno, frame.f_lasti, operation)
        frame = frame.f_back
    return None


@lru_cache(maxsize=1024)
def from_outside(file: str) -> bool:
    """Whether a file of code belongs neither to an installed package nor to this one."""
    path = Path(file)
    if "site-packages" in path.parts or path.is_relative_to(STDLIB) or file.startswith("<frozen"):
        return False
    return not is_own(path)


Watch = Callable[[Array], Any]


def watched_in(run: Callable[[Watch, Log], Any]) -> Log:
    """What is noticed while `run(watched, log)` evaluates the function; `watched` turns an array
    into one that notices, in the log.

    A function that cannot be run on watched arrays has nothing noted.
    """
    log = Log()
    try:
        run(lambda value: watch(np.array(value), log), log)
    except Exception:
        return Log()
    return log


def ties_in(run: Callable[[Watch], Any]) -> list[str]:
    """The ties met while `run(watched)` evaluates the function."""
    return watched_in(lambda watched, _: run(watched)).ties
