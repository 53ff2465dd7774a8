"""Branches that no step took: what is said of them, and where they are looked for."""

import math
import re

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.checking.rebinding import watching_world
from bptt_crosscheck.comparisons.checking.ties import Log, watched_in
from bptt_crosscheck.manual.cells.lstm import LSTM

from tests.comparisons.small import TORCH, Elman, spoiled

FAR = 1e9  # no weight that is tried takes it

ACTIVATIONS = {
    "where": lambda xp, z, c: xp.where(z < c, z, 0 * z),
    "where with <=": lambda xp, z, c: xp.where(z <= c, z, 0 * z),
    "where, turned": lambda xp, z, c: xp.where(z > c, 0 * z, z),
    "where with >=": lambda xp, z, c: xp.where(z >= c, 0 * z, z),
    "minimum": lambda xp, z, c: xp.minimum(z, c + 0 * z),
    "maximum": lambda xp, z, c: xp.maximum(z, -c + 0 * z),
    "relu by a product": lambda xp, z, c: z * xp.where(z + c > 0, 1.0 + 0 * z, 0 * z),
    "clip": lambda xp, z, c: xp.clip(z, -c, c),
    "abs": lambda xp, z, c: xp.abs(z + c) - c,
}
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)


def clamped(activation, bound, right):
    """h′ = activation(W x + U h), whose slope is forgotten unless `right`."""

    def step(xp, params, state, x):
        z = x @ params["W"].T + state["h"] @ params["U"].T
        return {"h": xp.tanh(activation(xp, z, bound))}, (x, state["h"], z)

    def step_backward(params, cache, d_state):
        x, before, z = cache
        h = np.tanh(activation(np, z, bound))
        slope = (np.abs(activation(np, z + 1e-6, bound) - activation(np, z, bound)) > 0) * 1.0
        delta = d_state["h"] * (1 - h**2) * (slope if right else 1.0)
        return (
            {"W": delta.T @ x, "U": delta.T @ before},
            delta @ params["W"],
            {"h": delta @ params["U"]},
        )

    return spoiled(step=step, step_backward=step_backward)


@pytest.mark.parametrize(
    "activation", [ACTIVATIONS[name] for name in ("where", "where with >=", "minimum", "clip")]
)
def test_a_forgotten_slope_in_a_branch_that_the_first_problem_does_not_take(activation):
    with pytest.raises(
        GradientMismatch, match=r"Spoiled at T = 4, weights × .* disagree"
    ) as caught:
        check_cell(clamped(activation, 5.0, right=False), **TORCH)
    assert "note: this branch was never taken at the first problem, and is here: test_branches" in (
        str(caught.value)
    )


def test_the_right_slope_in_such_a_branch():
    report = check_cell(clamped(ACTIVATIONS["where"], 5.0, right=True), **TORCH)
    assert "(taking test_branches.py:" in str(report)
    assert not any(case.not_taken for case in report.cases)


@each_activation
def test_a_branch_that_nothing_takes_is_told(activation):
    report = check_cell(clamped(activation, FAR, right=False), **TORCH)
    assert report.passed
    told = str(report)
    assert "never taken: test_branches.py:" in told
    assert "0 of 180 times" in told
    assert all(branch.times == 180 for branch in report.cases[-1].not_taken)


def test_a_cell_without_branches_or_with_all_taken_has_nothing_told():
    relu = lambda xp, z, c: xp.where(z > 0, z, 0 * z)  # noqa: E731
    for cell in (Elman(), LSTM(), clamped(relu, 0.0, right=True)):
        report = check_cell(cell, **TORCH)
        assert "never" not in str(report)
        assert "taking" not in str(report)


rng = np.random.default_rng(0)
PARAMS = {"W": rng.normal(size=(3, 4)), "b": rng.normal(size=3)}
INPUTS = {"x": rng.normal(size=(5, 4))}


def xp_loss(activation, bound):
    def loss(xp, params, inputs):
        h, total = 0 * params["b"], 0.0
        for t in range(5):
            z = params["W"] @ inputs["x"][t] + params["b"] + 0.5 * h
            h = activation(xp, z, bound)
            total = total + xp.sum(h**2) / 2
        return total

    return loss


def buffered_loss(activation, bound):
    def loss(params, inputs):
        h, z = np.zeros((6, 3)), np.empty((5, 3))
        for t in range(5):
            z[t] = params["W"] @ inputs["x"][t] + params["b"] + 0.5 * h[t]
            h[t + 1] = activation(np, z[t], bound)
        return np.sum(h[1:] ** 2) / 2

    return loss


class Net:
    """The same as a class: states in a list, the loop in a method of its own."""

    def __init__(self, activation, bound):
        self.activation, self.bound, self.states = activation, bound, []

    def pre(self, params, x, t):
        return params["W"] @ x + params["b"] + 0.5 * self.states[t]

    def run(self, params, inputs):
        self.states = [np.zeros(3)]
        z = np.zeros(3)
        for t, x in enumerate(inputs["x"]):
            z[:] = self.pre(params, x, t)
            self.states.append(self.activation(np, z, self.bound).copy())
        return np.sum(np.square(self.states[1:])) / 2


def class_loss(activation, bound):
    net = Net(activation, bound)

    def loss(params, inputs):
        return net.run(params, inputs)

    return loss


class Layer:
    def __init__(self, activation, bound):
        self.activation, self.bound = activation, bound

    def forward(self, z):
        buffer = np.zeros(3)
        buffer[:] = z
        return self.activation(np, buffer, self.bound)


class Stack:
    def __init__(self, layers):
        self.layers = layers

    def run(self, params, inputs):
        h, total = np.zeros(3), 0.0
        for x in inputs["x"]:
            h = self.layers[0].forward(params["W"] @ x + params["b"] + 0.5 * h)
            total = total + np.sum(h**2) / 2
        return total


