"""The oracle on trial: does the cross-check find every mistake, how small a mistake, and does it
ever accuse what is right?

mutants        every kind of mistake in every built-in cell, in every regime
               comparisons.trial.mutation_score, comparisons.trial.operators
sensitivity    the smallest error in one entry that is always caught
               comparisons.trial.sensitivity
NumPy code     the same against losses that are NumPy code, run on torch as they stand
               comparisons.trial.numpy_code
false alarms   derivations that are right, on random problems
               comparisons.trial.false_alarms
side by side   the same mistakes, shown to the checkers that come with the frameworks
               comparisons.trial.other_checkers
"""

import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..plain_data import plain
from ..problems.cases import TANH, Case
from ..studies.worker_pool import workers
from ..witnesses.ask import available
from ..witnesses.engines import Engine
from .false_alarms import DTYPES, Alarms, alarms_in
from .mutation_score import (
    EQUIVALENT,
    KILLED,
    ON_TRIAL,
    REGIMES,
    SURVIVED,
    Outcome,
    experiment_of,
    outcomes,
)
from .numpy_code import NUMPY_REGIMES, experiment_on_numpy_code
from .other_checkers import OURS, RIGHT, Side, compare_checkers, time_to_verdict
from .sensitivity import OF_GRADIENT, OF_STEP, Sensitivity, sensitivities

FASTER = 100
ENOUGH = 100  # comparisons that a piece of work should make at least
FEW = ("rnn tanh", "lstm", "gru after")
FEW_REGIMES = ("initial", "saturated", "one step", "tokens")
BESIDE = (Case("rnn", "rnn", TANH, steps=5), Case("lstm", "lstm", steps=5))


@dataclass(frozen=True)
class Plan:
    """How much is run: cells, regimes, those of NumPy code, one mutant in `every` of each kind,
    comparisons for false alarms, seconds in all.
    """

    cells: tuple[str, ...] = tuple(case.name for case in ON_TRIAL)
    regimes: tuple[str, ...] = tuple(regime.name for regime in REGIMES)
    numpy_regimes: tuple[str, ...] = NUMPY_REGIMES
    every: int = 1
    comparisons: int = 100_000
    seconds: float = 1680.0
    seed: int = 0
    jobs: int = 2
    beside: tuple[Case, ...] = BESIDE
    repeats: int = 10
    large: bool = True


SMALL = (Case("rnn", "rnn", TANH, steps=3, batch=2, hidden_size=2, input_size=2, output_size=2),)
QUICK = Plan(
    FEW,
    FEW_REGIMES,
    ("initial",),
    every=20,
    comparisons=500,
    seconds=40.0,
    jobs=1,
    beside=SMALL,
    repeats=3,
    large=False,
)


@dataclass(frozen=True)
class Goal:
    """What the trial is to show, whether it did, and what was measured."""

    statement: str
    holds: bool
    measured: str


