"""Code that draws random numbers: setup(), before every evaluation, puts the generator back.

Without it the same question is answered differently each time, and the check says so instead of
judging a gradient.

    python comparisons/report.py check examples/dropout_with_setup.py
"""

import numpy as np
from bptt_crosscheck import check_gradients

rng = np.random.default_rng()


def setup():
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def forward(params, x):
    """States and masks of h_t = m_t ⊙ tanh(W x_t + U h_{t−1}), m_t the dropout mask."""
    h, masks = [np.zeros(len(params["U"]))], []
    for x_t in x:
        masks.append((rng.random(len(h[0])) < 0.7) / 0.7)
        h.append(masks[-1] * np.tanh(params["W"] @ x_t + params["U"] @ h[-1]))
    return h, masks


def loss(params, inputs):
    h, _ = forward(params, inputs["x"])
    return np.sum(np.square(h[1:])) / 2


def gradients(params, inputs):
    x = inputs["x"]
    h, masks = forward(params, x)
    dW, dU, dh = np.zeros_like(params["W"]), np.zeros_like(params["U"]), np.zeros_like(h[0])
    for t in range(len(x), 0, -1):
        n = np.tanh(params["W"] @ x[t - 1] + params["U"] @ h[t - 1])
        delta = (dh + h[t]) * masks[t - 1] * (1 - n**2)
        dW += np.outer(delta, x[t - 1])
        dU += np.outer(delta, h[t - 1])
        dh = params["U"].T @ delta
    return {"W": dW, "U": dU}


def example():
    random = np.random.default_rng(1)
    params = {"W": random.normal(size=(5, 3)), "U": random.normal(scale=0.5, size=(5, 5))}
    return params, {"x": random.normal(size=(6, 3))}


if __name__ == "__main__":
    print(check_gradients(gradients, loss, *example(), setup=setup))
