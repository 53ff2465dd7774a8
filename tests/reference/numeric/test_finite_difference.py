"""Differences at a kink: the middle, and half the gap.

Nothing else where the function is smooth.
"""

import numpy as np
import pytest
from bptt_crosscheck.reference.numeric import finite_difference
from scipy import differentiate

KINKS = {
    "relu at 0": (lambda a: np.maximum(a, 0.0), 0.0, 0.5, 0.5),
    "abs at 0": (np.abs, 0.0, 0.0, 1.0),
    "minus abs at 0": (lambda a: -3 * np.abs(a), 0.0, 0.0, 3.0),
    "a tie of max": (lambda a: np.maximum(2 * a, 1 + a), 1.0, 1.5, 0.5),
    "a small kink on a slope": (lambda a: np.exp(a) + 1e-5 * np.abs(a - 1), 1.0, np.e, 1e-5),
    "a kink of a large number": (lambda a: 1e6 + np.maximum(a, 0.0), 0.0, 0.5, 0.5),
}
SMOOTH = {
    "a straight line": (lambda a: 3 * a, 0.5),
    "a parabola at its minimum": (lambda a: a**2, 0.0),
    "exp": (np.exp, 1.5),
    "tanh, saturated": (np.tanh, 15.0),
    "a steep tanh": (lambda a: np.tanh(50 * a), 0.01),
    "a cube": (lambda a: a**3, 0.0),
    "a constant": (lambda a: 0 * a + 7.0, 1.0),
    "softplus at 0": (lambda a: np.logaddexp(0, 20 * a), 0.0),
    "relu beside 0": (lambda a: np.maximum(a, 0.0), 0.3),
    "a large number": (lambda a: 1e9 + np.sin(a), 2.0),
}


def asked(function, value):
    return finite_difference.gradients(
        lambda point: np.sum(function(point["w"])), {"w": np.asarray(value)}, 0
    )


@pytest.mark.parametrize(("function", "at", "middle", "half"), KINKS.values(), ids=KINKS)
def test_the_middle_and_half_the_gap(function, at, middle, half):
    _, found, _, uncertainty, kinks, _ = asked(function, at)
    assert abs(found["w"] - middle) <= uncertainty["w"] + 1e-9
    np.testing.assert_allclose(kinks["w"], half, rtol=1e-3)
    assert uncertainty["w"] < 0.02 * half


@pytest.mark.parametrize(("function", "at"), SMOOTH.values(), ids=SMOOTH)
def test_where_the_function_is_smooth_nothing_changes(function, at):
    _, found, _, _, kinks, _ = asked(function, at)
    assert kinks == {}
    step = 0.1 * max(1.0, abs(at))
    options = {"initial_step": step, "maxiter": 8, "tolerances": {"rtol": 1e-13, "atol": 0.0}}
    with np.errstate(all="ignore"):
        assert found["w"] == differentiate.derivative(function, at, **options).df


def test_random_smooth_functions_have_no_kinks():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.normal(size=(4, 3)), rng.normal(size=(4, 4))
        *_, kinks, kinked = finite_difference.gradients(
            lambda p, a=a, b=b: float(np.sum(np.tanh(b @ np.tanh(a @ p["w"])) ** 2)),
            {"w": rng.normal(size=3)},
            0,
        )
        assert kinks == kinked == {}


def test_the_entry_that_stands_at_it_is_known():
    *_, kinks, _ = asked(lambda w: np.sum(np.maximum(w, 0.0)), np.array([[1.0, 0.0], [-1.0, 2.0]]))
    np.testing.assert_allclose(kinks["w"], [[0, 0.5], [0, 0]], atol=1e-9)


def test_four_values_more_where_the_function_is_smooth():
    calls = []

    def counted(point):
        calls.append(point)
        return float(np.exp(point["w"]))

    finite_difference.gradients(counted, {"w": np.array(1.0)}, 0)
    with_looking = len(calls)
    calls.clear()
    differentiate.derivative(
        lambda d: np.array([counted({"w": 1.0 + x}) for x in np.ravel(d)]).reshape(np.shape(d)),
        0.0,
        initial_step=0.1,
        maxiter=8,
        tolerances={"rtol": 1e-13, "atol": 0.0},
    )
    assert with_looking <= len(calls) + 4 + 2, "and the value itself"


def test_large_arrays_are_looked_at_beside_their_kinks_and_at_some_of_them_alone():
    """Directions leave the entries at a kink out; what is right of the others is not widened."""
    signs = np.where(np.arange(100) < 30, -1.0, 1.0)
    at = np.where(np.arange(100) % 3 == 0, 0.0, 1.0)
    _, found, directions, _, kinks, kinked = asked(lambda w: np.sum(signs * np.maximum(w, 0.0)), at)
    np.testing.assert_allclose(kinked["w"], np.where(at == 0, 0.5, 0.0), atol=1e-6)
    smooth = np.abs(directions["w"]).sum(axis=1) > 1
    assert not (directions["w"][smooth][:, at == 0]).any()
    assert not kinks["w"][smooth].any()
    assert (~smooth).any()
    np.testing.assert_allclose(kinks["w"][~smooth], 0.5, rtol=1e-3)
    for choice in (0.0, 1.0):
        given = np.where(at == 0, choice, 1.0) * signs
        assert (np.abs(directions["w"] @ given - found["w"]) <= kinks["w"] + 1e-6).all()


def test_where_all_entries_stand_at_a_kink_some_are_looked_at_alone():
    _, _, directions, _, kinks, kinked = asked(lambda w: np.sum(np.abs(w)), np.zeros(100))
    assert (kinked["w"] > 0.9).all()
    assert len(directions["w"]) == len(kinks["w"]) == finite_difference.DIRECTIONS
