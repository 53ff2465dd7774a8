"""A Report as tables for a terminal, by rich."""

import os
import shutil
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..checking.case_report import CaseReport
from ..checking.report_data import Report
from ..checking.training_row import ParameterVerdict, TrainingRow
from ..checking.words import report_lines
from ..judging.verdict import Verdict

NARROW = 120  # columns where the output is not a terminal
LINES = 25  # likewise


def legend() -> str:
    """What the table's columns mean."""
    from ..witnesses.tolerance import LIMIT, LOW_LIMIT

    return (
        "CE softmax cross-entropy, SE ½ squared error; at every step, the last, or masked ones; "
        "summed or averaged. error/noise: the worst error in units of what rounding explains on "
        f"that very problem, up to {LIMIT:g} agrees ({LOW_LIMIT:g} below float64). –: not asked, "
        "or not told by that reference."
    )


def console(stderr: bool = False) -> Console:
    """A console that wraps at the terminal's width, or at NARROW columns in a pipe.

    COLUMNS says otherwise where it is a width at all.
    """
    if "COLUMNS" in os.environ:
        size = shutil.get_terminal_size((NARROW, LINES))
        return Console(stderr=stderr, highlight=False, width=size.columns, height=size.lines)
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=NARROW)


def number(value: float | None) -> str:
    """Two digits, or a dash for what was not asked."""
    return "–" if value is None else f"{value:.1e}"


def ratio(value: float) -> str:
    """A multiple of the noise as a person reads it."""
    return f"{value:.2f}×" if value < 1000 else f"{value:.1e}×"


def verdict_text(passed: bool) -> Text:
    """The verdict in a word, in colour."""
    return Text("agree", style="green") if passed else Text("DIFFER", style="bold red")


def _summary_table(cases: Sequence[CaseReport]) -> Table:
    """A line per case: sizes, loss, each reference's worst error, error over noise, the verdict."""
    names = _references(cases)
    table = blank_table("Hand-derived gradients against the references: worst relative error")
    table.add_column("case", overflow="fold", min_width=14)
    table.add_column("T·B·I·H·V", justify="right", overflow="fold")
    table.add_column("loss")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("error / noise", justify="right", min_width=7)
    table.add_column("verdict", min_width=7)
    for case in cases:
        errors = [number(case.worst_rel_error(name)) for name in names]
        sizes = "·".join(str(size) for size in _sizes(case) if size is not None)
        noise = ratio(case.worst_over_noise())
        verdict = verdict_text(case.passed)
        table.add_row(Text(full_name(case)), sizes, Text(case.loss), *errors, noise, verdict)
    return table


def full_name(case: CaseReport) -> str:
    """The case's name, with its cell in front."""
    return case.name if case.name.startswith(case.cell) else f"{case.cell} {case.name}"


def blank_table(title: str) -> Table:
    """A table without rows and columns, in the manner of all."""
    return Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )


def _sizes(case: CaseReport) -> tuple[int | None, ...]:
    return (case.steps, case.batch, case.input_size, case.hidden_size, case.output_size)


NUMBERS_OF_A_ROW = (
    "max abs error",
    "max rel error",
    "noise",
    "error / noise",
    "worst step",
    "worst index",
    "first wrong step",
)


def _detail_table(case: CaseReport) -> Table:
    """A line per gradient and reference."""
    table = blank_table(f"{full_name(case)}: every gradient against every reference")
    table.add_column("gradient", overflow="fold")
    table.add_column("reference", overflow="fold")
    for heading in NUMBERS_OF_A_ROW:
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for row in [*case.forward, *case.rows]:
        table.add_row(*_cells(row), verdict_text(row.passed))
    return table


def _cells(row: Verdict) -> list[str | Text]:
    index = None if row.worst_index is None else ",".join(map(str, row.worst_index))
    step = None if row.first_wrong_step is None else str(row.first_wrong_step)
    worst_step = row.step_error_over_noise
    return [
        Text(row.gradient),
        Text(row.reference),
        number(row.max_abs_error),
        number(row.max_rel_error),
        number(row.noise),
        ratio(row.error_over_noise),
        "–" if worst_step is None else ratio(worst_step),
        "–" if index is None else index,
        "–" if step is None else step,
    ]


OPTIMISERS = {"sgd": "plain SGD", "momentum": "SGD with momentum", "adam": "Adam"}
CLIPS = {"norm": ", gradients clipped by global norm", "value": ", gradients clipped by value"}


def way_of_training(run: TrainingRow) -> str:
    """Cell, optimiser and clipping in words."""
    optimiser = str(run.settings["optimiser"])
    clip = CLIPS.get(str(run.settings["clip"]), "")
    return f"{run.cell}, {OPTIMISERS.get(optimiser, optimiser)}{clip}"


