"""Which axis of an input is time: found by moving slices of it, where the layout is not declared.

The function is run in NumPy on arrays that note what is computed from them. Of an axis, the first
three slices are moved, one at a time, and the first two together. Of every number on the way,
and of the outputs,

    (1)  moved by slice i      it is another one, to the last bit, when slice i is moved
    (2)  mixed                 its change under slices 0 and 1 together is not the sum of its
                               changes under each: the mixed difference is beyond rounding

Steps are told by what they cannot move:

    (3)  aligned    an array has an axis as long, and its entry j is moved by slice i for j ≥ i
                    and for no j < i: what a step leaves behind, the later ones see
    (4)  a state    a number is mixed and not moved by slice 2: the first two steps have met, the
                    third is still to come

and the same the other way round for what is read from the last step to the first. Rows of a batch
never meet, or meet in a sum, which is not mixed; features meet all at once, in a product, so that
nothing is left for (4). An axis is time where (3), or (4), holds in one of the directions alone;
with less than three slices, or where neither holds, nothing is said of it.

An axis along which nothing is mixed has independent slices. The first of them besides time is
taken for the batch where a convention needs B, or a factor its name; it is never called rows.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from .. import user_code
from ..problems.arrays import Array, Arrays, is_real, is_tokens
from ..problems.axes import TIME, UNKNOWN, Layout

MOST_OPERATIONS = (100, 400)  # that are noted: at first, and where that was not enough
# How many entries along each axis are noted, by the number of axes.
ENTRIES = (1, 256, 24, 8, 6, 4, 4)
SLICES = 3
REACH = 4  # how many entries a slice has to move for (3), where there are as many
MOVE = 0.1  # by how much of their size entries are moved
MIXED = 4096.0  # units of rounding beyond which a mixed difference is one
MOST_OTHERS = 4  # inputs besides x that are looked at

Run = Callable[[Mapping[str, Array]], Mapping[str, Any]]


class _Enough(BaseException):
    """So many operations were noted that the run can end."""


@dataclass
class _Notes:
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
        value = np.asarray(result)  # pyright: ignore[reportUnknownArgumentType]
        if value.dtype.kind != "f" or value.ndim >= len(ENTRIES):
            return
        self.shapes.append(value.shape)
        self.corners.append(np.array(value[(slice(ENTRIES[value.ndim]),) * value.ndim]))
        if not outputs and len(self.shapes) >= self.most:
            self.cut = True
            raise _Enough


class _Noted(np.ndarray[Any, Any]):
    """An array that notes what is computed from it; that is noted, too."""

    notes: _Notes | None

    def __array_finalize__(self, obj: Any) -> None:
        self.notes = getattr(obj, "notes", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """The plain result, noted."""
        if kwargs.get("out"):
            kwargs["out"] = tuple(_plain(value) for value in kwargs["out"])
        return self._note(getattr(ufunc, method)(*_plain(inputs), **kwargs))

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


def _noted(value: Any, notes: _Notes | None) -> Any:
    if isinstance(value, tuple):
        return tuple(_noted(item, notes) for item in cast(tuple[Any, ...], value))
    if not isinstance(value, np.ndarray | np.floating):
        return value
    made = np.asarray(value).view(_Noted)  # pyright: ignore[reportUnknownArgumentType]
    made.notes = notes
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, _Noted):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in cast(list[Any], value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        named = cast(dict[str, Any], value)
        return {key: _plain(item) for key, item in named.items()}
    return value


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

    def notes(self, most: int, moved: Mapping[str, Array]) -> _Notes:
        """What is computed from the arrays, those of `moved` in place of their own.

        Nothing where the function cannot be run on such arrays.
        """
        notes = _Notes(most)
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
            return _Notes(most)
        finally:
            notes.over = True
        return notes


@dataclass(frozen=True)
class _Axis:
    """What moving the slices of an axis showed.

    direction     1 where it is time, −1 where it is time read from its end, else 0
    independent   whether nothing was mixed
    """

    direction: int = 0
    independent: bool = False


@dataclass(frozen=True)
class _Moves:
    """The runs in which slices of one array were moved, beside the one in which none was."""

    watch: Watch
    name: str
    base: _Notes

    def axis(self, axis: int) -> _Axis:
        """What the axis is."""
        size = self.watch.named[self.name].shape[axis]
        if size < 2:
            return _Axis(independent=True)
        first, second = self._moved(axis, [0]), self._moved(axis, [1])
        noted = _common(self.base, first, second)
        if not noted.base.size or not (noted.by(0) & noted.by(1)).any():
            return _Axis(independent=bool(noted.base.size))
        together = self._moved(axis, [0, 1])
        if size < SLICES or not (noted.by(0) ^ noted.by(1)).any():
            noted = _common(self.base, first, second, together)
            return _Axis(independent=not noted.mixed(0, 1, 2).any())
        noted = _common(self.base, first, second, self._moved(axis, [2]), together)
        independent = not noted.mixed(0, 1, 3).any()
        direction = noted.aligned(size)
        if direction is None:
            direction = self._by_states(axis, noted)
        return _Axis(direction, independent)

    def _by_states(self, axis: int, noted: "_Noting") -> int:
        """1, −1 or 0 by (4)."""
        first, second, third = noted.by(0), noted.by(1), noted.by(2)
        forward = bool((first & second & ~third).any())
        backward = bool((second & third & ~first).any())
        if forward == backward:
            return 0
        if forward:
            return int((noted.mixed(0, 1, 3) & ~third).any())
        noted = _common(*noted.runs[:4], self._moved(axis, [1, 2]))
        return -int((noted.mixed(1, 2, 3) & ~noted.by(0)).any())

    def _moved(self, axis: int, slices: Sequence[int]) -> _Notes:
        value = self.watch.named[self.name]
        mask = np.zeros(value.shape[axis], dtype=bool)
        mask[list(slices)] = True
        along = mask.reshape([-1 if at == axis else 1 for at in range(value.ndim)])
        moved = np.where(along, moved_entries(value), value).astype(value.dtype)
        return self.watch.notes(self.base.most, {self.name: moved})


def moved_entries(value: Array) -> Array:
    """Every entry moved: a float by up to a tenth of its size, a token to another that occurs."""
    rng = np.random.default_rng(value.size)
    if is_tokens(value):
        least, most = int(value.min()), int(value.max())
        return least + (value.astype(np.int64) - least + 1) % (most - least + 1)
    finite = value.astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(finite)))) or 1.0
    by = MOVE * rng.uniform(0.5, 1, value.shape) * rng.choice([-1.0, 1.0], value.shape)
    return finite + by * np.maximum(np.abs(finite), MOVE * size)


@dataclass(frozen=True)
class _Noting:
    """Runs that compute the same things: their numbers, as far as all have them.

    runs     first the one in which nothing is moved, then those in which slices are
    shapes   of the results that they have in common
    """

    runs: Sequence[_Notes]
    shapes: Sequence[tuple[int, ...]]

    @cached_property
    def count(self) -> int:
        """How many numbers they have in common."""
        return sum(corner.size for corner in self.runs[0].corners[: len(self.shapes)])

    @property
    def base(self) -> Array:
        """The numbers where nothing is moved."""
        return self.runs[0].numbers[: self.count]

    def moved(self, which: int) -> Array:
        """The numbers where the slices of one of the moves are."""
        return self.runs[1 + which].numbers[: self.count]

    def by(self, which: int) -> Array:
        """(1), entry by entry: whether a move makes it another number; NaN is NaN."""
        moved, base = self.moved(which), self.base
        return (moved != base) & ~(np.isnan(moved) & np.isnan(base))

    def mixed(self, one: int, other: int, both: int) -> Array:
        """(2), entry by entry, of two moves and the one that is both."""
        base, first, second, together = (
            self.base,
            *(self.moved(which) for which in (one, other, both)),
        )
        with np.errstate(all="ignore"):
            difference = np.abs(together - first - second + base)
            size = np.abs(base) + np.abs(first) + np.abs(second) + np.abs(together)
            return difference > MIXED * self._roundoff * size

    @cached_property
    def _roundoff(self) -> Array:
        """ε of every number's own precision."""
        each = self.runs[0].corners[: len(self.shapes)]
        epsilon = [float(np.finfo(corner.dtype).eps) for corner in each]
        return np.repeat(epsilon, [corner.size for corner in each])

    def aligned(self, size: int) -> int | None:
        """1 or −1 by (3), of the first three moves; 0 where arrays contradict each other, None
        where none has such an axis.
        """
        moves = [self.by(which) for which in range(SLICES)]
        told: set[int] = set()
        start = 0
        for corner, shape in zip(self.runs[0].corners, self.shapes, strict=False):
            here = slice(start, start + corner.size)
            start += corner.size
            for axis, length in enumerate(shape):
                if length == size:
                    by = [_along(move[here].reshape(corner.shape), axis) for move in moves]
                    told.add(_alignment(by))
        told.discard(0)
        return sum(told) if told else None


