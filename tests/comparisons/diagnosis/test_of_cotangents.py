"""What step_backward makes of the cotangent of one part of the state."""

import numpy as np
import pytest
from bptt_crosscheck import check_cell
from bptt_crosscheck.comparisons.judging.findings import Mistake


class TwoStates:
    """c = x W, h = tanh(c + h_prev U + c_prev)."""

    def __init__(self, mistake=None):
        self.mistake = mistake

    def parameter_shapes(self, I, H):  # noqa: E741
        return {"W": (H, I), "U": (H, H)}

    def state_shapes(self, H):
        return {"h": (H,), "c": (H,)}

    def step(self, xp, params, state, x):
        c = xp.tanh(x @ params["W"].T + state["c"])
        h = xp.tanh(c + state["h"] @ params["U"].T)
        return {"h": h, "c": c}, (x, state["h"], h, c)

    def step_backward(self, params, cache, d_state):
        x, h_prev, h, c = cache
        delta_h = d_state["h"] * (1 - h**2)
        delta_c = (d_state["c"] + delta_h) * (1 - c**2)
        if self.mistake == "c after the derivative":
            delta_c = d_state["c"] + delta_h * (1 - c**2)
        if self.mistake == "h forgotten":
            delta_c = d_state["c"] * (1 - c**2)
        if self.mistake == "both":
            delta_c = 2 * delta_c
        d_params = {"W": delta_c.T @ x, "U": delta_h.T @ h_prev}
        d_x = delta_c @ params["W"]
        return d_params, d_x, {"h": delta_h @ params["U"], "c": delta_c}


def named(mistake):
    report = check_cell(TwoStates(mistake), raise_exception=False)
    found = [each for each in report.cases[0].diagnosis if each.mistake is Mistake.COTANGENT]
    return report.passed, [each.text for each in found]


def test_right_code_has_nothing_told():
    assert named(None) == (True, [])


@pytest.mark.parametrize(
    ("mistake", "part"), [("c after the derivative", "c"), ("h forgotten", "h")]
)
def test_the_part_whose_cotangent_is_at_fault(mistake, part):
    passed, (text,) = named(mistake)
    assert not passed
    assert f"where d_state['{part}'] is zero" in text


def test_a_mistake_in_both_is_in_neither():
    assert named("both") == (False, [])


class WithoutX(TwoStates):
    """Nobody needs the gradient of x."""

    def step_backward(self, params, cache, d_state):
        d_params, _, previous = super().step_backward(params, cache, d_state)
        return d_params, None, previous


def test_none_for_d_x_is_not_checked_and_said():
    report = check_cell(WithoutX())
    assert report.passed
    assert "None for d_x: the gradient of x is not checked" in str(report)
    assert all("x" in case.not_given for case in report.cases)
    wrong = check_cell(WithoutX("h forgotten"), raise_exception=False)
    assert {row.gradient for row in wrong.rows if not row.passed} >= {"W"}
    assert np.isfinite([row.max_abs_error for row in wrong.rows]).all()


class SometimesX(TwoStates):
    calls = 0

    def step_backward(self, params, cache, d_state):
        self.calls += 1
        d_params, d_x, previous = super().step_backward(params, cache, d_state)
        return d_params, None if self.calls % 2 else d_x, previous


def test_none_at_one_step_and_an_array_at_another_is_refused():
    report = check_cell(SometimesX(), raise_exception=False)
    assert "an array at one step, and None at another" in str(report.errors[0])
