"""Which part of an array is wrong: by axis, the indices outside which nothing is.

An axis is named only where some of its indices are right, and not trivially so: entries that both
sides have smaller than the error that is allowed could not be wrong, and are no clue.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..problems.arrays import Array
from ..problems.axes import TIME, UNKNOWN, Letters, axis_word

GATES = (4, 3)  # how many blocks of rows a cell may stack
OF_A_MATRIX = ("rows", "columns")


@dataclass(frozen=True)
class WrongAxis:
    """The indices of one axis outside which nothing is wrong.

    axis, size   which axis of the array, and how long it is
    letter       what it stands for, T, B, H, …; "" where that is not known
    indices      from 0, as NumPy has them
    """

    axis: int
    size: int
    letter: str
    indices: list[int]

    def words(self, word: str = "") -> str:
        """'axis 2 (head), index 1 of 3', 'steps 1–4 of 1–8 (axis 1)'."""
        one = len(self.indices) == 1
        if self.letter == TIME:
            steps = runs([index + 1 for index in self.indices])
            called = "step" if one else "steps"
            return f"{called} {steps} of {span(1, self.size)} (axis {self.axis})"
        called = f"axis {self.axis} ({word})" if word else f"axis {self.axis}"
        return f"{called}, {'index' if one else 'indices'} {runs(self.indices)} of {self.size}"


@dataclass(frozen=True)
class Where:
    """The part of an array that is wrong, in words, and by axis where that is less than all."""

    words: str | None
    axes: list[WrongAxis]


def where_wrong(
    wrong: Array, telling: Array | None = None, letters: Letters = (), told: Iterable[int] = ()
) -> Where:
    """Where the array is wrong, if that is less than all that could be.

    `telling`: the entries in which an error could be seen; all for None. `letters` are of its
    axes. `told`: axes that are not put in words.
    """
    seen = wrong | (np.ones_like(wrong) if telling is None else telling)
    if not wrong.ndim or not wrong.any() or (wrong == seen).all():
        return Where(None, [])
    axes: list[WrongAxis] = []
    for axis, size in enumerate(wrong.shape):
        touched = _along(wrong, axis)
        if (_along(seen, axis) & ~touched).any():
            letter = letters[axis] if axis < len(letters) else UNKNOWN
            axes.append(WrongAxis(axis, size, letter, np.flatnonzero(touched).tolist()))
    if wrong.sum() == 1:
        return Where("one entry only", axes)
    skipped = set(told)
    parts = [_words(each, wrong.ndim, letters) for each in axes if each.axis not in skipped]
    return Where("; ".join(parts) or None, axes)


def _along(entries: Array, axis: int) -> Array:
    """At which indices of the axis some entry is set."""
    others = tuple(at for at in range(entries.ndim) if at != axis)
    return np.asarray(entries.any(axis=others))


def _words(wrong: WrongAxis, axes: int, letters: Letters) -> str:
    """'rows 5–9 of 20 only', of a vector or matrix of which no more is known; 'axis 2 (head),
    index 1 of 3 only' of others.
    """
    if axes > len(OF_A_MATRIX) or any(letters):
        return f"{wrong.words(axis_word(letters, wrong.axis))} only"
    blocks = _blocks(wrong.indices, wrong.size) if wrong.axis == 0 else ""
    return f"{OF_A_MATRIX[wrong.axis]} {runs(wrong.indices)} of {wrong.size} only{blocks}"


def runs(numbers: Sequence[int]) -> str:
    """'0, 3–5', from 0, 3, 4, 5."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(span(run[0], run[-1]) for run in found)


def span(first: int, last: int) -> str:
    """'3–5', or '3' where the two are one."""
    return str(first) if first == last else f"{first}–{last}"


def _blocks(rows: Sequence[int], count: int) -> str:
    """' (block 2 of 4)', where the rows fall into one of 4 or 3 equal blocks, as gates do."""
    for gates in GATES:
        if count % gates or count <= gates:
            continue
        touched = {row // (count // gates) for row in rows}
        if len(touched) == 1:
            return f" (block {touched.pop() + 1} of {gates}, as gates are stacked)"
    return ""
