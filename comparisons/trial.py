"""The oracle on trial: does the cross-check find every mistake, how small a mistake, and does it ever accuse what is right?

    mutants        every kind of mistake (comparisons.mutants) in every built-in cell, in every regime; a mutant that is not
                   caught is either no mistake there (its gradient is the true one) or a failure of the oracle
    sensitivity    the smallest error in one entry that is always caught, relative to the gradient, and to one step's share
    false alarms   derivations that are right, on random problems

The references are asked and the noise is measured once for each problem; a mutant then costs one backward pass. How far a mutant
is from the truth is measured here again, without the comparator: a comparator that has gone blind does not hide what it misses.
"""

import math
import multiprocessing
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from comparisons.candidates import CellCandidate, built_in, problem_of
from comparisons.cases import (
    AFTER,
    BEFORE,
    IDENTITY,
    POSITIVE,
    PROJECTED,
    PROJECTION,
    RELU,
    RESIDUAL,
    SIGMOID,
    SQUARED,
    TANH,
    Case,
)
from comparisons.convention import Convention
from comparisons.crosscheck import Witnesses, available, judge, judge_answer, testify
from comparisons.engines import Engine
from comparisons.errors import NotRepeatable
from comparisons.mutants import KINDS, Kind, Mutant, Soil, mutants
from comparisons.preflight import repeatable
from comparisons.problem import Answer, Array, Problem
from comparisons.side_by_side import Side, compare_checkers, time_to_verdict
from comparisons.verdict import Verdict

Certify: TypeAlias = Callable[[Problem, Mapping[str, Array]], bool]

WITHIN = 64.0  # noises; on purpose not tolerance.LIMIT: a limit that was raised must not excuse itself
OF_GRADIENT, OF_STEP = 1e-12, 1e-10  # what is always to be caught, relative to the largest entry of a gradient, of a step's share
KILLED, EQUIVALENT, ROUNDING, SURVIVED = "killed", "equivalent", "within rounding", "survived"

CELLS: tuple[Case, ...] = (
    Case("rnn tanh", "rnn", TANH),
    Case("rnn relu", "rnn", RELU),
    Case("rnn sigmoid", "rnn", SIGMOID),
    Case("rnn identity", "rnn", IDENTITY),
    Case("irnn", "irnn"),
    Case("residual", "residual", RESIDUAL),
    Case("lstm", "lstm"),
    Case("peephole-lstm", "peephole-lstm"),
    Case("projected-lstm", "projected-lstm", PROJECTED),
    Case("gru after", "gru", AFTER),
    Case("gru before", "gru", BEFORE),
    Case("min-gru", "min-gru", POSITIVE),
    Case("min-lstm", "min-lstm", POSITIVE),
    Case("lru", "lru"),
    Case("slstm", "slstm"),
)
ENOUGH = 100  # comparisons that a piece of work should make at least
FEW = ("rnn tanh", "lstm", "gru after")


@dataclass(frozen=True)
class Regime:
    """Where a derivation is looked at: fields of Case, and factors on the variables whose names begin so."""

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
    Regime("stacked", {"steps": 4, "layers": 2, "bidirectional": True, "dropout": 0.3, "unequal": True}),
)
FEW_REGIMES = ("initial", "saturated", "one step", "tokens")


@dataclass(frozen=True)
class Trial:
    """One derivation in one regime: the problem, the right answer, and what the references say."""

    cell: str
    regime: str
    candidate: CellCandidate
    problem: Problem
    right: Answer
    witnesses: Witnesses

    @property
    def truth(self) -> Answer:
        """What the first reference says."""
        return self.witnesses.told[self.witnesses.first]

    def rejects(self, answer: Answer) -> str | None:
        """Why the oracle does not accept the answer; None if it does."""
        forward, rows, _ = judge_answer(self.problem, answer, self.witnesses)
        wrong = [row for row in (*forward, *rows) if not row.passed]
        return None if not wrong else str(wrong[0].reason)

    def certified(self, problem: Problem, gradients: Mapping[str, Array]) -> bool:
        """The default certificate that gradients are the true ones: within one noise, or what the right code needs."""
        del problem
        right, _ = apart(self, self.right.gradients, {})
        found, _ = apart(self, gradients, {})
        return found <= max(1.0, right)


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
        around = {name: value for name, value in problem.variables.items() if name.startswith("W_hh")}
        scaled |= {n: scaled.get(n, v) + 0.1 * rng.normal(size=v.shape) for n, v in around.items()}
    return problem.with_variables(scaled).astype(dtype)


