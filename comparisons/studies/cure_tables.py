"""The cures at work, as tables for a terminal."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..reporting.tables import blank_table, indented, number, ratio, verdict_text
from .cure_measurements import LIMIT as CLIP_LIMIT
from .cure_measurements import ClipRow, Row, WindowRow
from .cures import Cures

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
    sizes = ", ".join(
        f"{letter}={size}" for letter, size in zip("TBIH", cures.sizes.values(), strict=True)
    )
    table = blank_table(
        f"How far a gradient reaches back: ‖∂s_T/∂s_k‖ over k ({sizes}, seed {cures.environment['seed']})"
    )
    table.add_column("variant", overflow="fold")
    for heading in ("per step", "‖∂s_T/∂s_0‖", "< 0.001", "e^λ", "‖∂L/∂W‖"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(cures.rows[0].reference or "", no_wrap=True)
    table.add_column("at the full distance", overflow="fold")
    for row in cures.rows:
        lag = "never" if row.lag_below is None else f"lag {row.lag_below}"
        numbers = (
            number(row.norm_at_start),
            lag,
            factor(row.largest_growth),
            number(row.gradient_norm),
        )
        table.add_row(
            Text(row.label),
            factor(row.factor_per_step),
            *numbers,
            verdict_text(bool(row.agrees)),
            Text(row.finding),
        )
    return table


def factor(value: float | None) -> str:
    """A factor per step in three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def clipping_table(rows: Iterable[ClipRow]) -> Table:
    """A line per way of clipping and variant."""
    heading = (
        "the gradient of all weights and of x, before → after; decay: of ‖∂L/∂x_k‖ per step back"
    )
    table = blank_table(f"Clipping to {CLIP_LIMIT:g}: {heading}")
    for heading in ("variant", "clipped by"):
        table.add_column(heading, no_wrap=True)
    for heading in ("norm", "changed", "larger", "cosine", "entries", "decay"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        norms, entries = (
            f"{row.norm_before:.3g} → {row.norm_after:.3g}",
            f"{row.smallest:.3g} … {row.largest:.3g}",
        )
        shares, decays = (
            (f"{row.changed:.1%}", f"{row.enlarged:.1%}"),
            f"{factor(row.decay_before)} → {factor(row.decay_after)}",
        )
        table.add_row(
            Text(row.label), row.clipping, norms, *shares, f"{row.cosine:.3f}", entries, decays
        )
    return table


def truncation_table(rows: Iterable[WindowRow]) -> Table:
    """A line per truncated variant."""
    table = blank_table(
        "Truncation to a window of K steps: ∂L/∂s_k beyond it and within, and what ∂L/∂W loses"
    )
    table.add_column("variant", overflow="fold")
    for heading in (
        "K",
        "beyond, whole",
        "beyond, cut",
        "within: difference",
        "‖∂L/∂W‖ whole",
        "cut",
        "lost",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        beyond = (number(row.beyond_whole), f"{row.beyond:g}", f"{row.difference:.2g}")
        weights = (f"{row.norm_whole:.4g}", f"{row.norm_cut:.4g}", f"{row.lost:.1%}")
        table.add_row(Text(row.label), str(row.window), *beyond, *weights)
    return table


def agreement_line(rows: list[Row]) -> str:
    """Whether the variants agree with the reference."""
    agree, worst = (
        sum(bool(row.agrees) for row in rows),
        max(row.error_over_noise or 0.0 for row in rows),
    )
    count = f"all {len(rows)}" if agree == len(rows) else f"{agree} of {len(rows)}"
    return f"{count} variants agree with {rows[0].reference}'s Jacobians and gradients; worst error {ratio(worst)} the noise"
