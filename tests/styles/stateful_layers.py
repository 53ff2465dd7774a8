"""Layers that remember: forward() pushes what backward() pops; the state is carried on."""

import numpy as np


class Linear:
    def __init__(self, n_in, n_out, rng):
        self.W = rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)
        self.zero_grad()

    def zero_grad(self):
        self.grad, self.memory = np.zeros(self.W.shape), []

    def forward(self, x):
        self.memory.append(x)
        return self.W @ x

    def backward(self, dy):
        self.grad += np.outer(dy, self.memory.pop())
        return self.W.T @ dy


class Tanh:
    def __init__(self):
        self.zero_grad()

    def zero_grad(self):
        self.memory = []

    def forward(self, x):
        self.memory.append(np.tanh(x))
        return self.memory[-1]

    def backward(self, dy):
        return dy * (1 - self.memory.pop() ** 2)


class Model:
    def __init__(self, n_in, n_hidden, n_out, seed=0):
        rng = np.random.default_rng(seed)
        self.embed, self.recur = Linear(n_in, n_hidden, rng), Linear(n_hidden, n_hidden, rng)
        self.read = Linear(n_hidden, n_out, rng)
        self.tanh = Tanh()
        self.reset()

    def reset(self):
        self.h = np.full(self.recur.W.shape[0], 0.1)

    def loss(self, xs, ys):
        for layer in (self.embed, self.recur, self.read, self.tanh):
            layer.zero_grad()
        self.errors = []
        for x, y in zip(xs, ys, strict=True):
            self.h = self.tanh.forward(self.embed.forward(x) + self.recur.forward(self.h))
            self.errors.append(self.read.forward(self.h) - y)
        return sum(np.sum(error**2) for error in self.errors) / 2

    def backward(self):
        dh = 0.0
        for error in reversed(self.errors):
            da = self.tanh.backward(self.read.backward(error) + dh)
            self.embed.backward(da)
            dh = self.recur.backward(da)
