"""Verdicts as plain data: a Verdict is one gradient against one reference, a CaseReport is one problem, a Report is all.

`max_rel_error` is max|error| / max|reference| over the tensor. `noise` is the absolute error that rounding explains, so that
`error_over_noise` is a pure number; `step_error_over_noise` is the same at the worst single step, judged by that step's own
noise. A row passes when both are at most `comparisons.tolerance.LIMIT` and nothing else is wrong; `reason` then is null, else
says what is: "differs", "missing", "wrong shape…", "not finite…", "all zero". Numbers that JSON cannot hold are written as the
strings "NaN", "Infinity" and "-Infinity".
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from ..errors import GradientMismatch, QuestionError
from ..judging.verdict import Verdict
from .case_report import CaseReport
from .training_row import TrainingRow
from .words import report_lines

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """All cases of one run, with what they ran on."""

    environment: dict[str, Any]
    cases: list[CaseReport]
    training: list[TrainingRow] = field(default_factory=list[TrainingRow])
    notes: list[str] = field(default_factory=list[str])
    errors: list[QuestionError] = field(default_factory=list[QuestionError])

    @property
    def passed(self) -> bool:
        """Whether there is something to say, and all of it agrees."""
        if self.errors:
            return False
        trained = all(run.passed for run in self.training)
        return bool(self.cases) and trained and all(case.passed for case in self.cases)

    def raise_for_failure(self) -> None:
        """Raise GradientMismatch where a gradient is wrong, else what is wrong with the question, if anything is."""
        __tracebackhide__ = True
        if any(not row.passed for row in self.rows):
            raise GradientMismatch(str(self))
        for error in self.errors:
            raise error
        if not self.passed:
            raise GradientMismatch(str(self))

    @property
    def rows(self) -> list[Verdict]:
        """Every gradient against every reference."""
        return [row for case in self.cases for row in case.rows]

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the schema that the module's docstring and docs/report.md describe."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "environment": self.environment,
            "cases": [case.to_dict() for case in self.cases],
            "training": [run.to_dict() for run in self.training],
            "notes": self.notes,
            "errors": [{"error": type(error).__name__, "text": str(error)} for error in self.errors],
        }

    def to_json(self) -> str:
        """The text of to_dict()."""
        return json.dumps(_spell_nonfinite(self.to_dict()), indent=1, allow_nan=False)

    def __str__(self) -> str:
        said = [f"{type(error).__name__}: {error}" for error in self.errors]
        return "\n".join([*report_lines(self.cases), *said])


def _spell_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _spell_nonfinite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_spell_nonfinite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
