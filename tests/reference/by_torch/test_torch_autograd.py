"""torch's reverse mode: right, as a whole and by step; quiet towards its caller.

And moved by random rounding, a little.
"""

import numpy as np
import pytest
import torch
from bptt_crosscheck.reference import equations
from bptt_crosscheck.reference.by_torch import torch_autograd
from bptt_crosscheck.reference.by_torch.torch_autograd import RandomRounding

EPS = {"float64": 2.0**-52, "float32": 2.0**-23}


def ask(case, **options):
    return torch_autograd.gradients(case.function, case.variables, case.constants, **options)


@pytest.mark.parametrize("readout", ["squared-error", "projection"])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_gradients_against_a_complex_step(unrolled, activation, readout):
    """Im f(v + i ε d) / ε = ⟨∇f, d⟩ to the last digits: nobody's backward is in it."""
    case, rng = unrolled(activation, readout), np.random.default_rng(3)
    _, _, found = ask(case)
    for name, value in case.variables.items():
        direction = rng.normal(size=value.shape)
        slope = case.in_numpy(**{name: value + 1e-30j * direction})[0].imag / 1e-30
        assert slope == pytest.approx(np.sum(found[name] * direction), rel=1e-12, abs=1e-13), name


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("readout", equations.READOUTS)
@pytest.mark.parametrize("activation", equations.NONLINEARITIES)
def test_shares_of_the_steps_sum_to_the_gradient(unrolled, activation, readout, tokens):
    _, _, found = ask(unrolled(activation, readout, tokens=tokens))
    for name in ("W_xh", "W_hh", "b_h"):
        np.testing.assert_allclose(
            found[f"{name}@t"].sum(axis=0), found[name], rtol=1e-12, atol=1e-14
        )
        assert (
            np.abs(found[f"{name}@t"]).max(axis=(1, *range(2, found[f"{name}@t"].ndim))).min() > 0
        )


def test_share_of_a_state_is_its_total_derivative(unrolled):
    """With φ = identity δ_t = ∂L/∂h_t: Σ_b ∂L/∂h_t is the share of b_h, ∂L/∂h_0 = W_hhᵀ δ_1."""
    case = unrolled("identity")
    _, _, found = ask(case)
    np.testing.assert_allclose(found["h@t"].sum(axis=1), found["b_h@t"], rtol=1e-13)
    np.testing.assert_allclose(found["h@t"][0] @ case.variables["W_hh"], found["h_0"], rtol=1e-12)


