"""float32 and shorter inside float64 arrays: named where it is certain, and nothing said elsewhere."""

import jax.numpy
import numpy as np
import pytest
import torch
from bptt_crosscheck import check_cell, check_gradients, check_vjp, from_jax, from_torch
from bptt_crosscheck.comparisons.judging.findings import Mistake

TORCH = {"references": ["torch"], "raise_exception": False}
T, B, H = 5, 2, 4
R = np.random.default_rng(0)
PARAMS = {"W": R.normal(size=(H, H)) / 2, "U": R.normal(size=(H, H)) / 3}
INPUTS = {"x": R.normal(size=(T, B, H)), "c": R.normal(size=(T, B, H))}


def loss(xp, params, inputs):
    h, total = 0 * inputs["x"][0], 0.0
    for t in range(T):
        h = xp.tanh(inputs["x"][t] @ params["W"].T + h @ params["U"].T)
        total = total + xp.sum(inputs["c"][t] * h)
    return total


def derived(tape="float64", out="float64", factor=1.0):
    """Right but for the factor of W: states in a buffer of this dtype, gradients of that."""

    def gradients(params, inputs):
        x, h = inputs["x"], np.zeros((T + 1, B, H), dtype=tape)
        for t in range(T):
            h[t + 1] = np.tanh(x[t] @ params["W"].T + h[t] @ params["U"].T)
        found, d = {name: np.zeros((H, H)) for name in params}, 0.0
        for t in reversed(range(T)):
            delta = (inputs["c"][t] + d) * (1 - h[t + 1].astype(float) ** 2)
            found["W"] += factor * delta.T @ x[t]
            found["U"] += delta.T @ h[t]
            d = delta @ params["U"]
        return {name: value.astype(out) for name, value in found.items()}

    return gradients


def said(report):
    """What is found of the precision; the report has not passed."""
    assert not report.passed
    return [found.text for found in report.cases[0].diagnosis if found.mistake is Mistake.PRECISION]


def inside(dtype):
    def low(params, inputs):
        both = [
            {name: value.to(dtype) for name, value in each.items()} for each in (params, inputs)
        ]
        return loss(torch, *both)

    return from_torch(low)


def inside_jax(dtype):
    def low(params, inputs):
        both = [{n: value.astype(dtype) for n, value in each.items()} for each in (params, inputs)]
        return loss(jax.numpy, *both)

    return from_jax(low)


SHORT = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("kind", [lambda name: inside(getattr(torch, name)), inside_jax])
def test_gradients_that_hold_numbers_of_it_alone(kind, name):
    [text] = said(check_gradients(kind(name), loss, PARAMS, INPUTS, **TORCH))
    assert text.startswith(f"computed in {name} inside: all numbers of ")
    assert f'declare convention={{"precision": "{name}"}}' in text
    declared = {"convention": {"precision": name}}
    assert check_gradients(kind(name), loss, PARAMS, INPUTS, **TORCH, **declared).passed


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_gradients_that_are_handed_out_in_it(name):
    [text] = said(check_gradients(derived(out=name), loss, PARAMS, INPUTS, **TORCH))
    assert text.startswith(f"computed in {name} inside: all numbers of W, U are")


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_a_buffer_in_it_is_told_by_the_size_of_the_error(name):
    [text] = said(check_gradients(derived(tape=name), loss, PARAMS, INPUTS, **TORCH))
    assert text.startswith(f"the error in W, U is of the size of {name}'s rounding, and as random")


def test_a_mistake_beside_it_is_told_by_itself():
    report = check_gradients(derived(out="float32", factor=1.5), loss, PARAMS, INPUTS, **TORCH)
    [text] = said(report)
    assert "all numbers of U are" in text
    assert "W is exact up to the factor 1.5" in str(report)


@pytest.mark.parametrize("factor", [1 + 1e-8, 1 + 1e-7, 1.001, 1.01, 2.0, -1.0])
def test_a_mistake_of_its_size_is_no_rounding(factor):
    assert said(check_gradients(derived(factor=factor), loss, PARAMS, INPUTS, **TORCH)) == []


def test_randomness_that_is_smaller_is_not_of_its_size():
    def noisy(params, inputs):
        found = derived()(params, inputs)
        # another number at every point, and the same at the same
        return {n: value * (1 + 1e-11 * np.sin(1e13 * value)) for n, value in found.items()}

    assert said(check_gradients(noisy, loss, PARAMS, INPUTS, **TORCH)) == []


