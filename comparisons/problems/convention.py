"""What the code under test means to return, where that is not the plain gradient.

    check_gradients(…, convention={"scale": "1/T"})

sign, scale      the plain gradient times these; scale is a number or "1/T", "1/B", "1/(T·B)" (also
                 with * for ·), or "T", "B"
clip_value       every entry cut to [−c, c] after that
clip_norm        all given gradients together scaled down to global norm c where it is larger
truncation       K: each loss goes back at most K steps (cells, whose steps are known)
precision        "float32", "float16", "bfloat16": what the code computes in; it may then err as
                 frameworks do in it. {"arrays": "bfloat16", "accumulate": "float32"}: the arrays
                 that go in and out, and what everything between them is computed in
rtol, atol       in place of the measured noise: |given − reference| ≤ atol + rtol |reference|,
                 entry by entry, as in numpy

The references then compute that very quantity. Clipping is not linear: under it the shares of
single steps are not compared.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np

from ..errors import BadOption
from .answer import Answer
from .arrays import PRECISIONS, Array, finfo


@dataclass(frozen=True)
class Precision:
    """What code computes in.

    arrays       the dtype of the arrays that it is given and gives
    accumulate   that of what it computes between them; the same where it is not told
    """

    arrays: str
    accumulate: str | None = None

    def must_be_known(self) -> None:
        """Raises BadOption for what is no precision, or sums shorter than the arrays."""
        for name in (self.arrays, self.accumulate or self.arrays):
            if name not in PRECISIONS:
                known = ", ".join(PRECISIONS)
                raise BadOption(f"convention: precision {name!r} is none of {known}")
        if self.accumulate and not _is_finer(self.accumulate, self.arrays):
            raise BadOption(
                f"convention: precision: sums in {self.accumulate} of arrays in {self.arrays} "
                "would be shorter than what they add up"
            )


def _is_finer(one: str, other: str) -> bool:
    """Whether the first has at least the digits of the second."""
    return bool(finfo(one).eps <= finfo(other).eps)


def precision_of(given: Any) -> Precision | None:
    """What a user wrote as precision: a name, a mapping with "arrays" and "accumulate", or None.

    Raises BadOption for other keys, or without "arrays".
    """
    if given is None or isinstance(given, Precision):
        return given
    if not isinstance(given, Mapping):
        return Precision(given)
    named = cast(Mapping[Any, Any], given)
    keys = [field.name for field in fields(Precision)]
    unknown = [name for name in named if name not in keys]
    if unknown or "arrays" not in named:
        raise BadOption(
            'convention: precision is a name, or {"arrays": name, "accumulate": name}; not '
            f"{given!r}"
        )
    return Precision(named["arrays"], named.get("accumulate"))


@dataclass(frozen=True)
class Convention:
    """The declared convention; the plain gradient by default."""

    sign: float = 1.0
    scale: float | str = 1.0
    clip_value: float | None = None
    clip_norm: float | None = None
    truncation: int | None = None
    precision: str | Precision | Mapping[str, str] | None = None
    rtol: float | None = None
    atol: float | None = None

    @property
    def allowed(self) -> tuple[float, float] | None:
        """(rtol, atol), where one of them is given; the other is then 0."""
        return (
            None
            if self.rtol is None and self.atol is None
            else (self.rtol or 0.0, self.atol or 0.0)
        )

    @property
    def computes_in(self) -> Precision | None:
        """The declared precision. Raises BadOption for a mapping with other keys."""
        return precision_of(self.precision)

    @property
    def is_plain(self) -> bool:
        """Whether the plain gradient is meant, however it is judged."""
        return replace(self, rtol=None, atol=None) == Convention()

    def must_be_in_range(self) -> None:
        """Raises BadOption, naming the first value that makes no sense."""
        factors: dict[str, Any] = {"sign": self.sign}
        if not isinstance(self.scale, str):
            factors["scale"] = self.scale
        for name, value in factors.items():
            if not _is_number(value) or value == 0:
                raise BadOption(f"convention: {name} is a number other than 0, not {value!r}")
        for name, bound in {"clip_value": self.clip_value, "clip_norm": self.clip_norm}.items():
            if bound is not None and not (_is_number(bound) and bound > 0):
                raise BadOption(f"convention: {name} is a positive number, not {bound!r}")
        for name, bound in {"rtol": self.rtol, "atol": self.atol}.items():
            if bound is not None and not (_is_number(bound) and bound >= 0):
                raise BadOption(f"{name} is a number of at least 0, not {bound!r}")
        if self.truncation is not None and not _is_count(self.truncation):
            raise BadOption(
                f"convention: truncation is an integer of at least 0, not {self.truncation!r}"
            )
        if self.computes_in is not None:
            self.computes_in.must_be_known()

    def factor(self, steps: int | None, batch: int | None) -> float:
        """Sign times scale as a number. Raises BadOption where T or B is needed and not known."""
        if not isinstance(self.scale, str):
            return float(self.sign * self.scale)
        formula = self.scale.replace(" ", "").replace("·", "*").replace("(", "").replace(")", "")
        above, _, below = formula.partition("/")
        known = {"T": steps, "B": batch, "1": 1}
        product = [known.get(letter, 0) for letter in (below or above).split("*")]
        if 0 in product or (below and above != "1"):
            raise BadOption(
                f"convention: scale {self.scale!r} is not a number, "
                '"T", "B", "1/T", "1/B" or "1/(T·B)"'
            )
        if None in product:
            raise BadOption(
                f"convention: scale {self.scale!r} needs T and B, which this problem does not "
                "tell: give the number"
            )
        number = float(np.prod([float(value or 0) for value in product]))
        return self.sign * (1 / number if below else number)

    def apply(
        self, answer: Answer, steps: int | None, batch: int | None, names: set[str]
    ) -> Answer:
        """What a candidate under this convention ought to return, from a plain answer; `names` are
        the gradients it gives.
        """
        factor = self.factor(steps, batch)
        scaled = _times(factor, answer.gradients, names)
        if self.clip_value is None and self.clip_norm is None:
            shares = _times(factor, answer.steps, names)
            # half the gap between two derivatives: a width, which has no sign
            kinks = _times(abs(factor), answer.kinks, names)
            return replace(answer, gradients=scaled, steps=shares, kinks=kinks)
        self._must_have_every_entry(answer, names)
        given = {name: scaled[name] for name in names if name in scaled}
        # clipping looks at the whole: shares of single steps have no meaning any more
        return replace(answer, gradients={**scaled, **self._clip(given)}, steps={})

    def _must_have_every_entry(self, answer: Answer, names: set[str]) -> None:
        """Raises BadOption where a gradient to be clipped is told along directions only."""
        large = [name for name in sorted(names) if name in answer.directions]
        if large:
            raise BadOption(
                "convention: clipping needs every entry, and a NumPy loss tells "
                f"{', '.join(large)} "
                "along random directions only (more than 80 entries): try smaller sizes, or write "
                "loss(xp, params, inputs)"
            )

    def _clip(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        clipped = dict(gradients)
        if self.clip_value is not None:
            clipped = {
                name: np.clip(value, -self.clip_value, self.clip_value)
                for name, value in clipped.items()
            }
        if self.clip_norm is not None:
            norm = global_norm(clipped)
            clipped = {
                name: value * min(1.0, self.clip_norm / norm) if norm > 0 else value
                for name, value in clipped.items()
            }
        return clipped


def _times(factor: float, arrays: Mapping[str, Array], names: set[str]) -> dict[str, Array]:
    """The arrays, those of these names times a factor."""
    scaled: dict[str, Array] = {}
    for name, value in arrays.items():
        scaled[name] = value * factor if name in names else value
    return scaled


def _is_count(value: Any) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(cast(Any, value) >= 0)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(
        value, bool
    )
    return is_real and math.isfinite(float(cast(Any, value)))


def global_norm(gradients: Mapping[str, Array]) -> float:
    """The Euclidean norm of all entries of all gradients together."""
    return float(np.sqrt(sum(float(np.sum(np.square(value))) for value in gradients.values())))


def convention_of(
    given: "Convention | Mapping[str, Any] | None",
    rtol: float | None = None,
    atol: float | None = None,
) -> Convention:
    """The convention that a user wrote as a mapping, with rtol and atol where they are given
    beside it.

    Raises BadOption for an unknown key or a value out of range.
    """
    if rtol is not None or atol is not None:
        plain = convention_of(given)
        made = replace(
            plain,
            rtol=plain.rtol if rtol is None else rtol,
            atol=plain.atol if atol is None else atol,
        )
        made.must_be_in_range()
        return made
    if given is None or isinstance(given, Convention):
        return given or Convention()
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadOption(f"convention is a dict, not a {type(given).__name__}")
    known = [field.name for field in fields(Convention)]
    for name in given:
        if name not in known:
            raise BadOption(f"convention: no {name!r}; there are {', '.join(known)}")
    made = Convention(**given)
    made.must_be_in_range()
    return made
