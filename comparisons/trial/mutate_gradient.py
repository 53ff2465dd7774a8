"""Mistakes in finished gradients.

One array of the answer is changed, and the shares of its steps likewise.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..problems.answer import Answer
from ..problems.arrays import Array
from .mutate_cell import carry, transposed_blocks
from .subject import Answers, Arrays, Plants, Soil


def one_changed(soil: Soil, name: str, change: Callable[[Array], Any]) -> Answers:
    """The right answer with one gradient and every share in it changed.

    A change that gives None takes it away.
    """

    def answer() -> Answer:
        found: list[Arrays] = []
        for arrays, by_step in ((soil.right.gradients, False), (soil.right.steps, True)):
            changed = dict(arrays)
            if name in changed:
                value = changed.pop(name)
                told_apart = by_step and name in soil.learned()
                new = (
                    np.stack([change(part.copy()) for part in value])
                    if told_apart
                    else change(value.copy())
                )
                changed |= {} if new is None else {name: new}
            found.append(changed)
        return replace(soil.right, gradients=found[0], steps=found[1])

    return answer


def each_gradient(
    change: Callable[[Array], Any], least: int = 1, ndim: int = 0
) -> Callable[[Soil], Plants]:
    """Each gradient in turn, changed; only those of so many entries and axes at least."""

    def plant(soil: Soil) -> Plants:
        for name, value in soil.right.gradients.items():
            if value.size >= least and value.ndim >= ndim:
                yield name, one_changed(soil, name, change)

    return plant


def whole_only(soil: Soil, name: str, change: Callable[[Array], Any]) -> Answers:
    """The right answer with one whole gradient changed, and its steps untold."""

    def answer() -> Answer:
        steps = {other: value for other, value in soil.right.steps.items() if other != name}
        return replace(
            soil.right,
            gradients={**soil.right.gradients, name: change(soil.right.gradients[name].copy())},
            steps=steps,
        )

    return answer


def one_entry(value: Array) -> Array:
    """A millionth of the largest entry added to one entry."""
    at = value.size // 2
    value.reshape(-1)[at] += 1e-6 * float(np.max(np.abs(value)))
    return value


def entry_off(soil: Soil) -> Plants:
    """One entry by a millionth of the largest."""
    for name, value in soil.right.gradients.items():
        if value.size:
            yield name, whole_only(soil, name, one_entry)


def largest_swapped(value: Array) -> Array:
    """The two entries that are furthest apart, each in the other's place."""
    flat = value.reshape(-1)
    low, high = int(np.argmin(flat)), int(np.argmax(flat))
    flat[low], flat[high] = flat[high], flat[low]
    return value


def _neighbours_swapped(value: Array) -> Array:
    flat = value.reshape(-1)
    flat[0], flat[1] = flat[1], flat[0]
    return value


def entries_swapped(soil: Soil) -> Plants:
    """Two entries in each other's place."""
    for name, value in soil.right.gradients.items():
        if value.size > 1:
            yield f"{name}, smallest and largest", whole_only(soil, name, largest_swapped)
            yield f"{name}, the first two", whole_only(soil, name, _neighbours_swapped)


def clipped(soil: Soil) -> Plants:
    """Gradients, or the carry, clipped by value or norm."""

    def by_norm(soil: Soil = soil) -> Answer:
        norm = float(np.sqrt(sum(np.sum(value**2) for value in soil.right.gradients.values())))
        return scaled_answer(soil, min(1.0, 0.5 * norm / norm))

    yield "all by their global norm", by_norm
    for name, value in soil.right.gradients.items():
        if value.size:
            bound = 0.5 * float(np.max(np.abs(value)))
            yield f"{name} by value", whole_only(soil, name, lambda d, b=bound: np.clip(d, -b, b))
            yield (
                f"{name} from above only",
                whole_only(soil, name, lambda d, b=bound: np.minimum(d, b)),
            )
    yield "the carry by value", carry(soil, lambda name, value: np.clip(value, -0.1, 0.1))


def scaled_answer(soil: Soil, factor: float) -> Answer:
    """The right answer, times a factor."""
    both = [
        {name: factor * value for name, value in arrays.items()}
        for arrays in (soil.right.gradients, soil.right.steps)
    ]
    return replace(soil.right, gradients=both[0], steps=both[1])


def share_changed(soil: Soil, name: str, t: int, factor: float) -> Answers:
    """One step's share of one weight gradient times a factor, in the share and in the whole."""

    def answer() -> Answer:
        share = soil.right.steps[name]
        steps = share.copy()
        steps[t] = factor * share[t]
        whole = soil.right.gradients[name] + (factor - 1) * share[t]
        return replace(
            soil.right,
            gradients={**soil.right.gradients, name: whole},
            steps={**soil.right.steps, name: steps},
        )

    return answer


def step_left_out(at: int) -> Callable[[Soil], Plants]:
    """The sum over steps begins at the second step (at = 0), or ends before the last (at = −1)."""

    def plant(soil: Soil) -> Plants:
        for name in soil.learned():
            yield name, share_changed(soil, name, at, 0.0)

    return plant


def step_off(soil: Soil) -> Plants:
    """The share of the step that contributes least, by a tenth, or twice."""
    for name in soil.learned():
        sizes = np.abs(soil.right.steps[name]).reshape(soil.problem.steps, -1).max(axis=1)
        least = int(np.argmin(sizes))
        yield (
            f"{name}, a tenth of step {least + 1}, which contributes least",
            share_changed(soil, name, least, 1.1),
        )
        yield f"{name}, step {least + 1} twice", share_changed(soil, name, least, 2.0)


def initial_state_forgotten(soil: Soil) -> Plants:
    """∂L/∂h_0, or ∂L/∂c_0, is left out."""
    for name in soil.problem.state_sizes:
        yield f"{name}_0 missing", one_changed(soil, f"{name}_0", lambda d: None)

        def zero(name: str = f"{name}_0") -> Answer:
            first = 0 if soil.problem.first_step(name) == 0 else -1
            steps = soil.right.steps[name].copy()
            steps[first] = 0
            gradients = {**soil.right.gradients, name: 0 * soil.right.gradients[name]}
            return replace(soil.right, gradients=gradients, steps={**soil.right.steps, name: steps})

        yield f"{name}_0 zero", zero


def turned(value: Array) -> Array:
    """Stacked square blocks, each transposed; any other matrix as a whole."""
    blocks = transposed_blocks(value)
    return value.T if blocks is None else blocks


def weight_transposed(soil: Soil) -> Plants:
    """DWᵀ where dW belongs."""
    for name in (*soil.learned(), *(n for n in ("W_hy",) if n in soil.right.gradients)):
        if soil.right.gradients[name].ndim == 2:
            yield name, one_changed(soil, name, turned)
