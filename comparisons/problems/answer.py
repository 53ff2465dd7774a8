"""What a candidate or an engine says of a problem."""

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy.typing as npt

from .arrays import Array


class Enclosed(Protocol):
    """The exact gradient, between bounds: of its own shape, or along directions."""

    directions: Array | None

    def distance(self, found: Array) -> Array:
        """An upper bound of how far `found` is from the exact numbers."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a candidate or an engine says of a problem.

    loss        the scalar
    states      s_1..s_T by name, (T, B, ·)
    gradients   by variable; the two Jacobian arrays under their own names when the problem asks
                for them
    steps       the share of each step in a gradient, first axis the step: parameters (T, shape), x
                (T, B, I), initial states
                (T+1, B, ·) = ∂L/∂s_t for t = 0..T. Absent for what is not told step by step
    directions  (K, shape): where a gradient is told only as K inner products with these, its value
                is (K,)
    uncertainty by variable: an absolute error that the engine itself expects of its gradient
    kinks       by variable, of the gradient's shape: half the gap between the one-sided
                derivatives; the gradient is their middle
    narrowed    the lowest precision below float64 in which the engine computed because the code
                does; None where it did not
    remarks     what the engine noticed on the way, in words
    kinked      the same of every entry, in the variable's shape, also where the gradient is told
                along directions
    proof       by variable: what provably encloses the exact gradient; distance(array) bounds how
                far an array is from it
    """

    loss: float
    gradients: dict[str, Array]
    states: dict[str, Array] = field(default_factory=dict[str, Array])
    steps: dict[str, Array] = field(default_factory=dict[str, Array])
    directions: dict[str, Array] = field(default_factory=dict[str, Array])
    uncertainty: dict[str, float] = field(default_factory=dict[str, float])
    kinks: dict[str, Array] = field(default_factory=dict[str, Array])
    kinked: dict[str, Array] = field(default_factory=dict[str, Array])
    proof: dict[str, Enclosed] = field(default_factory=dict[str, Enclosed])
    narrowed: str | None = None
    remarks: tuple[str, ...] = ()

    def astype(self, dtype: npt.DTypeLike) -> "Answer":
        """The same with every array in `dtype`."""

        def cast(arrays: dict[str, Array]) -> dict[str, Array]:
            return {name: value.astype(dtype, copy=False) for name, value in arrays.items()}

        states, gradients = cast(self.states), cast(self.gradients)
        return replace(self, states=states, gradients=gradients, steps=cast(self.steps))
