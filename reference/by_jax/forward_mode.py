"""Forward mode by jax: derivatives along random directions, the other way round than reverse mode.

For a gradient g and any direction v the inner product ⟨g, v⟩ is the derivative of the loss along v,
which `jax.jvp` computes by carrying v̇ forward through time, with no backward pass at all. Reverse
mode and forward mode share the rules for single operations, and neither tape, nor order, nor
accumulation: the *dot test* of adjoint codes (Griewank and Walther 2008, section 3.2).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as xp
import numpy as np

from ..arrays import Arrays, Named
from ..equations.parts import ScalarFunction
from .jax_grad import compiler_options, in_double, scan
from .jax_grad import why_not_on as why_not_on

DIRECTIONS = 8


def gradients(
    function: ScalarFunction,
    variables: Named,
    constants: Named,
    seed: int,
    compile_fast: bool = False,
) -> tuple[float, Arrays, Arrays]:
    """(value, inner products by variable (K,), the directions ±1 (K, shape)).

    `compile_fast` as in reference.by_jax.jax_grad.
    """
    rng = np.random.default_rng([seed, 4])
    directions = {
        name: rng.choice((-1.0, 1.0), size=(DIRECTIONS, *np.shape(value)))
        for name, value in variables.items()
    }
    with in_double():
        fixed = {name: xp.asarray(value) for name, value in constants.items()}
        leaves = {name: xp.asarray(value) for name, value in variables.items()}
        value, products = _along(function, compile_fast)(leaves, fixed, _one_at_a_time(directions))
    found = np.asarray(products).reshape(len(directions), DIRECTIONS)
    return float(np.asarray(value)), dict(zip(directions, found, strict=True)), directions


def _one_at_a_time(directions: Arrays) -> Arrays:
    """(N, shape) by variable.

    Its own directions where it is its turn, zero where it is another's.
    """
    tangents: Arrays = {}
    for turn, (name, chosen) in enumerate(directions.items()):
        tangents[name] = np.zeros((len(directions) * DIRECTIONS, *chosen.shape[1:]))
        tangents[name][turn * DIRECTIONS : (turn + 1) * DIRECTIONS] = chosen
    return tangents


@lru_cache(maxsize=64)
def _along(function: ScalarFunction, compile_fast: bool) -> Callable[..., Any]:
    """(value, derivative along each tangent), compiled as one."""

    def both(leaves: Any, fixed: Any, tangents: Any) -> Any:
        def value_of(named: Any) -> Any:
            return function(xp, scan, named, fixed)[0]

        def along(direction: Any) -> Any:
            cast = {name: direction[name].astype(leaf.dtype) for name, leaf in leaves.items()}
            return jax.jvp(value_of, (leaves,), (cast,))[1]

        return value_of(leaves), jax.vmap(along)(tangents)

    return jax.jit(both, compiler_options=compiler_options() if compile_fast else None)
