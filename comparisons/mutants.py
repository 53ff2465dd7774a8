"""Mistakes, planted in derivations that are right: the oracle's own examination paper.

KINDS is the table: a name, the mistake in a sentence, and how to plant it. A kind is planted wherever it makes sense, in one way
or in many: in what the cell computes at a step, in the time loop, in the network, in the loss, or in the finished gradients. What
comes out is a Mutant, an answer to the same problem by a derivation with exactly one mistake in it.

The built-in cells, the time loop and the network are changed from their own source where the mistake is one of expression (see
comparisons.source_mutants); nothing of `manual/` is touched: the changed code is compiled beside it.
"""

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import combinations
from typing import Any, cast

import numpy as np

from comparisons import source_mutants as source
from comparisons.candidates import CellCandidate
from comparisons.cases import SOFTMAX
from comparisons.problem import Answer, Array, Problem
from manual import bptt, linear, network
from manual.cell import has_sequence_form
from manual.network import Head, Network, Pass

Arrays = dict[str, Array]
Answers = Callable[[], Answer]
Plants = Iterator[tuple[str, Answers]]
Change = Callable[[Any], Any]
NEW = "after "  # prefix of the state after the step, where a cache is given it


@dataclass(frozen=True)
class Soil:
    """Where a mistake is planted: the right derivation, the problem, and its right answer."""

    candidate: CellCandidate
    problem: Problem
    right: Answer

    @property
    def cell(self) -> Any:
        """The cell that is right."""
        return self.candidate.cell

    @property
    def own_names(self) -> list[str]:
        """The cell's parameters."""
        return list(self.cell.parameter_shapes(1, 1))

    @property
    def gates(self) -> int:
        """How many blocks of H rows the cell stacks in W_xh."""
        return self.cell.parameter_shapes(1, 2)["W_xh"][0] // 2

    @property
    def hidden(self) -> int:
        """H."""
        return self.problem.hidden_size

    @property
    def states(self) -> list[str]:
        """The parts of the cell's state."""
        return list(self.cell.state_shapes(1))

    def learned(self) -> list[str]:
        """The parameters whose shares of the steps are told."""
        return list(self.problem.parameter_names)

    @property
    def plain(self) -> bool:
        """One layer in one direction, all rows of the same length, nothing cut."""
        p = self.problem
        return p.layers == 1 and not p.bidirectional and p.window is None and p.chunk is None and "lengths" not in p.constants

    @cached_property
    def executed(self) -> set[tuple[str, int]]:
        """The lines of `manual/` that the right answer passes through."""
        return source.lines_of(lambda: self.candidate.answer(self.problem))

    def with_cell(self, cell: Any) -> Answers:
        """The answer of another cell."""
        return partial(CellCandidate(cell).answer, self.problem)


@dataclass(frozen=True)
class Kind:
    """A mistake: its name, what somebody did, and how to plant it."""

    name: str
    sentence: str
    plant: Callable[[Soil], Plants]


@dataclass(frozen=True)
class Mutant:
    """One planted mistake: its kind, which one it is, and its answer. `answer` is asked afresh each time."""

    kind: str
    what: str
    answer: Answers


# Cells: one method of the cell is put in another's place.


def altered(thing: Any, **methods: Any) -> Any:
    """A cell, or another object, like this one with these methods in place of its own."""
    kind = cast(Any, type(thing))
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


def carry(soil: Soil, change: Callable[[str, Array], Array]) -> Answers:
    """What a step hands back to the one before is changed: change(part of the state, its derivative)."""

    def delta(inner: Any, params: Any, cache: Any, d_state: Any) -> tuple[Array, Arrays]:
        found, before = inner(params, cache, d_state)
        return found, {name: change(name, value) for name, value in before.items()}

    return soil.with_cell(with_delta(soil.cell, delta))


def each_carry(change: Callable[[Array], Array]) -> Callable[[Soil], Plants]:
    """The carry of each part of the state, changed."""

    def plant(soil: Soil) -> Plants:
        for part in soil.states:
            yield f"carry of {part}", carry(soil, lambda name, value, part=part: change(value) if name == part else value)

    return plant


def in_accumulate(soil: Soil, params: Change | None = None, cache: Change | None = None, delta: Change | None = None) -> Answers:
    """The weight gradients are formed from something else: each a change of what accumulate is given."""

    def change(inner: Any, p: Any, c: Any, d: Any) -> Any:
        return inner(params(p) if params else p, cache(c) if cache else c, delta(d) if delta else d)

    return soil.with_cell(with_accumulate(soil.cell, change))


