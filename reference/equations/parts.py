"""What the equations are made of: nonlinearities, products, blocks of gates."""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from ..arrays import Named

Step: TypeAlias = Callable[..., dict[str, Any]]
Readout: TypeAlias = Callable[..., Any]
ScalarFunction: TypeAlias = Callable[[Any, Any, Named, Named], tuple[Any, dict[str, Any]]]


def stop_gradient(value: Any) -> Any:
    """The same number, a constant to torch and jax."""
    if hasattr(value, "detach"):
        return value.detach()
    jax = sys.modules.get("jax")
    return (
        value if jax is None or not isinstance(value, jax.Array) else jax.lax.stop_gradient(value)
    )


def relu(xp: Any, z: Any) -> Any:
    """The positive part, with derivative 0 at 0.

    A select, since the gradient of max at a tie is ½ in torch and jax.
    """
    return xp.where(z > 0, z, xp.zeros_like(z))


def sigmoid(xp: Any, z: Any) -> Any:
    """The logistic function as exp(−log(1 + e^−z))."""
    return xp.exp(-xp.logaddexp(xp.zeros_like(z), -z))


def softplus(xp: Any, z: Any) -> Any:
    """log(e^0 + e^z)."""
    return xp.logaddexp(xp.zeros_like(z), z)


def positive(xp: Any, z: Any) -> Any:
    """g of Feng et al.

    2024, appendix B: the logistic function below 0, its tangent moved to slope 1 from there on.
    """
    return xp.where(z >= 0, 0.5 + z, sigmoid(xp, z))


NONLINEARITIES: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda xp, z: xp.tanh(z),
    "sigmoid": sigmoid,
    "relu": relu,
    "identity": lambda xp, z: z,
    "softplus": softplus,
    "positive": positive,
}


def one_hot(xp: Any, tokens: Any, size: int, like: Any) -> Any:
    """Rows e_k for tokens k: (…, size), of the dtype of `like`."""
    return xp.astype(xp.expand_dims(tokens, axis=-1) == xp.arange(size), like.dtype)


def affine(xp: Any, x: Any, weight: Any) -> Any:
    """x Wᵀ; integer x stands for one-hot rows."""
    if xp.isdtype(x.dtype, "integral"):
        x = one_hot(xp, x, weight.shape[1], weight)
    return xp.matmul(x, xp.matrix_transpose(weight))


def blocks(stacked: Any, count: int) -> list[Any]:
    """The `count` equal blocks of the last axis."""
    width = stacked.shape[-1] // count
    return [stacked[..., k * width : (k + 1) * width] for k in range(count)]


def side_by_side(xp: Any, parts: list[Any]) -> Any:
    """The parts along the last axis."""
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)
