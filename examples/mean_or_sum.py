"""A loss summed over time beside gradients of its mean: the check names the factor between them.

Declared as a convention, {"scale": "1/T"}, it passes; T is the length of the input called x.

    python examples/mean_or_sum.py
"""

import numpy as np
from bptt_crosscheck import check_gradients


def loss(xp, params, inputs):
    """Σ_t ½ (y_t − target_t)² with y_t = v·h_t, h_t = tanh(w x_t + u h_{t−1}), all elementwise."""
    h, total = xp.zeros_like(params["w"]), 0.0
    for t in range(inputs["x"].shape[0]):
        h = xp.tanh(params["w"] * inputs["x"][t] + params["u"] * h)
        total = total + (xp.sum(params["v"] * h) - inputs["target"][t]) ** 2 / 2
    return total


def gradients(params, inputs):
    """Those of the mean over time."""
    w, u, v, x, target = params["w"], params["u"], params["v"], inputs["x"], inputs["target"]
    T, h = len(x), [np.zeros_like(w)]
    for x_t in x:
        h.append(np.tanh(w * x_t + u * h[-1]))
    dw, du, dv, dh = np.zeros_like(w), np.zeros_like(u), np.zeros_like(v), np.zeros_like(w)
    for t in range(T, 0, -1):
        error = (np.sum(v * h[t]) - target[t - 1]) / T
        dv += error * h[t]
        delta = (dh + error * v) * (1 - h[t] ** 2)
        dw += delta * x[t - 1]
        du += delta * h[t - 1]
        dh = u * delta
    return {"w": dw, "u": du, "v": dv}


def example():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=4) for name in "wuv"}
    return params, {"x": rng.normal(size=7), "target": rng.normal(size=7)}


if __name__ == "__main__":
    print(check_gradients(gradients, loss, *example(), raise_exception=False))
    print("--- declared")
    print(check_gradients(gradients, loss, *example(), convention={"scale": "1/T"}))
