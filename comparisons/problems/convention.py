"""What the code under test means to return, where that is not the plain gradient.

    check_gradients(…, convention={"scale": "1/T"})

sign, scale      the plain gradient times these; scale is a number or "1/T", "1/B", "1/(T·B)" (also
                 with * for ·), or "T", "B"
clip_value       every entry cut to [−c, c] after that
clip_norm        all given gradients together scaled down to global norm c where it is larger
clip_norm_each   each given array by itself scaled down to norm c where its own is larger
clipped          "all" given gradients, or those of "params" alone; without it whichever the given
                 gradients follow, and the report says so
clip_norm_eps    e of the coefficient c / (norm + e); without it 0, or the 1e-6 of torch's
                 clip_grad_norm_, whichever the given gradients follow, and the report says so
truncation       K: each loss goes back at most K steps (cells, whose steps are known)
precision        "float32", "float16", "bfloat16": what the code computes in; it may then err as
                 frameworks do in it. {"arrays": "bfloat16", "accumulate": "float32"}: the arrays
                 that go in and out, and what everything between them is computed in
rtol, atol       in place of the measured noise: |given − reference| ≤ atol + rtol |reference|,
                 entry by entry, as in numpy

The references then compute that very quantity. Clipping is not linear: under it the shares of
single steps are not compared. problems/clipping.py has its equations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

import numpy as np

from ..errors import BadOption
from .answer import Answer
from .arrays import PRECISIONS, Array, finfo
from .clipping import TORCH_EPS, Bounds, Seen

Number = TypeVar("Number", Array, float)

NOTHING_SEEN = Seen()
POSITIVE = ("clip_value", "clip_norm", "clip_norm_each")
AT_LEAST_ZERO = ("rtol", "atol")
ROUNDED = 1e-15  # relative: no two gradients are told apart by less
SCOPES = ("all", "params")


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
    clip_norm_each: float | None = None
    clip_norm_eps: float | None = None
    clipped: str | None = None
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

    @property
    def bounds(self) -> Bounds:
        """The clipping that is declared."""
        of_each = self.clip_norm_each is not None
        norm = self.clip_norm_each if of_each else self.clip_norm
        return Bounds(self.clip_value, norm, of_each, self.clip_norm_eps or 0.0)

    @property
    def clips(self) -> bool:
        """Whether any clipping is declared."""
        return self.bounds != Bounds(eps=self.bounds.eps)

    def must_be_in_range(self) -> None:
        """Raises BadOption, naming the first value that makes no sense."""
        factors: dict[str, Any] = {"sign": self.sign}
        if isinstance(self.scale, str):
            self._letters(self.scale)
        else:
            factors["scale"] = self.scale
        for name, value in factors.items():
            if not _is_number(value) or value == 0:
                raise BadOption(f"convention: {name} is a number other than 0, not {value!r}")
        for name in POSITIVE:
            bound = getattr(self, name)
            if bound is not None and not (_is_number(bound) and bound > 0):
                raise BadOption(f"convention: {name} is a positive number, not {bound!r}")
        for name in AT_LEAST_ZERO:
            bound = getattr(self, name)
            if bound is not None and not (_is_number(bound) and bound >= 0):
                raise BadOption(f"{name} is a number of at least 0, not {bound!r}")
        self._clipping_must_be_in_range()
        if self.truncation is not None and not _is_count(self.truncation):
            raise BadOption(
                f"convention: truncation is an integer of at least 0, not {self.truncation!r}"
            )
        if self.computes_in is not None:
            self.computes_in.must_be_known()

    def _clipping_must_be_in_range(self) -> None:
        """Raises BadOption where keys of clipping contradict each other."""
        eps = self.clip_norm_eps
        if eps is not None and not (_is_number(eps) and eps >= 0):
            raise BadOption(f"convention: clip_norm_eps is a number of at least 0, not {eps!r}")
        norms = (self.clip_norm, self.clip_norm_each)
        if eps is not None and norms == (None, None):
            raise BadOption("convention: clip_norm_eps says how clip_norm divides: give that too")
        if self.clipped is not None and str(self.clipped) not in SCOPES:
            raise BadOption(
                f'convention: clipped is "all" or "params", not {self.clipped!r}: which gradients '
                "are clipped"
            )
        if self.clipped is not None and not self.clips:
            raise BadOption("convention: clipped says what a clipping is of: give that too")
        if None not in norms:
            raise BadOption(
                "convention: clip_norm is of all gradients together, clip_norm_each of each by "
                "itself: give one of them"
            )

    def _letters(self, scale: str) -> tuple[list[str], bool]:
        """The letters of a scale that is a text, and whether it is one over their product.

        Raises BadOption for a text that is none.
        """
        formula = scale.replace(" ", "").replace("·", "*").replace("(", "").replace(")", "")
        above, over, below = formula.partition("/")
        letters = (below if over else above).split("*")
        if (over and above != "1") or any(letter not in ("T", "B", "1") for letter in letters):
            raise BadOption(
                f'convention: scale {scale!r} is not a number, "T", "B", "1/T", "1/B" or "1/(T·B)"'
            )
        return letters, bool(over)

    def factor(self, steps: int | None, batch: int | None) -> float:
        """Sign times scale as a number. Raises BadOption where T or B is needed and not known."""
        if not isinstance(self.scale, str):
            return float(self.sign * self.scale)
        letters, is_inverse = self._letters(self.scale)
        product = [{"T": steps, "B": batch, "1": 1}[letter] for letter in letters]
        if None in product:
            raise BadOption(
                f"convention: scale {self.scale!r} needs T and B, which this problem does not "
                "tell: give the number, or declare the axes of x by layout="
            )
        number = float(np.prod([float(value or 0) for value in product]))
        return self.sign * (1 / number if is_inverse else number)

    def apply(
        self,
        answer: Answer,
        steps: int | None,
        batch: int | None,
        names: set[str],
        seen: Seen = NOTHING_SEEN,
    ) -> Answer:
        """What a candidate under this convention ought to return, from a plain answer; `names` are
        the gradients it gives.
        """
        scaled = self._cut_by_value(answer, steps, batch, names, seen)
        if not self.clips:
            return scaled
        shrunk = dict.fromkeys(scaled.gradients, 1.0)
        shrunk |= self.bounds.coefficients(scaled, self._in_scope(names, seen), seen)
        gradients = {name: value * shrunk[name] for name, value in scaled.gradients.items()}
        kinks = {name: value * shrunk[name] for name, value in scaled.kinks.items()}
        kinked = {name: value * shrunk[name] for name, value in scaled.kinked.items()}
        doubt = {name: value * shrunk[name] for name, value in scaled.uncertainty.items()}
        # clipping looks at the whole: shares of single steps have no meaning any more
        found = replace(scaled, gradients=gradients, kinks=kinks, kinked=kinked, steps={})
        return replace(found, uncertainty=doubt)

    def _cut_by_value(
        self, answer: Answer, steps: int | None, batch: int | None, names: set[str], seen: Seen
    ) -> Answer:
        """The answer times the factor, its entries cut to ±clip_value."""
        factor = self.factor(steps, batch)
        scaled = replace(
            answer,
            gradients=_times(factor, answer.gradients, names),
            steps=_times(factor, answer.steps, names),
            # half the gap between two derivatives: a width, which has no sign
            kinks=_times(abs(factor), answer.kinks, names),
            kinked=_times(abs(factor), answer.kinked, names),
            uncertainty=_times(abs(factor), answer.uncertainty, names),
        )
        return self.bounds.by_value(scaled, self._in_scope(names, seen), factor, seen)

    def _in_scope(self, names: set[str], seen: Seen) -> set[str]:
        """Those of these gradients that are clipped."""
        return names - seen.inputs if self.clipped == "params" else names

    def shrinkage(
        self,
        answer: Answer,
        steps: int | None,
        batch: int | None,
        names: set[str],
        seen: Seen = NOTHING_SEEN,
    ) -> dict[str, float]:
        """By how much the norm's bound shrinks each gradient, 1 where it is not reached; none
        where there is no such bound.
        """
        if self.bounds.norm is None:
            return {}
        scaled = self._cut_by_value(answer, steps, batch, names, seen)
        return self.bounds.coefficients(scaled, self._in_scope(names, seen), seen)

    def followed_by(
        self, seen: Seen, answer: Answer, steps: int | None, batch: int | None, names: set[str]
    ) -> "Convention":
        """The convention with clip_norm_eps and clipped settled: as declared, else as the given
        gradients are nearest to: 0 or torch's, all or those of the parameters alone.
        """
        if not self.clips:
            return self
        scopes = SCOPES if self.clipped is None and names & seen.inputs else (self.clipped,)
        is_open = self.bounds.norm is not None and self.clip_norm_eps is None
        numbers = (0.0, TORCH_EPS) if is_open else (self.clip_norm_eps,)
        choices: list[Convention] = []
        for scope in scopes:
            choices += [replace(self, clipped=scope, clip_norm_eps=number) for number in numbers]

        def distance(choice: "Convention") -> float:
            apart = distances(choice.apply(answer, steps, batch, names, seen), names, seen)
            # in digits: one gradient that is wrong does not decide for those that are right
            return sum(math.log(ROUNDED + value) for value in apart.values())

        return min(choices, key=distance)


def distances(meant: Answer, names: set[str], seen: Seen) -> dict[str, float]:
    """How far each given gradient is from the one meant, relative to that, where both are known."""
    found: dict[str, float] = {}
    for name in names & meant.gradients.keys() & seen.given.keys():
        given, value = np.asarray(seen.given[name], dtype=np.float64), meant.gradients[name]
        if name in meant.directions and given.shape == meant.directions[name].shape[1:]:
            given = np.tensordot(meant.directions[name], given, axes=given.ndim)
        size = float(np.linalg.norm(value))
        if given.shape == value.shape and np.isfinite(given).all() and size > 0:
            found[name] = float(np.linalg.norm(given - value)) / size
    return found


def _times(factor: float, arrays: Mapping[str, Number], names: set[str]) -> dict[str, Number]:
    """The arrays or numbers, those of these names times a factor."""
    scaled: dict[str, Number] = {}
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
    try:
        return is_real and math.isfinite(float(cast(Any, value)))
    except OverflowError:  # of an integer that no float can hold
        return False


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
    if given is None:
        return Convention()
    if isinstance(given, Convention):
        given.must_be_in_range()
        return given
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadOption(f"convention is a dict, not a {type(given).__name__}")
    known = [field.name for field in fields(Convention)]
    for name in given:
        if name not in known:
            raise BadOption(f"convention: no {name!r}; there are {', '.join(known)}")
    made = Convention(**given)
    made.must_be_in_range()
    return made
