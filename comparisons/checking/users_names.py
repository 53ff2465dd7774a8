"""What is said of a user's cell, in the names that the user gave."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..errors import QuestionError
from ..judging.findings import Finding
from ..judging.verdict import Verdict
from ..problems.names import is_marked, shown
from .case_report import CaseReport

INPUT = "x"


def in_users_names(cases: Iterable[CaseReport]) -> Iterator[CaseReport]:
    """The cases, and the errors that asking for them raises, in the user's names."""
    try:
        for case in cases:
            yield _told(case)
    except QuestionError as error:
        error.args = shown(error.args)
        raise


def _told(case: CaseReport) -> CaseReport:
    """The case in the user's names.

    Where x, or an initial state, has the name of a parameter, it is the one that is called
    otherwise.
    """
    gradients = dict.fromkeys(row.gradient for row in case.rows)
    taken = {shown(name) for name in gradients if is_marked(name)}
    others = (name for name in gradients if not is_marked(name))
    renamed = {name: _otherwise(name) for name in others if shown(name) in taken}
    if renamed:
        case = replace(
            case,
            rows=_rows(case.rows, renamed),
            not_given=[renamed.get(name, name) for name in case.not_given],
            vacuous=[renamed.get(name, name) for name in case.vacuous],
            diagnosis=[_finding(found, renamed) for found in case.diagnosis],
        )
    return shown(case)


def _otherwise(name: str) -> str:
    return f"the input {name}" if name == INPUT else f"the initial state {name}"


def _rows(rows: Sequence[Verdict], renamed: dict[str, str]) -> list[Verdict]:
    told: list[Verdict] = []
    for row in rows:
        name = renamed.get(row.gradient, row.gradient)
        told.append(row if name == row.gradient else replace(row, gradient=name))
    return told


def _finding(found: Finding, renamed: dict[str, str]) -> Finding:
    if found.where not in renamed:
        return found
    where = renamed[found.where]
    more: dict[str, Any] = {"where": where, "text": f"{where}: {found.text}"}
    return replace(found, **more)
