"""Which axis of an input is time: found by moving slices of it, where the layout is not declared.

The function is run in NumPy on arrays that note what is computed from them. Of an axis, the first
three slices are moved, one at a time, and the first two together. Of every number on the way,
and of the outputs,

    (1)  moved by slice i      it is another one, to the last bit, when slice i is moved
    (2)  mixed                 its change under slices 0 and 1 together is not the sum of its
                               changes under each: the mixed difference is beyond rounding

Steps are told by what they cannot move:

    (3)  aligned    an array has one axis as long, and its entry j is moved by slice i for j ≥ i
                    and for no j < i: what a step leaves behind, the later ones see
    (4)  a state    a result is mixed, and nothing of it is moved by slice 2: the first two steps
                    have met, the third is still to come. It is another one when slices 0 and 1
                    change places, as a sum or a maximum is not; some result is moved by slice 0
                    alone, one by all three, and none by slice 2 and one of the others

and the same the other way round for what is read from the last step to the first. Rows of a batch
never meet, or meet in a sum, which is not mixed; features meet all at once, in a product, so that
nothing is left for (4). An axis is time where (3), or else (4), holds in one of the two
directions alone, and of no other axis of the array, and still does, in that direction, when the
slices stand in the reverse order: what is a coincidence of the numbers, a maximum here, a dead
unit there, turns with them. With less than three slices, or where neither holds, nothing is said.

An axis along which nothing is mixed has independent slices. The first of them besides time is
taken for the batch where a convention needs B, or a factor its name; it is never called rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..problems.arrays import Array, Arrays, is_real, is_tokens
from ..problems.axes import BATCH, TIME, UNKNOWN, Layout
from .noted_arrays import Notes, Watch

MOST_OPERATIONS = (32, 80, 400)  # that are noted: at first, and where that was not enough
SLICES = 3
REACH = 4  # how many entries a slice has to move for (3), where there are as many
MOVE = 0.1  # by how much of their size entries are moved
MIXED = 4096.0  # units of rounding beyond which a mixed difference is one
MOST_OTHERS = 4  # inputs besides x that are looked at


@dataclass(frozen=True)
class _Moves:
    """The runs in which slices of an axis of one array are moved, beside the one in which none is.

    moved  the array with every entry moved
    done   the runs that were made, by the slices
    """

    watch: Watch
    base: Notes
    name: str
    axis: int
    moved: Array
    done: dict[tuple[int, ...], Notes] = field(default_factory=dict[tuple[int, ...], Notes])

    @property
    def value(self) -> Array:
        """The array as it stands."""
        return self.watch.named[self.name]

    @property
    def size(self) -> int:
        """How many slices there are."""
        return self.value.shape[self.axis]

    def direction(self) -> int:
        """1 where the axis is time, −1 where it is time read from its end, else 0."""
        if self.size < SLICES or not self._can_be_time():
            return 0
        noted = _common(self.base, *(self._moved(at) for at in range(SLICES)))
        aligned = noted.aligned(self.size, range(SLICES))
        if not aligned:
            return self._by_states(noted)
        return aligned.pop() if len(aligned) == 1 else 0

    def independent(self) -> bool:
        """Whether nothing is mixed in the first two slices."""
        if self.size < 2:
            return True
        noted = _common(self.base, self._moved(0), self._moved(1))
        if not (noted.by(0) & noted.by(1)).any():
            return bool(noted.base.size)
        noted = _common(*noted.runs, self._moved(0, 1))
        return not noted.mixed(0, 1, 2).any()

    def _can_be_time(self) -> bool:
        """Whether one move, or two, leave (3) or (4) open: most axes need no more runs."""
        noted = _common(self.base, self._moved(1))
        unmoved = ~noted.results(noted.by(0))
        if not unmoved.any() and not noted.aligned(self.size, (1,)):
            return False
        noted = _common(self.base, self._moved(0), self._moved(1))
        first, second = noted.results(noted.by(0)), noted.results(noted.by(1))
        one_alone = bool((first ^ second).any()) and bool((first & second).any())
        return one_alone or bool(noted.aligned(self.size, (0, 1)))

    def _by_states(self, noted: "_Noting") -> int:
        """1, −1 or 0 by (4)."""
        first, second, third = (noted.results(noted.by(which)) for which in range(SLICES))
        forward = bool((first & second & ~third).any()) and bool((first & ~second & ~third).any())
        backward = bool((second & third & ~first).any()) and bool((third & ~second & ~first).any())
        astray = bool((first & third & ~second).any())
        all_met = bool((first & second & third).any())
        if astray or not all_met or forward == backward:
            return 0
        one, other, still = (0, 1, ~third) if forward else (1, 2, ~first)
        runs = (self._moved(one), self._moved(other), self._moved(one, other))
        noted = _common(self.base, *runs, *self._exchanged(one, other))
        is_state = noted.results(noted.mixed(0, 1, 2)) & noted.results(noted.differ(3, 4))
        found = bool((is_state & still[: is_state.size]).any())
        return (1 if forward else -1) if found else 0

    def _exchanged(self, one: int, other: int) -> tuple[Notes, Notes]:
        """With two slices that differ, and with the two in each other's places."""
        value = self.value
        here, there = np.take(value, one, axis=self.axis), np.take(value, other, axis=self.axis)
        differing = self.base
        if np.array_equal(here, there):
            value, differing = self._with_moved((one,)), self._moved(one)
        order = list(range(self.size))
        order[one], order[other] = other, one
        return differing, self._notes(np.take(value, order, axis=self.axis))

    def _notes(self, value: Array) -> Notes:
        return self.watch.notes(self.base.most, {self.name: value})

    def _moved(self, *slices: int) -> Notes:
        if slices not in self.done:
            self.done[slices] = self._notes(self._with_moved(slices))
        return self.done[slices]

    def _with_moved(self, slices: Sequence[int]) -> Array:
        mask = np.zeros(self.size, dtype=bool)
        mask[list(slices)] = True
        along = mask.reshape([-1 if at == self.axis else 1 for at in range(self.value.ndim)])
        return np.where(along, self.moved, self.value)