def trial_of(case: Case, regime: Regime, engines: Sequence[Engine], seed: int) -> Trial:
    """The right derivation and its witnesses."""
    problem = problem_in(case, regime, seed)
    candidate = built_in(case.cell, case.options)
    right = candidate.answer(problem)
    return Trial(case.name, regime.name, candidate, problem, right, testify(problem, engines, Convention(), set(right.gradients)))


# How far an answer is from the truth, in noises and relative to the largest entry.


def apart(trial: Trial, gradients: Mapping[str, Array], steps: Mapping[str, Array]) -> tuple[float, float]:
    """(largest error over noise, largest relative error) of gradients, and of the shares of each step; NaN counts as ∞."""
    noise, truth, found = trial.witnesses.noise, trial.truth, list[tuple[float, float]]()
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
                    for mine, share, level in zip(steps[name], expected, noise.steps[name], strict=True)
                ]
    return max((ratio for ratio, _ in found), default=0.0), max((relative for _, relative in found), default=0.0)


def _apart(error: Array, expected: Array, noise: float) -> tuple[float, float]:
    if not np.isfinite(error).all():
        return math.inf, math.inf
    size, scale = float(np.max(np.abs(error), initial=0.0)), float(np.max(np.abs(expected), initial=0.0))
    if size == 0:
        return 0.0, 0.0
    return (size / noise if noise > 0 else math.inf), (size / scale if scale > 0 else math.inf)


# Mutants.


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: where, what it was, the verdict, how it came about, and how far the mutant is from the truth."""

    cell: str
    regime: str
    kind: str
    what: str
    level: str
    verdict: str
    how: str
    error_over_noise: float
    relative_error: float


def outcomes(trial: Trial, certify: Certify | None = None, kinds: tuple[Kind, ...] = KINDS, every: int = 1) -> Iterator[Outcome]:
    """The verdict on every mutant of this trial, or on one in so many of each kind; see `certify` in `outcome`."""
    soil, planted = Soil(trial.candidate, trial.problem, trial.right), Counter[str]()
    for mutant in mutants(soil, kinds):
        if planted[mutant.kind] % every == 0:
            yield from outcome(trial, mutant, certify or trial.certified)
        planted[mutant.kind] += 1


LEVELS = ("both", "whole", "steps")


def outcome(trial: Trial, mutant: Mutant, certify: Certify) -> Iterator[Outcome]:
    """The verdicts on a mutant as it is, on its whole gradients beside the right shares, and on its shares beside the right ones.

    certify(problem, gradients) says of gradients that the oracle accepts whether they are the true ones: such a mutant is no
    mistake. A level at which nothing differs from the right answer, to the bit, is none.
    """
    made = partial(Outcome, trial.cell, trial.regime, mutant.kind, mutant.what)
    try:
        with np.errstate(all="ignore"):
            found = asked_only(mutant.answer(), trial.truth)
    except Exception as error:
        yield made("both", KILLED, f"raised {type(error).__name__}", math.inf, math.inf)
        return
    if same(found, trial.right):
        yield made("both", *_if_repeated(mutant, found, EQUIVALENT), 0.0, 0.0)
        return
    for level in LEVELS:
        answer = {
            "both": found,
            "whole": replace(trial.right, gradients=found.gradients),
            "steps": replace(trial.right, steps=found.steps),
        }[level]
        if level == "both" or not (same(answer, trial.right) or (level == "steps" and untold(answer, trial.right))):
            distance, relative = apart(trial, answer.gradients, answer.steps)
            with np.errstate(all="ignore"):
                reason = _reason(trial, answer)
            if reason is not None:
                yield made(level, KILLED, reason, distance, relative)
            else:
                verdict = _accepted(trial, answer, distance, certify)
                yield made(level, *_if_repeated(mutant, found, verdict), distance, relative)


def _reason(trial: Trial, answer: Answer) -> str | None:
    try:
        return trial.rejects(answer)
    except Exception as error:  # what cannot be compared is no gradient
        return f"raised {type(error).__name__} in the comparison"


def _accepted(trial: Trial, answer: Answer, distance: float, certify: Certify) -> str:
    """What an answer is that the oracle accepts."""
    needed, _ = apart(trial, trial.right.gradients, trial.right.steps)
    steps, _ = apart(trial, trial.truth.gradients, answer.steps)
    if steps <= max(1.0, needed) and certify(trial.problem, answer.gradients):
        return EQUIVALENT
    return ROUNDING if distance <= WITHIN else SURVIVED


def _if_repeated(mutant: Mutant, first: Answer, verdict: str) -> tuple[str, str]:
    """(verdict, how): the candidate is asked a second time, as every candidate from outside is."""
    try:
        repeatable(first, asked_only(mutant.answer(), first))
    except NotRepeatable:
        return KILLED, "another answer the second time"
    return verdict, ""


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers are equal to the bit."""
    return all(
        mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)
        for mine, theirs in ((one.gradients, other.gradients), (one.steps, other.steps))
    )


