"""The one time loop: forward keeps a tape, backward walks it.

With s_t the state (all of it: h, or h and c) and s_t = step(s_{t−1}, x_t; W), let

    e_t = ∂L_t/∂s_t      the loss's own derivative at step t ("cotangent"), given by whoever owns the loss     (1)
    d_t = ∂L/∂s_t        the total derivative
    J_t = ∂s_t/∂s_{t−1}

Then, since s_t reaches L through its own loss and through s_{t+1} only,

    d_T = e_T,    d_t = e_t + J_{t+1}ᵀ d_{t+1}                         (2)   one term per step: O(T)
    ∂L/∂W = Σ_t (∂⁺s_t/∂W)ᵀ d_t                                        (3)   ∂⁺: s_{t−1} held fixed
    ∂L/∂s_0 = J_1ᵀ d_1                                                 (4)

Unrolling (2) inside (3) gives the textbook's double sum (Pascanu, Mikolov and Bengio 2013, eqs. 3–5)

    ∂L/∂W = Σ_t Σ_{k≤t} (∂⁺s_k/∂W)ᵀ (∂s_t/∂s_k)ᵀ e_t                   (5)   O(T²), kept as `double_sum`

whose terms say how far back a loss reaches, and whose inner sum cut at k ≥ t − K is windowed truncation.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]
StepGradients: TypeAlias = tuple[Arrays, Array | None, Arrays]


class Cell(Protocol):
    """What a cell must offer; no base class is needed."""

    def parameter_shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter."""
        ...

    def state_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of each part of the state, without the batch axis; its order is the order of s_t."""
        ...

    def step(self, xp: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache)."""
        ...

    def step_backward(self, params: Any, cache: Any, d_state: Any) -> StepGradients:
        """(d_params, d_x, d_state_prev)."""
        ...