@dataclass
class Found:
    """What the trial found; `tally` counts verdicts by (kind, cell, regime, verdict)."""

    tally: Counter[tuple[str, str, str, str]] = field(
        default_factory=Counter[tuple[str, str, str, str]]
    )
    manners: Counter[str] = field(default_factory=Counter[str])
    missed: list[Outcome] = field(default_factory=list[Outcome])
    sensitivity: list[Sensitivity] = field(default_factory=list[Sensitivity])
    alarms: dict[str, Alarms] = field(default_factory=dict[str, Alarms])
    rejected: list[str] = field(default_factory=list[str])
    not_reached: list[str] = field(default_factory=list[str])
    sides: list[Side] = field(default_factory=list[Side])
    times: dict[str, float] = field(default_factory=dict[str, float])
    wanted: int = 1  # comparisons of right code

    def by(self, axis: int) -> dict[str, Counter[str]]:
        """Verdicts by kind (0), by cell (1) or by regime (2)."""
        table: dict[str, Counter[str]] = {}
        for key, count in self.tally.items():
            table.setdefault(key[axis], Counter())[key[3]] += count
        return table

    def never_missed(self, regime: str, of_step: bool) -> Sensitivity | None:
        """The error that was hardest to see in a regime."""
        asked = [
            each
            for each in self.sensitivity
            if each.regime == regime and (each.step is not None) == of_step
        ]
        return max(asked, key=lambda each: each.least_caught, default=None)

    def goals(self) -> list[Goal]:
        """What is to hold."""
        return [
            self._all_caught(),
            self._no_alarm(),
            self._seen(OF_GRADIENT, "a gradient's largest entry", of_step=False),
            self._seen(OF_STEP, "one step's share", of_step=True),
            self._all_reached(),
            *self.beside_others(),
        ]

    def _all_caught(self) -> Goal:
        verdicts = Counter[str]()
        for (_, _, _, verdict), count in self.tally.items():
            verdicts[verdict] += count
        mistakes = sum(self.tally.values()) - verdicts[EQUIVALENT]
        killed = verdicts[KILLED]
        failed = any(
            each.verdict == SURVIVED or not each.relative_error <= OF_STEP for each in self.missed
        )
        statement = "every mutant that is a mistake is caught"
        return Goal(statement, not failed and killed > 0, f"{killed:,} of {mistakes:,}")

    def _no_alarm(self) -> Goal:
        alarms = len(self.rejected) + sum(len(each.alarms) for each in self.alarms.values())
        statement = f"no alarm in {self.wanted:,} comparisons of what is right"
        holds = alarms == 0 and self.compared >= self.wanted
        return Goal(statement, holds, f"{alarms} in {self.compared:,}")

    def _seen(self, least: float, what: str, of_step: bool) -> Goal:
        """Whether so small an error in one entry is caught in every regime."""
        worst: list[Sensitivity] = []
        for regime in dict.fromkeys(each.regime for each in self.sensitivity):
            hardest = self.never_missed(regime, of_step)
            if hardest is not None:
                worst.append(hardest)
        over = [each for each in worst if not each.least_caught <= least]
        reached = max((each.least_caught for each in worst), default=math.inf)
        missed = ", ".join(f"{each.regime} {each.least_caught:.1e}" for each in over)
        statement = f"an error of {least:g} of {what}, in one entry, is caught"
        holds = bool(worst) and not over
        return Goal(statement, holds, f"missed: {missed}" if over else f"{reached:.1e}")

    def _all_reached(self) -> Goal:
        left = len(self.not_reached)
        statement = "every cell is tried in every regime"
        return Goal(statement, not left, f"{left} not reached in the time")

    @property
    def compared(self) -> int:
        """How many gradients of right code were compared."""
        return sum(each.comparisons for each in self.alarms.values())

    def beside_others(self) -> list[Goal]:
        """Ours against each of the other checkers: what it sees, what it accuses, how long it
        takes.
        """
        if not self.sides:
            return []
        seen, accused = Counter[str](), Counter[str]()
        for side in self.sides:
            (accused if side.planted == RIGHT else seen)[side.checker] += side.objected
        others = [
            name for name in dict.fromkeys(side.checker for side in self.sides) if name != OURS
        ]
        told = [
            ", ".join(f"{name} {counts[name]}" for name in (OURS, *others))
            for counts in (seen, accused)
        ]
        goals = [
            Goal(
                "more mistakes seen than by any other checker",
                all(seen[OURS] > seen[name] for name in others),
                told[0],
            ),
            Goal(
                "right code accused no more often",
                all(accused[OURS] <= accused[name] for name in others),
                told[1],
            ),
        ]
        if OURS in self.times and "gradcheck" in self.times:
            times = self.times["gradcheck"] / self.times[OURS]
            goals.append(
                Goal(
                    f"at T = 50, H = 32 at least {FASTER} times as fast as gradcheck",
                    times >= FASTER,
                    f"{times:.0f}",
                )
            )
        return goals

    @property
    def passed(self) -> bool:
        """Whether every goal holds."""
        return all(goal.holds for goal in self.goals())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return plain(
            {
                "schema": 1,
                "passed": self.passed,
                "goals": self.goals(),
                "mutants": [_counted(key, count) for key, count in sorted(self.tally.items())],
                "caught_by": dict(self.manners.most_common()),
                "missed": self.missed,
                "sensitivity": self.sensitivity,
                "alarms": self.alarms,
                "rejected": self.rejected,
                "not_reached": self.not_reached,
                "side_by_side": self.sides,
                "seconds_to_verdict": self.times,
            }
        )


def _counted(key: tuple[str, str, str, str], count: int) -> dict[str, Any]:
    """How many mutants of an operator, in a cell and a regime, had a verdict."""
    kind, cell, regime, verdict = key
    return {"kind": kind, "cell": cell, "regime": regime, "verdict": verdict, "count": count}


Piece: TypeAlias = Callable[[], Any]


def trial_piece(cell: str, regime: str, seed: int, every: int, deadline: float) -> Found:
    """Mutants and sensitivity of one cell in one regime; nothing once the deadline has passed."""
    if time.time() > deadline:
        return Found(not_reached=[f"{cell}, {regime}"])
    case = next(case for case in ON_TRIAL if case.name == cell)
    place = next(place for place in REGIMES if place.name == regime)
    experiment = experiment_of(case, place, witnesses_used(), seed)
    found = Found()
    rejection = experiment.rejects(experiment.right)
    if rejection is not None:
        found.rejected.append(f"{cell}, {regime}: {rejection.text}")
    for each in outcomes(experiment, every=every):
        found.tally[each.kind, each.cell, each.regime, each.verdict] += 1
        if each.verdict == KILLED:
            found.manners[each.manner] += 1
        elif each.verdict != EQUIVALENT:
            found.missed.append(each)
    rng = np.random.default_rng([seed, zlib.crc32(f"{cell} {regime}".encode())])
    found.sensitivity = list(sensitivities(experiment, rng))
    return found


