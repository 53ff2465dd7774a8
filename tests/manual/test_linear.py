"""The linear map of dense rows and of tokens, against torch."""

import array_api_compat.torch as torch_namespace
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual.linear import linear, linear_backward
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.closeness import ROUNDING, relative_error

few = settings(max_examples=25, deadline=None, derandomize=True)
sizes = st.integers(1, 5)
leading_axes = st.lists(sizes, max_size=2).map(tuple)
REPEATED = np.array([[2, 0, 2], [2, 1, 2]])


def draw(leading, inputs, outputs, seed=0):
    rng = np.random.default_rng(seed)
    arrays = (
        rng.standard_normal((outputs, inputs)),
        rng.standard_normal((*leading, inputs)),
        rng.standard_normal((*leading, outputs)),
    )
    for array in arrays:
        array.setflags(write=False)
    return arrays


def pulled_back_by_torch(function, delta, *arrays):
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = function(*leaves)
    gradients = torch.autograd.grad(value, leaves, torch.tensor(delta))
    return value.detach().numpy(), *(gradient.numpy() for gradient in gradients)


@few
@given(leading_axes, sizes, sizes, st.integers(0, 99))
def test_dense_rows_equal_torch_linear(leading, inputs, outputs, seed):
    W, x, delta = draw(leading, inputs, outputs, seed)
    value, d_W, d_x = pulled_back_by_torch(lambda W, x: functional.linear(x, W), delta, W, x)
    found_d_W, found_d_x = linear_backward(W, x, delta)
    assert relative_error(linear(np, W, x), value) <= ROUNDING
    assert relative_error(found_d_W, d_W) <= ROUNDING
    assert relative_error(found_d_x, d_x, separately=len(leading)) <= ROUNDING


@few
@given(leading_axes, sizes, sizes, st.integers(0, 99))
def test_tokens_equal_torch_embedding(leading, vocabulary, outputs, seed):
    W, _, delta = draw(leading, vocabulary, outputs, seed)
    tokens = np.random.default_rng(seed).integers(vocabulary, size=leading)
    value, d_W = pulled_back_by_torch(
        lambda W: functional.embedding(torch.tensor(tokens), W.T), delta, W
    )
    found, d_tokens = linear_backward(W, tokens, delta)
    assert d_tokens is None
    assert relative_error(linear(np, W, tokens), value) == 0
    assert relative_error(found, d_W, separately=1) <= ROUNDING


def test_tokens_are_one_hot_rows():
    W, _, delta = draw(REPEATED.shape, 3, 4)
    one_hot = np.eye(3)[REPEATED]
    np.testing.assert_array_equal(linear(np, W, REPEATED), linear(np, W, one_hot))
    assert (
        relative_error(
            linear_backward(W, REPEATED, delta)[0], linear_backward(W, one_hot, delta)[0]
        )
        <= ROUNDING
    )


def test_a_repeated_token_accumulates_and_fancy_indexing_does_not():
    W, _, delta = draw(REPEATED.shape, 3, 4)
    _, expected = pulled_back_by_torch(lambda W: W.T[torch.tensor(REPEATED)], delta, W)
    overwritten = np.zeros_like(W)
    overwritten[:, REPEATED.reshape(-1)] += delta.reshape(-1, 4).T
    assert relative_error(linear_backward(W, REPEATED, delta)[0], expected) <= ROUNDING
    assert relative_error(overwritten[:, :2], expected[:, :2]) <= ROUNDING, (
        "tokens 0 and 1 occur once"
    )
    assert relative_error(overwritten[:, 2], expected[:, 2]) > 0.1, (
        "token 2 occurs four times and keeps one term"
    )


def test_the_transposed_weight_is_far_from_torch():
    W, x, delta = draw((2, 3), 4, 4)
    _, d_W, d_x = pulled_back_by_torch(lambda W, x: functional.linear(x, W), delta, W, x)
    assert relative_error(delta @ W.T, d_x) > 0.1
    assert relative_error(linear_backward(W, x, delta)[0].T, d_W) > 0.1


def test_a_token_that_does_not_occur_has_gradient_zero():
    W, _, delta = draw(REPEATED.shape, 5, 4)
    assert not linear_backward(W, REPEATED, delta)[0][:, 3:].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_every_integer_type_is_tokens(dtype):
    W, _, delta = draw(REPEATED.shape, 3, 4)
    np.testing.assert_array_equal(linear(np, W, REPEATED.astype(dtype)), W.T[REPEATED])
    assert linear_backward(W, REPEATED.astype(dtype), delta)[1] is None


@pytest.mark.parametrize("tokens", [False, True])
def test_the_value_is_the_same_under_torch_and_jax(tokens):
    W, x, _ = draw(REPEATED.shape, 3, 4)
    x = REPEATED if tokens else x
    by_torch = linear(torch_namespace, torch.tensor(W), torch.tensor(x)).numpy()
    with jax.enable_x64(True):
        by_jax = np.asarray(linear(jnp, jnp.asarray(W), jnp.asarray(x)))
    assert relative_error(by_torch, linear(np, W, x)) <= ROUNDING
    assert relative_error(by_jax, linear(np, W, x)) <= ROUNDING


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
    ],
)
def test_the_memory_layout_does_not_matter(layout, tokens):
    W, x, delta = draw(REPEATED.shape, 3, 4)
    x = REPEATED if tokens else x
    for strided, contiguous in zip(
        linear_backward(*map(layout, (W, x, delta))), linear_backward(W, x, delta), strict=True
    ):
        assert strided is contiguous is None or relative_error(strided, contiguous) <= ROUNDING


def test_an_expanded_cotangent_is_accepted():
    W, x, delta = draw((4, 3), 2, 5)
    expanded = np.broadcast_to(delta[0, 0], delta.shape)
    assert (
        relative_error(
            linear_backward(W, x, expanded)[0], linear_backward(W, x, expanded.copy())[0]
        )
        <= ROUNDING
    )


def test_nan_in_delta_reaches_the_columns_of_its_own_token_only():
    W, _, delta = draw(REPEATED.shape, 3, 4)
    delta = delta.copy()
    delta[0, 1] = np.nan
    d_W, _ = linear_backward(W, REPEATED, delta)
    np.testing.assert_array_equal(np.isnan(d_W), [[True, False, False]] * 4)
