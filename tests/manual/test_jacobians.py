"""Jacobians of the recurrence against torch.func.jacrev and jax.jacrev.

Each step and each row is judged by its own norm.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual import jacobians
from bptt_crosscheck.manual.activations import ACTIVATIONS
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.through_time import bptt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.closeness import ROUNDING, relative_error

FRAMEWORKS = {
    "torch": SimpleNamespace(
        array=torch.tensor,
        jacrev=torch.func.jacrev,
        tanh=torch.tanh,
        sigmoid=torch.sigmoid,
        relu=torch.relu,
        identity=torch.clone,
        softplus=functional.softplus,
        positive=lambda z: torch.where(z >= 0, z + 0.5, torch.sigmoid(z)),
    ),
    "jax": SimpleNamespace(
        array=jnp.asarray,
        jacrev=jax.jacrev,
        tanh=jnp.tanh,
        sigmoid=jax.nn.sigmoid,
        relu=jax.nn.relu,
        identity=jnp.asarray,
        softplus=jax.nn.softplus,
        positive=lambda z: jnp.where(z >= 0, z + 0.5, jax.nn.sigmoid(z)),
    ),
}
every_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


def tape_of(cell, sequence):
    return bptt.forward(cell, sequence.params, sequence.initial, sequence.x)


def jacobian_by(framework, sequence, states, k, t, activation="tanh"):
    """∂h_t/∂h_k (B, H, H): jacrev of the map from h_k to h_t, its steps unrolled."""
    library = FRAMEWORKS[framework]
    phi = getattr(library, activation)
    with jax.enable_x64(True):
        W_xh, W_hh, b_h = (library.array(value) for value in sequence.params.values())

        def unrolled(h, x):
            for x_t in x:
                h = phi(W_xh @ x_t + W_hh @ h + b_h)
            return h

        rows = zip(states[k], np.swapaxes(sequence.x, 0, 1)[:, k:t], strict=True)
        return np.stack(
            [
                np.asarray(library.jacrev(unrolled)(library.array(h), library.array(x)))
                for h, x in rows
            ]
        )


def step_jacobians_by(framework, sequence, states, activation="tanh"):
    return np.stack(
        [
            jacobian_by(framework, sequence, states, t, t + 1, activation)
            for t in range(len(sequence.x))
        ]
    )


@every_framework
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_step_jacobians_equal_jacrev_entry_by_entry(draw_sequence, framework, activation):
    sequence = draw_sequence(steps=2, batch=2, hidden_size=3)
    tape = tape_of(RNN(activation), sequence)
    expected = step_jacobians_by(framework, sequence, tape.states["h"], activation)
    found = jacobians.state_jacobians(RNN(activation), sequence.params, tape)
    assert relative_error(found, expected, separately=4) <= ROUNDING


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    shape=st.fixed_dictionaries(
        dict.fromkeys(("steps", "batch", "input_size", "hidden_size"), st.integers(1, 4))
    ),
)
@example(activation="tanh", shape={"steps": 1, "batch": 1, "input_size": 1, "hidden_size": 1})
def test_jacobians_and_products_equal_torch_for_every_size(draw_sequence, activation, shape):
    sequence = draw_sequence(**shape)
    tape = tape_of(RNN(activation), sequence)
    found = jacobians.state_jacobians(RNN(activation), sequence.params, tape)
    whole = jacobian_by("torch", sequence, tape.states["h"], 0, shape["steps"], activation)
    assert (
        relative_error(
            found, step_jacobians_by("torch", sequence, tape.states["h"], activation), separately=2
        )
        <= ROUNDING
    )
    assert relative_error(jacobians.products_to_end(found)[0], whole, separately=1) <= ROUNDING


@every_framework
def test_a_cell_without_step_jacobian_is_pulled_back_row_by_row(draw_sequence, framework):
    sequence = draw_sequence(steps=3, batch=2, hidden_size=3)
    cell = SimpleNamespace(step=RNN().step, step_backward=RNN().step_backward)
    tape = tape_of(cell, sequence)
    found = jacobians.state_jacobians(cell, sequence.params, tape)
    assert (
        relative_error(
            found, step_jacobians_by(framework, sequence, tape.states["h"]), separately=2
        )
        <= ROUNDING
    )


def test_two_parts_of_state_equal_jacrev_in_the_order_of_the_state(leaky_memory, draw_memory):
    sequence = draw_memory(steps=3, batch=2, hidden_size=2)
    tape = tape_of(leaky_memory, sequence)
    found = jacobians.state_jacobians(leaky_memory, sequence.params, tape)
    params = {name: torch.tensor(value) for name, value in sequence.params.items()}

    def step(s, x):
        new, _ = leaky_memory.step(torch, params, {"h": s[:2], "c": s[2:]}, x)
        return torch.cat([new["h"], new["c"]])

    for t, b in np.ndindex(3, 2):
        s = torch.tensor(np.concatenate([tape.states["h"][t, b], tape.states["c"][t, b]]))
        assert (
            relative_error(found[t, b], torch.func.jacrev(step)(s, torch.tensor(sequence.x[t, b])))
            <= ROUNDING
        )


class TransposedJacobian(RNN):
    def step_jacobian(self, params, cache):
        return np.swapaxes(super().step_jacobian(params, cache), -1, -2)


class SlopeOnTheColumns(RNN):
    def step_jacobian(self, params, cache):
        return params["W_hh"] * (1 - cache["h"] ** 2)[:, None, :]


class SlopeLeftOut(RNN):
    def step_jacobian(self, params, cache):
        return np.broadcast_to(params["W_hh"], (len(cache["h"]), *params["W_hh"].shape))


class SlopeOfTheOldState(RNN):
    def step_jacobian(self, params, cache):
        return super().step_jacobian(params, {**cache, "h": cache["h_prev"]})


@pytest.mark.parametrize(
    "mistaken_cell", [TransposedJacobian, SlopeOnTheColumns, SlopeLeftOut, SlopeOfTheOldState]
)
def test_a_mistaken_jacobian_is_far_from_jacrev_at_every_step_and_row(draw_sequence, mistaken_cell):
    sequence = draw_sequence(steps=3, batch=2, hidden_size=3)
    tape = tape_of(RNN(), sequence)
    found = jacobians.state_jacobians(mistaken_cell(), sequence.params, tape)
    expected = step_jacobians_by("torch", sequence, tape.states["h"])
    assert all(relative_error(found[index], expected[index]) > 0.1 for index in np.ndindex(3, 2))


@every_framework
def test_products_to_the_end_equal_jacrev_of_the_unrolled_map_at_every_step(
    draw_sequence, framework
):
    sequence = draw_sequence(steps=4, batch=2, hidden_size=3)
    tape = tape_of(RNN(), sequence)
    found = jacobians.products_to_end(jacobians.state_jacobians(RNN(), sequence.params, tape))
    expected = np.stack(
        [jacobian_by(framework, sequence, tape.states["h"], k, 4) for k in range(4)]
    )
    assert relative_error(found, expected, separately=2) <= ROUNDING


def test_vanished_products_have_all_their_digits(draw_sequence):
    sequence = draw_sequence(steps=40, batch=1, hidden_size=3, gain=0.1)
    tape = tape_of(RNN(), sequence)
    found = jacobians.products_to_end(jacobians.state_jacobians(RNN(), sequence.params, tape))
    expected = np.stack(
        [jacobian_by("torch", sequence, tape.states["h"], k, 40) for k in range(40)]
    )
    assert 0 < np.max(np.abs(expected[0])) < 1e-40
    assert relative_error(found, expected, separately=2) <= ROUNDING


def test_the_newest_factor_stands_on_the_left(draw_sequence):
    sequence = draw_sequence(steps=2, batch=1, hidden_size=3)
    tape = tape_of(RNN(), sequence)
    (first,), (second,) = jacobians.state_jacobians(RNN(), sequence.params, tape)
    expected = jacobian_by("torch", sequence, tape.states["h"], 0, 2)[0]
    assert relative_error(second @ first, expected) <= ROUNDING
    assert relative_error(first @ second, expected) > 0.1


def test_product_norms_are_1_on_the_diagonal_and_nan_above_it(draw_sequence):
    sequence = draw_sequence(steps=4, batch=2)
    norms = jacobians.product_norms(
        jacobians.state_jacobians(RNN(), sequence.params, tape_of(RNN(), sequence))
    )
    assert norms.shape == (5, 5, 2)
    assert np.all(norms[np.diag_indices(5)] == 1)
    assert np.isnan(norms[np.triu_indices(5, 1)]).all()
    assert not np.isnan(norms[np.tril_indices(5)]).any()


def test_product_norms_are_the_spectral_norms_of_the_unrolled_maps(draw_sequence):
    sequence = draw_sequence(steps=4, batch=2, hidden_size=3)
    tape = tape_of(RNN(), sequence)
    norms = jacobians.product_norms(jacobians.state_jacobians(RNN(), sequence.params, tape))
    for t, k in zip(*np.tril_indices(5, -1), strict=True):
        maps = torch.tensor(jacobian_by("torch", sequence, tape.states["h"], k, t))
        assert (
            relative_error(norms[t, k], torch.linalg.matrix_norm(maps, ord=2), separately=1)
            <= ROUNDING
        ), (t, k)


def test_the_frobenius_norm_is_another(draw_sequence):
    sequence = draw_sequence(steps=1, batch=2, hidden_size=3)
    steps = jacobians.state_jacobians(RNN(), sequence.params, tape_of(RNN(), sequence))
    frobenius = torch.linalg.matrix_norm(torch.tensor(steps[0]))
    assert all(
        relative_error(jacobians.product_norms(steps)[1, 0, b], frobenius[b]) > 1e-2
        for b in range(2)
    )


def test_a_product_s_norm_is_at_most_the_product_of_the_norms(draw_sequence):
    sequence = draw_sequence(steps=5, batch=2)
    norms = jacobians.product_norms(
        jacobians.state_jacobians(RNN(), sequence.params, tape_of(RNN(), sequence))
    )
    each = np.stack([norms[t + 1, t] for t in range(5)])
    for t, k in zip(*np.tril_indices(6, -1), strict=True):
        assert np.all(norms[t, k] <= np.prod(each[k:t], axis=0) * (1 + ROUNDING))


def random_products(shape=(3, 2, 4, 4)):
    return np.random.default_rng(0).standard_normal(shape)


def test_singular_values_equal_torch_largest_first():
    found = jacobians.singular_values(random_products())
    assert (
        relative_error(found, torch.linalg.svdvals(torch.tensor(random_products())), separately=2)
        <= ROUNDING
    )
    assert np.all(np.diff(found) <= 0)


def test_eigenvalues_are_not_singular_values():
    moduli = -np.sort(-np.abs(np.linalg.eigvals(random_products())))
    assert relative_error(moduli, jacobians.singular_values(random_products()), separately=2) > 0.1


@pytest.mark.parametrize("steps", [1, 7])
def test_growth_rates_of_a_constant_diagonal_are_its_logarithms_largest_first(steps):
    diagonal = np.array([[0.5, -3.0, 1.25], [2.0, 0.1, -0.7]])
    constant = np.broadcast_to(diagonal[..., None] * np.eye(3), (steps, 2, 3, 3))
    expected = np.log([[3.0, 1.25, 0.5], [2.0, 0.7, 0.1]])
    assert relative_error(jacobians.growth_rates(constant), expected, separately=2) <= ROUNDING


def test_growth_rates_of_diagonal_jacobians_are_the_log_singular_values_of_their_product():
    rates = np.sort(np.random.default_rng(0).uniform(-0.5, 0.5, (6, 1, 3)))[..., ::-1]
    steps = np.exp(rates)[..., None] * np.eye(3)
    expected = np.log(jacobians.singular_values(jacobians.products_to_end(steps))[0]) / 6
    assert relative_error(jacobians.growth_rates(steps), expected, separately=2) <= ROUNDING


def test_growth_rates_add_up_to_the_growth_of_volume():
    found = jacobians.growth_rates(random_products()).sum(axis=-1)
    log_volume = torch.linalg.slogdet(torch.tensor(random_products())).logabsdet.mean(dim=0)
    assert relative_error(found, log_volume, separately=1) <= ROUNDING


def test_growth_rates_are_those_of_the_triangular_factor_of_the_whole_product():
    first, second, third = torch.tensor(random_products())
    products = third @ second @ first, first @ second @ third
    rates = [
        torch.linalg.qr(product).R.diagonal(dim1=-2, dim2=-1).abs().log() / 3
        for product in products
    ]
    newest_left, oldest_left = (rate.sort(descending=True).values for rate in rates)
    assert (
        relative_error(jacobians.growth_rates(random_products()), newest_left, separately=2)
        <= ROUNDING
    )
    assert (
        relative_error(jacobians.growth_rates(random_products()), oldest_left, separately=2) > 0.1
    )


def test_growth_rates_of_a_constant_jacobian_tend_to_the_logarithms_of_its_eigenvalues():
    basis = random_products()[0, 0]
    constant = basis @ np.diag([1.3, 0.2, -0.9, 0.5]) @ np.linalg.inv(basis)
    errors = [
        np.abs(
            jacobians.growth_rates(np.broadcast_to(constant, (steps, 1, 4, 4)))[0]
            - np.log([1.3, 0.9, 0.5, 0.2])
        ).max()
        for steps in (200, 2000)
    ]
    assert errors[0] <= 0.05
    assert errors[1] == pytest.approx(errors[0] / 10), "what the basis adds is divided by T"


def test_the_mean_of_step_norms_is_not_a_growth_rate():
    step_norms = np.linalg.norm(random_products(), ord=2, axis=(-2, -1))
    assert (
        relative_error(
            np.log(step_norms).mean(axis=0),
            jacobians.growth_rates(random_products())[:, 0],
            separately=1,
        )
        > 0.1
    )


def test_a_rotation_neither_grows_nor_dies():
    rotation = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    assert (
        np.max(np.abs(jacobians.growth_rates(np.broadcast_to(rotation, (9, 1, 2, 2))))) <= ROUNDING
    )


def test_growth_rates_survive_where_the_product_over_and_underflows():
    steps = np.broadcast_to(np.diag([1e-3, 1e3]), (200, 1, 2, 2))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        assert not np.isfinite(np.linalg.matrix_power(steps[0, 0], 200)).all()
    assert (
        relative_error(jacobians.growth_rates(steps), np.log([[1e3, 1e-3]]), separately=2)
        <= ROUNDING
    )


def test_a_direction_killed_along_an_axis_has_rate_minus_infinity():
    rates = jacobians.growth_rates(np.broadcast_to(np.diag([2.0, 0.0]), (3, 1, 2, 2)))
    np.testing.assert_array_equal(rates, [[np.log(2.0), -np.inf]])


def contributions_by_torch(sequence):
    """‖∂L_t/∂W of step k‖ by parameter, from a copy of each parameter for each step."""
    steps = len(sequence.x)
    norms = {name: np.full((steps + 1, steps + 1), np.nan) for name in sequence.params}
    copies = [
        [torch.tensor(value, requires_grad=True) for value in sequence.params.values()]
        for _ in range(steps)
    ]
    h = torch.tensor(sequence.initial["h"])
    for t, (W_xh, W_hh, b_h) in enumerate(copies, start=1):
        h = torch.tanh(torch.tensor(sequence.x[t - 1]) @ W_xh.T + h @ W_hh.T + b_h)
        loss = (h * torch.tensor(sequence.cotangents["h"][t - 1])).sum()
        for k, leaves in enumerate(copies[:t], start=1):
            for name, gradient in zip(
                sequence.params, torch.autograd.grad(loss, leaves, retain_graph=True), strict=True
            ):
                norms[name][t, k] = gradient.norm()
    return norms


def contributions(sequence, cotangents=None):
    return jacobians.contribution_norms(
        RNN(), sequence.params, tape_of(RNN(), sequence), cotangents or sequence.cotangents
    )


def test_contribution_norms_equal_torch_pair_by_pair(draw_sequence):
    sequence = draw_sequence(steps=4)
    found, expected = contributions(sequence), contributions_by_torch(sequence)
    assert found.keys() == expected.keys()
    lower = np.array([(t, k) for t in range(1, 5) for k in range(1, t + 1)]).T
    for name, norms in expected.items():
        assert relative_error(found[name][*lower], norms[*lower], separately=1) <= ROUNDING, name
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(norms))


def test_contributions_of_another_step_s_loss_are_others(draw_sequence):
    sequence = draw_sequence(steps=4)
    found = contributions(sequence, {"h": sequence.cotangents["h"][::-1]})["W_hh"]
    expected = contributions_by_torch(sequence)["W_hh"]
    assert relative_error(found[4, 1:], expected[4, 1:], separately=1) > 0.05


def test_flattening_keeps_the_order_of_the_parts_and_splitting_undoes_it():
    state = {"h": np.arange(6.0).reshape(2, 3), "c": -np.arange(4.0).reshape(2, 2)}
    flat = jacobians.flatten_state(state)
    np.testing.assert_array_equal(flat[0], [0, 1, 2, 0, -1])
    parts = jacobians.split_state(flat, state)
    assert list(parts) == ["h", "c"]
    for name, part in state.items():
        np.testing.assert_array_equal(parts[name], part)


def test_read_only_and_strided_jacobians_are_accepted_and_left_alone():
    contiguous = random_products()
    strided = np.asfortranarray(contiguous)
    strided.setflags(write=False)
    for measure in (jacobians.products_to_end, jacobians.growth_rates, jacobians.singular_values):
        assert relative_error(measure(strided), measure(contiguous), separately=2) <= ROUNDING
    np.testing.assert_array_equal(strided, contiguous)


def test_nan_in_one_jacobian_reaches_every_earlier_product_of_its_row_alone():
    steps = random_products().copy()
    steps[1, 0, 2, 2] = np.nan
    found = np.isnan(jacobians.products_to_end(steps)).any(axis=(-2, -1))
    np.testing.assert_array_equal(found, [[True, False], [True, False], [False, False]])


def test_whose_jacobian_is_not_the_author_s_is_asked_step_by_step(draw_sequence):
    sequence = draw_sequence(steps=7, batch=2, hidden_size=4)
    asked = []

    class Counts(RNN):
        def step_jacobian(self, params, cache):
            asked.append(len(cache["h_prev"]))
            return super().step_jacobian(params, cache)

    jacobians.state_jacobians(Counts(), sequence.params, tape_of(Counts(), sequence))
    assert asked == [2] * 7


@pytest.mark.parametrize("cache", [1, 2000, 2**20])
def test_in_pieces_or_at_once_the_same(draw_sequence, monkeypatch, cache):
    sequence = draw_sequence(steps=7, batch=2, hidden_size=4)
    tape = tape_of(RNN(), sequence)
    monkeypatch.setattr(jacobians, "CACHE", cache)
    each = [jacobians.state_jacobian(RNN(), sequence.params, tape, t) for t in range(7)]
    np.testing.assert_allclose(
        jacobians.state_jacobians(RNN(), sequence.params, tape), each, rtol=1e-14
    )
