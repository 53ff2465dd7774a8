"""An answer against what the references say: verdicts, and what could not be seen."""

import math
from collections.abc import Container
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..problems.answer import Answer, Enclosed
from ..problems.arrays import Array
from ..problems.problem import AnyProblem, Differentiable
from ..witnesses import tolerance
from ..witnesses.ask import Witnesses
from .comparator import Side, Walk, Yardstick, compare
from .not_seen import NotSeen, Told, not_seen
from .verdict import Verdict

COARSE = 1e-3  # of a gradient: a larger error that cannot be seen is worth a note
MOST_ENTRIES = 3  # entries at a kink that a note names


class Judged(NamedTuple):
    """The verdicts on the forward pass, those on the gradients, and what is not given."""

    forward: list[Verdict]
    rows: list[Verdict]
    not_given: list[str]


def true_errors(answer: Answer, witnesses: Witnesses) -> dict[str, dict[str, float]]:
    """gradient → {"manual", and each reference: a proven bound of its error}, where a proof was
    asked for.

    In units in the last place of the gradient's largest entry; along directions, of √n times that
    for n entries.
    """
    proof = _proof_among(witnesses)
    answers = {"manual": answer}
    answers |= {engine.name: told for engine, told in witnesses.plain.items() if not told.proof}
    found: dict[str, dict[str, float]] = {}
    for name, enclosed in proof.items():
        for who, told in answers.items():
            if name in told.gradients and name not in told.directions:
                found.setdefault(name, {})[who] = _in_last_places(told.gradients[name], enclosed)
    return found


def _proof_among(witnesses: Witnesses) -> dict[str, Enclosed]:
    for told in witnesses.plain.values():
        if told.proof:
            return told.proof
    return {}


def _in_last_places(gradient: Array, enclosed: Enclosed) -> float:
    """How far a gradient is at most from the exact one, in units in the last place."""
    unit = float(np.spacing(np.max(np.abs(gradient), initial=0.0)))
    unit *= 1.0 if enclosed.directions is None else math.sqrt(gradient.size)
    return float(np.max(enclosed.distance(gradient), initial=0.0)) / unit


def judge_answer(
    problem: AnyProblem, answer: Answer, witnesses: Witnesses, partial: bool = False
) -> Judged:
    """The verdicts on an answer; nobody is asked anything.

    There are none on the gradients where the forward passes differ. `partial`: what is not given is
    listed, not failed.
    """
    forward = _forward_rows(problem, answer, witnesses)
    told = witnesses.told[witnesses.first].gradients
    asked = [*problem.variables, *(name for name in told if name not in problem.variables)]
    not_given = [name for name in asked if name not in answer.gradients] if partial else []
    if not all(row.passed for row in forward):
        return Judged(forward, [], not_given)
    rows: list[Verdict] = []
    gaps = _gaps_at_kinks(witnesses)
    for engine, reference in witnesses.told.items():
        noise = witnesses.noise_against(engine)
        for name in asked:
            if name in reference.gradients and name not in not_given:
                gap = gaps.get(name)
                rows.append(judge(problem, answer, reference, engine.name, name, noise, gap))
    return Judged(forward, rows, not_given)


def _gaps_at_kinks(witnesses: Witnesses) -> dict[str, Array]:
    """The gap between one-sided derivatives at every entry, by variable, whoever saw it."""
    gaps: dict[str, Array] = {}
    for told in witnesses.told.values():
        for name, half in told.kinked.items():
            gaps[name] = np.maximum(gaps.get(name, 0.0), 2 * half)
    return gaps


def _forward_rows(problem: AnyProblem, answer: Answer, witnesses: Witnesses) -> list[Verdict]:
    """The loss and the states against every reference that is not itself uncertain."""
    rows: list[Verdict] = []
    for engine, reference in witnesses.told.items():
        if reference.uncertainty:
            continue
        noise = witnesses.noise_against(engine)
        for name in (tolerance.LOSS, *map(tolerance.of_state, reference.states)):
            rows.append(judge(problem, answer, reference, engine.name, name, noise))
    return rows


def judge(
    problem: Differentiable,
    answer: Answer,
    reference: Answer,
    engine: str,
    name: str,
    noise: tolerance.Noise,
    gap: Array | None = None,
) -> Verdict:
    """The verdict on one quantity of an answer against one reference.

    `gap`: how far apart two right derivatives may be, entry by entry, at a kink that another
    reference saw.
    """
    mine = tolerance.quantities(answer).get(name)
    expected = tolerance.quantities(reference)[name]
    directions = reference.directions.get(name)
    if mine is not None and directions is not None and mine.shape == directions.shape[1:]:
        mine = project(mine, directions)
    verdict = compare(
        str(name),
        engine,
        Side(mine, tolerance.step_quantities(answer).get(name)),
        Side(expected, tolerance.step_quantities(reference).get(name)),
        yardstick_for(name, reference, noise, gap),
        Walk(
            problem.first_step(name),
            problem.runs_backwards(name),
            problem.letters(name),
            problem.slice_axis(name),
            problem.in_time(name),
        ),
    )
    if directions is None:
        return verdict
    return replace(verdict, where=None, axes=[], along_directions=True)


