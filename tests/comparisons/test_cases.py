"""The table of cases: what it covers, and that everything in it agrees."""

from dataclasses import FrozenInstanceError

import pytest

from comparisons.cases import CASES, QUICK, RELU, SOFTMAX, SQUARED, TANH, Case


def test_names_are_distinct():
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_quick_ones_are_in_the_table():
    assert set(QUICK) < {case.name for case in CASES}
    assert len(set(QUICK)) == len(QUICK)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("loss", {SOFTMAX, SQUARED}),
        ("inputs", {"dense", "tokens"}),
        ("positions", {"every", "last", "masked"}),
        ("reduction", {"sum", "mean"}),
        ("initial_state", {"random", "zero"}),
        ("jacobians", {True, False}),
    ],
)
def test_every_choice_occurs(field, values):
    assert {getattr(case, field) for case in CASES if case.cell == "rnn"} == values


def test_every_activation_occurs_fresh_and_most_trained():
    activations = {case.options["activation"] for case in CASES if case.cell == "rnn"}
    assert activations >= {"tanh", "relu", "sigmoid", "identity"}
    assert {case.options["activation"] for case in CASES if case.cell == "rnn" and case.trained} >= {"tanh", "relu", "sigmoid"}


@pytest.mark.parametrize("field", ["steps", "batch", "input_size", "hidden_size"])
def test_every_size_is_one_somewhere(field):
    assert any(getattr(case, field) == 1 for case in CASES)


def test_sizes_differ_within_a_case():
    """Where two sizes are equal a transposed product goes unseen."""
    case = Case("default", "rnn")
    sizes = (case.steps, case.batch, case.input_size, case.hidden_size, case.output_size)
    assert len(set(sizes)) == len(sizes)


def test_a_case_is_frozen():
    with pytest.raises(FrozenInstanceError):
        CASES[0].steps = 1
    assert TANH != RELU


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_every_case_agrees_with_every_reference(trial, name):
    report = trial(name).check(references=("torch", "jax", "torch.nn"))
    assert report.passed, [row.sentence() for row in report.failures()]
    assert report.worst_over_noise() < 8
    assert {row.reference for row in report.rows} | set(report.left_out) == {"torch", "jax", "torch.nn"}
    assert set(report.left_out) <= {"torch.nn"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_smallest_case_agrees_at_other_seeds(trial, seed):
    report = trial("one-of-each", seed=seed).check(references=("torch", "jax", "torch.nn"))
    assert report.passed, [row.sentence() for row in report.failures()]