@runtime_checkable
class HoistedCell(Protocol):
    """A cell that splits its step, so that all that does not recur is done for every step at once."""

    def project(self, xp: Any, params: Any, x: Any) -> Any:
        """What x contributes to the net input, for (B, ·) or (T, B, ·)."""
        ...

    def recur(self, xp: Any, params: Any, state: Any, projected: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache), given this step's share of `project`."""
        ...

    def delta(self, params: Any, cache: Any, d_state: Any) -> tuple[Array, Arrays]:
        """(∂L/∂(net input), d_state_prev)."""
        ...

    def accumulate(self, params: Any, cache: Any, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, d_x) over every leading axis of delta."""
        ...


@dataclass(frozen=True)
class Tape:
    """What forward leaves for backward: x, the trajectory s_0..s_T, each part (T+1, B, ·), and a cache per step."""

    x: Array
    states: Arrays
    caches: list[Any]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.caches)


@dataclass(frozen=True)
class SequenceGradients:
    """Gradients of one sequence.

    params       name → its shape
    x            like x, or None for tokens
    d_state      name → (T+1, B, ·): ∂L/∂s_t for t = 0..T; index 0 is the initial state's gradient
    delta        (T, B, ·) = ∂L/∂z_t, where the cell tells it
    """

    params: Arrays
    x: Array | None
    d_state: Arrays
    delta: Array | None


def forward(cell: Cell, params: Mapping[str, Array], initial_state: Mapping[str, Array], x: Array) -> Tape:
    """Run the cell over x (T, B, I), or tokens (T, B), from initial_state; each part (B, ·). Raises ValueError for T = 0."""
    if len(x) == 0:
        raise ValueError("a sequence has at least one step")
    state: Any = dict(initial_state)
    states: dict[str, list[Array]] = {name: [value] for name, value in state.items()}
    caches: list[Any] = []
    advance = _hoisted_steps(cell, params, x) if isinstance(cell, HoistedCell) else _plain_steps(cell, params, x)
    for t in range(len(x)):
        state, cache = advance(t, state)
        caches.append(cache)
        for name, trajectory in states.items():
            trajectory.append(state[name])
    return Tape(x, {name: np.stack(trajectory) for name, trajectory in states.items()}, caches)


def _plain_steps(cell: Cell, params: Mapping[str, Array], x: Array) -> Callable[[int, Any], tuple[Any, Any]]:
    return lambda t, state: cell.step(np, params, state, x[t])


def _hoisted_steps(cell: HoistedCell, params: Mapping[str, Array], x: Array) -> Callable[[int, Any], tuple[Any, Any]]:
    projected = cell.project(np, params, x)
    return lambda t, state: cell.recur(np, params, state, projected[t], x[t])


def backward(cell: Cell, params: Mapping[str, Array], tape: Tape, cotangents: Mapping[str, Array]) -> SequenceGradients:
    """Gradients by (2)–(4), from cotangents e_1..e_T: name → (T, B, ·)."""
    if not isinstance(cell, HoistedCell):
        return _sum_steps(tape, step_gradients(cell, params, tape, cotangents))
    deltas, d_state = walk_deltas(cell, params, tape, cotangents)
    d_params, d_x = cell.accumulate(params, stack_caches(tape.caches), deltas)  # (3), one matrix product over all steps
    return SequenceGradients(d_params, d_x, d_state, deltas)


def walk_deltas(
    cell: HoistedCell, params: Mapping[str, Array], tape: Tape, cotangents: Mapping[str, Array]
) -> tuple[Array, Arrays]:
    """(δ (T, B, ·), d_state) of a hoisted cell: (2) and (4), no weight gradient formed."""
    deltas: list[Array] = []

    def pull_back(t: int, total: Arrays) -> Arrays:
        delta, d_state_prev = cell.delta(params, tape.caches[t], total)
        deltas.append(delta)
        return d_state_prev

    d_state = _walk(tape, cotangents, pull_back)
    return np.stack(deltas[::-1]), d_state


def step_gradients(
    cell: Cell, params: Mapping[str, Array], tape: Tape, cotangents: Mapping[str, Array]
) -> tuple[list[tuple[Arrays, Array | None]], Arrays]:
    """([(d_params, d_x) of step 1, …, of step T], d_state): every term of (3) by itself, from the plain step_backward."""
    terms: list[tuple[Arrays, Array | None]] = []

    def pull_back(t: int, total: Arrays) -> Arrays:
        d_params, d_x, d_state_prev = cell.step_backward(params, tape.caches[t], total)
        terms.append((d_params, d_x))
        return d_state_prev

    d_state = _walk(tape, cotangents, pull_back)
    return terms[::-1], d_state


def _walk(tape: Tape, cotangents: Mapping[str, Array], pull_back: Any) -> Arrays:
    """The loop of (2), from T back to 1: d_state for t = 0..T."""
    carry: Arrays = {name: np.zeros_like(trajectory[0]) for name, trajectory in tape.states.items()}
    totals: list[Arrays] = []
    for t in reversed(range(tape.steps)):
        total = {name: cotangents[name][t] + carry[name] for name in carry}  # (2)
        totals.append(total)
        carry = pull_back(t, total)
    totals.append(carry)  # (4)
    return {name: np.stack([total[name] for total in reversed(totals)]) for name in tape.states}


def _sum_steps(tape: Tape, walked: tuple[list[tuple[Arrays, Array | None]], Arrays]) -> SequenceGradients:
    """(3) as a plain sum, for a cell that has the step form only."""
    terms, d_state = walked
    params = {name: np.sum([d_params[name] for d_params, _ in terms], axis=0) for name in terms[0][0]}
    d_x = [d for _, d in terms if d is not None]
    return SequenceGradients(params, np.stack(d_x) if len(d_x) == tape.steps else None, d_state, None)


def stack_caches(caches: list[Arrays]) -> Arrays:
    """One cache of (T, B, ·) arrays from T caches of (B, ·) arrays."""
    return {name: np.stack([cache[name] for cache in caches]) for name in caches[0]}


def double_sum_terms(
    cell: Cell, params: Mapping[str, Array], tape: Tape, cotangents: Mapping[str, Array], window: int | None = None
) -> Iterator[tuple[int, int, Arrays]]:
    """The terms of (5) one by one: (t, k, {name: (∂⁺s_k/∂W)ᵀ (∂s_t/∂s_k)ᵀ e_t}), steps counted from 1.

    With window = K the loss at t goes back to k = max(1, t − K): K + 1 steps are visited, K of them earlier ones. Raises
    ValueError for a negative window.
    """
    if window is not None and window < 0:
        raise ValueError(f"a window of {window} steps: at least 0, the step of the loss itself")
    for t in range(tape.steps, 0, -1):
        d_state = {name: cotangents[name][t - 1] for name in tape.states}
        first = 1 if window is None else max(1, t - window)
        for k in range(t, first - 1, -1):
            d_params, _, d_state = cell.step_backward(params, tape.caches[k - 1], d_state)
            yield t, k, d_params


def double_sum(
    cell: Cell, params: Mapping[str, Array], tape: Tape, cotangents: Mapping[str, Array], window: int | None = None
) -> Arrays:
    """∂L/∂W by (5), term by term: O(T²), the textbook's way; equal to `backward` when nothing is cut."""
    total: Arrays = {}
    for _, _, term in double_sum_terms(cell, params, tape, cotangents, window):
        for name, value in term.items():
            total[name] = total[name] + value if name in total else value
    return total
