"""A derivation under pytest: the plugin comes with the package, its fixture is gradient_oracle.

Each test has a seed of its own, which it tells when it fails. --oracle-report DIR writes every
check to DIR/oracle.json.

    pytest examples/test_with_pytest.py
"""

import numpy as np
import pytest


class Residual:
    """h′ = h + α tanh(W x + U h)."""

    def __init__(self, alpha):
        self.alpha = alpha

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (hidden_size, input_size), "U": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def step(self, xp, params, state, x):
        n = xp.tanh(x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": state["h"] + self.alpha * n}, (x, state["h"], n)

    def step_backward(self, params, cache, d_state):
        x, h, n = cache
        dh = d_state["h"]
        delta = self.alpha * dh * (1 - n**2)
        d_params = {"W": delta.T @ x, "U": delta.T @ h}
        return d_params, delta @ params["W"], {"h": dh + delta @ params["U"]}


class WithoutSkip(Residual):
    """The same, with the way around tanh forgotten in the backward."""

    def step_backward(self, params, cache, d_state):
        d_params, d_x, previous = super().step_backward(params, cache, d_state)
        return d_params, d_x, {"h": previous["h"] - d_state["h"]}


@pytest.mark.parametrize("alpha", [1.0, 0.1])
@pytest.mark.parametrize("steps", [1, 9])
def test_residual_cell(gradient_oracle, alpha, steps):
    gradient_oracle.check_cell(Residual(alpha), steps=steps)


def test_a_forgotten_skip_connection_is_seen(gradient_oracle):
    report = gradient_oracle.check_cell(WithoutSkip(0.1), steps=3, raise_exception=False)
    assert not report.passed
    wrong = [row.output for row in report.cases[0].local if not row.passed]
    assert wrong == ["d_state_prev['h']"]


def test_gradient_of_a_loss(gradient_oracle):
    gradient_oracle.check_gradients(
        lambda params, inputs: {"w": inputs["x"] * np.cos(params["w"] * inputs["x"])},
        lambda xp, params, inputs: xp.sum(xp.sin(params["w"] * inputs["x"])),
        {"w": np.array([0.3, -1.2])},
        {"x": np.array([2.0, 0.7])},
    )