def in_delta(soil: Soil, params: Change | None = None, cache: Change | None = None) -> Answers:
    """δ and the carry are formed from something else: each a change of what delta is given."""

    def change(inner: Any, p: Any, c: Any, d: Any) -> Any:
        return inner(params(p) if params else p, cache(c) if cache else c, d)

    return soil.with_cell(with_delta(soil.cell, change))


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


def _gates_permuted(soil: Soil) -> Plants:
    for one, other in combinations(range(soil.gates), 2):
        which = f"gates {one + 1} and {other + 1}"
        swap = partial(blocks_swapped, size=soil.hidden, one=one, other=other)
        yield f"{which}, in the weight gradients", in_accumulate(soil, delta=partial(swap, axis=-1))
        if "W_hh" in soil.own_names:
            yield f"{which}, in the carry", in_delta(soil, params=lambda p, s=swap: {**p, "W_hh": s(p["W_hh"], axis=0)})


def _gate_missing(soil: Soil) -> Plants:
    for at in range(soil.gates if soil.gates > 1 else 0):
        zero = partial(block_zeroed, size=soil.hidden, at=at)
        yield f"gate {at + 1}, in the weight gradients", in_accumulate(soil, delta=partial(zero, axis=-1))
        if "W_hh" in soil.own_names:
            yield f"gate {at + 1}, in the carry", in_delta(soil, params=lambda p, z=zero: {**p, "W_hh": z(p["W_hh"], axis=0)})


def _transposed(soil: Soil) -> Plants:
    sample = {name: soil.problem.variables[name + soil.problem.suffixes[0]] for name in soil.own_names}
    for name, value in sample.items():
        turned = transposed_blocks(value)
        if turned is not None and not np.array_equal(turned, value):

            def change(params: Any, name: str = name) -> Any:
                return {**params, name: transposed_blocks(params[name])}

            yield f"{name}, in δ and the carry", in_delta(soil, params=change)
            yield f"{name}, in dx", in_accumulate(soil, params=change)


def _through_another_weight(soil: Soil) -> Plants:
    def rolled(params: Any) -> Any:
        return {**params, "W_xh": np.roll(params["W_xh"], soil.hidden if soil.gates > 1 else 1, axis=0)}

    yield "dx through W_xh of another gate, or unit", in_accumulate(soil, params=rolled)
    if "W_hh" in soil.own_names:
        shapes = soil.cell.parameter_shapes(soil.problem.input_size, soil.hidden)
        if shapes["W_hh"] == shapes["W_xh"]:
            yield "dx through W_hh", in_accumulate(soil, params=lambda p: {**p, "W_xh": p["W_hh"]})
            yield "carry through W_xh", in_delta(soil, params=lambda p: {**p, "W_hh": p["W_xh"]})


def another_time(soil: Soil) -> Plants:
    """h_t where h_{t−1} belongs: the cache is given the new state under the names of the old."""
    cell = soil.cell

    def recur(self: Any, xp: Any, params: Any, state: Any, projected: Any, x: Any) -> Any:
        del self
        after, cache = cell.recur(xp, params, state, projected, x)
        return after, {**cache, **{NEW + name: value for name, value in after.items()}}

    for name in soil.states:
        for method in ("accumulate", "delta"):
            late = partial(_taken_late, cell, method, name)
            methods: dict[str, Callable[..., Any]] = {"recur": recur, method: _without_self(late)}
            yield f"{name}_t for {name}_{{t−1}} in {method}", soil.with_cell(altered(cell, **methods))


