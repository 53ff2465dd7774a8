"""A torch.autograd.Function with a backward written by hand, on trial: from_torch.

Torch differentiates everything around it; only the cell's backward can be wrong, and in it any of
six gradients.

    python comparisons/report.py check examples/torch_autograd_function_lstm.py
"""

import numpy as np
import torch
from bptt_crosscheck import check_gradients, from_torch


class LSTMCell(torch.autograd.Function):
    """(h′, c′) of x, h, c; gates stacked in the order i, f, g, o."""

    @staticmethod
    def forward(ctx, x, h, c, W, U, b):
        i, f, g, o = (x @ W.T + h @ U.T + b).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        new_c = f * c + i * g
        ctx.save_for_backward(x, h, c, W, U, i, f, g, o, new_c)
        return o * torch.tanh(new_c), new_c

    @staticmethod
    def backward(ctx, dh, dc):
        x, h, c, W, U, i, f, g, o, new_c = ctx.saved_tensors
        tanh_c = torch.tanh(new_c)
        dc = dc + dh * o * (1 - tanh_c**2)  # both arrive at every step
        gates = (
            dc * g * i * (1 - i),
            dc * c * f * (1 - f),
            dc * i * (1 - g**2),
            dh * tanh_c * o * (1 - o),
        )
        delta = torch.cat(gates, dim=-1)
        return delta @ W, delta @ U, dc * f, delta.T @ x, delta.T @ h, delta.sum(0)


def loss_through_my_cell(params, inputs):
    """Torch tensors in, a scalar tensor out, by the cell above."""
    h, c, total = inputs["h"], inputs["c"], 0.0
    for x, weight in zip(inputs["x"], inputs["weight"], strict=True):
        h, c = LSTMCell.apply(x, h, c, params["W"], params["U"], params["b"])
        total = total + (weight * h).sum()
    return total + (c**2).sum() / 2


gradients = from_torch(loss_through_my_cell)


def loss(xp, params, inputs):
    """The same mathematics in plain operations."""
    h, c, H, total = inputs["h"], inputs["c"], inputs["h"].shape[-1], 0.0
    for t in range(inputs["x"].shape[0]):
        z = inputs["x"][t] @ params["W"].T + h @ params["U"].T + params["b"]
        i, f, o = (1 / (1 + xp.exp(-z[:, k * H : (k + 1) * H])) for k in (0, 1, 3))
        c = f * c + i * xp.tanh(z[:, 2 * H : 3 * H])
        h = o * xp.tanh(c)
        total = total + xp.sum(inputs["weight"][t] * h)
    return total + xp.sum(c**2) / 2


def example():
    rng = np.random.default_rng(0)
    steps, batch, inputs, hidden = 5, 2, 3, 4
    weights = {"W": (4 * hidden, inputs), "U": (4 * hidden, hidden), "b": (4 * hidden,)}
    states = {"h": (batch, hidden), "c": (batch, hidden)}
    data = {"x": (steps, batch, inputs), "weight": (steps, batch, hidden)} | states
    params = {name: rng.normal(scale=0.6, size=shape) for name, shape in weights.items()}
    return params, {name: rng.normal(size=shape) for name, shape in data.items()}


if __name__ == "__main__":
    print(check_gradients(gradients, loss, *example()))