def _common(*runs: _Notes) -> _Noting:
    """The runs, with what they have in common from the start on."""
    shapes: list[tuple[int, ...]] = []
    for each in zip(*(run.shapes for run in runs), strict=False):
        if len(set(each)) > 1:
            break
        shapes.append(each[0])
    return _Noting(runs, shapes)


def _along(changed: Array, axis: int) -> Array:
    """Which entries along an axis hold a change."""
    others = tuple(at for at in range(changed.ndim) if at != axis)
    return changed.any(axis=others)


def _alignment(by: Sequence[Array]) -> int:
    """1 where slice i moves the entries j ≥ i, −1 where it moves those j ≤ i, and no others; else
    0.
    """
    forward = backward = True
    for index, changed in enumerate(by):
        after, before = changed[index : index + REACH], changed[: index + 1]
        forward = forward and bool(after.all()) and not changed[:index].any()
        backward = backward and bool(before.all()) and not changed[index + 1 :].any()
    return int(forward) - int(backward)


def layout_of(
    watch: Watch, inputs: Sequence[str], declared: Layout | None, in_steps: Sequence[str] = ()
) -> Layout:
    """What is known of the axes: what was declared, and what moving slices shows of the rest.

    `inputs` are the names of those among the arrays; where there are none, params of three axes
    and more are looked at. `in_steps`: inputs whose first axis is time by their contract.
    """
    if declared is not None and declared.size(TIME) is not None:
        return declared
    layout = declared or Layout()
    for name in in_steps:
        if name not in layout.letters and watch.named[name].ndim:
            layout = _with_time(layout, watch.named, name, _Found(0, 1))
    subjects = [name for name in _subjects(watch.named, inputs) if name not in layout.letters]
    for most in MOST_OPERATIONS:
        base = watch.notes(most, {})
        search = _Search(watch, base)
        found = search.layout(layout, subjects)
        if found.size(TIME) is not None:
            return found if search.repeats_itself() else layout
        if not base.cut:
            break
    return layout