def _without_self(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a method that does not look at its object."""
    return lambda *arguments: function(*arguments[1:])


def _taken_late(cell: Any, method: str, name: str, params: Any, cache: Any, d: Any) -> Any:
    """A half of the step, given the part of the state after it where it expects the part before."""
    late = dict.fromkeys((f"{name}_prev", *(("seen",) if "seen" in cache else ())), cache[NEW + name])
    return getattr(cell, method)(params, {**cache, **late}, d)


def _some_rows_only(soil: Soil) -> Plants:
    def only(keep: int) -> Answers:
        def change(inner: Any, params: Any, cache: Any, delta: Any) -> Any:
            kept = np.zeros_like(delta)
            kept[..., keep, :] = delta[..., keep, :]
            return inner(params, cache, kept)[0], inner(params, cache, delta)[1]

        return soil.with_cell(with_accumulate(soil.cell, change))

    yield "the last sample of the batch", only(-1)
    yield "the first sample of the batch", only(0)


def _row_for_all(soil: Soil) -> Plants:
    for name in ("x", "h_prev", "c_prev"):

        def of_row_0(cache: Any, name: str = name) -> Any:
            if name not in cache:
                return cache
            value, axis = cache[name], cache[name].ndim - (1 if cache[name].dtype.kind in "iu" else 2)
            return {**cache, name: np.broadcast_to(np.take(value, [0], axis=axis), value.shape)}

        yield f"{name} of row 0 for every row", in_accumulate(soil, cache=of_row_0)


def _bias_summed_wrongly(soil: Soil) -> Plants:
    for name in (name for name in soil.own_names if name.startswith("b")):

        def change(inner: Any, params: Any, cache: Any, delta: Any, name: str = name, how: str = "") -> Any:
            found, d_x = inner(params, cache, delta)
            size = len(found[name])
            rows = delta.reshape(-1, delta.shape[-1])[:, :size]
            wrong = {
                "units": lambda: rows.sum(axis=-1),
                "everything": lambda: np.full(size, rows.sum()),
                "mean": lambda: rows.mean(axis=0),
                "first gate": lambda: np.resize(found[name][: soil.hidden], size),
            }[how]
            return {**found, name: wrong()}, d_x

        for how in ("units", "everything", "mean", "first gate"):
            if how != "first gate" or soil.gates > 1:
                what = {"units": "summed over the units", "mean": "averaged over the rows"}.get(how, f"from {how}")
                yield f"{name}, {what}", soil.with_cell(with_accumulate(soil.cell, partial(change, name=name, how=how)))


def overwritten(soil: Soil) -> Plants:
    """dW[:, tokens] += δ keeps one of several terms."""
    if soil.problem.x.dtype.kind not in "iu":
        return

    def linear_backward(W: Array, x: Array, delta: Array) -> tuple[Array, Array | None]:
        d_W = np.zeros_like(W)
        d_W.T[x.reshape(-1)] += delta.reshape(-1, delta.shape[-1])
        return d_W, None

    yield "dW_xh[:, tokens] += δ", soil.with_cell(with_globals(soil.cell, "accumulate", linear_backward=linear_backward))


def with_globals(cell: Any, method: str, **names: Any) -> Any:
    """The cell with a method that finds these under global names, in place of what its module has there."""
    kind = cast(Any, type(cell))
    function = getattr(kind, method)
    return altered(cell, **{method: types.FunctionType(function.__code__, {**function.__globals__, **names})})


# Impurity: what is right once and wrong the second time.


def _changes_in_place(soil: Soil) -> Plants:
    def delta(inner: Any, params: Any, cache: Any, d_state: Any) -> Any:
        found = inner(params, cache, d_state)
        for value in cache.values():
            if value.dtype.kind == "f" and value.flags.writeable:
                value *= 0.5
        return found

    yield "the tape, halved after use", soil.with_cell(with_delta(soil.cell, delta))

    def totals(inner: Any, params: Any, cache: Any, d_state: Any) -> Any:
        found = inner(params, cache, d_state)
        for value in d_state.values():
            value *= 0.5
        return found

    yield "∂L/∂s_t, halved after use", soil.with_cell(with_delta(soil.cell, totals))

    def weights(inner: Any, params: Any, cache: Any, d_state: Any) -> Any:
        for value in params.values():
            value *= 1.001
        return inner(params, cache, d_state)

    yield "the weights", soil.with_cell(with_delta(soil.cell, weights))


def _keeps_between_calls(soil: Soil) -> Plants:
    kept: Arrays = {}

    def answer() -> Answer:
        found = soil.candidate.answer(soil.problem)
        for name, value in found.gradients.items():
            kept[name] = kept.get(name, 0) + value
        return replace(found, gradients=dict(kept))

    yield "gradients added to those of the call before", answer


# The time loop and the network.


@dataclass(frozen=True)
class Rewired(CellCandidate):
    """A candidate whose network, or whose forward pass as backward sees it, is changed."""

    arrange: Callable[[Network], Network] = lambda network: network
    see: Callable[[Pass], Pass] = lambda done: done

    def network(self, problem: Problem) -> Network:
        """The network, rearranged."""
        return self.arrange(super().network(problem))

    def forward(self, problem: Problem) -> Pass:
        """The pass, as it is seen."""
        return self.see(super().forward(problem))


def rewired(
    soil: Soil, arrange: Callable[[Network], Network] = lambda net: net, see: Callable[[Pass], Pass] = lambda done: done
) -> Answers:
    """The answer of a network that is arranged, or of a pass that is seen, otherwise."""
    return partial(Rewired(soil.cell, soil.candidate.algorithm, arrange, see).answer, soil.problem)


def _truncated(soil: Soil) -> Plants:
    if soil.plain:
        for window in (0, 1, soil.problem.steps // 2):
            yield f"a window of {window} steps", rewired(soil, lambda n, w=window: replace(n, window=w))
    if soil.problem.window is None and soil.problem.chunk is None and not soil.problem.bidirectional:
        for chunk in (1, 2, max(soil.problem.steps - 1, 1)):
            yield f"chunks of {chunk} steps", rewired(soil, lambda n, c=chunk: replace(n, chunk=c))


def not_reset(soil: Soil) -> Plants:
    """The carry that one sequence ended with, at s_0, is where the next begins, at s_T."""

    def see(done: Pass) -> Pass:
        cotangents = {name: value.copy() for name, value in done.reading.cotangents.items()}
        for name, value in cotangents.items():
            value[-1] += soil.right.gradients[f"{name}_0"]
        return reading(done, cotangents)

    yield "left over from the sequence before", rewired(soil, see=see)
    if soil.problem.batch > 1:
        yield "left over from the row before", carry(soil, lambda name, value: np.roll(value, 1, axis=-2))


def reading(done: Pass, cotangents: Mapping[str, Array], d_params: Mapping[str, Array] | None = None) -> Pass:
    """The pass with other cotangents, and with other gradients of the readout's own where they are given."""
    own = done.reading.d_params if d_params is None else dict(d_params)
    return replace(done, reading=replace(done.reading, cotangents=dict(cotangents), d_params=own))


def of_cotangents(change: Callable[[Array], Array]) -> Callable[[Soil], Answers]:
    """e_1..e_T, changed before the time loop; the readout's own gradients are right."""
    return lambda soil: rewired(
        soil, see=lambda done: reading(done, {n: change(value.copy()) for n, value in done.reading.cotangents.items()})
    )


def _only_last(e: Array) -> Array:
    e[:-1] = 0
    return e


def _some_cotangents(soil: Soil) -> Plants:
    def without(at: int) -> Callable[[Array], Array]:
        def change(e: Array) -> Array:
            e[at] = 0
            return e

        return change

    yield "the last step's only", of_cotangents(_only_last)(soil)
    yield "the first step's left out", of_cotangents(without(0))(soil)
    yield "the last step's left out", of_cotangents(without(-1))(soil)
    yield "each a step too early", of_cotangents(lambda e: np.roll(e, -1, axis=0))(soil)
    yield "each a step too late", of_cotangents(lambda e: np.roll(e, 1, axis=0))(soil)
    yield "in the order of time reversed", of_cotangents(lambda e: e[::-1])(soil)


def _mask_ignored(soil: Soil) -> Plants:
    if "lengths" in soil.problem.constants:

        def see(done: Pass, at: int | None) -> Pass:
            def masked(tape: bptt.Tape) -> bptt.Tape:
                mask = None if at is None or tape.mask is None else np.repeat(tape.mask[at][None], len(tape.mask), axis=0)
                return replace(tape, mask=mask)

            return replace(done, tapes={suffix: masked(tape) for suffix, tape in done.tapes.items()})

        yield "rows end where the longest ends", rewired(soil, see=partial(see, at=None))
        yield "the mask of step 1 at every step", rewired(soil, see=partial(see, at=0))
    if any(name.startswith("dropout") for name in soil.problem.constants):

        def undropped(done: Pass) -> Pass:
            return replace(done, dropout=[None for _ in done.dropout])

        def first_mask(done: Pass) -> Pass:
            return replace(done, dropout=[m if m is None else np.repeat(m[:1], len(m), axis=0) for m in done.dropout])

        yield "dropout is not applied on the way back", rewired(soil, see=undropped)
        yield "the dropout mask of step 1 at every step", rewired(soil, see=first_mask)


# The loss.


def with_loss(soil: Soil, d_loss: Callable[[Array, Array, Array], Array]) -> Answers:
    """The head under a loss whose derivative is d_loss(y, target, weights); its value is right."""

    def value(self: Any, params: Any, states: Any, inputs: Any) -> Any:
        right = Head.value.__globals__["LOSSES"][soil.problem.readout]

        def planted(y: Array, target: Array, weights: Array) -> tuple[float, Array]:
            return right(y, target, weights)[0], d_loss(y, target, weights)

        losses = {soil.problem.readout: planted}
        changed = types.FunctionType(Head.value.__code__, {**Head.value.__globals__, "LOSSES": losses})
        return changed(self, params, states, inputs)

    def arrange(net: Network) -> Network:
        return replace(net, readout=altered(net.readout, value=value))

    return rewired(soil, arrange)


def _one_hot(y: Array, target: Array) -> Array:
    return np.eye(y.shape[-1], dtype=y.dtype)[target]


def _softmax(y: Array) -> Array:
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _loss_before_softmax(soil: Soil) -> Plants:
    if soil.problem.readout == SOFTMAX:
        yield "y − target: no softmax", with_loss(soil, lambda y, t, w: (y - _one_hot(y, t)) * w[..., None])
        yield "p without − target", with_loss(soil, lambda y, t, w: _softmax(y) * w[..., None])
        yield "target − p", with_loss(soil, lambda y, t, w: (_one_hot(y, t) - _softmax(y)) * w[..., None])
        yield (
            "softmax over the rows",
            with_loss(
                soil, lambda y, t, w: (np.moveaxis(_softmax(np.moveaxis(y, 1, -1)), -1, 1) - _one_hot(y, t)) * w[..., None]
            ),
        )
        yield (
            "p (1 − p) (p − target)",
            with_loss(soil, lambda y, t, w: _softmax(y) * (1 - _softmax(y)) * (_softmax(y) - _one_hot(y, t)) * w[..., None]),
        )
    elif soil.problem.readout != "projection":
        yield "y without − target", with_loss(soil, lambda y, t, w: y * w[..., None])
        yield "target − y", with_loss(soil, lambda y, t, w: (t - y) * w[..., None])
        yield "weights left out", with_loss(soil, lambda y, t, w: y - t)


def everything(soil: Soil, factor: float) -> Answers:
    """All that the loss begins with, times a factor: every gradient is."""

    def see(done: Pass) -> Pass:
        scaled = {name: factor * value for name, value in done.reading.cotangents.items()}
        return reading(done, scaled, {name: factor * value for name, value in done.reading.d_params.items()})

    return rewired(soil, see=see)


def counts(problem: Problem) -> dict[str, float]:
    """T, B, V and the counted positions: what a mean may divide by."""
    found: dict[str, float] = {"T": problem.steps, "B": problem.batch, "V": problem.output_size or 1}
    if "mask" in problem.constants:
        found["the counted positions"] = float(problem.constants["mask"].sum())
    return {name: float(count) for name, count in found.items() if count > 1}


def _reductions(soil: Soil) -> Plants:
    for name, count in counts(soil.problem).items():
        yield f"mean instead of sum over {name}", everything(soil, 1 / count)
        yield f"sum instead of mean over {name}", everything(soil, count)


def _factors(soil: Soil) -> Plants:
    yield "the whole gradient doubled", everything(soil, 2.0)
    yield "the whole gradient halved", everything(soil, 0.5)
    yield "the whole gradient times 1.0008", everything(soil, 1.0008)
    yield "the cotangents doubled, the head right", of_cotangents(lambda e: 2 * e)(soil)


# Finished gradients: an answer with one array of it changed, and the shares of its steps likewise.


def one_changed(soil: Soil, name: str, change: Callable[[Array], Any]) -> Answers:
    """The right answer with one gradient and every share in it changed; a change that gives None takes it away."""

    def answer() -> Answer:
        found: list[Arrays] = []
        for arrays, by_step in ((soil.right.gradients, False), (soil.right.steps, True)):
            changed = dict(arrays)
            if name in changed:
                value = changed.pop(name)
                told_apart = by_step and name in soil.learned()
                new = np.stack([change(part.copy()) for part in value]) if told_apart else change(value.copy())
                changed |= {} if new is None else {name: new}
            found.append(changed)
        return replace(soil.right, gradients=found[0], steps=found[1])

    return answer


def each_gradient(change: Callable[[Array], Any], least: int = 1, ndim: int = 0) -> Callable[[Soil], Plants]:
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
            soil.right, gradients={**soil.right.gradients, name: change(soil.right.gradients[name].copy())}, steps=steps
        )

    return answer


