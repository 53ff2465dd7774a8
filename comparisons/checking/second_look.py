"""A second look at rows that differ: is it the candidate's own rounding?

The candidate is asked again, in other precisions and at other problems, and the references beside
it. What is made of their answers is `comparisons.judging.own_rounding`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..judging.findings import LostDigits
from ..judging.judge import judge_answer
from ..judging.lost_digits import Lost, Way
from ..judging.own_rounding import (
    CAP,
    GONE,
    Candidate,
    Clean,
    added,
    all_means_kept,
    as_told,
    asked_in,
    caps,
    error_of,
    excused,
    in_longdouble,
    in_single,
    left,
    relieved,
)
from ..judging.verdict import Reason, Verdict
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import AnyProblem
from ..witnesses import tolerance
from ..witnesses.ask import Testimony, Witnesses, finite, in_double

SCALINGS = (0.25, 0.0625)
NEIGHBOURS = 48
NEAR = (2.0**-3, 2.0**-10)  # how far neighbours are, relative to each number: the first that work
GROWS = 1e4  # times larger in float32: what does not grow so is no rounding, and not sampled
LOST_IN_SINGLE = 1e-4  # of a gradient: taken for its error in float32, of code that has none
SPOILT = 1e-2  # of a gradient: an error in float32 that is more than rounding has to be
FEW_VARIABLES = 12  # up to so many are scaled down each alone


@dataclass(frozen=True)
class Looked:
    """The rows after a second look.

    rows       those that rounding explains passed
    findings   how many digits are lost, of each gradient that is right but for rounding
    """

    rows: list[Verdict]
    findings: list[LostDigits]


@dataclass(frozen=True)
class SecondLook:
    """A candidate whose rows do not all pass, and whom to ask."""

    testimony: Testimony
    witnesses: Witnesses
    candidate: Candidate
    given: Answer
    rows: Sequence[Verdict]
    partial: bool

    @property
    def problem(self) -> AnyProblem:
        """Of which all are asked, in float64."""
        return in_double(self.testimony.problem)

    @property
    def differing(self) -> list[str]:
        """The gradients that differ from some reference."""
        told = [row.gradient for row in self.rows if row.kind is Reason.DIFFERS]
        return list(dict.fromkeys(told))

    def looked(self) -> Looked:
        """The rows, as far as the candidate's own rounding explains those that differ."""
        if not self.differing or self.witnesses.noise.allowed is not None:
            return Looked([*self.rows], [])
        if self.problem.rounding_dtype != np.float64:
            return Looked([*self.rows], self._lost_in_low_precision())
        single = in_single(self.problem, self.candidate)
        clean = self._wider(single) or self._sampled(single)
        right: set[str] = set()
        if clean is not None:
            right = self._passing(clean.answer, clean.doubt)
        if clean is None or not right:
            return Looked([*self.rows], self._grown(single))
        scales = self._scales()
        kept = self._passing(*relieved(self.given, clean, caps(scales)))
        explained = right & kept
        if explained and single is not None:
            explained &= self._right_in_single(single, scales)
        rows = [excused(row, clean, self.witnesses, explained) for row in self.rows]
        return Looked(rows, self._findings(right, explained, clean.way))

    def _passing(self, answer: Answer, doubt: tolerance.Noise) -> set[str]:
        """The differing gradients that agree with every reference once they are these."""
        noise = added(self.witnesses.noise, doubt)
        eased = replace(self.witnesses, noise=noise)
        judged = judge_answer(self.problem, answer, eased, self.partial).rows
        wrong = {row.gradient for row in judged if not row.passed}
        return {name for name in self.differing if name not in wrong}

    def _wider(self, single: Answer | None) -> Clean | None:
        """By longdouble; without the gradients that lose less in float32."""
        wide = in_longdouble(self.problem, self.candidate)
        if wide is None or single is None:
            return None
        apart = tolerance.difference(self.given, wide)
        lost_in_single = tolerance.difference(single, wide).total
        answer = wide.astype(np.float64)
        gradients, steps = dict(answer.gradients), dict(answer.steps)
        for name in gradients:
            if not apart.total[name] <= lost_in_single.get(name, 0.0):
                gradients[name] = self.given.gradients[name]
                if name in steps and name in self.given.steps:
                    steps[name] = self.given.steps[name]
        kept = replace(answer, gradients=gradients, steps=steps)
        return Clean(Way.WIDER, kept, left(apart, answer), apart)

    def _sampled(self, single: Answer | None) -> Clean | None:
        """By the mean over neighbours, where the error grows in float32 as rounding does."""
        if self.witnesses.first.numeric or not self._may_be_rounding(single):
            return None
        errors: list[Answer] = []
        for near in NEAR:
            errors = errors or self._errors_beside(near)
        if not errors:
            return None
        first, given = self.witnesses.told[self.witnesses.first], self.given
        of_gradients = [error.gradients for error in errors]
        of_steps = [error.steps for error in errors]
        answer = replace(
            given,
            gradients=all_means_kept(given.gradients, first.gradients, of_gradients),
            steps=all_means_kept(given.steps, first.steps, of_steps),
        )
        apart = tolerance.difference(given, answer)
        return Clean(Way.SAMPLED, answer, tolerance.Noise({}, {}), apart)

    def _may_be_rounding(self, single: Answer | None) -> bool:
        """Whether some error is as much larger in float32 as rounding would be."""
        first = self.witnesses.told[self.witnesses.first]
        if first.directions:
            return False
        here = tolerance.difference(first, self.given).total
        there: dict[str, float] = {}
        for name, value in first.gradients.items():
            there[name] = LOST_IN_SINGLE * float(np.max(np.abs(value), initial=0.0))
        if single is not None:
            there = tolerance.difference(first, single.astype(np.float64)).total
        told = [name for name in self.differing if name in here and name in there]
        return any(not there[name] < GROWS * here[name] for name in told)

    def _grown(self, single: Answer | None) -> list[LostDigits]:
        """The gradients that rounding has spoilt for certain, where no run is free of it: their
        error grows in float32 as roundoff does, to far more than float32 explains.
        """
        first = self.witnesses.told[self.witnesses.first]
        if single is None or first.directions:
            return []
        growth = tolerance.epsilon(np.float32) / tolerance.epsilon(np.float64)
        here = tolerance.difference(first, self.given).total
        there = tolerance.difference(first, single.astype(np.float64)).total
        spoilt: set[str] = set()
        for name in self.differing:
            if not here.get(name, 0.0) > 0 or name not in there:
                continue
            size = float(np.max(np.abs(first.gradients[name]), initial=0.0))
            as_roundoff = growth / 64 <= there[name] / here[name] <= growth * 64
            if as_roundoff and SPOILT * size <= there[name] < math.inf:
                spoilt.add(name)
        return self._findings(spoilt, set(), Way.GROWN)

    def _lost_in_low_precision(self) -> list[LostDigits]:
        """The gradients of a candidate in lower precision that are right in longdouble."""
        first = self.witnesses.told[self.witnesses.first]
        problem = replace(self.problem, precision=None)
        wide = asked_in(np.dtype(np.longdouble), problem, self.candidate)
        if wide is None or first.directions:
            return []
        here = tolerance.difference(first, self.given).total
        there = tolerance.difference(first, wide.astype(np.float64)).total
        told = [name for name in self.differing if name in here and name in there]
        right = {name for name in told if there[name] <= here[name] / GONE}
        return self._findings(right, set(), Way.WIDER)

    def _findings(self, right: set[str], explained: set[str], way: Way) -> list[LostDigits]:
        """How many digits are lost, of every gradient that is right but for rounding."""
        roundoff = tolerance.epsilon(self.problem.rounding_dtype)
        back_to = [row.first_wrong_step for row in self.rows if row.first_wrong_step is not None]
        found: dict[str, LostDigits] = {}
        for row in self.rows:
            told = row.kind is Reason.DIFFERS and row.gradient in right
            if told and row.gradient not in found:
                step = row.first_wrong_step
                if step is None:
                    step = max(back_to, default=None)
                lost = Lost(row, step, row.gradient in explained, way)
                found[row.gradient] = lost.finding(roundoff)
        return list(found.values())

    def _errors_beside(self, near: float) -> list[Answer]:
        """What the candidate errs by at neighbours; none where one of them cannot be asked."""
        rng = np.random.default_rng([self.problem.seed, 11])
        found: list[Answer] = []
        for _ in range(NEIGHBOURS):
            moved: dict[str, Array] = {}
            for name, value in self.problem.variables.items():
                moved[name] = value * (1 + near * rng.uniform(-1, 1, size=value.shape))
            beside = named_apart(self.problem.with_variables(moved))
            try:
                error = error_of(self.candidate.answer(beside), self._truth(beside))
            except Exception:  # neither has to take every number
                return []
            if not finite(error):
                return []
            found.append(error)
        return found

    def _truth(self, problem: AnyProblem) -> Answer:
        """What the first reference says under the convention."""
        told = self.witnesses.first.answer(problem)
        declared, names = self.testimony.convention, set(self.testimony.names)
        return declared.apply(told, problem.steps, problem.batch, names)

    def _scales(self) -> tolerance.Noise:
        """How large the gradients, and the shares of the steps, are where nothing is saturated."""
        first = self.witnesses.told[self.witnesses.first]
        nothing = Answer(0.0, {name: 0 * value for name, value in first.gradients.items()})
        nothing = replace(nothing, steps={name: 0 * each for name, each in first.steps.items()})
        told = [tolerance.difference(first, nothing)]
        for scaled in scaled_down(self.problem):
            try:
                answer = self._truth(named_apart(scaled))
            except Exception:  # a point where it cannot be asked says nothing of the scale
                continue
            if finite(answer):
                told.append(tolerance.difference(answer, nothing))
        largest = tolerance.largest(*told)
        bound = self._bounds(told[0])
        steps: dict[str, Array] = {}
        for name, sizes in largest.steps.items():
            steps[name] = np.minimum(sizes, bound.get(name, math.inf))
        total: dict[str, float] = {}
        for name, size in largest.total.items():
            total[name] = min(size, bound.get(name, math.inf))
        return replace(largest, total=total, steps=steps)

    def _bounds(self, here: tolerance.Noise) -> dict[str, float]:
        """How much the loss changes when a variable changes by its own size; at least its
        gradient.
        """
        change = self.witnesses.noise.total[tolerance.LOSS] / tolerance.epsilon(np.float64)
        found: dict[str, float] = {}
        for name, value in self.problem.variables.items():
            size = float(np.max(np.abs(value), initial=0.0))
            if size > 0 and name in here.total:
                found[name] = max(change / size, here.total[name])
        return found

    def _right_in_single(self, single: Answer, scales: tolerance.Noise) -> set[str]:
        """The gradients of which float32 is as near to the truth as float32 explains."""
        error, frameworks = self._errors_in_single(single)
        found: set[str] = set()
        for name, scale in scales.total.items():
            explained = tolerance.LOW_LIMIT * frameworks.get(name, 0.0)
            explained += CAP * tolerance.epsilon(np.float32) * scale
            if error.get(name, math.inf) <= explained:
                found.add(name)
        return found

    def _errors_in_single(self, single: Answer) -> tuple[dict[str, float], dict[str, float]]:
        """(what the candidate errs by in float32, what the first reference does)."""
        lowered = self.problem.astype(np.float32)
        truth = self._truth(named_apart(lowered.astype(np.float64)))
        error = tolerance.difference(truth, as_told(single.astype(np.float64), truth)).total
        if self.witnesses.first.numeric:
            return error, {}
        try:
            told = self._truth(named_apart(lowered)).astype(np.float64)
        except Exception:  # it lacks an operation in float32: its roundoffs alone count
            return error, {}
        return error, tolerance.difference(truth, told).total


def named_apart(problem: AnyProblem) -> AnyProblem:
    """The problem under another name: it is none of the trials that are asked in one batch."""
    return replace(problem, name=f"{problem.name}, moved")


def scaled_down(problem: AnyProblem) -> Iterator[AnyProblem]:
    """The problem with variables scaled down, all together and each alone."""
    names = list(problem.variables)
    together: list[list[str]] = [names]
    if len(names) <= FEW_VARIABLES:
        together += [[name] for name in names]
    for scaling in SCALINGS:
        for chosen in together:
            moved = {name: scaling * problem.variables[name] for name in chosen}
            yield problem.with_variables(moved)