def _subjects(named: Arrays, inputs: Sequence[str]) -> list[str]:
    """The arrays that may have a time axis, x first."""
    told = [name for name in inputs if named[name].ndim]
    if not told:
        told = [name for name, value in named.items() if value.ndim >= 3]
    if "x" in named and named["x"].ndim:
        return ["x", *(name for name in told if name != "x")]
    return told


@dataclass(frozen=True)
class _Found:
    """Which axis is time, and which way it is read."""

    axis: int
    direction: int


def _with_time(layout: Layout, named: Arrays, name: str, found: _Found) -> Layout:
    """The layout with the time axis of one more array."""
    letters: list[str] = [UNKNOWN] * named[name].ndim
    letters[found.axis] = TIME
    backwards = {name} if found.direction < 0 else set[str]()
    return replace(
        layout,
        letters={**layout.letters, name: tuple(letters)},
        shapes={**layout.shapes, name: named[name].shape},
        backwards=layout.backwards | backwards,
    )


@dataclass(frozen=True)
class _Search:
    """The search for time axes, beside one run in which nothing is moved."""

    watch: Watch
    base: _Notes
    seen: dict[tuple[str, int], _Axis] = field(default_factory=dict[tuple[str, int], _Axis])

    def layout(self, layout: Layout, subjects: Sequence[str]) -> Layout:
        """The layout with the time axes of these arrays, and B."""
        others = 0
        for name in subjects:
            steps = layout.size(TIME)
            if name != "x":
                others += 1
            if others > MOST_OTHERS or (name != "x" and "x" in subjects and steps is None):
                break
            found = self._time_axis(name, steps)
            if found is not None:
                layout = _with_time(layout, self.watch.named, name, found)
        return replace(layout, batch=self._batch(layout))

    def repeats_itself(self) -> bool:
        """Whether a second run without a move computes the same."""
        again = self.watch.notes(self.base.most, {})
        return not _common(self.base, again).by(0).any()

    def _time_axis(self, name: str, steps: int | None) -> _Found | None:
        """The one axis that is time; of this length, where one is known. None for two such."""
        found: list[_Found] = []
        for axis, size in enumerate(self.watch.named[name].shape):
            if size < SLICES or (steps is not None and size != steps):
                continue
            direction = self._axis(name, axis).direction
            if direction:
                found.append(_Found(axis, direction))
        return found[0] if len(found) == 1 else None

    def _axis(self, name: str, axis: int) -> _Axis:
        if (name, axis) not in self.seen:
            self.seen[name, axis] = _Moves(self.watch, name, self.base).axis(axis)
        return self.seen[name, axis]

    def _batch(self, layout: Layout) -> int | None:
        """The length of the first axis besides time whose slices are independent."""
        name = next((name for name in layout.letters if TIME in layout.of(name)), None)
        name = "x" if "x" in layout.letters else name
        if name is None:
            return None
        value = self.watch.named[name]
        if value.ndim < (2 if is_tokens(value) else 3):
            return None
        for axis, size in enumerate(value.shape):
            if axis != layout.axis(name, TIME) and self._axis(name, axis).independent:
                return size
        return None
