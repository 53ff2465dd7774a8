"""Mistakes within one step: a method of the cell is put in another's place."""

import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, cast

import numpy as np

from ..problems.answer import Answer
from ..problems.arrays import Array
from .subject import NEW, Answers, Arrays, Change, Mutations, Subject
from .syntax import must_have


def altered(thing: Any, **methods: Any) -> Any:
    """A cell, or another object, like this one with these methods in place of its own.

    Raises NothingToMutate for a method that it does not have.
    """
    kind = cast(Any, type(thing))
    must_have(dir(kind), methods, kind.__qualname__)
    made = object.__new__(type(kind.__name__, (kind,), methods))
    made.__dict__.update(thing.__dict__)
    return made


def with_delta(cell: Any, change: Callable[..., tuple[Array, Arrays]]) -> Any:
    """The cell with `change(delta, params, cache, d_state)` in place of its delta."""

    def delta(self: Any, params: Any, cache: Any, d_state: Any) -> tuple[Array, Arrays]:
        del self
        return change(cell.delta, params, cache, d_state)

    return altered(cell, delta=delta)


def with_accumulate(cell: Any, change: Callable[..., Any]) -> Any:
    """The cell with `change(accumulate, params, cache, delta)` in place of its accumulate."""

    def accumulate(self: Any, params: Any, cache: Any, delta: Any) -> Any:
        del self
        return change(cell.accumulate, params, cache, delta)

    return altered(cell, accumulate=accumulate)


def carry(subject: Subject, change: Callable[[str, Array], Array]) -> Answers:
    """What a step hands back to the one before is changed: change(part of the state, its
    derivative).
    """

    def delta(inner: Any, params: Any, cache: Any, d_state: Any) -> tuple[Array, Arrays]:
        found, before = inner(params, cache, d_state)
        return found, {name: change(name, value) for name, value in before.items()}

    return subject.with_cell(with_delta(subject.cell, delta))


def each_carry(change: Callable[[Array], Array]) -> Callable[[Subject], Mutations]:
    """The carry of each part of the state, changed."""

    def mutate(subject: Subject) -> Mutations:
        for part in subject.states:
            yield (
                f"carry of {part}",
                carry(
                    subject, lambda name, value, part=part: change(value) if name == part else value
                ),
            )

    return mutate


def in_accumulate(
    subject: Subject,
    params: Change | None = None,
    cache: Change | None = None,
    delta: Change | None = None,
) -> Answers:
    """The weight gradients are formed from something else: each a change of what accumulate is
    given.
    """

    def change(inner: Any, p: Any, c: Any, d: Any) -> Any:
        return inner(params(p) if params else p, cache(c) if cache else c, delta(d) if delta else d)

    return subject.with_cell(with_accumulate(subject.cell, change))


def in_delta(
    subject: Subject, params: Change | None = None, cache: Change | None = None
) -> Answers:
    """δ and the carry are formed from something else: each a change of what delta is given."""

    def change(inner: Any, p: Any, c: Any, d: Any) -> Any:
        return inner(params(p) if params else p, cache(c) if cache else c, d)

    return subject.with_cell(with_delta(subject.cell, change))


def blocks_swapped(array: Array, size: int, one: int, other: int, axis: int) -> Array:
    """Two blocks of `size` along an axis, each in the other's place."""
    order = np.array(range(array.shape[axis]), dtype=np.intp)
    first, second = slice(one * size, (one + 1) * size), slice(other * size, (other + 1) * size)
    order[first], order[second] = order[second].copy(), order[first].copy()
    return np.take(array, order, axis=axis)


def block_zeroed(array: Array, size: int, at: int, axis: int) -> Array:
    """One block of `size` along an axis, zero."""
    changed = np.moveaxis(array.copy(), axis, 0)
    changed[at * size : (at + 1) * size] = 0
    return np.moveaxis(changed, 0, axis)


def transposed_blocks(weight: Array) -> Array | None:
    """A matrix of stacked square blocks with every block transposed; None for any other."""
    if weight.ndim != 2 or weight.shape[0] % weight.shape[1]:
        return None
    blocks = weight.reshape(-1, weight.shape[1], weight.shape[1])
    return np.swapaxes(blocks, 1, 2).reshape(weight.shape)


