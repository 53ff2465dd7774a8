"""The one time loop: forward keeps a tape, backward walks it.

With s_t the state (all of it: h, or h and c) and s_t = step(s_{t−1}, x_t; W), let

    e_t = ∂L_t/∂s_t      the loss's own derivative at step t ("cotangent"), given to us     (1)
    d_t = ∂L/∂s_t        the total derivative
    J_t = ∂s_t/∂s_{t−1}

Then, since s_t reaches L through its own loss and through s_{t+1} only,

    d_T = e_T,    d_t = e_t + J_{t+1}ᵀ d_{t+1}                         (2)   one term per step: O(T)
    ∂L/∂W = Σ_t (∂⁺s_t/∂W)ᵀ d_t                                        (3)   ∂⁺: s_{t−1} held fixed
    ∂L/∂s_0 = J_1ᵀ d_1                                                 (4)

Unrolling (2) inside (3) gives the textbook's double sum (Pascanu, Mikolov and Bengio 2013, eqs.
3–5)

    ∂L/∂W = Σ_t Σ_{k≤t} (∂⁺s_k/∂W)ᵀ (∂s_t/∂s_k)ᵀ e_t                   (5)   O(T²), kept as `double_sum`

whose terms say how far back a loss reaches, and whose inner sum cut at k ≥ t − K is windowed
truncation (manual.through_time.truncation).

Sequences of unequal length stand in one batch with a mask, true where a row has a step. A row
without one keeps its state,

    s_t = step(s_{t−1}, x_t; W) where the mask is true, s_{t−1} elsewhere     (6)

so that s_T is each row's own last state; and its derivative passes the step by,

    d_{t−1} = e_{t−1} + J_tᵀ d_t where the mask is true, e_{t−1} + d_t elsewhere    (7)

with nothing for W and x. What stands in x where there is no step is never read: it is taken as
zero.

With a `chunk` of k steps the state is carried across a chunk's border and the gradient is not:

    J_tᵀ d_t in (2) is left out where t − 1 is a positive multiple of k     (8)

(truncation by chunks: Williams and Peng 1990, with h′ = h = k).

`forward` and `backward` are this loop. `run` and `gradients` give the same states and whole
gradients, from the sequence form of a cell where it has one and nothing is masked or cut.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np

from ..arrays import Array, Arrays, Named
from ..cell import Cell, HoistedCell, SequenceCell, has_sequence_form

SEQUENCE_DTYPES = {np.dtype(np.float64), np.dtype(np.float32)}  # in float16 e⁻ᵃ soon overflows


@dataclass(frozen=True)
class Tape:
    """What forward leaves for backward.

    That is x, the trajectory s_0..s_T, each part (T+1, B, ·), a cache per step, the mask (T, B).
    """

    x: Array
    states: Arrays
    caches: Sequence[Any]
    mask: Array | None = None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.caches)


@dataclass(frozen=True)
class SequenceCaches(Sequence[Any]):
    """What a sequence form leaves for its backward.

    The caches of the steps are computed when one is asked for.
    """

    cell: SequenceCell
    params: Named
    initial_state: Named
    x: Array
    tape: Arrays

    @cached_property
    def _of_steps(self) -> Sequence[Any]:
        return forward(self.cell, self.params, self.initial_state, self.x).caches

    def __len__(self) -> int:
        return len(self.x)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._of_steps[index]


@dataclass(frozen=True)
class SequenceGradients:
    """Gradients of one sequence.

    params       name → its shape; where the shares of the steps are kept apart, (T, its shape)
    x            like x, or None for tokens
    d_state      name → (T+1, B, ·): ∂L/∂s_t for t = 0..T; index 0 is the initial state's gradient,
                 and from a sequence form all
    delta        (T, B, ·) = ∂L/∂z_t, where the cell tells it
    """

    params: Arrays
    x: Array | None
    d_state: Arrays
    delta: Array | None


def forward(
    cell: Cell,
    params: Named,
    initial_state: Named,
    x: Array,
    mask: Array | None = None,
) -> Tape:
    """Run the cell over x (T, B, I), or tokens (T, B), from initial_state; each part (B, ·).

    mask (T, B) is true where a row has a step, by (6); everywhere, if it is None. Raises ValueError
    for T = 0.
    """
    if len(x) == 0:
        raise ValueError("a sequence has at least one step")
    if mask is not None:
        x = np.where(_as_rows(mask, x), x, np.zeros_like(x))
    state: Any = dict(initial_state)
    states: dict[str, list[Array]] = {name: [value] for name, value in state.items()}
    caches: list[Any] = []
    advance = _hoisted_steps(cell, params, x) if isinstance(cell, HoistedCell) else _plain_steps(cell, params, x)
    for t in range(len(x)):
        new, cache = advance(t, state)
        state = new if mask is None else _select(mask[t], new, state)  # (6)
        caches.append(cache)
        for name, trajectory in states.items():
            trajectory.append(state[name])
    return Tape(x, {name: np.stack(trajectory) for name, trajectory in states.items()}, caches, mask)


def run(
    cell: Cell,
    params: Named,
    initial_state: Named,
    x: Array,
    mask: Array | None = None,
) -> Tape:
    """The same from the cell's sequence form, where it can; else `forward`.

    It can if the cell has one, no row ends early, and all is float64 or all float32.
    """
    if mask is not None or len(x) == 0 or not has_sequence_form(cell) or not _of_one_dtype(cell, params, initial_state, x):
        return forward(cell, params, initial_state, x, mask)
    states, tape = cell.sequence(params, initial_state, x)
    return Tape(x, states, SequenceCaches(cell, params, initial_state, x, tape))


def _of_one_dtype(cell: Cell, params: Named, initial_state: Named, x: Array) -> bool:
    own = [params[name] for name in cell.parameter_shapes(1, 1)]
    dtypes = {
        value.dtype
        for value in (
            *own,
            *initial_state.values(),
            *([] if np.isdtype(x.dtype, "integral") else [x]),
        )
    }
    return len(dtypes) == 1 and dtypes <= SEQUENCE_DTYPES


def _as_rows(mask: Array, like: Array) -> Array:
    """The mask with axes of length one for all that `like` has behind it."""
    return mask.reshape(*mask.shape, *(1,) * (like.ndim - mask.ndim))


def _select(mask: Array, there: Named, elsewhere: Named) -> Arrays:
    """`there` for the rows (B,) where the mask is true.

    Leading axes before the rows are carried along.
    """
    rows = mask.astype(bool)[:, None]
    return {name: np.where(rows, value, elsewhere[name]) for name, value in there.items()}


def _plain_steps(cell: Cell, params: Named, x: Array) -> Callable[[int, Any], tuple[Any, Any]]:
    return lambda t, state: cell.step(np, params, state, x[t])


def _hoisted_steps(cell: HoistedCell, params: Named, x: Array) -> Callable[[int, Any], tuple[Any, Any]]:
    projected = cell.project(np, params, x)
    return lambda t, state: cell.recur(np, params, state, projected[t], x[t])


def within(tape: Tape, t: int, total: Arrays) -> Arrays:
    """The part of ∂L/∂s_{t+1} that acts through step t+1: zero for the rows that have none."""
    if tape.mask is None:
        return total
    return _select(tape.mask[t], total, {name: np.zeros_like(value) for name, value in total.items()})


def past(tape: Tape, t: int, pulled_back: Arrays, total: Arrays) -> Arrays:
    """∂L/∂s_t by (7), of what came back through step t+1, and of what passes it by."""
    return pulled_back if tape.mask is None else _select(tape.mask[t], pulled_back, total)  # (7)


def backward(cell: Cell, params: Named, tape: Tape, cotangents: Named, chunk: int | None = None) -> SequenceGradients:
    """Gradients by (2)–(4), from cotangents e_1..e_T: name → (T, B, ·); by (8) with a chunk."""
    if not isinstance(cell, HoistedCell):
        return added_up(shares(cell, params, tape, cotangents, chunk))
    deltas, d_state = walk_deltas(cell, params, tape, cotangents, chunk)
    d_params, d_x = cell.accumulate(  # (3), one matrix product over all steps
        params, stack_caches(tape.caches), deltas
    )
    return SequenceGradients(d_params, d_x, d_state, deltas)


def gradients(
    cell: Cell,
    params: Named,
    tape: Tape,
    cotangents: Named,
    chunk: int | None = None,
    carry: Arrays | None = None,
) -> SequenceGradients:
    """The same, from the sequence form that left the tape, if one did and nothing is cut.

    Of d_state then d_0 alone is told.

    carry is J_{T+1}ᵀ d_{T+1}, (B, ·) by name, where steps follow that are not on the tape
    (manual.through_time.checkpointing).
    """
    caches, dtypes = (
        tape.caches,
        {value.dtype for value in (*tape.states.values(), *cotangents.values())},
    )
    cut = chunk is not None and chunk < tape.steps
    if not isinstance(caches, SequenceCaches) or caches.cell is not cell or tape.mask is not None or cut or len(dtypes) > 1:
        return backward(cell, params, tape, _followed(cotangents, carry), chunk)
    d_params, d_x, d_initial = caches.cell.sequence_backward(params, tape.x, caches.tape, cotangents, carry)
    return SequenceGradients(d_params, d_x, {name: value[None] for name, value in d_initial.items()}, None)


def _followed(cotangents: Named, carry: Arrays | None) -> Named:
    """The cotangents, e_T with what comes back from later steps: d_T, by (2)."""
    if carry is None:
        return cotangents
    return {  # (2)
        name: np.concatenate([e[:-1], e[-1:] + carry[name]]) for name, e in cotangents.items()
    }


def walk_deltas(
    cell: HoistedCell,
    params: Named,
    tape: Tape,
    cotangents: Named,
    chunk: int | None = None,
) -> tuple[Array, Arrays]:
    """(δ (T, B, ·), d_state) of a hoisted cell: (2) and (4), no weight gradient formed."""
    deltas: list[Array] = []

    def pull_back(t: int, total: Arrays) -> Arrays:
        delta, d_state_prev = cell.delta(params, tape.caches[t], total)
        deltas.append(delta)
        return d_state_prev

    d_state = _walk(tape, cotangents, pull_back, chunk)
    return np.stack(deltas[::-1]), d_state


def shares(cell: Cell, params: Named, tape: Tape, cotangents: Named, chunk: int | None = None) -> SequenceGradients:
    """The same with every term of (3) by itself, from the plain step_backward.

    The params found are (T, their shape).
    """
    terms: list[tuple[Arrays, Array | None]] = []

    def pull_back(t: int, total: Arrays) -> Arrays:
        d_params, d_x, d_state_prev = cell.step_backward(params, tape.caches[t], total)
        terms.append((d_params, d_x))
        return d_state_prev

    d_state = _walk(tape, cotangents, pull_back, chunk)
    return _stacked(terms[::-1], d_state)


def shares_of_totals(cell: Cell, params: Named, tape: Tape, d_state: Arrays) -> SequenceGradients:
    """The terms of (3) for total derivatives d_0..d_T that are given: name → (T+1, B, ·)."""
    totals = [{name: value[t + 1] for name, value in d_state.items()} for t in range(tape.steps)]
    pulled = [cell.step_backward(params, tape.caches[t], within(tape, t, total)) for t, total in enumerate(totals)]
    return _stacked([(d_params, d_x) for d_params, d_x, _ in pulled], d_state)


def _stacked(terms: list[tuple[Arrays, Array | None]], d_state: Arrays) -> SequenceGradients:
    params = {name: np.stack([d_params[name] for d_params, _ in terms]) for name in terms[0][0]}
    d_x = [d for _, d in terms if d is not None]
    return SequenceGradients(params, np.stack(d_x) if len(d_x) == len(terms) else None, d_state, None)


def added_up(found: SequenceGradients) -> SequenceGradients:
    """The gradients of which these are the shares."""
    return replace(  # (3)
        found, params={name: np.sum(value, axis=0) for name, value in found.params.items()}
    )


def _walk(tape: Tape, cotangents: Named, pull_back: Any, chunk: int | None) -> Arrays:
    """The loop of (2), from T back to 1: d_state for t = 0..T."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk of {chunk} steps: at least 1")
    carry: Arrays = {name: np.zeros_like(trajectory[0]) for name, trajectory in tape.states.items()}
    totals: list[Arrays] = []
    for t in reversed(range(tape.steps)):
        total = {name: cotangents[name][t] + carry[name] for name in carry}  # (2)
        totals.append(total)
        carry = past(tape, t, pull_back(t, within(tape, t, total)), total)
        if chunk is not None and t and t % chunk == 0:
            carry = {name: np.zeros_like(value) for name, value in carry.items()}  # (8)
    totals.append(carry)  # (4)
    return {name: np.stack([total[name] for total in reversed(totals)]) for name in tape.states}


