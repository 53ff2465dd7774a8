"""Forward mode: the inner products of reverse mode's gradient, by another way."""

import numpy as np
from bptt_crosscheck.reference.by_jax import forward_mode
from bptt_crosscheck.reference.by_torch import torch_autograd


def test_inner_products_with_the_gradient_of_reverse_mode(unrolled):
    case = unrolled()
    value, found, directions = forward_mode.gradients(
        case.function, case.variables, case.constants, 0
    )
    expected_value, _, gradients = torch_autograd.gradients(
        case.function, case.variables, case.constants
    )
    assert abs(value - expected_value) <= 1e-13 * abs(expected_value)
    assert set(found) == set(case.variables)
    for name, products in found.items():
        assert set(np.unique(directions[name])) == {-1.0, 1.0}
        expected = np.tensordot(directions[name], gradients[name], axes=gradients[name].ndim)
        assert products.shape == (forward_mode.DIRECTIONS,)
        np.testing.assert_allclose(products, expected, rtol=1e-11, atol=1e-13)


def test_another_gradient_has_other_inner_products(unrolled):
    case = unrolled()
    _, found, directions = forward_mode.gradients(case.function, case.variables, case.constants, 0)
    _, _, gradients = torch_autograd.gradients(case.function, case.variables, case.constants)
    transposed = np.tensordot(directions["W_hh"], gradients["W_hh"].T, axes=2)
    assert np.max(np.abs(transposed - found["W_hh"])) > 1e-3 * np.max(np.abs(found["W_hh"]))


def test_the_same_seed_gives_the_same_directions(unrolled):
    case = unrolled()
    one, other = (
        forward_mode.gradients(case.function, case.variables, case.constants, seed)[2]
        for seed in (0, 0)
    )
    third = forward_mode.gradients(case.function, case.variables, case.constants, 1)[2]
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not all(np.array_equal(one[name], third[name]) for name in one)
