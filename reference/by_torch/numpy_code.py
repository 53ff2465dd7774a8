"""Reverse mode through NumPy code as it stands: the user's own function, run on torch.

The function is copied with all that it reaches into a world (reference.worlds) in which numpy,
math and arrays are traced_namespace's and traced_array's; nothing of the user's is changed. What
it computes there is recorded by torch's autograd, buffers that are written into included, and
differentiated to rounding.

A derivative is told only where it is whole. It is not where a number left what is traced
(traced_array.Left), nor where the value is not, to rounding, the one that NumPy computes, nor where
along a random direction differences of NumPy's values certainly say otherwise: then `DoesNotFollow`
is raised, with the operation, and the line of the user's as its traceback.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import worlds
from ..arrays import Array, Arrays, Named
from .torch_autograd import array_of, one_thread_if_small, rounding, tensor
from .traced_array import TRACE, Left, Trace, Traced, TracedScalar, tensor_of, traced
from .traced_namespace import NUMPY, PROVIDED, Drawing, stand_in

Copied = Callable[[worlds.World], Callable[[Any, Named], Any]]

STEP = 1e-5  # of the largest entry of each variable
MISSING = 1e-3  # share of a derivative that would be missed
SURE = 100.0  # how far beyond their own doubt differences have to be
AGREES = 1e-9  # relative difference of two values that are the same to rounding
MOVED = 32.0  # how many times what random rounding moves it a value may be off


class DoesNotFollow(ValueError):
    """The code cannot be run on torch."""


def world() -> worlds.World:
    """A world in which NumPy is torch's."""

    def swap(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            is_number = value.dtype.kind in "fc" and type(value) is np.ndarray
            return traced(value) if is_number else worlds.UNCHANGED
        if isinstance(value, np.random.Generator | np.random.RandomState):
            return Drawing(worlds.World().copy(value))
        found = stand_in(value)
        return worlds.UNCHANGED if found is None else found

    return worlds.World(swap, PROVIDED)


def gradients(
    copied: Copied, variables: Named, constants: Named, rounding_seed: int | None = None
) -> tuple[float, Arrays, Arrays, dict[str, str]]:
    """(value, {}, gradient for every variable, where numbers got into a lower precision).

    copied(world) is the function of (np, named arrays) in that world. With a rounding_seed, under
    RandomRounding. Raises DoesNotFollow.
    """
    with one_thread_if_small(variables):
        value, found, trace = _differentiate(copied, variables, constants, rounding_seed)
        if rounding_seed is None:
            _same_value(value, copied, variables, constants)
            if not trace.narrowed:
                _same_slope(found, copied, variables, constants)
    return value, {}, found, trace.narrowed


def _differentiate(
    copied: Copied, variables: Named, constants: Named, seed: int | None
) -> tuple[float, Arrays, Trace]:
    trace = Trace()
    token = TRACE.set(trace)
    recorded = torch.autograd.graph.allow_mutation_on_saved_tensors()
    try:
        with torch.inference_mode(False), torch.enable_grad(), rounding(seed), recorded:
            leaves = {name: tensor(value).requires_grad_() for name, value in variables.items()}
            value = _run(copied, leaves, constants)
            if trace.left is not None:
                raise trace.left
            found = _pulled_back(value, list(leaves.values()))
    except Exception as error:
        left = trace.left or (error if isinstance(error, Left) else None)
        if left is None:
            raise
        raise DoesNotFollow(str(left)) from error
    finally:
        TRACE.reset(token)
    told = {name: array_of(d) for name, d in zip(leaves, found, strict=True)}
    return float(value.detach()), told, trace


def _run(copied: Copied, leaves: Named, constants: Named) -> torch.Tensor:
    """The value, a tensor without axes."""
    named: dict[str, Any] = {name: _argument(leaf) for name, leaf in leaves.items()}
    for name, value in constants.items():
        named[name] = traced(np.array(value))
    with np.errstate(all="ignore"):
        value = copied(world())(NUMPY, named)
    return tensor_of(value).reshape(())


def _argument(leaf: torch.Tensor) -> Traced:
    """A variable as the code gets it: a number where it has no axes."""
    return Traced(leaf.clone()) if leaf.ndim else TracedScalar(leaf)


def _pulled_back(value: torch.Tensor, leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The gradients; zeros where the value does not depend on a leaf."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)


def _same_value(value: float, copied: Copied, variables: Named, constants: Named) -> None:
    """Raises DoesNotFollow where NumPy gets another value by more than rounding."""
    named = {name: np.array(given) for name, given in {**constants, **variables}.items()}
    expected = float(np.asarray(copied(worlds.World())(np, named)).reshape(()))
    if _is_near(value, expected, AGREES * abs(expected)):
        return
    moved = max(
        abs(_differentiate(copied, variables, constants, seed)[0] - value) for seed in (1, 2)
    )
    if not _is_near(value, expected, MOVED * moved):
        raise DoesNotFollow(f"torch computes {value!r} where NumPy computes {expected!r}")


def _same_slope(found: Arrays, copied: Copied, variables: Named, constants: Named) -> None:
    """Raises DoesNotFollow where the function certainly rises otherwise than the gradients say.

    Along one random direction through all variables. Differences with two steps have to agree with
    each other, else they say nothing.
    """
    rng = np.random.default_rng(0)
    directions: Arrays = {}
    for name, given in variables.items():
        size = float(np.max(np.abs(given), initial=0.0)) or 1.0
        directions[name] = size * rng.uniform(0.5, 1.5, size=given.shape)

    def value(distance: float) -> float:
        moved = {name: given + distance * directions[name] for name, given in variables.items()}
        named = {name: np.array(given) for name, given in {**constants, **moved}.items()}
        return float(np.asarray(copied(worlds.World())(np, named)).reshape(()))

    wide, narrow = ((value(step) - value(-step)) / (2 * step) for step in (STEP, STEP / 4))
    told = float(sum(np.sum(found[name] * directions[name]) for name in directions))
    off, doubt = abs(narrow - told), abs(wide - narrow)
    if np.isfinite(off) and off > MISSING * max(abs(told), abs(narrow)) and off > SURE * doubt:
        rounding = np.finfo(np.float64).eps * abs(value(0.0)) / STEP
        if off > SURE * rounding:
            raise DoesNotFollow(
                f"along one direction torch finds a derivative of {told:.6g}, differences one of "
                f"{narrow:.6g}: a part of it was lost"
            )


def _is_near(value: float, expected: float, least: float) -> bool:
    return value == expected or abs(value - expected) <= least or _both_nan(value, expected)


def _both_nan(value: float, expected: float) -> bool:
    return bool(np.isnan(value) and np.isnan(expected))


__all__ = ["Array", "DoesNotFollow", "gradients", "world"]
