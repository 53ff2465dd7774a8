"""References leave nothing on the objects of a user's: neither tensors, nor states."""

import numpy as np
import pytest
from bptt_crosscheck import check_cell, check_gradients


class Remembering:
    """A cell that keeps what it computed."""

    def __init__(self):
        self.seen = []
        self.last = np.zeros(1)

    def parameter_shapes(self, I, H):  # noqa: E741
        return {"W": (H, I), "U": (H, H)}

    def state_shapes(self, H):
        return {"h": (H,)}

    def step(self, xp, params, state, x):
        h = xp.tanh(x @ params["W"].T + state["h"] @ params["U"].T)
        self.last = h
        self.seen.append(type(h))
        return {"h": h}, (x, state["h"], h)

    def step_backward(self, params, cache, d_state):
        x, h_prev, h = cache
        delta = (1 - h**2) * d_state["h"]
        d_params = {"W": delta.T @ x, "U": delta.T @ h_prev}
        return d_params, delta @ params["W"], {"h": delta @ params["U"]}


@pytest.mark.parametrize("references", [None, ["torch"], ["jax"], ["complex step", "differences"]])
def test_a_cell_keeps_arrays_of_numpy_alone(references):
    cell = Remembering()
    assert check_cell(cell, references=references).passed
    assert set(cell.seen) == {np.ndarray}
    assert type(cell.last) is np.ndarray
    assert cell.last.dtype == np.float64


class Net:
    def __init__(self):
        self.w, self.calls, self.y = np.ones(3), 0, None

    def loss(self, xp, params, inputs):
        self.calls += 1
        self.w, self.y = params["w"], xp.tanh(params["w"] * inputs["x"])
        return xp.sum(self.y)


@pytest.mark.parametrize("references", [None, ["torch"], ["jax"], ["complex step", "differences"]])
def test_an_object_in_a_loss_keeps_arrays_of_numpy_alone(references):
    net, given = Net(), {"w": np.array([0.3, -0.2, 0.5])}
    x = {"x": np.array([1.0, 2.0, 3.0])}

    def loss(xp, params, inputs):
        return net.loss(xp, params, inputs)

    def gradients(params, inputs):
        return {"w": inputs["x"] * (1 - np.tanh(params["w"] * inputs["x"]) ** 2)}

    assert check_gradients(gradients, loss, given, x, references=references).passed
    assert type(net.w) is type(net.y) is np.ndarray
    assert net.w.dtype == np.float64
