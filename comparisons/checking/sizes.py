"""A cell at other sizes, with weights of their own, and with zeros in its sequence.

A mistake may show at some sizes alone: where one row broadcasts, where a width is a multiple of
eight, where a step is padding. Two small problems hold several such sizes each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .. import user_code
from ..candidates.built_in_cells import CellCandidate
from ..candidates.draw import cell_problem
from ..candidates.user_cell import UserCell
from ..errors import BadContract, QuestionError
from ..problems.arrays import Array, Arrays
from ..problems.convention import Convention
from ..problems.problem import Problem
from ..witnesses.engines import Engine
from .case_report import CaseReport
from .crosscheck import Manner
from .elsewhere import Question, refusal, wrong_case


@dataclass(frozen=True)
class Sizes:
    """T, B, I and H of a further problem, and where it has zeros.

    padded   steps at which x is zero in every row
    at_rest  whether the initial states are zero
    """

    steps: int
    batch: int
    input_size: int
    hidden_size: int
    padded: tuple[int, ...] = ()
    at_rest: bool = False

    def named(self) -> dict[str, int]:
        """By the names that a case has."""
        return {
            "steps": self.steps,
            "batch": self.batch,
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
        }

    def __str__(self) -> str:
        letters = f"T = {self.steps}, B = {self.batch}, I = {self.input_size}"
        zeros = f", H = {self.hidden_size}"
        if self.padded:
            zeros += f", x = 0 at steps {', '.join(str(step) for step in self.padded)}"
        return letters + zeros + (", initial states zero" if self.at_rest else "")


FURTHER = (
    Sizes(steps=17, batch=1, input_size=11, hidden_size=9, padded=(5, 16, 17)),
    Sizes(steps=2, batch=8, input_size=3, hidden_size=16, at_rest=True),
    Sizes(steps=1, batch=2, input_size=1, hidden_size=1),
)
OTHER_NUMBERS = 1  # how far the seed of their numbers is from that of the first problem


@dataclass(frozen=True)
class CellTrials:
    """How a cell is tried at further problems.

    own       the sizes at which it was asked first
    engines   whom to ask
    manner    how it is asked
    """

    cell: UserCell
    own: Mapping[str, int]
    seed: int
    dtype: str
    engines: tuple[Engine, ...]
    convention: Convention
    manner: Manner

    def restore(self) -> None:
        """Ask the cell for the shapes of its own sizes again: it may keep the sizes it is asked."""
        UserCell(self.cell.cell, self.own["input_size"], self.own["hidden_size"])

    def drawn(self, sizes: Sizes, number: int) -> tuple[UserCell, Problem]:
        """(the cell, a problem of it) at these sizes, the numbers being the `number`th draw."""
        cell = UserCell(self.cell.cell, sizes.input_size, sizes.hidden_size)
        shapes = cell.parameters, cell.states
        problem = cell_problem(cell.name, shapes, sizes.named(), self.seed + number, cell)
        return cell, replace(problem, step=cell.aside().differentiable_step)

    def question(self, cell: UserCell, problem: Problem) -> Question:
        """The cell at the problem."""
        turned = CellCandidate(cell.in_fortran_order())
        manner = replace(self.manner, turned=turned, once=None, again=None)
        return Question(problem, CellCandidate(cell), self.engines, self.convention, manner)


@dataclass(frozen=True)
class Found:
    """What came of it.

    also      the sizes at which the cell is right
    refused   those that it cannot take, and why
    wrong     the case of the first sizes at which it is wrong
    """

    also: list[str]
    refused: list[str]
    wrong: CaseReport | None = None


def at_other_sizes(trials: CellTrials) -> Found:
    """The cell at every further size that it takes, and at which it can be judged."""
    found = Found([], [])
    for sizes in FURTHER:
        reasons: list[str] = []
        for attempt in _attempts(sizes, trials.own):
            try:
                wrong = wrong_case(_question(attempt, trials))
            except QuestionError as error:
                reasons.append(f"{attempt} ({refusal(error)})")
                continue
            if wrong is not None:
                return replace(found, wrong=wrong)
            found.also.append(str(attempt))
            break
        # What a smaller change explains is not told twice.
        found.refused.extend(reasons[:1])
    return found


def _attempts(sizes: Sizes, own: Mapping[str, int]) -> list[Sizes]:
    """The sizes; without zeros; at the cell's own width, which may be fixed; and both."""
    of_the_cell = replace(sizes, input_size=own["input_size"], hidden_size=own["hidden_size"])
    attempts: list[Sizes] = []
    for each in (sizes, of_the_cell):
        attempts += [each, replace(each, padded=(), at_rest=False)]
    return attempts


def _question(sizes: Sizes, trials: CellTrials) -> Question:
    """The cell at these sizes. Raises BadContract where its shapes do not depend on H."""
    own_width = trials.own["hidden_size"]
    if sizes.hidden_size != own_width:
        narrow = UserCell(trials.cell.cell, sizes.input_size, own_width)
        wide = UserCell(trials.cell.cell, sizes.input_size, sizes.hidden_size)
        if (narrow.parameters, narrow.states) == (wide.parameters, wide.states):
            raise BadContract(
                f"its shapes are fixed: they do not depend on H, which stays {own_width}"
            )
    cell, drawn = trials.drawn(sizes, OTHER_NUMBERS)
    problem = _with_zeros(drawn, sizes, cell).in_precision(trials.dtype)
    asked = trials.question(cell, replace(problem, name=f"{cell.name} at {sizes}"))
    if trials.dtype != "float64":
        return asked  # rounding would hide too much of one derivative

    def loss(variables: Arrays) -> float:
        return user_code.call(f"{cell.name}.step", _loss, cell, problem, variables)

    return replace(asked, loss=loss)


def _loss(cell: UserCell, problem: Problem, variables: Arrays) -> float:
    """Σ_t ⟨cotangent of s_t, s_t⟩ of the cell's own steps."""
    params = {name: variables[name] for name in problem.parameter_names}
    state = {name: variables[f"{name}_0"] for name in problem.state_sizes}
    total = 0.0
    for t in range(problem.steps):
        state = cell.differentiable_step(np, params, state, variables["x"][t])
        for name, value in state.items():
            cotangent = problem.constants[f"cotangent_{name}"][t]
            total += float(np.sum(cotangent * np.asarray(value, dtype=np.float64)))
    return total


def _with_zeros(problem: Problem, sizes: Sizes, cell: UserCell) -> Problem:
    """The problem with x zero at the padded steps, and with initial states of zero.

    Those that the cell draws itself stay: zero may be none of its states.
    """
    changed: dict[str, Array] = {}
    x = np.array(problem.x)
    for step in sizes.padded:
        x[step - 1] = 0.0
    changed["x"] = x
    if sizes.at_rest:
        rng = np.random.default_rng(problem.seed)
        drawn = cell.initialise(rng, sizes.input_size, sizes.hidden_size, sizes.batch)
        for state in problem.state_sizes:
            name = f"{state}_0"
            if name not in drawn:
                changed[name] = np.zeros_like(problem.variables[name])
    return problem.with_variables(changed)
