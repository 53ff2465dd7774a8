"""The table of cases: what it covers, and that everything in it agrees."""

from dataclasses import FrozenInstanceError, replace

import pytest
from bptt_crosscheck.comparisons.candidates.built_in_cells import CELLS
from bptt_crosscheck.comparisons.problems.cases import (
    CASES,
    QUICK,
    RELU,
    SOFTMAX,
    SQUARED,
    TANH,
    Case,
)


def test_every_cell_has_a_case_and_one_that_is_quick():
    assert {case.cell for case in CASES} == set(CELLS)
    assert [case.cell for case in CASES if case.name in QUICK] == list(CELLS)


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
        ("algorithm", {"bptt", "rtrl"}),
    ],
)
def test_every_choice_occurs(field, values):
    assert {getattr(case, field) for case in CASES if case.cell == "rnn"} == values


def test_every_activation_occurs_fresh_and_most_trained():
    activations = {case.options["activation"] for case in CASES if case.cell == "rnn"}
    assert activations >= {"tanh", "relu", "sigmoid", "identity"}
    assert {
        case.options["activation"] for case in CASES if case.cell == "rnn" and case.trained
    } >= {"tanh", "relu", "sigmoid"}


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
    assert {row.reference for row in report.rows} | set(report.left_out) == {
        "torch",
        "jax",
        "torch.nn",
    }
    assert set(report.left_out) <= {"torch.nn"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_smallest_case_agrees_at_other_seeds(trial, seed):
    report = trial("one-of-each", seed=seed).check(references=("torch", "jax", "torch.nn"))
    assert report.passed, [row.sentence() for row in report.failures()]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tanh-3-layers-both-ways", ["W_hh_l2_reverse", "h_l0_0", "h_l2_reverse_0", "x"]),
        ("gru-unequal-both-ways", ["W_xh_l1", "b_hh_l0_reverse", "h_l1_0"]),
        ("slstm", ["n_0", "m_0", "state_jacobian"]),
        ("lru", ["nu", "theta", "gamma", "re_0", "im_0"]),
        ("lstm-chunks", ["W_hh_l1", "c_l0_0"]),
    ],
)
def test_every_gradient_of_a_network_is_compared(trial, name, said):
    compared = {row.gradient for row in trial(name).check().rows}
    assert set(said) <= compared
    assert compared >= {key for key in trial(name).problem.variables if not key.endswith("@t")}


@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        ("lstm-3-layers-both-ways", "c_l1_reverse_0"),
        ("gru-dropout", "W_hh_l0"),
        ("lstm-window", "W_hh"),
        ("tanh-rtrl", "h_0"),
    ],
)
def test_one_wrong_digit_in_a_network_is_seen(trial, with_gradient, name, gradient):
    report = trial(name).planted(with_gradient(gradient, lambda value: value * (1 + 1e-9)))
    assert [row.gradient for row in report.failures()] == [gradient]
    report = trial(name).planted(with_gradient(gradient, lambda value: value * 1.0))
    assert report.passed


def test_a_window_one_too_long_is_seen(trial):
    """The reference goes back K steps; the same derivation with K + 1 does not agree with it, nor
    does the plain gradient.
    """
    for name in ("tanh-window", "lstm-window"):
        right = trial(name)
        for window in (right.case.window + 1, None):
            other = replace(right.problem, window=window)
            answer = right.candidate.answer(other)
            report = right.planted(lambda _, answer=answer: answer)
            assert "W_hh" in {row.gradient for row in report.failures()}


def test_a_border_between_chunks_at_another_place_is_seen(trial):
    right = trial("lstm-chunks")
    answer = right.candidate.answer(replace(right.problem, chunk=right.case.chunk + 1))
    assert "W_hh_l0" in {row.gradient for row in right.planted(lambda _: answer).failures()}


@pytest.mark.parametrize(
    ("gradient", "first"), [("W_hh_l1", 5), ("W_hh_l1_reverse", 2), ("h_l0_reverse_0", 2)]
)
def test_the_walk_back_of_a_reverse_direction_begins_at_step_1(
    trial, with_gradient, gradient, first
):
    """Steps 2–5 wrong: in a direction forwards in time the walk back meets step 5 first, in one
    backwards step 2.
    """

    def from_2_to_5(shares):
        shares[1:5] *= 1.1
        return shares

    report = trial("tanh-3-layers-both-ways").planted(with_gradient(gradient, from_2_to_5, "steps"))
    (row,) = report.failures()
    assert (row.first_wrong_step, row.wrong_steps) == (
        first,
        "2–5 of 1–7" if gradient.startswith("W") else "2–5 of 1–8",
    )
