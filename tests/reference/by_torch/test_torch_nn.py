"""torch's own module: the same function as the equations, and the same gradients."""

import numpy as np
import pytest
import torch
from bptt_crosscheck.reference import equations
from bptt_crosscheck.reference.by_torch import torch_autograd, torch_nn


def ask(case, activation):
    variables = {name: value for name, value in case.variables.items() if not name.endswith("@t")}
    return torch_nn.gradients(
        "rnn", {"activation": activation}, case.readout, variables, case.constants
    )


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("readout", equations.READOUTS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_agrees_with_the_equations(unrolled, activation, readout, tokens):
    case = unrolled(activation, readout, tokens=tokens)
    value, states, found = ask(case, activation)
    other_value, other_states, other = torch_autograd.gradients(
        case.function, case.variables, case.constants
    )
    assert value == pytest.approx(other_value, rel=1e-13)
    np.testing.assert_allclose(states["h"], other_states["h"], rtol=1e-13, atol=1e-14)
    assert set(found) == {name for name in case.variables if not name.endswith("@t")}
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, other[name], rtol=1e-12, atol=1e-14)


def test_another_activation_disagrees(unrolled):
    case = unrolled("tanh")
    assert not np.allclose(ask(case, "relu")[2]["W_hh"], ask(case, "tanh")[2]["W_hh"])


def test_there_is_no_such_module_for_other_activations(unrolled):
    with pytest.raises(ValueError, match="sigmoid"):
        ask(unrolled("sigmoid"), "sigmoid")


def test_relu_at_zero_has_derivative_zero(unrolled):
    """All weights zero: every net input is 0, and nothing must come back through it."""
    case = unrolled("relu", "projection")
    zero = {
        name: value if name == "x" else np.zeros_like(value)
        for name, value in case.variables.items()
    }
    for found in (
        torch_nn.gradients("rnn", {"activation": "relu"}, case.readout, zero, case.constants)[2],
        torch_autograd.gradients(case.function, zero, case.constants)[2],
    ):
        assert not found["b_h"].any()
        assert not found["W_xh"].any()


@pytest.mark.parametrize("recording", [True, False])
def test_the_callers_torch_stays_as_it_is(unrolled, recording):
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    with torch.set_grad_enabled(recording):
        _, _, found = ask(unrolled(), "tanh")
        assert torch.is_grad_enabled() is recording
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() is dtype
    assert all(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_results_keep_the_dtype_and_inputs_survive(unrolled, dtype):
    case = unrolled(dtype=dtype)
    before = {name: value.tobytes() for name, value in case.variables.items()}
    _, states, found = ask(case, "tanh")
    assert {array.dtype.name for array in (*states.values(), *found.values())} == {dtype}
    assert {name: value.tobytes() for name, value in case.variables.items()} == before


def test_a_projection_in_float32_says_nothing_of_onednn(unrolled):
    """torch warns that it is slower there; warnings are errors in these tests."""
    rng = np.random.default_rng(0)
    shapes = {
        "W_xh": (12, 2),
        "W_hh": (12, 2),
        "b_h": (12,),
        "W_hr": (2, 3),
        "x": (4, 2, 2),
        "h_0": (2, 2),
        "c_0": (2, 3),
    }
    variables = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    constants = {
        f"cotangent_{name}": rng.normal(size=(4, 2, size)).astype("float32")
        for name, size in (("h", 2), ("c", 3))
    }
    readout = equations.bound_readout("projection", {})
    _, states, found = torch_nn.gradients("projected-lstm", {}, readout, variables, constants)
    assert states["h"].shape == (4, 2, 2)
    assert found["W_hr"].any()
