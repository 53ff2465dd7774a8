"""All cases of a run, with what they ran on: the record that every check returns.

A Verdict is one gradient against one reference, a CaseReport is one problem, a Report is all.
`max_rel_error` is max|error| / max|reference| over the tensor. `noise` is the absolute error that
rounding explains, so that `error_over_noise` is a pure number; `step_error_over_noise` is the same
at the worst single step, judged by that step's own noise. A row passes when both are at most the
limit of `comparisons/witnesses/tolerance.py` and nothing else is wrong; `reason` then is null,
else says what is: "differs", "missing", "wrong shape…", "not finite…", "all zero". Numbers that
JSON cannot hold are written as the strings "NaN", "Infinity" and "-Infinity".
"""

from dataclasses import dataclass, field
from typing import Any

from ..errors import GradientMismatch, QuestionError
from ..judging.verdict import Verdict
from ..plain_data import json_text, plain
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
        if self.errors or not self.cases:
            return False
        trained = all(row.passed for row in self.training)
        return trained and all(case.passed for case in self.cases)

    def raise_for_failure(self) -> None:
        """Raise GradientMismatch where a gradient is wrong, else what ails the question."""
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
        """Plain data, as docs/report.md and comparisons/checking/report.schema.json describe it."""
        errors = [{"error": type(error).__name__, "text": str(error)} for error in self.errors]
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "environment": plain(self.environment),
            "cases": plain(self.cases),
            "training": plain(self.training),
            "notes": list(self.notes),
            "errors": errors,
        }

    def to_json(self) -> str:
        """The text of to_dict()."""
        return json_text(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows of it: the text."""
        printer.text("Report(...)" if cycle else str(self))

    def __str__(self) -> str:
        said = [f"{type(error).__name__}: {error}" for error in self.errors]
        return "\n".join([*report_lines(self.cases), *said])
