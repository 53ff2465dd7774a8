"""What the command line asks for, as cases and trainings, and the one Report of them all.

Each is independent of the others, so that several processes can share the work; most of it is compilation, which fills one
core. The report is the same, in the same order, however many there are.
"""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..candidates.built_in_cells import CELLS, built_in
from ..candidates.draw import must_fit, problem_of
from ..checking.case_report import CaseReport
from ..checking.crosscheck import check_problem
from ..checking.environment import report_of
from ..checking.report_data import Report
from ..errors import BadOption, NotFinite, UnknownName
from ..problems.arrays import Array
from ..problems.cases import CASES, QUICK, Case
from ..reporting import dump as dumping
from ..witnesses.engines import Engine, computing_on
from .language_model import Corpus, Recipe, Training, recipes, text_case, train_together
from .model_file import Checkpoint, cases_of

TEXT_STEPS, TEXT_BATCH, TEXT_HIDDEN = 6, 8, 24
UPDATES, QUICK_UPDATES = 100, 6
WORTH_SHARING = 20  # pieces of work from which on further processes repay their start, in which each loads the frameworks

Trial: TypeAlias = tuple[Case, dict[str, Array]]  # a case, and those of its weights that are given
Result: TypeAlias = CaseReport | Training | NotFinite  # the last: why a case has no numbers to compare
Piece: TypeAlias = Callable[[], Result]


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
    device: str = "cpu"

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
        """How the character models are trained: a cell each; one alone if quick, none with a checkpoint, or in half precision."""
        without = self.checkpoint is not None or self.dtype == "float16"
        return [] if without else recipes(self.cell)[: 1 if self.quick else None]

    def text_case(self, cell: str | None = None) -> Case:
        """The character model of this cell as a case."""
        steps, batch = self.sizes.get("steps", TEXT_STEPS), self.sizes.get("batch", TEXT_BATCH)
        hidden_size = self.sizes.get("hidden_size", TEXT_HIDDEN)
        like = next(case for case in CASES if (cell or self.cell) in (None, case.cell))
        return text_case(self.corpus, like, steps, batch, hidden_size)

    def check(self, trial: Trial, engines: Sequence[Engine]) -> CaseReport:
        """The verdicts on one case; its dump is written beside."""
        case, weights = trial
        problem = problem_of(case, self.seed).with_variables(weights).in_precision(self.dtype)
        candidate = built_in(case.cell, case.options, case.algorithm)
        with computing_on(self.device, engines):
            report = check_problem(problem, candidate, engines, partial=candidate.partial)
        if self.dump is not None:
            dumping.write(self.dump, problem, candidate, engines)
        return report

    def train(self, recipe: Recipe, engines: Sequence[Engine]) -> Training:
        """One character model, trained by all."""
        updates = QUICK_UPDATES if self.quick else UPDATES
        with computing_on(self.device, engines):
            return train_together(self.corpus, self.text_case(recipe.cell), recipe, engines, updates, self.seed, self.dtype)

    def report(
        self, engines: Sequence[Engine], notes: Sequence[str], jobs: int, watch: Callable[[int, str], None] | None = None
    ) -> Report:
        """All of it, by so many processes; `watch` hears how many pieces there are and the name of each that is done."""
        trials = self.trials()
        able = [engine for engine in engines if not (engine.numeric or engine.by_name)]  # to give every update a whole gradient
        ways = self.recipes() if able else []
        pieces: list[Piece] = [partial(_finite, partial(self.check, trial, engines)) for trial in trials]
        pieces += [partial(_finite, partial(self.train, recipe, able)) for recipe in ways]
        done: list[Result] = []
        with results(pieces, jobs if len(pieces) >= WORTH_SHARING else 1) as arriving:
            for result in arriving:
                done.append(result)
                if watch is not None:
                    watch(len(pieces), result.name if isinstance(result, CaseReport) else "training")
        errors = [result for result in done if isinstance(result, NotFinite)]
        trained = [result for result in done if isinstance(result, Training)]
        cases = [result for result in done if isinstance(result, CaseReport)] + [case for each in trained for case in each.checks]
        about = [] if self.checkpoint is None else self.checkpoint.remarks()
        about = about + ["in half precision nobody trains without a loss scale: no character model was trained"] * (
            self.dtype == "float16"
        )
        remarks = [*about, *notes, *dict.fromkeys(remark for training in trained for remark in training.notes)]
        return replace(
            report_of(cases, self.seed, self.dtype, remarks), training=[each.summary for each in trained], errors=errors
        )


def _finite(piece: Piece) -> Result:
    """What the piece tells, or the error that says where its states or its true gradient overflow."""
    try:
        with np.errstate(all="ignore"):
            return piece()
    except NotFinite as error:
        return error


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """Leave the other cores to the other processes: torch's threads would wait for each other. Read where torch is loaded."""
    os.environ["OMP_NUM_THREADS"] = "1"


@contextmanager
def results(pieces: Sequence[Piece], jobs: int) -> Generator[Iterator[Result]]:
    """The results of all pieces in their order, as they become known; by processes of their own if jobs is more than one."""
    if jobs == 1:
        yield (piece() for piece in pieces)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), one_thread) as pool:
        order = sorted(range(len(pieces)), key=lambda at: -at)  # the trainings, which take longest, are last: begin with them
        futures: dict[int, Future[Result]] = {at: pool.submit(pieces[at]) for at in order}
        try:
            yield (futures[at].result() for at in range(len(pieces)))
        finally:
            pool.shutdown(cancel_futures=True)
