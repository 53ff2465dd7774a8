"""A report in words."""

from collections.abc import Sequence

from ..judging.findings import LocalRow
from ..judging.not_seen import sentences
from ..judging.verdict import Verdict
from ..witnesses.left_out import WhyLeftOut
from .case_report import CaseReport

ALONE = "  step_backward alone, given the true ∂L/∂s_t at each step, is"


def report_lines(cases: Sequence[CaseReport]) -> list[str]:
    """Every case in words; in one line what only repeats what another has said."""
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
    """One line where all agree, else each wrong gradient, and what is known of the mistake."""
    if case.passed:
        return _agreement(case)
    if case.forward_differs:
        head = f"{case.name}: the forward passes differ; no gradient was compared"
        return [head, *(f"  {row.sentence()}" for row in case.failures())]
    return _disagreement(case)


def _agreement(case: CaseReport) -> list[str]:
    worst = f"worst error {case.worst_over_noise():.2g} times the measured noise"
    seen = len(case.seen_rows())
    lines = [f"{case.name}: {seen} comparisons agree; {worst}{_rms(case)}"]
    lines += also_lines(case)
    lines += not_given_lines(case)
    lines += not_seen_lines(case)
    return [*lines, *left_out_lines(case), *_note_lines(case)]


def _rms(case: CaseReport) -> str:
    """The largest RMS ratio, where it is told, in the words of those who judge by it."""
    told = {row.gradient: row.rms_ratio for row in case.rows if row.rms_ratio is not None}
    if not told:
        return ""
    name = max(told, key=lambda gradient: told[gradient])
    return f"; RMS ratio at most {told[name]:.2g}, of {name}"


def _disagreement(case: CaseReport) -> list[str]:
    failures = case.failures()
    lines = [f"{case.name}: {len(failures)} of {len(case.rows)} comparisons disagree"]
    lines += _local_lines(case.local)
    lines += [f"  diagnosis: {found.text}" for found in case.diagnosis]
    lines += [f"  {row.sentence()}" for row in _one_per_gradient(failures)]
    lines += _right_line(case)
    lines += not_given_lines(case)
    lines += not_seen_lines(case)
    lines += left_out_lines(case)
    return [*lines, _references_line(case), *_note_lines(case)]


def _note_lines(case: CaseReport) -> list[str]:
    return [f"  note: {note}" for note in case.notes]


def _right_line(case: CaseReport) -> list[str]:
    """The gradients that are right against every reference."""
    wrong = {row.gradient for row in case.failures()}
    seen = case.seen_rows()
    right = dict.fromkeys(row.gradient for row in seen if row.gradient not in wrong)
    return [f"  right: {', '.join(right)}"] if right else []


def _references_line(case: CaseReport) -> str:
    names = list(dict.fromkeys(row.reference for row in case.rows))
    if len(names) < 2:
        return f"  reference asked: {', '.join(names)}"
    agreement = "agree" if case.references_agree else "do NOT agree"
    return f"  references asked: {', '.join(names)}; they {agreement} among themselves"


def not_given_lines(case: CaseReport) -> list[str]:
    """What was not claimed, and so not judged."""
    return [f"  not given: {', '.join(case.not_given)}"] if case.not_given else []


def not_seen_lines(case: CaseReport) -> list[str]:
    """Gradients of which nothing could be seen, and branches that no step took."""
    lines = [f"  not seen: {sentence}" for sentence in sentences(case.not_seen)]
    return [*lines, *(f"  never taken: {branch.sentence()}" for branch in case.not_taken)]


def also_lines(case: CaseReport) -> list[str]:
    """The further problems at which the same code was right."""
    return [f"  also right at {'; '.join(case.also)}"] if case.also else []


def left_out_lines(case: CaseReport) -> list[str]:
    """The references that should have been asked and could not: not those that do not apply."""
    lines: list[str] = []
    for name, left in case.left_out.items():
        if left.kind is not WhyLeftOut.NOT_APPLICABLE:
            lines.append(f"  left out: {name}: {left}")
    return lines


def _one_per_gradient(rows: Sequence[Verdict]) -> list[Verdict]:
    """The first row of each gradient: the others say the same against other references."""
    first: dict[str, Verdict] = {}
    for row in rows:
        first.setdefault(row.gradient, row)
    return list(first.values())


def _local_lines(local: Sequence[LocalRow]) -> list[str]:
    """Which outputs of step_backward are wrong by themselves."""
    if not local:
        return []
    wrong = [f"{row.output} (steps {row.wrong_steps})" for row in local if not row.passed]
    right = [row.output for row in local if row.passed]
    if not wrong:
        return [f"{ALONE} right in every output: the error is between steps"]
    line = f"{ALONE} wrong in {', '.join(wrong)}"
    return [line + (f"; right in {', '.join(right)}" if right else "")]
