"""Every mistake in every cell in every regime, and what the cross-check says of each.

A mutant that is not caught is either no mistake there, its gradient being the true one, or a
failure of the oracle. That it is the true one is proven by intervals that contain the exact
gradient (reference.numeric.interval): as near to it as the right derivation.

The references are asked and the noise is measured once for each problem; a mutant then costs one
backward pass. How far a mutant is from the truth is measured here again, without the comparator: a
comparator that has gone blind does not hide what it misses.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from ..candidates.built_in_cells import CellCandidate, built_in
from ..candidates.draw import problem_of
from ..checking.preflight import repeatable
from ..errors import CannotFollow, MissingFramework, NotRepeatable
from ..judging.judge import judge_answer
from ..judging.verdict import Reason
from ..problems.answer import Answer, Enclosed
from ..problems.arrays import Array
from ..problems.cases import CASES, PROJECTION, SQUARED, Case
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, Problem
from ..witnesses.ask import Testimony, Witnesses
from ..witnesses.engines import Engine, select
from .operators import OPERATORS, mutants
from .subject import Mutant, MutationOperator, Subject
from .syntax import NothingToMutate

Certify: TypeAlias = Callable[[Mapping[str, Array]], bool]

WITHIN = (
    16.0  # noises; on purpose not tolerance.LIMIT: a limit that was raised must not excuse itself
)
KILLED, EQUIVALENT, ROUNDING, SURVIVED = "killed", "equivalent", "within rounding", "survived"


def cells_on_trial(cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """Every cell of the table of cases, with each of its options, in the table's order.

    It goes by its own name; by that of its options too where the table has it with several.
    """
    variants: dict[str, list[dict[str, Any]]] = {}
    made: list[tuple[str, dict[str, Any]]] = []
    for case in cases:
        known = variants.setdefault(case.cell, [])
        if case.options not in known:
            known.append(case.options)
            made.append((case.cell, case.options))
    named: list[Case] = []
    for cell, options in made:
        words = [cell, *map(str, options.values())] if len(variants[cell]) > 1 else [cell]
        named.append(Case(" ".join(words), cell, options))
    return tuple(named)


ON_TRIAL: tuple[Case, ...] = cells_on_trial()


@dataclass(frozen=True)
class Regime:
    """Where a derivation is looked at: fields of Case, and factors on the variables whose names
    begin so.
    """

    name: str
    fields: dict[str, Any]
    factors: dict[str, float] = field(default_factory=dict[str, float])


REGIMES: tuple[Regime, ...] = (
    Regime("initial", {"steps": 6, "jacobians": True}),
    Regime("square", {"steps": 5, "input_size": 4, "hidden_size": 4, "output_size": 4}),
    Regime("trained", {"steps": 8, "trained": 50}),
    Regime("saturated", {"steps": 8}, {"W_xh": 10.0, "b": 10.0}),
    Regime("vanishing", {"steps": 12}, {"W_hh": 0.05, "nu": 0.0}),
    Regime("chaotic", {"steps": 20, "hidden_size": 12, "batch": 2}, {"W_hh": 3.0}),
    Regime("one step", {"steps": 1}),
    Regime("long", {"steps": 60, "batch": 2, "hidden_size": 4, "reduction": "mean"}),
    Regime("last", {"steps": 8, "positions": "last", "loss": SQUARED}),
    Regime("states", {"steps": 6, "loss": PROJECTION, "jacobians": True}),
    Regime("tokens", {"steps": 8, "inputs": "tokens", "positions": "masked", "reduction": "mean"}),
    Regime("unequal", {"steps": 6, "unequal": True}),
    Regime(
        "stacked", {"steps": 4, "layers": 2, "bidirectional": True, "dropout": 0.3, "unequal": True}
    ),
)


RAISED, NOT_REPEATED = "raised", "another answer the second time"

# By what a mutant was caught, where that is not the reason's own name.
MANNERS = {Reason.NOT_FINITE_IN_REFERENCE: Reason.NOT_FINITE.value}


@dataclass(frozen=True)
class Rejection:
    """Why an answer is not accepted: the manner by itself, and with its particulars."""

    manner: str
    text: str


def raised(error: Exception, where: str = "") -> Rejection:
    """What an exception says of a mutant."""
    return Rejection(RAISED, f"raised {type(error).__name__}{where}")


@dataclass(frozen=True)
class Experiment:
    """One derivation in one regime: the problem, the right answer, and what the references say."""

    cell: str
    regime: str
    candidate: CellCandidate
    problem: AnyProblem
    right: Answer
    witnesses: Witnesses

    @property
    def truth(self) -> Answer:
        """What the first reference says."""
        return self.witnesses.told[self.witnesses.first]

    def rejects(self, answer: Answer) -> Rejection | None:
        """Why the oracle does not accept the answer; None if it does."""
        judged = judge_answer(self.problem, answer, self.witnesses)
        for row in (*judged.forward, *judged.rows):
            if row.kind is not None:
                return Rejection(MANNERS.get(row.kind, row.kind.value), str(row.reason))
        return None

    def certified(self, gradients: Mapping[str, Array]) -> bool:
        """Whether gradients are the true ones: as near to the exact ones as one noise, or as the
        right code is.

        By proof; by the reference where there is none.
        """
        if not self.proof:
            right, _ = apart(self, self.right.gradients, {})
            found, _ = apart(self, gradients, {})
            return found <= max(1.0, right)
        return all(
            self.from_exact(name, gradients[name])
            <= max(1.0, self.from_exact(name, self.right.gradients[name]))
            for name in self.proof
        )

    @cached_property
    def proof(self) -> Mapping[str, Enclosed]:
        """What contains the exact gradient, by variable; empty where it cannot be had."""
        (engine,) = select(("proof",))
        try:
            return engine.answer(self.problem).proof
        except (CannotFollow, MissingFramework):
            return {}

    def from_exact(self, name: str, gradient: Array) -> float:
        """A proven bound of a gradient's distance from the exact one, in noises."""
        enclosed = self.proof[name]
        level = self.witnesses.noise.total[name] * (
            1.0 if enclosed.directions is None else math.sqrt(gradient.size)
        )
        return float(np.max(enclosed.distance(gradient), initial=0.0)) / level


