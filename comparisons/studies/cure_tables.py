"""The cures at work, as tables for a terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..reporting.tables import blank_table, indented, number, ratio, verdict_text
from .cure_measurements import LIMIT as CLIP_LIMIT
from .cure_measurements import ClippingMeasurement, CureMeasurement, TruncationMeasurement
from .cures import Cures

CURES_LEGEND = (
    "All variants see the same x; Q is orthogonal, and so is every block of W_hh where nothing "
    "else is said; biases not named and s_0 are 0. Norms are the largest of the batch's rows. per "
    "step: slope of log ‖∂s_T/∂s_k‖ over the lag T − k, as a factor; < 0.001: the first lag at "
    "which the norm is below (tanh's lag: with W_hh = Q); e^λ: largest Lyapunov exponent; "
    "‖∂L/∂W‖: of all weights together, for a loss that is linear in h_T and reads nothing else."
)


def rendered_cures(cures: Cures, seconds: float) -> RenderableType:
    """Every variant, clipping, truncation, what disagrees with the reference, and the totals."""
    parts: list[RenderableType] = [cures_table(cures)]
    parts += [clipping_table(cures.clipping)] if cures.clipping else []
    parts += [truncation_table(cures.truncation)] if cures.truncation else []
    parts += [Text(CURES_LEGEND, style="dim")]
    parts += [indented(line) for line in cures.failures]
    return Group(*parts, Text(f"{agreement_line(cures.variants)}; {seconds:.1f} s", style="bold"))


def cures_table(cures: Cures) -> Table:
    """A line per variant."""
    letters = zip("TBIH", cures.sizes.values(), strict=True)
    sizes = ", ".join(f"{letter}={size}" for letter, size in letters)
    drawn = f"({sizes}, seed {cures.environment['seed']})"
    table = blank_table(f"How far a gradient reaches back: ‖∂s_T/∂s_k‖ over k {drawn}")
    table.add_column("variant", overflow="fold")
    for heading in ("per step", "‖∂s_T/∂s_0‖", "< 0.001", "e^λ", "‖∂L/∂W‖"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(cures.variants[0].reference or "", no_wrap=True)
    table.add_column("at the full distance", overflow="fold")
    for row in cures.variants:
        table.add_row(
            Text(row.label),
            factor(row.factor_per_step),
            number(row.norm_at_start),
            "never" if row.lag_below is None else f"lag {row.lag_below}",
            factor(row.largest_growth),
            number(row.gradient_norm),
            verdict_text(bool(row.agrees)),
            Text(row.finding),
        )
    return table


def factor(value: float | None) -> str:
    """A factor per step in three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def clipping_table(rows: Iterable[ClippingMeasurement]) -> Table:
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
        table.add_row(
            Text(row.label),
            row.clipping,
            f"{row.norm_before:.3g} → {row.norm_after:.3g}",
            f"{row.changed:.1%}",
            f"{row.enlarged:.1%}",
            f"{row.cosine:.3f}",
            f"{row.smallest:.3g} … {row.largest:.3g}",
            f"{factor(row.decay_before)} → {factor(row.decay_after)}",
        )
    return table


TRUNCATION_NUMBERS = (
    "K",
    "beyond, whole",
    "beyond, cut",
    "within: difference",
    "‖∂L/∂W‖ whole",
    "cut",
    "lost",
)


def truncation_table(rows: Iterable[TruncationMeasurement]) -> Table:
    """A line per truncated variant."""
    told = "∂L/∂s_k beyond it and within, and what ∂L/∂W loses"
    table = blank_table(f"Truncation to a window of K steps: {told}")
    table.add_column("variant", overflow="fold")
    for heading in TRUNCATION_NUMBERS:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            Text(row.label),
            str(row.window),
            number(row.beyond_whole),
            f"{row.beyond:g}",
            f"{row.difference:.2g}",
            f"{row.norm_whole:.4g}",
            f"{row.norm_cut:.4g}",
            f"{row.lost:.1%}",
        )
    return table


def agreement_line(variants: Sequence[CureMeasurement]) -> str:
    """Whether the variants agree with the reference."""
    agree = sum(bool(each.agrees) for each in variants)
    worst = max(each.error_over_noise or 0.0 for each in variants)
    count = f"all {len(variants)}" if agree == len(variants) else f"{agree} of {len(variants)}"
    judged = f"agree with {variants[0].reference}'s Jacobians and gradients"
    return f"{count} variants {judged}; worst error {ratio(worst)} the noise"
