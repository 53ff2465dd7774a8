"""Activations φ, each with its derivative under it.

    tanh       φ(z) = tanh z              φ′(z) = 1 − φ(z)²             (1)
    sigmoid    σ(z) = 1 / (1 + e⁻ᶻ)       σ′(z) = σ(z) σ(−z)            (2)   = σ (1 − σ) ≤ ¼
    relu       φ(z) = max(z, 0)           φ′(z) = 1 if z > 0 else 0     (3)
    identity   φ(z) = z                   φ′(z) = 1                     (4)
    softplus   φ(z) = log(1 + eᶻ)         φ′(z) = σ(z)                  (5)
    positive   g(z) = z + ½ if z ≥ 0, else σ(z)    g′(z) = 1 if z ≥ 0, else σ′(z)    (6)

Values are array-API code, `value(xp, z)`; derivatives are NumPy, `derivative(z, value)`, and
receive φ(z) beside z because (1) and (2) are cheaper in it. z is the net input (pre-activation): 1
− z² in place of 1 − φ(z)² is a classic mistake. relu has no derivative at z = 0; (3) takes 0 there,
as torch.relu and jax.nn.relu do. The textbook's σ (1 − σ) subtracts nearly equal numbers where σ is
close to 1 and loses all digits of a saturated unit; σ(−z) has them. (1) has the same weakness and
keeps it, as torch and jax do: the error is one unit in the last place of 1, not of φ′. (6) is
continuous with a kink at 0, where its derivative jumps from ¼ to 1; (6) takes 1 there (Feng et al.
2024, appendix B).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array


def tanh(xp: Any, z: Any) -> Any:
    """tanh z, of z's shape."""
    return xp.tanh(z)


def tanh_derivative(z: Array, value: Array) -> Array:
    """φ′ by (1), from value = tanh z."""
    del z
    return 1 - value * value


def sigmoid(xp: Any, z: Any) -> Any:
    """σ(z) without overflow: only e^−|z| is ever formed."""
    decay = xp.exp(-xp.abs(z))
    return xp.where(z >= 0, xp.ones_like(decay), decay) / (1 + decay)


def sigmoid_and_complement(xp: Any, z: Any) -> tuple[Any, Any]:
    """(σ(z), 1 − σ(z)), each with all its digits.

    The second is σ(−z), and their product is σ′(z) by (2).
    """
    decay = xp.exp(-xp.abs(z))
    large, small = 1 / (1 + decay), decay / (1 + decay)
    return xp.where(z >= 0, large, small), xp.where(z >= 0, small, large)


def sigmoid_derivative(z: Array, value: Array) -> Array:
    """σ′ by (2), from value = σ(z)."""
    return value * sigmoid(np, -z)


def relu(xp: Any, z: Any) -> Any:
    """max(z, 0); NaN stays NaN."""
    return xp.where(z <= 0, xp.zeros_like(z), z)


def relu_derivative(z: Array, value: Array) -> Array:
    """φ′ by (3): 0 at the kink; NaN lets the cotangent pass, as in torch."""
    del value
    return (~(z <= 0)).astype(z.dtype)


def identity(xp: Any, z: Any) -> Any:
    """z itself."""
    del xp
    return z


def identity_derivative(z: Array, value: Array) -> Array:
    """φ′ by (4): ones."""
    del value
    return np.ones_like(z)


def softplus(xp: Any, z: Any) -> Any:
    """log(1 + eᶻ) without overflow, as max(z, 0) + log(1 + e^−|z|)."""
    return relu(xp, z) + xp.log1p(xp.exp(-xp.abs(z)))


def softplus_derivative(z: Array, value: Array) -> Array:
    """φ′ by (5): σ(z)."""
    del value
    return sigmoid(np, z)


def positive(xp: Any, z: Any) -> Any:
    """g(z) by (6): positive and increasing everywhere."""
    return xp.where(z >= 0, z + 0.5, sigmoid(xp, z))


def positive_derivative(z: Array, value: Array) -> Array:
    """g′ by (6), from value = g(z); 1 at the kink."""
    del value
    return np.where(z >= 0, np.ones_like(z), sigmoid_derivative(z, sigmoid(np, z)))


@dataclass(frozen=True)
class Activation:
    """φ as array-API code and φ′ in NumPy."""

    value: Callable[[Any, Any], Any]
    derivative: Callable[[Array, Array], Array]


ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation(tanh, tanh_derivative),
    "sigmoid": Activation(sigmoid, sigmoid_derivative),
    "relu": Activation(relu, relu_derivative),
    "identity": Activation(identity, identity_derivative),
    "softplus": Activation(softplus, softplus_derivative),
    "positive": Activation(positive, positive_derivative),
}
