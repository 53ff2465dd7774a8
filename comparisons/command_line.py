"""The command line: every built-in derivation against every reference, in a table.

    python comparisons/report.py                 all cases, and character models of
                                                 README.md, trained
    python comparisons/report.py --text FILE     the character models of another text
    python comparisons/report.py --checkpoint FILE.safetensors
                                                 the recurrent layers of a model, at its weights
    python comparisons/report.py check FILE.py   a derivation of your own
    python comparisons/report.py cures           how far gradients reach back, cell by cell,
                                                 with and without the cures
    python comparisons/report.py trial           the cross-check itself on trial: planted mistakes,
                                                 sensitivity, false alarms
    python comparisons/report.py --help          everything else

Exit status: 0 everything agrees, 1 a gradient disagrees, 2 the question could not be asked or its
answer not be written, 3 a mistake of this program's own, 4 a goal of the trial is missed; after a
signal 128 and its number: 130 Ctrl-C, 141 nobody reads on, 143 terminated.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress

from .checking.report_data import Report
from .errors import BadOption
from .plain_data import json_text
from .problems.axes import written_layout
from .reporting import files, tables
from .reporting.terminal import Status, Visible, run, telling, visible

if TYPE_CHECKING:  # the rest is imported by the command that needs it: --help answers at once
    from .studies.built_in_cases import RunOptions
    from .witnesses.engines import Engine

MOST_JOBS = 4
CURES_INPUTS = 4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Dtype(StrEnum):
    """Precisions of a check."""

    float64 = "float64"
    float32 = "float32"
    float16 = "float16"


def bar_on(console: Console) -> Progress:
    """A progress bar, gone when it is done; none where nobody looks."""
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def checked(
    options: "RunOptions", engines: "Sequence[Engine]", notes: Sequence[str], jobs: int
) -> Report:
    """The report that is asked for; a progress bar on a terminal while it is worked out."""
    with bar_on(tables.console(stderr=True)) as progress:
        bar = progress.add_task("checking", total=None)

        def watch(pieces: int, name: str) -> None:
            progress.update(bar, total=pieces, advance=1, description=escape(visible(name)))

        return options.report(engines, notes, jobs, watch)


def exit_status(report: Report, missing: Mapping[str, Any]) -> int:
    """0, 1 or 2: a disagreement outweighs a question that could only be asked in part."""
    if report.passed:
        return Status.NOT_ASKED if missing else Status.AGREE
    if any(not row.passed for row in report.rows):
        return Status.DISAGREE
    not_asked = bool(report.errors) or any(case.forward_differs for case in report.cases)
    apart = any(not run.passed for run in report.training)
    return Status.DISAGREE if apart and not not_asked else Status.NOT_ASKED


Cell = Annotated[str | None, typer.Option(help="Only the cases of this cell.", show_default=False)]
Steps = Annotated[
    int | None, typer.Option(min=1, help="T, in place of each case's own.", show_default=False)
]
Batch = Annotated[int | None, typer.Option(min=1, help="B, likewise.", show_default=False)]
InputSize = Annotated[int | None, typer.Option(min=1, help="I, likewise.", show_default=False)]
HiddenSize = Annotated[int | None, typer.Option(min=1, help="H, likewise.", show_default=False)]
ModelPath = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Recurrent layers of a model: .safetensors, .pt.",
        show_default=False,
    ),
]
Text = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="For the character models.", show_default="README.md"),
]
Dump = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Jacobian products, a file each.", show_default=False),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Processes at work.", show_default="one a core, up to 4"),
]
Seed = Annotated[int, typer.Option(min=0, help="Of every random number.")]
References = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Only these, by comma.", show_default="all")
]
Precision = Annotated[
    Dtype, typer.Option("--dtype", help="What the derivation under test computes in.")
]
Device = Annotated[str, typer.Option("--device", help="Where torch and jax compute: cpu, cuda.")]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="LETTERS",
        help="Axes of x, as BTI, or of arrays by name, as x=BTI,h_0=BH.",
        show_default="found",
    ),
]
Json = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Report as JSON; - for stdout.", show_default=False),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Every gradient against every reference.")]


def say_version(asked: bool) -> None:
    """Name and version, and nothing else."""
    if asked:
        from .. import __version__

        typer.echo(f"bptt-crosscheck {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=say_version, is_eager=True, help="Say which this is."),
]


@app.callback(invoke_without_command=True)
def crosscheck(
    context: typer.Context,
    cell: Cell = None,
    steps: Steps = None,
    batch: Batch = None,
    input_size: InputSize = None,
    hidden_size: HiddenSize = None,
    seed: Seed = 0,
    dtype: Precision = Dtype.float64,
    references: References = None,
    device: Device = "cpu",
    text: Text = None,
    model_file: ModelPath = None,
    json: Json = None,
    dump: Dump = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A case a cell, a few updates of one character model."),
    ] = False,
    jobs: Jobs = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Cross-check hand-derived gradients of recurrent networks against autodiff, step by step."""
    del version  # its callback has answered
    if context.invoked_subcommand is not None:
        return
    from .studies.built_in_cases import RunOptions, cores
    from .studies.language_model import default_corpus, read_corpus
    from .studies.model_file import read
    from .witnesses.ask import available
    from .witnesses.engines import computing_on, names_in

    start = time.perf_counter()
    sizes = given_sizes(steps=steps, batch=batch, input_size=input_size, hidden_size=hidden_size)
    if text is not None and model_file is not None:
        raise BadOption("--text trains a model and --checkpoint has one: give one of them")
    corpus = default_corpus() if text is None else read_corpus(text)
    options = RunOptions(
        cell=cell,
        sizes=sizes,
        seed=seed,
        dtype=dtype.value,
        corpus=corpus,
        quick=quick,
        dump=dump,
        model=None if model_file is None else read(model_file),
        device=device,
    )
    options.validate()
    options.prepare_dumps()  # first: the folder that it makes may be that of the JSON
    json = prepared_json(json)
    engines, missing = available(names_in(references))
    with computing_on(device, engines):  # raises now where there is no such device
        pass
    notes = [str(left) for left in missing.values()]
    report = checked(options, engines, notes, jobs or min(cores(), MOST_JOBS))
    show(tables.rendered(report, time.perf_counter() - start, verbose), report, json)
    raise typer.Exit(exit_status(report, missing))


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py[:NAME]",
            help="A cell, or loss/gradients/example, or function/vjp/example.",
        ),
    ],
    steps: Steps = None,
    batch: Batch = None,
    input_size: InputSize = None,
    hidden_size: HiddenSize = None,
    seed: Seed = 0,
    dtype: Precision = Dtype.float64,
    references: References = None,
    device: Device = "cpu",
    rtol: Annotated[
        float | None,
        typer.Option(min=0, help="Allowed relative error.", show_default="measured noise"),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(min=0, help="Allowed absolute error.", show_default="measured noise"),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001, metavar="SECONDS", help="For one call of it.", show_default="no limit"
        ),
    ] = None,
    layout: LayoutOption = None,
    json: Json = None,
    verbose: Verbose = False,
) -> None:
    """Check a derivation of your own. The file runs in this process, with your rights."""
    from .checking.user_file import checks_in

    start = time.perf_counter()
    sizes = given_sizes(steps=steps, batch=batch, input_size=input_size, hidden_size=hidden_size)
    json = prepared_json(json)
    asked = {
        "seed": seed,
        "references": references,
        "rtol": rtol,
        "atol": atol,
        "dtype": dtype.value,
        "device": device,
        "timeout": timeout,
        "layout": written_layout(layout),
    }
    # Standard output is for the report: threads that the code starts print beside it, too.
    with contextlib.redirect_stdout(sys.stderr):
        checks = checks_in(target, sizes, asked)
        report = merged([made() for made in checks])
    show(tables.rendered_check(report, time.perf_counter() - start, verbose), report, json)
    raise typer.Exit(exit_status(report, {}))


