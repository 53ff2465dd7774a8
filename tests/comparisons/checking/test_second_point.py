"""Code that is right at the point that is asked first, and depends on what was asked before."""

import copy

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_gradients, check_vjp, from_torch
from bptt_crosscheck.comparisons.errors import NotRepeatable

from tests.comparisons.small import INPUTS, PARAMS, TORCH, gradients, loss, numpy_loss, outputs, vjp

FORMS = {"torch": loss, "NumPy": numpy_loss}
each_form = pytest.mark.parametrize("asked", FORMS.values(), ids=FORMS)


class KeepsItsFirst:
    """It hands out what it found first, or goes back by the weights that it saw first."""

    def __init__(self, what):
        self.what, self.first = what, None

    def gradients(self, params, inputs):
        if self.first is None:
            self.first = copy.deepcopy(params)
        if self.what == "every weight":
            return gradients(self.first, inputs)
        kept = {name: self.first[name] if name == "U" else params[name] for name in params}
        return {**gradients(params, inputs), "W": gradients(kept, inputs)["W"]}


@each_form
@pytest.mark.parametrize("what", ["every weight", "one weight"])
def test_weights_of_an_earlier_call(asked, what):
    with pytest.raises(NotRepeatable, match="depends on what it was asked before") as caught:
        check_gradients(KeepsItsFirst(what).gradients, asked, PARAMS, INPUTS)
    assert "setup=" in str(caught.value)
    if what == "one weight" and asked is loss:
        assert "asked first, W is wrong" in str(caught.value)


@each_form
def test_inputs_of_an_earlier_call(asked):
    first = []

    def stale(params, inputs):
        first.append(copy.deepcopy(inputs))
        return gradients(params, first[0])

    report = check_gradients(stale, asked, PARAMS, INPUTS)
    assert report.passed
    assert "do not follow the inputs" in str(report)
    assert "do not follow" not in str(check_gradients(gradients, asked, PARAMS, INPUTS))


@pytest.mark.parametrize("form", ["torch", "NumPy"])
def test_inputs_that_mean_something_else_than_their_size_stay(form):
    """A mask that the derivation reads as `== 1`, and lengths as floating-point numbers."""

    def masked(xp, params, inputs):
        kept = params["b"] * inputs["mask"]
        return xp.sum(kept**2) * inputs["length"][0]

    def right(params, inputs):
        assert inputs["length"][0] == 3.0
        return {"b": np.where(inputs["mask"] == 1, 2 * params["b"] * inputs["length"], 0.0)}

    asked = masked if form == "torch" else lambda p, i: masked(np, p, i)
    inputs = {"mask": np.array([1.0, 0.0, 1.0]), "length": np.array([3.0])}
    params = {"b": PARAMS["b"]}
    assert check_gradients(right, asked, params, inputs).passed
    first = []

    def stale(params, inputs):
        first.append(params["b"].copy())
        return right({"b": first[0]}, inputs)

    with pytest.raises(NotRepeatable):
        check_gradients(stale, asked, params, inputs)


@each_form
def test_what_resets_itself_in_setup_passes(asked):
    kept = KeepsItsFirst("every weight")

    def setup():
        kept.first = None

    assert check_gradients(kept.gradients, asked, PARAMS, INPUTS, setup=setup).passed


@each_form
def test_what_was_computed_beforehand(asked):
    found = gradients(PARAMS, INPUTS)
    with pytest.raises(NotRepeatable, match="computed beforehand"):
        check_gradients(lambda p, i: found, asked, PARAMS, INPUTS)


def test_a_vjp_of_an_earlier_call():
    first = []

    def stale(params, inputs, cotangents):
        first.append(copy.deepcopy(params))
        return vjp(first[0], inputs, cotangents)

    with pytest.raises(NotRepeatable):
        check_vjp(stale, outputs, PARAMS, INPUTS, **TORCH)
    assert check_vjp(vjp, outputs, PARAMS, INPUTS, **TORCH).passed


@each_form
def test_what_is_wrong_at_the_first_point_is_wrong(asked):
    kept = KeepsItsFirst("every weight")

    def wrong(params, inputs):
        found = kept.gradients(params, inputs)
        return {**found, "b": 1.1 * found["b"]}

    with pytest.raises(GradientMismatch, match="b: differs"):
        check_gradients(wrong, asked, PARAMS, INPUTS)


