"""What the command line asks for, as cases and trainings, and the one Report of them all.

Each is independent of the others, so that several processes can share the work; most of it is
compilation, which fills one core. The report is the same, in the same order, by however many.
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..candidates.built_in_cells import CELLS, built_in
from ..candidates.draw import must_fit, problem_of
from ..checking.case_report import CaseReport
from ..checking.crosscheck import Manner, check_problem
from ..checking.environment import report_of
from ..checking.report_data import Report
from ..errors import (
    BadOption,
    LayoutMatters,
    NotDecidable,
    NotFinite,
    NotRepeatable,
    QuestionError,
    UnknownName,
)
from ..problems.cases import CASES, QUICK, Case
from ..reporting import dump as dumping
from ..reporting.files import prepare_file, prepare_folder
from ..witnesses.engines import Engine, computing_on
from .language_model import Corpus, Recipe, Training, recipes, text_case, train_side_by_side
from .model_file import CaseAtWeights, ModelFile, cases_of, named_apart
from .worker_pool import workers

TEXT_STEPS, TEXT_BATCH, TEXT_HIDDEN = 6, 8, 24
UPDATES, QUICK_UPDATES = 100, 6
WORTH_SHARING = (
    20  # pieces from which on further processes repay their start: each loads torch and jax
)
NO_HALF = "in half precision nobody trains without a loss scale: no character model was trained"

# What is said of one case in place of a verdict; the others are checked all the same.
REFUSED = (NotDecidable, NotFinite, NotRepeatable, LayoutMatters)

Result: TypeAlias = CaseReport | Training | QuestionError
Piece: TypeAlias = Callable[[], Result]
Watch: TypeAlias = Callable[[int, str], None]  # hears how many pieces there are, and which is done


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for.

    cell      only the cases of this cell; None for all
    sizes     steps, batch, input_size, hidden_size where they are not to be the case's own
    dump      the folder for Jacobian products, if they are to be kept
    model     the file whose layers are checked in place of the table's cases, at its weights
    """

    cell: str | None
    sizes: Mapping[str, int]
    seed: int
    dtype: str
    corpus: Corpus
    quick: bool
    dump: Path | None
    model: ModelFile | None = None
    device: str = "cpu"

    def cases(self) -> list[CaseAtWeights]:
        """The cases that are asked for, of the sizes that are asked for: the table's, or a model's.

        Raises UnknownName for a cell that there is not, BadOption where there is no case of it.
        """
        if self.cell is not None and self.cell not in CELLS:
            raise UnknownName(f"no cell is called {self.cell!r}; there are {', '.join(CELLS)}")
        there_are = self._of_the_table() if self.model is None else self._of_the_model(self.model)
        chosen = [each for each in there_are if self.cell in (None, each.case.cell)]
        if not chosen:
            raise BadOption(f"there is no case of the cell {self.cell}")
        return _named_apart([self._perhaps_without_jacobians(each) for each in chosen])

    def _of_the_table(self) -> list[CaseAtWeights]:
        chosen = [case for case in CASES if case.name in QUICK or not self.quick]
        return [CaseAtWeights(replace(case, **self.sizes)) for case in chosen]

    def _of_the_model(self, model: ModelFile) -> list[CaseAtWeights]:
        found: list[CaseAtWeights] = []
        for layers in model.found:
            found += cases_of(layers, self.sizes)
        return found

    def _perhaps_without_jacobians(self, asked: CaseAtWeights) -> CaseAtWeights:
        jacobians = asked.case.jacobians and not self.quick
        return replace(asked, case=replace(asked.case, jacobians=jacobians))

    def validate(self) -> None:
        """Raise now, before any framework is loaded, what would be raised later."""
        for asked in self.cases():
            must_fit(asked.case, dumped=self.dump is not None)
        for recipe in self.recipes():
            must_fit(self.text_case(recipe.cell))

    def prepare_dumps(self) -> None:
        """Make the folder of the dumps. Raises BadTarget where one of them cannot be written."""
        if self.dump is None:
            return
        prepare_folder(self.dump)
        for asked in self.cases():
            prepare_file(dumping.path_of(self.dump, asked.case.name))

    def recipes(self) -> list[Recipe]:
        """How the character models are trained, a cell each; one alone if quick.

        None with a model file, or in half precision.
        """
        if self.model is not None or self.dtype == "float16":
            return []
        return recipes(self.cell)[: 1 if self.quick else None]

    def text_case(self, cell: str | None = None) -> Case:
        """The character model of this cell as a case."""
        steps, batch = self.sizes.get("steps", TEXT_STEPS), self.sizes.get("batch", TEXT_BATCH)
        hidden_size = self.sizes.get("hidden_size", TEXT_HIDDEN)
        like = next(case for case in CASES if (cell or self.cell) in (None, case.cell))
        return text_case(self.corpus, like, steps, batch, hidden_size)

    def check(self, asked: CaseAtWeights, engines: Sequence[Engine]) -> CaseReport:
        """The verdicts on one case; its dump is written beside."""
        case = asked.case
        drawn = problem_of(case, self.seed)
        problem = drawn.with_variables(asked.weights).in_precision(self.dtype)
        candidate = built_in(case.cell, case.options, case.algorithm)
        manner = Manner(partial=candidate.partial)
        with computing_on(self.device, engines):
            report = check_problem(problem, candidate, engines, manner=manner)
        if self.dump is not None:
            dumping.write(self.dump, problem, candidate, engines)
        return report

    def train(self, recipe: Recipe, engines: Sequence[Engine]) -> Training:
        """One character model, trained by all."""
        updates = QUICK_UPDATES if self.quick else UPDATES
        case = self.text_case(recipe.cell)
        with computing_on(self.device, engines):
            return train_side_by_side(
                self.corpus, case, recipe, engines, updates, self.seed, self.dtype
            )

    def report(
        self, engines: Sequence[Engine], notes: Sequence[str], jobs: int, watch: Watch | None = None
    ) -> Report:
        """All of it, by so many processes."""
        pieces = self._pieces(engines)
        done: list[Result] = []
        with results(pieces, jobs if len(pieces) >= WORTH_SHARING else 1) as arriving:
            for result in arriving:
                done.append(result)
                if watch is not None:
                    name = result.name if isinstance(result, CaseReport) else "training"
                    watch(len(pieces), name)
        return self._gathered(done, notes)

    def _pieces(self, engines: Sequence[Engine]) -> list[Piece]:
        """The cases, then the trainings by those that can give every update a whole gradient."""
        # A numeric reference tells a few entries or directions of a gradient: no update to make.
        able = [engine for engine in engines if not (engine.numeric or engine.by_name)]
        pieces: list[Piece] = [partial(self.check, asked, engines) for asked in self.cases()]
        if able:
            pieces += [partial(self.train, recipe, able) for recipe in self.recipes()]
        return [partial(_told_or_refused, piece) for piece in pieces]

    def _gathered(self, done: Sequence[Result], notes: Sequence[str]) -> Report:
        """The cases, then those of the trainings; the remarks each once."""
        remarks = [] if self.model is None else self.model.remarks()
        if self.dtype == "float16":
            remarks.append(NO_HALF)
        remarks += notes
        alone: list[CaseReport] = []
        trained: list[Training] = []
        errors: list[QuestionError] = []
        for result in done:
            if isinstance(result, CaseReport):
                alone.append(result)
            elif isinstance(result, Training):
                trained.append(result)
            else:
                errors.append(result)
        on_the_way: list[CaseReport] = []
        of_training: dict[str, None] = {}  # in order, and each once
        for training in trained:
            on_the_way += training.checks
            of_training |= dict.fromkeys(training.notes)
        cases, said = [*alone, *on_the_way], [*remarks, *of_training]
        rows = [training.row for training in trained]
        plain = report_of(cases, self.seed, self.dtype, said)
        return replace(plain, training=rows, errors=errors)


def _named_apart(asked: Sequence[CaseAtWeights]) -> list[CaseAtWeights]:
    """The same cases, each with a name of its own: that of one before gets a number."""
    names = named_apart([each.case.name for each in asked])
    found: list[CaseAtWeights] = []
    for each, name in zip(asked, names, strict=True):
        found.append(replace(each, case=replace(each.case, name=name)))
    return found


def _told_or_refused(piece: Piece) -> Result:
    """What the piece tells, or why its case could not be judged."""
    try:
        with np.errstate(all="ignore"):
            return piece()
    except REFUSED as error:
        return error


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def results(pieces: Sequence[Piece], jobs: int) -> Generator[Iterator[Result]]:
    """The results of all pieces in their order, as they become known.

    By processes of their own if jobs is more than one.
    """
    with workers(jobs) as pool:
        if pool is None:
            yield (piece() for piece in pieces)
            return
        futures: dict[int, Future[Result]] = {}
        # The trainings, which take longest, are the last pieces: begin with them.
        for at in reversed(range(len(pieces))):
            futures[at] = pool.submit(pieces[at])
        yield (futures[at].result() for at in range(len(pieces)))
