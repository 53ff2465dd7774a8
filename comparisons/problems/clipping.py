"""Gradients cut as people cut them, and what is known of that where a reference tells a gradient
along directions only.

    by value          g ← min(max(g, −c), c), entry by entry                                 (1)
    by global norm    g ← g · min(1, c / (N + e)),   N² = Σ over all given gradients of ‖g‖²   (2)
    by own norm       the same with N = ‖g‖ of each array by itself                           (3)

e is 0 in most code and 10⁻⁶ in torch.nn.utils.clip_grad_norm_, whose bound is therefore missed by
a relative 10⁻⁶ / N.

A reference that looks along directions D only tells D g for the true g. Let ĝ be what was given.

    by value    an entry of ĝ inside ±c is right only if the true one is the same and was not cut:
                the true g is needed at the entries of ĝ that reach ±c, and nowhere else     (4)
    by norm     ĝ is right only if it is the true g times a number, which D g and D ĝ tell, and
                with it ‖g‖                                                                 (5)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .answer import Answer
from .arrays import Array

TORCH_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_: clip_coef = max_norm / (total_norm + 1e-6)
NEAR_BOUND = 1e-6  # relative: an entry so near to ±c counts as one that reaches it


@dataclass(frozen=True)
class Entries:
    """A derivative at single entries, of flat indices `at`, and the error that whoever tells it
    expects of each.
    """

    at: Array
    value: Array
    uncertainty: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What is known besides a reference's answer.

    given      the gradients that are on trial
    at_bound   by variable: the plain derivative at the entries of those that reach the bound (4)
    inputs     those of them that are no parameters
    """

    given: Mapping[str, Array] = field(default_factory=dict[str, Array])
    at_bound: Mapping[str, Entries] = field(default_factory=dict[str, Entries])
    inputs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Bounds:
    """±value for every entry; norm, of all arrays together or of each by itself; eps: e of (2)."""

    value: float | None = None
    norm: float | None = None
    of_each: bool = False
    eps: float = 0.0

    def coefficient(self, norm: float) -> float:
        """By how much a gradient of this norm is shrunk, (2)."""
        whole = norm + self.eps
        return 1.0 if self.norm is None or whole <= 0 else min(1.0, self.norm / whole)

    def coefficients(self, answer: Answer, names: set[str], seen: Seen) -> dict[str, float]:
        """The coefficient of every gradient of these names, all of them cut by value already."""
        told = [name for name in answer.gradients if name in names]
        if self.norm is None:
            return dict.fromkeys(told, 1.0)
        norms = {name: _norm(answer, name, seen) for name in told}
        if self.of_each:
            return {name: self.coefficient(norm) for name, norm in norms.items()}
        together = float(np.linalg.norm(list(norms.values())))
        return dict.fromkeys(told, self.coefficient(together))

    def in_given(self, given: Mapping[str, Array]) -> float | None:
        """Where ±value stands in gradients that are clipped: scaled down to a norm afterwards, at
        their largest entry.
        """
        if self.value is None or self.norm is None:
            return self.value
        sizes = [float(np.max(np.abs(value), initial=0.0)) for value in given.values()]
        return min(self.value, max(sizes, default=self.value))

    def by_value(self, answer: Answer, names: set[str], factor: float, seen: Seen) -> Answer:
        """(1), of an answer that is already multiplied by its factor."""
        if self.value is None:
            return answer
        gradients, uncertainty = dict(answer.gradients), dict(answer.uncertainty)
        for name in names & gradients.keys():
            if name not in answer.directions:
                gradients[name] = np.clip(gradients[name], -self.value, self.value)
            elif name in seen.at_bound:
                entries = seen.at_bound[name]
                true = factor * entries.value
                cut_off = true - np.clip(true, -self.value, self.value)
                directions = answer.directions[name].reshape(len(gradients[name]), -1)
                gradients[name] = gradients[name] - directions[:, entries.at] @ cut_off  # (4)
                doubt = abs(factor) * entries.uncertainty * len(entries.at)
                if name in uncertainty:
                    uncertainty[name] += doubt
        return replace(answer, gradients=gradients, uncertainty=uncertainty)


def reached(given: Array, bound: float) -> Array:
    """The flat indices of the entries that reach ±bound."""
    return np.flatnonzero(np.abs(np.asarray(given)) >= bound * (1 - NEAR_BOUND))


def _norm(answer: Answer, name: str, seen: Seen) -> float:
    """‖g‖, by (5) where g is told along directions only."""
    value = np.asarray(answer.gradients[name], dtype=np.float64)
    directions, given = answer.directions.get(name), seen.given.get(name)
    if directions is None:
        return float(np.linalg.norm(value))
    if given is not None and given.shape == directions.shape[1:]:
        own = np.asarray(given, dtype=np.float64)
        along = np.tensordot(directions, own, axes=own.ndim)
        square = float(along @ along)
        if square > 0:
            return abs(float(value @ along)) / square * float(np.linalg.norm(own))
    # the mean square of an inner product with random signs is the square of the norm
    return float(np.sqrt(np.mean(np.square(value))))
