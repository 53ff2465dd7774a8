"""Gradients of which nothing could be seen, and why: what agrees there agrees with nothing.

A reference tells a gradient to within some error L, the limit times its noise or its own
uncertainty. Where the gradient is no larger than that, no derivation of it could be told from
another. Two things make it so, and they are kept apart: the gradient is zero; or L is large, since
the reference does not know the gradient: rounding is amplified, or the function computes in a lower
precision than its arguments have.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ..problems.arrays import Arrays

BARELY = 2.0  # times the smallest error that is seen: a smaller gradient is not seen


class Why(StrEnum):
    """Why nothing could be seen of a gradient."""

    UNUSED = "unused"
    TRUE_ZERO = "true zero"
    UNCERTAIN = "reference uncertain"


@dataclass(frozen=True)
class NotSeen:
    """A gradient of which nothing could be seen.

    size    the largest entry that the reference tells
    least   the smallest error that could have been seen
    """

    gradient: str
    why: Why
    size: float
    least: float


@dataclass(frozen=True)
class Told:
    """What a reference says of gradients.

    least      by gradient: the smallest error that could be seen
    uncertain  the gradients that it knows to within an uncertainty of its own only
    """

    gradients: Arrays
    least: Mapping[str, float]
    uncertain: Container[str] = ()


def not_seen(told: Told) -> list[NotSeen]:
    """The gradients that are no larger, or hardly, than the errors that could be seen.

    Zero is said of those that an exact reference tells as zero; whether another is zero, or merely
    not known, the function must tell (comparisons/checking/why_not_seen.py).
    """
    found: list[NotSeen] = []
    for name, value in told.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        least = told.least[name]
        if value.size and size <= BARELY * least:
            is_nought = size == 0.0 and name not in told.uncertain
            why = Why.TRUE_ZERO if is_nought else Why.UNCERTAIN
            found.append(NotSeen(name, why, size, least))
    return found


ADVICE = {
    Why.UNUSED: (
        "the loss does not read it, and nothing could be learnt of its gradient; take it out of "
        "params"
    ),
    Why.TRUE_ZERO: (
        "the true gradient is zero to rounding, so that no mistake that leaves it zero could be "
        "seen; choose inputs that matter to it: initial states that are not zero, more steps, "
        "random cotangents (not all ones), another seed"
    ),
    Why.UNCERTAIN: (
        "the references do not know the gradient better than it is large: rounding is amplified "
        "on the way, or the function computes inside in a lower precision than its arguments "
        "have. Take fewer steps or smaller weights; loss(xp, params, inputs) is differentiated "
        "exactly"
    ),
}


def sentences(hidden: Sequence[NotSeen]) -> list[str]:
    """One sentence for each reason that there is."""
    told: list[str] = []
    for why, advice in ADVICE.items():
        alike = [each for each in hidden if each.why is why]
        if not alike:
            continue
        names = ", ".join(f"{each.gradient}{_extent(each)}" for each in alike)
        told.append(f"{names}: {advice}")
    return told


def _extent(each: NotSeen) -> str:
    """' (uncertain by ±3e+05)', where that is news."""
    return f" (uncertain by ±{each.least:.1g})" if each.why is Why.UNCERTAIN else ""
