"""What a mistake is planted in, and what comes of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from ..candidates.built_in_cells import CellCandidate
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import Problem
from . import syntax as source

Arrays = dict[str, Array]
Answers = Callable[[], Answer]
Mutations = Iterator[tuple[str, Answers]]
Change = Callable[[Any], Any]
NEW = "after "  # prefix of the state after the step, where a cache is given it


@dataclass(frozen=True)
class Subject:
    """Where a mistake is planted: the right derivation, the problem, and its right answer."""

    candidate: CellCandidate
    problem: Problem
    right: Answer

    @property
    def cell(self) -> Any:
        """The cell that is right."""
        return self.candidate.cell

    @property
    def own_names(self) -> list[str]:
        """The cell's parameters."""
        return list(self.cell.parameter_shapes(1, 1))

    @property
    def gates(self) -> int:
        """How many blocks of H rows the cell stacks in W_xh."""
        return self.cell.parameter_shapes(1, 2)["W_xh"][0] // 2

    @property
    def hidden(self) -> int:
        """H."""
        return self.problem.hidden_size

    @property
    def states(self) -> list[str]:
        """The parts of the cell's state."""
        return list(self.cell.state_shapes(1))

    def learned(self) -> list[str]:
        """The parameters whose shares of the steps are told."""
        return list(self.problem.parameter_names)

    @property
    def plain(self) -> bool:
        """One layer in one direction, all rows of the same length, nothing cut."""
        p = self.problem
        return (
            p.layers == 1
            and not p.bidirectional
            and p.window is None
            and p.chunk is None
            and "lengths" not in p.constants
        )

    @cached_property
    def executed(self) -> set[tuple[str, int]]:
        """The lines of `manual/` that the right answer passes through."""
        return source.lines_of(lambda: self.candidate.answer(self.problem))

    @cached_property
    def cached(self) -> list[str]:
        """What a step of the cell keeps for its way back."""
        tape = next(iter(self.candidate.forward(self.problem).tapes.values()))
        return list(tape.caches[0])

    def with_cell(self, cell: Any) -> Answers:
        """The answer of another cell."""
        return partial(CellCandidate(cell).answer, self.problem)


@dataclass(frozen=True)
class MutationOperator:
    """A mistake: its name, what somebody did, and how to plant it."""

    name: str
    sentence: str
    mutate: Callable[[Subject], Mutations]


@dataclass(frozen=True)
class Mutant:
    """One planted mistake: its kind, which one it is, and its answer.

    `answer` is asked afresh each time.
    """

    kind: str
    what: str
    answer: Answers
