"""A problem is frozen data."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.problems.arrays import frozen
from bptt_crosscheck.comparisons.problems.cases import CASES


def test_frozen_arrays_are_copies_that_nobody_can_write():
    mine = np.ones(3)
    kept = frozen({"a": mine})
    mine[0] = 7
    assert kept["a"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        kept["a"][0] = 2
    with pytest.raises(TypeError):
        kept["b"] = mine


@pytest.mark.parametrize("name", ["tanh", "tanh-tokens-trained"])
def test_everything_in_a_problem_is_read_only(trial, name):
    problem = trial(name).problem
    for mapping in (
        problem.variables,
        problem.constants,
        problem.astype("float32").variables,
        problem.with_variables({}).variables,
    ):
        with pytest.raises(TypeError):
            mapping["W_hh"] = np.zeros(1)
        for array in mapping.values():
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    with pytest.raises(FrozenInstanceError):
        problem.seed = 1


def test_sizes(trial):
    problem = trial("tanh").problem
    assert (
        problem.steps,
        problem.batch,
        problem.input_size,
        problem.hidden_size,
        problem.output_size,
    ) == (12, 3, 4, 5, 6)
    assert dict(problem.sizes()) == {
        "steps": 12,
        "batch": 3,
        "input_size": 4,
        "hidden_size": 5,
        "output_size": 6,
    }


def test_tokens_are_no_variable(trial):
    problem = trial("tanh-tokens").problem
    assert "x" not in problem.variables
    assert problem.x is problem.constants["x"]
    assert (problem.x.dtype.kind, problem.x.shape) == ("i", (12, 3))


def test_rows_are_a_variable(trial):
    problem = trial("tanh").problem
    assert problem.x is problem.variables["x"]
    assert problem.x.shape == (12, 3, 4)


def test_weights_are_what_training_moves(trial):
    problem = trial("tanh").problem
    assert set(problem.weight_names) == {"W_xh", "W_hh", "b_h", "W_hy", "b_y"}
    moved = problem.with_variables({"W_hh@t": np.zeros((12, 5, 5))})
    assert moved.weight_names == problem.weight_names


def test_initial_state(trial):
    problem = trial("tanh").problem
    np.testing.assert_array_equal(problem.initial_state, problem.variables["h_0"])


def test_other_values_leave_the_rest_and_the_original(trial):
    problem = trial("tanh").problem
    moved = problem.with_variables({"b_h": np.zeros(5)})
    assert not moved.variables["b_h"].any()
    assert problem.variables["b_h"].any()
    np.testing.assert_array_equal(moved.variables["W_hh"], problem.variables["W_hh"])
    assert (moved.name, moved.seed, moved.options) == (problem.name, problem.seed, problem.options)


@pytest.mark.parametrize("name", ["tanh", "tanh-tokens", "sigmoid-tokens"])
def test_precision_of_every_floating_point_array(trial, name):
    double = trial(name).problem
    single = double.astype("float32")
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    for before, after in (
        (double.variables, single.variables),
        (double.constants, single.constants),
    ):
        assert before.keys() == after.keys()
        for key, array in after.items():
            expected = np.float32 if before[key].dtype.kind == "f" else before[key].dtype
            assert array.dtype == expected
            np.testing.assert_array_equal(array, before[key].astype(expected))


@pytest.mark.parametrize(
    ("gradient", "number"),
    [
        ("W_hh", 1),
        ("x", 1),
        ("state h", 1),
        ("state_jacobian", 1),
        ("h_0", 0),
        ("c_0", 0),
        ("W_0", 1),
        ("jacobian_product_to_end", 0),
    ],
)
def test_number_of_the_first_step(gradient, number):
    lstm = next(case for case in CASES if case.cell == "lstm")
    assert problem_of(lstm).first_step(gradient) == number
