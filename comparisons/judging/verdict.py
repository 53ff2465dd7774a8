"""One gradient against one reference, as plain data."""

import math
from dataclasses import dataclass

from ..witnesses.tolerance import LOW_LIMIT


@dataclass(frozen=True)
class Verdict:
    """One gradient (or Jacobian, or forward value) against one reference."""

    gradient: str
    reference: str
    max_abs_error: float
    max_rel_error: float
    noise: float
    error_over_noise: float
    step_error_over_noise: float | None
    where: str | None
    wrong_steps: str | None
    worst_index: list[int] | None
    candidate_value: float | None
    reference_value: float | None
    first_wrong_step: int | None
    reason: str | None
    passed: bool
    along_directions: bool = False

    @property
    def worst_over_noise(self) -> float:
        """The larger of the tensor's and the worst step's error over noise; NaN counts as infinite."""
        ratios = [self.error_over_noise, self.step_error_over_noise or 0.0]
        return math.inf if any(math.isnan(ratio) for ratio in ratios) else max(ratios)

    @property
    def only_in_steps(self) -> bool:
        """Whether the whole gradient is within every limit, and what is wrong is the shares of single steps."""
        return self.wrong_steps is not None and self.error_over_noise <= LOW_LIMIT

    def sentence(self) -> str:
        """One line for a person."""
        if self.passed:
            return f"{self.gradient} agrees with {self.reference}"
        parts = [
            f"{self.gradient}: {self.reason} from {self.reference}"
            if self.reason == "differs"
            else f"{self.gradient}: {self.reason}"
        ]
        if self.reason != "differs":
            parts[0] += f" (against {self.reference})"
        if self.where:
            parts.append(self.where)
        if self.candidate_value is not None and self.reference_value is not None and not self.only_in_steps:
            at = f" at {self.worst_index}" if self.worst_index else ""
            at = f" along random direction {self.worst_index[0]}" if self.along_directions and self.worst_index else at
            digits = 6 if self.max_rel_error > 1e-4 else 17
            parts.append(
                f"worst{at}: {self.candidate_value:.{digits}g}, where {self.reference} has {self.reference_value:.{digits}g}"
            )
        if self.reason == "differs":
            only = "only in the shares of single steps" if self.only_in_steps else f"relative error {self.max_rel_error:.1e}"
            parts.append(f"{only}, {self.worst_over_noise:.1e} times what rounding explains")
        if self.first_wrong_step is not None:
            parts.append(f"walking back, first wrong at step {self.first_wrong_step} (wrong: {self.wrong_steps})")
        return "; ".join(parts)