def problem_in(case: Case, regime: Regime, seed: int, dtype: str = "float64") -> Problem:
    """The problem of a cell in a regime."""
    problem = problem_of(replace(case, name=f"{case.name}, {regime.name}", **regime.fields), seed)
    rng = np.random.default_rng([seed, 7])
    scaled = {
        name: factor * value
        for name, value in problem.variables.items()
        for start, factor in regime.factors.items()
        if name.startswith(start) and not name.startswith("b_y")
    }
    if case.cell == "irnn":  # an identity hides a transposed weight
        around = {
            name: value for name, value in problem.variables.items() if name.startswith("W_hh")
        }
        scaled |= {n: scaled.get(n, v) + 0.1 * rng.normal(size=v.shape) for n, v in around.items()}
    return problem.with_variables(scaled).in_precision(dtype)


def experiment_of(case: Case, regime: Regime, engines: Sequence[Engine], seed: int) -> Experiment:
    """The right derivation and its witnesses."""
    problem = problem_in(case, regime, seed)
    candidate = built_in(case.cell, case.options)
    right = candidate.answer(problem)
    return Experiment(
        case.name,
        regime.name,
        candidate,
        problem,
        right,
        Testimony(problem, engines, Convention(), frozenset(right.gradients)).full,
    )


# How far an answer is from the truth, in noises and relative to the largest entry.


def apart(
    experiment: Experiment, gradients: Mapping[str, Array], steps: Mapping[str, Array]
) -> tuple[float, float]:
    """(largest error over noise, largest relative error) of gradients, and of the shares of each
    step; NaN counts as ∞.
    """
    noise, truth, found = experiment.witnesses.noise, experiment.truth, list[tuple[float, float]]()
    with np.errstate(all="ignore"):
        for name, expected in truth.gradients.items():
            mine = gradients.get(name)
            if not (isinstance(mine, np.ndarray) and mine.shape == expected.shape):
                return math.inf, math.inf
            found.append(_apart(mine - expected, expected, noise.total[name]))
        for name, expected in truth.steps.items():
            if name in steps:
                if np.shape(steps[name]) != expected.shape:
                    return math.inf, math.inf
                found += [
                    _apart(mine - share, share, float(level))
                    for mine, share, level in zip(
                        steps[name], expected, noise.steps[name], strict=True
                    )
                ]
    return max((ratio for ratio, _ in found), default=0.0), max(
        (relative for _, relative in found), default=0.0
    )


def _apart(error: Array, expected: Array, noise: float) -> tuple[float, float]:
    if not np.isfinite(error).all():
        return math.inf, math.inf
    size, scale = (
        float(np.max(np.abs(error), initial=0.0)),
        float(np.max(np.abs(expected), initial=0.0)),
    )
    if size == 0:
        return 0.0, 0.0
    return (size / noise if noise > 0 else math.inf), (size / scale if scale > 0 else math.inf)