def training_lines(report: Report) -> list[str]:
    """What the text cases say of their training."""
    lines: list[str] = []
    for run in report.training:
        text = f"{run.text}: {run.characters:,} characters, {run.vocabulary} distinct"
        updates = f"{run.updates} updates ({way_of_training(run)})"
        losses = f"from {run.loss_before:.3f} to {run.loss_after:.3f}"
        lines.append(f"{text}; {updates} took the loss per character {losses}")
        lines += [_together(row) for row in run.rows]
    return lines


def _together(row: ParameterVerdict) -> str:
    who = f"manual and {row.reference} ({row.updated_by})"
    state = "stayed together" if row.passed else "DRIFTED APART"
    error = f"{row.max_rel_error:.1e} relative"
    noise = f"{ratio(row.error_over_noise)} the noise"
    return (
        f"  {who}, trained apart from the same weights, {state}: "
        f"parameters differ by {error} ({row.parameter}; {noise})"
    )


def closing_line(report: Report, seconds: float) -> str:
    """Totals and seconds."""
    if not report.cases:
        return f"nothing was compared; {seconds:.1f} s"
    told = [row for case in report.cases for row in case.seen_rows()]
    agree, rows = sum(row.passed for row in told), len(told)
    cases = f"{sum(case.passed for case in report.cases)} of {len(report.cases)} cases"
    return f"{cases}, {agree} of {rows} comparisons agree; {seconds:.1f} s"


def indented(line: str) -> RenderableType:
    """The line, wrapped at its own indent."""
    lead = len(line) - len(line.lstrip())
    return Padding(Text(line.lstrip()), (0, 0, 0, lead))


def rendered(report: Report, seconds: float, verbose: bool) -> RenderableType:
    """The whole report: details if verbose, the table, the training, the failures, the totals."""
    parts: list[RenderableType] = []
    if verbose:
        parts += [_detail_table(case) for case in report.cases]
    parts.append(_summary_table(report.cases))
    parts += _proof_tables(report.cases)
    lines = training_lines(report)
    lines += report_lines([case for case in report.cases if not case.passed])
    lines += [f"{type(error).__name__}: {error}" for error in report.errors]
    lines += report.notes
    parts += [indented(line) for line in lines]
    parts.append(Text(legend(), style="dim"))
    parts.append(Text(closing_line(report, seconds), style="bold"))
    return Group(*parts)


def rendered_check(report: Report, seconds: float, verbose: bool) -> RenderableType:
    """A check of somebody's derivation: what is wrong, or one line that nothing is; gradients."""
    parts: list[RenderableType] = [indented(line) for line in str(report).splitlines()]
    if verbose:
        parts += [_detail_table(case) for case in report.cases]
    elif report.passed:
        parts.append(_gradient_table(report.cases))
    parts += _proof_tables(report.cases)
    parts.append(Text(closing_line(report, seconds), style="bold"))
    return Group(*parts)


def _proof_tables(cases: Sequence[CaseReport]) -> list[Table]:
    """The table of true errors, where a proof was asked for."""
    return [_proof_table(cases)] if any(case.true_error for case in cases) else []


def _proof_table(cases: Sequence[CaseReport]) -> Table:
    """A line per case and gradient: how far each is from the exact gradient, provably."""
    who: dict[str, None] = {}
    for case in cases:
        for errors in case.true_error.values():
            who |= dict.fromkeys(errors)
    table = blank_table(
        "True error, proven: units in the last place of the gradient's largest entry"
    )
    for heading in ("case", "gradient"):
        table.add_column(heading, overflow="fold")
    for name in who:
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        for gradient, errors in case.true_error.items():
            told = [f"{errors[name]:.3g}" if name in errors else "–" for name in who]
            table.add_row(Text(full_name(case)), Text(gradient), *told)
    return table


def _gradient_table(cases: Sequence[CaseReport]) -> Table:
    """A line per case and gradient: the worst relative error against each reference, in short."""
    names = list(dict.fromkeys(row.reference for case in cases for row in case.rows))
    table = blank_table("Relative error of each gradient, by reference")
    for heading in ("check", "gradient"):
        table.add_column(heading, overflow="fold")
    for name in (*names, "error / noise"):
        table.add_column(name, justify="right", no_wrap=True)
    told: dict[tuple[str, str], dict[str, Verdict]] = {}
    for case in cases:
        for row in case.rows:
            told.setdefault((case.name, row.gradient), {})[row.reference] = row
    for (case_name, gradient), rows in told.items():
        errors = [number(rows[name].max_rel_error if name in rows else None) for name in names]
        worst = ratio(max(row.worst_over_noise for row in rows.values()))
        table.add_row(Text(case_name), Text(gradient), *errors, worst)
    return table


def _references(cases: Iterable[CaseReport]) -> list[str]:
    """Those that were asked, in the order in which rows name them."""
    names: dict[str, None] = {}
    for case in cases:
        names |= dict.fromkeys(row.reference for row in [*case.rows, *case.forward])
    return list(names)
