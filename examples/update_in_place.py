"""Code that only updates its parameters in place: from_update reads gradients from the difference.

A learning rate of 1 loses the fewest digits in that subtraction.

    python comparisons/report.py check examples/update_in_place.py
"""

import numpy as np
from bptt_crosscheck import check_gradients, from_update

LEARNING_RATE = 1.0


def sgd_step(params, x, target, learning_rate):
    """One update of h_t = tanh(W x_t + U h_{t−1} + b), y = V h_T, towards the target; x (T, I)."""
    W, U, V, b = params["W"], params["U"], params["V"], params["b"]
    h = [np.zeros(len(b))]
    for x_t in x:
        h.append(np.tanh(W @ x_t + U @ h[-1] + b))
    error = V @ h[-1] - target
    dV, dh = np.outer(error, h[-1]), V.T @ error
    dW, dU, db = np.zeros_like(W), np.zeros_like(U), np.zeros_like(b)
    for t in range(len(x), 0, -1):
        delta = (1 - h[t] ** 2) * dh
        dW += np.outer(delta, x[t - 1])
        dU += np.outer(delta, h[t - 1])
        db += delta
        dh = U.T @ delta
    for weight, gradient in ((W, dW), (U, dU), (V, dV), (b, db)):
        weight -= learning_rate * gradient


def loss(xp, params, inputs):
    """½ ‖y − target‖², in operations that torch and jax have too."""
    h = xp.zeros(params["b"].shape[0])
    for t in range(inputs["x"].shape[0]):
        h = xp.tanh(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
    return xp.sum((params["V"] @ h - inputs["target"]) ** 2) / 2


gradients = from_update(
    lambda params, inputs: sgd_step(params, inputs["x"], inputs["target"], LEARNING_RATE),
    learning_rate=LEARNING_RATE,
)


def example():
    rng = np.random.default_rng(0)
    params = {
        "W": rng.normal(size=(4, 3)),
        "U": rng.normal(size=(4, 4)),
        "V": rng.normal(size=(2, 4)),
        "b": rng.normal(size=4),
    }
    return params, {"x": rng.normal(size=(5, 3)), "target": rng.normal(size=2)}


if __name__ == "__main__":
    print(check_gradients(gradients, loss, *example()))
