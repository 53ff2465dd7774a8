"""Cell, head and loss put together, against torch's own RNN, linear layer and losses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bptt_crosscheck.manual import losses
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.losses import LOSSES
from bptt_crosscheck.manual.through_time import network
from bptt_crosscheck.manual.through_time.network import Head, Network, Projection
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.closeness import ROUNDING, relative_error

SOFTMAX, SQUARED = "softmax-cross-entropy", "squared-error"
SIZES = dict.fromkeys(
    ("steps", "batch", "input_size", "hidden_size", "output_size"), st.integers(1, 5)
)
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_reduction = pytest.mark.parametrize("reduction", ["sum", "mean"])


def draw(
    loss=SOFTMAX,
    *,
    steps=4,
    batch=3,
    input_size=2,
    hidden_size=4,
    output_size=3,
    tokens=False,
    seed=0,
):
    """(params, inputs) of a network with a head.

    read-only, with a mask that leaves out some positions but the last.
    """
    rng = np.random.default_rng(seed)
    shapes = Network(RNN(), Head(loss, "sum", output_size)).parameter_shapes(
        input_size, hidden_size
    )
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    shape = (steps, batch)
    mask = (rng.random(shape) < 0.7).astype(float)
    mask[-1, -1] = 1
    inputs = {
        "x": rng.integers(input_size, size=shape)
        if tokens
        else rng.standard_normal((*shape, input_size)),
        "h_0": rng.standard_normal((batch, hidden_size)),
        "target": rng.integers(output_size, size=shape)
        if loss == SOFTMAX
        else rng.standard_normal((*shape, output_size)),
        "mask": mask,
    }
    for array in (*params.values(), *inputs.values()):
        array.setflags(write=False)
    return params, inputs


def by_torch(params, inputs, loss, reduction, activation="tanh"):
    """(loss, gradients by name) from torch.nn.RNN and torch.nn.functional."""
    leaf = {
        name: torch.tensor(value, requires_grad=True)
        for name, value in {**params, "h_0": inputs["h_0"]}.items()
    }
    tokens = inputs["x"].dtype.kind == "i"
    x = torch.tensor(
        np.eye(params["W_xh"].shape[1])[inputs["x"]] if tokens else inputs["x"], requires_grad=True
    )
    rnn = torch.nn.RNN(
        x.shape[-1], leaf["b_h"].shape[0], nonlinearity=activation, dtype=torch.float64
    )
    weights = {
        "weight_ih_l0": leaf["W_xh"],
        "weight_hh_l0": leaf["W_hh"],
        "bias_ih_l0": leaf["b_h"],
    }
    weights["bias_hh_l0"] = torch.zeros_like(leaf["b_h"])
    states, _ = torch.func.functional_call(rnn, weights, (x, leaf["h_0"][None]))
    y, target = functional.linear(states, leaf["W_hy"], leaf["b_y"]), torch.tensor(inputs["target"])
    if loss == SOFTMAX:
        each = functional.cross_entropy(
            y.flatten(0, 1), target.flatten(), reduction="none"
        ).reshape(target.shape)
    else:
        each = functional.mse_loss(y, target, reduction="none").sum(-1) / 2
    counted = each[torch.tensor(inputs["mask"]) == 1]
    total = counted.mean() if reduction == "mean" else counted.sum()
    total.backward()
    gradients = {name: value.grad.numpy() for name, value in leaf.items()} | (
        {} if tokens else {"x": x.grad.numpy()}
    )
    return total.item(), gradients


def by_hand(params, inputs, loss, reduction, activation="tanh"):
    net = Network(RNN(activation), Head(loss, reduction, len(params["b_y"])))
    done = net.forward(params, inputs)
    return done.loss, net.backward(params, done)


def check(found, expected):
    (loss, gradients), (expected_loss, expected_gradients) = found, expected
    assert relative_error(loss, expected_loss) <= ROUNDING
    assert gradients.keys() == expected_gradients.keys()
    for name, value in expected_gradients.items():
        assert relative_error(gradients[name], value) <= ROUNDING, name


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    loss=st.sampled_from(sorted(LOSSES)),
    reduction=st.sampled_from(["sum", "mean"]),
    activation=st.sampled_from(["tanh", "relu"]),
    tokens=st.booleans(),
    shape=st.fixed_dictionaries(SIZES),
)
@example(
    loss=SQUARED, reduction="mean", activation="tanh", tokens=False, shape=dict.fromkeys(SIZES, 1)
)
def test_loss_and_every_gradient_equal_torch(loss, reduction, activation, tokens, shape):
    params, inputs = draw(loss, **shape, tokens=tokens)
    question = params, inputs, loss, reduction, activation
    check(by_hand(*question), by_torch(*question))


@every_loss
@every_reduction
def test_a_loss_at_the_last_step_alone_is_a_mask(loss, reduction):
    params, inputs = draw(loss)
    inputs["mask"] = np.zeros((4, 3))
    inputs["mask"][-1] = 1
    question = params, inputs, loss, reduction
    check(by_hand(*question), by_torch(*question))


def test_sum_and_mean_differ_by_the_number_of_counted_positions():
    params, inputs = draw()
    (total, by_sum), (average, by_mean) = (
        by_hand(params, inputs, SOFTMAX, reduction) for reduction in ("sum", "mean")
    )
    count = inputs["mask"].sum()
    assert 1 < count < inputs["mask"].size
    assert relative_error(total, count * average) <= ROUNDING
    assert relative_error(by_sum["W_hh"], count * by_mean["W_hh"]) <= ROUNDING


def test_tokens_have_no_gradient_and_dense_rows_have():
    with_tokens, with_rows = (
        by_hand(*draw(tokens=tokens), SOFTMAX, "sum")[1] for tokens in (True, False)
    )
    assert with_rows.keys() - with_tokens.keys() == {"x"}


def gradient_before_the_softmax(y, target, weights):
    loss, _ = losses.softmax_cross_entropy(y, target, weights)
    return loss, (y - np.eye(y.shape[-1])[target]) * weights[..., None]


def gradient_without_the_mask(y, target, weights):
    loss, _ = losses.softmax_cross_entropy(y, target, weights)
    return loss, losses.softmax_cross_entropy(y, target, np.ones_like(weights))[1]


@pytest.mark.parametrize("mistake", [gradient_before_the_softmax, gradient_without_the_mask])
def test_a_mistake_in_the_loss_shows_in_every_gradient_and_not_in_the_loss(monkeypatch, mistake):
    monkeypatch.setitem(network.LOSSES, SOFTMAX, mistake)
    question = *draw(), SOFTMAX, "sum"
    (loss, found), (expected_loss, expected) = by_hand(*question), by_torch(*question)
    assert relative_error(loss, expected_loss) <= ROUNDING
    assert all(relative_error(found[name], value) > 0.1 for name, value in expected.items())


def test_torch_s_other_reduction_is_far_away():
    params, inputs = draw()
    found, expected = (
        by_hand(params, inputs, SOFTMAX, "mean")[1],
        by_torch(params, inputs, SOFTMAX, "sum")[1],
    )
    assert all(relative_error(found[name], value) > 0.5 for name, value in expected.items())


def test_a_head_leaves_the_other_part_of_the_state_alone(leaky_memory, draw_memory):
    sequence = draw_memory()
    params, inputs = draw(hidden_size=3, batch=2)
    params = {**sequence.params, "W_hy": params["W_hy"], "b_y": params["b_y"]}
    inputs = {**inputs, "x": sequence.x, "h_0": sequence.initial["h"], "c_0": sequence.initial["c"]}
    net = Network(leaky_memory, Head(SOFTMAX, "sum", 3), ("h", "c"))
    done = net.forward(params, inputs)
    found = net.backward(params, done)

    leaf = {
        name: torch.tensor(value, requires_grad=True)
        for name, value in {**params, **inputs}.items()
        if value.dtype == float
    }
    state, total = {"h": leaf["h_0"], "c": leaf["c_0"]}, 0
    for t, x in enumerate(leaf["x"]):
        state, _ = leaky_memory.step(torch, leaf, state, x)
        y = functional.linear(state["h"], leaf["W_hy"], leaf["b_y"])
        target = torch.tensor(inputs["target"][t])
        total += (
            functional.cross_entropy(y, target, reduction="none") * torch.tensor(inputs["mask"][t])
        ).sum()
    total.backward()
    assert not done.reading.cotangents["c"].any()
    check(
        (done.loss, found),
        (total.item(), {name: leaf[name].grad.numpy() for name in (*params, "x", "h_0", "c_0")}),
    )


def projected(draw_sequence, cotangents=None):
    sequence = draw_sequence()
    net = Network(RNN(), Projection())
    inputs = {
        "x": sequence.x,
        "h_0": sequence.initial["h"],
        "cotangent_h": sequence.cotangents["h"],
        **(cotangents or {}),
    }
    done = net.forward(sequence.params, inputs)
    return sequence, done, net.backward(sequence.params, done)


def test_a_projection_reads_every_state_at_every_step(draw_sequence, unrolled):
    sequence, done, found = projected(draw_sequence)
    truth = unrolled(sequence)
    assert done.y is None
    assert (
        relative_error(done.loss, (truth.states[1:] * sequence.cotangents["h"]).sum()) <= ROUNDING
    )
    assert relative_error(found["x"], truth.x, separately=1) <= ROUNDING
    assert relative_error(found["h_0"], truth.d_state[0]) <= ROUNDING
    for name, shares in truth.params.items():
        assert relative_error(found[name], shares.sum(axis=0)) <= ROUNDING, name


def test_another_projection_has_other_gradients(draw_sequence, unrolled):
    sequence, _, found = projected(draw_sequence, {"cotangent_h": np.ones((5, 3, 5))})
    truth = unrolled(sequence)
    assert all(
        relative_error(found[name], shares.sum(axis=0)) > 0.1
        for name, shares in truth.params.items()
    )


def test_a_projection_needs_no_parameters_of_its_own():
    assert Network(RNN(), Projection()).parameter_shapes(2, 3) == RNN().parameter_shapes(2, 3)


def test_a_head_adds_its_parameters_to_the_cell_s():
    shapes = Network(RNN(), Head(SOFTMAX, "sum", 5)).parameter_shapes(2, 3)
    assert shapes == {**RNN().parameter_shapes(2, 3), "W_hy": (5, 3), "b_y": (5,)}


def test_huge_logits_equal_torch():
    params, inputs = draw()
    params["b_y"] = np.array([1e4, 0.0, -1e4])
    question = params, inputs, SOFTMAX, "mean"
    check(by_hand(*question), by_torch(*question))


def test_zero_weights_equal_torch():
    params, inputs = draw()
    question = (
        {name: np.zeros_like(value) for name, value in params.items()},
        inputs,
        SOFTMAX,
        "mean",
    )
    found, expected = by_hand(*question), by_torch(*question)
    assert not found[1]["W_hh"].any()
    check(found, expected)


@every_loss
def test_a_mean_over_an_empty_mask_is_refused(loss):
    params, inputs = draw(loss)
    with pytest.raises(ValueError, match="no position"):
        by_hand(params, {**inputs, "mask": np.zeros((4, 3))}, loss, "mean")


def test_a_sum_over_an_empty_mask_is_zero():
    params, inputs = draw()
    loss, gradients = by_hand(params, {**inputs, "mask": np.zeros((4, 3))}, SOFTMAX, "sum")
    assert loss == 0
    assert not any(value.any() for value in gradients.values())


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "identity", "softplus"])
@pytest.mark.parametrize("poisoned", ["x", "h_0", "W_xh", "W_hh", "b_h", "W_hy", "b_y"])
def test_one_nan_anywhere_reaches_the_loss_and_the_recurrent_weights(activation, poisoned):
    params, inputs = draw()
    inputs["mask"] = np.ones((4, 3))
    place = params if poisoned in params else inputs
    place[poisoned] = place[poisoned].copy()
    place[poisoned].flat[0] = np.nan
    loss, gradients = by_hand(params, inputs, SOFTMAX, "sum", activation)
    assert np.isnan(loss)
    assert np.isnan(gradients["W_hh"]).any()


@pytest.mark.parametrize("tokens", [False, True])
@every_loss
def test_backward_twice_is_identical_and_leaves_forward_and_inputs_as_they_were(loss, tokens):
    params, inputs = draw(loss, tokens=tokens)
    copies = {name: value.copy() for name, value in {**params, **inputs}.items()}
    writable = SimpleNamespace(
        params={n: copies[n] for n in params}, inputs={n: copies[n] for n in inputs}
    )
    net = Network(RNN(), Head(loss, "mean", 3))
    done = net.forward(writable.params, writable.inputs)
    y, states, cotangents = (
        done.y.copy(),
        done.tape.states["h"].copy(),
        done.reading.cotangents["h"].copy(),
    )
    first = {name: value.copy() for name, value in net.backward(writable.params, done).items()}
    for name, value in net.backward(writable.params, done).items():
        np.testing.assert_array_equal(value, first[name], err_msg=name)
    for kept, now in (
        (y, done.y),
        (states, done.tape.states["h"]),
        (cotangents, done.reading.cotangents["h"]),
    ):
        np.testing.assert_array_equal(now, kept)
    for name, value in {**params, **inputs}.items():
        np.testing.assert_array_equal(copies[name], value, err_msg=name)


@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2]]
)
@pytest.mark.parametrize("tokens", [False, True])
def test_the_memory_layout_does_not_matter(layout, tokens):
    params, inputs = draw(tokens=tokens)
    strided = (
        {name: layout(value) for name, value in arrays.items()} for arrays in (params, inputs)
    )
    check(by_hand(*strided, SOFTMAX, "mean"), by_hand(params, inputs, SOFTMAX, "mean"))
