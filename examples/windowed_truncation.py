"""Truncated backpropagation is no gradient of the loss: the convention declares what it is.

The loop `for k in range(t, max(0, t − K) − 1, −1)` visits K + 1 steps, its own and K earlier ones;
{"truncation": K} means that. Change the declared K by one, and dU and dW are reported as wrong.

    python comparisons/report.py check examples/windowed_truncation.py
"""

import numpy as np
from bptt_crosscheck import Unrolled, check_gradients

BPTT_TRUNCATE = 2
convention = {"truncation": BPTT_TRUNCATE}


def gradients(params, inputs):
    """s_t = tanh(U x_t + W s_{t−1}), ŷ_t = softmax(V s_t), for one-hot x_t."""
    U, V, W = params["U"], params["V"], params["W"]
    x, y = inputs["x"], inputs["y"]
    T = len(x)
    s = np.zeros((T + 1, len(U)))  # s[-1] is the initial state
    o = np.zeros((T, len(V)))
    for t in range(T):
        s[t] = np.tanh(U[:, x[t]] + W @ s[t - 1])
        o[t] = np.exp(V @ s[t])
        o[t] /= o[t].sum()
    dU, dV, dW = np.zeros_like(U), np.zeros_like(V), np.zeros_like(W)
    delta_o = o.copy()
    delta_o[np.arange(T), y] -= 1.0
    for t in reversed(range(T)):
        dV += np.outer(delta_o[t], s[t])
        delta = (V.T @ delta_o[t]) * (1 - s[t] ** 2)
        for k in range(t, max(0, t - BPTT_TRUNCATE) - 1, -1):
            dW += np.outer(delta, s[k - 1])
            dU[:, x[k]] += delta
            delta = (W.T @ delta) * (1 - s[k - 1] ** 2)
    return {"U": dU, "V": dV, "W": dW}


# The loss by its step, so that it is known where to cut:


def initial(xp, params, inputs):  # noqa: ARG001
    return {"s": xp.zeros(params["W"].shape[0])}


def step(xp, params, state, at):
    return {"s": xp.tanh(params["U"][:, at["x"]] + params["W"] @ state["s"])}


def step_loss(xp, params, state, at):
    logits = params["V"] @ state["s"]
    return xp.log(xp.sum(xp.exp(logits))) - logits[at["y"]]


loss = Unrolled(initial, step, step_loss, sequence=("x", "y"))


def example():
    rng = np.random.default_rng(0)
    params = {
        "U": rng.normal(size=(4, 6)),
        "V": rng.normal(size=(6, 4)),
        "W": rng.normal(scale=0.5, size=(4, 4)),
    }
    return params, {
        "x": np.array([0, 3, 5, 3, 1, 2, 3, 4]),
        "y": np.array([3, 5, 3, 1, 2, 3, 4, 0]),
    }


if __name__ == "__main__":
    print(check_gradients(gradients, loss, *example(), convention=convention))
