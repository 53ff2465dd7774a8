"""What the sequence forms of the cells have in common.

One product for x and h, products by panels, tiles.

Where x and a state h are multiplied both, one product does, and one for all gradients:

    s_t = (h_{t−1}, 1, x_t),  W = (W_hh, b, W_xh):   W s_t = W_hh h_{t−1} + b + W_xh x_t    (1)
    (dW_hh, db, dW_xh) = Σ_t δ_t s_tᵀ                                                       (2)

A token is not part of s_t, which then is (h_{t−1}, 1): its column of W_xh is added.

How long a product takes depends on how it is asked for. By OpenBLAS, which NumPy brings along, (2)
is computed faster as (Σ s δᵀ)ᵀ; and small matrices are multiplied as they lie, where larger ones
are copied first, so that a product of few rows is faster by panels of columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np

from ..arrays import Array
from ..linear import linear, linear_backward, rows_of

CACHE = 2**20  # bytes that stay near the processor
KEPT, WORTH_KEEPING = 2**28, 2**20  # bytes of spare memory at most, and of an array at least
ALIGNED = 8  # numbers: a row of so many begins where the memory of a vector register does
PANEL = 256  # bytes of a panel's row
SMALL = 10**6  # multiplications: up to so many OpenBLAS multiplies matrices as they lie


class _Lent:
    """The owner of an array's memory for as long as anything refers to it or to a part of it.

    Then the memory is spare.
    """

    def __init__(self, memory: Array) -> None:
        self.memory, self.__array_interface__ = memory, memory.__array_interface__

    def __del__(self) -> None:
        with _LOCK:
            if sum(each.nbytes for each in _SPARE) + self.memory.nbytes <= KEPT:
                _SPARE.append(self.memory)


_SPARE: list[Array] = []
_LOCK = RLock()  # a collection of garbage may come in between, in the same thread


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """np.empty; if it is large, of memory that an array of its size had before.

    The system gives new memory page by page.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < WORTH_KEEPING:
        return np.empty(shape, dtype)
    with _LOCK:
        place = next((place for place, each in enumerate(_SPARE) if each.nbytes == size), None)
        memory = np.empty(size, np.uint8) if place is None else _SPARE.pop(place)
        if place is None and _SPARE:
            _SPARE.pop(0)  # of a size that may not be asked for again
    return np.asarray(_Lent(memory)).view(dtype).reshape(shape)


