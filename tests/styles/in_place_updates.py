"""A training loop's body: it computes gradients and forgets them, weights change where they are."""

import numpy as np


def make_weights(seed=4):
    rng = np.random.default_rng(seed)
    return {
        "layers": [
            {"W": rng.normal(size=(3, 2)), "U": rng.normal(size=(3, 3)) / 2},
            {"W": rng.normal(size=(3, 3))},
        ]
    }


def predict(weights, xs):
    recurrent, top = weights["layers"]
    h = [np.zeros(3)]
    for x in xs:
        h.append(np.tanh(recurrent["W"] @ x + recurrent["U"] @ h[-1]))
    return h, top["W"] @ h[-1]


def squared_error(weights, xs, y):
    return np.sum((predict(weights, xs)[1] - y) ** 2) / 2


def train_on(weights, xs, y, eta):
    recurrent, top = weights["layers"]
    h, prediction = predict(weights, xs)
    dh = top["W"].T @ (prediction - y)
    top["W"] -= eta * np.outer(prediction - y, h[-1])
    dW, dU = np.zeros((3, 2)), np.zeros((3, 3))
    for t in range(len(xs), 0, -1):
        dz = dh * (1 - h[t] ** 2)
        dW += np.outer(dz, xs[t - 1])
        dU += np.outer(dz, h[t - 1])
        dh = recurrent["U"].T @ dz
    recurrent["W"] -= eta * dW
    recurrent["U"] -= eta * dU
