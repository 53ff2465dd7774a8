"""Differences where the value has fewer digits than float64: near the derivative, by their own word."""

import numpy as np
import pytest
from bptt_crosscheck.reference.numeric import finite_difference, short_values

POINT = np.random.default_rng(0).normal(size=4)


def recurrence(dtype, shift=0.0, size=1.0):
    """A sum of states in a buffer of this dtype, and what is added to it in the same."""

    def value(named):
        states = np.zeros((6, 4), dtype=dtype)
        for t in range(5):
            states[t + 1] = np.tanh(0.3 * (t + 1) * named["x"] + 0.5 * states[t])
        total = np.sum(states, dtype=dtype) * np.asarray(size, dtype)
        return np.asarray(total + np.asarray(shift, dtype), dtype)

    return value


def asked(value):
    _, found, _, uncertainty, kinks, _ = finite_difference.gradients(value, {"x": POINT}, 0)
    return found["x"], uncertainty["x"], kinks


@pytest.mark.parametrize("size", [1.0, 1e-3])
@pytest.mark.parametrize("shift", [0.0, 5.0, 300.0])
def test_float32_inside(shift, size):
    true, _, _ = asked(recurrence(np.float64, 0.0, size))
    found, uncertainty, kinks = asked(recurrence(np.float32, shift, size))
    assert not kinks
    assert np.abs(found - true).max() < 8 * uncertainty
    roundoff = np.finfo(np.float32).eps * max(shift, 10 * size)
    assert uncertainty < 300 * roundoff


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_float16_inside(shift):
    true, _, _ = asked(recurrence(np.float64))
    found, uncertainty, kinks = asked(recurrence(np.float16, shift))
    assert not kinks
    assert np.abs(found - true).max() < 8 * uncertainty


def test_in_float64_nothing_changes():
    value = recurrence(np.float64)
    line, step = finite_difference._line(value, {"x": POINT}, "x", np.eye(4)[0])
    assert short_values.jumps_of(line, step) == 0
    _, uncertainty, _ = asked(value)
    assert uncertainty < 1e-10


SMOOTH = {
    "a sum of waves": lambda x: np.sin(3 * x) + np.cos(x),
    "a steep exponential": lambda x: np.exp(8 * x),
    "a constant": lambda x: 3.0 + 0 * x,
    "a kink": np.abs,
    "a small kink on a slope": lambda x: x + 1e-6 * np.abs(x),
    "a large constant": lambda x: 1e9 + x,
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_what_is_smooth_and_what_has_a_kink_does_not_jump(name, step):
    assert short_values.jumps_of(SMOOTH[name], step) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_jumps_are_those_of_the_dtype(dtype):
    def along(distance):
        return np.sin(1 + distance).astype(dtype).astype(float)

    sigma = short_values.jumps_of(along, 0.1)
    unit = float(np.spacing(dtype(0.8)))
    assert unit / 20 < sigma < unit


def test_the_slope_is_that_of_the_step_which_errs_least():
    sigma = 1e-6
    rng = np.random.default_rng(1)

    def along(distance):
        return np.sin(1 + distance) + rng.normal(size=np.shape(distance)) * sigma

    slope = short_values.slope(along, 0.1, sigma)
    assert abs(slope.value - np.cos(1)) < 5 * (slope.missed + slope.jumps)
    assert slope.jumps < 20 * sigma
