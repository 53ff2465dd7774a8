"""What the candidate's own rounding explains, and how many digits it loses.

Noise is measured on a reference, and knows nothing of a derivation that is right on paper and
loses digits in floating point where the reference does not: 1 − σ of a saturated gate for σ(−z),
say, or long sums that cancel. Such rounding is taken out of what was given, entry by entry, and
what remains is judged as everything else is:

    (1)  remains = given − clip(given − clean, ±cap),
         cap = CAP · ε · scale

`clean` is the candidate's gradient without its rounding. There are two ways to it.

    wider     the same code in longdouble, whose roundoff is two thousand times smaller. A mistake
              is as large there. What is left of rounding is allowed for by 1/GONE of the largest
              own rounding.
    sampled   code that does not take longdouble, as torch's and jax's does not, is asked at
              N = NEIGHBOURS problems around this one, so far off that rounding falls anew (a
              millionth is not enough: sums lose the same small terms there), and so near that a
              mistake keeps its sign. Rounding averages out; the mean error that exceeds
              SURE · s/√N, s the standard deviation, is a mistake and stays in `clean`. An entry
              whose doubt is more than HIDDEN of the gradient is not excused.

`scale` is how large the gradient is where nothing is saturated: its largest entry at the problem
itself, and with variables scaled down, each alone and all together; but no more than the loss
changes when the variable changes by its own size. So a gate that has closed has the scale of an
open one, whose rounding it shows. Differences with a tiny step, a states rebuilt by division, or a
guard of √ε have no such scale: their error stays, however it would shrink in longdouble. How many
digits are lost is told in either case.

Two things more are asked of an excuse. The candidate in float32 must be as near to the truth as
float32 explains: the frameworks' own error in it, and CAP of its roundoffs. And by the wider way it
must lose more in float32 than in float64: a mistake on a path that float64 alone takes is not
there. Only what "differs" is looked at again; what is all zero, not finite or of a wrong shape
stays what it is.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import AnyProblem, Differentiable
from ..witnesses import tolerance
from ..witnesses.ask import Testimony, Witnesses, finite, in_double
from .findings import Finding, Mistake
from .judge import judge_answer, project
from .verdict import Reason, Verdict

WIDER = 1000.0  # how many times finer longdouble must be
GONE = 128.0  # what is left of rounding in longdouble: 1/2048, and a factor for luck
AROUND = 3  # steps to either side over which a step's own rounding is looked at
CAP = 1e3  # roundoffs of the scale
SCALINGS = (0.25, 0.0625)
NEIGHBOURS = 48
NEAR = (2.0**-3, 2.0**-10)  # how far neighbours are, relative to each number: the first that work
SURE = 5.0  # standard deviations of a mean
HIDDEN = 1e-10  # of a gradient's largest entry: a mistake that neighbours may leave unseen
GROWS = 1e4  # times larger in float32: what does not grow so is no rounding, and not sampled
FEW_VARIABLES = 12  # up to so many are scaled down each alone


class Candidate(Protocol):
    """Whatever answers a problem."""

    def answer(self, problem: Any) -> Answer:
        """Loss, states, gradients and the shares of the steps."""
        ...


class Way(StrEnum):
    """How a candidate's gradient is known without its rounding."""

    WIDER = "wider"
    SAMPLED = "sampled"


def in_longdouble(problem: Differentiable, candidate: Candidate) -> Answer | None:
    """What the candidate answers in longdouble; None where it cannot be asked, or did not keep to
    it.
    """
    wide = np.dtype(np.longdouble)
    wider = WIDER * float(np.finfo(wide).eps) < tolerance.epsilon(np.float64)
    if problem.rounding_dtype != np.float64 or not wider:
        return None
    answer = _asked_in(wide, problem, candidate)
    if answer is None:
        return None
    kept = any(value.dtype == wide for value in answer.gradients.values())
    return answer if kept else None


def in_single(problem: Differentiable, candidate: Candidate) -> Answer | None:
    """What the candidate answers in float32; None where it cannot be asked."""
    return _asked_in(np.float32, problem, candidate)


def _asked_in(dtype: Any, problem: Differentiable, candidate: Candidate) -> Answer | None:
    try:
        return candidate.answer(problem.astype(dtype))
    except Exception:  # it does not take that precision: the verdict in float64 stands
        return None


