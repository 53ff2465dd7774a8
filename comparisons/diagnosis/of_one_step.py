"""step_backward by itself: given the true ∂L/∂s_t at every step, which of its outputs are wrong, and at which steps.

Over a whole sequence one wrong carry makes every gradient wrong. Here each step gets the total derivative from a reference, so
that an error stays in its own step and its own output. What would put a wrong output right is then tried on the cell itself:
a common factor, and each square weight transposed inside step_backward.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..candidates.trajectory import local_gradients
from ..candidates.user_cell import UserCell
from ..checking.case_report import CaseReport
from ..judging.comparator import ratios, step_errors, which_steps
from ..problems.arrays import Array
from ..problems.problem import Problem
from ..witnesses import tolerance
from ..witnesses.ask import Witnesses
from .of_gradients import closeness, factor_between, known_sizes, name_factor

Truth = dict[str, tuple[Array, Array]]  # output → (its value at every step, its noise at every step)


def with_local_check(case: CaseReport, cell: UserCell, problem: Problem, witnesses: Witnesses) -> CaseReport:
    """The case with `local` rows, and with what they explain put before the other explanations."""
    reference, noise = witnesses.plain[witnesses.first], witnesses.noise
    if not witnesses.first.tells_steps:
        return case
    d_state = {name: reference.steps[f"{name}_0"] for name in problem.state_sizes}
    truth = true_outputs(problem, reference.steps, noise.steps)
    given = outputs(cell, problem, d_state, problem.variables)
    limit = tolerance.limit_of(problem)
    rows = [_row(output, limit, given[output], *truth[output]) for output in given]
    wrong = [row["output"] for row in rows if not row["passed"]]
    found = [*_factors(problem, wrong, given, truth), *_transposes(cell, problem, d_state, wrong, truth)]
    return replace(case, local=rows, diagnosis=[*found, *case.diagnosis])


def outputs(cell: UserCell, problem: Problem, d_state: Mapping[str, Array], params: Mapping[str, Array]) -> dict[str, Array]:
    """Every output of step_backward at every step, by the name under which it is reported: (T, …)."""
    shares, carried = local_gradients(cell, problem, d_state, params)
    d_params = {f"d_params[{name!r}]": value for name, value in shares.items() if name != "x"}
    return {**d_params, "d_x": shares["x"], **{f"d_state_prev[{name!r}]": value for name, value in carried.items()}}


def true_outputs(problem: Problem, steps: Mapping[str, Array], noise: Mapping[str, Array]) -> Truth:
    """The same from a reference's shares of the steps.

    d_state_prev is the total derivative one step before, less the loss's own derivative there: a difference, with the noise
    of both terms.
    """
    truth = {f"d_params[{name!r}]": (steps[name], noise[name]) for name in problem.parameter_names}
    truth["d_x"] = (steps["x"], noise["x"])
    for name in problem.state_sizes:
        total, level = steps[f"{name}_0"][:-1], noise[f"{name}_0"][:-1]
        direct = np.concatenate([np.zeros_like(total[:1]), problem.constants[f"cotangent_{name}"][:-1]])
        own = tolerance.unit(problem) * np.abs(direct).reshape(len(direct), -1).max(axis=1)
        truth[f"d_state_prev[{name!r}]"] = (total - direct, level + own)
    return truth


def _over_noise(given: Array, true: Array, noise: Array) -> Array:
    return ratios(step_errors(given, true), noise)


def _row(output: str, limit: float, given: Array, true: Array, noise: Array) -> dict[str, Any]:
    over = _over_noise(given, true, noise)
    wrong = [t for t in range(len(over)) if not over[t] <= limit]
    steps = which_steps(wrong, len(over), 1) if wrong else None
    return {"output": output, "passed": not wrong, "wrong_steps": steps, "error_over_noise": float(np.max(over))}


def _found(mistake: str, where: str, text: str) -> dict[str, Any]:
    return {"mistake": mistake, "where": where, "source": None, "explains": 1.0, "text": text}


def _factors(problem: Problem, wrong: list[str], given: Mapping[str, Array], truth: Truth) -> list[dict[str, Any]]:
    """Outputs that are the truth times a number."""
    found: list[dict[str, Any]] = []
    for output in wrong:
        true, noise = truth[output]
        factor = factor_between(given[output], true, float(np.max(noise)))
        if factor is not None and factor != 1:
            text = f"{output} is exact up to {name_factor(factor, known_sizes(problem), closeness(problem))}"
            found.append(_found("factor", f"step_backward: {output}", text))
    return found


def _transposes(
    cell: UserCell, problem: Problem, d_state: Mapping[str, Array], wrong: list[str], truth: Truth
) -> list[dict[str, Any]]:
    """Outputs that are right once a square weight is transposed inside step_backward alone."""
    found: list[dict[str, Any]] = []
    for name in problem.parameter_names if wrong else ():
        weight = problem.variables[name]
        if weight.ndim != 2 or weight.shape[0] != weight.shape[1] or weight.size == 1:
            continue
        instead = outputs(cell, problem, d_state, {**problem.variables, name: weight.T})
        for output in wrong:
            if bool(np.all(_over_noise(instead[output], *truth[output]) <= tolerance.limit_of(problem))):
                text = f"{output} is right with {name} transposed in step_backward: {name} stands where its transpose belongs"
                found.append(_found("transposed_weight", f"step_backward: {output}", text))
    return found
