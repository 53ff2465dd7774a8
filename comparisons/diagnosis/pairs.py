"""A gradient as given beside the true one, and what can be said of the two with certainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..problems.arrays import Array

ACCIDENT = 1e-6  # an explanation that fits by accident more often than this is none


@dataclass(frozen=True)
class Pair:
    """A gradient as given and as it is in truth; `within` is the error that rounding explains.

    entries   whether entry stands against entry, or inner products with directions do
    whole     what was given, entry by entry, in either case
    """

    name: str
    given: Array
    true: Array
    within: float
    entries: bool = True
    whole: Array | None = None

    @property
    def norm(self) -> float:
        """‖·‖ of what was given."""
        return float(np.linalg.norm(self.given if self.whole is None else self.whole))

    def agrees_with(self, value: Array, factor: float = 1.0) -> bool:
        """Whether this value, the truth times such a factor, is what was given, to rounding."""
        return same(self.given, value, self.within * max(1.0, abs(factor)))

    @property
    def is_right(self) -> bool:
        """Whether the truth is what was given."""
        return self.agrees_with(self.true)

    @property
    def is_seen(self) -> bool:
        """Whether the truth rises above rounding."""
        return largest(self.true) > self.within

    @property
    def is_given(self) -> bool:
        """Whether what was given rises above the truth's rounding."""
        return largest(self.given) > self.within

    @property
    def factor(self) -> float | None:
        """See `factor_between`."""
        return factor_between(self.given, self.true, self.within)

    def accidents(self, factor: float) -> Array:
        """Of every entry: how often a number of the given size is the truth times the factor by
        accident, (size,).
        """
        allowed = self.within * max(1.0, abs(factor))
        sizes = np.abs(self.given).ravel()
        return allowed / np.maximum(sizes, allowed) if allowed > 0 else np.zeros(sizes.size)


def is_certain(pairs: Sequence[Pair], factor: float) -> bool:
    """Whether a factor that was read off these pairs fits them all not by accident.

    The entry that tells it best is needed to read it off.
    """
    chances = np.concatenate([pair.accidents(factor) for pair in pairs])
    others = np.sort(chances)[1:]
    return bool(others.size) and bool(np.prod(others) <= ACCIDENT)


def common_factor(pairs: Sequence[Pair]) -> float | None:
    """The number that all these gradients are off by; None where there is none.

    It is read off the gradient that rises most above its rounding. One of which the truth is zero
    has no factor, nor has one that is given as zero.
    """
    telling = [pair for pair in pairs if pair.is_seen or pair.is_given]
    if not telling or not all(pair.is_seen and pair.is_given for pair in telling):
        return None
    if all(pair.is_right for pair in telling):
        return 1.0
    factor = max(telling, key=_height).factor
    if factor is None or factor == 1.0:
        return factor if factor is None else _none_but_one(telling)
    together = all(pair.agrees_with(factor * pair.true, factor) for pair in telling)
    return factor if together else None


def _none_but_one(pairs: Sequence[Pair]) -> float | None:
    return 1.0 if all(pair.is_right for pair in pairs) else None


def _height(pair: Pair) -> float:
    return largest(pair.true) / pair.within if pair.within > 0 else np.inf


def largest(values: Array) -> float:
    """max|·|, 0 for nothing."""
    return float(np.max(np.abs(values), initial=0.0))


def same(one: Array, other: Array, within: float) -> bool:
    """Whether no entry differs by more."""
    return bool(np.max(np.abs(one - other), initial=0.0) <= within)


def factor_between(given: Array, true: Array, within: float) -> float | None:
    """The number c with given = c · true to within an error; None where there is none, or c is 0,
    or one of the two is nothing but rounding.

    1 where the two are the same to within it.
    """
    if not (largest(true) > within and largest(given) > within):
        return None
    factor = float(np.sum(given * true)) / float(np.sum(true * true))
    if factor == 0 or not same(given, factor * true, within * max(1.0, abs(factor))):
        return None
    return 1.0 if same(given, true, within) else factor
