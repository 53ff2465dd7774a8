"""Shared by the comparisons' tests: problems of the table's cases, references that are asked once,
and planted mistakes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.case_report import CaseReport
from bptt_crosscheck.comparisons.checking.crosscheck import Manner, check_problem
from bptt_crosscheck.comparisons.problems.answer import Answer
from bptt_crosscheck.comparisons.problems.cases import CASES, Case
from bptt_crosscheck.comparisons.problems.problem import Problem
from bptt_crosscheck.comparisons.trial.mutation_score import ON_TRIAL, REGIMES, experiment_of
from bptt_crosscheck.comparisons.trial.trial import witnesses_used
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES, Engine

CASE = {case.name: case for case in CASES}
SMALLER = {"larger": {"steps": 8, "batch": 2}}


def fingerprint(problem: Problem) -> tuple[Any, ...]:
    """Equal for equal problems only."""
    described = []
    for each in fields(problem):
        value = getattr(problem, each.name)
        if each.name in ("variables", "constants"):
            value = sorted(
                (name, array.dtype.str, array.shape, array.tobytes())
                for name, array in value.items()
            )
        described.append(repr(value))
    return tuple(described)


@dataclass(frozen=True)
class Replayed(Engine):
    """An engine that remembers its answers: many candidates, one reference run."""

    told: dict[Any, Answer] = field(default_factory=dict, compare=False)

    def answer(self, problem: Problem, rounding_seed: int | None = None) -> Answer:
        key = (fingerprint(problem), rounding_seed)
        if key not in self.told:
            self.told[key] = super().answer(problem, rounding_seed)
        return self.told[key]


@dataclass(frozen=True)
class Altered(Engine):
    """An engine whose answers are changed on the way: a reference that is wrong."""

    inner: Engine | None = None
    change: Callable[[Answer], Answer] = lambda answer: answer

    def answer(self, problem: Problem, rounding_seed: int | None = None) -> Answer:
        assert self.inner is not None
        return self.change(self.inner.answer(problem, rounding_seed))


def like(engine: Engine) -> dict[str, Any]:
    return {each.name: getattr(engine, each.name) for each in fields(Engine)}


REPLAYED = {engine.name: Replayed(**like(engine)) for engine in ENGINES}


@dataclass(frozen=True)
class Planted:
    """A candidate whose answer is changed."""

    candidate: Any
    change: Callable[[Answer], Answer]

    def answer(self, problem: Problem) -> Answer:
        return self.change(self.candidate.answer(problem))


@dataclass(frozen=True)
class CheckedCase:
    """A case of the table at small cost: its problem, the derivation that is right, and how to
    check another.
    """

    case: Case
    problem: Problem

    @property
    def candidate(self) -> Any:
        return built_in(self.case.cell, self.case.options, self.case.algorithm)

    @property
    def torch(self) -> Engine:
        """The reference on which noise is measured."""
        return REPLAYED["torch"]

    def check(self, candidate: Any = None, references: Any = ("torch",)) -> CaseReport:
        """The report on a candidate; references are names, or engines."""
        engines = [REPLAYED.get(each, each) for each in references]
        return check_problem(
            self.problem,
            candidate or self.candidate,
            engines,
            manner=Manner(partial=self.candidate.partial),
        )

    def planted(
        self, change: Callable[[Answer], Answer], references: Any = ("torch",)
    ) -> CaseReport:
        """The report on the right derivation with its answer changed."""
        return self.check(Planted(self.candidate, change), references)

    def but(self, **variables: np.ndarray) -> "CheckedCase":
        """The same at other values."""
        return replace(self, problem=self.problem.with_variables(variables))


@cache
def _trial(name: str, seed: int, dtype: str, sizes: tuple[tuple[str, Any], ...]) -> CheckedCase:
    case = replace(CASE[name], **{**SMALLER.get(name, {}), **dict(sizes)})
    return CheckedCase(case, problem_of(case, seed, dtype))


@pytest.fixture(scope="session")
def trial() -> Callable[..., CheckedCase]:
    """trial(case's name, seed, dtype, **fields of Case)."""
    return lambda name="tanh", seed=0, dtype="float64", **sizes: _trial(
        name, seed, dtype, tuple(sorted(sizes.items()))
    )


@pytest.fixture(scope="session")
def trials() -> Callable[[str, str], Any]:
    """trials(cell, regime): a cell on trial, the reference asked once."""
    cells, regimes = (
        {case.name: case for case in ON_TRIAL},
        {regime.name: regime for regime in REGIMES},
    )
    return cache(
        lambda cell, regime: experiment_of(cells[cell], regimes[regime], witnesses_used(), 0)
    )


@pytest.fixture(scope="session")
def with_limit() -> Callable[[Any, float], Any]:
    """with_limit(trial, limit): the same, judged by another limit."""

    def judged(given: Any, limit: float) -> Any:
        witnesses = given.witnesses
        return replace(
            given, witnesses=replace(witnesses, noise=replace(witnesses.noise, limit=limit), own={})
        )

    return judged


@pytest.fixture(scope="session")
def altered() -> Callable[..., Engine]:
    """altered(reference's name, change): that reference, its answers changed."""
    return lambda name, change: Altered(**like(REPLAYED[name]), inner=REPLAYED[name], change=change)


@pytest.fixture(scope="session")
def with_gradient() -> Callable[..., Callable[[Answer], Answer]]:
    """with_gradient(name, change, where="gradients"): a change of one array of an answer; None
    takes it away.
    """

    def make(
        name: str, change: Callable[[np.ndarray], Any], where: str = "gradients"
    ) -> Callable[[Answer], Answer]:
        def apply(answer: Answer) -> Answer:
            arrays = dict(getattr(answer, where))
            value = change(arrays.pop(name).copy())
            return replace(answer, **{where: arrays if value is None else {**arrays, name: value}})

        return apply

    return make
