"""Derivations that are right, on random problems: does the cross-check ever accuse one?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..candidates.built_in_cells import CellCandidate, built_in
from ..candidates.draw import problem_of
from ..judging.judge import judge_answer
from ..judging.verdict import Verdict
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.cases import PROJECTION, SQUARED, Case
from ..problems.convention import Convention
from ..problems.problem import Problem
from ..witnesses.ask import Testimony, finite
from ..witnesses.engines import Engine
from .mutate_cell import altered
from .mutation_score import ON_TRIAL

CLOSE = 2.0  # noises
DTYPES = ("float64", "float32", "float16")


@dataclass
class Alarms:
    """Comparisons of derivations that are right: how many, how many of single steps besides, the
    alarms, the largest ratio.
    """

    problems: int = 0
    comparisons: int = 0
    step_comparisons: int = 0
    overflowed: int = 0
    alarms: list[str] = field(default_factory=list[str])
    worst: float = 0.0
    where: str = ""

    def look_at(
        self, forward: Sequence[Verdict], rows: Sequence[Verdict], where: str, steps: int
    ) -> None:
        """Count the rows, note the alarms, and how much noise they need."""
        for row in (*forward, *rows):
            self.comparisons += row in rows
            self.step_comparisons += steps if row.step_error_over_noise is not None else 0
            place = f"{row.gradient} against {row.reference}, {where}"
            if not row.passed:
                self.alarms.append(f"{place}: {row.worst_over_noise:.3g}")
            if row.worst_over_noise > self.worst:
                self.worst, self.where = row.worst_over_noise, place

    def add(self, other: "Alarms") -> None:
        """Those of another, too."""
        self.problems += other.problems
        self.comparisons += other.comparisons
        self.step_comparisons += other.step_comparisons
        self.overflowed += other.overflowed
        self.alarms += other.alarms
        if other.worst > self.worst:
            self.worst, self.where = other.worst, other.where


def random_case(rng: np.random.Generator) -> Case:
    """A random cell in random sizes: lengths 1 to 24, one in fifty up to 500."""
    case = ON_TRIAL[rng.integers(len(ON_TRIAL))]
    long = rng.random() < 0.02
    steps = int(rng.integers(100, 501)) if long else int(rng.integers(1, 25))
    sizes = {
        name: int(rng.integers(1, 4 if long else top))
        for name, top in (("batch", 5), ("input_size", 7), ("hidden_size", 9))
    }
    stacked = not long and rng.random() < 0.1
    layers = (
        {
            "layers": int(rng.integers(1, 3)),
            "bidirectional": bool(rng.random() < 0.5),
            "steps": min(steps, 6),
        }
        if stacked
        else {}
    )
    return replace(
        case,
        **{"steps": steps, **sizes, **layers},
        output_size=int(rng.integers(2, 8)),
        loss=str(rng.choice(["softmax-cross-entropy", SQUARED, PROJECTION])),
        inputs=str(rng.choice(["dense", "dense", "tokens"])),
        positions=str(rng.choice(["every", "last", "masked"])),
        reduction=str(rng.choice(["sum", "mean"])),
        unequal=bool(rng.random() < 0.2),
    )


def random_problem(seed: int, number: int, dtype: str) -> tuple[CellCandidate, Problem]:
    """A random case with recurrent gain 0.1 to 4; one in three has inputs that saturate."""
    rng = np.random.default_rng([seed, number])
    case = random_case(rng)
    problem = problem_of(case, int(rng.integers(2**31)))
    gain = math.exp(rng.uniform(math.log(0.1), math.log(4)))
    factors = {"W_hh": gain, "W_xh": 10.0 if rng.random() < 1 / 3 else 1.0}
    scaled = {
        name: factor * value
        for name, value in problem.variables.items()
        for start, factor in factors.items()
        if name.startswith(start)
    }
    return built_in(case.cell, case.options), problem.with_variables(scaled).in_precision(dtype)


def derivations(
    candidate: CellCandidate, problem: Problem, answer: Answer
) -> Iterator[tuple[str, Answer]]:
    """The same right derivation, summing in other orders: hoisted, by the sequence form and
    without; by steps; rows reversed.
    """
    yield "hoisted", answer
    if hasattr(candidate.cell, "sequence"):
        plain = CellCandidate(altered(candidate.cell, sequence=None))
        yield "without its sequence form", plain.answer(problem)
    summed = {name: answer.steps[name].sum(axis=0) for name in problem.parameter_names}
    yield "step by step", replace(answer, gradients={**answer.gradients, **summed})
    if problem.batch > 1:
        yield "batch reversed", reversed_rows(candidate, problem)


def reversed_rows(candidate: CellCandidate, problem: Problem) -> Answer:
    """The answer to the problem whose rows stand in the reverse order, put back into order."""
    weights = set(problem.weight_names)

    def turned(name: str, value: Array) -> Array:
        if name in weights:
            return value
        rows = 0 if name.endswith("_0") or name == "lengths" else 1
        return np.flip(value, axis=rows)

    both = [
        {name: turned(name, value) for name, value in arrays.items()}
        for arrays in (problem.variables, problem.constants)
    ]
    answer = candidate.answer(replace(problem.with_variables(both[0]), constants=both[1]))
    gradients = {name: turned(name, value) for name, value in answer.gradients.items()}
    steps = {
        name: value if name in weights else np.flip(value, axis=1)
        for name, value in answer.steps.items()
    }
    return Answer(
        answer.loss,
        gradients,
        {name: np.flip(value, axis=1) for name, value in answer.states.items()},
        steps,
    )


def alarms_in(number: int, seed: int, dtype: str, engines: Sequence[Engine]) -> Alarms:
    """The comparisons of one random problem.

    One whose gradient overflows, or a framework's own in that dtype, says nothing.

    What needs more than CLOSE noises by one sample is judged by all.
    """
    candidate, problem = random_problem(seed, number, dtype)
    found = Alarms(problems=1)
    with np.errstate(all="ignore"):
        answer = candidate.answer(problem)
        testimony = Testimony(problem, engines, Convention(), frozenset(answer.gradients))
        brief = testimony.brief
        if brief.overflown or not finite(brief.told[brief.first]):
            return replace(found, overflowed=1)
        drawn = f"{problem.name}, {dtype}, seed {seed}, number {number}, T = {problem.steps}"
        for how, derived in derivations(candidate, problem, answer):
            judged = judge_answer(problem, derived, brief)
            rows = (*judged.forward, *judged.rows)
            if not all(row.worst_over_noise <= CLOSE for row in rows):
                judged = judge_answer(problem, derived, testimony.full)
            found.look_at(judged.forward, judged.rows, f"{how}, {drawn}", problem.steps)
    return found
