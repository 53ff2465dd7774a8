"""Gradients clipped before they are handed out: declared, and clipped from one side by mistake.

"if gradient > c: gradient = c" leaves −100 as it is. Declared as clipping at ±c, it is reported;
the two-sided one passes.

    python examples/clipped_gradients.py
"""

import numpy as np
from bptt_crosscheck import check_gradients

CLIP = 0.5


def loss(xp, params, inputs):
    h, total = params["h_0"], 0.0
    for t in range(inputs["x"].shape[0]):
        h = xp.tanh(params["U"] @ h + inputs["x"][t])
        total = total + xp.sum((h - inputs["target"][t]) ** 2) / 2
    return total


def plain(params, inputs):
    U, h = params["U"], [params["h_0"]]
    for x in inputs["x"]:
        h.append(np.tanh(U @ h[-1] + x))
    dU, dh = np.zeros_like(U), np.zeros_like(h[0])
    for t in range(len(inputs["x"]), 0, -1):
        delta = (dh + h[t] - inputs["target"][t - 1]) * (1 - h[t] ** 2)
        dU += np.outer(delta, h[t - 1])
        dh = U.T @ delta
    return {"U": dU, "h_0": dh}


def clipped(params, inputs):
    found = plain(params, inputs)
    return {name: np.clip(gradient, -CLIP, CLIP) for name, gradient in found.items()}


def clipped_from_above(params, inputs):
    found = plain(params, inputs)
    return {name: np.where(gradient > CLIP, CLIP, gradient) for name, gradient in found.items()}


def example():
    rng = np.random.default_rng(0)
    params = {"U": rng.normal(size=(3, 3)), "h_0": rng.normal(size=3)}
    return params, {"x": rng.normal(size=(6, 3)), "target": rng.normal(size=(6, 3))}


if __name__ == "__main__":
    for title, gradients, convention in (
        ("clipped, not declared", clipped, None),
        ("clipped, declared", clipped, {"clip_value": CLIP}),
        ("clipped from above only, declared", clipped_from_above, {"clip_value": CLIP}),
    ):
        print(f"--- {title}")
        options = {"convention": convention, "raise_exception": False}
        print(check_gradients(gradients, loss, *example(), **options))
