"""Candidates that work in less than float64: held against the truth in float64, and the
frameworks' own error in that dtype.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, from_jax, from_torch
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.checking.crosscheck import check_problem
from bptt_crosscheck.comparisons.errors import BadOption
from bptt_crosscheck.comparisons.problems.convention import Convention
from bptt_crosscheck.comparisons.witnesses import ask
from bptt_crosscheck.comparisons.witnesses.tolerance import LOW_LIMIT
from bptt_crosscheck.manual.cells.gru import GRU
from bptt_crosscheck.manual.cells.lstm import LSTM

LOW = ("float32", "float16")
BOTH = ["torch", "jax"]


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", ["tanh", "lstm", "gru", "lru"])
def test_the_derivations_are_as_good_as_the_frameworks(trial, name, dtype):
    case = trial(name)
    problem = case.problem.in_precision(dtype)
    report = check_problem(problem, case.candidate, ask.available(BOTH)[0])
    assert report.passed, [row.sentence() for row in report.failures()]
    assert report.worst_over_noise() < LOW_LIMIT
    right = case.candidate.answer(problem)
    assert (
        np.abs(
            right.gradients["x"]
            - case.candidate.answer(problem.in_precision("float64")).gradients["x"]
        ).max()
        > 0
    )


@pytest.mark.parametrize("dtype", LOW)
def test_the_candidate_is_given_its_own_precision(trial, dtype):
    seen = set()

    class Noting(LSTM):
        def recur(self, xp, params, *given):
            seen.update(value.dtype.name for value in params.values())
            return super().recur(xp, params, *given)

    problem = trial("lstm").problem.in_precision(dtype)
    answer = type(built_in("lstm", {}))(Noting()).answer(problem)
    assert seen == {dtype}
    assert {value.dtype.name for value in answer.gradients.values()} == {"float64"}
    assert {value.dtype.name for value in problem.variables.values()} == {"float64"}
    for value in problem.variables.values():
        np.testing.assert_array_equal(value, value.astype(dtype))


class Worse(GRU):
    """A derivation that is right, and whose weight gradients are off as if rounded ten times as
    coarsely.
    """

    def accumulate(self, params, caches, delta):
        d_params, d_x = super().accumulate(params, caches, delta)
        eps = np.finfo(delta.dtype).eps
        return {
            name: value + 100 * eps * np.abs(value).max() for name, value in d_params.items()
        }, d_x


@pytest.mark.parametrize("dtype", LOW)
def test_a_multiple_of_the_frameworks_own_error_is_too_much(trial, dtype):
    case = trial("gru")
    problem = case.problem.in_precision(dtype)
    candidate = type(case.candidate)(Worse("after"))
    report = check_problem(problem, candidate, ask.available(["torch"])[0])
    assert {row.gradient for row in report.failures()} >= {"W_xh", "W_hh"}


@pytest.mark.parametrize("dtype", LOW)
def test_a_cell_in_a_lower_precision(dtype):
    report = check_cell(LSTM(), dtype=dtype, references=["torch"], steps=5)
    assert report.passed
    assert report.environment["dtype"] == dtype
    limits = {row.noise / np.finfo(dtype).eps for row in report.rows if row.gradient == "W_hh"}
    assert all(limit > 0.1 for limit in limits)


def test_a_mistake_in_a_cell_in_a_lower_precision_is_located():
    class Forgetful(LSTM):
        def delta(self, params, cache, d_state):
            delta, previous = super().delta(params, cache, d_state)
            return delta, {**previous, "c": 0.5 * previous["c"]}

    with pytest.raises(GradientMismatch, match=r"d_state_prev\['c'\]"):
        check_cell(Forgetful(), dtype="float32", references=["torch"], steps=5)


@pytest.mark.parametrize("dtype", ["bfloat16", "int32", "double", 64])
def test_a_precision_that_numpy_does_not_compute_in(dtype):
    with pytest.raises(BadOption, match="float16, float32, float64"):
        check_cell(LSTM(), dtype=dtype)


RNG = np.random.default_rng(0)
PARAMS = {"W": RNG.normal(size=(6, 6)) / 2, "b": RNG.normal(size=6)}
INPUTS = {"x": RNG.normal(size=(5, 3, 6))}


def loss(xp, p, i):
    h = xp.zeros_like(i["x"][0])
    total = 0.0
    for t in range(5):
        h = xp.tanh(i["x"][t] + h @ p["W"].T + p["b"])
        total = total + xp.sum(h * h)
    return total


def torch_loss(dtype, factor=1.0):
    def run(p, i):
        low = {name: value.to(dtype) for name, value in {**p, **i}.items()}
        slipped = (
            low["W"]
            + (factor - 1) * low["W"].detach() * 0
            + (factor - 1) * (low["W"] - low["W"].detach())
        )
        return loss(torch, {"W": slipped, "b": low["b"]}, {"x": low["x"]}).to(torch.float64)

    return run


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_code_in_a_lower_precision(name):
    dtype = getattr(torch, name)
    asked = {"convention": {"precision": name}, "references": BOTH}
    assert check_gradients(from_torch(torch_loss(dtype)), loss, PARAMS, INPUTS, **asked).passed
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(from_torch(torch_loss(dtype, 1.5)), loss, PARAMS, INPUTS, **asked)
    if name != "float32":
        with pytest.raises(GradientMismatch):
            check_gradients(
                from_torch(torch_loss(dtype)),
                loss,
                PARAMS,
                INPUTS,
                convention={"precision": "float32"},
            )


def test_arrays_in_bfloat16_say_so_themselves():
    low = {name: value.astype(ml_dtypes.bfloat16) for name, value in PARAMS.items()}
    x = {"x": INPUTS["x"].astype(ml_dtypes.bfloat16)}

    def jax_loss(p, i):
        import jax.numpy as jnp

        return loss(jnp, p, i)

    report = check_gradients(from_jax(jax_loss), loss, low, x, references=BOTH)
    assert report.passed, str(report)
    assert report.rows[0].noise > 1e-3


def test_what_overflows_in_the_frameworks_themselves_is_said(trial):
    problem = (
        trial("tanh").problem.with_variables({"W_hy": np.full((6, 5), 6e4)}).in_precision("float16")
    )
    witnesses = ask.Testimony(problem, ask.available(["torch"])[0], Convention(), frozenset()).full
    assert witnesses.overflown == ["torch"]
    loss_alone = trial("tanh", loss="squared-error", reduction="sum").problem
    far = replace(
        loss_alone,
        constants={**loss_alone.constants, "target": loss_alone.constants["target"] + 300},
    )
    overflown = ask.Testimony(
        far.in_precision("float16"), ask.available(["torch"])[0], Convention(), frozenset()
    ).full.overflown
    assert overflown == ["torch"], "where the loss alone does"
    assert "in float16 the gradient of torch itself is not finite" in witnesses.remarks
