"""An answer against what the references say: verdicts, and what could not be seen."""

import math
from dataclasses import replace

import numpy as np

from ..problems.answer import Answer, Enclosed
from ..problems.arrays import Array
from ..problems.problem import AnyProblem, Differentiable
from ..witnesses import tolerance
from ..witnesses.ask import Witnesses
from .comparator import Yardstick, compare
from .verdict import Verdict


def true_errors(answer: Answer, witnesses: Witnesses) -> dict[str, dict[str, float]]:
    """gradient → {"manual", and each reference: a proven bound of its error}, where a proof was asked for.

    In units in the last place of the gradient's largest entry; along directions, of √n times that for n entries.
    """
    proof = next((told.proof for told in witnesses.plain.values() if told.proof), dict[str, Enclosed]())
    answers = {"manual": answer} | {engine.name: told for engine, told in witnesses.plain.items() if not told.proof}
    found: dict[str, dict[str, float]] = {}
    for name, enclosed in proof.items():
        given = {
            who: told.gradients[name] for who, told in answers.items() if name in told.gradients and name not in told.directions
        }
        for who, value in given.items():
            unit = float(np.spacing(np.max(np.abs(value), initial=0.0)))
            unit *= 1.0 if enclosed.directions is None else math.sqrt(value.size)
            found.setdefault(name, {})[who] = float(np.max(enclosed.distance(value), initial=0.0)) / unit
    return found


def judge_answer(
    problem: AnyProblem, answer: Answer, witnesses: Witnesses, partial: bool = False
) -> tuple[list[Verdict], list[Verdict], list[str]]:
    """(verdicts on the forward pass, verdicts on the gradients, what is not given) of an answer; nobody is asked anything.

    There are none on the gradients where the forward passes differ.
    """
    forward = [
        judge(problem, answer, reference, engine.name, name, witnesses.noise_against(engine))
        for engine, reference in witnesses.told.items()
        for name in ("loss", *(f"state {state}" for state in reference.states))
        if not reference.uncertainty
    ]
    asked = [*problem.variables, *(n for n in witnesses.told[witnesses.first].gradients if n not in problem.variables)]
    not_given = [name for name in asked if name not in answer.gradients] if partial else []
    rows: list[Verdict] = []
    if all(row.passed for row in forward):
        rows = [
            judge(problem, answer, reference, engine.name, name, noise)
            for engine, reference in witnesses.told.items()
            for noise in [witnesses.noise_against(engine)]
            for name in asked
            if name in reference.gradients and name not in not_given
        ]
    return forward, rows, not_given


def judge(problem: Differentiable, answer: Answer, reference: Answer, engine: str, name: str, noise: tolerance.Noise) -> Verdict:
    """The verdict on one quantity of an answer against one reference."""
    mine, expected = tolerance.quantities(answer).get(name), tolerance.quantities(reference)[name]
    level = noise.total[name]
    if mine is not None and name in reference.directions:
        directions = reference.directions[name]
        if mine.shape == directions.shape[1:]:
            mine = project(mine, directions)
    level = max(level, reference.uncertainty.get(name, 0.0))
    if name in reference.directions and not reference.uncertainty:
        level *= math.sqrt(reference.directions[name][0].size)  # errors of the entries add up in an inner product with ±1
    yardstick = Yardstick(level, noise.steps.get(name), noise.limit)
    if noise.allowed is not None and name in reference.gradients:
        rtol, atol = noise.allowed
        yardstick = Yardstick(atol + rtol * np.abs(expected), None, 1.0)
    if name in reference.kinks:
        yardstick = replace(yardstick, total=yardstick.total + reference.kinks[name] / yardstick.limit)
    steps = (tolerance.step_quantities(answer).get(name), tolerance.step_quantities(reference).get(name))
    verdict = compare((name, engine), (mine, expected), steps, yardstick, problem.first_step(name), problem.runs_backwards(name))
    return replace(verdict, where=None, along_directions=True) if name in reference.directions else verdict


def project(gradient: Array, directions: Array) -> Array:
    """Inner products of a gradient with each direction: (K,)."""
    return np.tensordot(directions, gradient, axes=gradient.ndim)


def vacuous(witnesses: Witnesses) -> list[str]:
    """The gradients whose true value does not rise above rounding."""
    first, noise = witnesses.told[witnesses.first], witnesses.noise
    sizes = {name: float(np.max(np.abs(value), initial=0.0)) for name, value in first.gradients.items()}
    return [
        name for name, size in sizes.items() if size <= noise.limit * max(noise.total[name], first.uncertainty.get(name, 0.0))
    ]


def kinks(witnesses: Witnesses) -> list[str]:
    """A note for every gradient at a kink of the function, as differences see it."""
    notes: list[str] = []
    for engine, told in witnesses.told.items():
        for name, gap in told.kinks.items():
            entries = [list(map(int, at)) for at in np.argwhere(gap)[:3]]
            more = ", …" if np.count_nonzero(gap) > len(entries) else ""
            at = "" if name in told.directions or not gap.ndim else f" at {', '.join(map(str, entries))}{more}"
            notes.append(f"the function has a kink in {name}{at}: {engine.name} allow all between its one-sided derivatives")
    return notes


COARSE = 1e-3


def coarse(witnesses: Witnesses) -> list[str]:
    """A note on the gradients in which an error of a thousandth could not be seen."""
    first, unseen = witnesses.told[witnesses.first], dict[str, float]()
    for name, value in first.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        least = witnesses.noise.limit * max(witnesses.noise.total[name], first.uncertainty.get(name, 0.0))
        if COARSE * size < least < size:
            unseen[name] = least / size
    told = ", ".join(f"{share:.1g} of {name}" for name, share in unseen.items())
    return [f"rounding is so large here that errors below {told} could not be seen"] if unseen else []


def judged_otherwise(witnesses: Witnesses) -> list[str]:
    """A note where rtol and atol stand in place of the measured noise."""
    if witnesses.noise.allowed is None:
        return []
    rtol, atol = witnesses.noise.allowed
    return [
        f"gradients are judged by rtol={rtol:g}, atol={atol:g}, as asked for, not by measured noise; single steps are not judged"
    ]


def references_agree(problem: Differentiable, witnesses: Witnesses) -> bool:
    """Whether every reference is within the limit of the first, in every gradient that both tell."""
    first = witnesses.told[witnesses.first]
    rows = [
        judge(problem, first, reference, engine.name, name, witnesses.noise_against(engine))
        for engine, reference in witnesses.told.items()
        if not reference.directions and engine is not witnesses.first
        for name in reference.gradients
        if name in first.gradients and name not in first.directions
    ]
    return all(row.passed for row in rows)
