"""At a kink every one-sided derivative, and what lies between, is right of the entry that stands at
it; nothing else is.
"""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_gradients
from bptt_crosscheck.comparisons.errors import AtKink

RNG = np.random.default_rng(3)
W = RNG.normal(size=(10, 10))
W[0, 0] = W[3, 4] = 0.0
A = RNG.normal(size=(10, 10))
KINKED = W == 0
REFERENCES = [None, ["differences"], ["torch (NumPy code)", "differences"]]


def loss(params, inputs):
    return np.sum(np.sin(params["W"]) * inputs["A"]) + 0.1 * np.sum(np.abs(params["W"]))


def gradient(choice, params, inputs):
    slope = np.where(KINKED, choice, np.sign(params["W"]))
    return np.cos(params["W"]) * inputs["A"] + 0.1 * slope


@pytest.mark.parametrize("references", REFERENCES)
@pytest.mark.parametrize("choice", [0.0, 1.0, -1.0, 0.3])
def test_every_choice_at_the_kink_passes(choice, references):
    report = check_gradients(
        lambda p, i: {"W": gradient(choice, p, i)}, loss, {"W": W}, {"A": A}, references=references
    )
    assert report.passed


@pytest.mark.parametrize("references", REFERENCES)
@pytest.mark.parametrize("entry", [(9, 9), (0, 1), (5, 2)])
def test_an_entry_beside_it_is_not_excused(entry, references):
    def wrong(params, inputs):
        found = gradient(0.0, params, inputs)
        found[entry] += 0.05
        return {"W": found}

    with pytest.raises(GradientMismatch):
        check_gradients(wrong, loss, {"W": W}, {"A": A}, references=references)


@pytest.mark.parametrize("references", [None, ["torch (NumPy code)", "differences"]])
def test_beyond_both_one_sided_derivatives_the_kinked_entry_is_wrong_too(references):
    with pytest.raises(GradientMismatch):
        check_gradients(
            lambda p, i: {"W": gradient(2.0, p, i)}, loss, {"W": W}, {"A": A}, references=references
        )


# Ties that the frameworks' derivatives hide behind.


def twice_relu(xp, params, inputs):
    h, zero = xp.zeros((3, 5)), xp.zeros((3, 5))
    total = 0.0
    for t in range(4):
        h = xp.maximum(inputs["x"][t] @ params["W"].T + h @ params["U"].T, zero)
        total = total + xp.sum(xp.maximum(h, zero) ** 2)
    return total


def backward(params, inputs):
    x, hs = inputs["x"], [np.zeros((3, 5))]
    for x_t in x:
        hs.append(np.maximum(x_t @ params["W"].T + hs[-1] @ params["U"].T, 0))
    dW, dU, dh = 0 * params["W"], 0 * params["U"], 0.0
    for t in range(len(x), 0, -1):
        dz = (dh + 2 * hs[t]) * (hs[t] > 0)
        dW, dU, dh = dW + dz.T @ x[t - 1], dU + dz.T @ hs[t - 1], dz @ params["U"]
    return {"W": dW, "U": dU}


SPOILT = {
    "W doubled": lambda g: {**g, "W": 2 * g["W"]},
    "U transposed": lambda g: {**g, "U": g["U"].T},
    "a sign": lambda g: {**g, "W": -g["W"]},
    "one entry": lambda g: {**g, "W": g["W"] + 0.3 * np.eye(5, 4)},
}
GIVEN = {"W": 0.8 * RNG.normal(size=(5, 4)), "U": 0.5 * RNG.normal(size=(5, 5))}
X = {"x": RNG.normal(size=(4, 3, 4))}


@pytest.mark.parametrize("mistake", SPOILT)
def test_a_tie_that_changes_nothing_hides_no_mistake(mistake):
    assert check_gradients(backward, twice_relu, GIVEN, X).passed
    with pytest.raises(GradientMismatch):
        check_gradients(lambda p, i: SPOILT[mistake](backward(p, i)), twice_relu, GIVEN, X)


def test_a_choice_that_a_framework_does_not_make_is_still_at_a_kink():
    def at_zero(xp, params, inputs):
        return xp.sum(xp.maximum(params["w"], 0 * params["w"]) * inputs["c"])

    given, inputs = {"w": np.array([0.0, 1.0, -1.0])}, {"c": np.array([1.0, 2.0, 3.0])}
    with pytest.raises(AtKink):
        check_gradients(
            lambda p, i: {"w": np.where(p["w"] >= 0, i["c"], 0.0)}, at_zero, given, inputs
        )
    with pytest.raises(GradientMismatch):
        check_gradients(lambda p, i: {"w": np.array([3.0, 2.0, 0.0])}, at_zero, given, inputs)
