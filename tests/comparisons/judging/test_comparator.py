"""One array against another: what passes, what does not, and which step is named."""

import math

import numpy as np
import pytest
from bptt_crosscheck.comparisons.judging.comparator import (
    Side,
    Walk,
    Yardstick,
    compare,
    ratios,
    reason_to_reject,
    step_errors,
)

LIMIT = 64.0


def judge(actual, expected, noise=1e-3, steps=(None, None), step_noise=None, first_step=1):
    values = (
        None if actual is None else np.array(actual, dtype=float),
        np.array(expected, dtype=float),
    )
    told = tuple(None if side is None else np.array(side, dtype=float) for side in steps)
    yardstick = Yardstick(
        noise, None if step_noise is None else np.array(step_noise, dtype=float), LIMIT
    )
    mine, theirs = (Side(value, shares) for value, shares in zip(values, told, strict=True))
    return compare("W_hh", "torch", mine, theirs, yardstick, Walk(first_step))


@pytest.mark.parametrize(
    ("error", "noise", "expected"),
    [
        (0.0, 0.0, 0.0),
        (0.0, math.nan, 0.0),
        (1.0, 0.0, math.inf),
        (1.0, 0.5, 2.0),
        (math.nan, 1.0, math.nan),
        (1.0, math.nan, math.nan),
    ],
)
def test_ratio(error, noise, expected):
    np.testing.assert_equal(float(ratios(np.array(error), noise)), expected)


def test_step_errors_are_the_largest_within_each_step():
    np.testing.assert_array_equal(
        step_errors(np.array([[1.0, 5.0], [2.0, 2.0]]), np.array([[1.0, 2.0], [2.5, 2.0]])),
        [3, 0.5],
    )


@pytest.mark.parametrize(
    ("actual", "expected", "reason"),
    [
        (None, [1.0], "missing"),
        ([1.0, 1.0], [1.0], "wrong shape: (2,) where (1,)"),
        ([[1.0]], [1.0], "wrong shape: (1, 1) where (1,)"),
        ([math.nan, 1.0], [1.0, 1.0], "not finite"),
        ([math.inf, 1.0], [1.0, 1.0], "not finite"),
        ([-math.inf, 1.0], [1.0, 1.0], "not finite"),
        ([math.nan, 1.0], [math.nan, 1.0], "not finite"),
        ([math.inf, 1.0], [math.inf, 1.0], "not finite"),
        ([1.0, 1.0], [math.nan, 1.0], "not finite in the reference"),
        ([1.0, 1.0], [1.0, math.inf], "not finite in the reference"),
    ],
)
def test_what_disqualifies_a_value_never_passes(actual, expected, reason):
    verdict = judge(actual, expected, noise=1e30)
    found = reason_to_reject(None if actual is None else np.array(actual), np.array(expected))
    assert (verdict.passed, verdict.kind) == (False, found)
    assert str(verdict.reason).startswith(reason)


@pytest.mark.parametrize(("noise", "reason"), [(0.0, "all zero"), (1e-3, "all zero"), (1.0, None)])
def test_zeros_are_wrong_where_the_reference_rises_above_the_noise(noise, reason):
    assert judge([0.0, 0.0], [1.0, 0.0], noise=noise).reason == reason


@pytest.mark.parametrize("value", [[0.0, 0.0], [1.0, -2.0], [-0.0, 5e-324]])
def test_equal_finite_values_pass_without_any_noise(value):
    verdict = judge(value, value, noise=0.0)
    assert verdict.passed
    assert verdict.reason is None
    assert verdict.error_over_noise == verdict.max_abs_error == verdict.max_rel_error == 0


@pytest.mark.parametrize(
    ("error", "passed"), [(64e-3, True), (-64e-3, True), (65e-3, False), (-65e-3, False)]
)
def test_the_limit_is_a_multiple_of_the_noise(error, passed):
    verdict = judge([error, 0.0], [0.0, 0.0])
    assert verdict.passed is passed
    assert verdict.reason == (None if passed else "differs")
    assert verdict.error_over_noise == pytest.approx(abs(error) / 1e-3)


@pytest.mark.parametrize("noise", [0.0, math.nan])
def test_an_error_passes_only_under_noise_that_is_known(noise):
    assert judge([1.0], [1.0 + 1e-15], noise=noise).reason == "differs"