def moved_entries(value: Array) -> Array:
    """Every entry moved: a float by up to a tenth of its size, a token to another that occurs."""
    rng = np.random.default_rng(value.size)
    if is_tokens(value):
        least, most = int(value.min()), int(value.max())
        if most - least + 1 > np.iinfo(np.int64).max // 2:
            return value[::-1].copy()  # numbers so far apart are no tokens: others of them do
        tokens = least + (value.astype(np.int64) - least + 1) % (most - least + 1)
        return tokens.astype(value.dtype)
    finite = value.astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(finite)))) or 1.0
    by = MOVE * rng.uniform(0.5, 1, value.shape) * rng.choice([-1.0, 1.0], value.shape)
    moved = finite + by * np.maximum(np.abs(finite), MOVE * size)
    return moved.astype(value.dtype)


@dataclass(frozen=True)
class _Noting:
    """Runs that compute the same things: their numbers, as far as all have them.

    runs     first the one in which nothing is moved, then those in which slices are
    shapes   of the results that they have in common
    """

    runs: Sequence[Notes]
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

    def results(self, numbers: Array) -> Array:
        """Which results hold such a number."""
        return np.array([bool(numbers[here].any()) for here in self._slices], dtype=bool)

    def differ(self, one: int, other: int) -> Array:
        """Where the numbers of two moves differ by more than rounding."""
        first, second = self.moved(one), self.moved(other)
        with np.errstate(all="ignore"):
            size = np.abs(first) + np.abs(second)
            return np.abs(first - second) > MIXED * self._roundoff * size

    @cached_property
    def _slices(self) -> list[slice]:
        """Where the numbers of each result are."""
        found: list[slice] = []
        start = 0
        for corner in self.runs[0].corners[: len(self.shapes)]:
            found.append(slice(start, start + corner.size))
            start += corner.size
        return found

    def aligned(self, size: int, slices: Sequence[int]) -> set[int]:
        """The directions in which (3) holds of some array, as far as the moves of these slices
        show it.
        """
        moved = [self.by(which) for which in range(len(slices))]
        told: set[int] = set()
        corners = self.runs[0].corners
        for here, corner, shape in zip(self._slices, corners, self.shapes, strict=False):
            if shape.count(size) == 1:
                axis = shape.index(size)
                by = [_along(each[here].reshape(corner.shape), axis) for each in moved]
                told.add(_alignment(dict(zip(slices, by, strict=True))))
        return told - {0}