def one_entry(value: Array) -> Array:
    """A millionth of the largest entry added to one entry."""
    at = value.size // 2
    value.reshape(-1)[at] += 1e-6 * float(np.max(np.abs(value)))
    return value


def _entry_off(soil: Soil) -> Plants:
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


def _entries_swapped(soil: Soil) -> Plants:
    for name, value in soil.right.gradients.items():
        if value.size > 1:
            yield f"{name}, smallest and largest", whole_only(soil, name, largest_swapped)
            yield f"{name}, the first two", whole_only(soil, name, _neighbours_swapped)


def _clipped(soil: Soil) -> Plants:
    def by_norm(soil: Soil = soil) -> Answer:
        norm = float(np.sqrt(sum(np.sum(value**2) for value in soil.right.gradients.values())))
        return scaled_answer(soil, min(1.0, 0.5 * norm / norm))

    yield "all by their global norm", by_norm
    for name, value in soil.right.gradients.items():
        if value.size:
            bound = 0.5 * float(np.max(np.abs(value)))
            yield f"{name} by value", whole_only(soil, name, lambda d, b=bound: np.clip(d, -b, b))
            yield f"{name} from above only", whole_only(soil, name, lambda d, b=bound: np.minimum(d, b))
    yield "the carry by value", carry(soil, lambda name, value: np.clip(value, -0.1, 0.1))


