"""jax.test_util.check_grads on a derivation in NumPy, wrapped as a custom_vjp.

A checker to compare ours with.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.test_util import check_grads

from ..arrays import Arrays, Named


def accepts(
    value: Callable[[Named], float], gradients: Callable[[Named], Named], variables: Named
) -> bool:
    """Whether check_grads accepts gradients as those of the scalar value.

    It is asked with order=1, modes=["rev"] and its default tolerances.

    A gradient that is missing, of another shape, or that raises, is not accepted.
    """
    dtype = np.result_type(*variables.values())
    scalar = jax.ShapeDtypeStruct((), dtype)
    shapes = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in variables.items()
    }

    def arrays(named: Any) -> Arrays:
        return {name: np.asarray(array) for name, array in named.items()}

    @jax.custom_vjp
    def derivation(named: Any) -> Any:
        return jax.pure_callback(
            lambda named: np.asarray(value(arrays(named)), dtype), scalar, named
        )

    def backward(named: Any, cotangent: Any) -> Any:
        def derived(named: Any) -> Any:
            found = gradients(arrays(named))
            return {name: np.asarray(found[name], dtype) for name in shapes}

        found = jax.pure_callback(derived, shapes, named)
        return ({name: cotangent * found[name] for name in shapes},)

    derivation.defvjp(lambda named: (derivation(named), named), backward)
    with jax.enable_x64(True):
        try:
            check_grads(derivation, (dict(variables),), order=1, modes=["rev"])
        except Exception:
            return False
    return True
