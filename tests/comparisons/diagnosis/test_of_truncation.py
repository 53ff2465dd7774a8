"""A run back that was cut is named by its window; nothing else is."""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, Unrolled, check_gradients
from bptt_crosscheck.comparisons.judging.findings import Mistake

X = {"x": np.array([0.3, -0.5, 0.9, 0.2, -0.7, 0.4])}
PARAMS = {"w": 0.7, "u": 1.1}


def loss():
    return Unrolled(
        lambda xp, p, i: {"h": xp.zeros(())},
        lambda xp, p, s, at: {"h": xp.tanh(p["w"] * at["x"] + p["u"] * s["h"])},
        lambda xp, p, s, at: s["h"],
    )


def gradients(window, factor=1.0):
    def derived(params, inputs):
        w, u, x, h = params["w"], params["u"], inputs["x"], [0.0]
        for x_t in x:
            h.append(np.tanh(w * x_t + u * h[-1]))
        dw = du = 0.0
        for t in range(len(x), 0, -1):
            d = 1 - h[t] ** 2
            for k in range(t, max(0, t - window - 1), -1):
                dw, du = dw + d * x[k - 1], du + d * h[k - 1]
                d *= u * (1 - h[k - 1] ** 2)
        return {"w": dw, "u": factor * du}

    return derived


def findings(derived):
    with pytest.raises(GradientMismatch):
        check_gradients(derived, loss(), PARAMS, X)
    report = check_gradients(derived, loss(), PARAMS, X, raise_exception=False)
    return [each for each in report.cases[0].diagnosis if each.mistake is Mistake.TRUNCATION]


@pytest.mark.parametrize("window", [0, 1, 2, 4])
def test_the_window_is_named(window):
    (found,) = findings(gradients(window))
    assert f"truncation {window}:" in found.text
    assert check_gradients(
        gradients(window), loss(), PARAMS, X, convention={"truncation": window}
    ).passed


def test_a_window_as_long_as_the_sequence_cuts_nothing():
    assert check_gradients(gradients(5), loss(), PARAMS, X).passed


def test_another_mistake_is_no_truncation():
    assert findings(gradients(2, factor=1.01)) == []
    assert findings(gradients(6, factor=1.01)) == []