def numpy_piece(cell: str, regime: str, seed: int, deadline: float) -> Found:
    """Sensitivity of one cell in one regime against its loss as NumPy code."""
    if time.time() > deadline:
        return Found(not_reached=[f"{cell}, {regime}, NumPy code"])
    case = next(case for case in ON_TRIAL if case.name == cell)
    place = next(place for place in REGIMES if place.name == regime)
    experiment = experiment_on_numpy_code(case, place, seed)
    found = Found()
    rejection = experiment.rejects(experiment.right)
    if rejection is not None:
        found.rejected.append(f"{cell}, {experiment.regime}: {rejection.text}")
    rng = np.random.default_rng([seed, zlib.crc32(f"{cell} {regime} NumPy".encode())])
    found.sensitivity = list(sensitivities(experiment, rng))
    return found


def alarms_piece(first: int, count: int, seed: int, dtype: str, deadline: float) -> Found:
    """So many random problems from a number on, until the deadline."""
    total = Alarms()
    for number in range(first, first + count):
        if time.time() > deadline:
            break
        total.add(alarms_in(number, seed, dtype, accusers(number)))
    return Found(alarms={dtype: total})


def side_piece(case: Case, seed: int, repeats: int) -> Found:
    """Other checkers on the same mistakes."""
    return Found(sides=compare_checkers((case,), witnesses_used()[0], seed, repeats))


def witnesses_used() -> tuple[Engine, ...]:
    """The reference on which mutants and sensitivity are tried: torch, or jax where there is no
    torch.
    """
    return available(("torch", "jax"))[0][:1]


EVERY_FURTHER = 20  # random problems to one that jax is asked of too, which has to compile each


def accusers(number: int) -> tuple[Engine, ...]:
    """The references that a right derivation is held against: torch and its modules; jax for some
    of the problems.
    """
    able, _ = available(("torch", "torch.nn", "jax"))
    return (
        able
        if number % EVERY_FURTHER == 0
        else tuple(engine for engine in able if engine.package != "jax") or able
    )


def run_trial(plan: Plan, watch: Callable[[int, str], None] | None = None) -> Found:
    """The whole trial: mutants and sensitivity, other checkers, then false alarms: enough
    comparisons, or until time is up.
    """
    deadline, found = time.time() + plan.seconds, Found(wanted=plan.comparisons)
    if plan.large:
        found.times = time_to_verdict(
            witnesses_used()[0], plan.seed
        )  # while nothing else is at work
    pieces: list[Piece] = [
        partial(trial_piece, cell, regime, plan.seed, plan.every, deadline - 0.3 * plan.seconds)
        for cell in plan.cells
        for regime in plan.regimes
    ]
    pieces += [
        partial(numpy_piece, cell, regime, plan.seed, deadline - 0.3 * plan.seconds)
        for cell in plan.cells
        for regime in plan.numpy_regimes
    ]
    pieces += [partial(side_piece, case, plan.seed, plan.repeats) for case in plan.beside]
    number, share = 0, 10 if plan.comparisons > 20 * ENOUGH else 1
    with workers(plan.jobs) as pool:
        for part in results_of(pieces, pool):
            merge(found, part)
            if watch is not None:
                watch(len(pieces), "on trial")
        while found.compared < plan.comparisons and time.time() < deadline:
            starts = range(number, number + share * plan.jobs, share)
            more = [
                partial(alarms_piece, at, share, plan.seed, dtype, deadline)
                for at in starts
                for dtype in DTYPES
            ]
            for part in results_of(more, pool):
                merge(found, part)
            number += share * plan.jobs
    return found


def merge(found: Found, part: Found) -> None:
    """What was found in one part, added to the whole."""
    found.tally += part.tally
    found.manners += part.manners
    for name in ("missed", "sensitivity", "rejected", "not_reached"):
        getattr(found, name).extend(getattr(part, name))
    known = {(side.checker, side.planted, side.dtype): side for side in found.sides}
    for side in part.sides:
        known.setdefault(
            (side.checker, side.planted, side.dtype), Side(side.checker, side.planted, side.dtype)
        ).add(side)
    found.sides = list(known.values())
    found.times.update(part.times)
    for dtype, each in part.alarms.items():
        found.alarms.setdefault(dtype, Alarms()).add(each)


def results_of(pieces: Sequence[Piece], pool: ProcessPoolExecutor | None) -> Iterator[Any]:
    """The results of all pieces, in their order."""
    if pool is None:
        yield from (piece() for piece in pieces)
        return
    futures = [pool.submit(piece) for piece in pieces]
    yield from (future.result() for future in futures)