def gates_permuted(subject: Subject) -> Mutations:
    """The gates stand in another order on the way back."""
    for one, other in combinations(range(subject.gates), 2):
        which = f"gates {one + 1} and {other + 1}"
        swap = partial(blocks_swapped, size=subject.hidden, one=one, other=other)
        yield (
            f"{which}, in the weight gradients",
            in_accumulate(subject, delta=partial(swap, axis=-1)),
        )
        if "W_hh" in subject.own_names:
            yield (
                f"{which}, in the carry",
                in_delta(subject, params=lambda p, s=swap: {**p, "W_hh": s(p["W_hh"], axis=0)}),
            )


def gate_missing(subject: Subject) -> Mutations:
    """One gate's term is left out."""
    for at in range(subject.gates if subject.gates > 1 else 0):
        zero = partial(block_zeroed, size=subject.hidden, at=at)
        yield (
            f"gate {at + 1}, in the weight gradients",
            in_accumulate(subject, delta=partial(zero, axis=-1)),
        )
        if "W_hh" in subject.own_names:
            yield (
                f"gate {at + 1}, in the carry",
                in_delta(subject, params=lambda p, z=zero: {**p, "W_hh": z(p["W_hh"], axis=0)}),
            )


def transposed(subject: Subject) -> Mutations:
    """W where Wᵀ belongs."""
    sample = {
        name: subject.problem.variables[name + subject.problem.suffixes[0]]
        for name in subject.own_names
    }
    for name, value in sample.items():
        turned = transposed_blocks(value)
        if turned is not None and not np.array_equal(turned, value):

            def change(params: Any, name: str = name) -> Any:
                return {**params, name: transposed_blocks(params[name])}

            yield f"{name}, in δ and the carry", in_delta(subject, params=change)
            yield f"{name}, in dx", in_accumulate(subject, params=change)


def through_another_weight(subject: Subject) -> Mutations:
    """Dx, or the carry, through the wrong weight."""

    def rolled(params: Any) -> Any:
        return {
            **params,
            "W_xh": np.roll(params["W_xh"], subject.hidden if subject.gates > 1 else 1, axis=0),
        }

    yield "dx through W_xh of another gate, or unit", in_accumulate(subject, params=rolled)
    if "W_hh" in subject.own_names:
        shapes = subject.cell.parameter_shapes(subject.problem.input_size, subject.hidden)
        if shapes["W_hh"] == shapes["W_xh"]:
            yield (
                "dx through W_hh",
                in_accumulate(subject, params=lambda p: {**p, "W_xh": p["W_hh"]}),
            )
            yield "carry through W_xh", in_delta(subject, params=lambda p: {**p, "W_hh": p["W_xh"]})


# Parts of a state of which no step keeps what they were: sLSTM's stabiliser has no derivative.
NEVER_READ_BACK = ("m",)

# What else of the state before a step a cell keeps: the GRU, what W_hn has seen of it.
SEEN: dict[str, tuple[str, ...]] = {"gru": ("seen",)}


def another_time(subject: Subject) -> Mutations:
    """h_t where h_{t−1} belongs: the cache is given the new state under the names of the old."""
    cell = subject.cell
    kept = [f"{name}_prev" for name in subject.states if name not in NEVER_READ_BACK]
    declared = [*kept, *SEEN.get(subject.problem.cell, ())]
    must_have(subject.cached, declared, f"the cache of {type(cell).__qualname__}")

    def recur(self: Any, xp: Any, params: Any, state: Any, projected: Any, x: Any) -> Any:
        del self
        after, cache = cell.recur(xp, params, state, projected, x)
        return after, {**cache, **{NEW + name: value for name, value in after.items()}}

    for name in subject.states:
        for method in ("accumulate", "delta"):
            late = partial(_taken_late, cell, method, name)
            methods: dict[str, Callable[..., Any]] = {"recur": recur, method: _without_self(late)}
            yield (
                f"{name}_t for {name}_{{t−1}} in {method}",
                subject.with_cell(altered(cell, **methods)),
            )