def scaled_answer(soil: Soil, factor: float) -> Answer:
    """The right answer, times a factor."""
    both = [{name: factor * value for name, value in arrays.items()} for arrays in (soil.right.gradients, soil.right.steps)]
    return replace(soil.right, gradients=both[0], steps=both[1])


def share_changed(soil: Soil, name: str, t: int, factor: float) -> Answers:
    """One step's share of one weight gradient times a factor, in the share and in the whole."""

    def answer() -> Answer:
        share = soil.right.steps[name]
        steps = share.copy()
        steps[t] = factor * share[t]
        whole = soil.right.gradients[name] + (factor - 1) * share[t]
        return replace(soil.right, gradients={**soil.right.gradients, name: whole}, steps={**soil.right.steps, name: steps})

    return answer


def _step_left_out(at: int) -> Callable[[Soil], Plants]:
    def plant(soil: Soil) -> Plants:
        for name in soil.learned():
            yield name, share_changed(soil, name, at, 0.0)

    return plant


def _step_off(soil: Soil) -> Plants:
    for name in soil.learned():
        sizes = np.abs(soil.right.steps[name]).reshape(soil.problem.steps, -1).max(axis=1)
        least = int(np.argmin(sizes))
        yield f"{name}, a tenth of step {least + 1}, which contributes least", share_changed(soil, name, least, 1.1)
        yield f"{name}, step {least + 1} twice", share_changed(soil, name, least, 2.0)


