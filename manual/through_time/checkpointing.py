"""Checkpointed recomputation: a run of many steps in blocks, whose tape need not be kept.

Cut T steps into segments of k. With s_0, s_k, s_2k, … at their borders, forward may forget all that
a segment leaves behind:

    s_{jk}  →  tape of the steps jk+1 .. (j+1)k                         (1)   computed once more, when it is needed

The way back takes the segments from the last to the first. By (2) of manual.through_time.bptt all
that a segment must know of those after it is one derivative, which the next segment hands over to
it, as it does to the one before:

    g_j = J_{(j+1)k+1}ᵀ d_{(j+1)k+1},   g = 0 for the last             (2)
    d_{(j+1)k} = e_{(j+1)k} + g_j,   then (2) of manual.through_time.bptt down to  g_{j−1} = J_{jk+1}ᵀ d_{jk+1}   (3)
    ∂L/∂W = Σ_j (what segment j has for W)                              (4)   from the last to the first

Alive at once are T/k border states and the tape of k steps, least for k = √T, where there were
tapes of T steps; it costs one forward more. The trajectory s_0..s_T is an output and is kept all
the same: it is the tape, several times as large, that is not.

A sum's last bit depends on its order, and a matrix product's on how many rows it has. So that a
gradient with checkpoints is the one without to the last bit, both compute in the same blocks of
steps, from which segments are made: each block has its own products, and (4) adds them up block by
block. Checkpoints then change what is forgotten in between, and no operation.

Source: Chen, Xu, Zhang and Guestrin 2016, "Training deep nets with sublinear memory cost"; Griewank
and Walther 2000, "Algorithm 799: revolve", which goes on to put checkpoints within segments.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, cast, overload

import numpy as np

from ..arrays import Array, Arrays, Named
from ..cell import Cell
from . import bptt

# A block has at least so many steps, and rows of all its steps: what it costs besides them is not
# noticed.
BLOCK, ROWS = 256, 1024
BUDGET = 2**30  # bytes of tape that a run may leave before it takes to checkpoints by itself


@dataclass(frozen=True)
class Recipe:
    """What a run is computed from: x (T, B, I) or tokens (T, B), and the mask (T, B) or None."""

    cell: Cell
    params: Named
    x: Array
    mask: Array | None
    block: int

    def tapes(self, state: Named, first: int, end: int) -> Iterator[bptt.Tape]:
        """One tape a block, for the steps first+1 .. end, from the state s_first."""
        for start in range(first, end, self.block):
            steps = slice(start, min(start + self.block, end))
            mask = None if self.mask is None else self.mask[steps]
            tape = bptt.run(self.cell, self.params, state, self.x[steps], mask)
            yield tape
            state = {name: trajectory[-1] for name, trajectory in tape.states.items()}


class Blocks(Sequence[Any]):
    """The caches of a run of several blocks, of which `together` steps are at hand at once.

    A block has `block` steps.
    """

    steps: int
    block: int
    together: int

    def tapes_of(self, segment: int) -> Sequence[bptt.Tape]:
        """The tapes of that segment's blocks."""
        raise NotImplementedError

    def backwards(self) -> Iterator[tuple[int, bptt.Tape]]:
        """(steps before it, tape) of every block, from the last to the first."""
        for segment in reversed(range(math.ceil(self.steps / self.together))):
            for number, tape in reversed(list(enumerate(self.tapes_of(segment)))):
                yield segment * self.together + number * self.block, tape

    def __len__(self) -> int:
        return self.steps

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[t] for t in range(*index.indices(self.steps))]
        segment, t = divmod(range(self.steps)[index], self.together)
        return self.tapes_of(segment)[t // self.block].caches[t % self.block]


@dataclass(frozen=True)
class Kept(Blocks):
    """All tapes: the plain way."""

    steps: int
    block: int
    tapes: Sequence[bptt.Tape]

    @property
    def together(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A block is a segment."""
        return self.block

    def tapes_of(self, segment: int) -> Sequence[bptt.Tape]:
        """The one of that block."""
        return self.tapes[segment : segment + 1]


@dataclass(frozen=True)
class Recomputed(Blocks):
    """The states at the borders of segments of `together` steps; of tapes, those of one segment."""

    recipe: Recipe
    together: int
    borders: Sequence[Named]
    recent: dict[int, Sequence[bptt.Tape]] = field(default_factory=dict[int, Sequence[bptt.Tape]], repr=False)

    @property
    def steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """T."""
        return len(self.recipe.x)

    @property
    def block(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the recipe."""
        return self.recipe.block

    def tapes_of(self, segment: int) -> Sequence[bptt.Tape]:
        """By (1), unless it is the segment that was asked for last."""
        if segment not in self.recent:
            self.recent.clear()  # before the next is computed: there is room for one
            first = segment * self.together
            end = min(first + self.together, self.steps)
            self.recent[segment] = list(self.recipe.tapes(self.borders[segment], first, end))
        return self.recent[segment]


def block_of(x: Array) -> int:
    """How many steps a block has, for x (T, B, ·).

    A matter of the batch, and not of T nor of checkpoints.
    """
    return max(BLOCK, ROWS // max(1, x.shape[1])) if x.ndim > 1 else BLOCK


def run(
    cell: Cell,
    params: Named,
    initial_state: Named,
    x: Array,
    mask: Array | None = None,
    checkpoint: int | None = None,
    budget: float = BUDGET,
) -> bptt.Tape:
    """`bptt.run` in blocks: states s_0..s_T, and caches.

    These are kept, or with a checkpoint computed once more when asked for.

    checkpoint is the length k of a segment, in steps, made up to whole blocks. Without one the tape
    is kept as long as it has no more than `budget` bytes, and else k is √T. A run of one block
    (`block_of`) is `bptt.run` itself. Raises ValueError for T = 0, and for a checkpoint below 1.
    """
    if checkpoint is not None and checkpoint < 1:
        raise ValueError(f"a checkpoint every {checkpoint} steps: at least 1")
    block = block_of(x)
    if len(x) <= block:
        return bptt.run(cell, params, initial_state, x, mask)
    if mask is not None:
        # As in bptt.forward.
        x = np.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)), x, np.zeros_like(x))
    recipe = Recipe(cell, params, x, mask, block)
    tapes = recipe.tapes(initial_state, 0, len(x))
    first = next(tapes)
    if checkpoint is None and _bytes(first) * len(x) > budget * first.steps:
        checkpoint = math.isqrt(len(x) - 1) + 1
    states = {name: np.empty((len(x) + 1, *s.shape[1:]), s.dtype) for name, s in first.states.items()}
    kept = _written(chain([first], tapes), states, block, checkpoint is None)
    if checkpoint is None:
        return bptt.Tape(x, states, kept, mask)
    return bptt.Tape(x, states, _recomputed(recipe, initial_state, states, checkpoint), mask)


