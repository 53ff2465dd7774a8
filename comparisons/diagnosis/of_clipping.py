"""Which clipping would turn the true gradients into those that were given.

A bound that a person chose has few digits, and it is reached to the last one: that is what tells
clipping from any other factor. Without it, two entries of different truth at the same bound do, or
two arrays of different norm at the same norm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..judging.findings import Finding, Mistake
from ..problems.arrays import Array
from ..problems.clipping import TORCH_EPS
from .pairs import ACCIDENT, Pair, common_factor, factor_between, is_certain, largest

FEW_DIGITS = 3  # in float64; one less where numbers are known to fewer digits
EXACT_NORM, EXACT_BOUND = 1e-10, 1e-12  # how near to few digits in float64, relative
TOO_COARSE = 1e-5  # a precision in which every number is near one of few digits
OTHER_EPS = (1e-8, 1e-7, 1e-5, 1e-12)  # what else people add to a norm that they divide by
DISTINCT = 1e-3  # relative: truths, or norms, so far apart are not the same


@dataclass(frozen=True)
class Sight:
    """How well the given numbers are known: the roundoff of the precision that they come in."""

    roundoff: float

    def bound(self, value: float) -> float | None:
        """The number of few digits that an entry is; None where there is none."""
        return self._few_digits(value, max(EXACT_BOUND, self.roundoff))

    def norm(self, value: float) -> float | None:
        """The number of few digits that a norm is; None where there is none."""
        return self._few_digits(value, max(EXACT_NORM, 8 * self.roundoff))

    def _few_digits(self, value: float, near: float) -> float | None:
        if not value > 0 or near > TOO_COARSE:
            return None
        digits = FEW_DIGITS if near <= EXACT_NORM else FEW_DIGITS - 1
        rounded = float(f"{value:.{digits}g}")
        return rounded if abs(value - rounded) <= near * rounded else None


@dataclass(frozen=True)
class Norm:
    """A norm that gradients were scaled down to by dividing by norm + eps."""

    bound: float
    eps: float = 0.0

    def __str__(self) -> str:
        if self.eps == 0:
            return f"norm {self.bound:.6g}"
        by_whom = " as torch's clip_grad_norm_ clips it," if self.eps == TORCH_EPS else ""
        return f"norm {self.bound:.6g}{by_whom} by norm + {self.eps:g}"


def norm_reached(pairs: Sequence[Pair], factor: float, sight: Sight) -> Norm | None:
    """The norm of few digits that these gradients, `factor` times the truth, were scaled to.

    None where there is none. With N the true norm, n = ‖given‖: c = n + factor · e, since
    n = N c / (N + e).
    """
    if not 0 < abs(factor) < 1:
        return None
    norm = float(np.linalg.norm([pair.norm for pair in pairs]))
    for eps in (0.0, TORCH_EPS, *OTHER_EPS):
        bound = sight.norm(norm + abs(factor) * eps)
        if bound is not None:
            return Norm(bound, eps)
    return None


def by_norm_of_each(pairs: Sequence[Pair], sight: Sight) -> Iterator[Finding]:
    """Every array by itself scaled down to the same norm, those below it left as they are."""
    wrong = [pair for pair in pairs if not pair.is_right]
    factors = [pair.factor for pair in wrong]
    reached: list[Norm] = []
    for pair, factor in zip(wrong, factors, strict=True):
        norm = None if factor is None else norm_reached([pair], factor, sight)
        if norm is None:
            return
        reached.append(norm)
    bounds = {norm.bound for norm in reached}
    kept = [pair.norm for pair in pairs if pair.is_right]
    if len(bounds) != 1 or max(kept, default=0.0) > min(bounds) * (1 + TOO_COARSE):
        return
    # a number scaled to a norm is a number cut at it
    if len(wrong) < 2 or all(pair.given.size == 1 for pair in wrong):
        return
    norm = max(reached, key=lambda norm: norm.eps)
    text = f"exact up to clipping each array by itself to {norm}"
    yield Finding(Mistake.CLIP, "every gradient", None, 1.0, text)


def by_norm_of_some(pairs: Sequence[Pair], sight: Sight) -> Iterator[Finding]:
    """Some gradients together scaled down to a norm, the others left as they are."""
    wrong = [pair for pair in pairs if not pair.is_right]
    factor = common_factor(wrong)
    if factor is None or len(wrong) < 2 or not is_certain(wrong, factor):
        return
    norm = norm_reached(wrong, factor, sight) if factor > 0 else None
    if norm is not None:
        names = ", ".join(pair.name for pair in wrong)
        text = f"{names} are exact up to clipping, together, to {norm}"
        yield Finding(Mistake.CLIP, names, None, 1.0, text)


def by_norm_beside_another(pairs: Sequence[Pair], sight: Sight) -> Iterator[Finding]:
    """All gradients together scaled down to a norm, some of them being wrong before that.

    The norm is that of what was given, right or wrong.
    """
    shrunk: list[Pair] = []
    for pair in pairs:
        factor = pair.factor
        if factor is not None and 0 < factor < 1 and is_certain([pair], factor):
            shrunk.append(pair)
    first = shrunk[0].factor if shrunk else None
    if first is None:
        return
    alike = [pair for pair in shrunk if pair.agrees_with(first * pair.true)]
    norm = norm_reached(pairs, first, sight)
    if norm is not None and not any(pair.is_right for pair in pairs if pair.is_seen):
        names = ", ".join(pair.name for pair in alike)
        be = "is" if len(alike) == 1 else "are"
        text = f"{names} {be} exact up to clipping all gradients together to the global {norm}"
        yield Finding(Mistake.CLIP, names, None, 1.0, text)


def by_value(
    pairs: Sequence[Pair], sight: Sight, factors: Mapping[str, float]
) -> tuple[str, float] | None:
    """(what else the gradients are off by, c) where they are the truth cut at ±c; '' for nothing.

    `factors` are those that have a name.
    """
    if not all(pair.entries for pair in pairs):
        return None
    bound = max((largest(pair.given) for pair in pairs), default=0.0)
    if bound == 0:
        return None
    for called, factor in {"": 1.0, **factors}.items():
        if _is_cut(pairs, factor, bound, sight):
            return called, bound
    return None


def _is_cut(pairs: Sequence[Pair], factor: float, bound: float, sight: Sight) -> bool:
    """Whether the truth times the factor, cut at ±bound, is what was given, and not by accident."""
    kept: list[Array] = []  # by how often an entry that was not cut agrees by accident
    cut: list[float] = []  # sizes that were cut
    for pair in pairs:
        meant = factor * pair.true
        if not pair.agrees_with(np.clip(meant, -bound, bound), factor):
            return False
        is_cut = np.abs(meant) > bound + pair.within * max(1.0, abs(factor))
        is_cut &= np.abs(np.abs(pair.given) - bound) <= EXACT_BOUND * bound
        cut += [float(size) for size in np.abs(meant)[is_cut].ravel()]
        kept.append(pair.accidents(factor)[~is_cut.ravel()])
    if not cut:
        return False
    if factor != 1.0 and not np.prod(np.concatenate(kept)) <= ACCIDENT:
        return False
    distinct = max(cut) - min(cut) > DISTINCT * max(cut)
    return distinct or sight.bound(bound) is not None


def of_one(pair: Pair, sight: Sight) -> str | None:
    """What clipping explains of one gradient, in words."""
    cut = by_value([pair], sight, {})
    if cut is not None:
        return f"{pair.name} is exact up to clipping at ±{cut[1]:.6g}"
    factor = factor_between(pair.given, pair.true, pair.within)
    if factor is None or factor <= 0 or pair.given.size == 1 or not is_certain([pair], factor):
        return None
    norm = norm_reached([pair], factor, sight)
    return None if norm is None else f"{pair.name} is exact up to clipping to {norm}"


# What explains several gradients at once, by a norm: the more of them first.
BY_NORM: tuple[Callable[[Sequence[Pair], Sight], Iterator[Finding]], ...] = (
    by_norm_of_each,
    by_norm_of_some,
    by_norm_beside_another,
)