def test_infinite_noise_explains_nothing():
    assert judge([1.0], [2.0], noise=math.inf).reason == "differs"


@pytest.mark.parametrize(
    ("actual", "expected", "noise"),
    [([1e308], [-1e308], 1.0), ([1.0], [2.0], 1e-320), ([1e-3], [0.0], 5e-324)],
)
def test_a_ratio_beyond_all_numbers_is_infinite(actual, expected, noise):
    verdict = judge(actual, expected, noise=noise, steps=(actual, expected), step_noise=[noise])
    assert (verdict.reason, verdict.error_over_noise, verdict.step_error_over_noise) == (
        "differs",
        math.inf,
        math.inf,
    )


def test_numbers_of_a_verdict():
    verdict = judge([[1.0, 2.0], [3.0, 4.5]], [[1.0, 2.0], [3.0, 4.0]])
    assert (verdict.gradient, verdict.reference, verdict.noise) == ("W_hh", "torch", 1e-3)
    assert verdict.max_abs_error == 0.5
    assert verdict.max_rel_error == 0.5 / 4
    assert verdict.error_over_noise == pytest.approx(500)
    assert verdict.worst_index == [1, 1]
    assert (verdict.candidate_value, verdict.reference_value) == (4.5, 4.0)
    assert verdict.step_error_over_noise is None
    assert verdict.first_wrong_step is None


def test_worst_index_of_nan_is_where_it_is():
    assert judge([1.0, 9.0, math.nan], [1.0, 2.0, 3.0]).worst_index == [2]


def test_a_scalar_has_an_index_too():
    verdict = judge(2.0, 1.0)
    assert (verdict.worst_index, verdict.candidate_value, verdict.passed) == ([], 2.0, False)


def test_an_error_where_the_reference_is_zero_is_infinitely_large_relatively():
    assert judge([1.0], [0.0]).max_rel_error == math.inf


def test_one_wrong_step_fails_although_the_whole_agrees():
    shares = [1.0, 1e-6, 1e-12], [1.0, 1e-6, 1.1e-12]
    verdict = judge([1.0], [1.0], noise=1e-16, steps=shares, step_noise=[1e-16, 1e-22, 1e-28])
    assert (verdict.reason, verdict.error_over_noise) == ("differs", 0)
    assert verdict.step_error_over_noise == pytest.approx(1e15)
    assert verdict.first_wrong_step == 3
    assert judge([1.0], [1.0], noise=1e-16).passed, "without steps it must go unseen"


@pytest.mark.parametrize(
    ("wrong", "first_step", "number"),
    [([0], 1, 1), ([0, 2], 1, 3), ([1], 0, 1), ([0], 0, 0), ([1, 2, 3], 1, 4)],
)
def test_first_wrong_step_is_the_last_in_time(wrong, first_step, number):
    actual = np.ones(4)
    actual[wrong] = 2
    verdict = judge(
        [1.0], [1.0], steps=(actual, np.ones(4)), step_noise=np.full(4, 1e-6), first_step=first_step
    )
    assert verdict.first_wrong_step == number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_a_step_that_is_not_finite_fails(value, sides):
    shares = [[1.0, value if side else 1.0, 1.0] for side in sides]
    verdict = judge([1.0], [1.0], steps=shares, step_noise=[1e-3] * 3)
    assert (verdict.passed, verdict.first_wrong_step) == (False, 2)
    assert verdict.worst_over_noise == math.inf


def test_shares_of_another_shape_fail():
    verdict = judge([1.0], [1.0], steps=([1.0, 1.0], [1.0]), step_noise=[1.0])
    assert (verdict.reason, verdict.step_error_over_noise) == ("differs", math.inf)


def test_noise_of_a_step_that_is_nan_fails():
    assert (
        judge([1.0], [1.0], steps=([1.0], [1.0 + 1e-15]), step_noise=[math.nan]).reason == "differs"
    )


@pytest.mark.parametrize("steps", [(None, [1.0]), ([5.0], None), (None, None)])
def test_a_side_that_does_not_tell_steps_is_judged_as_a_whole(steps):
    verdict = judge([1.0], [1.0], steps=steps, step_noise=[1e-3])
    assert verdict.passed
    assert verdict.step_error_over_noise is None
