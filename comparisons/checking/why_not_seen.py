"""Why a gradient is not seen: whether it is zero, or not known.

A reference tells a gradient to within some error L. Where the gradient is no larger than that, the
function itself is evaluated at other values of the variable.

    unused   the value is the same, bit by bit, whatever the variable holds, NaN included. NaN alone
             would be swallowed by `where`, and numbers alone by a product with zero
    zero     L is nothing beside the slope that the function has over the variable's own size; or
             L is tiny, and the function does not change there by more than its own rounding
    else L is as large as slopes are: the reference does not know the gradient
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import QuestionError
from ..judging.not_seen import BARELY, NotSeen, Why
from ..problems.arrays import Array
from ..problems.problem import AnyProblem
from ..witnesses.tolerance import epsilon

SCALES = (1.0, -30.0, 1e3)  # how many times the variable's size it is moved by
NOTHING = 1e-6  # of the slope over the variable's own size
TINY = 1e-9  # a slope that could be nothing but rounding of a loss of ordinary size
ROUNDING = 64.0  # units in the last place of the value


@dataclass(frozen=True)
class Change:
    """How the function changes when one variable is moved by `distance`; NaN where it fails."""

    distance: float
    before: float
    after: float

    @property
    def is_none(self) -> bool:
        """Whether it does not change at all, bit by bit."""
        return self.after == self.before

    @property
    def is_rounding(self) -> bool:
        """Whether it changes by no more than a sum rounds."""
        return abs(self.after - self.before) <= ROUNDING * epsilon(np.float64) * abs(self.before)

    @property
    def slope(self) -> float:
        """The mean slope between the two; 0 where there is none."""
        found = abs(self.after - self.before) / self.distance
        return found if np.isfinite(found) else 0.0


def explained(each: NotSeen, problem: AnyProblem, loss: Callable[[Any], float]) -> NotSeen | None:
    """The gradient with the reason for which it is not seen; None where it is seen after all."""
    changes = [_change(each.gradient, problem, loss, moved) for moved in _moved(each, problem)]
    of_numbers = changes[:-1]
    if all(change.is_none for change in changes):
        return replace(each, why=Why.UNUSED)
    slope = max(change.slope for change in of_numbers)
    evaluated = [change for change in of_numbers if np.isfinite(change.after)]
    is_flat = len(evaluated) > 1 and all(change.is_rounding for change in evaluated)
    is_flat = is_flat and each.least <= TINY
    is_small = each.least <= NOTHING * slope
    if each.why is Why.TRUE_ZERO or (each.size <= each.least and (is_small or is_flat)):
        return replace(each, why=Why.TRUE_ZERO)
    barely = each.least < each.size <= BARELY * each.least
    return None if barely and is_small else each


def _moved(each: NotSeen, problem: AnyProblem) -> list[Array]:
    """Other values of the variable: numbers of its size, larger ones, and NaN."""
    value = problem.variables[each.gradient]
    rng = np.random.default_rng([problem.seed, 8])
    size = 1.0 + float(np.max(np.abs(value), initial=0.0))
    tried: list[Array] = []
    for scale in SCALES:
        tried.append((value + scale * size * rng.normal(size=value.shape)).astype(value.dtype))
    return [*tried, np.full_like(value, np.nan)]


def _change(name: str, problem: AnyProblem, loss: Callable[[Any], float], moved: Array) -> Change:
    distance = float(np.max(np.abs(moved - problem.variables[name])))
    try:
        return Change(distance, loss(problem), loss(problem.with_variables({name: moved})))
    except QuestionError:
        return Change(distance, np.nan, np.nan)
