"""What the command line asks for, as cases and trainings, and the one Report of them all.

Each is independent of the others, so that several processes can share the work; most of it is
compilation, which fills one core. The report is the same, in the same order, however many there
are.
"""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from ..errors import BadOption, NotFinite, UnknownName
from ..problems.arrays import Array
from ..problems.cases import CASES, QUICK, Case
from ..reporting import dump as dumping
from ..witnesses.engines import Engine, computing_on
from .language_model import Corpus, Course, Recipe, Training, recipes, text_case, train_side_by_side
from .model_file import ModelFile, cases_of

TEXT_STEPS, TEXT_BATCH, TEXT_HIDDEN = 6, 8, 24
UPDATES, QUICK_UPDATES = 100, 6

# Pieces of work from which on further processes repay their start, in which each loads the
# frameworks.
WORTH_SHARING = 20

UNTRAINED = "in half precision nobody trains without a loss scale: no character model was trained"

Result: TypeAlias = CaseReport | Training | NotFinite  # the last: why there is nothing to compare
Piece: TypeAlias = Callable[[], Result]
Watch: TypeAlias = Callable[[int, str], None]


@dataclass(frozen=True)
class WeightedCase:
    """A case, and those of its weights that are given and not drawn."""

    case: Case
    weights: Mapping[str, Array] = field(default_factory=dict[str, Array])


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for.

    cell         the cases of this cell alone
    sizes        in place of each case's own
    corpus       the text of the character models
    quick        a case a cell, a few updates of one character model
    dump         the folder for dumps
    model_file   whose layers are checked at its weights, in place of the table's cases
    """

    cell: str | None
    sizes: Mapping[str, int]
    seed: int
    dtype: str
    corpus: Corpus
    quick: bool
    dump: Path | None
    model_file: ModelFile | None = None
    device: str = "cpu"

    def cases(self) -> list[WeightedCase]:
        """The cases that are asked for, with the sizes that are asked for. Raises UnknownName."""
        if self.cell is not None and self.cell not in CELLS:
            known = ", ".join(CELLS)
            raise UnknownName(f"no cell is called {self.cell!r}; there are {known}")
        chosen: list[WeightedCase] = []
        for given in self._all_cases():
            if self.cell in (None, given.case.cell):
                jacobians = given.case.jacobians and not self.quick
                chosen.append(replace(given, case=replace(given.case, jacobians=jacobians)))
        if not chosen:
            raise BadOption(f"there is no case of the cell {self.cell}")
        return chosen

    def _all_cases(self) -> Iterator[WeightedCase]:
        """A model file's, or the table's."""
        if self.model_file is not None:
            for layers in self.model_file.found:
                for case, weights in cases_of(layers, self.sizes):
                    yield WeightedCase(case, weights)
            return
        for case in CASES:
            if case.name in QUICK or not self.quick:
                yield WeightedCase(replace(case, **self.sizes))

    def validate(self) -> None:
        """Raise now, before any framework is loaded, what would be raised later."""
        for given in self.cases():
            must_fit(given.case)
        for recipe in self.recipes():
            must_fit(self.text_case(recipe.cell))

    def recipes(self) -> list[Recipe]:
        """How the character models are trained: a cell each.

        One alone if quick, none with a model file, or in half precision.
        """
        if self.model_file is not None or self.dtype == "float16":
            return []
        return recipes(self.cell)[: 1 if self.quick else None]

    def text_case(self, cell: str | None = None) -> Case:
        """The character model of this cell as a case."""
        steps = self.sizes.get("steps", TEXT_STEPS)
        batch = self.sizes.get("batch", TEXT_BATCH)
        hidden_size = self.sizes.get("hidden_size", TEXT_HIDDEN)
        like = next(case for case in CASES if (cell or self.cell) in (None, case.cell))
        return text_case(self.corpus, like, steps, batch, hidden_size)

    def check(self, given: WeightedCase, engines: Sequence[Engine]) -> CaseReport:
        """The verdicts on one case; its dump is written beside."""
        case = given.case
        drawn = problem_of(case, self.seed).with_variables(given.weights)
        problem = drawn.in_precision(self.dtype)
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
        course = Course(self.corpus, case, recipe, updates, self.seed, self.dtype)
        with computing_on(self.device, engines):
            return train_side_by_side(course, engines)

    def pieces(self, engines: Sequence[Engine]) -> list[Piece]:
        """The work, each piece by itself: the cases, then the trainings."""
        cases = [partial(self.check, given, engines) for given in self.cases()]
        able = [engine for engine in engines if not (engine.numeric or engine.by_name)]
        recipes = (
            self.recipes() if able else []
        )  # a training needs a whole gradient at every update
        trainings = [partial(self.train, recipe, able) for recipe in recipes]
        return [partial(_finite, piece) for piece in (*cases, *trainings)]

    def report(
        self,
        engines: Sequence[Engine],
        notes: Sequence[str],
        jobs: int,
        watch: Watch | None = None,
    ) -> Report:
        """All of it, by so many processes.

        `watch` hears how many pieces there are and the name of each that is done.
        """
        pieces = self.pieces(engines)
        done: list[Result] = []
        with results(pieces, jobs if len(pieces) >= WORTH_SHARING else 1) as arriving:
            for result in arriving:
                done.append(result)
                if watch is not None:
                    name = result.name if isinstance(result, CaseReport) else "training"
                    watch(len(pieces), name)
        return self._report_of(done, notes)

    def _report_of(self, done: Sequence[Result], notes: Sequence[str]) -> Report:
        """One report of all results: the cases, then what was checked while training."""
        trained = [result for result in done if isinstance(result, Training)]
        cases = [result for result in done if isinstance(result, CaseReport)]
        remarks = [] if self.model_file is None else self.model_file.remarks()
        remarks += [UNTRAINED] if self.dtype == "float16" else []
        remarks += notes
        for training in trained:
            cases += training.checks
            remarks += [note for note in training.notes if note not in remarks]
        report = report_of(cases, self.seed, self.dtype, remarks)
        errors = [result for result in done if isinstance(result, NotFinite)]
        return replace(report, training=[each.row for each in trained], errors=errors)


def _finite(piece: Piece) -> Result:
    """What the piece tells, or the error that says where states or the true gradient overflow."""
    try:
        with np.errstate(all="ignore"):
            return piece()
    except NotFinite as error:
        return error


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_thread() -> None:
    """Leave the other cores to the other processes: torch's threads would wait for each other.

    Read where torch is loaded.
    """
    os.environ["OMP_NUM_THREADS"] = "1"


@contextmanager
def results(pieces: Sequence[Piece], jobs: int) -> Generator[Iterator[Result]]:
    """The results of all pieces in their order, as they become known.

    By processes of their own if jobs is more than one.
    """
    if jobs == 1:
        yield (piece() for piece in pieces)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), one_thread) as pool:
        # the trainings, which take longest, are last: begin with them
        backwards = reversed(range(len(pieces)))
        futures: dict[int, Future[Result]] = {at: pool.submit(pieces[at]) for at in backwards}
        try:
            yield (futures[at].result() for at in range(len(pieces)))
        finally:
            pool.shutdown(cancel_futures=True)
