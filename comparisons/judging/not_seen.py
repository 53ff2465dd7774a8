"""Gradients of which nothing could be seen, and why: what agrees there agrees with nothing.

A reference tells a gradient to within some error L, the limit times its noise or its own
uncertainty. Where the gradient is no larger than that, no derivation of it could be told from
another. Two things make it so, and they are kept apart:

    the gradient is zero    L itself is of the size of float64's rounding of the loss, or of the
                            largest gradient that is seen
    L is large              the reference does not know the gradient: rounding is amplified, or the
                            function computes in a lower precision than its arguments have
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ..problems.arrays import Array, Arrays

ROUNDING = 1e-9  # of the loss or of the largest gradient: what is smaller is rounding of a zero
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

    loss: float
    gradients: Arrays
    least: Mapping[str, float]
    uncertain: Container[str] = ()

    def size(self, name: str) -> float:
        """The gradient's largest entry."""
        return float(np.max(np.abs(self.gradients[name]), initial=0.0))


def not_seen(told: Told, variables: Arrays) -> list[NotSeen]:
    """The gradients no larger than the errors that could be seen, in the order of `told`."""
    sizes = {name: told.size(name) for name, value in told.gradients.items() if value.size}
    hidden = [name for name, size in sizes.items() if size <= BARELY * told.least[name]]
    largest = max((size for name, size in sizes.items() if name not in hidden), default=0.0)
    found: list[NotSeen] = []
    for name in hidden:
        size, least = sizes[name], told.least[name]
        change = abs(told.loss) / _spread(variables.get(name))
        is_rounding = least <= ROUNDING * max(change, largest)
        is_nought = size == 0.0 and name not in told.uncertain
        if is_nought or (is_rounding and size <= least):
            found.append(NotSeen(name, Why.TRUE_ZERO, size, least))
        elif not is_rounding:
            found.append(NotSeen(name, Why.UNCERTAIN, size, least))
    return found


def _spread(value: Array | None) -> float:
    """The largest entry of a variable; 1 where there is none, or it is zero."""
    return float(np.max(np.abs(value), initial=0.0)) or 1.0 if value is not None else 1.0


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
    """' (errors below 3e+05 are not seen)', where that is news."""
    return f" (known to ±{each.least:.1g})" if each.why is Why.UNCERTAIN else ""
