"""Mistakes in finished gradients: one array of the answer is changed, and the shares of its steps
likewise.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..problems.answer import Answer
from ..problems.arrays import Array
from .mutate_cell import carry, transposed_blocks
from .subject import Answers, Arrays, Mutations, Subject


def one_changed(subject: Subject, name: str, change: Callable[[Array], Any]) -> Answers:
    """The right answer with one gradient and every share in it changed; a change that gives None
    takes it away.
    """

    def answer() -> Answer:
        found: list[Arrays] = []
        for arrays, by_step in ((subject.right.gradients, False), (subject.right.steps, True)):
            changed = dict(arrays)
            if name in changed:
                value = changed.pop(name)
                told_apart = by_step and name in subject.learned()
                new = (
                    np.stack([change(part.copy()) for part in value])
                    if told_apart
                    else change(value.copy())
                )
                changed |= {} if new is None else {name: new}
            found.append(changed)
        return replace(subject.right, gradients=found[0], steps=found[1])

    return answer


def each_gradient(
    change: Callable[[Array], Any], least: int = 1, ndim: int = 0
) -> Callable[[Subject], Mutations]:
    """Each gradient in turn, changed; only those of so many entries and axes at least."""

    def mutate(subject: Subject) -> Mutations:
        for name, value in subject.right.gradients.items():
            if value.size >= least and value.ndim >= ndim:
                yield name, one_changed(subject, name, change)

    return mutate


def whole_only(subject: Subject, name: str, change: Callable[[Array], Any]) -> Answers:
    """The right answer with one whole gradient changed, and its steps untold."""

    def answer() -> Answer:
        steps = {other: value for other, value in subject.right.steps.items() if other != name}
        return replace(
            subject.right,
            gradients={
                **subject.right.gradients,
                name: change(subject.right.gradients[name].copy()),
            },
            steps=steps,
        )

    return answer


def one_entry(value: Array) -> Array:
    """A millionth of the largest entry added to one entry."""
    at = value.size // 2
    value.reshape(-1)[at] += 1e-6 * float(np.max(np.abs(value)))
    return value


def entry_off(subject: Subject) -> Mutations:
    """One entry by a millionth of the largest."""
    for name, value in subject.right.gradients.items():
        if value.size:
            yield name, whole_only(subject, name, one_entry)


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


def entries_swapped(subject: Subject) -> Mutations:
    """Two entries in each other's place."""
    for name, value in subject.right.gradients.items():
        if value.size > 1:
            yield f"{name}, smallest and largest", whole_only(subject, name, largest_swapped)
            yield f"{name}, the first two", whole_only(subject, name, _neighbours_swapped)


def clipped(subject: Subject) -> Mutations:
    """Gradients, or the carry, clipped by value or norm."""

    def by_norm(subject: Subject = subject) -> Answer:
        norm = float(np.sqrt(sum(np.sum(value**2) for value in subject.right.gradients.values())))
        return scaled_answer(subject, min(1.0, 0.5 * norm / norm))

    yield "all by their global norm", by_norm
    for name, value in subject.right.gradients.items():
        if value.size:
            bound = 0.5 * float(np.max(np.abs(value)))
            yield (
                f"{name} by value",
                whole_only(subject, name, lambda d, b=bound: np.clip(d, -b, b)),
            )
            yield (
                f"{name} from above only",
                whole_only(subject, name, lambda d, b=bound: np.minimum(d, b)),
            )
    yield "the carry by value", carry(subject, lambda name, value: np.clip(value, -0.1, 0.1))


def scaled_answer(subject: Subject, factor: float) -> Answer:
    """The right answer, times a factor."""
    both = [
        {name: factor * value for name, value in arrays.items()}
        for arrays in (subject.right.gradients, subject.right.steps)
    ]
    return replace(subject.right, gradients=both[0], steps=both[1])


def share_changed(subject: Subject, name: str, t: int, factor: float) -> Answers:
    """One step's share of one weight gradient times a factor, in the share and in the whole."""

    def answer() -> Answer:
        share = subject.right.steps[name]
        steps = share.copy()
        steps[t] = factor * share[t]
        whole = subject.right.gradients[name] + (factor - 1) * share[t]
        return replace(
            subject.right,
            gradients={**subject.right.gradients, name: whole},
            steps={**subject.right.steps, name: steps},
        )

    return answer


def step_left_out(at: int) -> Callable[[Subject], Mutations]:
    """The sum over steps begins at the second step (at = 0), or ends before the last (at = −1)."""

    def mutate(subject: Subject) -> Mutations:
        for name in subject.learned():
            yield name, share_changed(subject, name, at, 0.0)

    return mutate


def step_off(subject: Subject) -> Mutations:
    """The share of the step that contributes least, by a tenth, or twice."""
    for name in subject.learned():
        sizes = np.abs(subject.right.steps[name]).reshape(subject.problem.steps, -1).max(axis=1)
        least = int(np.argmin(sizes))
        yield (
            f"{name}, a tenth of step {least + 1}, which contributes least",
            share_changed(subject, name, least, 1.1),
        )
        yield f"{name}, step {least + 1} twice", share_changed(subject, name, least, 2.0)


def initial_state_forgotten(subject: Subject) -> Mutations:
    """∂L/∂h_0, or ∂L/∂c_0, is left out."""
    for name in subject.problem.state_sizes:
        yield f"{name}_0 missing", one_changed(subject, f"{name}_0", lambda d: None)

        def zero(name: str = f"{name}_0") -> Answer:
            first = 0 if subject.problem.first_step(name) == 0 else -1
            steps = subject.right.steps[name].copy()
            steps[first] = 0
            gradients = {**subject.right.gradients, name: 0 * subject.right.gradients[name]}
            return replace(
                subject.right, gradients=gradients, steps={**subject.right.steps, name: steps}
            )

        yield f"{name}_0 zero", zero


def turned(value: Array) -> Array:
    """Stacked square blocks, each transposed; any other matrix as a whole."""
    blocks = transposed_blocks(value)
    return value.T if blocks is None else blocks


def weight_transposed(subject: Subject) -> Mutations:
    """DWᵀ where dW belongs."""
    for name in (*subject.learned(), *(n for n in ("W_hy",) if n in subject.right.gradients)):
        if subject.right.gradients[name].ndim == 2:
            yield name, one_changed(subject, name, turned)