def asked_only(answer: Answer, like: Answer) -> Answer:
    """The answer without what nobody asked for, a gradient for tokens say."""
    gradients = {name: value for name, value in answer.gradients.items() if name in like.gradients}
    return replace(answer, gradients=gradients, steps={name: value for name, value in answer.steps.items() if name in like.steps})


def untold(one: Answer, other: Answer) -> bool:
    """Whether what an answer tells of the steps is, as far as it goes, what the other tells."""
    return all(name in other.steps and np.array_equal(value, other.steps[name]) for name, value in one.steps.items())


# Sensitivity.


@dataclass(frozen=True)
class Sensitivity:
    """The smallest relative error in one entry that was caught, where all larger ones were: of a gradient, or a step's share."""

    cell: str
    regime: str
    gradient: str
    step: int | None
    least_caught: float


def sensitivities(trial: Trial, rng: np.random.Generator, entries: int = 2, steps: int = 2) -> Iterator[Sensitivity]:
    """Errors in random entries of every gradient, and of random steps' shares; what is nothing but rounding is left out."""
    for name, value in trial.truth.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        if not size > WITHIN * trial.witnesses.noise.total[name]:
            continue
        for at in rng.integers(value.size, size=entries):
            yield Sensitivity(
                trial.cell,
                trial.regime,
                name,
                None,
                least_caught(lambda r, n=name, at=at, s=size: in_whole(trial, n, int(at), r * s)),
            )
    for name, value in trial.truth.steps.items():
        for t in rng.integers(len(value), size=steps):
            size = float(np.max(np.abs(value[t]), initial=0.0))
            if size > WITHIN * float(trial.witnesses.noise.steps[name][t]):
                at = int(rng.integers(value[t].size))
                caught = partial(_caught_in_step, trial, name, int(t), at, size)
                yield Sensitivity(trial.cell, trial.regime, name, int(t) + trial.problem.first_step(name), least_caught(caught))


def _caught_in_step(trial: Trial, name: str, t: int, at: int, size: float, relative: float) -> bool:
    return in_step(trial, name, t, at, relative * size)


def in_whole(trial: Trial, name: str, at: int, error: float) -> bool:
    """Whether the error in one entry of a whole gradient is caught."""
    value = trial.right.gradients[name].copy()
    value.reshape(-1)[at] += error
    return not _verdict(trial, replace(trial.right, gradients={**trial.right.gradients, name: value}), name).passed


def in_step(trial: Trial, name: str, t: int, at: int, error: float) -> bool:
    """Whether the error in one entry of one step's share is caught."""
    shares = trial.right.steps[name].copy()
    shares[t].reshape(-1)[at] += error
    return not _verdict(trial, replace(trial.right, steps={**trial.right.steps, name: shares}), name).passed


def _verdict(trial: Trial, answer: Answer, name: str) -> Verdict:
    first = trial.witnesses.first
    return judge(trial.problem, answer, trial.witnesses.told[first], first.name, name, trial.witnesses.noise)


def least_caught(caught: Callable[[float], bool], resolution: float = 0.05) -> float:
    """The smallest error between 1e-17 and 1 that is caught, by bisection of its logarithm; ∞ if not even 1 is."""
    low, high = -17.0, 0.0
    if not caught(1.0):
        return math.inf
    while high - low > resolution:
        middle = (low + high) / 2
        low, high = (low, middle) if caught(10**middle) else (middle, high)
    return 10**high


