"""What a derivation's own rounding explains, and that it excuses no mistake."""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients
from bptt_crosscheck.comparisons.judging.own_rounding import in_longdouble

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > np.finfo(np.float64).eps / 1000,
    reason="longdouble is no wider than float64 on this platform",
)


class Saturated:
    """h_t = σ(W x_t + U h_{t−1} + b) with b so large that σ is within 1e-11 of 1; σ′ as the
    textbook has it, σ (1 − σ).
    """

    bias = 25.0

    def parameter_shapes(self, input_size, hidden_size):
        return {
            "W": (hidden_size, input_size),
            "U": (hidden_size, hidden_size),
            "b": (hidden_size,),
        }

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def initialise(self, rng, input_size, hidden_size, batch):
        return {"b": np.full(hidden_size, self.bias)}

    def step(self, xp, params, state, x):
        z = x @ params["W"].T + state["h"] @ params["U"].T + params["b"]
        s = 1 / (1 + xp.exp(-z))
        return {"h": s}, {"s": s, "h": state["h"], "x": x}

    def slope(self, s):
        return s * (1 - s)

    def step_backward(self, params, cache, d_state):
        delta = d_state["h"] * self.slope(cache["s"])
        d_params = {"W": delta.T @ cache["x"], "U": delta.T @ cache["h"], "b": delta.sum(axis=0)}
        return d_params, delta @ params["W"], {"h": delta @ params["U"]}


class WithMistake(Saturated):
    """The same with a slope that is off by a thousandth, in every precision."""

    def slope(self, s):
        return 1.001 * s * (1 - s)


class InSingle(Saturated):
    """The same computed in float32, whatever it is given."""

    def slope(self, s):
        return super().slope(s.astype(np.float32)).astype(s.dtype)


class NoLongdouble(Saturated):
    """The same, as code that refuses longdouble."""

    def slope(self, s):
        if s.dtype == np.longdouble:
            raise TypeError("float64 only")
        return super().slope(s)


class InDoubleAlone(Saturated):
    """The same with a mistake on the path of float64, which longdouble and float32 do not take."""

    def slope(self, s):
        return super().slope(s) * (1.001 if s.dtype == np.float64 else 1.0)


ASKED = {"references": ["torch"], "steps": 4}


def test_digits_that_cancel_are_the_code_s_own_rounding():
    report = check_cell(Saturated(), **ASKED)
    assert report.passed
    assert "the code's own rounding explains the difference in W" in str(report)
    row = next(row for row in report.rows if row.gradient == "W")
    assert 1e-8 < row.max_rel_error < 1e-2
    assert row.error_over_noise <= 1.5


@pytest.mark.parametrize("cell", [WithMistake, InSingle, NoLongdouble, InDoubleAlone])
def test_a_mistake_is_there_in_longdouble_too(cell):
    made = cell()
    made.bias = {InSingle: 5.0, InDoubleAlone: 0.0}.get(cell, 25.0)
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_cell(made, **ASKED)


def test_all_zero_never_passes():
    """σ = 1 to the last bit, in longdouble as well as in float64."""
    cell = Saturated()
    cell.bias = 60.0
    with pytest.raises(GradientMismatch, match="all zero"):
        check_cell(cell, **ASKED)


def test_a_function_has_the_second_look_too():
    x = np.linspace(24, 26, 5)

    def loss(xp, p, i):
        return xp.sum(i["c"] / (1 + xp.exp(-p["z"])))

    def slope(p, i, factor=1.0):
        s = 1 / (1 + np.exp(-p["z"]))
        return {"z": factor * i["c"] * s * (1 - s)}

    given = ({"z": x}, {"c": np.arange(1.0, 6.0)})
    assert "own rounding" in str(check_gradients(slope, loss, *given))
    with pytest.raises(GradientMismatch):
        check_gradients(lambda p, i: slope(p, i, 1.001), loss, *given)


def test_what_is_asked_for_by_tolerance_has_none():
    with pytest.raises(GradientMismatch):
        check_cell(Saturated(), rtol=1e-12, **ASKED)


def test_a_lower_precision_has_none(trial):
    problem = trial("tanh").problem
    assert in_longdouble(problem, trial("tanh").candidate).gradients["W_hh"].dtype == np.longdouble
    assert in_longdouble(problem.in_precision("float32"), trial("tanh").candidate) is None
