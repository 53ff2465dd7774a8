"""Ways in which a wrong derivation could slip through, or a right one be accused; each was one
once.
"""

import re

import numpy as np
import pytest
import torch
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, check_vjp, from_torch
from bptt_crosscheck.comparisons.errors import (
    BadContract,
    BadOption,
    InputsChanged,
    NotFinite,
    NothingFollows,
)

RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(3, 4)), RNG.normal(size=(5, 4))


def test_python_floats_pass():
    assert check_gradients(
        lambda p, i: {"a": 2 * p["a"]}, lambda xp, p, i: xp.sum(p["a"] ** 2), {"a": 0.5}, {}
    ).passed


def test_a_number_taken_out_of_differentiation_leaves_the_reference_out():
    def loss(xp, p, i):
        return xp.sum(p["a"]) * float(xp.sum(p["a"]))

    with pytest.raises(NothingFollows, match="takes a number out of differentiation"):
        check_gradients(lambda p, i: {"a": np.full(3, 3.0)}, loss, {"a": np.ones(3)}, {})


class ForgetsOne(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, d):
        return d * ctx.saved_tensors[1], None


def test_a_torch_function_that_forgets_a_gradient_is_wrong():
    gradients = from_torch(lambda p, i: ForgetsOne.apply(p["a"], p["b"]).sum())
    with pytest.raises(GradientMismatch, match="b: all zero"):
        check_gradients(
            gradients,
            lambda xp, p, i: xp.sum(p["a"] * p["b"]),
            {"a": np.ones(3), "b": np.full(3, 2.0)},
            {},
        )


def test_what_is_not_given_is_said_on_success():
    report = check_gradients(
        lambda p, i: {"a": 2 * p["a"]},
        lambda xp, p, i: xp.sum(p["a"] ** 2) + xp.sum(p["b"]),
        {"a": np.ones(3), "b": np.ones(2)},
        {},
    )
    assert "not given: b" in str(report)


def test_a_list_that_is_too_short_is_refused():
    params = {"l": [np.ones(2), np.ones(2)]}
    with pytest.raises(BadContract, match="1 gradients for 2 parameters"):
        check_gradients(
            lambda p, i: {"l": [np.ones(2)]},
            lambda xp, p, i: xp.sum(p["l"][0]) + xp.sum(p["l"][1]),
            params,
            {},
        )


def test_a_gradient_of_integers_is_refused():
    with pytest.raises(BadContract, match="floating-point"):
        check_gradients(
            lambda p, i: {"a": 2 * p["a"], "b": np.full(3, 777.0)},
            lambda xp, p, i: xp.sum(p["a"] ** 2) + xp.sum(p["b"] * p["b"] * 1.0),
            {"a": np.ones(3), "b": np.array([1, 2, 3])},
            {},
        )


class Read:
    """A state that the step does not read."""

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (hidden_size, input_size), "V": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,), "y": (hidden_size,)}

    def step(self, xp, p, s, x):
        h = xp.tanh(x @ p["W"].T + s["h"])
        return {"h": h, "y": h @ p["V"].T}, (x, h)

    def step_backward(self, p, cache, d):
        x, h = cache
        z = (1 - h * h) * (d["h"] + d["y"] @ p["V"])
        return {"W": z.T @ x, "V": d["y"].T @ h}, z @ p["W"], {"h": z, "y": 0 * d["y"]}


def test_a_state_that_is_not_read_is_not_vacuous():
    assert check_cell(Read(), references=["torch"]).passed


class MatrixState:
    """Linear attention's memory: S ← S + v kᵀ, a state of two axes."""

    def parameter_shapes(self, input_size, hidden_size):
        return {"K": (hidden_size, input_size), "V": (hidden_size, input_size)}

    def state_shapes(self, hidden_size):
        return {"S": (hidden_size, hidden_size)}

    def step(self, xp, p, s, x):
        k, v = x @ p["K"].T, x @ p["V"].T
        return {"S": s["S"] / 2 + v[:, :, None] * k[:, None, :]}, (x, k, v)

    def step_backward(self, p, cache, d):
        x, k, v = cache
        dv, dk = (d["S"] * k[:, None, :]).sum(axis=2), (d["S"] * v[:, :, None]).sum(axis=1)
        return {"K": dk.T @ x, "V": dv.T @ x}, dk @ p["K"] + dv @ p["V"], {"S": d["S"] / 2}


def test_a_state_of_two_axes():
    assert check_cell(MatrixState(), references=["torch"]).passed


class ClipsInside(Read):
    def step_backward(self, p, cache, d):
        return super().step_backward(
            p, cache, {name: np.clip(value, -8, 8) for name, value in d.items()}
        )


def test_a_clip_inside_a_cell_is_reached():
    with pytest.raises(GradientMismatch, match="the final states"):
        check_cell(ClipsInside(), references=["torch"])


