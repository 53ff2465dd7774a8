"""A report in words."""

from collections.abc import Sequence
from typing import Any

from ..judging.verdict import Verdict
from .case_report import CaseReport


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
