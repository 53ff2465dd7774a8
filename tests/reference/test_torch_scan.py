"""What makes torch's reverse mode faster changes no bit of it, and nothing of the caller's."""

import numpy as np
import pytest
import torch

from reference import torch_autograd


@pytest.mark.parametrize("readout", ["softmax-cross-entropy", "projection"])
def test_inputs_taken_apart_at_once_give_the_same_bits_as_indices(unrolled, readout):
    case = unrolled("tanh", readout)

    def told(loop):
        forward = lambda leaves, fixed: case.function(torch_autograd.xp, loop, leaves, fixed)  # noqa: E731
        return torch_autograd.differentiate(forward, case.variables, case.constants)

    (value, _, found), (other_value, _, other) = told(torch_autograd.scan), told(torch_autograd.scan_apart)
    assert value == other_value
    for name, gradient in found.items():
        np.testing.assert_array_equal(gradient, other[name], err_msg=name)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "threads"), [(3, 1), (1 << 23, 2)])
def test_threads_are_as_before_and_one_where_the_problem_is_small(two_threads, size, threads):
    with torch_autograd.one_thread_if_small({"x": np.broadcast_to(0.0, size)}):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_threads_are_as_before_after_an_error(two_threads):
    def fails(_xp, _scan, _variables, _constants):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        torch_autograd.gradients(fails, {"x": np.ones(3)}, {})
    assert torch.get_num_threads() == 2
