"""One problem with its verdicts, and what was noticed beside them."""

import math
from dataclasses import dataclass, field
from typing import Any

from ..judging.findings import Finding, LocalRow, LostDigits
from ..judging.not_seen import NotSeen
from ..judging.verdict import Verdict
from ..plain_data import plain
from ..witnesses.left_out import LeftOut
from .ties import Branch


@dataclass(frozen=True)
class CaseReport:
    """One problem: what it was, its rows, and what was noticed beside them.

    forward           rows for the loss and the states; where one of them fails, gradients are not
                      compared at all
    left_out          reference → why it was not asked
    not_given         gradients that the candidate does not claim to compute
    vacuous           gradients whose true value is nothing but rounding, so that no mistake in
                      them could be seen
    not_seen          gradients of code from outside of which nothing could be seen, and why: their
                      rows say nothing
    not_taken         branches of the forward pass that no step took
    also              further problems at which the same code was right
    references_agree  whether the references are within the limit of each other in every gradient
    local             for a cell: each output of step_backward, given the true ∂L/∂s_t, with the
                      steps at which it is wrong
    diagnosis         what mistake would explain the disagreement; digits that are lost, also where
                      all agrees
    true_error        where a proof was asked for: gradient → {"manual" and each reference: its
                      proven error}, in units
                      in the last place of the gradient's largest entry
    layout            for a function: array → what each of its axes stands for, as declared or
                      found; "" where that is not known
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
    left_out: dict[str, LeftOut] = field(default_factory=dict[str, LeftOut])
    not_given: list[str] = field(default_factory=list[str])
    vacuous: list[str] = field(default_factory=list[str])
    not_seen: list[NotSeen] = field(default_factory=list[NotSeen])
    not_taken: list[Branch] = field(default_factory=list[Branch])
    also: list[str] = field(default_factory=list[str])
    references_agree: bool = True
    local: list[LocalRow] = field(default_factory=list[LocalRow])
    diagnosis: list[Finding | LostDigits] = field(default_factory=list[Finding | LostDigits])
    notes: list[str] = field(default_factory=list[str])
    true_error: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    layout: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

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

    def seen_rows(self) -> list[Verdict]:
        """The rows that say something: those that fail, and those of which something was seen."""
        hidden = {each.gradient for each in self.not_seen}
        return [row for row in self.rows if not row.passed or row.gradient not in hidden]

    def worst_rel_error(self, reference: str) -> float | None:
        """Largest max_rel_error against one reference; None where it was not asked."""
        errors = [row.max_rel_error for row in self.rows if row.reference == reference]
        if any(math.isnan(error) for error in errors):
            return math.nan
        return max(errors, default=None)

    def worst_over_noise(self) -> float:
        """Largest error over noise in the case, all references together; NaN without rows."""
        every = [*self.rows, *self.forward]
        return max((row.worst_over_noise for row in every), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, `passed` included."""
        told = {name: plain(value) for name, value in vars(self).items()}
        return {**told, "passed": self.passed}
