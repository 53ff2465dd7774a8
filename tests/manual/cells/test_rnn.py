"""One step of the RNN, forward and backward, against torch."""

import array_api_compat.torch as torch_namespace
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual.activations import ACTIVATIONS
from bptt_crosscheck.manual.cells.rnn import RNN
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.closeness import ROUNDING, relative_error

sizes = st.integers(1, 6)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def one_step(cell, sequence):
    """(h_1, gradients by name, h the one of h_0) of the only step of a sequence."""
    state, cache = cell.step(np, sequence.params, sequence.initial, sequence.x[0])
    d_params, d_x, d_state = cell.step_backward(
        sequence.params, cache, {"h": sequence.cotangents["h"][0]}
    )
    return state["h"], {**d_params, "x": d_x, "h": d_state["h"]}


def expected_step(truth):
    """The same from autograd."""
    by_name = {name: share[0] for name, share in truth.params.items()}
    return truth.states[1], {
        **by_name,
        "x": None if truth.x is None else truth.x[0],
        "h": truth.d_state[0],
    }


def errors(found, expected):
    """Relative error by gradient; tokens have none for x."""
    assert found.keys() == expected.keys()
    assert (found["x"] is None) == (expected["x"] is None)
    return {
        name: relative_error(found[name], value)
        for name, value in expected.items()
        if value is not None
    }


def check_step(cell, sequence, truth):
    (h, found), (expected_h, expected) = one_step(cell, sequence), expected_step(truth)
    assert relative_error(h, expected_h) <= ROUNDING
    for name, error in errors(found, expected).items():
        assert error <= ROUNDING, name


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(),
    st.fixed_dictionaries(dict.fromkeys(("batch", "input_size", "hidden_size"), sizes)),
)
def test_step_and_its_gradients_equal_torch(draw_sequence, unrolled, activation, tokens, shape):
    sequence = draw_sequence(1, **shape, tokens=tokens)
    check_step(RNN(activation), sequence, unrolled(sequence, activation))


@every_activation
def test_zero_weights_give_torch_s_gradients(draw_sequence, unrolled, activation):
    sequence = draw_sequence(1)
    for value in (
        zeros := {name: np.zeros_like(value) for name, value in sequence.params.items()}
    ).values():
        value.setflags(write=False)
    sequence.params.update(zeros)
    check_step(RNN(activation), sequence, unrolled(sequence, activation))


@every_activation
@pytest.mark.parametrize("bias", [30.0, -30.0])
def test_saturated_units_give_torch_s_gradients(draw_sequence, unrolled, activation, bias):
    sequence = draw_sequence(1)
    sequence.params["b_h"] = np.full(5, bias)
    check_step(RNN(activation), sequence, unrolled(sequence, activation))


class SlopeLeftOut(RNN):
    def delta(self, params, cache, d_state):
        del cache
        return d_state["h"], {"h": d_state["h"] @ params["W_hh"]}


class SlopeOfTheNetInput(RNN):
    def delta(self, params, cache, d_state):
        return super().delta(params, {**cache, "h": cache["z"]}, d_state)


class TransposedCarry(RNN):
    def delta(self, params, cache, d_state):
        delta, _ = super().delta(params, cache, d_state)
        return delta, {"h": delta @ params["W_hh"].T}


class NewStateForOld(RNN):
    def accumulate(self, params, cache, delta):
        return super().accumulate(params, {**cache, "h_prev": cache["h"]}, delta)


class LastRowOnly(RNN):
    def accumulate(self, params, cache, delta):
        gradients, d_x = super().accumulate(params, cache, delta)
        return {**gradients, "b_h": delta[-1]}, d_x


class MeanOverTheBatch(RNN):
    def accumulate(self, params, cache, delta):
        gradients, d_x = super().accumulate(params, cache, delta)
        return {name: value / len(delta) for name, value in gradients.items()}, d_x


class TokensOverwritten(RNN):
    def accumulate(self, params, cache, delta):
        gradients, d_x = super().accumulate(params, cache, delta)
        overwritten = np.zeros_like(gradients["W_xh"])
        overwritten[:, cache["x"]] += delta.T
        return {**gradients, "W_xh": overwritten}, d_x


ALL = {"W_xh", "W_hh", "b_h", "h"}


@pytest.mark.parametrize(
    ("mistaken_cell", "wrong"),
    [
        (SlopeLeftOut, ALL),
        (SlopeOfTheNetInput, ALL),
        (TransposedCarry, {"h"}),
        (NewStateForOld, {"W_hh"}),
        (LastRowOnly, {"b_h"}),
        (MeanOverTheBatch, {"W_xh", "W_hh", "b_h"}),
        (TokensOverwritten, {"W_xh"}),
    ],
)
def test_a_mistake_in_one_equation_shows_in_its_own_gradients_and_no_other(
    draw_sequence, unrolled, mistaken_cell, wrong
):
    sequence = draw_sequence(1, batch=4, input_size=3, tokens=True)
    found, expected = one_step(mistaken_cell(), sequence)[1], expected_step(unrolled(sequence))[1]
    found_errors = errors(found, expected)
    assert {name for name, error in found_errors.items() if error > 0.1} == wrong
    assert {name for name, error in found_errors.items() if error <= ROUNDING} == ALL - wrong


def test_one_token_throughout_a_batch_accumulates_every_row(draw_sequence, unrolled):
    sequence = draw_sequence(1, batch=5, input_size=1, tokens=True)
    check_step(RNN(), sequence, unrolled(sequence))


def test_tokens_are_dense_one_hot_rows(draw_sequence):
    tokens = draw_sequence(1, batch=4, tokens=True)
    dense = draw_sequence(1, batch=4)
    one_hot = type(dense)(tokens.params, tokens.initial, np.eye(4)[tokens.x], tokens.cotangents)
    (h, found), (expected_h, expected) = one_step(RNN(), tokens), one_step(RNN(), one_hot)
    np.testing.assert_array_equal(h, expected_h)
    for name in sorted(ALL):
        assert relative_error(found[name], expected[name]) <= ROUNDING, name


@every_activation
def test_the_step_is_the_same_under_torch_and_jax(draw_sequence, activation):
    sequence = draw_sequence(1)
    h = one_step(RNN(activation), sequence)[0]

    def under(xp, array):
        params, state = (
            {name: array(value) for name, value in arrays.items()}
            for arrays in (sequence.params, sequence.initial)
        )
        return np.asarray(RNN(activation).step(xp, params, state, array(sequence.x[0]))[0]["h"])

    assert relative_error(under(torch_namespace, torch.tensor), h) <= ROUNDING
    with jax.enable_x64(True):
        assert relative_error(under(jnp, jnp.asarray), h) <= ROUNDING


def test_shapes_are_named_and_out_by_in():
    assert RNN().parameter_shapes(4, 5) == {"W_xh": (5, 4), "W_hh": (5, 5), "b_h": (5,)}
    assert RNN().state_shapes(5) == {"h": (5,)}
