"""Weights, states and gradients are globals, which forward() and backward() read and write."""

import numpy as np

generator = np.random.default_rng(5)
U = generator.normal(size=(4, 3))
W = generator.normal(size=(4, 4)) / 2
V = generator.normal(size=(2, 4))
states = outputs = grad_u = grad_w = grad_v = None


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def forward(x):
    global states, outputs
    states, outputs = [np.zeros(len(W))], []
    for x_t in x:
        states.append(sigmoid(U @ x_t + W @ states[-1]))
        outputs.append(V @ states[-1])


def loss(y):
    return 0.5 * sum(np.sum((o - y_t) ** 2) for o, y_t in zip(outputs, y, strict=True)) / len(y)


def backward(x, y):
    global grad_u, grad_w, grad_v
    grad_u, grad_w, grad_v = np.zeros_like(U), np.zeros_like(W), np.zeros_like(V)
    carry = np.zeros(len(W))
    for t in reversed(range(len(x))):
        error = (outputs[t] - y[t]) / len(y)
        s = states[t + 1]
        grad_v += np.outer(error, s)
        delta = (V.T @ error + carry) * s * (1 - s)
        grad_u += np.outer(delta, x[t])
        grad_w += np.outer(delta, states[t])
        carry = W.T @ delta
