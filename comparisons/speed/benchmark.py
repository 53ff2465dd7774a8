"""The command line of the benchmark: how fast the hand-derived gradients are, beside torch and jax.

    python comparisons/benchmark.py                  RNN, LSTM, GRU in float64 and float32, small
                                                     to large, short to long; then Jacobians, a
                                                     verdict, the start, and how time grows
    python comparisons/benchmark.py --quick          the smallest sizes alone, in less than a minute
    python comparisons/benchmark.py --only verdict   one section: gradients, Jacobians, products,
                                                     verdict, start, memory, growth
    python comparisons/benchmark.py --json FILE      the same numbers as JSON, written anew after
                                                     every line
    python comparisons/benchmark.py --read FILE      tables in Markdown of what --json wrote;
                                                     nothing is timed

Told are ratios: below 1 the hand-derived is faster. Exit status: 0, 1 if two contenders differ in
a gradient, 2 if the question could not be asked.
"""

import json as as_json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ..errors import QuestionError
from ..reporting import files
from ..reporting.tables import blank_table, console
from . import costs, throughput
from .costs import Cost
from .throughput import Result, Sizes, Spread

LEGEND = (
    "Time by hand over the contender's, for loss and every gradient: the median, its 10 %–90 % "
    "range; below 1 by hand is "
    "faster. Last column: the share of its time that NumPy's matrix products alone take."
)

GRADIENTS = "gradients"
SECTIONS = (GRADIENTS, "Jacobians", "products", "verdict", "start", "memory", "growth")
PER_LINE, PER_LINE_QUICK = 2.5, 1.0  # seconds
Costs = Mapping[str, Sequence[Cost]]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def benchmark(
    quick: Annotated[bool, typer.Option("--quick", help="The smallest sizes alone.")] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The results as JSON.", show_default=False)
    ] = None,
    read: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Markdown of such JSON.", show_default=False)
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help="Only rnn, lstm or gru.", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this section.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="For every contender.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Per line.", show_default="2.5, or 1 if quick")
    ] = None,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="torch.compile too: it unrolls the loop, minutes a line."),
    ] = False,
) -> None:
    """Time the hand-derived gradients beside torch and jax, in turns."""
    must_be_one_of(throughput.NAMES, [cell] if cell else [], "--cell")
    must_be_one_of(SECTIONS, only or [], "--only")
    if read is not None:
        typer.echo(markdown(*from_dict(as_json.loads(read.read_text()))))
        return
    if json is not None:
        files.prepare_file(json)
    asked, each = (
        only or SECTIONS,
        seconds if seconds is not None else PER_LINE_QUICK if quick else PER_LINE,
    )
    throughput.use_threads(threads)
    tasks = (
        throughput.tasks(quick, (cell,) if cell else throughput.NAMES) if GRADIENTS in asked else []
    )
    sections = {
        name: section for name, section in costs.sections(quick, each).items() if name in asked
    }
    found = Measured(throughput.versions(threads), json)
    try:
        measure(found, tasks, sections, each, compile)
    except throughput.ContendersDisagree as error:
        console(stderr=True).print(Text(str(error), style="bold red"))
        raise typer.Exit(1) from error
    console().print(rendered(found.results, found.costs, found.versions))


def must_be_one_of(known: Sequence[str], given: Sequence[str], option: str) -> None:
    """Raises BadParameter for what is not known."""
    for name in given:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint=option)


@dataclass
class Measured:
    """What has been measured so far, and the file it is written to."""

    versions: Mapping[str, Any]
    target: Path | None
    results: list[Result] = field(default_factory=list[Result])
    costs: dict[str, list[Cost]] = field(default_factory=dict[str, list[Cost]])

    def save(self) -> None:
        """The file as it would be if this were all. Raises BadTarget."""
        if self.target is not None:
            told = as_dict(self.results, self.costs, self.versions)
            files.write_text(self.target, as_json.dumps(told, indent=2) + "\n")


def measure(
    found: Measured,
    tasks: Sequence[tuple[str, throughput.Sizes, str]],
    sections: Mapping[str, Callable[[], list[Cost]]],
    seconds: float,
    with_compile: bool,
) -> None:
    """Adds a result per task and the costs of every section, saving after each.

    A progress bar on a terminal meanwhile.
    """
    shown = console(stderr=True)
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as progress:
        bar = progress.add_task("timing", total=len(tasks) + len(sections))
        for name, sizes, dtype in tasks:
            progress.update(bar, description=f"{name} {sizes} {dtype}")
            found.results.append(
                throughput.measured(throughput.task_of(name, sizes, dtype), seconds, with_compile)
            )
            found.save()
            progress.advance(bar)
        for name, section in sections.items():
            progress.update(bar, description=name)
            found.costs[name] = section()
            found.save()
            progress.advance(bar)