def test_a_variable_that_nothing_depends_on_has_gradient_zero(unrolled):
    case = unrolled()
    _, _, found = torch_autograd.gradients(
        case.function, {**case.variables, "unused": np.ones((2, 3))}, case.constants
    )
    assert found["unused"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_relu_at_zero_has_derivative_zero():
    z = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    equations.relu(torch, z).sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [0, 0, 1]


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("recording", [True, False])
def test_the_callers_torch_stays_as_it_is(unrolled, default, recording):
    case, before = unrolled(), torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        state, threads = torch.random.get_rng_state(), torch.get_num_threads()
        with torch.set_grad_enabled(recording):
            _, _, found = ask(case)
            ask(case, rounding_seed=1)
            torch_autograd.jacobians(
                case.step, case.params, {"h": 4}, case.variables["h_0"], case.x, 1
            )
            assert torch.is_grad_enabled() is recording
        assert torch.get_default_dtype() is default
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_default_dtype(before)
    assert all(np.abs(d).max() > 0 for d in found.values())


@pytest.mark.parametrize("dtype", EPS)
def test_results_keep_the_dtype(unrolled, dtype):
    case = unrolled("tanh", "softmax-cross-entropy", dtype=dtype)
    for seed in (None, 1):
        _, states, found = ask(case, rounding_seed=seed)
        jacobians = torch_autograd.jacobians(
            case.step, case.params, {"h": 4}, case.variables["h_0"], case.x, seed
        )
        assert {
            array.dtype.name for array in (*states.values(), *found.values(), *jacobians.values())
        } == {dtype}


def test_read_only_and_strided_arrays_come_back_untouched(unrolled):
    case = unrolled()
    strided = {
        name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in case.variables.items()
    }
    strided["W_hh"] = np.asfortranarray(case.variables["W_hh"])
    for array in strided.values():
        array.setflags(write=False)
    before = {name: value.tobytes() for name, value in strided.items()}
    _, _, found = torch_autograd.gradients(case.function, strided, case.constants)
    assert {name: value.tobytes() for name, value in strided.items()} == before
    np.testing.assert_array_equal(found["W_hh"], ask(case)[2]["W_hh"])


def test_jacobian_of_a_step_on_paper(unrolled):
    """∂h_t/∂h_{t−1} = diag(1 − h_t²) W_hh."""
    case = unrolled("tanh")
    _, states, _ = ask(case)
    found = torch_autograd.jacobians(
        case.step, case.params, {"h": 4}, case.variables["h_0"], case.x
    )
    expected = (1 - states["h"] ** 2)[..., None] * case.variables["W_hh"]
    np.testing.assert_allclose(found["state_jacobian"], expected, rtol=1e-13)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("activation", equations.NONLINEARITIES)
def test_product_of_local_jacobians_is_that_of_the_unrolled_map(unrolled, activation, tokens):
    case = unrolled(activation, tokens=tokens)
    found = torch_autograd.jacobians(
        case.step, case.params, {"h": 4}, case.variables["h_0"], case.x
    )
    J = found["state_jacobian"]
    for k, product in enumerate([J[2] @ J[1] @ J[0], J[2] @ J[1], J[2]]):
        np.testing.assert_allclose(
            found["jacobian_product_to_end"][k], product, rtol=1e-12, atol=1e-14
        )


def test_the_newest_factor_of_the_product_stands_on_the_left(unrolled):
    case = unrolled("tanh")
    found = torch_autograd.jacobians(
        case.step, case.params, {"h": 4}, case.variables["h_0"], case.x
    )
    J, product = found["state_jacobian"], found["jacobian_product_to_end"][0]
    np.testing.assert_allclose(product, J[2] @ J[1] @ J[0], rtol=1e-12, atol=1e-14)
    assert np.abs(product - J[0] @ J[1] @ J[2]).max() > 0.01


# Random rounding.


def relative_change(moved, plain):
    return np.abs(moved - plain).max() / np.abs(plain).max()


@pytest.mark.parametrize("dtype", EPS)
def test_one_operation_moves_by_at_most_a_unit_roundoff(dtype):
    x = torch.linspace(0.5, 1.5, 1000, dtype=getattr(torch, dtype))
    with RandomRounding(0):
        moved = x * 3
    change = np.abs(moved.numpy() / (x * 3).numpy() - 1)
    assert 0.2 * EPS[dtype] < change.mean() < EPS[dtype]
    assert change.max() <= 2 * EPS[dtype]


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("readout", equations.READOUTS)
@pytest.mark.parametrize("activation", equations.NONLINEARITIES)
def test_random_rounding_moves_a_well_conditioned_gradient_a_little(
    unrolled, activation, readout, dtype
):
    case = unrolled(activation, readout, dtype=dtype)
    (value, _, plain), (shaken, _, moved) = ask(case), ask(case, rounding_seed=5)
    changes = {name: relative_change(moved[name], plain[name]) for name in plain}
    assert 0 < max(changes.values()) < 100 * EPS[dtype]
    assert abs(shaken / value - 1) < 100 * EPS[dtype]


def test_random_rounding_shows_cancellation():
    """(1 + x) − 1 at x = 1e−10 keeps six digits.

    The response must be 1e10 times a unit roundoff, not one.
    """
    x = np.array([1e-10])
    values = [
        float(torch_autograd.gradients(cancelling, {"x": x}, {}, rounding_seed=seed)[0])
        for seed in range(20)
    ]
    assert 1e-8 < np.ptp(values) / 1e-10 < 1e-4


def cancelling(_xp, _scan, variables, _constants):
    return ((1 + variables["x"]) - 1).sum(), {}


def test_random_rounding_is_determined_by_its_seed(unrolled):
    case = unrolled()
    first, again, other = (ask(case, rounding_seed=seed)[2] for seed in (4, 4, 9))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: x.amax(dim=-1),
        lambda x: x.max(dim=-1).values,
        lambda x: torch.where(x > 0, x, -x),
        lambda x: torch.maximum(x, -x),
        lambda x: x.sort(dim=-1).values,
        lambda x: torch.relu(x).clone()[1:].transpose(0, 1),
    ],
)
def test_what_only_chooses_or_moves_does_not_round(choose):
    x = torch.tensor(np.random.default_rng(0).normal(size=(4, 5)))
    with RandomRounding(0):
        moved = choose(x)
    assert torch.equal(moved, choose(x))


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: x.amax(dim=-1),
        lambda x: x.max(dim=-1).values,
        lambda x: torch.where(x > 0, x, 0 * x),
    ],
)
def test_gradient_of_a_choice_stays_finite(choose):
    """A maximum that were moved would equal none of its arguments.

    Its gradient, shared among the ties, 0/0.
    """
    x = torch.tensor(np.random.default_rng(0).normal(size=(4, 5)), requires_grad=True)
    with RandomRounding(0):
        (moved,) = torch.autograd.grad(choose(x).sum(), x)
    (plain,) = torch.autograd.grad(choose(x).sum(), x)
    assert torch.isfinite(moved).all()
    np.testing.assert_allclose(moved.numpy(), plain.numpy(), rtol=1e-14)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 0.0])
