"""The command line of the benchmark: how fast gradients by hand are, beside torch and jax.

    python comparisons/benchmark.py                  RNN, LSTM, GRU in float64 and float32, small
                                                     to large, short to long; then Jacobians, a
                                                     verdict, the start, and how time grows with
                                                     the sizes
    python comparisons/benchmark.py --quick          the smallest sizes alone, in less than a minute
    python comparisons/benchmark.py --only verdict   one section: gradients, Jacobians, products,
                                                     verdict, start, memory, growth
    python comparisons/benchmark.py --json FILE      the same numbers as JSON, written anew after
                                                     every line
    python comparisons/benchmark.py --read FILE      tables in Markdown of what --json wrote;
                                                     nothing is timed

Told are ratios: below 1 the hand-derived is faster. Exit status: 0, 1 if two contenders differ in a
gradient, 2 if the question could not be asked or its answer not be written, 3 after a mistake of
this program's own, 128 and its number after a signal.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ..errors import BadFile
from ..plain_data import json_text, plain
from ..reporting import files
from ..reporting.tables import blank_table, console
from ..reporting.terminal import Status, Visible, run, telling, visible
from . import costs, throughput
from .costs import Cost
from .throughput import Line, Result, Sizes, Spread

LEGEND = (
    "Time by hand over the contender's, for loss and every gradient: the median, its 10 %–90 % "
    "range; below 1 by hand is faster. Last column: the share of its time that NumPy's matrix "
    "products alone take."
)

GRADIENTS = "gradients"
SECTIONS = (GRADIENTS, "Jacobians", "products", "verdict", "start", "memory", "growth")
MOST_STORED = 1 << 26  # bytes of a file that --read reads
# What a file of something else may break in.
NOT_OURS = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
PER_LINE, PER_LINE_QUICK = 2.5, 1.0  # seconds

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def benchmark(
    quick: Annotated[bool, typer.Option("--quick", help="The smallest sizes alone.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The results as JSON.", show_default=False),
    ] = None,
    read: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Markdown of such JSON.", show_default=False),
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help="Only rnn, lstm or gru.", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this section.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="For every contender.")] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Per line.", show_default="2.5, or 1 if quick"),
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
        told_again = markdown_in(read)
        with telling():
            typer.echo(visible(told_again))
        return
    if json is not None:
        files.prepare_file(json)
    asked = only or SECTIONS
    usual = PER_LINE_QUICK if quick else PER_LINE
    each = usual if seconds is None else seconds
    throughput.use_threads(threads)
    lines: list[Line] = []
    if GRADIENTS in asked:
        lines = throughput.lines(quick, (cell,) if cell else throughput.NAMES)
    there_are = costs.sections(quick, each)
    sections = {name: section for name, section in there_are.items() if name in asked}
    found = Measured(throughput.versions(threads), json)
    try:
        measure(found, lines, sections, each, compile)
    except throughput.ContendersDisagree as error:
        console(stderr=True).print(Visible(Text(str(error), style="bold red")))
        raise typer.Exit(Status.DISAGREE) from error
    found.finish()
    with telling():
        console().print(Visible(rendered(found)), crop=False)


def markdown_in(path: Path) -> str:
    """The tables of what --json wrote. Raises BadFile for what it did not."""
    stored = files.contents(path, MOST_STORED, BadFile)
    try:
        return markdown(Measured.from_dict(loads(stored)))
    except NOT_OURS as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.160}"
        raise BadFile(f"{path} is no file that --json wrote: {reason}") from error


def must_be_one_of(known: Sequence[str], given: Sequence[str], option: str) -> None:
    """Raises BadParameter for what is not known."""
    for name in given:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint=option)


@dataclass
class Measured:
    """What has been measured so far, and the file it is written to."""

    versions: Mapping[str, Any]
    target: Path | None = None
    results: list[Result] = field(default_factory=list[Result])
    costs: dict[str, list[Cost]] = field(default_factory=dict[str, list[Cost]])

    def save(self) -> None:
        """The file as it would be if this were all; a pipe or a device waits for the end.

        Raises BadTarget.
        """
        if self.target is not None and files.is_replaceable(self.target):
            self._write(self.target)

    def finish(self) -> None:
        """What a pipe or a device gets. Raises BadTarget."""
        if self.target is not None and not files.is_replaceable(self.target):
            self._write(self.target)

    def _write(self, target: Path) -> None:
        files.write_text(target, json_text(self, indent=2) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured."""
        told = {"versions": self.versions, "results": self.results, "costs": self.costs}
        return {name: plain(value) for name, value in told.items()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Measured":
        """What `to_dict` was made of, with no file to write it to."""
        found = cls(given["versions"])
        found.results += [_result(each) for each in given["results"]]
        for name, section in given["costs"].items():
            found.costs[name] = [_cost(each) for each in section]
        return found


def _result(each: Mapping[str, Any]) -> Result:
    return Result(
        cell=each["cell"],
        dtype=each["dtype"],
        sizes=Sizes(**each["sizes"]),
        rounds=each["rounds"],
        ratios=_spreads(each["ratios"]),
        share=Spread(**each["share"]),
    )


def _cost(each: Mapping[str, Any]) -> Cost:
    return Cost(each["what"], each["sizes"], _spreads(each["values"]), each["goal"])


def _spreads(given: Mapping[str, Any]) -> dict[str, Spread]:
    return {name: Spread(**value) for name, value in given.items()}


def measure(
    found: Measured,
    lines: Sequence[Line],
    sections: Mapping[str, Callable[[], list[Cost]]],
    seconds: float,
    with_compile: bool,
) -> None:
    """Adds a result per line and the costs of every section, saving after each.

    A progress bar on a terminal meanwhile.
    """
    shown = console(stderr=True)
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as progress:
        bar = progress.add_task("timing", total=len(lines) + len(sections))
        for line in lines:
            progress.update(bar, description=f"{line.cell} {line.sizes} {line.dtype}")
            task = throughput.task_of(line.cell, line.sizes, line.dtype)
            found.results.append(throughput.measured(task, seconds, with_compile))
            found.save()
            progress.advance(bar)
        for name, section in sections.items():
            progress.update(bar, description=name)
            found.costs[name] = section()
            found.save()
            progress.advance(bar)


def rendered(found: Measured) -> RenderableType:
    """A table for each cell and dtype, one for each section of costs, and what they depend on."""
    tables = [table(title, own) for title, own in grouped(found.results).items()]
    tables += [cost_table(name, own) for name, own in found.costs.items()]
    return Group(*tables, Text(LEGEND, style="dim"), Text(told(found.versions)))


def grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Cell and dtype, in the order of the alphabet → the results of both."""
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: (result.cell, result.dtype)):
        found.setdefault(f"{result.cell}, {result.dtype}", []).append(result)
    return found


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


def markdown(found: Measured) -> str:
    """The ratios alone, as Markdown: a line per cell and sizes, then a line per cost; medians."""
    lines = markdown_of_gradients(found.results) if found.results else []
    if found.costs:
        lines += ["", *markdown_rows(["what", "sizes", "ratios"])]
    for section in found.costs.values():
        lines += [_markdown_of(cost) for cost in section]
    return "\n".join([*lines, "", told(found.versions)])


def _markdown_of(cost: Cost) -> str:
    """Without seconds, which are those of one machine."""
    ratios = {name: value for name, value in cost.values.items() if name != "seconds"}
    told_of = [f"{value.median:.2f} {name}" for name, value in ratios.items()]
    return f"| {cost.what} | {cost.sizes} | {', '.join(told_of)} |"


def markdown_of_gradients(results: Sequence[Result]) -> list[str]:
    """A line per cell and sizes, with columns for every dtype."""
    names = list(results[0].ratios)
    dtypes = list(dict.fromkeys(each.dtype for each in results))
    headings = ["cell", "T·B·I·H·V"]
    for dtype in dtypes:
        headings += [f"{dtype}: {name}" for name in (*names, throughput.PRODUCTS)]
    rows: dict[tuple[str, str], dict[str, Result]] = {}
    for each in results:
        rows.setdefault((each.cell, str(each.sizes)), {})[each.dtype] = each
    lines = markdown_rows(headings)
    for cell_and_sizes, own in rows.items():
        entries = list(cell_and_sizes)
        for dtype in dtypes:
            entries += _medians(own.get(dtype), names)
        lines.append(f"| {' | '.join(entries)} |")
    return lines


def _medians(result: Result | None, names: Sequence[str]) -> list[str]:
    """The ratios, then the share of the matrix products; blanks for what was not measured."""
    if result is None:
        return [""] * (len(names) + 1)
    ratios = [f"{result.ratios[name].median:.2f}" for name in names]
    return [*ratios, f"{result.share.median:.0%}"]


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
        ratios = [as_text(each) for each in result.ratios.values()]
        made.add_row(str(result.sizes), *ratios, as_text(result.share, as_percent=True))
    return made


def as_text(found: Spread, as_percent: bool = False) -> str:
    """The median, and its range in brackets."""
    digits = ".0%" if as_percent else ".2f"
    return f"{found.median:{digits}} ({found.low:{digits}}–{found.high:{digits}})"


def main() -> None:
    """Run the command line.

    Whatever is wrong with the question is one line on standard error, and exit status 2.
    """
    sys.exit(run("benchmark", app))


if __name__ == "__main__":
    main()
