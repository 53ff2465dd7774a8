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

from comparisons.errors import GradientMismatch, QuestionError
from comparisons.tolerance import LOW_LIMIT

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


@dataclass(frozen=True)
class CaseReport:
    """One problem: what it was, its rows, and what was noticed beside them.

    forward           rows for the loss and the states; where one of them fails, gradients are not compared at all
    left_out          reference → why it was not asked
    not_given         gradients that the candidate does not claim to compute
    vacuous           gradients whose true value is nothing but rounding, so that no mistake in them could be seen
    references_agree  whether the references are within the limit of each other in every gradient
    local             for a cell: each output of step_backward, given the true ∂L/∂s_t, with the steps at which it is wrong
    diagnosis         what mistake would explain the disagreement
    true_error        where a proof was asked for: gradient → {"manual" and each reference: its proven error}, in units in the
                      last place of the gradient's largest entry
    """

    name: str
    cell: str
    loss: str
    steps: int | None
    batch: int | None
    input_size: int | None
    hidden_size: int | None
    output_size: int | None
    seconds: float
    rows: list[Verdict]
    forward: list[Verdict]
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    not_given: list[str] = field(default_factory=list[str])
    vacuous: list[str] = field(default_factory=list[str])
    references_agree: bool = True
    local: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    diagnosis: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])
    true_error: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])

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
    errors: list[QuestionError] = field(default_factory=list[QuestionError])

    @property
    def passed(self) -> bool:
        """Whether there is something to say, and all of it agrees."""
        if self.errors:
            return False
        trained = all(bool(run["passed"]) for run in self.training)
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
            "training": self.training,
            "notes": self.notes,
            "errors": [{"error": type(error).__name__, "text": str(error)} for error in self.errors],
        }

    def to_json(self) -> str:
        """The text of to_dict()."""
        return json.dumps(_spell_nonfinite(self.to_dict()), indent=1, allow_nan=False)

    def __str__(self) -> str:
        said = [f"{type(error).__name__}: {error}" for error in self.errors]
        return "\n".join([*report_lines(self.cases), *said])


def report_lines(cases: Sequence[CaseReport]) -> list[str]:
    """Every case in words; one that only repeats what another has said of the same gradients, in a line."""
    lines: list[str] = []
    told: dict[frozenset[tuple[str, str]], str] = {}
    for case in cases:
        wrong = frozenset((row.gradient, str(row.reason)) for row in case.failures())
        if wrong and wrong in told:
            lines.append(f"{case.name}: the same gradients disagree as under {told[wrong]}")
            continue
        told[wrong] = case.name
        lines += case_lines(case)
    return lines


def case_lines(case: CaseReport) -> list[str]:
    """The case in words: one line where all agree, else each wrong gradient, and what is known of the mistake."""
    if case.passed:
        worst = f"worst error {case.worst_over_noise():.2g} times the measured noise"
        notes = [*not_given_lines(case), *left_out_lines(case), *(f"  note: {note}" for note in case.notes)]
        return [f"{case.name}: {len(case.rows)} comparisons agree; {worst}", *notes]
    if case.forward_differs:
        head = f"{case.name}: the forward passes differ; no gradient was compared"
        return [head, *(f"  {row.sentence()}" for row in case.failures())]
    failures = case.failures()
    lines = [f"{case.name}: {len(failures)} of {len(case.rows)} comparisons disagree"]
    lines += _local_lines(case.local)
    lines += [f"  diagnosis: {found['text']}" for found in case.diagnosis]
    lines += [f"  {row.sentence()}" for row in _one_per_gradient(failures)]
    right = dict.fromkeys(row.gradient for row in case.rows if row.passed)
    wrong = {row.gradient for row in failures}
    lines += [f"  right: {', '.join(name for name in right if name not in wrong)}"] if set(right) - wrong else []
    lines += not_given_lines(case)
    lines += left_out_lines(case)
    names = ", ".join(dict.fromkeys(row.reference for row in case.rows))
    agreement = "agree among themselves" if case.references_agree else "do NOT agree among themselves"
    lines.append(f"  references asked: {names}; they {agreement}" if "," in names else f"  reference asked: {names}")
    return lines + [f"  note: {note}" for note in case.notes]


def not_given_lines(case: CaseReport) -> list[str]:
    """What was not claimed, and so not judged."""
    return [f"  not given: {', '.join(case.not_given)}"] if case.not_given else []


def left_out_lines(case: CaseReport) -> list[str]:
    """The references that should have been asked and could not: not those that do not apply."""
    broken = ("cannot follow", "reference ")
    return [f"  left out: {name}: {reason}" for name, reason in case.left_out.items() if reason.startswith(broken)]


def _one_per_gradient(rows: Sequence[Verdict]) -> list[Verdict]:
    """The first row of each gradient: the others say the same against other references."""
    return list({row.gradient: row for row in reversed(rows)}.values())[::-1]


def _local_lines(local: Sequence[dict[str, Any]]) -> list[str]:
    """Which outputs of step_backward are wrong by themselves."""
    if not local:
        return []
    wrong = [f"{row['output']} (steps {row['wrong_steps']})" for row in local if not row["passed"]]
    right = [row["output"] for row in local if row["passed"]]
    if not wrong:
        return [
            "  step_backward alone, given the true ∂L/∂s_t at each step, is right in every output: the error is between steps"
        ]
    line = f"  step_backward alone, given the true ∂L/∂s_t at each step, is wrong in {', '.join(wrong)}"
    return [line + (f"; right in {', '.join(right)}" if right else "")]


def _spell_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _spell_nonfinite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_spell_nonfinite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