def test_nothing_is_said_of_a_gradient_whose_truth_is_short_too():
    def linear(xp, params, inputs):
        return xp.sum(params["w"] * inputs["k"])

    def wrong(params, inputs):
        return {"w": inputs["k"] + 2.0**-20}

    question = {"w": np.ones(3)}, {"k": np.array([1.0, 2.0, 0.5])}
    assert said(check_gradients(wrong, linear, *question, **TORCH)) == []


class Cell:
    """h_t = tanh(W x_t + U h_{t−1}), whose delta is rounded."""

    def parameter_shapes(self, inputs, hidden):
        return {"W": (hidden, inputs), "U": (hidden, hidden)}

    def state_shapes(self, hidden):
        return {"h": (hidden,)}

    def step(self, xp, p, s, x):
        h = xp.tanh(x @ p["W"].T + s["h"] @ p["U"].T)
        return {"h": h}, (x, s["h"], h)

    def step_backward(self, p, cache, d):
        x, before, delta = cache[0], cache[1], (1 - cache[2] ** 2) * d["h"]
        delta = delta.astype("float32").astype(delta.dtype)
        return {"W": delta.T @ x, "U": delta.T @ before}, delta @ p["W"], {"h": delta @ p["U"]}


def test_a_cell_is_advised_to_be_asked_in_it():
    texts = said(check_cell(Cell(), **TORCH))
    assert all('ask for dtype="float32"' in text for text in texts)
    assert texts
    assert check_cell(Cell(), dtype="float32", **TORCH).passed


# The function's own values.


def short_loss(params, inputs):
    h = np.zeros(3, dtype="float32")
    for x in inputs["x"]:
        h = np.tanh(params["w"] * x + params["u"] * h).astype("float32")
    return np.sum(h)


def short_gradients(factor=1.0):
    def gradients(params, inputs):
        states = [np.zeros(3)]
        for x in inputs["x"]:
            states.append(np.tanh(params["w"] * x + params["u"] * states[-1]))
        d, found = np.ones(3), {name: np.zeros(3) for name in params}
        for t in range(len(inputs["x"]), 0, -1):
            delta = d * (1 - states[t] ** 2)
            found["w"] += delta * inputs["x"][t - 1]
            found["u"] += delta * states[t - 1]
            d = delta * params["u"]
        return {"w": found["w"], "u": factor * found["u"]}

    return gradients


POINT = {"w": np.array([0.3, -0.2, 0.9]), "u": np.array([0.8, 0.4, -0.5])}
GIVEN = {"x": R.normal(size=(4, 3))}


@pytest.mark.parametrize("as_double", [False, True])
def test_a_loss_that_computes_in_float32_is_told(as_double):
    def given(params, inputs):
        value = short_loss(params, inputs)
        return float(value) if as_double else value

    report = check_gradients(short_gradients(), given, POINT, GIVEN)
    assert "the loss computes in float32, though its arrays are float64" in str(report)
    wrong = check_gradients(short_gradients(1.5), given, POINT, GIVEN, raise_exception=False)
    assert {row.gradient for row in wrong.rows if not row.passed} == {"u"}


def test_a_loss_in_float64_is_not_told_to_be_short():
    for scale in (1.0, 0.1):
        report = check_gradients(
            lambda params, inputs, scale=scale: {"w": scale * 2 * params["w"]},
            lambda xp, params, inputs, scale=scale: scale * xp.sum(params["w"] ** 2),
            {"w": np.array([1.0, 2.0, 3.0])},
            {},
            references=["torch"],
        )
        assert "computes in" not in str(report)


def test_outputs_of_a_lower_dtype_are_told():
    def function(xp, params, inputs):
        return {"short": xp.astype(xp.sin(params["w"]), xp.float32), "exact": params["w"] * 2}

    def vjp(params, inputs, cotangents):
        single = cotangents["short"].astype("float32").astype(float)
        return {"w": single * np.cos(params["w"]) + 2 * cotangents["exact"]}

    report = check_vjp(vjp, function, {"w": np.array([0.3, 0.7])}, {}, **TORCH)
    assert "the function computes output.short in float32" in str(report)
    assert "output.exact" not in " ".join(report.cases[0].notes)
