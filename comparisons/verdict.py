"""Verdicts as plain data: a Verdict is one gradient against one reference, a CaseReport is one problem, a Report is all.

`max_rel_error` is max|error| / max|reference| over the tensor. `noise` is the absolute error that rounding explains, so that
`error_over_noise` is a pure number; `step_error_over_noise` is the same at the worst single step, judged by that step's own
noise. A row passes when both are at most `comparisons.tolerance.LIMIT` and nothing else is wrong; `reason` then is null, else
says what is: "differs", "missing", "wrong shape…", "not finite…", "all zero". Numbers that JSON cannot hold are written as the
strings "NaN", "Infinity" and "-Infinity".
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


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
    worst_index: list[int] | None
    candidate_value: float | None
    reference_value: float | None
    first_wrong_step: int | None
    reason: str | None
    passed: bool

    @property
    def worst_over_noise(self) -> float:
        """The larger of the tensor's and the worst step's error over noise; NaN counts as infinite."""
        ratios = [self.error_over_noise, self.step_error_over_noise or 0.0]
        return math.inf if any(math.isnan(ratio) for ratio in ratios) else max(ratios)

    def sentence(self) -> str:
        """One line for a person."""
        if self.passed:
            return f"{self.gradient} agrees with {self.reference}"
        at = f" at {self.worst_index}" if self.worst_index else ""
        values = (
            f": {self.candidate_value:.17g} where {self.reference} has {self.reference_value:.17g}"
            if self.candidate_value is not None and self.reference_value is not None
            else f" (against {self.reference})"
        )
        step = (
            "" if self.first_wrong_step is None else f"; walking back from the last step, wrong from step {self.first_wrong_step}"
        )
        size = f"; relative error {self.max_rel_error:.1e}, {self.worst_over_noise:.1e} times what rounding explains"
        return f"{self.gradient} {self.reason}{at}{values}{size if self.reason == 'differs' else ''}{step}"


@dataclass(frozen=True)
class CaseReport:
    """One problem: what it was, its rows, and what was noticed beside them.

    forward      rows for the loss and the states; where one of them fails, gradients are not compared at all
    left_out     reference → why it was not asked
    """

    name: str
    cell: str
    loss: str
    steps: int
    batch: int
    input_size: int
    hidden_size: int
    output_size: int | None
    seconds: float
    rows: list[Verdict]
    forward: list[Verdict]
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    diagnosis: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def passed(self) -> bool:
        """Whether there is a row, and every row agrees."""
        return bool(self.rows) and all(row.passed for row in [*self.rows, *self.forward])

    @property
    def forward_differs(self) -> bool:
        """Whether the functions themselves differ: then nothing is said of gradients."""
        return any(not row.passed for row in self.forward)

    def failures(self) -> list[Verdict]:
        """The rows that do not agree, the forward's first."""
        return [row for row in [*self.forward, *self.rows] if not row.passed]

    def worst_rel_error(self, reference: str) -> float | None:
        """Largest max_rel_error against one reference; None where it was not asked."""
        errors = [row.max_rel_error for row in self.rows if row.reference == reference]
        return math.nan if any(math.isnan(error) for error in errors) else max(errors, default=None)

    def worst_over_noise(self) -> float:
        """Largest error over noise in the case, all references together; NaN without rows."""
        return max((row.worst_over_noise for row in [*self.rows, *self.forward]), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, `passed` included."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Report:
    """All cases of one run, with what they ran on."""

    environment: dict[str, Any]
    cases: list[CaseReport]
    training: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])

    @property
    def passed(self) -> bool:
        """Whether there is something to say, and all of it agrees."""
        trained = all(bool(run["passed"]) for run in self.training)
        return bool(self.cases) and trained and all(case.passed for case in self.cases)

    @property
    def forward_differs(self) -> bool:
        """Whether some case failed only because the functions themselves differ."""
        failed = [case for case in self.cases if not case.passed]
        return any(case.forward_differs for case in failed) and not any(not row.passed for case in failed for row in case.rows)

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
            "training": self.training,
            "notes": self.notes,
        }

    def to_json(self) -> str:
        """The text of to_dict()."""
        return json.dumps(_spell_nonfinite(self.to_dict()), indent=1, allow_nan=False)

    def __str__(self) -> str:
        return "\n".join(line for case in self.cases for line in _case_lines(case))


def _case_lines(case: CaseReport) -> Sequence[str]:
    failures = case.failures()
    if case.passed:
        worst = f"worst error {case.worst_over_noise():.2g} times the measured noise"
        return [f"{case.name}: {len(case.rows)} comparisons agree; {worst}"]
    head = f"{len(failures)} of {len(case.rows)} comparisons disagree"
    if case.forward_differs:
        head = "the forward passes differ; no gradient was compared"
    return [f"{case.name}: {head}", *(f"  {row.sentence()}" for row in failures)]


def _spell_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _spell_nonfinite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_spell_nonfinite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
