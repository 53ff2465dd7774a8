"""The linear map of a cell's input, for dense rows and for tokens.

    dense rows    x (…, I)         W x_t                 a token k is the one-hot row e_k
    tokens        x (…) integers   W e_k = W[:, k]                                          (1)

    dW = Σ δ xᵀ                                                                             (2)
    dW[:, k] = Σ over the positions whose token is k of δ                                   (3)
    dx = Wᵀ δ       (a token has no gradient)                                               (4)

(3) must accumulate: a token that occurs twice has two terms, and `dW[:, tokens] += δ` in NumPy
keeps only one of them. Leading axes are free: one step (B, …) and a whole sequence (T, B, …) are
the same code, and for the sequence (2) is one matrix product.
"""

from typing import Any

import numpy as np

from .arrays import Array


def rows_of(array: Array, leading: int) -> Array:
    """The array with its first `leading` axes made one."""
    return array.reshape(-1, *array.shape[leading:])


def linear(xp: Any, W: Any, x: Any) -> Any:
    """W x for rows or tokens: (…, out) for W (out, I).

    Raises ValueError or IndexError for a token out of range.
    """
    if not xp.isdtype(x.dtype, "integral"):
        return x @ W.T
    if xp is np and x.size and x.min() < 0:
        raise ValueError(f"token {x.min()}: tokens are 0 … {W.shape[1] - 1}")
    columns = xp.take(W, xp.reshape(x, (-1,)), axis=1)  # (1)
    return xp.reshape(columns.T, (*x.shape, W.shape[0]))


def linear_backward(W: Array, x: Array, delta: Array) -> tuple[Array, Array | None]:
    """(dW, dx) for delta = ∂L/∂(W x) of shape (…, out); dx is None for tokens."""
    rows = delta.reshape(-1, delta.shape[-1])
    if np.isdtype(x.dtype, "integral"):
        d_W = np.zeros_like(W)
        np.add.at(d_W.T, x.reshape(-1), rows)  # (3)
        return d_W, None
    return rows.T @ x.reshape(-1, x.shape[-1]), delta @ W  # (2), (4)