def nested_loss(activation, bound):
    return Stack([Layer(activation, bound)]).run


def scalar_loss(activation, bound):
    """By numbers and `if`."""
    sign = 1.0 if activation(np, np.array([2 * bound]), bound)[0] != 2 * bound else -1.0

    def loss(params, inputs):
        h, total = [0.0, 0.0, 0.0], 0.0
        for x in inputs["x"]:
            for k in range(3):
                z = params["W"][k] @ x + params["b"][k] + 0.5 * h[k]
                if sign * z > bound:
                    z = sign * bound
                h[k] = z
                total = total + z * z / 2
        return total

    return loss


def math_loss(activation, bound):
    """By Python's own numbers: float(), .item(), math."""
    sign = 1.0 if activation(np, np.array([2 * bound]), bound)[0] != 2 * bound else -1.0

    def loss(params, inputs):
        h, total = [0.0, 0.0, 0.0], 0.0
        for x in inputs["x"]:
            for k in range(3):
                z = float(params["W"][k] @ x) + params["b"][k].item() + 0.5 * h[k]
                if math.copysign(1.0, sign) * z > bound:
                    z = sign * bound
                h[k] = z
                total = total + math.pow(z, 2) / 2
        return total

    return loss


def given(activation, bound, right):
    def gradients(params, inputs):
        h, z = np.zeros((6, 3)), np.zeros((5, 3))
        for t in range(5):
            z[t] = params["W"] @ inputs["x"][t] + params["b"] + 0.5 * h[t]
            h[t + 1] = activation(np, z[t], bound)
        d_W, d_b, d_h = np.zeros((3, 4)), np.zeros(3), np.zeros(3)
        for t in reversed(range(5)):
            slope = np.abs(activation(np, z[t] + 1e-6, bound) - activation(np, z[t], bound)) > 0
            delta = (h[t + 1] + d_h) * (slope if right else 1.0)
            d_W += np.outer(delta, inputs["x"][t])
            d_b += delta
            d_h = 0.5 * delta
        return {"W": d_W, "b": d_b}

    return gradients


FORMS = {
    "xp": xp_loss,
    "buffers": buffered_loss,
    "a class": class_loss,
    "objects in objects": nested_loss,
    "numbers": scalar_loss,
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
CLAMPS = {name: ACTIVATIONS[name] for name in ("minimum", "maximum")}
each_clamp = pytest.mark.parametrize("clamp", CLAMPS.values(), ids=CLAMPS)


@each_form
@each_clamp
def test_a_function_is_asked_where_its_other_branch_is_taken(form, clamp):
    report = check_gradients(given(clamp, 20.0, True), form(clamp, 20.0), PARAMS, INPUTS)
    assert "also right at params × " in str(report)
    assert "never" not in str(report)
    report = check_gradients(given(clamp, 20.0, False), form(clamp, 20.0), PARAMS, INPUTS)
    assert re.search(
        r"WRONG where another branch is taken: W, b \(gradients at params × \S+\)", str(report)
    )
    assert "never taken at the first problem" in str(report)


@each_form
@each_clamp
def test_a_branch_of_a_function_that_nothing_takes_is_told(form, clamp):
    report = check_gradients(given(clamp, FAR, False), form(clamp, FAR), PARAMS, INPUTS)
    assert report.passed
    assert "never taken: test_branches.py:" in str(report)
    assert "0 of 15 times" in str(report)


def test_a_vjp_with_a_branch():
    def function(xp, params, inputs):
        return xp.minimum(params["W"] @ inputs["x"][0], 9 + 0 * params["b"])

    def vjp(params, inputs, cotangents):
        return {"W": np.outer(cotangents, inputs["x"][0])}

    report = check_vjp(vjp, function, PARAMS, INPUTS)
    assert re.search("WRONG where another branch is taken: W .*at params × ", str(report))


def test_data_are_no_branch():
    """What does not depend on what has a gradient is chosen by the data: a mask of ones."""

    def loss(xp, params, inputs):
        kept = xp.where(inputs["mask"] > 0.5, params["b"], 0 * params["b"])
        return xp.sum(kept**2)

    report = check_gradients(
        lambda p, i: {"b": 2 * p["b"]}, loss, PARAMS, {"mask": np.ones(3)}, **TORCH
    )
    assert "never" not in str(report)


def test_another_numpy_changes_nothing_of_the_users():
    net = Net(ACTIVATIONS["minimum"], 5.0)
    before = dict(vars(net)), Net.run.__globals__["np"]

    def loss(params, inputs):
        return net.run(params, inputs)

    def run(watched, log):
        anew = watching_world(log).copy(loss)
        return anew({name: watched(value) for name, value in PARAMS.items()}, INPUTS)

    log = watched_in(run)
    assert sum(sum(counts) for counts in log.taken.values()) == 15
    assert (dict(vars(net)), Net.run.__globals__["np"]) == before
    assert loss(PARAMS, INPUTS) == loss(PARAMS, INPUTS)


def test_what_is_counted():
    def run(watched, _):
        a = watched(np.array([-1.0, 2.0, 3.0]))
        np.where(a > 0, a, 0)
        np.sign(a)
        np.maximum(0, a)
        a.clip(-5, 2.5)
        for value in a:
            if value > 10:
                raise AssertionError

    log = watched_in(run)
    assert sorted(log.taken.values()) == [(0, 3), (0, 3), (1, 2), (1, 2), (1, 2), (2, 1)]
    assert [branch.untaken for branch in log.branches(log.untaken())] == [
        "the lower bound of the clip was reached",
        "the comparison was true",
    ]
    assert Log().branches([]) == []
