"""What a function's own values say of the precision that it computes in."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..problems.arrays import Array, Arrays, has_digits_of, is_real
from ..problems.problem import FunctionProblem
from ..witnesses.tolerance import epsilon

LOWER = ("bfloat16", "float16", "float32")
MOVED = 1e-3  # by so much of itself every variable moves to another point
POINTS = 3


def note_of(problem: FunctionProblem, value: Callable[[Arrays], Array]) -> list[str]:
    """A note where the function computes in a lower precision than the arrays that it is given."""
    name = _precision_of(problem, value)
    if name is None:
        return []
    return [
        f"the {problem.loss_label} computes in {name}, though its arrays are "
        f"{problem.rounding_dtype.name}: its gradient is known no better than that"
    ]


def _precision_of(problem: FunctionProblem, value: Callable[[Arrays], Array]) -> str | None:
    """By the dtype of what it returns; or float32 by its digits, at several points."""
    here = value({**problem.constants, **problem.variables})
    dtype = here.dtype.name
    if epsilon(problem.rounding_dtype) >= epsilon(np.float32):
        return None
    if dtype in LOWER:
        return dtype
    if not _is_single(here):
        return None
    rng = np.random.default_rng([problem.seed, 7])
    points = [_moved(problem.variables, rng) for _ in range(POINTS)]
    values = [here, *(value({**problem.constants, **point}) for point in points)]
    different = len({float(each) for each in values}) == len(values)
    return "float32" if different and all(_is_single(each) for each in values) else None


def _is_single(value: Array) -> bool:
    """Whether it is a number of float32, and none of fewer digits."""
    return has_digits_of(value, np.float32) and not has_digits_of(value, "bfloat16")


def _moved(variables: Arrays, rng: np.random.Generator) -> dict[str, Array]:
    moved: dict[str, Array] = {}
    for name, value in variables.items():
        moved[name] = value * (1 + MOVED * rng.uniform(-1, 1, size=value.shape))
    return moved


def note_of_outputs(
    role: str, outputs: Mapping[str, Any], arrays: Mapping[str, Array]
) -> list[str]:
    """A note where what a function returns is of a lower dtype than all that it was given."""
    given = [epsilon(value.dtype) for value in arrays.values() if is_real(value.dtype)]
    coarsest = max(given, default=0.0)
    notes: list[str] = []
    for name in LOWER if given else ():
        short = [path for path, value in outputs.items() if np.asarray(value).dtype.name == name]
        if short and epsilon(name) > coarsest:
            notes.append(
                f"the {role} computes {', '.join(short)} in {name}, though its arrays are finer: "
                "the gradient is known no better than that"
            )
    return notes