@app.command()
def cures(
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(min=2, help="T.")] = 30,
    batch: Annotated[int, typer.Option(min=1, help="B.")] = 4,
    hidden_size: Annotated[int, typer.Option(min=1, help="H.")] = 12,
    dump: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the dumps, a file each.", show_default=False),
    ] = None,
    json: Json = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture of the norms by lag.", show_default=False),
    ] = None,
) -> None:
    """How far gradients reach back.

    Vanilla RNN, LSTM, GRU, residual, IRNN, minGRU, LRU; clipping; truncation.
    """
    from .studies.cure_tables import rendered_cures
    from .studies.cures import draw_figure, examine, must_be_drawable
    from .witnesses.ask import available

    start = time.perf_counter()
    if dump is not None:
        files.prepare_folder(dump)
    json = prepared_json(json)
    if plot is not None:
        must_be_drawable(plot)
    (engine, *_), _missing = available(("torch", "jax"))
    sizes = {
        "steps": steps,
        "batch": batch,
        "input_size": CURES_INPUTS,
        "hidden_size": hidden_size,
    }
    with tempfile.TemporaryDirectory() if dump is None else nullcontext(dump) as folder:
        found = examine(Path(folder), engine, seed, sizes)
    if plot is not None:
        draw_figure(found, plot)
    show_text(rendered_cures(found, time.perf_counter() - start), found.to_json(), json)
    raise typer.Exit(Status.AGREE if found.passed else Status.DISAGREE)


