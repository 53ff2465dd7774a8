"""Training: clipping of gradients, and parameter updates by gradient descent, momentum and Adam.

Let θ be all parameters, g = ∂L/∂θ at update n = 1, 2, …, η the learning rate. Operations on arrays
are entry by entry. Everything is pure: what is remembered from update to update is an argument and
a result, nothing given is changed, dtypes are kept.

Gradient descent (SGD), plain and with momentum μ; v_0 = 0:

    θ ← θ − η g                                                  (1)
    v_n = μ v_{n−1} + g,    θ ← θ − η v_n                        (2)
    v_n = μ v_{n−1} + g,    θ ← θ − η (g + μ v_n)                (3)

(2) is Polyak's heavy ball (1964), (3) Nesterov's look-ahead in the variables of Sutskever, Martens,
Dahl and Hinton 2013, both as torch and optax write them. The paper has v_n = μ v_{n−1} − η g: the
same only while η stays. Many tutorials have an average, v_n = μ v_{n−1} + (1 − μ) g ("dampening"):
as if η were multiplied by 1 − μ.

Adam (Kingma and Ba 2015, algorithm 1); m_0 = v_0 = 0:

    m_n = β₁ m_{n−1} + (1 − β₁) g                                (4)
    v_n = β₂ v_{n−1} + (1 − β₂) g²                               (5)
    m̂ = m_n / (1 − β₁ⁿ),  v̂ = v_n / (1 − β₂ⁿ)                    (6)
    θ ← θ − η m̂ / (√v̂ + ε)                                       (7)

(6) makes up for the zeros that the averages start from: without it the first steps are (1 − β₁) /
√(1 − β₂) ≈ 3 times too long. In (7) ε stands outside the square root. Inside, √(v̂ + ε), ε = 1e-8
would be felt by gradients up to 1e-4. The shorter form at the end of the paper's section 2, η √(1 −
β₂ⁿ) / (1 − β₁ⁿ) · m_n / (√v_n + ε̂), is another algorithm unless ε̂ = ε √(1 − β₂ⁿ) changes with n;
TensorFlow has that form with a constant.

Clipping, before an update. By value, to both sides of zero,

    g ← min(max(g, −c), c)                                       (8)

and not "if g > c: g = c", which lets −100 pass: a gradient explodes in both directions. By global
norm (Pascanu, Mikolov and Bengio 2013, algorithm 1, over all parameters together):

    ‖g‖ = √ Σ g²                                                 (9)
    g ← g · min(1, c / (‖g‖ + ε))                                (10)

torch.nn.utils.clip_grad_norm_ has ε = 1e-6 in (10), so that its norm ends a little below c;
optax.clip_by_global_norm and the paper have ε = 0. (10) keeps the gradient's direction, (8) does
not. Neither does anything against vanishing: a gradient of 1e-12 is within every bound, and min(1,
·) scales nothing up.
"""

import math
from dataclasses import dataclass

import numpy as np

from .arrays import Arrays, Named


def clip_by_value(gradients: Named, limit: float) -> Arrays:
    """Every entry cut to −limit … limit by (8); NaN stays NaN.

    Raises ValueError where limit is negative or NaN.
    """
    _must_be_at_least_zero("limit", limit)
    return {name: np.clip(g, -float(limit), float(limit)) for name, g in gradients.items()}  # (8)


def global_norm(gradients: Named) -> float:
    """The Euclidean norm of all entries of all arrays together by (9), summed in float64.

    0 of nothing, NaN of NaN.
    """
    with np.errstate(over="ignore"):
        squares = [float(np.sum(np.square(np.abs(g).astype(np.float64)))) for g in gradients.values()]
    return math.sqrt(sum(squares))  # (9)


