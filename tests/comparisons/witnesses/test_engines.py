"""The references behind one door: which there are, what they are asked, and what they tell."""

import sys

import numpy as np
import pytest
from bptt_crosscheck.comparisons.errors import MissingFramework, UnknownName
from bptt_crosscheck.comparisons.problems.problem import OFFSET
from bptt_crosscheck.comparisons.witnesses.engines import (
    ENGINES,
    readout_of,
    select,
    step_of,
    with_offsets,
)

AUTODIFF = ("torch", "jax", "torch.nn")
ENGINE = {engine.name: engine for engine in ENGINES}


def test_names_are_distinct():
    assert len(ENGINE) == len(ENGINES)
    assert set(AUTODIFF) <= set(ENGINE)


def test_selection_keeps_the_tables_order():
    assert [engine.name for engine in select(("jax", "torch"))] == ["torch", "jax"]
    assert [engine.name for engine in select(None)] == list(AUTODIFF)


@pytest.mark.parametrize("name", ["theano", "", "Torch", "torch "])
def test_a_reference_that_is_not_there(name):
    with pytest.raises(UnknownName, match=r"there are torch, jax, torch\.nn"):
        select(("torch", name))


@pytest.mark.parametrize("name", AUTODIFF)
def test_every_reference_can_be_loaded(name):
    assert ENGINE[name].load().__name__ == f"bptt_crosscheck.reference.{ENGINE[name].module}"


def test_a_missing_framework_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "bptt_crosscheck.reference.by_jax.jax_grad", raising=False)
    with pytest.raises(MissingFramework, match="'jax' needs jax.*pip install jax"):
        ENGINE["jax"].load()


@pytest.mark.parametrize(
    ("case", "answers"),
    [
        ("tanh", True),
        ("relu", True),
        ("tanh-tokens", True),
        ("sigmoid-last", False),
        ("identity", False),
    ],
)
def test_torchs_module_is_asked_where_it_exists(trial, case, answers):
    assert (ENGINE["torch.nn"].reason_not(trial(case).problem) is None) is answers
    assert ENGINE["torch"].reason_not(trial(case).problem) is None
    assert ENGINE["jax"].reason_not(trial(case).problem) is None


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("case", ["one-step", "tanh-tokens"])
def test_an_answer_tells_every_gradient_and_every_share(trial, case, name):
    problem = trial(case, steps=2, batch=2).problem
    answer = ENGINE[name].answer(problem)
    assert set(answer.gradients) == set(problem.variables)
    assert not [key for key in (*answer.gradients, *answer.steps) if key.endswith(OFFSET)]
    assert set(answer.steps) == set(problem.variables) - {"W_hy", "b_y"}
    for key in problem.variables:
        assert answer.gradients[key].shape == problem.variables[key].shape
    assert answer.steps["W_hh"].shape == (2, 5, 5)
    assert answer.steps["h_0"].shape == (3, 2, 5)
    np.testing.assert_array_equal(answer.steps["h_0"][0], answer.gradients["h_0"])
    np.testing.assert_allclose(
        answer.steps["W_hh"].sum(axis=0), answer.gradients["W_hh"], rtol=1e-12, atol=1e-14
    )


def test_torchs_module_tells_no_shares(trial):
    answer = ENGINE["torch.nn"].answer(trial("tanh").problem)
    assert set(answer.gradients) == set(trial("tanh").problem.variables)
    assert set(answer.steps) == {"x"}


def test_jacobians_are_told_where_they_are_asked_for(trial):
    asked, not_asked = (
        ENGINE["torch"].answer(trial("tanh", steps=2, jacobians=wanted).problem)
        for wanted in (True, False)
    )
    names = {"state_jacobian", "jacobian_product_to_end"}
    assert names <= set(asked.gradients)
    assert names <= set(asked.steps)
    assert names.isdisjoint(not_asked.gradients)
    assert asked.gradients["state_jacobian"].shape == (2, 3, 5, 5)


def test_the_same_equations_are_the_same_object(trial):
    """So that a compiling reference compiles once."""
    one, other = trial("tanh", seed=1).problem, trial("tanh", seed=2).problem
    assert step_of(one) is step_of(other)
    assert readout_of(one) is readout_of(other)
    assert step_of(trial("relu").problem) is not step_of(one)


def test_offsets_are_zero_unless_a_perturbation_has_put_them(trial):
    problem = trial("tanh").problem
    variables = with_offsets(problem)
    assert {name for name in variables if name.endswith(OFFSET)} == {
        "W_xh@t",
        "W_hh@t",
        "b_h@t",
        "h@t",
    }
    assert variables["W_hh@t"].shape == (12, 5, 5)
    assert variables["h@t"].shape == (12, 3, 5)
    assert not any(variables[name].any() for name in variables if name.endswith(OFFSET))
    moved = with_offsets(problem.with_variables({"b_h@t": np.ones((12, 5))}))
    assert moved["b_h@t"].all()


@pytest.mark.parametrize("name", ["torch", "torch.nn"])
def test_torch_rounds_at_random(trial, name):
    """Its modules too, which compute in place."""
    problem = trial("lstm-last").problem
    plain, one, two = (
        ENGINE[name].answer(problem, seed).gradients["W_hh"] for seed in (None, 1, 2)
    )
    assert (one != plain).any()
    assert (one != two).any()
    np.testing.assert_allclose(one, plain, rtol=0, atol=1e-13 * np.abs(plain).max())
    assert [name for name in AUTODIFF if ENGINE[name].rounds_at_random] == ["torch", "torch.nn"]