def rendered(
    results: Sequence[Result], found: Costs, versions: Mapping[str, Any]
) -> RenderableType:
    """A table for each cell and dtype, one for each section of other costs, and what the numbers
    depend on.
    """
    tables = [table(title, own) for title, own in grouped(results)]
    tables += [cost_table(name, own) for name, own in found.items()]
    return Group(*tables, Text(LEGEND, style="dim"), Text(told(versions)))


def grouped(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """By cell and dtype."""
    ordered = sorted(results, key=lambda r: (r.cell, r.dtype))
    return [
        (f"{cell}, {dtype}", list(own))
        for (cell, dtype), own in groupby(ordered, key=lambda r: (r.cell, r.dtype))
    ]


def told(versions: Mapping[str, Any]) -> str:
    """Threads and versions in a line."""
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def cost_table(title: str, found: Sequence[Cost]) -> Table:
    """A line per cost."""
    made = blank_table(title)
    for name in ("what", "sizes", *found[0].values, "goal"):
        made.add_column(name)
    for each in found:
        made.add_row(
            each.what, each.sizes, *(as_text(value) for value in each.values.values()), each.goal
        )
    return made


def markdown(results: Sequence[Result], found: Costs, versions: Mapping[str, Any]) -> str:
    """The ratios alone, as Markdown: a line per cell and sizes, then a line per cost; medians."""
    lines = markdown_of_gradients(results) if results else []
    if found:
        lines += ["", *markdown_rows(["what", "sizes", "ratios"])]
    for each in (cost for section in found.values() for cost in section):
        ratios = [
            f"{value.median:.2f} {name}" for name, value in each.values.items() if name != "seconds"
        ]
        lines.append(f"| {each.what} | {each.sizes} | {', '.join(ratios)} |")
    return "\n".join([*lines, "", told(versions)])


def markdown_of_gradients(results: Sequence[Result]) -> list[str]:
    """A line per cell and sizes, with columns for every dtype."""
    names, dtypes = list(results[0].ratios), list(dict.fromkeys(each.dtype for each in results))
    lines = markdown_rows(
        [
            "cell",
            "T·B·I·H·V",
            *(f"{dtype}: {name}" for dtype in dtypes for name in (*names, throughput.PRODUCTS)),
        ]
    )
    rows: dict[tuple[str, str], dict[str, Result]] = {}
    for each in results:
        rows.setdefault((each.cell, str(each.sizes)), {})[each.dtype] = each
    for (cell, sizes), own in rows.items():
        cells: list[str] = []
        for dtype in dtypes:
            told_of = own.get(dtype)
            ratios = (
                [f"{told_of.ratios[name].median:.2f}" for name in names]
                if told_of
                else [""] * len(names)
            )
            cells += [*ratios, f"{told_of.share.median:.0%}" if told_of else ""]
        lines.append(f"| {' | '.join([cell, sizes, *cells])} |")
    return lines


def markdown_rows(names: Sequence[str]) -> list[str]:
    """A header."""
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def table(title: str, results: Sequence[Result]) -> Table:
    """A line per size: the ratio to every contender, and the share of the matrix products."""
    made = blank_table(title)
    made.add_column("T·B·I·H·V")
    for name in (*results[0].ratios, throughput.PRODUCTS):
        made.add_column(name, justify="right", no_wrap=True)
    for result in results:
        made.add_row(
            str(result.sizes),
            *(as_text(each) for each in result.ratios.values()),
            as_text(result.share, "%"),
        )
    return made


def as_text(found: Spread, unit: str = "") -> str:
    """The median, and its range in brackets."""
    median, low, high = (
        (f"{value:.0%}" if unit else f"{value:.2f}")
        for value in (found.median, found.low, found.high)
    )
    return f"{median} ({low}–{high})"


def as_dict(results: Sequence[Result], found: Costs, versions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    other = {name: [asdict(cost) for cost in section] for name, section in found.items()}
    return {
        "versions": dict(versions),
        "results": [asdict(result) for result in results],
        "costs": other,
    }


def from_dict(
    given: Mapping[str, Any],
) -> tuple[list[Result], dict[str, list[Cost]], dict[str, Any]]:
    """What `as_dict` was made of."""
    results = [_result(each) for each in given["results"]]
    found = {
        name: [
            Cost(each["what"], each["sizes"], _spreads(each["values"]), each["goal"])
            for each in section
        ]
        for name, section in given["costs"].items()
    }
    return results, found, given["versions"]


def _result(each: Mapping[str, Any]) -> Result:
    measured = _spreads(each["ratios"]), Spread(**each["share"])
    return Result(each["cell"], each["dtype"], Sizes(**each["sizes"]), each["rounds"], *measured)


def _spreads(given: Mapping[str, Any]) -> dict[str, Spread]:
    return {name: Spread(**value) for name, value in given.items()}


def main() -> None:
    """Run the command line; a file that cannot be written is one line on standard error, and exit
    status 2.
    """
    try:
        app()
    except QuestionError as error:
        typer.echo(f"benchmark: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