def stack_caches(caches: Sequence[Arrays]) -> Arrays:
    """One cache of (T, B, ·) arrays from T caches of (B, ·) arrays."""
    return {name: np.stack([cache[name] for cache in caches]) for name in caches[0]}


def double_sum_terms(
    cell: Cell, params: Named, tape: Tape, cotangents: Named, window: int | None = None
) -> Iterator[tuple[int, int, Arrays]]:
    """The terms of (5) one by one.

    (t, k, {name: (∂⁺s_k/∂W)ᵀ (∂s_t/∂s_k)ᵀ e_t}), steps counted from 1.

    With window = K the loss at t goes back to k = max(1, t − K): K + 1 steps are visited, K of them
    earlier ones. Raises ValueError for a negative window.
    """
    if window is not None and window < 0:
        raise ValueError(f"a window of {window} steps: at least 0, the step of the loss itself")
    for t in range(tape.steps, 0, -1):
        d_state = {name: cotangents[name][t - 1] for name in tape.states}
        first = 1 if window is None else max(1, t - window)
        for k in range(t, first - 1, -1):
            d_params, _, pulled_back = cell.step_backward(params, tape.caches[k - 1], within(tape, k - 1, d_state))
            d_state = past(tape, k - 1, pulled_back, d_state)
            yield t, k, d_params


def double_sum(cell: Cell, params: Named, tape: Tape, cotangents: Named, window: int | None = None) -> Arrays:
    """∂L/∂W by (5), term by term: O(T²), the textbook's way.

    Equal to `backward` when nothing is cut.
    """
    total: Arrays = {}
    for _, _, term in double_sum_terms(cell, params, tape, cotangents, window):
        for name, value in term.items():
            total[name] = total[name] + value if name in total else value
    return total
