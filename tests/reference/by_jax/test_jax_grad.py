"""jax's reverse mode.

The same gradients as torch's, in the arrays' own precision, the caller's configuration untouched.
"""

import jax
import numpy as np
import pytest
from bptt_crosscheck.reference import equations
from bptt_crosscheck.reference.by_jax import jax_grad
from bptt_crosscheck.reference.by_torch import torch_autograd


def ask(case):
    return jax_grad.gradients(case.function, case.variables, case.constants)


def jacobians_of(engine, case):
    return engine.jacobians(case.step, case.params, {"h": 4}, case.variables["h_0"], case.x)


# Every activation, and every readout; not every pair of them, since each is compiled.
EQUATIONS = [
    *((name, "squared-error") for name in equations.NONLINEARITIES),
    *(("tanh", name) for name in equations.READOUTS if name != "squared-error"),
]


@pytest.mark.parametrize(("activation", "readout"), EQUATIONS)
def test_agrees_with_torch(unrolled, activation, readout):
    case = unrolled(activation, readout)
    value, states, found = ask(case)
    other_value, other_states, other = torch_autograd.gradients(
        case.function, case.variables, case.constants
    )
    assert value == pytest.approx(other_value, rel=1e-13)
    np.testing.assert_allclose(states["h"], other_states["h"], rtol=1e-13, atol=1e-14)
    assert set(found) == set(other) == set(case.variables)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, other[name], rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_unit_under_softmax(unrolled, dtype, seed):
    """With H = 1 the compiler may compute the outputs twice, rounded differently.

    The largest must stay the largest.
    """
    case = unrolled("tanh", "softmax-cross-entropy", dtype=dtype, H=1, seed=seed)
    _, _, other = torch_autograd.gradients(case.function, case.variables, case.constants)
    precision = 1e-12 if dtype == "float64" else 1e-4
    for name, gradient in ask(case)[2].items():
        np.testing.assert_allclose(
            gradient, other[name], rtol=precision, atol=precision, err_msg=name
        )


def test_a_sum_disagrees_with_a_mean(unrolled):
    assert not np.allclose(
        ask(unrolled(reduction="mean"))[2]["W_hh"], ask(unrolled(reduction="sum"))[2]["W_hh"]
    )


def test_shares_of_the_steps_sum_to_the_gradient(unrolled):
    _, _, found = ask(unrolled())
    for name in ("W_xh", "W_hh", "b_h"):
        np.testing.assert_allclose(
            found[f"{name}@t"].sum(axis=0), found[name], rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("tokens", [False, True])
def test_jacobians_agree_with_torch(unrolled, tokens):
    case = unrolled(tokens=tokens)
    mine, other = jacobians_of(jax_grad, case), jacobians_of(torch_autograd, case)
    assert set(mine) == set(other) == {"state_jacobian", "jacobian_product_to_end"}
    for name, value in mine.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-12, atol=1e-14)


def test_product_of_local_jacobians_is_that_of_the_unrolled_map(unrolled):
    found = jacobians_of(jax_grad, unrolled())
    J = found["state_jacobian"]
    for k, product in enumerate([J[2] @ J[1] @ J[0], J[2] @ J[1], J[2]]):
        np.testing.assert_allclose(
            found["jacobian_product_to_end"][k], product, rtol=1e-12, atol=1e-14
        )


def test_relu_at_zero_has_derivative_zero(unrolled):
    case = unrolled("relu", "projection")
    zero = {
        name: value if name == "x" else np.zeros_like(value)
        for name, value in case.variables.items()
    }
    _, _, found = jax_grad.gradients(case.function, zero, case.constants)
    assert not found["b_h"].any()
    assert ask(case)[2]["b_h"].any()


@pytest.mark.parametrize("wide", [True, False])
def test_the_callers_precision_stays_as_it_is(unrolled, wide):
    case, before = unrolled(), jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", wide)
    try:
        found = {**ask(case)[2], **jacobians_of(jax_grad, case)}
        assert jax.config.jax_enable_x64 is wide
        assert jax.numpy.ones(2).dtype == ("float64" if wide else "float32")
    finally:
        jax.config.update("jax_enable_x64", before)
    assert {value.dtype.name for value in found.values()} == {"float64"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_results_keep_the_dtype_and_inputs_survive(unrolled, dtype):
    case = unrolled("tanh", "softmax-cross-entropy", dtype=dtype)
    before = {name: value.tobytes() for name, value in case.variables.items()}
    _, states, found = ask(case)
    arrays = [*states.values(), *found.values(), *jacobians_of(jax_grad, case).values()]
    assert {array.dtype.name for array in arrays} == {dtype}
    assert {name: value.tobytes() for name, value in case.variables.items()} == before


def test_the_same_equations_and_shapes_compile_once():
    traced = []

    def function(xp, _scan, variables, _constants):
        traced.append(1)
        return xp.sum(variables["a"] ** 2), {}

    for start in (0.0, 1.0):
        _, _, found = jax_grad.gradients(function, {"a": start + np.arange(3.0)}, {})
        np.testing.assert_array_equal(found["a"], 2 * (start + np.arange(3.0)))
    assert len(traced) == 1


@pytest.fixture
def options(monkeypatch):
    """Set COMPILER_OPTIONS; what was found out about the old ones is forgotten before and after."""

    def put(values):
        monkeypatch.setattr(jax_grad, "COMPILER_OPTIONS", values)
        jax_grad.compiler_options.cache_clear()

    yield put
    jax_grad.compiler_options.cache_clear()


def test_a_compiler_option_that_xla_does_not_know_is_dropped(options):
    known = {"xla_backend_optimization_level": 0}
    options({"xla_no_such_option_at_all": True, **known})
    assert jax_grad.compiler_options() == known
    _, _, found = jax_grad.gradients(
        lambda xp, scan, variables, constants: (xp.sum(variables["a"]), {}), {"a": np.ones(2)}, {}
    )
    assert found["a"].tolist() == [1, 1]


def test_another_error_about_a_compiler_option_is_not_swallowed(options):
    options({"xla_backend_optimization_level": "as you like"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        jax_grad.compiler_options()
