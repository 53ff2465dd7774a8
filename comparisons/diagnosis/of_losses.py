"""What would turn the one loss into the other, where two functions that ought to be the same have
not the same value.

Each explanation is tried on the numbers and told only where it holds to rounding.

    factor     one is a whole number, or one over it, times the other: a mean for a sum; or ln 2
    blocks     the other has that value once equal blocks of rows (or columns) of the parameters
               stand in another order, in all that stack as many at once: gates i, f, o, g for
               i, f, g, o
    transpose  the other has that value with a square parameter transposed
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ..problems.arrays import Array, Arrays

GATES = (2, 3, 4)  # how many blocks a parameter may stack
EXACT = 1e-10  # relative: how near a factor must be at least to be called a whole number
WELL_KNOWN = 1e-8  # relative: a ratio less well known is only told where its number has a name
ACCIDENT = 1e-3  # how often an explanation may fit by accident
UNITS = {"": 1.0, "ln 2": math.log(2), "1/ln 2": 1 / math.log(2)}


@dataclass(frozen=True)
class TwoLosses:
    """Two values at one point, and how far apart rounding may bring them.

    given      what the code under test says
    expected   what the function it is held against says
    within     the error that rounding explains
    """

    given: float
    expected: float
    within: float

    @property
    def coarseness(self) -> float:
        """How well their ratio is known, relative; infinite where one is zero or not finite."""
        least = min(abs(self.given), abs(self.expected))
        if not (np.isfinite(self.given) and np.isfinite(self.expected) and least > 0):
            return math.inf
        return max(EXACT, 2 * self.within / least)

    def factor(self, sizes: Mapping[str, int]) -> float | None:
        """given / expected where it is a whole number, one over it, or these times ln 2 or
        1 / ln 2; None for others, and where it is not known well enough to tell.
        """
        near = self.coarseness
        if not near <= ACCIDENT:
            return None
        named = {1, *_known(sizes).values()}
        ratio = self.given / self.expected
        for unit in UNITS.values():
            for sign in (1.0, -1.0):
                whole = _whole(sign * ratio / unit, near)
                if whole is not None and (near <= WELL_KNOWN or _count(whole) in named):
                    return sign * unit * whole
        return None

    def is_reached_by(self, value: float) -> bool:
        """Whether this is what the code under test says."""
        return abs(value - self.given) <= self.within

    def are_told_apart(self, tries: int) -> bool:
        """Whether none of so many other values would be the one by accident."""
        apart = abs(self.given - self.expected)
        return np.isfinite(apart) and 2 * tries * self.within <= ACCIDENT * apart


def _whole(ratio: float, near: float) -> float | None:
    """A whole number or one over it, where the ratio is that, so near that no accident is."""
    for value, is_inverse in ((ratio, False), (1 / ratio, True)):
        nearest = round(value)
        if nearest >= 1 and near * nearest <= ACCIDENT and abs(value - nearest) <= near * nearest:
            return 1 / nearest if is_inverse else float(nearest)
    return None


def _count(whole: float) -> int:
    """The whole number that it is, or that it is one over."""
    return round(whole) if whole >= 1 else round(1 / whole)


def _known(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes, and T·B."""
    known, steps, batch = dict(sizes), sizes.get("T", 1), sizes.get("B", 1)
    if steps > 1 and batch > 1:
        known["T·B"] = steps * batch
    return known


def named_factor(factor: float, sizes: Mapping[str, int]) -> str:
    """'1/T = 1/12 times', 'ln 2 times', '−1 times', '1/60 times'."""
    size, sign = abs(factor), "−" if factor < 0 else ""
    for word, unit in UNITS.items():
        whole = _whole(size / unit, EXACT)
        if whole is None:
            continue
        number = _in_sizes(whole, sizes)
        if not word:
            return f"{sign}{number} times"
        return f"{sign}{word} times" if whole == 1 else f"{sign}{word} · {number} times"
    return f"{factor:.10g} times"


def _in_sizes(whole: float, sizes: Mapping[str, int]) -> str:
    """'T = 12', '1/(T·B) = 1/36', '60': a whole number, or one over it, by sizes of that number."""
    count = _count(whole)
    known = _known(sizes)
    names = [name for name, size in known.items() if size == count and count > 1]
    if whole >= 1:
        return " = ".join([*names, str(count)])
    over = [f"1/({name})" if "·" in name else f"1/{name}" for name in names]
    return " = ".join([*over, f"1/{count}"])


def reordered(
    losses: TwoLosses, loss: Callable[[Arrays], float], params: Mapping[str, Array]
) -> str | None:
    """Which order of blocks, or which transposed parameter, gives the other value; in words."""
    changes = [*_changes(params)]
    if not losses.are_told_apart(len(changes)):
        return None
    for words, changed in changes:
        if losses.is_reached_by(loss(changed)):
            return words
    return None


def _changes(params: Mapping[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    """(in words, the parameters changed), for every change worth a try."""
    for gates in GATES:
        for axis, kind in ((0, "rows"), (-1, "columns")):
            for names in _stacked(params, gates, axis):
                yield from _orders(params, names, gates, axis, kind)
    for name, value in params.items():
        if value.ndim == 2 and value.shape[0] == value.shape[1] > 1:
            yield f"with {name} transposed", {name: value.T}


def _orders(
    params: Mapping[str, Array], names: Sequence[str], gates: int, axis: int, kind: str
) -> Iterator[tuple[str, dict[str, Array]]]:
    """The parameters of these names with their blocks in every other order."""
    for order in permutations(range(gates)):
        if list(order) == sorted(order):
            continue
        changed: dict[str, Array] = {}
        for name in names:
            blocks = np.split(params[name], gates, axis=axis)
            changed[name] = np.concatenate([blocks[at] for at in order], axis=axis)
        places = ", ".join(str(at + 1) for at in order)
        together = f"the {gates} blocks of {kind} of {', '.join(names)}"
        yield f"with {together} in the order {places}", changed


def _stacked(params: Mapping[str, Array], gates: int, axis: int) -> Iterator[list[str]]:
    """Names of the parameters that may stack so many gates along the axis: all of one length
    together, then each by itself.
    """
    by_length: dict[int, list[str]] = {}
    for name, value in params.items():
        if value.ndim and value.size and value.shape[axis] % gates == 0:
            by_length.setdefault(value.shape[axis], []).append(name)
    for names in by_length.values():
        yield names
    for names in by_length.values():
        if len(names) > 1:
            yield from ([name] for name in names)