class Joined:
    """s_1..s_T by (1) for x (T, B, I), or tokens (T, B).

    rows    (T, B, H+1+I), or (T, B, H+1) for tokens: complete once h is
    h       h_0..h_T (T+1, B, H), the same memory; h_0 is there, the others are to be written
    """

    def __init__(self, x: Array, h_0: Array) -> None:
        self.x, size = x, h_0.shape[-1]
        width = size + 1 + width_of(x)
        through = empty((len(x) + 1, len(h_0), -(-width // ALIGNED) * ALIGNED), h_0.dtype)
        self.rows, self.h = through[:-1, :, :width], through[..., :size]
        self.h[0], self.rows[..., size] = h_0, 1
        if width_of(x):
            self.rows[..., size + 1 :] = x

    def weights(self, W_hh: Array, b: Array, W_xh: Array) -> Array:
        """Wᵀ by (1), for products of rows: (H+1+I, out), or (H+1, out) for tokens."""
        return np.concatenate([W_hh, b[:, None], W_xh[:, : width_of(self.x)]], axis=1).T

    def of_x(self, W_xh: Array, b: Array) -> Array:
        """W_xh x_t + b for every step at once: (T, B, out)."""
        if not width_of(self.x):
            return linear(np, W_xh, self.x) + b
        found = empty((*self.rows.shape[:2], len(b)), b.dtype)
        ones_and_x = rows_of(self.rows, 2)[:, self.h.shape[-1] :]
        np.dot(ones_and_x, np.concatenate([b[:, None], W_xh], axis=1).T, out=rows_of(found, 2))
        return found

    def columns(self, W_xh: Array) -> Sequence[Any]:
        """By step what tokens add, (B, out); None for rows."""
        return [None] * len(self.x) if width_of(self.x) else linear(np, W_xh, self.x)


def width_of(x: Array) -> int:
    """How many numbers of s_t are those of x_t: I, and none of a token."""
    return 0 if np.isdtype(x.dtype, "integral") else x.shape[-1]


def joined_backward(W_xh: Array, x: Array, rows: Array, delta: Array) -> tuple[Array, Array, Array, Array | None]:
    """(dW_hh, db, dW_xh, dx) by (2), dx None for tokens.

    x (T, B, I) or tokens (T, B), rows s (T, B, ·) and delta (T, B, out).
    """
    size = rows.shape[-1] - 1 - width_of(x)
    parts = np.split(weight_gradient(rows, delta), [size, size + 1], axis=1)  # (2)
    d_W_hh, d_b, d_W_xh = (part.copy() for part in parts)
    if not width_of(x):
        return d_W_hh, d_b[:, 0], linear_backward(W_xh, x, delta)[0], None
    return d_W_hh, d_b[:, 0], d_W_xh, (rows_of(delta, 2) @ W_xh).reshape(x.shape)


def weight_gradient(x: Array, delta: Array) -> Array:
    """Σ δ xᵀ (out, I) over all leading axes of x (…, I) and delta (…, out)."""
    turned = x.reshape(-1, x.shape[-1]).T @ delta.reshape(-1, delta.shape[-1])
    return np.ascontiguousarray(turned.T)  # (2)


class Multiplier:
    """M ↦ M W for M of so many rows, again and again.

    The columns of W are those of so many blocks.
    """

    def __init__(self, W: Array, rows: int, blocks: int = 1) -> None:
        width, by_column = W.shape[1] // blocks, rows * len(W)
        if by_column * W.shape[1] <= SMALL:
            # A small product need not be cut, but each block is wanted by itself.
            panel, worth = width, blocks > 1 and rows > 1
        else:
            panel = PANEL // W.itemsize
            worth = width % panel == 0 and by_column * panel <= SMALL
        panels = W.reshape(len(W), blocks, -1, panel).transpose(1, 2, 0, 3) if worth else W
        self.blocks, self.by_panels, self.W = blocks, worth, np.ascontiguousarray(panels)

    def room(self, steps: int, rows: int) -> tuple[Array, Array]:
        """Memory for a product a step, twice the same.

        First as `times` fills it, then as (steps, blocks, rows, columns of a block).
        """
        if not self.by_panels:
            flat = np.empty((steps, rows, self.W.shape[1]), self.W.dtype)
            return flat, flat.reshape(steps, rows, self.blocks, -1).swapaxes(1, 2)
        _, count, _, panel = self.W.shape
        by_block = np.empty((steps, self.blocks, rows, count * panel), self.W.dtype)
        return by_block.reshape(*by_block.shape[:3], count, panel).swapaxes(2, 3), by_block

    def times(self, M: Array, out: Array) -> None:
        """M W."""
        if self.by_panels:
            np.matmul(M, self.W, out=out)
        else:
            np.dot(M, self.W, out=out)


@dataclass(frozen=True)
class Tile:
    """Some steps of all rows, or some rows of one step."""

    steps: slice
    rows: slice

    @property
    def count(self) -> int:
        """How many steps."""
        return self.steps.stop - self.steps.start

    @property
    def through(self) -> tuple[slice, slice]:
        """Where the states before and after its steps stand in (T+1, B, ·)."""
        return slice(self.steps.start, self.steps.stop + 1), self.rows


def tiles(steps: int, batch: int, row_bytes: int) -> list[Tile]:
    """The run in its order, in tiles whose intermediate values stay in the cache.

    They are row_bytes a step and row.

    None is larger than the first.
    """
    together = CACHE // (row_bytes * batch)
    if together:
        return [Tile(slice(first, min(first + together, steps)), slice(0, batch)) for first in range(0, steps, together)]
    rows = -(-batch // -(-row_bytes * batch // CACHE))
    parts = [slice(first, min(first + rows, batch)) for first in range(0, batch, rows)]
    return [Tile(slice(t, t + 1), part) for t in range(steps) for part in parts]


class NetInputs:
    """a_t = W s_t (blocks, B, ·), computed step by step: s_t waits for the state before it."""

    def __init__(self, rows: Array, W: Array, columns: Sequence[Any], steps: int, blocks: int = 1) -> None:
        self.rows, self.columns, batch = rows, columns, rows.shape[1]
        self.product = Multiplier(W, batch, blocks)
        self.filled, self.a = self.product.room(steps, batch)

    def of(self, tile: Tile) -> "TileInputs":
        """Those of the tile, in memory that each tile uses again."""
        return TileInputs(self, tile)


class TileInputs:
    """The net inputs of one tile.

    a is (steps, blocks, rows, ·); `compute_next` fills one step of it a call.
    """

    def __init__(self, net: NetInputs, tile: Tile) -> None:
        self.a = net.a[: tile.count, :, tile.rows]
        self.product = net.product
        # The first of the tiles that have some rows of a step computes it for all rows.
        self.are_there = tile.rows.start > 0
        of_steps = net.rows[tile.steps], net.columns[tile.steps], net.filled, net.a
        self.waiting = zip(*of_steps, strict=False)

    def compute_next(self) -> None:
        """a_t of the tile's next step; the state before it must be there."""
        if self.are_there:
            return
        row, column, filled, a = next(self.waiting)
        self.product.times(row, filled)
        if column is not None:
            np.add(a, column.reshape(len(column), len(a), -1).swapaxes(0, 1), out=a)
