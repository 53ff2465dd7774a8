"""Trials of one cell that differ in their cotangents alone, asked in one batch.

One forward serves them all.

Nothing outlives the check, and an answer is handed out once, for the very numbers that it was
computed from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from ...reference import roundoff
from ..problems.answer import Answer
from ..problems.arrays import same_arrays
from ..problems.problem import AnyProblem, Problem
from .engines import Engine

# Numbers in all the answers to one batch; where there are more, trials are asked one by one.
LARGEST = 1 << 22


# A trial's name, its dtype, the rounding seed, the roundoff.
Key: TypeAlias = tuple[str, str, int | None, float]


@dataclass(frozen=True)
class Waiting:
    """An answer to a trial that has not asked yet."""

    problem: Problem
    answer: Answer


@dataclass(frozen=True)
class Batched(Engine):
    """The engine that works out all trials when the first of them asks, plain or moved.

    The later ones are answered as they come.
    """

    trials: tuple[Problem, ...] = field(default=(), compare=False, repr=False)
    waiting: dict[Key, Waiting] = field(
        default_factory=dict[Key, Waiting], compare=False, repr=False
    )

    def answer(
        self, problem: AnyProblem, rounding_seed: int | None = None, shares: bool = True
    ) -> Answer:
        """As an Engine's."""
        if not shares or not isinstance(problem, Problem):
            return super().answer(problem, rounding_seed, shares)
        ready = self.waiting.pop(_key(problem, rounding_seed), None)
        if ready is not None and _same(ready.problem, problem):
            return ready.answer
        later = self.later(problem)
        if not later:
            return super().answer(problem, rounding_seed)
        answer, *others = self.answers([problem, *later], rounding_seed)
        for other, told in zip(later, others, strict=True):
            self.waiting[_key(other, rounding_seed)] = Waiting(other, told)
        return answer

    def later(self, problem: Problem) -> list[Problem]:
        """The trials after it, at its variables and in its dtype; none where it is no trial, moved
        or not.
        """
        names = [trial.name for trial in self.trials]
        if problem.name not in names:
            return []
        left = self.trials[names.index(problem.name) :]
        own, *others = [trial.astype(problem.dtype) for trial in left]
        if not same_arrays(own.constants, problem.constants):
            return []
        return [replace(problem, name=other.name, constants=other.constants) for other in others]


def _key(problem: Problem, rounding_seed: int | None) -> Key:
    return problem.name, problem.dtype.name, rounding_seed, roundoff.chosen()


def _same(one: Problem, other: Problem) -> bool:
    if one.step is not other.step or not same_arrays(one.variables, other.variables):
        return False
    return same_arrays(one.constants, other.constants)


def batched(engines: Iterable[Engine], trials: Sequence[Problem]) -> tuple[Engine, ...]:
    """The engines, those of them that can take several trials at once taking these in one batch."""
    small = sum(map(_numbers, trials)) <= LARGEST
    made: list[Engine] = []
    for engine in engines:
        if small and engine.takes_several:
            made.append(Batched(**_like(engine), trials=tuple(trials)))
        else:
            made.append(engine)
    return tuple(made)


def _numbers(trial: Problem) -> int:
    """How many numbers an answer to the trial holds."""
    names = (*trial.parameter_names, *(f"{name}_0" for name in trial.state_sizes))
    return trial.steps * sum(trial.variables[name].size for name in names)


def _like(engine: Engine) -> dict[str, Any]:
    return {each.name: getattr(engine, each.name) for each in fields(Engine)}