def clip_by_global_norm(gradients: Named, max_norm: float, epsilon: float = 1e-6) -> Arrays:
    """The gradients, scaled down together by (10) where their norm is over max_norm.

    epsilon is 1e-6 as in torch, 0 as in optax.

    A norm that is not finite does not pass unseen: with NaN all entries become NaN; with infinity
    those that are infinite become NaN and the others 0, as in torch. Raises ValueError where
    max_norm or epsilon is negative or NaN.
    """
    _must_be_at_least_zero("max_norm", max_norm)
    _must_be_at_least_zero("epsilon", epsilon)
    divisor = global_norm(gradients) + float(epsilon)
    coefficient = 1.0 if divisor <= max_norm else float(max_norm) / divisor
    with np.errstate(invalid="ignore"):
        return {name: g * coefficient for name, g in gradients.items()}  # (10)


def _must_be_at_least_zero(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} is at least 0, not {value}")


def sgd(params: Named, gradients: Named, learning_rate: float) -> Arrays:
    """New parameters by (1); the old ones are left as they are, and keep their dtype."""
    moved: Arrays = {}
    for name, value in params.items():
        rate = np.asarray(learning_rate, dtype=value.dtype)
        moved[name] = value - rate * gradients[name]  # (1)
    return moved


@dataclass(frozen=True)
class SGD:
    """Gradient descent by (1), with momentum by (2), with Nesterov's by (3).

    Its memory is {name: v_n}, empty without momentum. Gradients of names that are no parameter are
    left aside; a parameter without a gradient is a KeyError. Raises ValueError for a momentum
    outside [0, 1), and for Nesterov's without any.
    """

    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _must_be_a_fraction("momentum", self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ValueError("Nesterov's look-ahead needs a momentum above 0")

    def start(self, params: Named) -> Arrays:
        """v_0 = 0."""
        if not self.momentum:
            return {}
        return {name: np.zeros_like(value) for name, value in params.items()}

    def update(self, params: Named, gradients: Named, memory: Named) -> tuple[Arrays, Arrays]:
        """(new parameters, new memory)."""
        if not self.momentum:
            return sgd(params, gradients, self.learning_rate), {}
        mu = float(self.momentum)  # a NumPy scalar would widen float32
        v = {name: mu * memory[name] + gradients[name] for name in params}  # (2)
        if not self.nesterov:
            return sgd(params, v, self.learning_rate), v
        ahead = {name: gradients[name] + mu * v[name] for name in params}  # (3)
        return sgd(params, ahead, self.learning_rate), v


@dataclass(frozen=True)
class Moments:
    """Adam's memory: the number of updates done, and m_n and v_n by parameter."""

    updates: int
    m: Named
    v: Named


@dataclass(frozen=True)
class Adam:
    """Adam by (4) to (7).

    As for SGD, only parameters are looked at, and each needs a gradient. Raises ValueError for a β
    outside [0, 1), and for an ε that is not above 0: an entry whose gradient has always been zero
    would become 0/0 in (7).
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _must_be_a_fraction("beta1", self.beta1)
        _must_be_a_fraction("beta2", self.beta2)
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is above 0, not {self.epsilon}")

    def start(self, params: Named) -> Moments:
        """m_0 = v_0 = 0."""
        zeros = {name: np.zeros_like(value) for name, value in params.items()}
        return Moments(0, zeros, zeros)

    def update(self, params: Named, gradients: Named, memory: Moments) -> tuple[Arrays, Moments]:
        """(new parameters, new memory)."""
        n = memory.updates + 1
        # Python's numbers: NumPy scalars would widen float32.
        beta1, beta2, epsilon = float(self.beta1), float(self.beta2), float(self.epsilon)
        m = {name: beta1 * memory.m[name] + (1 - beta1) * gradients[name] for name in params}  # (4)
        v = {  # (5)
            name: beta2 * memory.v[name] + (1 - beta2) * gradients[name] ** 2 for name in params
        }
        m_hat = {name: value / (1 - beta1**n) for name, value in m.items()}  # (6)
        v_hat = {name: value / (1 - beta2**n) for name, value in v.items()}  # (6)
        along = {name: m_hat[name] / (np.sqrt(v_hat[name]) + epsilon) for name in params}  # (7)
        return sgd(params, along, self.learning_rate), Moments(n, m, v)


def _must_be_a_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is at least 0 and below 1, not {value}")
