"""Whether a function reads a variable at all."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import QuestionError
from ..problems.problem import AnyProblem

SCALES = (1.0, -1e3)  # how many times as large the values are at which the function is evaluated


def is_unused(name: str, problem: AnyProblem, loss: Callable[[Any], float]) -> bool:
    """Whether the loss is the same, bit by bit, for NaN in its place and for whatever numbers.

    NaN alone would be swallowed by `where`, and numbers alone by a product with zero.
    """
    value = problem.variables[name]
    rng = np.random.default_rng([problem.seed, 8])
    tried = [np.full_like(value, np.nan)]
    for scale in SCALES:
        size = scale * (1.0 + np.max(np.abs(value), initial=0.0))
        tried.append((size * rng.normal(size=value.shape)).astype(value.dtype))
    try:
        at_first = loss(problem)
        return all(loss(problem.with_variables({name: other})) == at_first for other in tried)
    except QuestionError:
        return False
