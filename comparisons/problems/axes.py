"""What the axes of arrays stand for, as far as it is known: declared by whoever asks, or found.

A letter stands for an axis: T steps, B rows, H heads (units, where it is the last axis of an
array), I and D features; any other letter is a name and no more. Axes of which nothing is known
have no letter. Steps are counted 1..T, as in the formulas; all other axes by NumPy's indices,
from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from ..errors import BadOption
from .arrays import Array, Arrays

TIME, BATCH, HEAD, UNKNOWN = "T", "B", "H", ""
SHARED = (TIME, BATCH)  # letters with one size in a problem
Letters: TypeAlias = tuple[str, ...]
LayoutLike: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]] | None

WORDS: Mapping[str, str] = MappingProxyType(
    {TIME: "step", BATCH: "row", "I": "feature", "D": "feature"}
)
# What an axis may be called in full, in place of its letter.
SPELLED = {
    "time": TIME,
    "step": TIME,
    "steps": TIME,
    "batch": BATCH,
    "row": BATCH,
    "rows": BATCH,
    "head": HEAD,
    "heads": HEAD,
    "feature": "D",
    "features": "D",
}


@dataclass(frozen=True)
class Layout:
    """The letters of the axes of arrays, by the name of the array.

    shapes      of those arrays
    backwards   the arrays whose steps are read from the last to the first
    batch       B, where no array has its letter
    """

    letters: Mapping[str, Letters] = field(default_factory=dict[str, Letters])
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    backwards: frozenset[str] = frozenset()
    batch: int | None = None

    def of(self, name: str) -> Letters:
        """The letters of an array; () where nothing is known of it."""
        return self.letters.get(name, ())

    def axis(self, name: str, letter: str) -> int | None:
        """Which axis of the array has this letter, if one has."""
        letters = self.of(name)
        return letters.index(letter) if letter in letters else None

    def size(self, letter: str) -> int | None:
        """T or B, by the input called x where that tells it; None where arrays contradict."""
        sizes: dict[str, int] = {}
        for name in self.letters:
            axis = self.axis(name, letter)
            if axis is not None:
                sizes[name] = self.shapes[name][axis]
        if "x" in sizes:
            return sizes["x"]
        distinct = set(sizes.values())
        if not distinct and letter == BATCH:
            return self.batch
        return distinct.pop() if len(distinct) == 1 else None


def axis_word(letters: Letters, axis: int) -> str:
    """'step', 'row', 'head', 'unit', 'feature', or the letter itself; '' where none is known."""
    letter = letters[axis] if axis < len(letters) else UNKNOWN
    if letter == HEAD:
        return "unit" if axis == len(letters) - 1 else "head"
    return WORDS.get(letter, letter)


def declared_layout(given: LayoutLike, params: Arrays, inputs: Arrays) -> Layout | None:
    """The layout that a user wrote; None where nothing was.

    Letters alone are those of the input called x; where there is none, of every array that has as
    many axes, and the shape of the first that has: inputs, or, where none of them has, params.

    Raises BadOption where an array has other axes than letters, or T or B is not one number.
    """
    if given is None:
        return None
    arrays = {**params, **inputs}
    if isinstance(given, Mapping):
        told = _of_names(cast(Mapping[Any, Any], given), arrays)
    else:
        letters = _letters(given)
        told = dict.fromkeys(_meant(letters, params, inputs), letters)
    shapes = {name: arrays[name].shape for name in told}
    for name, letters in told.items():
        _must_fit(name, letters, shapes[name])
    made = Layout(told, shapes)
    for letter in SHARED:
        _must_have_one_size(made, letter)
    return made


def written_layout(text: str | None) -> LayoutLike:
    """The layout that stands on a command line: "BTI", or "x=BTI,h_0=BH" for arrays by name."""
    if text is None or "=" not in text:
        return text
    told: dict[str, str] = {}
    for each in text.split(","):
        name, _, letters = each.partition("=")
        told[name.strip()] = letters.strip()
    return told


def _of_names(given: Mapping[Any, Any], arrays: Arrays) -> dict[str, Letters]:
    told: dict[str, Letters] = {}
    for name, letters in given.items():
        if name not in arrays:
            there = ", ".join(arrays)
            raise BadOption(f"layout: no input or param is called {name!r}; there are {there}")
        told[name] = _letters(letters)
    return told


def _meant(letters: Letters, params: Arrays, inputs: Arrays) -> list[str]:
    """The arrays that letters without a name are said of."""
    if "x" in inputs:
        return ["x"]
    for arrays in (inputs, params):
        alike = {name: value for name, value in arrays.items() if value.ndim == len(letters)}
        if alike:
            shape = next(iter(alike.values())).shape
            return [name for name, value in alike.items() if value.shape == shape]
    raise BadOption(
        f"layout: {_written(letters)} has {len(letters)} axes, and there is neither an input "
        "called x nor another array with as many: give a dict of name → letters"
    )


def _letters(given: Any) -> Letters:
    """Letter by letter. Raises BadOption for what is none, and for two axes of one meaning."""
    if not isinstance(given, str | tuple | list) or not given:
        raise BadOption(
            'layout is a letter per axis, "TBI" or "BTHD", or a dict of name → letters, '
            f"not {given!r}"
        )
    found: list[str] = []
    for each in _apart(given):
        spelled = SPELLED.get(each.lower(), each) if isinstance(each, str) else ""
        letter = spelled.upper() if len(spelled) == 1 else spelled
        if not letter.isidentifier():
            raise BadOption(
                f"layout: {given!r} is not a letter per axis (T steps, B rows, H heads, D features)"
            )
        found.append(letter)
    for letter in SHARED:
        if found.count(letter) > 1:
            raise BadOption(f"layout: {given!r} has two axes {letter}")
    return tuple(found)


def _apart(given: Any) -> Sequence[Any]:
    """'b t h d' and 'b,t,h,d' by their words, 'BTHD' by its letters, a sequence as it is."""
    if not isinstance(given, str):
        return cast(Sequence[Any], given)
    words = given.replace(",", " ").split()
    return words if len(words) > 1 else given.strip()


def _written(letters: Letters) -> str:
    return repr("".join(letters))


def _must_fit(name: str, letters: Letters, shape: tuple[int, ...]) -> None:
    if len(letters) != len(shape):
        raise BadOption(
            f"layout: {_written(letters)} has {len(letters)} axes, and {name} has {len(shape)}: "
            f"its shape is {shape}"
        )


def _must_have_one_size(layout: Layout, letter: str) -> None:
    first: tuple[str, int] | None = None
    for name, letters in layout.letters.items():
        if letter not in letters:
            continue
        size = layout.shapes[name][letters.index(letter)]
        if first is not None and size != first[1]:
            raise BadOption(f"layout: {letter} is {first[1]} in {first[0]} and {size} in {name}")
        first = first or (name, size)


def shares_along(arrays: Mapping[str, Array], axes: Mapping[str, int]) -> dict[str, Array]:
    """Those of the arrays that have an axis for time, with that axis in front."""
    shares: dict[str, Array] = {}
    for name, axis in axes.items():
        if name in arrays and arrays[name].ndim > axis:
            shares[name] = arrays[name].swapaxes(0, axis)
    return shares
