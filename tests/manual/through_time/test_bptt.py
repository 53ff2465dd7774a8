"""The time loop against torch's autograd, step by step: every step is judged by its own norm."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual.activations import ACTIVATIONS
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.through_time import bptt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.closeness import ROUNDING, relative_error

sizes = st.integers(1, 6)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def swept(cell, sequence):
    """(tape, gradients) of Σ ⟨C_t, s_t⟩."""
    tape = bptt.forward(cell, sequence.params, sequence.initial, sequence.x)
    return tape, bptt.backward(cell, sequence.params, tape, sequence.cotangents)


def step_form(cell):
    """The cell as a user may give it.

    An object with a step and its derivation, and nothing else.
    """
    return SimpleNamespace(step=cell.step, step_backward=cell.step_backward)


def check_against(truth, tape, found):
    assert relative_error(tape.states["h"], truth.states, separately=1) <= ROUNDING
    assert relative_error(found.d_state["h"], truth.d_state, separately=1) <= ROUNDING
    assert found.delta is None or relative_error(found.delta, truth.delta, separately=1) <= ROUNDING
    assert (found.x is None) == (truth.x is None)
    assert truth.x is None or relative_error(found.x, truth.x, separately=1) <= ROUNDING
    assert found.params.keys() == truth.params.keys()
    for name, shares in truth.params.items():
        assert relative_error(found.params[name], shares.sum(axis=0)) <= ROUNDING, name


@pytest.mark.parametrize("form", [lambda cell: cell, step_form], ids=["sequence form", "step form"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    tokens=st.booleans(),
    shape=st.fixed_dictionaries(
        dict.fromkeys(("steps", "batch", "input_size", "hidden_size"), sizes)
    ),
)
@example(
    activation="tanh",
    tokens=False,
    shape={"steps": 1, "batch": 1, "input_size": 1, "hidden_size": 1},
)
def test_every_gradient_at_every_step_equals_torch(
    draw_sequence, unrolled, form, activation, tokens, shape
):
    sequence = draw_sequence(**shape, tokens=tokens)
    check_against(unrolled(sequence, activation), *swept(form(RNN(activation)), sequence))


@every_activation
def test_each_step_s_share_of_each_gradient_equals_torch(draw_sequence, unrolled, activation):
    sequence = draw_sequence(steps=6)
    truth = unrolled(sequence, activation)
    tape, _ = swept(RNN(activation), sequence)
    found = bptt.shares(RNN(activation), sequence.params, tape, sequence.cotangents)
    assert relative_error(found.d_state["h"], truth.d_state, separately=1) <= ROUNDING
    assert relative_error(found.x, truth.x, separately=1) <= ROUNDING
    for name, expected in truth.params.items():
        assert relative_error(found.params[name], expected, separately=1) <= ROUNDING, name


@pytest.mark.parametrize("tokens", [False, True])
def test_sequence_form_equals_the_sum_of_the_step_form(draw_sequence, tokens):
    sequence = draw_sequence(steps=7, tokens=tokens)
    tape, at_once = swept(RNN(), sequence)
    apart = bptt.shares(RNN(), sequence.params, tape, sequence.cotangents)
    np.testing.assert_array_equal(at_once.d_state["h"], apart.d_state["h"])
    for name, value in at_once.params.items():
        assert relative_error(apart.params[name].sum(axis=0), value) <= ROUNDING, name


def test_a_cell_with_the_step_form_alone_tells_no_delta(draw_sequence):
    assert not isinstance(step_form(RNN()), bptt.HoistedCell)
    assert swept(step_form(RNN()), draw_sequence())[1].delta is None


def test_walk_deltas_equals_torch_without_weight_gradients(draw_sequence, unrolled):
    sequence = draw_sequence()
    truth = unrolled(sequence)
    delta, d_state = bptt.walk_deltas(
        RNN(), sequence.params, swept(RNN(), sequence)[0], sequence.cotangents
    )
    assert relative_error(delta, truth.delta, separately=1) <= ROUNDING
    assert relative_error(d_state["h"], truth.d_state, separately=1) <= ROUNDING


def test_two_parts_of_state_equal_jax(leaky_memory, draw_memory):
    sequence = draw_memory()
    tape, found = swept(leaky_memory, sequence)

    def loss(params, initial, x):
        state, total = initial, 0.0
        for t in range(len(x)):
            state, _ = leaky_memory.step(jnp, params, state, x[t])
            total += sum((sequence.cotangents[name][t] * state[name]).sum() for name in state)
        return total

    with jax.enable_x64(True):
        d_params, d_initial, d_x = jax.grad(loss, (0, 1, 2))(
            sequence.params, sequence.initial, jnp.asarray(sequence.x)
        )
    assert list(tape.states) == list(found.d_state) == ["h", "c"]
    assert relative_error(found.x, d_x, separately=1) <= ROUNDING
    for name in ("k", "W"):
        assert relative_error(found.params[name], d_params[name]) <= ROUNDING, name
    for name in ("h", "c"):
        assert relative_error(found.d_state[name][0], d_initial[name]) <= ROUNDING, name


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_cotangent_at_one_step_reaches_all_earlier_steps_and_no_later_one(
    draw_sequence, unrolled, step
):
    sequence = draw_sequence(steps=5)
    alone = np.zeros_like(sequence.cotangents["h"])
    alone[step - 1] = sequence.cotangents["h"][step - 1]
    sequence = replace(sequence, cotangents={"h": alone})
    tape, found = swept(RNN(), sequence)
    check_against(unrolled(sequence), tape, found)
    assert not found.d_state["h"][step + 1 :].any()
    assert found.d_state["h"][: step + 1].any(axis=(1, 2)).all()


@every_activation
@pytest.mark.parametrize("bias", [30.0, -30.0, 0.0])
def test_saturated_units_and_zero_weights_equal_torch(draw_sequence, unrolled, activation, bias):
    sequence = draw_sequence(steps=3)
    sequence.params.update(
        {name: np.zeros_like(value) for name, value in sequence.params.items()},
        b_h=np.full(5, bias),
    )
    check_against(unrolled(sequence, activation), *swept(RNN(activation), sequence))


# The double sum, and windowed truncation.


def terms_by_torch(sequence, window=None):
    """{(t, k): the share of step k's weights in the loss at t}; tanh.

    The state is cut off before the window.
    """
    terms = {}
    for t in range(1, len(sequence.x) + 1):
        first = 1 if window is None else max(1, t - window)
        with torch.no_grad():
            h = torch.tensor(sequence.initial["h"])
            for x in sequence.x[: first - 1]:
                h = torch_step([torch.tensor(value) for value in sequence.params.values()], h, x)
        copies = {
            k: [torch.tensor(v, requires_grad=True) for v in sequence.params.values()]
            for k in range(first, t + 1)
        }
        for k, params in copies.items():
            h = torch_step(params, h, sequence.x[k - 1])
        (h * torch.tensor(sequence.cotangents["h"][t - 1])).sum().backward()
        for k, params in copies.items():
            terms[t, k] = {
                name: leaf.grad.numpy() for name, leaf in zip(sequence.params, params, strict=True)
            }
    return terms


def torch_step(params, h, x):
    W_xh, W_hh, b_h = params
    return torch.tanh(torch.tensor(x) @ W_xh.T + h @ W_hh.T + b_h)


def summed(terms):
    terms = list(terms)
    return {name: sum(term[name] for term in terms) for name in terms[0]}


def test_every_term_of_the_double_sum_equals_torch(draw_sequence):
    sequence = draw_sequence(steps=4)
    expected = terms_by_torch(sequence)
    tape, _ = swept(RNN(), sequence)
    found = {
        (t, k): term
        for t, k, term in bptt.double_sum_terms(RNN(), sequence.params, tape, sequence.cotangents)
    }
    assert found.keys() == expected.keys() == {(t, k) for t in range(1, 5) for k in range(1, t + 1)}
    for pair, term in expected.items():
        for name, value in term.items():
            assert relative_error(found[pair][name], value) <= ROUNDING, (pair, name)


@pytest.mark.parametrize("form", [lambda cell: cell, step_form], ids=["sequence form", "step form"])
def test_the_double_sum_equals_the_single_sum(draw_sequence, form):
    sequence = draw_sequence(steps=6)
    tape, single = swept(form(RNN()), sequence)
    double = bptt.double_sum(form(RNN()), sequence.params, tape, sequence.cotangents)
    assert double.keys() == single.params.keys()
    for name, value in single.params.items():
        assert relative_error(double[name], value) <= ROUNDING, name


@pytest.mark.parametrize("window", [0, 1, 2, 4, 9])
def test_a_windowed_double_sum_equals_torch_with_the_state_detached_before_the_window(
    draw_sequence, window
):
    sequence = draw_sequence(steps=5)
    tape, _ = swept(RNN(), sequence)
    found = bptt.double_sum(RNN(), sequence.params, tape, sequence.cotangents, window)
    for name, value in summed(terms_by_torch(sequence, window).values()).items():
        assert relative_error(found[name], value) <= ROUNDING, name


@pytest.mark.parametrize("window", [0, 1, 2, 3])
def test_a_window_one_step_longer_is_another_gradient(draw_sequence, window):
    sequence = draw_sequence(steps=5)
    tape, _ = swept(RNN(), sequence)
    found = bptt.double_sum(RNN(), sequence.params, tape, sequence.cotangents, window + 1)
    assert (
        relative_error(found["W_hh"], summed(terms_by_torch(sequence, window).values())["W_hh"])
        > 1e-3
    )


def test_a_window_visits_its_earlier_steps_and_the_loss_s_own(draw_sequence):
    sequence = draw_sequence(steps=5)
    tape, _ = swept(RNN(), sequence)
    visited = [
        (t, k)
        for t, k, _ in bptt.double_sum_terms(
            RNN(), sequence.params, tape, sequence.cotangents, window=2
        )
    ]
    assert [k for t, k in visited if t == 5] == [5, 4, 3]
    assert [k for t, k in visited if t == 2] == [2, 1]


# What a mistake looks like.


class CarryDropped(RNN):
    def delta(self, params, cache, d_state):
        delta, d_state_prev = super().delta(params, cache, d_state)
        return delta, {"h": np.zeros_like(d_state_prev["h"])}


class TransposedCarry(RNN):
    def delta(self, params, cache, d_state):
        delta, _ = super().delta(params, cache, d_state)
        return delta, {"h": delta @ params["W_hh"].T}


class CarryWithoutTheSlope(RNN):
    def delta(self, params, cache, d_state):
        delta, _ = super().delta(params, cache, d_state)
        return delta, {"h": d_state["h"] @ params["W_hh"]}


@pytest.mark.parametrize("form", [lambda cell: cell, step_form], ids=["sequence form", "step form"])
@pytest.mark.parametrize("mistaken_cell", [CarryDropped, TransposedCarry, CarryWithoutTheSlope])
def test_a_wrong_carry_shows_at_every_step_before_the_last_and_in_every_parameter(
    draw_sequence, unrolled, form, mistaken_cell
):
    sequence = draw_sequence(steps=5)
    truth = unrolled(sequence)
    _, found = swept(form(mistaken_cell()), sequence)
    assert relative_error(found.d_state["h"][5], truth.d_state[5]) <= ROUNDING, (
        "nothing has been carried yet"
    )
    assert all(relative_error(found.d_state["h"][t], truth.d_state[t]) > 0.1 for t in range(5))
    assert all(
        relative_error(found.params[name], shares.sum(axis=0)) > 0.01
        for name, shares in truth.params.items()
    )


class NewStateForOld(RNN):
    def accumulate(self, params, cache, delta):
        return super().accumulate(params, {**cache, "h_prev": cache["h"]}, delta)


class LastStepLeftOut(RNN):
    def accumulate(self, params, cache, delta):
        return super().accumulate(
            params, cache, np.concatenate([delta[:-1], np.zeros_like(delta[-1:])])
        )


class InitialStateForgotten(RNN):
    def accumulate(self, params, cache, delta):
        h_prev = cache["h_prev"].copy()
        h_prev[0] = 0
        return super().accumulate(params, {**cache, "h_prev": h_prev}, delta)


@pytest.mark.parametrize("mistaken_cell", [NewStateForOld, LastStepLeftOut, InitialStateForgotten])
def test_a_wrong_sum_over_time_shows_in_the_recurrent_weights(
    draw_sequence, unrolled, mistaken_cell
):
    sequence = draw_sequence(steps=5)
    _, found = swept(mistaken_cell(), sequence)
    assert (
        relative_error(found.params["W_hh"], unrolled(sequence).params["W_hh"].sum(axis=0)) > 0.05
    )


def test_a_zero_initial_state_hides_that_it_was_forgotten(draw_sequence, unrolled):
    sequence = replace(draw_sequence(steps=5), initial={"h": np.zeros((3, 5))})
    check_against(unrolled(sequence), *swept(InitialStateForgotten(), sequence))


def test_a_carry_that_replaces_the_loss_s_own_derivative_is_detected(
    draw_sequence, unrolled, monkeypatch
):
    def replacing(tape, cotangents, pull_back, chunk):
        totals = [{name: value[-1] for name, value in cotangents.items()}]
        for t in reversed(range(tape.steps)):
            totals.append(pull_back(t, totals[-1]))
        return {name: np.stack([total[name] for total in reversed(totals)]) for name in tape.states}

    monkeypatch.setattr(bptt, "_walk", replacing)
    sequence = draw_sequence(steps=5)
    truth = unrolled(sequence)
    _, found = swept(RNN(), sequence)
    assert relative_error(found.d_state["h"][4], truth.d_state[4]) > 0.1
    assert relative_error(found.params["W_hh"], truth.params["W_hh"].sum(axis=0)) > 0.1


def vanishing(draw_sequence):
    """Forty steps, a cotangent at the last one alone, and a weak recurrence."""
    sequence = draw_sequence(steps=40, gain=0.2)
    last = np.zeros_like(sequence.cotangents["h"])
    last[-1] = sequence.cotangents["h"][-1]
    return replace(sequence, cotangents={"h": last})


def test_a_vanished_gradient_has_all_its_digits(draw_sequence, unrolled):
    sequence = vanishing(draw_sequence)
    truth = unrolled(sequence)
    assert np.max(np.abs(truth.d_state[0])) < 1e-30
    check_against(truth, *swept(RNN(), sequence))


def test_ten_per_cent_at_one_vanished_step_shows_at_that_step_and_hides_in_the_whole(
    draw_sequence, unrolled
):
    sequence = vanishing(draw_sequence)
    shares = unrolled(sequence).params["W_hh"]
    tape, _ = swept(RNN(), sequence)
    found = bptt.shares(RNN(), sequence.params, tape, sequence.cotangents).params["W_hh"]
    found[4] *= 1.1
    assert relative_error(found.sum(axis=0), shares.sum(axis=0)) <= ROUNDING
    assert relative_error(found, shares, separately=1) == pytest.approx(0.1)


# What must survive.


def test_a_second_backward_on_the_same_tape_is_identical(draw_sequence):
    sequence = draw_sequence()
    tape, first = swept(RNN(), sequence)
    kept = {name: value.copy() for name, value in first.params.items()}
    second = bptt.backward(RNN(), sequence.params, tape, sequence.cotangents)
    for name, value in kept.items():
        np.testing.assert_array_equal(second.params[name], value)
    np.testing.assert_array_equal(second.x, first.x)
    np.testing.assert_array_equal(second.d_state["h"], first.d_state["h"])


@pytest.mark.parametrize("form", [lambda cell: cell, step_form], ids=["sequence form", "step form"])
def test_no_input_is_changed(draw_sequence, form):
    def arrays(s):
        return {**s.params, "h_0": s.initial["h"], "x": s.x, "C": s.cotangents["h"]}

    sequence = draw_sequence()
    writable = replace(
        sequence,
        params={n: v.copy() for n, v in sequence.params.items()},
        initial={"h": sequence.initial["h"].copy()},
    )
    writable = replace(
        writable, x=sequence.x.copy(), cotangents={"h": sequence.cotangents["h"].copy()}
    )
    tape, _ = swept(form(RNN()), writable)
    states = tape.states["h"].copy()
    bptt.double_sum(form(RNN()), writable.params, tape, writable.cotangents)
    for name, value in arrays(sequence).items():
        np.testing.assert_array_equal(arrays(writable)[name], value, err_msg=name)
    np.testing.assert_array_equal(tape.states["h"], states)


LAYOUTS = {
    "column major": np.asfortranarray,
    "transposed view": lambda a: np.ascontiguousarray(a.T).T,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.flip(np.ascontiguousarray(np.flip(a))),
}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_memory_layout_of_the_inputs_does_not_matter(draw_sequence, layout, tokens):
    sequence = draw_sequence(tokens=tokens)
    every = lambda arrays: {name: layout(value) for name, value in arrays.items()}  # noqa: E731
    strided = type(sequence)(
        every(sequence.params),
        every(sequence.initial),
        layout(sequence.x),
        every(sequence.cotangents),
    )
    (_, found), (_, expected) = swept(RNN(), strided), swept(RNN(), sequence)
    for name, value in expected.params.items():
        assert relative_error(found.params[name], value) <= ROUNDING, name
    assert relative_error(found.d_state["h"], expected.d_state["h"], separately=1) <= ROUNDING
    assert tokens or relative_error(found.x, expected.x, separately=1) <= ROUNDING


def test_an_expanded_cotangent_equals_torch(draw_sequence, unrolled):
    sequence = draw_sequence()
    expanded = {
        "h": np.broadcast_to(sequence.cotangents["h"][0, 0], sequence.cotangents["h"].shape)
    }
    assert expanded["h"].strides[:2] == (0, 0)
    sequence = replace(sequence, cotangents=expanded)
    check_against(unrolled(sequence), *swept(RNN(), sequence))


@every_activation
def test_nan_in_the_cotangent_of_one_row_reaches_the_parameters_and_no_other_row(
    draw_sequence, activation
):
    sequence = draw_sequence(steps=4, batch=3)
    cotangent = sequence.cotangents["h"].copy()
    cotangent[2, 1] = np.nan
    _, found = swept(RNN(activation), replace(sequence, cotangents={"h": cotangent}))
    assert all(np.isnan(value).any() for value in found.params.values())
    np.testing.assert_array_equal(
        np.isnan(found.x).any(axis=-1), [[False, True, False]] * 3 + [[False] * 3]
    )


def test_nan_in_an_input_is_not_swallowed(draw_sequence):
    sequence = draw_sequence(steps=4, batch=3)
    x = sequence.x.copy()
    x[2, 1, 0] = np.nan
    tape, found = swept(RNN(), replace(sequence, x=x))
    np.testing.assert_array_equal(np.isnan(tape.states["h"]).any(axis=(0, 2)), [False, True, False])
    assert all(np.isnan(value).any() for value in found.params.values())


def test_a_gradient_with_one_nan_never_agrees(draw_sequence, unrolled):
    sequence = draw_sequence()
    expected = unrolled(sequence).params["W_hh"].sum(axis=0)
    found = swept(RNN(), sequence)[1].params["W_hh"].copy()
    found[1, 2] = np.nan
    assert not relative_error(found, expected) <= ROUNDING


def test_all_zero_gradients_never_agree_with_a_vanished_one(draw_sequence, unrolled):
    truth = unrolled(vanishing(draw_sequence))
    assert relative_error(np.zeros_like(truth.d_state), truth.d_state, separately=1) == 1


def test_single_precision_is_kept(draw_sequence):
    def single(arrays):
        return {name: value.astype(np.float32) for name, value in arrays.items()}

    s = draw_sequence()
    _, found = swept(
        RNN(),
        type(s)(single(s.params), single(s.initial), s.x.astype(np.float32), single(s.cotangents)),
    )
    assert {
        value.dtype.name
        for value in (*found.params.values(), found.x, found.delta, found.d_state["h"])
    } == {"float32"}
