"""GRU over whole batches, (B, T, I): functions for loss and gradients, parameters by keyword."""

import numpy as np


def gru(x, h, Wz, Uz, Wr, Ur, Wn, Un):
    """Reset before the matrix product; yields what the backward needs of every step."""
    for t in range(x.shape[1]):
        z = 1 / (1 + np.exp(-(x[:, t] @ Wz + h @ Uz)))
        r = 1 / (1 + np.exp(-(x[:, t] @ Wr + h @ Ur)))
        n = np.tanh(x[:, t] @ Wn + (r * h) @ Un)
        previous, h = h, z * h + (1 - z) * n
        yield previous, z, r, n, h


def mean_squared_error(x, y, h0, **weights):
    *_, (_, _, _, _, last) = gru(x, h0, **weights)
    return np.mean((last - y) ** 2)


def gradients_of(x, y, h0, **weights):
    steps = list(gru(x, h0, **weights))
    gradients = {name: np.zeros_like(value) for name, value in weights.items()}
    dh = 2 * (steps[-1][-1] - y) / y.size
    for t in reversed(range(x.shape[1])):
        h, z, r, n, _ = steps[t]
        dn = dh * (1 - z) * (1 - n**2)
        drh = dn @ weights["Un"].T
        dz = dh * (h - n) * z * (1 - z)
        dr = drh * h * r * (1 - r)
        for gate, d, seen in (("z", dz, h), ("r", dr, h), ("n", dn, r * h)):
            gradients["W" + gate] += x[:, t].T @ d
            gradients["U" + gate] += seen.T @ d
        dh = dh * z + drh * r + dz @ weights["Uz"].T + dr @ weights["Ur"].T
    return gradients | {"h0": dh}