@dataclass(frozen=True)
class Looked:
    """The rows after a second look.

    rows       those that rounding explains passed
    findings   how many digits are lost, of each gradient that is right but for rounding
    """

    rows: list[Verdict]
    findings: list[Finding]


@dataclass(frozen=True)
class Clean:
    """A candidate's answer without its own rounding.

    answer   in float64
    doubt    noise of what is left in it
    apart    how far it is from what was given
    """

    way: Way
    answer: Answer
    doubt: tolerance.Noise
    apart: tolerance.Noise


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
        unchanged = Looked([*self.rows], [])
        asked_for = self.witnesses.noise.allowed is not None
        if not self.differing or asked_for or self.problem.rounding_dtype != np.float64:
            return unchanged
        single = in_single(self.problem, self.candidate)
        clean = self._wider(single) or self._sampled(single)
        if clean is None:
            return unchanged
        right = self._passing(clean.answer, clean.doubt)
        if not right:
            return unchanged
        scales = self._scales()
        kept = self._passing(*_relieved(self.given, clean, _caps(scales)))
        excused = right & kept
        if excused and single is not None:
            excused &= self._right_in_single(single, scales)
        rows = [_excused(row, clean, self.witnesses, excused) for row in self.rows]
        return Looked(rows, _findings(self.rows, right, excused, clean))

    def _passing(self, answer: Answer, doubt: tolerance.Noise) -> set[str]:
        """The differing gradients that agree with every reference once they are these."""
        noise = _added(self.witnesses.noise, doubt)
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
                steps[name] = self.given.steps.get(name, gradients[name])
        kept = replace(answer, gradients=gradients, steps=steps)
        return Clean(Way.WIDER, kept, _left(apart, answer), apart)

    def _sampled(self, single: Answer | None) -> Clean | None:
        """By the mean over neighbours, where the error grows in float32 as rounding does."""
        if self.witnesses.first.numeric or not self._may_be_rounding(single):
            return None
        errors = next(filter(None, map(self._errors_beside, NEAR)), [])
        if not errors:
            return None
        first = self.witnesses.told[self.witnesses.first]
        gradients, steps = dict(self.given.gradients), dict(self.given.steps)
        for told, kind in ((gradients, "gradients"), (steps, "steps")):
            expected: dict[str, Array] = getattr(first, kind)
            for name in told:
                if name in getattr(errors[0], kind):
                    sample = np.stack([getattr(each, kind)[name] for each in errors])
                    told[name] = _mean_kept(told[name], expected[name], sample)
        answer = replace(self.given, gradients=gradients, steps=steps)
        apart = tolerance.difference(self.given, answer)
        return Clean(Way.SAMPLED, answer, tolerance.Noise({}, {}), apart)

    def _may_be_rounding(self, single: Answer | None) -> bool:
        """Whether some error is as much larger in float32 as rounding would be."""
        first = self.witnesses.told[self.witnesses.first]
        if first.directions:
            return False
        here = tolerance.difference(first, self.given).total
        there = {name: float(np.max(np.abs(told))) for name, told in first.gradients.items()}
        if single is not None:
            there = tolerance.difference(first, single.astype(np.float64)).total
        told = [name for name in self.differing if name in here and name in there]
        return any(not there[name] < GROWS * here[name] for name in told)

    def _errors_beside(self, near: float) -> list[Answer]:
        """What the candidate errs by at neighbours; none where one of them cannot be asked."""
        rng = np.random.default_rng([self.problem.seed, 11])
        found: list[Answer] = []
        for _ in range(NEIGHBOURS):
            moved: dict[str, Array] = {}
            for name, value in self.problem.variables.items():
                moved[name] = value * (1 + near * rng.uniform(-1, 1, size=value.shape))
            beside = _named_apart(self.problem.with_variables(moved))
            try:
                error = _error(self.candidate.answer(beside), self._truth(beside))
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
        for scaled in _scaled_down(self.problem):
            try:
                answer = self._truth(_named_apart(scaled))
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
        change = self.witnesses.noise.total["loss"] / tolerance.epsilon(np.float64)
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
        truth = self._truth(_named_apart(lowered.astype(np.float64)))
        error = tolerance.difference(truth, _as_told(single.astype(np.float64), truth)).total
        if self.witnesses.first.numeric:
            return error, {}
        try:
            told = self._truth(_named_apart(lowered)).astype(np.float64)
        except Exception:  # it lacks an operation in float32: its roundoffs alone count
            return error, {}
        return error, tolerance.difference(truth, told).total


