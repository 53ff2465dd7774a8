"""The same derivations held against losses that are NumPy code: run on torch as they stand.

The loss of a built-in cell, evaluated by NumPy's own functions, is asked as a user's NumPy loss is.
How small an error is still seen, and that what is right is not accused, is measured as it is where
torch has the equations themselves.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ..candidates.built_in_cells import built_in
from ..problems.axes import Layout
from ..problems.cases import Case
from ..problems.convention import Convention
from ..problems.problem import FunctionProblem, Problem
from ..witnesses.ask import Testimony
from ..witnesses.engines import TRACED, scalar_in_numpy
from .mutation_score import REGIMES, Experiment, Regime, problem_in

# All but the chaotic one, where the problem's own amplification sets the limit, whoever is asked.
NUMPY_REGIMES = tuple(regime.name for regime in REGIMES if regime.name != "chaotic")


def experiment_on_numpy_code(case: Case, regime: Regime, seed: int) -> Experiment:
    """The right derivation, and what NumPy code on torch says."""
    problem = replace(problem_in(case, regime, seed), jacobians=False)
    asked = numpy_loss_of(problem)
    candidate = built_in(case.cell, case.options)
    answer = candidate.answer(problem)
    right = replace(
        answer, states={}, steps={"x": answer.steps["x"]} if "x" in answer.steps else {}
    )
    testimony = Testimony(asked, (TRACED,), Convention(), frozenset(right.gradients))
    name = f"{regime.name}, NumPy code"
    return Experiment(case.name, name, candidate, asked, right, testimony.full)


def numpy_loss_of(problem: Problem) -> FunctionProblem:
    """The problem's loss as a function of NumPy code."""

    def loss(xp: Any, named: Any) -> Any:
        return scalar_in_numpy(problem, xp)({name: named[name] for name in problem.variables})

    return FunctionProblem(
        name=f"{problem.name}, NumPy code",
        function=loss,
        variables=problem.variables,
        constants={name: np.array(value) for name, value in problem.constants.items()},
        seed=problem.seed,
        numpy_only=True,
        layout=lambda: Layout({"x": problem.letters("x")}, {"x": problem.x.shape}),
        sliced=("x",) if "x" in problem.variables else (),
        loss_label=problem.loss_label,
    )
