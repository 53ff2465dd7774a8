"""What is known of a mistake, as plain data.

An explanation, and an output of step_backward by itself.
"""

from dataclasses import dataclass
from enum import StrEnum


class Mistake(StrEnum):
    """What a derivation may have done."""

    FACTOR = "factor"
    CLIP = "clip"
    TRANSPOSE = "transpose"
    BLOCKS = "blocks"
    MISSING_STEPS = "missing_steps"
    ANOTHER = "another"
    TRANSPOSED_WEIGHT = "transposed_weight"
    LOST_DIGITS = "lost_digits"
    PRECISION = "precision"
    TRUNCATION = "truncation"
    COTANGENT = "cotangent"


@dataclass(frozen=True)
class Finding:
    """A mistake that reproduces what was given, to within what rounding explains.

    where      the gradient, "every gradient", or an output of step_backward
    source     the expression that is wrong, where it is known
    explains   the share of the disagreement that it explains
    text       all of it in words
    """

    mistake: Mistake
    where: str
    source: str | None
    explains: float
    text: str


@dataclass(frozen=True)
class LostDigits(Finding):
    """A gradient that is right but for the digits that the code loses by its own rounding.

    digits_lost   how many decimal digits
    from_step     from which step on, walking back; None where the shares of the steps are not known
    """

    digits_lost: int
    from_step: int | None


@dataclass(frozen=True)
class LocalRow:
    """One output of step_backward, given the true ∂L/∂s_t, against the truth at every step."""

    output: str
    passed: bool
    wrong_steps: str | None
    error_over_noise: float