def _initial_state_forgotten(soil: Soil) -> Plants:
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


def _weight_transposed(soil: Soil) -> Plants:
    for name in (*soil.learned(), *(n for n in ("W_hy",) if n in soil.right.gradients)):
        if soil.right.gradients[name].ndim == 2:
            yield name, one_changed(soil, name, turned)


# From the source.


@lru_cache(maxsize=64)
def _cell_variations(kind_of_cell: type, method: str, names: tuple[str, ...]) -> tuple[source.Variation, ...]:
    return tuple(source.function_variations(getattr(kind_of_cell, method), names))


@lru_cache(maxsize=4)
def _loop_variations() -> tuple[source.Variation, ...]:
    functions = ("_walk", "past", "within", "walk_deltas", "backward", "shares", "_stacked", "added_up")
    return tuple(source.module_variations(bptt, functions))


@lru_cache(maxsize=4)
def _network_variations() -> tuple[tuple[str, source.Variation], ...]:
    methods = ("backward", "_apart")
    return tuple((name, each) for name in methods for each in source.function_variations(getattr(Network, name), ()))


@lru_cache(maxsize=4)
def _linear_variations() -> tuple[source.Variation, ...]:
    return tuple(source.function_variations(linear.linear_backward, ()))


BACKWARDS = ("_slopes", "_deltas", "_deltas_after", "_deltas_before", "_o_last")  # what sequence forms call for their way back


@lru_cache(maxsize=16)
def _sequence_variations(kind_of_cell: Any) -> tuple[tuple[str, source.Variation], ...]:
    """Those of the sequence form's way back: of the method, and of the functions of its module that it or the forward calls."""
    method = kind_of_cell.sequence_backward
    functions = {name: method.__globals__[name] for name in BACKWARDS if name in method.__globals__}
    return tuple(
        (name, each)
        for name, function in {"sequence_backward": method, **functions}.items()
        for each in source.function_variations(function, ())
    )


def _sequence(soil: Soil, kind: str) -> Plants:
    if has_sequence_form(soil.cell) and "lengths" not in soil.problem.constants:
        for name, each in _sequence_variations(type(soil.cell)):
            if each.kind == kind and each.stands_in(soil.executed):
                yield each.what, partial(_with_sequence, soil, name, each)


