"""φ and φ′ against torch, jax and the complex step."""

import array_api_compat.torch as torch_namespace
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual.activations import (
    ACTIVATIONS,
    sigmoid_and_complement,
    sigmoid_derivative,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.closeness import ROUNDING, relative_error

TORCH = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "identity": torch.clone,
    "softplus": lambda z: functional.softplus(z, threshold=500),
    "positive": lambda z: torch.where(z >= 0, z + 0.5, torch.sigmoid(z)),
}
JAX = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "identity": jnp.asarray,
    "softplus": jax.nn.softplus,
    "positive": lambda z: jnp.where(z >= 0, z + 0.5, jax.nn.sigmoid(z)),
}
NET_INPUTS = np.array([-4.0, -1.5, -0.3, -1e-9, 1e-9, 0.2, 1.0, 3.7])
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def value_and_slope(name, z):
    value = ACTIVATIONS[name].value(np, z)
    return value, ACTIVATIONS[name].derivative(z, value)


def value_and_slope_by_torch(name, z):
    leaf = torch.tensor(z, requires_grad=True)
    value = TORCH[name](leaf)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach().numpy(), slope.numpy()


def slope_by_jax(name, z):
    with jax.enable_x64(True):
        return np.asarray(jax.grad(lambda z: JAX[name](z).sum())(jnp.asarray(z)))


@every_activation
def test_value_and_derivative_equal_torch_number_by_number(name):
    for found, expected in zip(
        value_and_slope(name, NET_INPUTS), value_and_slope_by_torch(name, NET_INPUTS), strict=True
    ):
        assert relative_error(found, expected, separately=1) <= ROUNDING


@every_activation
def test_derivative_equals_jax_number_by_number(name):
    assert (
        relative_error(
            value_and_slope(name, NET_INPUTS)[1], slope_by_jax(name, NET_INPUTS), separately=1
        )
        <= ROUNDING
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(ACTIVATIONS)), z=st.lists(st.floats(-5, 5), min_size=1, max_size=6)
)
def test_value_and_derivative_equal_torch_anywhere(name, z):
    for found, expected in zip(
        value_and_slope(name, np.array(z)), value_and_slope_by_torch(name, np.array(z)), strict=True
    ):
        assert relative_error(found, expected) <= ROUNDING


@pytest.mark.parametrize(
    ("name", "mistaken_slope"),
    [
        pytest.param("tanh", lambda z, value: 1 - z * z, id="tanh of the net input"),
        pytest.param("tanh", lambda z, value: 1 - value, id="tanh without the square"),
        pytest.param("sigmoid", lambda z, value: value * (1 - z), id="sigmoid of the net input"),
        pytest.param("relu", lambda z, value: value, id="relu's value"),
        pytest.param("identity", lambda z, value: z, id="identity's value"),
        pytest.param(
            "softplus",
            lambda z, value: sigmoid_derivative(z, value),
            id="softplus differentiated twice",
        ),
        pytest.param("positive", lambda z, value: value, id="positive's value"),
    ],
)
def test_a_mistaken_derivative_is_far_from_torch(name, mistaken_slope):
    value, expected = value_and_slope_by_torch(name, NET_INPUTS)
    assert relative_error(mistaken_slope(NET_INPUTS, value), expected) > 0.1


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_relu_has_slope_zero_at_the_kink_as_torch_and_jax_have(zero):
    kink = np.array([zero])
    assert (
        value_and_slope("relu", kink)[1]
        == value_and_slope_by_torch("relu", kink)[1]
        == slope_by_jax("relu", kink)
        == 0
    )


def test_positive_is_continuous_with_slope_1_at_its_kink():
    value, slope = value_and_slope("positive", np.array([-1e-300, 0.0, 1e-300]))
    assert value.tolist() == [0.5, 0.5, 0.5]
    assert slope.tolist() == [0.25, 1, 1]