# False alarms.


@dataclass
class Alarms:
    """Comparisons of derivations that are right: how many, how many of single steps besides, the alarms, the largest ratio."""

    problems: int = 0
    comparisons: int = 0
    step_comparisons: int = 0
    overflowed: int = 0
    alarms: list[str] = field(default_factory=list[str])
    worst: float = 0.0
    where: str = ""

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
    case = CELLS[rng.integers(len(CELLS))]
    long = rng.random() < 0.02
    steps = int(rng.integers(100, 501)) if long else int(rng.integers(1, 25))
    sizes = {
        name: int(rng.integers(1, 4 if long else top)) for name, top in (("batch", 5), ("input_size", 7), ("hidden_size", 9))
    }
    stacked = not long and rng.random() < 0.1
    layers = (
        {"layers": int(rng.integers(1, 3)), "bidirectional": bool(rng.random() < 0.5), "steps": min(steps, 6)} if stacked else {}
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
    return built_in(case.cell, case.options), problem.with_variables(scaled).astype(dtype)


def derivations(candidate: CellCandidate, problem: Problem, answer: Answer) -> Iterator[tuple[str, Answer]]:
    """The same right derivation three times, each summing in another order: hoisted; step by step; with the batch reversed."""
    yield "hoisted", answer
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

    both = [{name: turned(name, value) for name, value in arrays.items()} for arrays in (problem.variables, problem.constants)]
    answer = candidate.answer(replace(problem.with_variables(both[0]), constants=both[1]))
    gradients = {name: turned(name, value) for name, value in answer.gradients.items()}
    steps = {name: value if name in weights else np.flip(value, axis=1) for name, value in answer.steps.items()}
    return Answer(answer.loss, gradients, {name: np.flip(value, axis=1) for name, value in answer.states.items()}, steps)


def alarms_in(number: int, seed: int, dtype: str, engines: Sequence[Engine]) -> Alarms:
    """The comparisons of one random problem. One whose gradient overflows is counted, and says nothing."""
    candidate, problem = random_problem(seed, number, dtype)
    found = Alarms(problems=1)
    with np.errstate(all="ignore"):
        answer = candidate.answer(problem)
        witnesses = testify(problem, engines, Convention(), set(answer.gradients))
        truth = witnesses.told[witnesses.first]
        if not all(
            np.isfinite(value).all() for value in (*truth.gradients.values(), *truth.steps.values(), *truth.states.values())
        ):
            return replace(found, overflowed=1)
        for how, derived in derivations(candidate, problem, answer):
            forward, rows, _ = judge_answer(problem, derived, witnesses)
            for row in (*forward, *rows):
                steps = (
                    len(truth.steps[row.gradient]) if row.gradient in truth.steps and row.step_error_over_noise is not None else 0
                )
                found.comparisons += row in rows
                found.step_comparisons += steps
                ratio = row.worst_over_noise
                where = f"{row.gradient}, {how}, {problem.name}, {dtype}, seed {seed}, number {number}, T = {problem.steps}"
                if not row.passed:
                    found.alarms.append(f"{where}: {ratio:.3g}")
                if ratio > found.worst:
                    found.worst, found.where = ratio, where
    return found


# All of it.


BESIDE = (Case("rnn", "rnn", TANH, steps=5), Case("lstm", "lstm", steps=5))


@dataclass(frozen=True)
class Plan:
    """How much is run: cells, regimes, one mutant in `every` of each kind, comparisons for false alarms, seconds in all."""

    cells: tuple[str, ...] = tuple(case.name for case in CELLS)
    regimes: tuple[str, ...] = tuple(regime.name for regime in REGIMES)
    every: int = 1
    comparisons: int = 100_000
    seconds: float = 1500.0
    seed: int = 0
    jobs: int = 2
    beside: tuple[Case, ...] = BESIDE
    repeats: int = 20
    large: bool = True


SMALL = (Case("rnn", "rnn", TANH, steps=3, batch=2, hidden_size=2, input_size=2, output_size=2),)
QUICK = Plan(FEW, FEW_REGIMES, every=20, comparisons=500, seconds=40.0, jobs=1, beside=SMALL, repeats=3, large=False)


@dataclass(frozen=True)
class Goal:
    """What the trial is to show, whether it did, and what was measured."""

    statement: str
    holds: bool
    measured: str


@dataclass
class Found:
    """What the trial found; `tally` counts verdicts by (kind, cell, regime, verdict)."""

    tally: Counter[tuple[str, str, str, str]] = field(default_factory=Counter[tuple[str, str, str, str]])
    manners: Counter[str] = field(default_factory=Counter[str])
    missed: list[Outcome] = field(default_factory=list[Outcome])
    sensitivity: list[Sensitivity] = field(default_factory=list[Sensitivity])
    alarms: dict[str, Alarms] = field(default_factory=dict[str, Alarms])
    rejected: list[str] = field(default_factory=list[str])
    not_reached: list[str] = field(default_factory=list[str])
    sides: list[Side] = field(default_factory=list[Side])
    times: dict[str, float] = field(default_factory=dict[str, float])

    def by(self, axis: int) -> dict[str, Counter[str]]:
        """Verdicts by kind (0), by cell (1) or by regime (2)."""
        table: dict[str, Counter[str]] = {}
        for key, count in self.tally.items():
            table.setdefault(key[axis], Counter())[key[3]] += count
        return table

    def never_missed(self, regime: str, of_step: bool) -> Sensitivity | None:
        """The error that was hardest to see in a regime."""
        asked = [each for each in self.sensitivity if each.regime == regime and (each.step is not None) == of_step]
        return max(asked, key=lambda each: each.least_caught, default=None)

    def goals(self) -> list[Goal]:
        """What is to hold."""
        verdicts = self.by(3)
        planted, equal = sum(self.tally.values()), sum(verdicts.get(EQUIVALENT, Counter[str]()).values())
        killed = sum(verdicts.get(KILLED, Counter[str]()).values())
        failures = [each for each in self.missed if each.verdict == SURVIVED or not each.relative_error <= OF_STEP]
        regimes = list(dict.fromkeys(each.regime for each in self.sensitivity))
        compared = sum(each.comparisons for each in self.alarms.values())
        alarms = len(self.rejected) + sum(len(each.alarms) for each in self.alarms.values())
        made = [
            Goal("every mutant that is a mistake is caught", not failures and killed > 0, f"{killed:,} of {planted - equal:,}"),
            Goal("no alarm at what is right", alarms == 0 and compared > 0, f"{alarms} in {compared:,} comparisons"),
        ]
        for of_step, least, what in ((False, OF_GRADIENT, "a gradient's largest entry"), (True, OF_STEP, "one step's share")):
            worst = [found for regime in regimes if (found := self.never_missed(regime, of_step)) is not None]
            over = [f"{each.regime} {each.least_caught:.1e}" for each in worst if not each.least_caught <= least]
            reached = max((each.least_caught for each in worst), default=math.inf)
            measured = f"missed: {', '.join(over)}" if over else f"{reached:.1e}"
            made.append(Goal(f"an error of {least:g} of {what}, in one entry, is caught", bool(worst) and not over, measured))
        left = len(self.not_reached)
        return [*made, Goal("every cell is tried in every regime", not left, f"{left} not reached in the time")]

    @property
    def passed(self) -> bool:
        """Whether every goal holds."""
        return all(goal.holds for goal in self.goals())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": 1,
            "passed": self.passed,
            "goals": [vars(goal) for goal in self.goals()],
            "mutants": [
                {"kind": kind, "cell": cell, "regime": regime, "verdict": verdict, "count": count}
                for (kind, cell, regime, verdict), count in sorted(self.tally.items())
            ],
            "caught_by": dict(self.manners.most_common()),
            "missed": [{name: plain(value) for name, value in vars(each).items()} for each in self.missed],
            "sensitivity": [{name: plain(value) for name, value in vars(each).items()} for each in self.sensitivity],
            "alarms": {dtype: vars(each) for dtype, each in self.alarms.items()},
            "rejected": self.rejected,
            "not_reached": self.not_reached,
            "side_by_side": [vars(each) for each in self.sides],
            "seconds_to_verdict": self.times,
        }