def _with_sequence(soil: Soil, name: str, variation: source.Variation) -> Answer:
    method = cast(Any, type(soil.cell)).sequence_backward
    changed = variation.compiled(name, {**method.__globals__, "np": UNFILLED})
    if name == method.__name__:
        return soil.with_cell(altered(soil.cell, sequence_backward=changed))()
    twice = with_globals(soil.cell, "sequence_backward", **{name: changed})
    return soil.with_cell(with_globals(twice, "sequence", **{name: changed}))()


def _nan(shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    return np.full(shape, np.nan, dtype)


def _nan_like(like: Array) -> Array:
    return _nan(like.shape, like.dtype)


# NumPy for a mutant: memory that it never writes holds NaN, and not by chance what the right code left there.
UNFILLED = types.SimpleNamespace(**vars(np) | {"empty": _nan, "empty_like": _nan_like})


def of_source(kind: str) -> Callable[[Soil], Plants]:
    """Every change of this kind in the cell's delta, accumulate, step_jacobian and sequence form, in the loop and the network."""

    def plant(soil: Soil) -> Plants:
        kind_of_cell = cast(Any, type(soil.cell))
        tape = next(iter(soil.candidate.forward(soil.problem).tapes.values()))
        names = tuple(name for name, value in tape.caches[0].items() if value.dtype.kind == "f")
        for method in ("delta", "accumulate", *(("step_jacobian",) if soil.problem.jacobians else ())):
            function = getattr(kind_of_cell, method)
            for each in _of_kind(soil, _cell_variations(kind_of_cell, method, names), kind):
                yield each.what, partial(_with_method, soil, method, each, function.__globals__)
        for each in _of_kind(soil, _linear_variations(), kind):
            yield each.what, partial(_with_linear, soil, each)
        yield from _sequence(soil, kind)
        if kind != source.WRONG_VARIABLE:
            yield from _loop(soil, kind)
            yield from _network(soil, kind)

    return plant


def _of_kind(soil: Soil, variations: tuple[source.Variation, ...], kind: str) -> list[source.Variation]:
    return [each for each in variations if each.kind == kind and each.stands_in(soil.executed)]


def _with_method(soil: Soil, method: str, variation: source.Variation, namespace: dict[str, Any]) -> Answer:
    return soil.with_cell(altered(soil.cell, **{method: variation.compiled(method, namespace)}))()


def _with_linear(soil: Soil, variation: source.Variation) -> Answer:
    changed = variation.compiled("linear_backward", dict(vars(linear)))
    return soil.with_cell(with_globals(soil.cell, "accumulate", linear_backward=changed))()


def _loop(soil: Soil, kind: str) -> Plants:
    for each in _of_kind(soil, _loop_variations(), kind):
        yield each.what, partial(_with_loop, soil, each)


def _with_loop(soil: Soil, variation: source.Variation) -> Answer:
    module = types.SimpleNamespace(**variation.executed({"__name__": bptt.__name__}))
    sweep = _rebound(Network._sweep, bptt=module)  # pyright: ignore[reportPrivateUsage]
    return rewired(soil, partial(_with_methods, _sweep=sweep))()


def _network(soil: Soil, kind: str) -> Plants:
    for name, each in _network_variations():
        if each.kind == kind and each.stands_in(soil.executed):
            yield each.what, partial(_with_network, soil, name, each)


def _with_network(soil: Soil, name: str, variation: source.Variation) -> Answer:
    changed = variation.compiled(name, dict(vars(network)))
    return rewired(soil, partial(_with_methods, **{name: changed}))()


def _with_methods(net: Network, **methods: Any) -> Network:
    return altered(net, **methods)


def _rebound(function: Any, **names: Any) -> Any:
    return types.FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__)


