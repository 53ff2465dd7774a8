"""A layer without a loss: its vector-Jacobian product, under random cotangents on each output.

That the last state is also handed out alone is where many layers go wrong: its cotangent must be
added in.

    python comparisons/report.py check examples/vjp_without_loss.py
"""

import numpy as np
from bptt_crosscheck import check_vjp


def function(xp, params, inputs):
    """Leaky integrator h_t = (1 − α) h_{t−1} + α tanh(W x_t + U h_{t−1}), α = σ(a); x (T, B, I)."""
    alpha, h, states = 1 / (1 + xp.exp(-params["a"])), inputs["h_0"], []
    for t in range(inputs["x"].shape[0]):
        h = (1 - alpha) * h + alpha * xp.tanh(inputs["x"][t] @ params["W"].T + h @ params["U"].T)
        states.append(h)
    return {"states": xp.stack(states), "last": h}


def vjp(params, inputs, cotangents):
    """From cotangents, in the form of function's outputs, to the gradients of all that goes in."""
    W, U, x = params["W"], params["U"], inputs["x"]
    alpha = 1 / (1 + np.exp(-params["a"]))
    h, n = [inputs["h_0"]], []
    for x_t in x:
        n.append(np.tanh(x_t @ W.T + h[-1] @ U.T))
        h.append((1 - alpha) * h[-1] + alpha * n[-1])
    dW, dU, d_alpha, dx = np.zeros_like(W), np.zeros_like(U), np.zeros_like(alpha), np.zeros_like(x)
    dh = cotangents["last"]
    for t in reversed(range(len(x))):
        dh = dh + cotangents["states"][t]
        d_alpha += np.sum(dh * (n[t] - h[t]), axis=0)
        delta = dh * alpha * (1 - n[t] ** 2)
        dW += delta.T @ x[t]
        dU += delta.T @ h[t]
        dx[t] = delta @ W
        dh = dh * (1 - alpha) + delta @ U
    return {"W": dW, "U": dU, "a": d_alpha * alpha * (1 - alpha), "x": dx, "h_0": dh}


def example():
    rng = np.random.default_rng(0)
    params = {
        "W": rng.normal(size=(4, 3)),
        "U": rng.normal(scale=0.5, size=(4, 4)),
        "a": rng.normal(size=4),
    }
    return params, {"x": rng.normal(size=(6, 2, 3)), "h_0": rng.normal(size=(2, 4))}


if __name__ == "__main__":
    print(check_vjp(vjp, function, *example()))