@pytest.mark.parametrize("z", [-40.0, -1.0, 0.0, 1.0, 40.0])
def test_a_gate_and_its_complement_have_all_their_digits(z):
    gate, complement = sigmoid_and_complement(np, np.array(z))
    assert relative_error(gate, np.exp(-np.logaddexp(0, -z))) <= ROUNDING
    assert relative_error(complement, np.exp(-np.logaddexp(0, z))) <= ROUNDING
    assert gate + complement == 1


def sigmoid_slope_by_complex_step(z):
    return (1 / (1 + np.exp(-(z + 1e-200j)))).imag / 1e-200


SATURATED = np.array([-30.0, -15.0, 15.0, 30.0])


def test_saturated_sigmoid_slope_has_every_digit_on_both_sides():
    _, slope = value_and_slope("sigmoid", SATURATED)
    assert relative_error(slope, sigmoid_slope_by_complex_step(SATURATED), separately=1) <= ROUNDING


def test_the_textbook_sigmoid_slope_has_lost_its_digits_at_30():
    value, _ = value_and_slope("sigmoid", SATURATED)
    assert (
        relative_error(value * (1 - value), sigmoid_slope_by_complex_step(SATURATED), separately=1)
        > 1e-4
    )


def test_saturated_tanh_slope_is_wrong_by_no_more_than_a_unit_in_the_last_place_of_1():
    _, slope = value_and_slope("tanh", SATURATED)
    exact = np.cosh(SATURATED) ** -2.0
    assert np.max(np.abs(slope - exact)) <= np.finfo(np.float64).eps
    assert relative_error(slope, exact, separately=1) > 0.01, (
        "the loss of digits that the module's text admits"
    )


@every_activation
def test_saturation_neither_overflows_nor_warns(name):
    z = np.array([-1e4, -750.0, -30.0, 30.0, 750.0, 1e4])
    assert all(np.isfinite(array).all() for array in value_and_slope(name, z))


@every_activation
def test_nan_stays_nan_in_the_value(name):
    assert np.isnan(ACTIVATIONS[name].value(np, np.array([np.nan]))).all()


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus"])
def test_nan_stays_nan_in_a_derivative_that_depends_on_the_net_input(name):
    assert np.isnan(value_and_slope(name, np.array([np.nan]))[1]).all()


def test_relu_and_its_slope_have_at_nan_what_torch_has():
    """Slope 0 there would stop the cotangent, and a gradient would look finite and right."""
    nan = np.array([np.nan])
    value, slope = value_and_slope("relu", nan)
    value_by_torch, slope_by_torch = value_and_slope_by_torch("relu", nan)
    assert np.isnan(value).all()
    assert np.isnan(value_by_torch).all()
    assert slope.tolist() == slope_by_torch.tolist() == [1]


def test_a_slope_of_relu_that_swallows_nan_is_not_torchs():
    nan = np.array([np.nan])
    assert (nan > 0).astype(float).tolist() != value_and_slope_by_torch("relu", nan)[1].tolist()


@every_activation
def test_single_precision_is_kept(name):
    assert [array.dtype for array in value_and_slope(name, NET_INPUTS.astype(np.float32))] == [
        np.float32,
        np.float32,
    ]


@every_activation
def test_the_value_is_the_same_under_torch_and_jax(name):
    value = ACTIVATIONS[name].value
    with jax.enable_x64(True):
        by_jax = np.asarray(value(jnp, jnp.asarray(NET_INPUTS)))
    by_torch = value(torch_namespace, torch.tensor(NET_INPUTS)).numpy()
    assert relative_error(by_torch, value(np, NET_INPUTS), separately=1) <= ROUNDING
    assert relative_error(by_jax, value(np, NET_INPUTS), separately=1) <= ROUNDING


@every_activation
def test_read_only_net_inputs_and_strided_views_are_accepted(name):
    every_other = np.repeat(NET_INPUTS, 2)[::2]
    every_other.setflags(write=False)
    for strided, contiguous in zip(
        value_and_slope(name, every_other), value_and_slope(name, NET_INPUTS), strict=True
    ):
        assert relative_error(strided, contiguous, separately=1) <= ROUNDING
    np.testing.assert_array_equal(every_other, NET_INPUTS)
