"""What makes torch's reverse mode faster changes no bit of it, and nothing of the caller's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bptt_crosscheck.reference.by_torch import torch_autograd


@pytest.mark.parametrize("readout", ["softmax-cross-entropy", "projection"])
def test_inputs_taken_apart_at_once_give_the_same_bits_as_indices(unrolled, readout):
    case = unrolled("tanh", readout)

    def told(loop):
        def forward(leaves, fixed):
            return case.function(torch_autograd.xp, loop, leaves, fixed)

        return torch_autograd.differentiate(forward, case.variables, case.constants)

    (value, _, found), (other_value, _, other) = (
        told(torch_autograd.scan),
        told(torch_autograd.scan_apart),
    )
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


# Several constants at once.


def several(case, count=3):
    rng = np.random.default_rng(1)
    shape = case.constants["cotangent_h"].shape
    return [{**case.constants, "cotangent_h": rng.normal(size=shape)} for _ in range(count)]


def test_several_constants_at_once_give_the_same_bits_as_one_by_one(unrolled):
    case = unrolled("tanh", "projection")
    constants = several(case)
    for told, each in zip(
        torch_autograd.gradients_of_several(case.function, case.variables, constants),
        constants,
        strict=True,
    ):
        value, states, found = torch_autograd.gradients(case.function, case.variables, each)
        assert told[0] == value
        np.testing.assert_array_equal(told[1]["h"], states["h"])
        assert found.keys() == told[2].keys()
        for name, gradient in found.items():
            np.testing.assert_allclose(
                told[2][name], gradient, rtol=1e-14, atol=1e-15, err_msg=name
            )


class Doubled(torch.autograd.Function):
    """Its backward works on NumPy, which knows no further axis."""

    @staticmethod
    def forward(_, a):
        return 2 * a

    @staticmethod
    def backward(_, d):
        return torch.from_numpy(2 * d.numpy())


def test_a_backward_that_knows_no_further_axis_is_asked_in_turn(unrolled):
    case = unrolled("tanh", "projection")

    def step(xp, params, state, x):
        return {"h": Doubled.apply(case.step(xp, params, state, x)["h"])}

    function = replace(case.function, step=step)
    constants = several(case, 2)
    for told, each in zip(
        torch_autograd.gradients_of_several(function, case.variables, constants),
        constants,
        strict=True,
    ):
        for name, gradient in torch_autograd.gradients(function, case.variables, each)[2].items():
            np.testing.assert_array_equal(told[2][name], gradient, err_msg=name)


def test_states_that_depend_on_nothing_have_gradients_of_zero(unrolled):
    case = unrolled("tanh", "projection")
    function = replace(
        case.function, step=lambda xp, params, state, x: {"h": 0 * x[:, :1].detach() + xp.ones(4)}
    )
    variables = {name: value for name, value in case.variables.items() if not name.endswith("@t")}
    for _, _, found in torch_autograd.gradients_of_several(function, variables, several(case, 2)):
        assert not any(gradient.any() for gradient in found.values())
        assert {name: gradient.shape for name, gradient in found.items()} == {
            n: v.shape for n, v in variables.items()
        }


def test_several_round_at_random_by_as_much_as_one(unrolled):
    case = unrolled("tanh", "projection")
    constants = several(case)
    plain = torch_autograd.gradients_of_several(case.function, case.variables, constants)

    def change(ask):
        found = [ask(seed) for seed in range(20)]
        return np.mean(
            [
                [np.abs(d["W_hh"] - p[2]["W_hh"]).max() for d, p in zip(each, plain, strict=True)]
                for each in found
            ],
            0,
        )

    together = change(
        lambda seed: [
            told[2]
            for told in torch_autograd.gradients_of_several(
                case.function, case.variables, constants, seed
            )
        ]
    )
    alone = change(
        lambda seed: [
            torch_autograd.gradients(case.function, case.variables, each, 100 + seed)[2]
            for each in constants
        ]
    )
    assert np.all((together > alone / 2) & (together < 2 * alone))


def test_several_are_determined_by_their_seed(unrolled):
    case = unrolled("tanh", "projection")
    one, again, other = (
        torch_autograd.gradients_of_several(case.function, case.variables, several(case), seed)[1][
            2
        ]
        for seed in (4, 4, 9)
    )
    assert all((one[name] == again[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def spread_of_shares(take, steps=9):
    """Standard deviation over ε of the relative change of the shares, by step (T,).

    The change is that under RandomRounding.
    """
    changes = []
    for seed in range(40):
        value = torch.ones(steps, 50, dtype=torch.float64, requires_grad=True)
        with torch_autograd.RandomRounding(seed):
            (gradient,) = torch.autograd.grad(torch.stack(take(value, seed)).sum(), value)
        changes.append((gradient - 1).numpy() / np.finfo(np.float64).eps)
    return np.std(np.stack(changes), axis=(0, 2))


def test_what_is_taken_apart_rounds_as_much_as_what_is_indexed():
    """Every share of a step rounds in each sum that the gradient of an index makes after it.

    √t amounts at step t.
    """
    indexed = spread_of_shares(lambda value, _: [value[t] for t in range(len(value))])
    apart = spread_of_shares(
        lambda value, seed: list(
            torch_autograd.rounding_as_summed(value, np.random.default_rng(seed)).unbind(0)
        )
    )
    np.testing.assert_allclose(apart, indexed, rtol=0.1)
    assert apart[-1] > 2 * apart[0]
