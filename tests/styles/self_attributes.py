"""A class that keeps everything on itself: weights, states, gradients."""

import numpy as np


class RNN:
    def __init__(self, n_in, n_hidden, n_out, seed=0):
        rng = np.random.default_rng(seed)
        self.Wx = rng.normal(size=(n_in, n_hidden))
        self.Wh = rng.normal(size=(n_hidden, n_hidden)) / np.sqrt(n_hidden)
        self.Wy = rng.normal(size=(n_hidden, n_out))
        self.b = rng.normal(size=n_hidden)

    def forward(self, X, Y):
        """X (T, n_in), Y (T, n_out)."""
        self.X, self.H, self.E = X, [np.zeros(len(self.b))], []
        for x, y in zip(X, Y, strict=True):
            self.H.append(np.tanh(x @ self.Wx + self.H[-1] @ self.Wh + self.b))
            self.E.append(self.H[-1] @ self.Wy - y)
        return sum(np.sum(e**2) for e in self.E)

    def backward(self):
        self.dWx, self.dWh, self.dWy = (
            np.zeros_like(self.Wx),
            np.zeros_like(self.Wh),
            np.zeros_like(self.Wy),
        )
        self.db = np.zeros_like(self.b)
        dh = np.zeros_like(self.b)
        for t in range(len(self.X) - 1, -1, -1):
            self.dWy += np.outer(self.H[t + 1], 2 * self.E[t])
            dh = dh + self.Wy @ (2 * self.E[t])
            dz = dh * (1 - self.H[t + 1] ** 2)
            self.dWx += np.outer(self.X[t], dz)
            self.dWh += np.outer(self.H[t], dz)
            self.db += dz
            dh = self.Wh @ dz