def _named_apart(problem: AnyProblem) -> AnyProblem:
    """The problem under another name: it is none of the trials that are asked in one batch."""
    return replace(problem, name=f"{problem.name}, moved")


def _scaled_down(problem: AnyProblem) -> Iterator[AnyProblem]:
    """The problem with variables scaled down, all together and each alone."""
    names = list(problem.variables)
    together: list[list[str]] = [names]
    if len(names) <= FEW_VARIABLES:
        together += [[name] for name in names]
    for scaling in SCALINGS:
        for chosen in together:
            moved = {name: scaling * problem.variables[name] for name in chosen}
            yield problem.with_variables(moved)


def _as_told(answer: Answer, told: Answer) -> Answer:
    """The answer along the directions along which the other is told."""
    gradients = dict(answer.gradients)
    for name, directions in told.directions.items():
        if name in gradients and gradients[name].shape == directions.shape[1:]:
            gradients[name] = project(gradients[name], directions)
    return replace(answer, gradients=gradients)


def _error(answer: Answer, truth: Answer) -> Answer:
    """How far the one is from the other, entry by entry, with its sign."""
    differences: list[dict[str, Array]] = []
    for mine, theirs in ((answer.gradients, truth.gradients), (answer.steps, truth.steps)):
        found: dict[str, Array] = {}
        for name, value in mine.items():
            if name in theirs and value.shape == theirs[name].shape:
                found[name] = value - theirs[name]
        differences.append(found)
    gradients, steps = differences
    return Answer(0.0, gradients, steps=steps)


def _mean_kept(given: Array, expected: Array, errors: Array) -> Array:
    """What was given without its rounding: what is expected, and the mean error as far as it is
    sure.

    errors: (N, …). An entry whose mean is too doubtful stays as it was given.
    """
    mean, deviation = errors.mean(axis=0), errors.std(axis=0, ddof=1)
    doubt = SURE * deviation / math.sqrt(len(errors))
    sure = np.sign(mean) * np.maximum(np.abs(mean) - doubt, 0.0)
    seen = doubt <= HIDDEN * np.max(np.abs(expected), initial=0.0)
    return np.where(seen, expected + sure, given)


def _caps(scales: tolerance.Noise) -> tolerance.Noise:
    """The largest rounding that is excused."""
    most = CAP * tolerance.epsilon(np.float64)
    total = {name: most * value for name, value in scales.total.items()}
    return replace(scales, total=total, steps={n: most * v for n, v in scales.steps.items()})


def _left(apart: tolerance.Noise, answer: Answer) -> tolerance.Noise:
    """1/GONE of the rounding: of the whole, and of a step that of the steps around it by their own
    size, since a single one may have lost little by luck.
    """
    total = {name: value / GONE for name, value in apart.total.items()}
    steps: dict[str, Array] = {}
    for name, lost in apart.steps.items():
        shares = answer.steps.get(name)
        if shares is None or len(shares) != len(lost):
            steps[name] = lost / GONE
            continue
        sizes = np.abs(shares).reshape(len(shares), -1).max(axis=1, initial=0.0)
        relative = np.divide(lost, sizes, out=np.zeros_like(lost), where=sizes > 0)
        around = np.pad(relative, AROUND, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, 2 * AROUND + 1)
        steps[name] = np.maximum(lost, windows.max(axis=1) * sizes) / GONE
    return replace(apart, total=total, steps=steps)


def _relieved(given: Answer, clean: Clean, caps: tolerance.Noise) -> tuple[Answer, tolerance.Noise]:
    """(1), and the noise of what remains."""
    gradients: dict[str, Array] = {}
    for name, value in given.gradients.items():
        taken = value - clean.answer.gradients.get(name, value)
        gradients[name] = value - _clipped(taken, np.asarray(caps.total.get(name, 0.0)))
    steps: dict[str, Array] = {}
    for name, value in given.steps.items():
        taken = value - clean.answer.steps.get(name, value)
        cap = caps.steps.get(name, np.zeros(len(value)))
        steps[name] = value - _clipped(taken, cap.reshape(-1, *([1] * (value.ndim - 1))))
    total = {n: min(v, caps.total.get(n, 0.0) / GONE) for n, v in clean.doubt.total.items()}
    shares: dict[str, Array] = {}
    for name, value in clean.doubt.steps.items():
        cap = caps.steps.get(name)
        shares[name] = np.zeros_like(value) if cap is None else np.minimum(value, cap / GONE)
    relieved = replace(given, gradients=gradients, steps=steps)
    return relieved, replace(clean.doubt, total=total, steps=shares)


