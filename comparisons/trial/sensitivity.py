"""The smallest error that is always caught: in one entry of a whole gradient, and in one entry of
one step's share.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..judging.judge import judge
from ..judging.verdict import Verdict
from ..problems.answer import Answer
from .mutation_score import WITHIN, Experiment

OF_GRADIENT, OF_STEP = (
    1e-12,
    1e-10,
)  # what is always to be caught, relative to the largest entry of a gradient, of a step's share


@dataclass(frozen=True)
class Sensitivity:
    """The smallest relative error in one entry that was caught, where all larger ones were: of a
    gradient, or a step's share.
    """

    cell: str
    regime: str
    gradient: str
    step: int | None
    least_caught: float


def sensitivities(
    experiment: Experiment, rng: np.random.Generator, entries: int = 2, steps: int = 2
) -> Iterator[Sensitivity]:
    """Errors in random entries of every gradient, and of random steps' shares; what is nothing but
    rounding is left out.
    """
    for name, value in experiment.truth.gradients.items():
        size = float(np.max(np.abs(value), initial=0.0))
        if not size > WITHIN * experiment.witnesses.noise.total[name]:
            continue
        for at in rng.integers(value.size, size=entries):
            yield Sensitivity(
                experiment.cell,
                experiment.regime,
                name,
                None,
                least_caught(
                    lambda r, n=name, at=at, s=size: in_whole(experiment, n, int(at), r * s)
                ),
            )
    for name, value in experiment.truth.steps.items():
        for t in rng.integers(len(value), size=steps):
            size = float(np.max(np.abs(value[t]), initial=0.0))
            if size > WITHIN * float(experiment.witnesses.noise.steps[name][t]):
                at = int(rng.integers(value[t].size))
                caught = partial(_caught_in_step, experiment, name, int(t), at, size)
                yield Sensitivity(
                    experiment.cell,
                    experiment.regime,
                    name,
                    int(t) + experiment.problem.first_step(name),
                    least_caught(caught),
                )


def _caught_in_step(
    experiment: Experiment, name: str, t: int, at: int, size: float, relative: float
) -> bool:
    return in_step(experiment, name, t, at, relative * size)


def in_whole(experiment: Experiment, name: str, at: int, error: float) -> bool:
    """Whether the error in one entry of a whole gradient is caught."""
    value = experiment.right.gradients[name].copy()
    value.reshape(-1)[at] += error
    return not _verdict(
        experiment,
        replace(experiment.right, gradients={**experiment.right.gradients, name: value}),
        name,
    ).passed


def in_step(experiment: Experiment, name: str, t: int, at: int, error: float) -> bool:
    """Whether the error in one entry of one step's share is caught."""
    shares = experiment.right.steps[name].copy()
    shares[t].reshape(-1)[at] += error
    return not _verdict(
        experiment, replace(experiment.right, steps={**experiment.right.steps, name: shares}), name
    ).passed


def _verdict(experiment: Experiment, answer: Answer, name: str) -> Verdict:
    first = experiment.witnesses.first
    return judge(
        experiment.problem,
        answer,
        experiment.witnesses.told[first],
        first.name,
        name,
        experiment.witnesses.noise,
    )


def least_caught(caught: Callable[[float], bool], resolution: float = 0.05) -> float:
    """The smallest error between 1e-17 and 1 that is caught, by bisection of its logarithm; ∞ if
    not even 1 is.
    """
    low, high = -17.0, 0.0
    if not caught(1.0):
        return math.inf
    while high - low > resolution:
        middle = (low + high) / 2
        low, high = (low, middle) if caught(10**middle) else (middle, high)
    return 10**high
