"""The same planted mistakes, shown to the checkers that come with the frameworks: what each finds,
and how long it takes.

torch.autograd.gradcheck (its default, and its fast mode) and jax.test_util.check_grads hold the
very backward that the trial changes against finite differences of the very forward; their
tolerances are their defaults.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..candidates.built_in_cells import CellCandidate, built_in
from ..candidates.draw import problem_of
from ..checking.crosscheck import check_problem
from ..errors import MissingFramework
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.cases import Case
from ..problems.problem import Problem
from ..witnesses.engines import Engine
from .operators import mutants
from .subject import Mutant, Subject
from .syntax import NothingToMutate

SIZES = (1e-2, 1e-4, 1e-6, 1e-9)
MISTAKE, RIGHT = "a mistake", "nothing"
OURS = "this cross-check"
Checker = Callable[[CellCandidate, Problem, Callable[[], Answer]], bool]


@dataclass
class Side:
    """How often a checker objected to what was planted in the problems of one dtype, and the
    seconds that it took in all.
    """

    checker: str
    planted: str
    dtype: str
    asked: int = 0
    objected: int = 0
    seconds: float = 0.0

    def add(self, other: "Side") -> None:
        """What another counted of the same, too."""
        self.asked += other.asked
        self.objected += other.objected
        self.seconds += other.seconds


def checkers(engine: Engine) -> dict[str, Checker]:
    """Ours and, where their frameworks can be imported, the others': each says whether it accepts
    an answer.
    """
    found: dict[str, Checker] = {
        OURS: lambda candidate, problem, answer: accepted_here(problem, answer, engine)
    }
    for name, module, keywords in (
        ("gradcheck", "bptt_crosscheck.reference.by_torch.torch_gradcheck", {}),
        ("gradcheck, fast", "bptt_crosscheck.reference.by_torch.torch_gradcheck", {"fast": True}),
        ("check_grads", "bptt_crosscheck.reference.by_jax.jax_check_grads", {}),
    ):
        try:
            accepts = importlib.import_module(module).accepts
        except ImportError:
            continue
        found[name] = _framework_checker(accepts, keywords)
    if len(found) == 1:
        raise MissingFramework("the checkers to compare with need torch or jax")
    return found


def _framework_checker(accepts: Callable[..., bool], keywords: Mapping[str, Any]) -> Checker:
    def check(candidate: CellCandidate, problem: Problem, answer: Callable[[], Answer]) -> bool:
        def value(named: Mapping[str, Array]) -> float:
            return candidate.forward(problem.with_variables(named)).loss

        def gradients(named: Mapping[str, Array]) -> Mapping[str, Array]:
            del named  # gradcheck and check_grads ask at the point itself, where the mutant answers
            return answer().gradients

        return accepts(value, gradients, dict(problem.variables), **keywords)

    return check


def accepted_here(problem: Problem, answer: Callable[[], Answer], engine: Engine) -> bool:
    """Whether the cross-check accepts the answer; the reference is asked, and the noise measured,
    afresh.
    """
    try:
        with np.errstate(all="ignore"):
            told, again = answer(), answer()
    except NothingToMutate:  # the operator is out of date, and nobody objected
        raise
    except Exception:  # only of the derivation under test
        return False
    verdicts = check_problem(problem, _Given(told), (engine,))
    unchanged = all(
        np.array_equal(value, again.gradients.get(name, np.nan))
        for name, value in told.gradients.items()
    )
    return unchanged and verdicts.passed


@dataclass(frozen=True)
class _Given:
    """A candidate whose answer is known."""

    told: Answer

    def answer(self, problem: Problem) -> Answer:
        """The answer in float64, and none in another precision."""
        if problem.dtype.itemsize > 8:
            raise TypeError("there is no answer in longdouble")
        return self.told


def one_of_each(subject: Subject) -> Iterator[Mutant]:
    """The first mutant of each kind whose gradient is another than the true one."""
    done: set[str] = set()
    for mutant in mutants(subject):
        if mutant.kind not in done and _differs(mutant, subject.right):
            done.add(mutant.kind)
            yield mutant


def _differs(mutant: Mutant, right: Answer) -> bool:
    """Whether the mutant answers with arrays of the right shapes, one of them clearly another."""
    try:
        with np.errstate(all="ignore"):
            found = mutant.answer().gradients
            return any(
                not np.allclose(found[name], value, rtol=1e-7, atol=0)
                for name, value in right.gradients.items()
            )
    except NothingToMutate:
        raise
    except Exception:
        return False


def with_error(right: Answer, rng: np.random.Generator, relative: float) -> Answer:
    """The right answer with one entry of one whole gradient off by so much of its largest; the
    shares of its steps untold.
    """
    name = str(rng.choice(list(right.gradients)))
    value = right.gradients[name].copy()
    value.reshape(-1)[rng.integers(value.size)] += relative * float(np.max(np.abs(value)))
    return replace(right, gradients={**right.gradients, name: value}, steps={})


def compare_checkers(
    cases: tuple[Case, ...], engine: Engine, seed: int, repeats: int
) -> list[Side]:
    """Every checker on one mutant of each kind, on errors of SIZES in one entry, and on what is
    right, in float64 and float32.
    """
    table: dict[tuple[str, str, str], Side] = {}
    for case in cases:
        candidate, problem = built_in(case.cell, case.options), problem_of(case, seed)
        right, rng = candidate.answer(problem), np.random.default_rng(seed)
        shown = [
            (MISTAKE, problem, mutant.answer)
            for mutant in one_of_each(Subject(candidate, problem, right))
        ]
        for relative in SIZES:
            wrong = [with_error(right, rng, relative) for _ in range(repeats)]
            shown += [
                (f"{relative:.0e} in one entry", problem, partial(replace, found))
                for found in wrong
            ]
        for dtype in ("float64", "float32"):
            for number in range(repeats):
                other = problem_of(case, seed + number).astype(dtype)
                shown.append((RIGHT, other, partial(candidate.answer, other)))
        for name, check in checkers(engine).items():
            for planted, where, answer in shown:
                side = table.setdefault(
                    (name, planted, where.dtype.name), Side(name, planted, where.dtype.name)
                )
                start = time.perf_counter()
                side.objected += not check(candidate, where, answer)
                side.seconds += time.perf_counter() - start
                side.asked += 1
    return list(table.values())


LARGE = Case(
    "lstm, T = 50, H = 32", "lstm", steps=50, batch=1, input_size=20, hidden_size=32, output_size=2
)


def time_to_verdict(engine: Engine, seed: int) -> dict[str, float]:
    """Seconds that each checker needs for a right LSTM of T = 50 and H = 32, some 7,000 weights;
    all of it measured.
    """
    candidate, problem = built_in(LARGE.cell, LARGE.options), problem_of(LARGE, seed)
    times: dict[str, float] = {}
    for name, check in checkers(engine).items():
        start = time.perf_counter()
        check(candidate, problem, partial(candidate.answer, problem))
        times[name] = time.perf_counter() - start
    return times