# Mutants.


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: where, what it was, the verdict, how it came about, and how far
    the mutant is from the truth.
    """

    cell: str
    regime: str
    kind: str
    what: str
    level: str
    verdict: str
    how: str
    error_over_noise: float
    relative_error: float
    manner: str = ""


def outcomes(
    experiment: Experiment,
    certify: Certify | None = None,
    operators: tuple[MutationOperator, ...] = OPERATORS,
    every: int = 1,
) -> Iterator[Outcome]:
    """The verdict on every mutant of this experiment, or on one in so many of each kind.

    See `certify` in `outcome`.
    """
    assert isinstance(experiment.problem, Problem)  # mistakes are planted in cells
    subject = Subject(experiment.candidate, experiment.problem, experiment.right)
    planted = Counter[str]()
    for mutant in mutants(subject, operators):
        if planted[mutant.kind] % every == 0:
            yield from outcome(experiment, mutant, certify or experiment.certified)
        planted[mutant.kind] += 1


BOTH, WHOLE, STEPS = "both", "whole", "steps"


def outcome(experiment: Experiment, mutant: Mutant, certify: Certify) -> Iterator[Outcome]:
    """The verdicts on a mutant as it is, on its whole gradients beside the right shares, and on
    its shares beside the right ones.

    certify(gradients) says of gradients that the oracle accepts whether they are the true
    ones: such a mutant is no mistake. A level at which nothing differs from the right answer, to
    the bit, is none.
    """
    made = partial(Outcome, experiment.cell, experiment.regime, mutant.kind, mutant.what)
    try:
        with np.errstate(all="ignore"):
            found = asked_only(mutant.answer(), experiment.truth)
    except NothingToMutate:  # the operator is out of date, and no mistake was caught
        raise
    except Exception as error:
        how = raised(error)
        yield made(BOTH, KILLED, how.text, math.inf, math.inf, how.manner)
        return
    right = experiment.right
    if same(found, right):
        verdict, how = _if_repeated(mutant, found, EQUIVALENT)
        yield made(BOTH, verdict, how, 0.0, 0.0, how)
        return
    for level, answer in _at_levels(found, right):
        distance, relative = apart(experiment, answer.gradients, answer.steps)
        with np.errstate(all="ignore"):
            rejection = _rejection(experiment, answer)
        if rejection is not None:
            how = rejection
            yield made(level, KILLED, how.text, distance, relative, how.manner)
            continue
        accepted = _accepted(experiment, answer, distance, certify)
        verdict, how = _if_repeated(mutant, found, accepted)
        yield made(level, verdict, how, distance, relative, how)


def _at_levels(found: Answer, right: Answer) -> Iterator[tuple[str, Answer]]:
    """The answer, its whole gradients alone, its shares alone; not where nothing is wrong."""
    yield BOTH, found
    whole = replace(right, gradients=found.gradients)
    if not same(whole, right):
        yield WHOLE, whole
    steps = replace(right, steps=found.steps)
    if not same(steps, right) and not untold(steps, right):
        yield STEPS, steps


def _rejection(experiment: Experiment, answer: Answer) -> Rejection | None:
    try:
        return experiment.rejects(answer)
    except Exception as error:  # what cannot be compared is no gradient
        return raised(error, " in the comparison")


def _accepted(experiment: Experiment, answer: Answer, distance: float, certify: Certify) -> str:
    """What an answer is that the oracle accepts."""
    needed, _ = apart(experiment, experiment.right.gradients, experiment.right.steps)
    steps, _ = apart(experiment, experiment.truth.gradients, answer.steps)
    if steps <= max(1.0, needed) and certify(answer.gradients):
        return EQUIVALENT
    return ROUNDING if distance <= WITHIN else SURVIVED


def _if_repeated(mutant: Mutant, first: Answer, verdict: str) -> tuple[str, str]:
    """(verdict, how): the candidate is asked a second time, as every candidate from outside is."""
    try:
        repeatable(first, asked_only(mutant.answer(), first))
    except NotRepeatable:
        return KILLED, NOT_REPEATED
    return verdict, ""


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers are equal to the bit."""
    return all(
        mine.keys() == theirs.keys()
        and all(np.array_equal(mine[name], theirs[name]) for name in mine)
        for mine, theirs in ((one.gradients, other.gradients), (one.steps, other.steps))
    )


def asked_only(answer: Answer, like: Answer) -> Answer:
    """The answer without what nobody asked for, a gradient for tokens say."""
    gradients = {name: value for name, value in answer.gradients.items() if name in like.gradients}
    return replace(
        answer,
        gradients=gradients,
        steps={name: value for name, value in answer.steps.items() if name in like.steps},
    )


def untold(one: Answer, other: Answer) -> bool:
    """Whether what an answer tells of the steps is, as far as it goes, what the other tells."""
    return all(
        name in other.steps and np.array_equal(value, other.steps[name])
        for name, value in one.steps.items()
    )
