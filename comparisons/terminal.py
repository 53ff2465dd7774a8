"""A Report as tables for a terminal, by rich."""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from comparisons.cures import LIMIT as CLIP_LIMIT
from comparisons.cures import ClipRow, Cures, Row, WindowRow
from comparisons.tolerance import LIMIT
from comparisons.verdict import CaseReport, Report, Verdict, report_lines

LEGEND = (
    "CE softmax cross-entropy, SE ½ squared error; at every step, the last, or masked ones; summed or averaged. "
    f"error/noise: the worst error in units of what rounding explains on that very problem, up to {LIMIT:g} agrees. "
    "–: not asked, or not told by that reference."
)
NARROW = 120  # columns where the output is not a terminal


def console(stderr: bool = False) -> Console:
    """A console that wraps at the terminal's width, or at NARROW columns in a pipe."""
    made = Console(stderr=stderr, highlight=False)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(stderr=stderr, highlight=False, width=NARROW)


def number(value: float | None) -> str:
    """Two digits, or a dash for what was not asked."""
    return "–" if value is None else f"{value:.1e}"


def ratio(value: float) -> str:
    """A multiple of the noise as a person reads it."""
    return f"{value:.2f}×" if value < 1000 else f"{value:.1e}×"


def verdict_text(passed: bool) -> Text:
    """The verdict in a word, in colour."""
    return Text("agree", style="green") if passed else Text("DIFFER", style="bold red")


def summary_table(cases: Iterable[CaseReport], references: Iterable[str]) -> Table:
    """A line per case: sizes, loss, each reference's worst relative error, the share of rounding, the verdict."""
    names = list(references)
    table = _table("Hand-derived gradients against the references: worst relative error")
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
        table.add_row(
            Text(full_name(case)), sizes, Text(case.loss), *errors, ratio(case.worst_over_noise()), verdict_text(case.passed)
        )
    return table


def full_name(case: CaseReport) -> str:
    """The case's name, with its cell in front."""
    return case.name if case.name.startswith(case.cell) else f"{case.cell} {case.name}"


def _table(title: str) -> Table:
    return Table(
        title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False
    )


def _sizes(case: CaseReport) -> tuple[int | None, ...]:
    return (case.steps, case.batch, case.input_size, case.hidden_size, case.output_size)


