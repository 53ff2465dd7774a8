"""The trial of the cross-check, as tables for a terminal."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..reporting.tables import blank_table, indented, number, ratio
from .mutation_score import EQUIVALENT, KILLED, ROUNDING, SURVIVED, WITHIN, Outcome
from .trial import Found

TRIAL_LEGEND = (
    "equal: the mutant's gradient is the true one there, and no mistake; within rounding: it "
    "differs from the true one, by no "
    f"more than {WITHIN:g} noises. Every mutant counts up to three times: as it is, in the whole "
    "gradient alone, in the shares "
    "of the steps alone."
)


def rendered_trial(found: Found, seconds: float) -> RenderableType:
    """Mutants by kind, cell and regime, what was missed, the sensitivity, false alarms, and which
    goals hold.
    """
    parts: list[RenderableType] = [
        mutant_table("Mutants by kind of mistake", "mistake", found.by(0)),
        mutant_table("Mutants by cell", "cell", found.by(1)),
        mutant_table("Mutants by regime", "regime", found.by(2)),
        Text(TRIAL_LEGEND, style="dim"),
        Text(
            "caught by: "
            + ", ".join(f"{how} {count:,}" for how, count in found.manners.most_common())
        ),
    ]
    parts += [indented(_missed_line(each)) for each in found.missed]
    parts += [sensitivity_table(found)]
    parts += [indented(line) for line in alarm_lines(found)]
    parts += [side_table(found)] if found.sides else []
    parts += [indented(time_line(found.times))] if found.times else []
    for goal in found.goals():
        parts.append(
            Text.assemble(verdict_of_goal(goal.holds), f"  {goal.statement}: {goal.measured}")
        )
    return Group(*parts, Text(f"{seconds:.0f} s", style="bold"))


def _missed_line(each: Outcome) -> str:
    """A mutant that was not caught: what it is, where, and how far it is from the truth."""
    which = f"{each.kind}, {each.what} ({each.level}), {each.cell}, {each.regime}"
    error = f"{number(each.relative_error)} relative"
    return f"{each.verdict}: {which}: {error}, {ratio(each.error_over_noise)} the noise"


def verdict_of_goal(holds: bool) -> Text:
    """Whether a goal holds, in a word."""
    return Text("holds ", style="green") if holds else Text("MISSED", style="bold red")


def mutant_table(title: str, what: str, table: Mapping[str, Mapping[str, int]]) -> Table:
    """A line per kind, cell or regime: how many mutants, and what became of them."""
    made = blank_table(title)
    made.add_column(what, overflow="fold")
    for heading in (
        "mutants",
        "equal",
        "caught",
        "within rounding",
        "survived",
        "caught of mistakes",
    ):
        made.add_column(heading, justify="right", no_wrap=True)
    for name, verdicts in table.items():
        total, equal, killed = (
            sum(verdicts.values()),
            verdicts.get(EQUIVALENT, 0),
            verdicts.get(KILLED, 0),
        )
        share = f"{killed / (total - equal):.1%}" if total > equal else "–"
        numbers = (total, equal, killed, verdicts.get(ROUNDING, 0), verdicts.get(SURVIVED, 0))
        made.add_row(Text(name), *(f"{count:,}" for count in numbers), share)
    return made


def sensitivity_table(found: Found) -> Table:
    """A line per regime: the smallest relative error in one entry that was always caught."""
    made = blank_table("Smallest relative error in one entry that is never missed")
    for heading in ("regime", "of a gradient", "hardest in", "of a step's share", "hardest in"):
        made.add_column(heading, overflow="fold")
    for regime in found.by(2):
        whole, step = found.never_missed(regime, False), found.never_missed(regime, True)
        cells = [
            (number(e.least_caught), f"{e.gradient}, {e.cell}") if e is not None else ("–", "–")
            for e in (whole, step)
        ]
        made.add_row(regime, *cells[0], *cells[1])
    return made


def alarm_lines(found: Found) -> list[str]:
    """How many comparisons of right derivations there were, and the largest error over noise."""
    lines = [f"ALARM at the right derivation: {each}" for each in found.rejected]
    for dtype, each in found.alarms.items():
        lines += [f"FALSE ALARM: {where}" for where in each.alarms]
        overflowed = f", {each.overflowed} more overflowed" if each.overflowed else ""
        lines.append(
            f"right derivations, {dtype}: {each.comparisons:,} comparisons of whole gradients and "
            f"{each.step_comparisons:,} of "
            f"single steps on {each.problems - each.overflowed:,} random problems{overflowed}: "
            f"{len(each.alarms)} alarms; "
            f"largest error / noise {each.worst:.2f} ({each.where})"
        )
    return lines


def side_table(found: Found) -> Table:
    """A line per thing planted: how often each checker objected, and how long it took."""
    names = list(dict.fromkeys(side.checker for side in found.sides))
    made = blank_table(
        "Side by side: how many of the same mistakes each checker objects to, and seconds a verdict"
    )
    made.add_column("planted", overflow="fold")
    for name in names:
        made.add_column(name, justify="right", overflow="fold")
    for planted, dtype in dict.fromkeys((side.planted, side.dtype) for side in found.sides):
        row = {
            side.checker: side
            for side in found.sides
            if (side.planted, side.dtype) == (planted, dtype)
        }
        told = (
            f"{row[name].objected} of {row[name].asked}, "
            f"{row[name].seconds / row[name].asked:.2f} s"
            for name in names
        )
        made.add_row(f"{planted}, {dtype}", *told)
    return made


def time_line(times: Mapping[str, float]) -> str:
    """How long each checker needs for the large problem."""
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
    return f"time to verdict for a right LSTM of T = 50, H = 32: {told}"