def test_a_reference_without_a_finite_gradient_accuses_nobody():
    def loss(xp, p, i):
        return xp.sum(1 / (1 + xp.exp(-(i["x"] @ p["W"].T - 800))))

    with pytest.raises(NotFinite, match="every reference"):
        check_gradients(
            lambda p, i: {"W": np.zeros((5, 4))},
            loss,
            {"W": 0.1 * W},
            {"x": X},
            references=["torch"],
        )


def test_a_float32_mask_does_not_lower_the_precision():
    inputs = {"x": X, "mask": np.ones(3, np.float32)}
    with pytest.raises(GradientMismatch):
        check_gradients(
            lambda p, i: {"W": np.tile(i["x"].sum(0), (5, 1)) + 2e-5 * np.eye(5, 4)},
            lambda xp, p, i: xp.sum(i["x"] @ p["W"].T),
            {"W": W},
            inputs,
        )


def test_a_coarse_check_says_what_it_could_not_see():
    report = check_gradients(
        lambda p, i: {"W": np.tile(i["x"].sum(0), (5, 1))},
        lambda xp, p, i: xp.sum(i["x"] @ p["W"].T),
        {"W": W},
        {"x": X},
        convention={"precision": "float16"},
    )
    assert re.search(r"errors below 0\.\d+ of W, .* could not be seen", str(report))


def test_a_forgotten_step_of_x_is_seen_where_it_has_vanished():
    def loss(xp, p, i):
        h = 0.0
        for t in range(4):
            h = 1e-5 * h + i["x"][t] @ p["W"].T
        return xp.sum(h**2)

    def gradients(p, i):
        h = 0.0
        for t in range(4):
            h = 1e-5 * h + i["x"][t] @ p["W"].T
        d = [2 * h * 1e-5 ** (3 - t) for t in range(4)]
        d_x = np.stack([d_t @ p["W"] for d_t in d])
        d_x[0] = 0
        return {"W": sum(d_t.T @ x_t for d_t, x_t in zip(d, i["x"], strict=True)), "x": d_x}

    with pytest.raises(GradientMismatch, match="x: differs"):
        check_gradients(gradients, loss, {"W": W}, {"x": RNG.normal(size=(4, 3, 4))})


def test_truncation_without_a_loss_is_refused():
    with pytest.raises(BadOption, match="truncation"):
        check_vjp(
            lambda p, i, c: {"W": W},
            lambda xp, p, i: p["W"],
            {"W": W},
            {},
            convention={"truncation": 2},
        )


def test_cotangents_that_are_written_into_are_said_so():
    def vjp(p, i, c):
        c *= 2 * p["W"]
        return {"W": c}

    with pytest.raises(InputsChanged, match="vjp writes into"):
        check_vjp(vjp, lambda xp, p, i: p["W"] ** 2, {"W": W}, {})


def test_a_zero_that_only_rounding_disturbs_is_no_mistake():
    def softmax(xp, p, i):
        z = i["x"] @ p["W"].T + p["c"]
        e = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
        return {"q": z * z, "p": e / xp.sum(e, axis=-1, keepdims=True)}

    def vjp(p, i, c):
        s = softmax(np, p, i)["p"]
        dz = 2 * (i["x"] @ p["W"].T + p["c"]) * c["q"]
        ds = s * (c["p"] - (s * c["p"]).sum(-1, keepdims=True))
        return {"W": (dz + ds).T @ i["x"], "c": dz.sum().reshape(1)}

    assert check_vjp(vjp, softmax, {"W": W, "c": np.array([0.3])}, {"x": X}).passed


def test_a_tie_elsewhere_does_not_excuse_a_mistake():
    U = RNG.normal(size=(3, 3))
    U[1, 1] = 0
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(
            lambda p, i: {"W": 2 * 2 * p["W"], "U": 0.01 * np.sign(p["U"])},
            lambda xp, p, i: xp.sum(p["W"] ** 2) + 0.01 * xp.sum(xp.abs(p["U"])),
            {"W": W, "U": U},
            {},
        )


@pytest.mark.parametrize("row", [0, 4])
def test_rows_are_named_one_by_one(row):
    def gradients(p, i):
        d = 2 * p["W"]
        d[[0, 4]] *= 2
        return {"W": d}

    with pytest.raises(GradientMismatch, match="rows 0, 4 of 5 only"):
        check_gradients(gradients, lambda xp, p, i: xp.sum(p["W"] ** 2), {"W": W}, {}, seed=row)


def test_one_entry_that_is_too_small_is_no_clipping():
    def gradients(p, i):
        d = 2 * p["W"]
        worst = np.unravel_index(np.argmax(np.abs(d)), d.shape)
        d[worst] *= 0.99
        return {"W": d}

    with pytest.raises(GradientMismatch) as caught:
        check_gradients(gradients, lambda xp, p, i: xp.sum(p["W"] ** 2), {"W": W}, {})
    assert "clipping" not in str(caught.value)
