"""The experiment behind `comparisons.witnesses.tolerance.LIMIT`.

How large error / noise gets for code that is right.

    python -m bptt_crosscheck.comparisons.trial.calibration --problems 250

draws problems from the table of cases with other seeds, recurrent gains from 0.1 to 4 and, in one
problem of three, inputs that saturate every unit; holds the built-in derivations against all
references; and prints how many comparisons there were and the largest ratios seen. A correct
program never needs more than that; LIMIT leaves room above it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import typer

from ..candidates.built_in_cells import built_in
from ..candidates.draw import problem_of
from ..checking.crosscheck import check_problem
from ..problems.cases import CASES, Case
from ..problems.problem import Problem
from ..witnesses.ask import available

GAINS = (0.1, 4.0)
SATURATING = 10.0
LONG = 20


@dataclass(frozen=True)
class Ratio:
    """One comparison's worst error over noise, and where it was seen."""

    value: float
    case: str
    seed: int
    gradient: str
    reference: str


def random_problem(case: Case, seed: int) -> Problem:
    """The case at this seed, W_hh scaled by a random gain, in one of three W_xh so that units
    saturate; no Jacobians.
    """
    problem = replace(problem_of(case, seed), jacobians=False)
    rng = np.random.default_rng([seed, len(case.name)])
    gain = math.exp(rng.uniform(math.log(GAINS[0]), math.log(GAINS[1])))
    input_gain = SATURATING if rng.random() < 1 / 3 else 1.0
    gains = {"W_hh": gain, "W_xh": input_gain}
    return problem.with_variables(
        {name: gains.get(name[:4], 1.0) * value for name, value in problem.variables.items()}
    )


def ratios(problems: int) -> list[Ratio]:
    """Error over noise of every comparison, largest first."""
    engines, _ = available(None)
    cases = [case for case in CASES if case.steps <= LONG]
    found: list[Ratio] = []
    for number in range(problems):
        case, seed = cases[number % len(cases)], number // len(cases)
        report = check_problem(
            random_problem(case, seed), built_in(case.cell, case.options), engines
        )
        rows = [*report.rows, *report.forward]
        found += [
            Ratio(row.worst_over_noise, case.name, seed, row.gradient, row.reference)
            for row in rows
        ]
    return sorted(found, key=lambda ratio: -ratio.value)


def main(problems: int = 250, show: int = 10) -> None:
    """Print the number of comparisons and the largest ratios."""
    found = ratios(problems)
    print(f"{len(found):,} comparisons of correct gradients; largest error / noise:")
    for ratio in found[:show]:
        print(
            f"{ratio.value:10.2f}  {ratio.gradient} against {ratio.reference}, {ratio.case}, seed "
            f"{ratio.seed}"
        )


if __name__ == "__main__":
    typer.run(main)
