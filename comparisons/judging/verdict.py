"""One gradient against one reference, as plain data."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..plain_data import plain
from ..witnesses.tolerance import LOW_LIMIT
from .where import WrongAxis


class Reason(StrEnum):
    """Why a row does not pass."""

    DIFFERS = "differs"
    ALL_ZERO = "all zero"
    MISSING = "missing"
    WRONG_SHAPE = "wrong shape"
    NOT_FINITE = "not finite"
    NOT_FINITE_IN_REFERENCE = "not finite in the reference"


# What more samples of the noise, or the candidate's own rounding, may still explain.
OF_SIZE = (Reason.DIFFERS, Reason.ALL_ZERO)

PRECISE = 1e-4  # relative error below which two numbers are told with all their digits


@dataclass(frozen=True)
class Verdict:
    """One gradient (or Jacobian, or forward value) against one reference.

    where         the part of the array that is wrong, in words, where that is less than all
    axes          the same by axis: the indices outside which nothing is wrong
    step_axis     along which axis of the array the wrong steps are, where it has one for them
    wrong_slices  the slices along an axis that are wrong by their own size, where they are not
                  known to be steps
    kind          why it does not pass; None where it does
    detail        what is to be said of the kind besides its name: the shapes, where they differ
    rms_ratio     ‖given − true‖ / ‖true‖ by root mean square, in a lower precision than float64
    """

    gradient: str
    reference: str
    max_abs_error: float = math.nan
    max_rel_error: float = math.nan
    noise: float = math.nan
    error_over_noise: float = math.nan
    step_error_over_noise: float | None = None
    where: str | None = None
    wrong_steps: str | None = None
    worst_index: list[int] | None = None
    candidate_value: float | None = None
    reference_value: float | None = None
    first_wrong_step: int | None = None
    kind: Reason | None = None
    detail: str = ""
    along_directions: bool = False
    axes: list[WrongAxis] = field(default_factory=list[WrongAxis])
    step_axis: int | None = None
    wrong_slices: WrongAxis | None = None
    rms_ratio: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.kind is None

    @property
    def reason(self) -> str | None:
        """The kind with its detail, in words; None where the row passes."""
        return None if self.kind is None else f"{self.kind}{self.detail}"

    @property
    def worst_over_noise(self) -> float:
        """The larger of the tensor's and the worst step's error over noise; NaN counts as
        infinite.
        """
        ratios = [self.error_over_noise, self.step_error_over_noise or 0.0]
        return math.inf if any(math.isnan(ratio) for ratio in ratios) else max(ratios)

    @property
    def only_in_steps(self) -> bool:
        """Whether the whole is within every limit, and single steps or slices alone are wrong."""
        by_itself = self.wrong_steps is not None or self.wrong_slices is not None
        return by_itself and self.error_over_noise <= LOW_LIMIT

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the order of the report's schema."""
        told: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name not in IN_WORDS:
                told[name] = plain(value)
        last = {name: told.pop(name) for name in ("along_directions", "rms_ratio")}
        return {**told, "reason": self.reason, "passed": self.passed, **last}

    def sentence(self) -> str:
        """One line for a person."""
        if self.passed:
            return f"{self.gradient} agrees with {self.reference}"
        parts = [self._what()]
        if self.where:
            parts.append(self.where)
        if not self.only_in_steps:
            parts += self._worst_entry()
        if self.kind is Reason.DIFFERS:
            parts.append(self._how_much())
        return "; ".join([*parts, *self._which_steps()])

    def _which_steps(self) -> list[str]:
        """Which steps are wrong; of slices, only where the whole does not show it."""
        if self.first_wrong_step is not None:
            along = "" if self.step_axis is None else f" along axis {self.step_axis}"
            return [
                f"walking back, first wrong at step {self.first_wrong_step} (wrong: "
                f"{self.wrong_steps}){along}"
            ]
        if self.wrong_slices is not None and self.only_in_steps:
            return [f"wrong by its own size: {self.wrong_slices.words()}"]
        return []

    def _what(self) -> str:
        if self.kind is Reason.DIFFERS:
            return f"{self.gradient}: differs from {self.reference}"
        return f"{self.gradient}: {self.reason} (against {self.reference})"

    def _worst_entry(self) -> list[str]:
        """Both numbers at the worst entry; nothing where there is none."""
        if self.candidate_value is None or self.reference_value is None:
            return []
        at = ""
        if self.worst_index:
            along = f" along random direction {self.worst_index[0]}"
            at = along if self.along_directions else f" at {self.worst_index}"
        digits = 6 if self.max_rel_error > PRECISE else 17
        mine = f"{self.candidate_value:.{digits}g}"
        theirs = f"{self.reference_value:.{digits}g}"
        return [f"worst{at}: {mine}, where {self.reference} has {theirs}"]

    def _how_much(self) -> str:
        size = f"relative error {self.max_rel_error:.1e}"
        if self.only_in_steps:
            size = "only in the shares of single steps"
            if self.wrong_slices is not None:
                size = "only in single slices"
        if self.rms_ratio is not None:
            size += f", RMS ratio {self.rms_ratio:.2g}"
        return f"{size}, {self.worst_over_noise:.1e} times what rounding explains"


# Told as the `reason`, not by themselves.
IN_WORDS = ("kind", "detail")