def test_infinity_and_zero_stay_what_they_are(value):
    """e^1000 = ∞ on the way to 1 / (1 + e^1000) = 0 is right; ∞ moved by −ε∞ would be NaN."""
    x = torch.full((1000,), value, dtype=torch.float64)
    with RandomRounding(0):
        moved = 2 * x
    assert torch.equal(moved, x)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_gradient_of_a_saturated_unit_stays_finite(unrolled, activation):
    case = unrolled(activation, "projection")
    for bias in (-1000.0, 1000.0):
        far = {**case.variables, "b_h": case.variables["b_h"] + bias}
        _, _, found = torch_autograd.gradients(case.function, far, case.constants, rounding_seed=1)
        assert all(np.isfinite(gradient).all() for gradient in found.values())


def test_random_rounding_of_more_numbers_than_the_pool_holds():
    x = torch.ones(RandomRounding.pool_size + 1, dtype=torch.float64)
    with RandomRounding(0):
        moved = x + x
    assert moved.shape == x.shape
    assert 0 < (moved - 2).abs().max() <= 4 * EPS["float64"]
    assert len(moved.unique()) > 2


def test_random_rounding_ends_with_its_block():
    x = torch.linspace(0.5, 1.5, 100, dtype=torch.float64)
    with RandomRounding(0):
        moved = x * 3
    assert not torch.equal(moved, x * 3)
    assert torch.equal(x * 3, x * 3)
    assert torch.equal(x * 3, torch.tensor(x.numpy() * 3))


def test_random_rounding_moves_jacobians_a_little(unrolled):
    case = unrolled("tanh")
    about = (case.step, case.params, {"h": 4}, case.variables["h_0"], case.x)
    plain, moved = torch_autograd.jacobians(*about), torch_autograd.jacobians(*about, 1)
    for name in ("state_jacobian", "jacobian_product_to_end"):
        assert 0 < relative_change(moved[name], plain[name]) < 100 * EPS["float64"]


def test_tensors_without_numbers_pass_through():
    """A module is built on "meta" before it is given its weights.

    That leaves what is on the CPU alone.
    """
    with RandomRounding(0):
        empty = torch.ones(3, device="meta") * 2
        moved = torch.ones(3, dtype=empty.dtype) * 2
    assert empty.is_meta
    assert moved.device.type == "cpu"
    assert 0 < (moved - 2).abs().max() < 1e-5