def yardstick_for(
    name: str, reference: Answer, noise: tolerance.Noise, gap: Array | None = None
) -> Yardstick:
    """How far from the reference a quantity may be.

    By measured noise, or by the rtol and atol that were asked for.
    """
    uncertain = reference.uncertainty.get(name, 0.0)
    level = max(noise.total[name], uncertain)
    if name in reference.directions and not reference.uncertainty:
        # errors of the entries add up in an inner product with ±1
        level *= math.sqrt(reference.directions[name][0].size)
    by_mean = None if name in reference.directions or uncertain else noise.rms.get(name)
    yardstick = Yardstick(level, noise.steps.get(name), noise.limit, by_mean)
    if noise.allowed is not None and name in reference.gradients:
        rtol, atol = noise.allowed
        expected = tolerance.quantities(reference)[name]
        yardstick = Yardstick(atol + rtol * np.abs(expected), None, 1.0)
    if name in reference.kinks:
        # anything between the one-sided derivatives is right
        allowance = reference.kinks[name] / yardstick.limit
        yardstick = replace(yardstick, total=yardstick.total + allowance)
    elif gap is not None and name not in reference.directions:
        yardstick = _widened(yardstick, gap / yardstick.limit)
    return yardstick


def _widened(yardstick: Yardstick, allowance: Array) -> Yardstick:
    """By an allowance for each entry; each step by that of its largest."""
    steps = yardstick.steps
    if steps is not None and steps.shape == allowance.shape[:1]:
        steps = steps + allowance.reshape(len(steps), -1).max(axis=1, initial=0.0)
    return replace(yardstick, total=yardstick.total + allowance, steps=steps)


def project(gradient: Array, directions: Array) -> Array:
    """Inner products of a gradient with each direction: (K,)."""
    return np.tensordot(directions, gradient, axes=gradient.ndim)


def _least_seen(name: str, reference: Answer, noise: tolerance.Noise) -> float:
    """The smallest error in a gradient that could be seen."""
    return noise.limit * max(noise.total[name], reference.uncertainty.get(name, 0.0))


def vacuous(witnesses: Witnesses) -> list[str]:
    """The gradients whose true value does not rise above rounding."""
    first = witnesses.told[witnesses.first]
    found: list[str] = []
    for name, value in first.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        if value.size and size <= _least_seen(name, first, witnesses.noise):
            found.append(name)
    return found


def unseen(witnesses: Witnesses) -> list[NotSeen]:
    """The gradients of which hardly anything could be seen, by the reference that tells most."""
    first = witnesses.told[witnesses.first]
    least: dict[str, float] = {}
    for name in first.gradients:
        least[name] = _least_seen(name, first, witnesses.noise)
    return not_seen(Told(first.gradients, least, frozenset(first.uncertainty)))


def kinks(witnesses: Witnesses) -> list[str]:
    """A note for every gradient at a kink of the function, as differences see it."""
    notes: list[str] = []
    for engine, told in witnesses.told.items():
        for name, gap in told.kinked.items():
            at = f" at {_entries(gap)}" if gap.ndim and gap.any() else ""
            notes.append(
                f"the function has a kink in {name}{at}: {engine.name} allow all between its "
                "one-sided derivatives"
            )
    return notes


def _entries(gap: Array) -> str:
    """'[0, 1], [2, 3], …', of the entries that are not zero."""
    entries = [list(map(int, at)) for at in np.argwhere(gap)[:MOST_ENTRIES]]
    more = ", …" if np.count_nonzero(gap) > len(entries) else ""
    return f"{', '.join(map(str, entries))}{more}"


def coarse(witnesses: Witnesses) -> list[str]:
    """A note on the gradients in which an error of a thousandth could not be seen."""
    first = witnesses.told[witnesses.first]
    unseen: list[str] = []
    for name, value in first.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        least = _least_seen(name, first, witnesses.noise)
        if COARSE * size < least < size:
            unseen.append(f"{least / size:.1g} of {name}")
    if not unseen:
        return []
    return [f"rounding is so large here that errors below {', '.join(unseen)} could not be seen"]


def judged_otherwise(witnesses: Witnesses) -> list[str]:
    """A note where rtol and atol stand in place of the measured noise."""
    if witnesses.noise.allowed is None:
        return []
    rtol, atol = witnesses.noise.allowed
    return [
        f"gradients are judged by rtol={rtol:g}, atol={atol:g}, as asked for, not by measured "
        "noise; single steps are not judged"
    ]


def references_agree(problem: Differentiable, witnesses: Witnesses, names: Container[str]) -> bool:
    """Whether every reference is within the limit of the first in all of these gradients that both
    tell.
    """
    first = witnesses.told[witnesses.first]
    for engine, reference in witnesses.told.items():
        if reference.directions or engine is witnesses.first:
            continue
        noise = witnesses.noise_against(engine)
        for name in reference.gradients:
            if name not in names or name not in first.gradients or name in first.directions:
                continue
            if not judge(problem, first, reference, engine.name, name, noise).passed:
                return False
    return True