@app.command()
def trial(
    seed: Seed = 0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Three cells, four regimes, one mutant in twenty of each kind."
        ),
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="Time there is.", show_default="28, or 0.75 if quick"),
    ] = None,
    jobs: Jobs = None,
    json: Json = None,
) -> None:
    """The cross-check on trial: planted mistakes, the smallest error it sees, false alarms."""
    from .checking.environment import environment
    from .studies.built_in_cases import cores
    from .trial.trial import QUICK, Plan, run_trial
    from .trial.trial_tables import rendered_trial

    start = time.perf_counter()
    json = prepared_json(json)
    plan = replace(QUICK if quick else replace(Plan(), jobs=min(cores(), MOST_JOBS)), seed=seed)
    plan = replace(
        plan,
        jobs=jobs or plan.jobs,
        seconds=plan.seconds if minutes is None else 60 * minutes,
    )
    with bar_on(tables.console(stderr=True)) as progress:
        bar = progress.add_task("on trial", total=None)

        def watch(pieces: int, name: str) -> None:
            progress.update(bar, total=pieces, advance=1, description=name)

        found = run_trial(plan, watch)
    seconds = time.perf_counter() - start
    ran_on = environment(seed, "float64, float32 and float16")
    told = {**ran_on, **found.to_dict(), "seconds": seconds}
    show_text(rendered_trial(found, seconds), json_text(told, indent=None), json)
    raise typer.Exit(Status.AGREE if found.passed else Status.MISSED)


def given_sizes(**sizes: int | None) -> dict[str, int]:
    """The sizes that were given."""
    return {name: size for name, size in sizes.items() if size is not None}


def prepared_json(target: str | None) -> str | None:
    """The same target, wherever code under test may go meanwhile.

    Raises BadTarget now where the file could not be written later.
    """
    if target is None or target == "-":
        return target
    files.prepare_file(Path(target))
    return str(Path(target).absolute())


def show(rendered: RenderableType, report: Report, json: str | None) -> None:
    """The report on standard output; its JSON where it was asked for."""
    show_text(rendered, report.to_json() if json is not None else "", json)


def show_text(rendered: RenderableType, text: str, json: str | None) -> None:
    """What is for a person on standard output; the JSON text where it was asked for.

    For - the JSON is alone on standard output. A file has it before anything is printed: it is
    whole though nobody reads what is printed to its end.
    """
    try:
        if json is not None and json != "-":
            files.write_text(Path(json), text + "\n")
    finally:
        with telling():
            tables.console(stderr=json == "-").print(Visible(rendered), crop=False)
    if json == "-":
        with telling():
            typer.echo(encodable(text))


def encodable(text: str) -> str:
    """The JSON text, in ASCII where standard output has less than all characters."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return dumps(loads(text))
    return text


def merged(reports: Sequence[Report]) -> Report:
    """One report of several."""
    cases = [case for report in reports for case in report.cases]
    errors = [error for report in reports for error in report.errors]
    return replace(reports[0], cases=cases, errors=errors)


def main() -> None:
    """Run the command line.

    Whatever is wrong with the question is one line on standard error, and exit status 2.
    """
    sys.exit(run("bptt-crosscheck", app))


if __name__ == "__main__":
    main()
