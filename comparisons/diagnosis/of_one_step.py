"""step_backward by itself: given the true ∂L/∂s_t at every step, which of its outputs are wrong,
and at which steps.

Over a whole sequence one wrong carry makes every gradient wrong. Here each step gets the total
derivative from a reference, so that an error stays in its own step and its own output. What would
put a wrong output right is then tried on the cell itself: a common factor, each square weight
transposed inside step_backward, and the cotangent of each part of the state at zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..candidates.built_in_cells import CellCandidate
from ..candidates.trajectory import local_gradients
from ..judging.comparator import ratios, step_errors, which_steps
from ..judging.findings import Finding, LocalRow, Mistake
from ..judging.judge import judge_answer
from ..problems.arrays import Array, Arrays, frozen
from ..problems.convention import Convention
from ..problems.problem import Problem
from ..witnesses import tolerance
from ..witnesses.ask import Testimony, Witnesses
from .of_gradients import closeness, known_sizes, name_factor
from .pairs import factor_between


@dataclass(frozen=True)
class TrueOutput:
    """What an output of step_backward is at every step, and its noise at every step."""

    value: Array
    noise: Array

    def over_noise(self, given: Array) -> Array:
        """The largest error of each step in units of its noise."""
        return ratios(step_errors(given, self.value), self.noise)


@dataclass(frozen=True)
class OneStep:
    """A cell at every step of a problem by itself, given the true ∂L/∂s_t of each."""

    cell: Any
    problem: Problem
    d_state: Arrays
    truth: Mapping[str, TrueOutput]

    @property
    def limit(self) -> float:
        """How many times its noise an output may be off."""
        return tolerance.limit_of(self.problem)

    def outputs(self, params: Arrays) -> dict[str, Array]:
        """Every output of step_backward at every step, by the name under which it is reported: (T,
        …).
        """
        shares, carried = local_gradients(self.cell, self.problem, self.d_state, params)
        named = {f"d_params[{name!r}]": value for name, value in shares.items() if name != "x"}
        if getattr(self.cell, "gives_d_x", True) is not False:
            named["d_x"] = shares["x"]
        named |= {f"d_state_prev[{name!r}]": value for name, value in carried.items()}
        return named

    def row(self, output: str, given: Array) -> LocalRow:
        """An output against the truth."""
        over = self.truth[output].over_noise(given)
        wrong = [int(at) for at in np.flatnonzero(~(over <= self.limit))]
        steps = which_steps(wrong, len(over), 1) if wrong else None
        return LocalRow(output, not wrong, steps, float(np.max(over)))


@dataclass(frozen=True)
class LocalCheck:
    """The outputs of step_backward by themselves, and what would put the wrong ones right."""

    rows: list[LocalRow] = field(default_factory=list[LocalRow])
    findings: list[Finding] = field(default_factory=list[Finding])


def check_one_step(cell: Any, problem: Problem, witnesses: Witnesses) -> LocalCheck:
    """step_backward of a cell under random cotangents on its states, at every step alone.

    Empty where the first reference does not tell single steps.
    """
    if not witnesses.first.tells_steps:
        return LocalCheck()
    reference, noise = witnesses.plain[witnesses.first], witnesses.noise
    d_state = {name: reference.steps[f"{name}_0"] for name in problem.state_sizes}
    truth = true_outputs(problem, reference.steps, noise.steps)
    one_step = OneStep(cell, problem, d_state, truth)
    given = one_step.outputs(problem.variables)
    rows = [one_step.row(output, value) for output, value in given.items()]
    wrong = {row.output: given[row.output] for row in rows if not row.passed}
    findings = [*_factors(one_step, wrong), *_transposes(one_step, list(wrong))]
    if wrong and len(problem.state_sizes) > 1:
        findings += _cotangents(one_step, witnesses)
    return LocalCheck(rows, findings)


def true_outputs(problem: Problem, steps: Arrays, noise: Arrays) -> dict[str, TrueOutput]:
    """Every output of step_backward, from a reference's shares of the steps.

    d_state_prev is the total derivative one step before, less the loss's own derivative there: a
    difference, with the noise of both terms.
    """
    truth: dict[str, TrueOutput] = {}
    for name in problem.parameter_names:
        truth[f"d_params[{name!r}]"] = TrueOutput(steps[name], noise[name])
    truth["d_x"] = TrueOutput(steps["x"], noise["x"])
    for name in problem.state_sizes:
        total, level = steps[f"{name}_0"][:-1], noise[f"{name}_0"][:-1]
        cotangents = problem.constants[f"cotangent_{name}"][:-1]
        direct = np.concatenate([np.zeros_like(total[:1]), cotangents])
        sizes = np.abs(direct).reshape(len(direct), -1).max(axis=1)
        own = tolerance.unit(problem) * sizes
        truth[f"d_state_prev[{name!r}]"] = TrueOutput(total - direct, level + own)
    return truth


def _found(mistake: Mistake, output: str, text: str) -> Finding:
    return Finding(mistake, f"step_backward: {output}", None, 1.0, text)


def _cotangents(one_step: OneStep, witnesses: Witnesses) -> list[Finding]:
    """The parts of the state of which every output is right where their cotangent is zero."""
    rows, found = _all_steps_as_rows(one_step.problem, witnesses), list[str]()
    for name in rows.state_sizes:
        silent = np.zeros_like(rows.constants[f"cotangent_{name}"])
        there = replace(rows, constants=frozen({**rows.constants, f"cotangent_{name}": silent}))
        answer = CellCandidate(one_step.cell).answer(there)
        testimony = Testimony(there, (witnesses.first,), Convention(), frozenset(answer.gradients))
        verdicts = judge_answer(there, answer, testimony.full, partial=True).rows
        if all(row.passed for row in verdicts):
            found.append(f"d_state[{name!r}]")
    if not found or len(found) == len(rows.state_sizes):
        return []
    which = " or ".join(found)
    text = (
        f"step_backward is right in every output where {which} is zero: look at what it makes of it"
    )
    return [_found(Mistake.COTANGENT, which, text)]


def _all_steps_as_rows(problem: Problem, witnesses: Witnesses) -> Problem:
    """One step from each state of the trajectory, as rows of a batch, under random cotangents."""
    told, rng = witnesses.plain[witnesses.first].states, np.random.default_rng([problem.seed, 11])
    count = problem.steps * problem.batch
    variables, constants = dict(problem.variables), dict[str, Array]()
    for name, size in problem.state_sizes.items():
        before = [problem.variables[f"{name}_0"][None], told[name][:-1]]
        variables[f"{name}_0"] = np.concatenate(before).reshape(count, -1)
        constants[f"cotangent_{name}"] = rng.normal(size=(1, count, size))
    home = variables if "x" in variables else constants
    home["x"] = problem.x.reshape(1, count, *problem.x.shape[2:])
    rows = replace(problem, variables=frozen(variables), constants=frozen(constants))
    return replace(rows, name=f"{problem.cell}, each step", jacobians=False)


def _factors(one_step: OneStep, wrong: Mapping[str, Array]) -> list[Finding]:
    """Outputs that are the truth times a number."""
    found: list[Finding] = []
    problem = one_step.problem
    for output, given in wrong.items():
        true = one_step.truth[output]
        within = one_step.limit * float(np.max(true.noise))
        factor = factor_between(given, true.value, within)
        if factor is not None and factor != 1:
            called = name_factor(factor, known_sizes(problem), closeness(problem))
            found.append(_found(Mistake.FACTOR, output, f"{output} is exact up to {called}"))
    return found


def _transposes(one_step: OneStep, wrong: list[str]) -> list[Finding]:
    """Outputs that are right once a square weight is transposed inside step_backward alone."""
    found: list[Finding] = []
    variables = one_step.problem.variables
    for name in one_step.problem.parameter_names if wrong else ():
        weight = variables[name]
        if weight.ndim != 2 or weight.shape[0] != weight.shape[1] or weight.size == 1:
            continue
        instead = one_step.outputs({**variables, name: weight.T})
        for output in wrong:
            over = one_step.truth[output].over_noise(instead[output])
            if bool(np.all(over <= one_step.limit)):
                text = (
                    f"{output} is right with {name} transposed in step_backward: "
                    f"{name} stands where its transpose belongs"
                )
                found.append(_found(Mistake.TRANSPOSED_WEIGHT, output, text))
    return found