def plain(value: Any) -> Any:
    """What JSON can hold: infinities and NaN as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


Piece: TypeAlias = Callable[[], Any]


def trial_piece(cell: str, regime: str, seed: int, every: int, deadline: float) -> Found:
    """Mutants and sensitivity of one cell in one regime; nothing once the deadline has passed."""
    if time.time() > deadline:
        return Found(not_reached=[f"{cell}, {regime}"])
    case, place = next(c for c in CELLS if c.name == cell), next(r for r in REGIMES if r.name == regime)
    trial = trial_of(case, place, witnesses_used(), seed)
    found = Found(rejected=[] if (reason := trial.rejects(trial.right)) is None else [f"{cell}, {regime}: {reason}"])
    for each in outcomes(trial, every=every):
        found.tally[each.kind, each.cell, each.regime, each.verdict] += 1
        if each.verdict == KILLED:
            found.manners[manner(each.how)] += 1
        elif each.verdict != EQUIVALENT:
            found.missed.append(each)
    found.sensitivity = list(sensitivities(trial, np.random.default_rng([seed, zlib.crc32(f"{cell} {regime}".encode())])))
    return found


def manner(how: str) -> str:
    """How a mutant was caught, without its particulars."""
    return next((word for word in ("wrong shape", "not finite", "raised") if how.startswith(word)), how)


def alarms_piece(first: int, count: int, seed: int, dtype: str, deadline: float) -> Found:
    """So many random problems from a number on, until the deadline."""
    total = Alarms()
    for number in range(first, first + count):
        if time.time() > deadline:
            break
        total.add(alarms_in(number, seed, dtype, witnesses_used()))
    return Found(alarms={dtype: total})


def side_piece(cases: tuple[Case, ...], seed: int, repeats: int, large: bool) -> Found:
    """Other checkers on the same mistakes, and the time that each needs for a large problem, where that is wanted."""
    engine = witnesses_used()[0]
    sides = compare_checkers(cases, engine, seed, repeats) if cases else []
    return Found(sides=sides, times=time_to_verdict(engine, seed) if large else {})


def witnesses_used() -> tuple[Engine, ...]:
    """The reference on which the trial is held: torch, or jax where there is no torch."""
    return available(("torch", "jax"))[0][:1]


def hold(plan: Plan, watch: Callable[[int, str], None] | None = None) -> Found:
    """The whole trial: other checkers, mutants and sensitivity, then false alarms: enough comparisons, or until time is up."""
    start, found = time.time(), Found()
    merge(found, side_piece(plan.beside, plan.seed, plan.repeats, plan.large))
    until = start + 0.7 * plan.seconds
    pieces = [partial(trial_piece, cell, regime, plan.seed, plan.every, until) for cell in plan.cells for regime in plan.regimes]
    for part in spread(pieces, plan.jobs):
        merge(found, part)
        if watch is not None:
            watch(len(pieces), "mutants")
    number, batch = 0, 20 if plan.comparisons > 20 * ENOUGH else 1
    while sum(each.comparisons for each in found.alarms.values()) < plan.comparisons and time.time() < start + plan.seconds:
        rounds = max(plan.jobs, 1) * 10 if plan.jobs > 1 else 2
        deadline = start + plan.seconds
        pieces = [
            partial(alarms_piece, number + batch * (k // 2), batch, plan.seed, ("float64", "float32")[k % 2], deadline)
            for k in range(rounds)
        ]
        number += batch * ((rounds + 1) // 2)
        for part in spread(pieces, plan.jobs):
            merge(found, part)
    return found


def merge(found: Found, part: Found) -> None:
    """What was found in one part, added to the whole."""
    found.tally += part.tally
    found.manners += part.manners
    for name in ("missed", "sensitivity", "rejected", "not_reached", "sides"):
        getattr(found, name).extend(getattr(part, name))
    found.times.update(part.times)
    for dtype, each in part.alarms.items():
        found.alarms.setdefault(dtype, Alarms()).add(each)


def spread(pieces: Sequence[Piece], jobs: int) -> Iterator[Any]:
    """The results of all pieces, in their order, by so many processes."""
    if jobs <= 1:
        yield from (piece() for piece in pieces)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(piece) for piece in pieces]
        try:
            yield from (future.result() for future in futures)
        finally:
            pool.shutdown(cancel_futures=True)
