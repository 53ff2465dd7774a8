"""The second typing of the equations: the same numbers under NumPy, torch and jax, and on paper."""

import math

import numpy as np
import pytest
from bptt_crosscheck.reference import equations
from bptt_crosscheck.reference.by_jax import jax_grad
from bptt_crosscheck.reference.by_torch import torch_autograd

# Every activation, and every readout; not every pair of them, since each is compiled.
EQUATIONS = [
    *((name, "squared-error") for name in equations.NONLINEARITIES),
    *(("tanh", name) for name in equations.READOUTS if name != "squared-error"),
]


@pytest.mark.parametrize(("activation", "readout"), EQUATIONS)
@pytest.mark.parametrize("engine", [torch_autograd, jax_grad])
def test_forward_agrees_with_numpy(unrolled, engine, activation, readout):
    case = unrolled(activation, readout)
    value, states = case.in_numpy()
    found, trajectory, _ = engine.gradients(case.function, case.variables, case.constants)
    assert found == pytest.approx(float(value), rel=1e-13)
    np.testing.assert_allclose(trajectory["h"], states["h"], rtol=1e-13, atol=1e-14)


def test_forward_of_another_activation_is_another_forward(unrolled):
    value, _ = unrolled("tanh").in_numpy()
    other, _ = unrolled("sigmoid").in_numpy()
    assert abs(other - value) > 1e-3 * value


def test_rnn_step_on_paper():
    params = {
        "W_xh": np.array([[1.0, 2.0], [0.0, 1.0]]),
        "W_hh": np.array([[0.0, 3.0], [1.0, 0.0]]),
        "b_h": np.array([1.0, -1.0]),
    }
    new = equations.rnn(
        np, params, {"h": np.array([[1.0, 2.0]])}, np.array([[1.0, 1.0]]), activation="identity"
    )
    assert new["h"].tolist() == [[3 + 6 + 1, 1 + 1 - 1]]  # W_xh x + W_hh h + b_h, row by row


def test_three_steps_on_paper(numpy_scan):
    """h_t = 2 x_t − h_{t−1} for x = 1, 2, 3 from h_0 = 0.

    Read by ½ (3 h − 1 − target)² at the last step.
    """
    step, read = (
        equations.bound_step("rnn", {"activation": "identity"}),
        equations.bound_readout("squared-error", {"reduction": "sum"}),
    )
    function = equations.SequenceLoss(step, read, ("W_xh", "W_hh", "b_h"), ("h",), "@t")
    scalars = {"W_xh": 2.0, "W_hh": -1.0, "W_hy": 3.0}
    variables = {name: np.array([[value]]) for name, value in scalars.items()}
    variables |= {
        "b_h": np.zeros(1),
        "b_y": np.array([-1.0]),
        "h_0": np.zeros((1, 1)),
        "x": np.array([[[1.0]], [[2.0]], [[3.0]]]),
    }
    variables |= {
        f"{name}@t": np.zeros((3, *variables[name].shape)) for name in ("W_xh", "W_hh", "b_h")
    }
    variables["h@t"] = np.zeros((3, 1, 1))
    constants = {"target": np.full((3, 1, 1), 2.0), "mask": np.array([[0.0], [0.0], [1.0]])}
    value, states = function(np, numpy_scan, variables, constants)
    assert states["h"].ravel().tolist() == [2, 2, 4]
    assert value == (3 * 4 - 1 - 2) ** 2 / 2


def test_tokens_are_one_hot_rows():
    rng = np.random.default_rng(0)
    weight, tokens = rng.normal(size=(4, 3)), np.array([[2, 0], [1, 2]])
    np.testing.assert_array_equal(
        equations.affine(np, tokens, weight), equations.affine(np, np.eye(3)[tokens], weight)
    )
    np.testing.assert_array_equal(equations.affine(np, tokens, weight)[0, 0], weight[:, 2])


HEAD = {"W_hy": np.array([[1.0, 0.0], [0.0, 1.0]]), "b_y": np.zeros(2)}


def read(name, h, target, mask=((1.0, 1.0),), reduction="sum"):
    constants = {"target": np.array(target), "mask": np.array(mask)}
    return equations.READOUTS[name](np, HEAD, {"h": np.array(h)}, constants, reduction=reduction)


def test_cross_entropy_on_paper():
    found = read("softmax-cross-entropy", [[[math.log(3), 0.0], [0.0, 0.0]]], [[0, 1]])
    assert found == pytest.approx(-math.log(3 / 4) - math.log(1 / 2))


def test_cross_entropy_does_not_overflow():
    assert read("softmax-cross-entropy", [[[2000.0, 0.0], [-2000.0, 0.0]]], [[1, 1]]) == 2000.0


def test_squared_error_on_paper():
    assert (
        read("squared-error", [[[3.0, 1.0], [0.0, 2.0]]], [[[1.0, 0.0], [0.0, 0.0]]])
        == (4 + 1) / 2 + 4 / 2
    )


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 2.5), ("mean", 2.5)])
def test_masked_positions_do_not_count(reduction, expected):
    h, target = [[[3.0, 1.0], [0.0, 2.0]]], [[[1.0, 0.0], [0.0, 0.0]]]
    assert read("squared-error", h, target, [[1.0, 0.0]], reduction) == expected


def test_mean_divides_by_counted_positions():
    h, target = [[[3.0, 1.0], [0.0, 2.0]]], [[[1.0, 0.0], [0.0, 0.0]]]
    assert read("squared-error", h, target, reduction="mean") == (2.5 + 2) / 2


def test_projection_reads_every_part_of_the_state():
    states = {"h": np.array([[[1.0, 2.0]]]), "c": np.array([[[5.0]]])}
    constants = {"cotangent_h": np.array([[[3.0, -1.0]]]), "cotangent_c": np.array([[[10.0]]])}
    assert equations.projection(np, {}, states, constants) == 3 - 2 + 50


@pytest.mark.parametrize("name", ["W_xh", "W_hh", "b_h"])
def test_the_same_offset_at_every_step_moves_the_parameter(unrolled, name):
    case = unrolled()
    move = np.random.default_rng(1).normal(size=case.variables[name].shape)
    by_offset, _ = case.in_numpy(
        **{f"{name}@t": np.broadcast_to(move, case.variables[f"{name}@t"].shape)}
    )
    moved, _ = case.in_numpy(**{name: case.variables[name] + move})
    assert by_offset == pytest.approx(float(moved), rel=1e-13)
    assert by_offset != pytest.approx(float(case.in_numpy()[0]), rel=1e-3)


def test_an_offset_acts_from_its_own_step_on(unrolled):
    case = unrolled()
    plain = case.in_numpy()[1]["h"]
    offset = np.zeros_like(case.variables["h@t"])
    offset[1] = 0.5
    moved = case.in_numpy(**{"h@t": offset})[1]["h"]
    np.testing.assert_array_equal(moved[0], plain[0])
    np.testing.assert_allclose(moved[1], plain[1] + 0.5, rtol=1e-15)
    assert (moved[2] != plain[2]).all()


@pytest.mark.parametrize("activation", equations.NONLINEARITIES)
def test_activations_do_not_overflow(activation):
    z = np.array([-1e4, 0.0, 1e4])
    expected = {
        "tanh": [-1, 0, 1],
        "sigmoid": [0, 0.5, 1],
        "relu": [0, 0, 1e4],
        "identity": z,
        "softplus": [0, math.log(2), 1e4],
    }
    expected["positive"] = [0, 0.5, 1e4 + 0.5]
    np.testing.assert_allclose(
        equations.NONLINEARITIES[activation](np, z), expected[activation], rtol=1e-15
    )