def _common(*runs: Notes) -> _Noting:
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
    return np.asarray(changed.any(axis=others))


def _alignment(by: Mapping[int, Array]) -> int:
    """1 where slice i moves the entries j ≥ i, −1 where it moves those j ≤ i, and no others; else
    0.
    """
    forward = backward = True
    for index, changed in by.items():
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
    layout = declared or Layout()
    for name in in_steps:
        if name not in layout.letters and watch.named[name].ndim:
            layout = _with_time(layout, watch.named, name, _Found(0, 1))
    subjects = _subjects(watch.named, inputs, layout)
    if declared is not None and not subjects:
        return declared
    for most in MOST_OPERATIONS:
        base = watch.notes(most, {})
        layout = _Search(watch, base).layout(layout, subjects)
        subjects = _subjects(watch.named, inputs, layout)
        if not (base.cut and subjects) or "x" in layout.letters:
            break
    return layout


def _subjects(named: Arrays, inputs: Sequence[str], layout: Layout) -> list[str]:
    """The arrays of which it is not known whether they have a time axis, x first."""
    told = [name for name in inputs if _has_axes(named[name])]
    if not told:
        told = [name for name, value in named.items() if _has_axes(value) and value.ndim >= 3]
    if "x" in named and _has_axes(named["x"]):
        told = ["x", *(name for name in told if name != "x")]
    steps = layout.size(TIME)
    if steps is not None:
        told = [name for name in told if steps in named[name].shape]
    return [name for name in told if name not in layout.letters]


def _has_axes(value: Array) -> bool:
    movable = is_real(value.dtype) or value.dtype.kind in "iub"
    return movable and value.ndim > 0 and value.size > 0


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
    base: Notes
    moved: dict[str, Array] = field(default_factory=dict[str, Array])
    seen: dict[tuple[str, int], _Moves] = field(default_factory=dict[tuple[str, int], _Moves])

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
        if layout.size(BATCH) is not None:
            return layout
        return replace(layout, batch=self._batch(layout))

    def _time_axis(self, name: str, steps: int | None) -> _Found | None:
        """The one axis that is time; of this length, where one is known. None for two such."""
        found: list[_Found] = []
        for axis, size in enumerate(self.watch.named[name].shape):
            if size < SLICES or (steps is not None and size != steps):
                continue
            direction = self.moves(name, axis).direction()
            if direction:
                found.append(_Found(axis, direction))
        if len(found) != 1 or self._turned(name, found[0].axis) != found[0].direction:
            return None
        return found[0]

    def _turned(self, name: str, axis: int) -> int:
        """The direction of an axis once its slices stand in the reverse order."""
        turned = np.flip(self.watch.named[name], axis)
        watch = replace(self.watch, named={**self.watch.named, name: turned})
        return _Search(watch, watch.notes(self.base.most, {})).moves(name, axis).direction()

    def moves(self, name: str, axis: int) -> _Moves:
        """The runs in which slices along this axis of the array are moved."""
        if name not in self.moved:
            self.moved[name] = moved_entries(self.watch.named[name])
        if (name, axis) not in self.seen:
            made = _Moves(self.watch, self.base, name, axis, self.moved[name])
            self.seen[name, axis] = made
        return self.seen[name, axis]

    def _batch(self, layout: Layout) -> int | None:
        """The length of the first axis besides time whose slices are independent."""
        name = next((name for name in layout.letters if TIME in layout.of(name)), None)
        name = "x" if "x" in layout.letters else name
        if name is None or layout.axis(name, TIME) is None:
            return None
        value = self.watch.named[name]
        if value.ndim < (2 if is_tokens(value) else 3):
            return None
        for axis, size in enumerate(value.shape):
            if axis != layout.axis(name, TIME) and self.moves(name, axis).independent():
                return size
        return None