def _clipped(value: Array, cap: Array) -> Array:
    return np.minimum(np.maximum(value, -cap), cap)


def _added(noise: tolerance.Noise, doubt: tolerance.Noise) -> tolerance.Noise:
    """The noise by which a gradient is judged that is in doubt by so much itself."""
    share = 1 / noise.limit
    total = {
        name: level + share * doubt.total.get(name, 0.0) for name, level in noise.total.items()
    }
    steps: dict[str, Array] = {}
    for name, level in noise.steps.items():
        steps[name] = level + share * doubt.steps.get(name, 0.0)
    return replace(noise, total=total, steps=steps)


def _excused(row: Verdict, clean: Clean, witnesses: Witnesses, excused: set[str]) -> Verdict:
    """The row with the candidate's own rounding as its noise, where that is excused."""
    if row.kind is not Reason.DIFFERS or row.gradient not in excused:
        return row
    level = max(clean.apart.total[row.gradient], witnesses.noise.total.get(row.gradient, 0.0))
    return replace(
        row,
        noise=level,
        error_over_noise=row.max_abs_error / level if level > 0 else 0.0,
        step_error_over_noise=None if row.step_error_over_noise is None else 1.0,
        where=None,
        wrong_steps=None,
        first_wrong_step=None,
        kind=None,
    )


EVIDENCE = {
    Way.WIDER: "run in longdouble it agrees",
    Way.SAMPLED: (
        f"over {NEIGHBOURS} problems around this one its errors average out, as rounding does and "
        "a mistake does not"
    ),
}


def _findings(
    rows: Sequence[Verdict], right: set[str], excused: set[str], clean: Clean
) -> list[Finding]:
    """How many digits are lost, a finding for every gradient that is right but for rounding."""
    found: dict[str, Finding] = {}
    back_to = [row.first_wrong_step for row in rows if row.first_wrong_step is not None]
    for row in rows:
        if row.kind is not Reason.DIFFERS or row.gradient not in right or row.gradient in found:
            continue
        told = row.first_wrong_step
        step = told if told is not None else max(back_to, default=None)
        found[row.gradient] = _finding(row, step, row.gradient in excused, clean.way)
    return list(found.values())


def _finding(row: Verdict, step: int | None, excused: bool, way: Way) -> Finding:
    roundoff = tolerance.epsilon(np.float64)
    digits = round(-math.log10(roundoff))
    lost = min(digits, max(1, round(math.log10(max(row.max_rel_error, roundoff) / roundoff))))
    back = "" if step is None else f" from step {step} back"
    within = "" if excused else ", more than rounding need"
    return Finding(
        mistake=Mistake.LOST_DIGITS,
        where=row.gradient,
        source=None,
        explains=1.0,
        text=(
            f"{row.gradient} is right on paper, and loses {lost} of {digits} digits{back}{within}: "
            f"{EVIDENCE[way]}"
        ),
        digits_lost=lost,
        from_step=step,
    )


def remarks(
    before: Sequence[Verdict], after: Sequence[Verdict], findings: Sequence[Finding]
) -> list[str]:
    """A note on the gradients that the candidate's own rounding explains."""
    lost = {found.where: found.digits_lost for found in findings}
    told: dict[str, str] = {}
    for old, new in zip(before, after, strict=True):
        if new.passed and not old.passed:
            error = max(old.max_rel_error, tolerance.epsilon(np.float64))
            digits = f"{lost[old.gradient]} of 16 digits lost"
            told[old.gradient] = f"{old.gradient} (relative error {error:.1g}: {digits})"
    if not told:
        return []
    return [
        f"the code's own rounding explains the difference in {', '.join(told.values())}. It loses "
        "digits where the reference does not, as 1 − σ does for a saturated gate, or a sum that "
        "cancels"
    ]