class Carries:
    """Right code whose last state is the first of the next call, hardly felt after some steps."""

    def __init__(self, u, share):
        self.u, self.share, self.h = u, share, 0.0

    def states(self, params, x):
        states = [self.share * self.h]
        for value in x:
            states.append(np.tanh(params["w"] * value + params["u"] * states[-1]))
        self.h = states[-1]
        return states

    def loss(self, params, inputs):
        return np.sum(np.square(self.states(params, inputs["x"])[1:])) / 2

    def gradients(self, params, inputs):
        x, states = inputs["x"], self.states(params, inputs["x"])
        d_w = d_u = d_h = 0.0
        for t in range(len(x), 0, -1):
            delta = (states[t] + d_h) * (1 - states[t] ** 2)
            d_w, d_u = d_w + delta * x[t - 1], d_u + delta * states[t - 1]
            d_h = delta * params["u"]
        return {"w": d_w, "u": d_u}


@pytest.mark.parametrize("u", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("share", [1.0, 0.05])
def test_a_state_that_is_carried_is_no_wrong_gradient(u, share):
    net = Carries(u, share)
    asked = (net.gradients, net.loss, {"w": 0.8, "u": u}, INPUTS | {"x": INPUTS["x"][:, 0]})
    with pytest.raises(NotRepeatable, match=r"asked twice, .* setup="):
        check_gradients(*asked)

    def setup():
        net.h = 0.0

    assert check_gradients(*asked, setup=setup).passed


CONVENTIONS = {
    "sign": ({"sign": -1}, lambda g: {n: -v for n, v in g.items()}),
    "scale": ({"scale": 0.5}, lambda g: {n: v / 2 for n, v in g.items()}),
    "clip": ({"clip_value": 0.5}, lambda g: {n: np.clip(v, -0.5, 0.5) for n, v in g.items()}),
}


@each_form
@pytest.mark.parametrize(("convention", "made"), CONVENTIONS.values(), ids=CONVENTIONS)
def test_under_a_convention(asked, convention, made):
    def given(params, inputs):
        return made(gradients(params, inputs))

    def stale(params, inputs):
        return made(gradients(PARAMS, inputs))

    assert check_gradients(given, asked, PARAMS, INPUTS, convention=convention).passed
    if "clip_value" in convention and asked is numpy_loss:
        return  # of a clipped gradient one derivative tells nothing
    with pytest.raises(NotRepeatable):
        check_gradients(stale, asked, PARAMS, INPUTS, convention=convention)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_right_code_of_either_precision_passes(dtype):
    params = {name: value.astype(dtype) for name, value in PARAMS.items()}
    for asked in FORMS.values():
        assert check_gradients(gradients, asked, params, INPUTS).passed


def test_code_that_cannot_be_asked_elsewhere_is_judged_where_it_can():
    """Its weights must be what they are: another point is no question to it."""

    def only_there(params, inputs):
        assert np.array_equal(params["W"], PARAMS["W"])
        return gradients(params, inputs)

    assert check_gradients(only_there, loss, PARAMS, INPUTS, **TORCH).passed


def test_torch_code_is_asked_at_the_weights_that_it_is_given():
    def squares(p):
        return (p["W"] ** 3).sum() + (p["b"] ** 2).sum()

    first = {}

    def of_its_first(p, i):
        del i
        for name, value in p.items():
            first.setdefault(name, value.detach().clone())
        kept = first["W"]
        tangent = kept**3 + 3 * kept**2 * (p["W"] - kept)
        return tangent.sum() + (p["b"] ** 2).sum()

    def asked(xp, p, i):
        del i
        return xp.sum(p["W"] ** 3) + xp.sum(p["b"] ** 2)

    params = {name: PARAMS[name] for name in ("W", "b")}
    assert check_gradients(from_torch(lambda p, i: squares(p)), asked, params, {}, **TORCH).passed
    with pytest.raises(NotRepeatable, match="asked first, W is wrong"):
        check_gradients(from_torch(of_its_first), asked, params, {}, **TORCH)


@pytest.mark.parametrize("what", ["keeps its first", "reads others"])
def test_a_loss_that_does_not_follow_its_params(what):
    first = []

    def asked(params, inputs):
        first.append(numpy_loss(PARAMS if what == "reads others" else params, inputs))
        return first[0]

    with pytest.raises(GradientMismatch, match="the loss is the same, bit by bit, at other params"):
        check_gradients(gradients, asked, PARAMS, INPUTS, references="differences")