KINDS: tuple[Kind, ...] = (
    Kind("carry dropped", "∂L/∂h_{t+1}, or ∂L/∂c_{t+1}, is not passed back", each_carry(lambda d: 0 * d)),
    Kind("carry doubled", "what comes back from step t+1 is added twice", each_carry(lambda d: 2 * d)),
    Kind("carry with the wrong sign", "what comes back from step t+1 is subtracted", each_carry(lambda d: -d)),
    Kind("carry not reset", "the next sequence, or row, begins with the carry of the one before", not_reset),
    Kind("truncated", "the gradient is cut after K steps, or at the border of every chunk", _truncated),
    Kind("transposed weight", "W where Wᵀ belongs", _transposed),
    Kind("another weight", "dx, or the carry, through the wrong weight", _through_another_weight),
    Kind("h_t for h_{t−1}", "the state after the step where the state before it belongs", another_time),
    Kind("gates permuted", "the gates stand in another order on the way back", _gates_permuted),
    Kind("a gate missing", "one gate's term is left out", _gate_missing),
    Kind("one sample of the batch", "the weight gradients are those of the last, or first, sample only", _some_rows_only),
    Kind("one row's data for all", "x, or the state, of row 0 is used for every row", _row_for_all),
    Kind("bias over the wrong axis", "the bias is summed over the units, averaged, or taken from one gate", _bias_summed_wrongly),
    Kind("embedding overwritten", "rows of repeated tokens are overwritten, not accumulated", overwritten),
    Kind("changed in place", "the code writes into what it was given", _changes_in_place),
    Kind("kept between calls", "a second call adds to the first", _keeps_between_calls),
    Kind("cotangents of other steps", "the loss's own derivative is that of the last step only, or shifted", _some_cotangents),
    Kind("mask ignored", "padded steps, or dropped units, are passed on the way back", _mask_ignored),
    Kind("loss before the softmax", "ŷ without − y, or y without the softmax", _loss_before_softmax),
    Kind("reduction", "mean instead of sum over T, B or V, or the reverse", _reductions),
    Kind("factor 2", "the square's 2, or a weight somewhere, on everything", _factors),
    Kind("one gradient doubled", "a factor 2 on one gradient", each_gradient(lambda d: 2 * d)),
    Kind("one gradient averaged", "one gradient is divided by 3, as by B", each_gradient(lambda d: d / 3)),
    Kind("one gradient negated", "the sign of one gradient", each_gradient(lambda d: -d)),
    Kind("one gradient zero", "one gradient is never filled in", each_gradient(lambda d: 0 * d)),
    Kind("one gradient missing", "one gradient is not given", each_gradient(lambda d: None)),
    Kind(
        "one gradient NaN",
        "one entry is NaN",
        each_gradient(lambda d: np.where(np.arange(d.size).reshape(d.shape) == 0, np.nan, d)),
    ),
    Kind("one entry off", "one entry by a millionth of the largest", _entry_off),
    Kind("two entries swapped", "two entries in each other's place", _entries_swapped),
    Kind("weight gradient transposed", "dWᵀ where dW belongs", _weight_transposed),
    Kind("clipped", "gradients, or the carry, clipped by value or norm", _clipped),
    Kind("first step left out", "the sum over steps begins at the second", _step_left_out(0)),
    Kind("last step left out", "the sum over steps ends before the last", _step_left_out(-1)),
    Kind("one step off", "the share of the step that contributes least, by a tenth, or twice", _step_off),
    Kind("initial state's gradient", "∂L/∂h_0, or ∂L/∂c_0, is left out", _initial_state_forgotten),
    Kind(source.FACTOR_MISSING, "the product rule's other factor, or a slope, is left out", of_source(source.FACTOR_MISSING)),
    Kind(source.FACTOR_TWICE, "a factor, a slope say, is taken twice", of_source(source.FACTOR_TWICE)),
    Kind(source.TERM_MISSING, "one way by which a variable reaches the loss is forgotten", of_source(source.TERM_MISSING)),
    Kind(source.SIGN, "plus for minus", of_source(source.SIGN)),
    Kind(source.SLOPE_LEFT_OUT, "1 − tanh² is taken for 1", of_source(source.SLOPE_LEFT_OUT)),
    Kind(source.SLOPE_OF_INPUT, "1 − z² with z the net input, not its tanh", of_source(source.SLOPE_OF_INPUT)),
    Kind(source.WRONG_VARIABLE, "one variable for another: c_{t−1} and c_t, i and f, …", of_source(source.WRONG_VARIABLE)),
    Kind(source.PERMUTED, "two parts of what is stacked or named in each other's place", of_source(source.PERMUTED)),
    Kind(source.TRANSPOSED, "a matrix transposed, or a product in the other order", of_source(source.TRANSPOSED)),
    Kind(source.ZERO, "a returned derivative is zero", of_source(source.ZERO)),
    Kind(source.CONSTANT, "2 for 1", of_source(source.CONSTANT)),
)


def mutants(soil: Soil, kinds: tuple[Kind, ...] = KINDS) -> Iterator[Mutant]:
    """Every mistake of these kinds that makes sense in this soil."""
    for kind in kinds:
        for what, answer in kind.plant(soil):
            yield Mutant(kind.name, what, answer)
