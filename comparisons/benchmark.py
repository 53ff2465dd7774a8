"""The command line of the benchmark: how fast the hand-derived gradients are, beside torch and jax.

    python comparisons/benchmark.py                  RNN, LSTM, GRU in float64 and float32, small to large, short to long
    python comparisons/benchmark.py --quick          the smallest sizes alone
    python comparisons/benchmark.py --json FILE      the same numbers as JSON

Told are ratios: below 1 the hand-derived is faster. Exit status: 0, 1 if two contenders differ in a gradient, 2 if the
question could not be asked.
"""

import json as as_json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from comparisons import files, throughput
from comparisons.errors import QuestionError
from comparisons.terminal import blank_table, console
from comparisons.throughput import Result, Spread

LEGEND = (
    "Time by hand over the contender's, for loss and every gradient: the median, its 10 %–90 % range; below 1 by hand is "
    "faster. Last column: the share of its time that NumPy's matrix products alone take."
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def benchmark(
    quick: Annotated[bool, typer.Option("--quick", help="The smallest sizes alone.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="The results as JSON.", show_default=False)] = None,
    cell: Annotated[str | None, typer.Option(help="Only rnn, lstm or gru.", show_default=False)] = None,
    threads: Annotated[int, typer.Option(min=1, help="For every contender.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Per line of the tables, three rounds at least.")] = 5.0,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile too: it unrolls the loop, minutes a line.")] = False,
) -> None:
    """Time the hand-derived gradients beside torch and jax, in turns."""
    if cell is not None and cell not in throughput.NAMES:
        raise typer.BadParameter(f"{cell!r} is none of {', '.join(throughput.NAMES)}", param_hint="--cell")
    if json is not None:
        files.prepare_file(json)
    throughput.use_threads(threads)
    try:
        results = run(throughput.tasks(quick, (cell,) if cell else throughput.NAMES), seconds, compile)
    except throughput.ContendersDisagree as error:
        console(stderr=True).print(Text(str(error), style="bold red"))
        raise typer.Exit(1) from error
    versions = throughput.versions(threads)
    console().print(rendered(results, versions))
    if json is not None:
        files.write_text(json, as_json.dumps(as_dict(results, versions), indent=2) + "\n")


def run(tasks: Sequence[tuple[str, throughput.Sizes, str]], seconds: float, with_compile: bool) -> list[Result]:
    """A result per task; a progress bar on a terminal meanwhile."""
    shown = console(stderr=True)
    results: list[Result] = []
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as progress:
        for name, sizes, dtype in progress.track(tasks, description="timing"):
            results.append(throughput.measured(throughput.task_of(name, sizes, dtype), seconds, with_compile))
    return results


def rendered(results: Sequence[Result], versions: Mapping[str, Any]) -> RenderableType:
    """A table for each cell and dtype, and what the numbers depend on."""
    grouped = groupby(sorted(results, key=lambda r: (r.cell, r.dtype)), key=lambda r: (r.cell, r.dtype))
    tables = [table(f"{cell}, {dtype}", list(own)) for (cell, dtype), own in grouped]
    depends = ", ".join(f"{name} {value}" for name, value in versions.items())
    return Group(*tables, Text(LEGEND, style="dim"), Text(depends))


def table(title: str, results: Sequence[Result]) -> Table:
    """A line per size: the ratio to every contender, and the share of the matrix products."""
    made = blank_table(title)
    made.add_column("T·B·I·H·V")
    for name in (*results[0].ratios, throughput.PRODUCTS):
        made.add_column(name, justify="right", no_wrap=True)
    for result in results:
        made.add_row(str(result.sizes), *(as_text(each) for each in result.ratios.values()), as_text(result.share, "%"))
    return made


def as_text(found: Spread, unit: str = "") -> str:
    """The median, and its range in brackets."""
    median, low, high = ((f"{value:.0%}" if unit else f"{value:.2f}") for value in (found.median, found.low, found.high))
    return f"{median} ({low}–{high})"


def as_dict(results: Sequence[Result], versions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    return {**versions, "results": [asdict(result) for result in results]}


def main() -> None:
    """Run the command line; a file that cannot be written is one line on standard error, and exit status 2."""
    try:
        app()
    except QuestionError as error:
        typer.echo(f"benchmark: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
