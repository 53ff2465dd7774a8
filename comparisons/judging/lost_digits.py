"""Digits that a derivation loses by its own rounding, as findings and in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ..witnesses import tolerance
from .findings import LostDigits, Mistake
from .verdict import Verdict


class Way(StrEnum):
    """How a candidate's gradient is known without its rounding."""

    WIDER = "wider"
    SAMPLED = "sampled"
    GROWN = "grown"


EVIDENCE = {
    Way.WIDER: "run in longdouble it agrees",
    Way.SAMPLED: (
        "over problems around this one its errors average out, as rounding does and "
        "a mistake does not"
    ),
    Way.GROWN: "its error grows in float32 as roundoff does, and a mistake does not",
}


@dataclass(frozen=True)
class Lost:
    """Digits that a gradient has lost: from which step back, and how that is known."""

    row: Verdict
    step: int | None
    excused: bool
    way: Way

    def finding(self, roundoff: float) -> LostDigits:
        """The same as a finding."""
        digits = round(-math.log10(roundoff))
        error = min(max(self.row.max_rel_error, roundoff), 1.0)
        lost = min(digits, max(1, round(math.log10(error / roundoff))))
        name = self.row.gradient
        back = "" if self.step is None else f" from step {self.step} back"
        more = "" if self.excused else ", more than rounding has to"
        right = "" if self.way is Way.GROWN else "is right on paper, and "
        return LostDigits(
            mistake=Mistake.LOST_DIGITS,
            where=name,
            source=None,
            explains=1.0,
            text=f"{name} {right}loses {lost} of {digits} digits{back}{more}: {EVIDENCE[self.way]}",
            digits_lost=lost,
            from_step=self.step,
        )


def remarks(
    before: Sequence[Verdict], after: Sequence[Verdict], findings: Sequence[LostDigits]
) -> list[str]:
    """A note on the gradients that the candidate's own rounding explains."""
    lost = {found.where: found.digits_lost for found in findings}
    told: dict[str, str] = {}
    for old, new in zip(before, after, strict=True):
        if new.passed and not old.passed:
            error = max(old.max_rel_error, tolerance.epsilon(np.float64))
            digits = f"{lost[old.gradient]} of 16 digits lost"
            told[old.gradient] = f"{old.gradient} (relative error {error:.1g}: {digits})"
    if not told:
        return []
    return [
        f"the code's own rounding explains the difference in {', '.join(told.values())}. It loses "
        "digits where the reference does not, as 1 − σ does for a saturated gate, or a sum that "
        "cancels"
    ]
