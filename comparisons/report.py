"""The command line: cross-check every built-in derivation against every reference, and say so in a table.

    python comparisons/report.py                 all cases, and character models of README.md, trained
    python comparisons/report.py --text FILE     the character models of another text
    python comparisons/report.py --checkpoint FILE.safetensors   the recurrent layers of a model, at its weights
    python comparisons/report.py check FILE.py   a derivation of your own
    python comparisons/report.py --help          everything else

Exit status: 0 everything agrees, 1 a gradient disagrees, 2 the question could not be asked.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress
from typer.exceptions import TyperException

from comparisons import dump as dumping
from comparisons import files, terminal
from comparisons.candidates import CELLS, built_in, must_fit, problem_of
from comparisons.cases import CASES, QUICK, Case
from comparisons.checkpoint import Checkpoint, cases_of, read
from comparisons.crosscheck import available, check_problem, report_of
from comparisons.engines import Engine
from comparisons.errors import BadOption, QuestionError, UnknownName
from comparisons.language_model import Corpus, Recipe, Training, default_corpus, read_corpus, recipes, text_case, train_together
from comparisons.problem import Array
from comparisons.user_file import checks_in
from comparisons.verdict import CaseReport, Report

AGREE, DISAGREE, NOT_ASKED = 0, 1, 2
TEXT_STEPS, TEXT_BATCH, TEXT_HIDDEN = 8, 8, 24
UPDATES, QUICK_UPDATES = 100, 6

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


Trial: TypeAlias = tuple[Case, dict[str, Array]]  # a case, and those of its weights that are given


class Dtype(StrEnum):
    """Precisions of a check."""

    float64 = "float64"
    float32 = "float32"


@dataclass(frozen=True)
class Question:
    """What the command line asks for."""

    cell: str | None
    sizes: Mapping[str, int]
    seed: int
    dtype: str
    corpus: Corpus
    quick: bool
    dump: Path | None
    checkpoint: Checkpoint | None = None

    def trials(self) -> list[Trial]:
        """The cases that are asked for, with the sizes that are asked for: the table's, or a checkpoint's. Raises UnknownName."""
        if self.cell is not None and self.cell not in CELLS:
            raise UnknownName(f"no cell is called {self.cell!r}; there are {', '.join(CELLS)}")
        if self.checkpoint is not None:
            found = [trial for layers in self.checkpoint.found for trial in cases_of(layers, self.sizes)]
        else:
            table = [replace(case, **self.sizes) for case in CASES if case.name in QUICK or not self.quick]
            found = [(case, dict[str, Array]()) for case in table]
        chosen = [(case, weights) for case, weights in found if self.cell in (None, case.cell)]
        if not chosen:
            raise BadOption(f"there is no case of the cell {self.cell}")
        return [(replace(case, jacobians=case.jacobians and not self.quick), weights) for case, weights in chosen]

    def validate(self) -> None:
        """Raise now, before any framework is loaded, what would be raised later."""
        for case in (*(case for case, _ in self.trials()), *(self.text_case(recipe.cell) for recipe in self.recipes())):
            must_fit(case)

    def recipes(self) -> list[Recipe]:
        """How the character models are trained: a cell each; one alone if quick, none with a checkpoint."""
        return [] if self.checkpoint is not None else recipes(self.cell)[: 1 if self.quick else None]

    def text_case(self, cell: str | None = None) -> Case:
        """The character model of this cell as a case."""
        steps, batch = self.sizes.get("steps", TEXT_STEPS), self.sizes.get("batch", TEXT_BATCH)
        hidden_size = self.sizes.get("hidden_size", TEXT_HIDDEN)
        like = next(case for case in CASES if (cell or self.cell) in (None, case.cell))
        return text_case(self.corpus, like, steps, batch, hidden_size)


def run(question: Question, engines: Sequence[Engine], notes: Sequence[str], progress_to: Console) -> Report:
    """Check every case, write the dumps, train the character models; a progress bar on a terminal while it works."""
    trials, ways = question.trials(), question.recipes()
    done: list[CaseReport] = []
    trained: list[Training] = []
    with Progress(console=progress_to, transient=True, disable=not progress_to.is_terminal) as progress:
        bar = progress.add_task("checking", total=len(trials) + sum(recipe.checks for recipe in ways))

        def note(report: CaseReport) -> None:
            done.append(report)
            progress.update(bar, advance=1, description=escape(report.name))

        for case, weights in trials:
            problem = problem_of(case, question.seed).with_variables(weights).astype(question.dtype)
            candidate = built_in(case.cell, case.options, case.algorithm)
            note(check_problem(problem, candidate, engines, partial=candidate.partial))
            if question.dump is not None:
                dumping.write(question.dump, problem, candidate, engines)
        updates = QUICK_UPDATES if question.quick else UPDATES
        for recipe in ways:
            model = question.text_case(recipe.cell)
            trained.append(train_together(question.corpus, model, recipe, engines, updates, question.seed, question.dtype, note))
    about = [] if question.checkpoint is None else question.checkpoint.remarks()
    remarks = [*about, *notes, *dict.fromkeys(remark for training in trained for remark in training.notes)]
    return replace(report_of(done, question.seed, question.dtype, remarks), training=[each.summary for each in trained])


def exit_status(report: Report, missing: Mapping[str, str]) -> int:
    """0, 1 or 2: a disagreement outweighs a question that could only be asked in part."""
    if report.passed:
        return NOT_ASKED if missing else AGREE
    if any(not row.passed for row in report.rows):
        return DISAGREE
    not_asked = bool(report.errors) or any(case.forward_differs for case in report.cases)
    return NOT_ASKED if not_asked else DISAGREE


Cell = Annotated[str | None, typer.Option(help="Only the cases of this cell.", show_default=False)]
Steps = Annotated[int | None, typer.Option(min=1, help="T, in place of each case's own.", show_default=False)]
Batch = Annotated[int | None, typer.Option(min=1, help="B, likewise.", show_default=False)]
InputSize = Annotated[int | None, typer.Option(min=1, help="I, likewise.", show_default=False)]
HiddenSize = Annotated[int | None, typer.Option(min=1, help="H, likewise.", show_default=False)]
Checkpointed = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Recurrent layers of a model: .safetensors, .pt.", show_default=False)
]
Seed = Annotated[int, typer.Option(min=0, help="Of every random number.")]
References = Annotated[str | None, typer.Option(metavar="NAMES", help="Only these, by comma.", show_default="all")]
Json = Annotated[str | None, typer.Option(metavar="FILE", help="Report as JSON; - for stdout.", show_default=False)]
Verbose = Annotated[bool, typer.Option("--verbose", help="Every gradient against every reference.")]


@app.callback(invoke_without_command=True)
def crosscheck(
    context: typer.Context,
    cell: Cell = None,
    steps: Steps = None,
    batch: Batch = None,
    input_size: InputSize = None,
    hidden_size: HiddenSize = None,
    seed: Seed = 0,
    dtype: Annotated[Dtype, typer.Option(help="Precision of every array.")] = Dtype.float64,
    references: References = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="For the character models.", show_default="README.md")] = None,
    checkpoint: Checkpointed = None,
    json: Json = None,
    dump: Annotated[Path | None, typer.Option(metavar="DIR", help="Jacobian products, a file each.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases, a few updates of one character model.")] = False,
    verbose: Verbose = False,
) -> None:
    """Cross-check hand-derived gradients of recurrent networks against autodiff, step by step."""
    if context.invoked_subcommand is not None:
        return
    start = time.perf_counter()
    sizes = given_sizes(steps=steps, batch=batch, input_size=input_size, hidden_size=hidden_size)
    if text is not None and checkpoint is not None:
        raise BadOption("--text trains a model and --checkpoint has one: give one of them")
    corpus = default_corpus() if text is None else read_corpus(text)
    question = Question(cell, sizes, seed, dtype.value, corpus, quick, dump, None if checkpoint is None else read(checkpoint))
    question.validate()
    if dump is not None:
        files.prepare_folder(dump)
    prepare_json(json)
    engines, missing = available(names_in(references))
    report = run(question, engines, list(missing.values()), terminal.console(stderr=True))
    show(terminal.rendered(report, time.perf_counter() - start, verbose), report, json)
    raise typer.Exit(exit_status(report, missing))


@app.command()
def check(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py[:NAME]", help="A cell, or loss/gradients/example, or function/vjp/example.")
    ],
    steps: Steps = None,
    batch: Batch = None,
    input_size: InputSize = None,
    hidden_size: HiddenSize = None,
    seed: Seed = 0,
    references: References = None,
    json: Json = None,
    verbose: Verbose = False,
) -> None:
    """Check a derivation of your own. The file runs in this process, with your rights."""
    start = time.perf_counter()
    sizes = given_sizes(steps=steps, batch=batch, input_size=input_size, hidden_size=hidden_size)
    prepare_json(json)
    checks = checks_in(target, sizes, {"seed": seed, "references": names_in(references)})
    report = merged([made() for made in checks])
    show(terminal.rendered_check(report, time.perf_counter() - start, verbose), report, json)
    raise typer.Exit(exit_status(report, {}))


def given_sizes(**sizes: int | None) -> dict[str, int]:
    """The sizes that were given."""
    return {name: size for name, size in sizes.items() if size is not None}


def names_in(references: str | None) -> list[str] | None:
    """The names of a comma-separated list; None for all."""
    return None if references is None else [name.strip() for name in references.split(",")]


def prepare_json(target: str | None) -> None:
    """Raises BadTarget now where the file could not be written later."""
    if target is not None and target != "-":
        files.prepare_file(Path(target))


def show(rendered: RenderableType, report: Report, json: str | None) -> None:
    """The report on standard output; its JSON where it was asked for, alone on standard output for -."""
    terminal.console(stderr=json == "-").print(rendered)
    if json == "-":
        typer.echo(report.to_json())
    elif json is not None:
        files.write_text(Path(json), report.to_json() + "\n")


def merged(reports: Sequence[Report]) -> Report:
    """One report of several."""
    first, *others = reports
    cases = [case for report in reports for case in report.cases]
    return replace(first, cases=cases, errors=[error for report in (first, *others) for error in report.errors])


def main() -> None:
    """Run the command line; whatever is wrong with the question is one line on standard error, and exit status 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except (QuestionError, TyperException) as error:
        message = str(error) if isinstance(error, QuestionError) else error.format_message()
        typer.echo(f"bptt-crosscheck: {message}", err=True)
        sys.exit(NOT_ASKED)


if __name__ == "__main__":
    main()
