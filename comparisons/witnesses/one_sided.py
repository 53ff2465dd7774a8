"""The derivatives of a problem's scalar along one direction, from the right and from the left.

At a kink every framework, and everybody who derives by hand, may choose its own derivative. One tie
leaves all between these two to choose from. Of several ties, in which numbers of either sign are
tied, the choices add up to more than the two tell, as far as single gaps cancel in their sum: what
is outside by many times their gap is outside of all.
"""

from dataclasses import dataclass

import numpy as np

from ..problems.arrays import Array, Arrays
from ..problems.problem import AnyProblem
from .engines import DIFFERENCES, scalar_in_numpy


@dataclass(frozen=True)
class Slopes:
    """What differences say along a direction.

    middle        of the derivatives from the right and from the left
    half_gap      half their difference; 0 where there is no kink
    uncertainty   the error that differences expect of `middle`
    """

    middle: float
    half_gap: float
    uncertainty: float

    def exclude(self, slope: float) -> bool:
        """Whether a slope is certainly outside of both, and not by the error of differences."""
        off = abs(slope - self.middle)
        doubt = max(self.uncertainty, CERTAIN * abs(self.middle))
        return bool(off > MANY * self.half_gap and off > doubt)


CERTAIN = 1e-3  # of the middle: an error that no kink is asked about
MANY = 100.0  # times the gap that gaps cancelling in a sum may leave to choose from


def slopes_along(problem: AnyProblem, name: str, direction: Array) -> Slopes:
    """Those of one variable along a direction of its shape."""
    value = scalar_in_numpy(problem)
    point: Arrays = problem.variables

    def along(distance: Arrays) -> float:
        moved = point[name] + distance["d"] * direction
        return float(value({**point, name: moved}))

    module = DIFFERENCES.load()
    _, found, _, uncertainty, kinks, _ = module.gradients(along, {"d": np.zeros(())}, problem.seed)
    half_gap = float(kinks.get("d", np.zeros(())))
    return Slopes(float(found["d"]), half_gap, uncertainty["d"])
