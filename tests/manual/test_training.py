"""Parameter updates against torch.optim."""

import numpy as np
import pytest
import torch

from manual.training import sgd
from tests.closeness import ROUNDING, relative_error

SHAPES = {"W_hh": (3, 3), "b_h": (3,)}


def draw(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def sgd_by_torch(params, history, learning_rate):
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    optimizer = torch.optim.SGD(leaves.values(), lr=learning_rate)
    for gradients in history:
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradients[name])
        optimizer.step()
    return {name: leaf.detach().numpy() for name, leaf in leaves.items()}


@pytest.mark.parametrize("updates", [1, 5])
def test_sgd_equals_torch_optim(updates):
    start, history = draw(0), [draw(seed) for seed in range(1, updates + 1)]
    params = start
    for gradients in history:
        params = sgd(params, gradients, 0.1)
    for name, value in sgd_by_torch(start, history, 0.1).items():
        assert relative_error(params[name], value) <= ROUNDING, name


def test_uphill_and_another_rate_are_far_from_torch():
    start, gradients = draw(0), draw(1)
    expected = sgd_by_torch(start, [gradients], 0.1)["W_hh"]
    assert relative_error(sgd(start, gradients, -0.1)["W_hh"], expected) > 0.05
    assert relative_error(sgd(start, gradients, 0.2)["W_hh"], expected) > 0.05


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd_keeps_the_dtype_and_the_old_parameters(dtype):
    start = {name: value.copy() for name, value in draw(0, dtype).items()}
    new = sgd(start, draw(1, dtype), 0.1)
    for name, value in draw(0, dtype).items():
        np.testing.assert_array_equal(start[name], value)
        assert new[name].dtype == dtype


def test_gradients_of_what_is_not_trained_are_left_aside():
    gradients = {**draw(1), "x": np.ones(2), "h_0": np.ones(3)}
    assert sgd(draw(0), gradients, 0.1).keys() == SHAPES.keys()


def test_a_parameter_without_a_gradient_is_not_passed_over():
    with pytest.raises(KeyError, match="b_h"):
        sgd(draw(0), {"W_hh": np.ones((3, 3))}, 0.1)


def test_nan_in_a_gradient_reaches_its_own_entry_only():
    gradients = {name: value.copy() for name, value in draw(1).items()}
    gradients["b_h"][1] = np.nan
    new = sgd(draw(0), gradients, 0.1)
    np.testing.assert_array_equal(np.isnan(new["b_h"]), [False, True, False])
    assert not np.isnan(new["W_hh"]).any()