def detail_table(case: CaseReport) -> Table:
    """A line per gradient and reference."""
    table = _table(f"{full_name(case)}: every gradient against every reference")
    table.add_column("gradient", overflow="fold")
    table.add_column("reference", overflow="fold")
    for heading in ("max abs error", "max rel error", "noise", "error / noise", "worst step", "worst index", "first wrong step"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for row in [*case.forward, *case.rows]:
        table.add_row(*_cells(row), verdict_text(row.passed))
    return table


def _cells(row: Verdict) -> list[str | Text]:
    return [
        Text(row.gradient),
        Text(row.reference),
        number(row.max_abs_error),
        number(row.max_rel_error),
        number(row.noise),
        ratio(row.error_over_noise),
        "–" if row.step_error_over_noise is None else ratio(row.step_error_over_noise),
        "–" if row.worst_index is None else ",".join(map(str, row.worst_index)),
        "–" if row.first_wrong_step is None else str(row.first_wrong_step),
    ]


OPTIMISERS = {"sgd": "plain SGD", "momentum": "SGD with momentum", "adam": "Adam"}
CLIPS = {"norm": ", gradients clipped by global norm", "value": ", gradients clipped by value"}


def way_of_training(run: Mapping[str, Any]) -> str:
    """Optimiser, clipping and cell in words; plain SGD where a report says nothing of it."""
    optimiser = str(run.get("optimiser", "sgd"))
    words = OPTIMISERS.get(optimiser, optimiser) + CLIPS.get(str(run.get("clip")), "")
    return f"{run['cell']}, {words}" if "cell" in run else words


def training_lines(report: Report) -> list[str]:
    """What the text cases say of their training."""
    lines: list[str] = []
    for run in report.training:
        lines.append(
            f"{run['text']}: {run['characters']:,} characters, {run['vocabulary']} distinct; {run['updates']} updates "
            f"({way_of_training(run)}) took the loss per character from {run['loss_before']:.3f} to {run['loss_after']:.3f}"
        )
        for row in run["rows"]:
            state = "stayed together" if row["passed"] else "DRIFTED APART"
            by = f" ({row['updated_by']})" if "updated_by" in row else ""
            lines.append(
                f"  manual and {row['reference']}{by}, trained apart from the same weights, {state}: parameters differ by "
                f"{row['max_rel_error']:.1e} relative ({row['parameter']}; {ratio(row['error_over_noise'])} the noise)"
            )
    return lines


def closing_line(report: Report, seconds: float) -> str:
    """Totals and seconds."""
    agree = sum(row.passed for row in report.rows)
    cases = sum(case.passed for case in report.cases)
    if not report.cases:
        return f"nothing was compared; {seconds:.1f} s"
    return f"{cases} of {len(report.cases)} cases, {agree} of {len(report.rows)} comparisons agree; {seconds:.1f} s"


def indented(line: str) -> RenderableType:
    """The line, wrapped at its own indent."""
    lead = len(line) - len(line.lstrip())
    return Padding(Text(line.lstrip()), (0, 0, 0, lead))


def rendered(report: Report, seconds: float, verbose: bool) -> RenderableType:
    """The whole report: details first if verbose, then the table, the training, the failures, the totals."""
    references = list(dict.fromkeys(row.reference for case in report.cases for row in [*case.rows, *case.forward]))
    parts: list[RenderableType] = [detail_table(case) for case in report.cases] if verbose else []
    parts.append(summary_table(report.cases, references))
    parts += [
        indented(line)
        for line in [*training_lines(report), *report_lines([case for case in report.cases if not case.passed]), *report.notes]
    ]
    parts += [Text(LEGEND, style="dim"), Text(closing_line(report, seconds), style="bold" if math.isfinite(seconds) else "")]
    return Group(*parts)


def rendered_check(report: Report, seconds: float, verbose: bool) -> RenderableType:
    """A check of somebody's derivation: what is wrong, or one line that nothing is; then the table of every gradient."""
    parts: list[RenderableType] = [indented(line) for line in str(report).splitlines()]
    parts += [detail_table(case) for case in report.cases] if verbose else []
    parts += [gradient_table(report.cases)] if report.passed and not verbose else []
    parts.append(Text(closing_line(report, seconds), style="bold"))
    return Group(*parts)


def gradient_table(cases: Iterable[CaseReport]) -> Table:
    """A line per case and gradient: the worst relative error against each reference, in short."""
    rows = [(case, row) for case in cases for row in case.rows]
    names = list(dict.fromkeys(row.reference for _, row in rows))
    table = _table("Relative error of each gradient, by reference")
    for heading in ("check", "gradient"):
        table.add_column(heading, overflow="fold")
    for name in (*names, "error / noise"):
        table.add_column(name, justify="right", no_wrap=True)
    for case_name, gradient in dict.fromkeys((case.name, row.gradient) for case, row in rows):
        told = {row.reference: row for case, row in rows if (case.name, row.gradient) == (case_name, gradient)}
        errors = [number(told[name].max_rel_error if name in told else None) for name in names]
        table.add_row(Text(case_name), Text(gradient), *errors, ratio(max(row.worst_over_noise for row in told.values())))
    return table


CURES_LEGEND = (
    "All variants see the same x; Q is orthogonal, and so is every block of W_hh where nothing else is said; biases not named "
    "and s_0 are 0. Norms are the largest of the batch's rows. per step: slope of log ‖∂s_T/∂s_k‖ over the lag T − k, as a "
    "factor; < 0.001: the first lag at which the norm is below (tanh's lag: with W_hh = Q); e^λ: largest Lyapunov exponent; "
    "‖∂L/∂W‖: of all weights together, for a loss that is linear in h_T and reads nothing else."
)


def rendered_cures(cures: Cures, seconds: float) -> RenderableType:
    """The measurement of every variant, clipping, truncation, what disagrees with the reference, and the totals."""
    parts: list[RenderableType] = [cures_table(cures)]
    parts += [clipping_table(cures.clipping)] if cures.clipping else []
    parts += [truncation_table(cures.truncation)] if cures.truncation else []
    parts += [Text(CURES_LEGEND, style="dim")]
    parts += [indented(line) for line in cures.failures]
    return Group(*parts, Text(f"{agreement_line(cures.rows)}; {seconds:.1f} s", style="bold"))


def cures_table(cures: Cures) -> Table:
    """A line per variant."""
    sizes = ", ".join(f"{letter}={size}" for letter, size in zip("TBIH", cures.sizes.values(), strict=True))
    table = _table(f"How far a gradient reaches back: ‖∂s_T/∂s_k‖ over k ({sizes}, seed {cures.environment['seed']})")
    table.add_column("variant", overflow="fold")
    for heading in ("per step", "‖∂s_T/∂s_0‖", "< 0.001", "e^λ", "‖∂L/∂W‖"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(cures.rows[0].reference or "", no_wrap=True)
    table.add_column("at the full distance", overflow="fold")
    for row in cures.rows:
        lag = "never" if row.lag_below is None else f"lag {row.lag_below}"
        numbers = (number(row.norm_at_start), lag, factor(row.largest_growth), number(row.gradient_norm))
        table.add_row(Text(row.label), factor(row.factor_per_step), *numbers, verdict_text(bool(row.agrees)), Text(row.finding))
    return table


def factor(value: float | None) -> str:
    """A factor per step in three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def clipping_table(rows: Iterable[ClipRow]) -> Table:
    """A line per way of clipping and variant."""
    heading = "the gradient of all weights and of x, before → after; decay: of ‖∂L/∂x_k‖ per step back"
    table = _table(f"Clipping to {CLIP_LIMIT:g}: {heading}")
    for heading in ("variant", "clipped by"):
        table.add_column(heading, no_wrap=True)
    for heading in ("norm", "changed", "larger", "cosine", "entries", "decay"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        norms, entries = f"{row.norm_before:.3g} → {row.norm_after:.3g}", f"{row.smallest:.3g} … {row.largest:.3g}"
        shares, decays = (f"{row.changed:.1%}", f"{row.enlarged:.1%}"), f"{factor(row.decay_before)} → {factor(row.decay_after)}"
        table.add_row(Text(row.label), row.clipping, norms, *shares, f"{row.cosine:.3f}", entries, decays)
    return table


def truncation_table(rows: Iterable[WindowRow]) -> Table:
    """A line per truncated variant."""
    table = _table("Truncation to a window of K steps: ∂L/∂s_k beyond it and within, and what ∂L/∂W loses")
    table.add_column("variant", overflow="fold")
    for heading in ("K", "beyond, whole", "beyond, cut", "within: difference", "‖∂L/∂W‖ whole", "cut", "lost"):
        table.add_column(heading, justify="right")
    for row in rows:
        beyond = (number(row.beyond_whole), f"{row.beyond:g}", f"{row.difference:.2g}")
        weights = (f"{row.norm_whole:.4g}", f"{row.norm_cut:.4g}", f"{row.lost:.1%}")
        table.add_row(Text(row.label), str(row.window), *beyond, *weights)
    return table


def agreement_line(rows: list[Row]) -> str:
    """Whether the variants agree with the reference."""
    agree, worst = sum(bool(row.agrees) for row in rows), max(row.error_over_noise or 0.0 for row in rows)
    count = f"all {len(rows)}" if agree == len(rows) else f"{agree} of {len(rows)}"
    return f"{count} variants agree with {rows[0].reference}'s Jacobians and gradients; worst error {ratio(worst)} the noise"
