"""Losses and their gradients against torch's own cross_entropy and mse_loss, and against jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual.losses import (
    LOSSES,
    position_weights,
    softmax_cross_entropy,
    squared_error,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.closeness import ROUNDING, relative_error

sizes = st.integers(1, 5)
every_loss = pytest.mark.parametrize("name", LOSSES)


def draw(name, steps=3, batch=2, output_size=4, seed=0):
    rng = np.random.default_rng(seed)
    shape = (steps, batch, output_size)
    target = (
        rng.integers(output_size, size=shape[:2])
        if name == "softmax-cross-entropy"
        else rng.standard_normal(shape)
    )
    arrays = rng.standard_normal(shape), target, rng.random(shape[:2])
    for array in arrays:
        array.setflags(write=False)
    return arrays


def by_torch(name, y, target, weights):
    leaf = torch.tensor(y, requires_grad=True)
    if name == "softmax-cross-entropy":
        each = functional.cross_entropy(leaf.movedim(-1, 1), torch.tensor(target), reduction="none")
    else:
        each = functional.mse_loss(leaf, torch.tensor(target), reduction="none").sum(-1) / 2
    loss = (each * torch.tensor(weights)).sum()
    (d_y,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), d_y.numpy()


def by_jax(name, y, target, weights):
    def loss(y):
        if name == "softmax-cross-entropy":
            each = -(jax.nn.log_softmax(y) * jax.nn.one_hot(target, y.shape[-1])).sum(-1)
        else:
            each = ((y - target) ** 2).sum(-1) / 2
        return (each * weights).sum()

    with jax.enable_x64(True):
        value, d_y = jax.value_and_grad(loss)(jnp.asarray(y))
        return float(value), np.asarray(d_y)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    steps=sizes,
    batch=sizes,
    output_size=sizes,
    seed=st.integers(0, 99),
)
def test_value_and_gradient_equal_torch_position_by_position(name, steps, batch, output_size, seed):
    y, target, weights = draw(name, steps, batch, output_size, seed)
    (loss, d_y), (expected_loss, expected_d_y) = (
        LOSSES[name](y, target, weights),
        by_torch(name, y, target, weights),
    )
    assert relative_error(loss, expected_loss) <= ROUNDING
    assert relative_error(d_y, expected_d_y, separately=2) <= ROUNDING


@every_loss
def test_value_and_gradient_equal_jax(name):
    y, target, weights = draw(name)
    (loss, d_y), (expected_loss, expected_d_y) = (
        LOSSES[name](y, target, weights),
        by_jax(name, y, target, weights),
    )
    assert relative_error(loss, expected_loss) <= ROUNDING
    assert relative_error(d_y, expected_d_y, separately=2) <= ROUNDING


def logits_less_one_hot(y, target, weights):
    return (y - np.eye(y.shape[-1])[target]) * weights[..., None]


def probabilities_at_the_target_only(y, target, weights):
    return (
        -np.exp(y)
        / np.exp(y).sum(-1, keepdims=True)
        * np.eye(y.shape[-1])[target]
        * weights[..., None]
    )


def without_the_half(y, target, weights):
    return 2 * (y - target) * weights[..., None]


def without_the_weights(y, target, weights):
    del weights
    return y - target


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("softmax-cross-entropy", logits_less_one_hot),
        ("softmax-cross-entropy", probabilities_at_the_target_only),
        ("squared-error", without_the_half),
        ("squared-error", without_the_weights),
    ],
)
def test_a_mistaken_loss_gradient_is_far_from_torch_at_every_position(name, mistake):
    y, target, weights = draw(name)
    expected = by_torch(name, y, target, weights)[1]
    for position in np.ndindex(weights.shape):
        assert relative_error(mistake(y, target, weights)[position], expected[position]) > 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_huge_logits_give_torch_s_finite_loss_and_gradient(sign):
    y = sign * np.array([[[1e4, 0.0, -1e4], [1e4, 1e4 - 1, 3.0]]])
    target, weights = np.array([[1, 0]]), np.ones((1, 2))
    (loss, d_y), (expected_loss, expected_d_y) = (
        evaluate(y, target, weights)
        for evaluate in (softmax_cross_entropy, lambda *a: by_torch("softmax-cross-entropy", *a))
    )
    assert relative_error(loss, expected_loss) <= ROUNDING
    assert relative_error(d_y, expected_d_y, separately=2) <= ROUNDING


def test_the_unshifted_softmax_overflows_at_huge_logits():
    with np.errstate(over="ignore", invalid="ignore"):
        exponentials = np.exp(np.array([1e4, 0.0]))
        assert not np.isfinite(exponentials / exponentials.sum()).all()


def test_one_class_alone_has_no_loss_and_no_gradient():
    loss, d_y = softmax_cross_entropy(
        np.full((2, 1, 1), 7.0), np.zeros((2, 1), dtype=int), np.ones((2, 1))
    )
    assert loss == 0
    assert not d_y.any()


@every_loss
def test_positions_of_weight_zero_have_no_gradient(name):
    y, target, weights = draw(name)
    mask = (weights > 0.5).astype(float)
    _, d_y = LOSSES[name](y, target, mask)
    assert not d_y[mask == 0].any()
    assert d_y[mask == 1].all()


@every_loss
def test_nan_in_one_output_reaches_the_loss_and_its_own_position_only(name):
    y, target, weights = draw(name)
    y = y.copy()
    y[1, 0, 2] = np.nan
    loss, d_y = LOSSES[name](y, target, weights)
    assert np.isnan(loss)
    assert np.isnan(d_y[1, 0, 2])
    assert np.isnan(d_y).any(axis=-1).sum() == 1


@every_loss
@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda y: np.repeat(y, 2, axis=-1)[..., ::2],
        lambda y: y[::-1].copy()[::-1],
    ],
)
def test_the_memory_layout_of_the_outputs_does_not_matter(name, layout):
    y, target, weights = draw(name)
    assert (
        relative_error(
            LOSSES[name](layout(y), target, weights)[1], LOSSES[name](y, target, weights)[1]
        )
        <= ROUNDING
    )


def test_sum_weighs_by_the_mask_itself():
    mask = np.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(position_weights(mask, "sum"), mask)


def test_mean_is_over_counted_positions_as_in_torch_with_an_ignored_index():
    y, target, _ = draw("softmax-cross-entropy", steps=4, batch=3)
    mask = np.ones((4, 3))
    mask[2:, 1] = mask[3, 2] = 0
    leaf = torch.tensor(y, requires_grad=True)
    padded = torch.tensor(np.where(mask == 1, target, -1))
    expected = functional.cross_entropy(
        leaf.movedim(-1, 1), padded, ignore_index=-1, reduction="mean"
    )
    expected.backward()
    loss, d_y = softmax_cross_entropy(y, target, position_weights(mask, "mean"))
    assert relative_error(loss, expected.item()) <= ROUNDING
    assert relative_error(d_y, leaf.grad.numpy(), separately=2) <= ROUNDING


def test_a_mean_over_all_positions_and_outputs_is_another_loss():
    y, target, _ = draw("squared-error")
    leaf = torch.tensor(y, requires_grad=True)
    (functional.mse_loss(leaf, torch.tensor(target), reduction="mean") / 2).backward()
    _, d_y = squared_error(y, target, position_weights(np.ones(y.shape[:2]), "mean"))
    assert relative_error(d_y, y.shape[-1] * leaf.grad.numpy()) <= ROUNDING
    assert relative_error(d_y, leaf.grad.numpy()) > 1, "torch's mean is over V as well"


@pytest.mark.parametrize("mask", [np.zeros((2, 3)), np.zeros((0, 3)), np.full((2, 3), np.nan)])
def test_a_mean_over_no_position_is_refused(mask):
    with pytest.raises(ValueError, match="no position"):
        position_weights(mask, "mean")


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'average'"):
        position_weights(np.ones((1, 1)), "average")