def _without_self(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a method that does not look at its object."""
    return lambda *arguments: function(*arguments[1:])


def _taken_late(cell: Any, method: str, name: str, params: Any, cache: Any, d: Any) -> Any:
    """A half of the step, given the part of the state after it where it expects the part before."""
    late = dict.fromkeys(
        (f"{name}_prev", *(("seen",) if "seen" in cache else ())), cache[NEW + name]
    )
    return getattr(cell, method)(params, {**cache, **late}, d)


def some_rows_only(subject: Subject) -> Mutations:
    """The weight gradients are those of the last, or first, sample only."""

    def only(keep: int) -> Answers:
        def change(inner: Any, params: Any, cache: Any, delta: Any) -> Any:
            kept = np.zeros_like(delta)
            kept[..., keep, :] = delta[..., keep, :]
            return inner(params, cache, kept)[0], inner(params, cache, delta)[1]

        return subject.with_cell(with_accumulate(subject.cell, change))

    yield "the last sample of the batch", only(-1)
    yield "the first sample of the batch", only(0)


def row_for_all(subject: Subject) -> Mutations:
    """X, or the state, of row 0 is used for every row."""
    states = [f"{state}_prev" for state in ("h", "c") if state in subject.states]
    must_have(subject.cached, ["x", *states], f"the cache of {type(subject.cell).__qualname__}")
    for name in ("x", "h_prev", "c_prev"):

        def of_row_0(cache: Any, name: str = name) -> Any:
            if name not in cache:
                return cache
            value = cache[name]
            axis = value.ndim - (1 if value.dtype.kind in "iu" else 2)
            first = np.take(value, [0], axis=axis)
            return {**cache, name: np.broadcast_to(first, value.shape)}

        yield f"{name} of row 0 for every row", in_accumulate(subject, cache=of_row_0)


def bias_summed_wrongly(subject: Subject) -> Mutations:
    """The bias is summed over the units, averaged, or taken from one gate."""
    for name in (name for name in subject.own_names if name.startswith("b")):

        def change(
            inner: Any, params: Any, cache: Any, delta: Any, name: str = name, how: str = ""
        ) -> Any:
            found, d_x = inner(params, cache, delta)
            size = len(found[name])
            rows = delta.reshape(-1, delta.shape[-1])[:, :size]
            wrong = {
                "units": lambda: rows.sum(axis=-1),
                "everything": lambda: np.full(size, rows.sum()),
                "mean": lambda: rows.mean(axis=0),
                "first gate": lambda: np.resize(found[name][: subject.hidden], size),
            }[how]
            return {**found, name: wrong()}, d_x

        for how in ("units", "everything", "mean", "first gate"):
            if how != "first gate" or subject.gates > 1:
                what = {"units": "summed over the units", "mean": "averaged over the rows"}.get(
                    how, f"from {how}"
                )
                yield (
                    f"{name}, {what}",
                    subject.with_cell(
                        with_accumulate(subject.cell, partial(change, name=name, how=how))
                    ),
                )


def overwritten(subject: Subject) -> Mutations:
    """dW[:, tokens] += δ keeps one of several terms."""
    if subject.problem.x.dtype.kind not in "iu":
        return

    def linear_backward(W: Array, x: Array, delta: Array) -> tuple[Array, Array | None]:
        d_W = np.zeros_like(W)
        d_W.T[x.reshape(-1)] += delta.reshape(-1, delta.shape[-1])
        return d_W, None

    yield (
        "dW_xh[:, tokens] += δ",
        subject.with_cell(
            with_globals(subject.cell, "accumulate", linear_backward=linear_backward)
        ),
    )


def with_globals(cell: Any, method: str, **names: Any) -> Any:
    """The cell with a method that finds these under global names, in place of what its module has
    there.
    """
    function = getattr(cast(Any, type(cell)), method)
    must_have(function.__globals__, names, function.__module__)
    changed = types.FunctionType(function.__code__, {**function.__globals__, **names})
    return altered(cell, **{method: changed})


# Impurity: what is right once and wrong the second time.


def changes_in_place(subject: Subject) -> Mutations:
    """The code writes into what it was given."""

    def delta(inner: Any, params: Any, cache: Any, d_state: Any) -> Any:
        found = inner(params, cache, d_state)
        for value in cache.values():
            if value.dtype.kind == "f" and value.flags.writeable:
                value *= 0.5
        return found

    yield "the tape, halved after use", subject.with_cell(with_delta(subject.cell, delta))

    def totals(inner: Any, params: Any, cache: Any, d_state: Any) -> Any:
        found = inner(params, cache, d_state)
        for value in d_state.values():
            value *= 0.5
        return found

    yield "∂L/∂s_t, halved after use", subject.with_cell(with_delta(subject.cell, totals))

    def weights(inner: Any, params: Any, cache: Any, d_state: Any) -> Any:
        for value in params.values():
            value *= 1.001
        return inner(params, cache, d_state)

    yield "the weights", subject.with_cell(with_delta(subject.cell, weights))


def keeps_between_calls(subject: Subject) -> Mutations:
    """A second call adds to the first."""
    kept: Arrays = {}

    def answer() -> Answer:
        found = subject.candidate.answer(subject.problem)
        for name, value in found.gradients.items():
            kept[name] = kept.get(name, 0) + value
        return replace(found, gradients=dict(kept))

    yield "gradients added to those of the call before", answer