def _recomputed(recipe: Recipe, initial_state: Named, states: Arrays, checkpoint: int) -> Recomputed:
    """Segments of so many steps, made up to whole blocks."""
    together = recipe.block * math.ceil(checkpoint / recipe.block)
    later = [{name: s[start] for name, s in states.items()} for start in range(together, len(recipe.x), together)]
    return Recomputed(recipe, together, [initial_state, *later])


def _written(tapes: Iterable[bptt.Tape], states: Arrays, block: int, keep: bool) -> Kept:
    """The whole trajectory filled block by block; of the tapes all, or none."""
    kept: list[bptt.Tape] = []
    steps = 0
    for tape in tapes:
        own = _copied(tape, states, steps)
        kept += [own] if keep else []
        steps += tape.steps
    return Kept(steps, block, kept)


def _copied(tape: bptt.Tape, states: Arrays, start: int) -> bptt.Tape:
    """The block's tape, its states written to the whole trajectory and read from there."""
    own = {name: s[start : start + tape.steps + 1] for name, s in states.items()}
    for name, s in own.items():
        s[...] = tape.states[name]
    return replace(tape, states=own)


def _bytes(tape: bptt.Tape) -> int:
    """How much memory the tape's caches take; what several of them share counts once."""
    caches = tape.caches.tape if isinstance(tape.caches, bptt.SequenceCaches) else list(tape.caches)
    return sum({id(array): array.nbytes for array in _arrays(caches)}.values())


def _arrays(cache: Any) -> Iterator[Array]:
    """The arrays in a cache, which is a dict, a tuple or what else its cell likes."""
    if isinstance(cache, np.ndarray):
        yield cast(Array, cache)
    elif isinstance(cache, Mapping | list | tuple):
        parts = cast(Any, cache)
        for each in parts.values() if isinstance(cache, Mapping) else parts:
            yield from _arrays(each)


def gradients(cell: Cell, params: Named, tape: bptt.Tape, cotangents: Named, chunk: int | None = None) -> bptt.SequenceGradients:
    """`bptt.gradients` of a tape in blocks, by (2)–(4).

    Whole gradients, of d_state d_0 alone, and no delta.
    """
    if not isinstance(tape.caches, Blocks):
        return bptt.gradients(cell, params, tape, cotangents, chunk)
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk of {chunk} steps: at least 1")
    total, carry = _Total(tape.steps), None
    for start, part in _uncut(tape.caches.backwards(), chunk):
        e = {name: cotangents[name][start : start + part.steps] for name in tape.states}
        found = bptt.gradients(cell, params, part, e, chunk, carry)
        total.add(start, found)
        crossed = chunk is not None and start % chunk == 0
        carry = (  # (3), or (8) of manual.through_time.bptt
            None if start and crossed else {name: d[0] for name, d in found.d_state.items()}
        )
    return bptt.SequenceGradients(total.params, total.x, {name: d[None] for name, d in (carry or {}).items()}, None)


def _uncut(blocks: Iterator[tuple[int, bptt.Tape]], chunk: int | None) -> Iterator[tuple[int, bptt.Tape]]:
    """The blocks, each in two where a chunk that began before it ends in it.

    Then chunks can be counted from its first step.
    """
    for start, tape in blocks:
        ends = tape.steps if chunk is None else min(-start % chunk, tape.steps)
        if 0 < ends < tape.steps:
            yield start + ends, _stretch(tape, slice(ends, tape.steps))
            yield start, _stretch(tape, slice(0, ends))
        else:
            yield start, tape


def _stretch(tape: bptt.Tape, steps: slice) -> bptt.Tape:
    """A tape of those steps alone."""
    states = {name: s[steps.start : steps.stop + 1] for name, s in tape.states.items()}
    return bptt.Tape(tape.x[steps], states, tape.caches[steps], None if tape.mask is None else tape.mask[steps])


class _Total:
    """(4), and dx (T, B, ·) put together, None for tokens."""

    def __init__(self, steps: int) -> None:
        self.params: Arrays = {}
        self.x: Array | None = None
        self._steps = steps

    def add(self, start: int, found: bptt.SequenceGradients) -> None:
        """What the steps after the first `start` have for W and x."""
        for name, value in found.params.items():
            if name in self.params:
                np.add(self.params[name], value, out=self.params[name])  # (4)
            else:
                self.params[name] = np.array(value)
        if found.x is None:
            return
        if self.x is None:
            self.x = np.empty((self._steps, *found.x.shape[1:]), found.x.dtype)
        self.x[start : start + len(found.x)] = found.x
