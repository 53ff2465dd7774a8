"""Problems drawn from cases, and the answers of the built-in derivations."""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.candidates import built_in_cells
from bptt_crosscheck.comparisons.candidates.built_in_cells import CellCandidate, built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of, update
from bptt_crosscheck.comparisons.candidates.trajectory import walk
from bptt_crosscheck.comparisons.errors import BadOption, UnknownName
from bptt_crosscheck.comparisons.problems.cases import CASES, Case
from bptt_crosscheck.comparisons.reporting import dump
from bptt_crosscheck.manual.cells.rnn import RNN

SMALL = [case for case in CASES if case.name != "larger"]

every_case = pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.cell} {case.name}")


def numbers(problem):
    return {
        name: array.tobytes() for name, array in {**problem.variables, **problem.constants}.items()
    }


# Problems.


@every_case
def test_the_same_seed_gives_identical_numbers(case):
    assert numbers(problem_of(case, 3)) == numbers(problem_of(case, 3))


@every_case
def test_another_seed_gives_others(case):
    one, other = problem_of(case, 3), problem_of(case, 4)
    same = {
        name for name in one.variables if np.array_equal(one.variables[name], other.variables[name])
    }
    settled = {"W_hh", "b_h"} if case.name == "irnn" else set()  # the identity, and zero
    assert same == settled | (
        {f"{part}_0" for part in one.state_sizes} if case.initial_state == "zero" else set()
    )


@pytest.mark.parametrize(
    "case",
    [case for case in SMALL if case.cell == "rnn" and case.layers == 1],
    ids=lambda case: case.name,
)
def test_shapes(case):
    problem = problem_of(case)
    T, B, I, H, V = case.steps, case.batch, case.input_size, case.hidden_size, case.output_size  # noqa: E741
    shapes = {
        "W_xh": (H, I),
        "W_hh": (H, H),
        "b_h": (H,),
        "W_hy": (V, H),
        "b_y": (V,),
        "h_0": (B, H),
        "x": (T, B, I),
    }
    if case.inputs == "tokens":
        del shapes["x"]
        assert problem.constants["x"].max() < I
        assert problem.constants["x"].min() >= 0
    assert {name: array.shape for name, array in problem.variables.items()} == shapes
    target = problem.constants["target"]
    if case.loss == "softmax-cross-entropy":
        assert target.shape == (T, B)
        assert set(np.unique(target)) <= set(range(V))
    else:
        assert target.shape == (T, B, V)
    assert problem.constants["mask"].shape == (T, B)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_where_the_loss_counts(steps, seed):
    masks = {
        positions: problem_of(
            Case("drawn", "rnn", positions=positions, steps=steps), seed
        ).constants["mask"]
        for positions in ("every", "last", "masked")
    }
    assert masks["every"].all()
    assert masks["last"][-1].all()
    assert not masks["last"][:-1].any()
    assert masks["masked"][-1].all(), (
        "the last step counts, so that no derivation can drop it unseen"
    )
    assert set(np.unique(masks["masked"])) <= {0.0, 1.0}
    assert steps < 12 or 0 < masks["masked"][:-1].mean() < 1


def test_initial_state(trial):
    assert trial("tanh").problem.variables["h_0"].all()
    assert not trial("tanh-zero-state").problem.variables["h_0"].any()


def test_the_recurrent_matrix_is_not_symmetric(trial):
    W_hh = trial("tanh").problem.variables["W_hh"]
    assert np.abs(W_hh - W_hh.T).max() > 0.1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_precision(trial, dtype):
    problem = trial("tanh-trained", dtype=dtype).problem
    assert {
        array.dtype.name
        for array in {**problem.variables, **problem.constants}.values()
        if array.dtype.kind == "f"
    } == {dtype}
    answer = built_in("rnn", problem.options).answer(problem)
    assert {array.dtype.name for array in (*answer.gradients.values(), *answer.steps.values())} == {
        dtype
    }


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"cell": "lstmm"}, UnknownName, "no cell is called 'lstmm'; there are rnn"),
        (
            {"options": {"activation": "tan"}},
            UnknownName,
            "no activation is called 'tan'; there are .*tanh",
        ),
        ({"loss": "hinge"}, UnknownName, "no loss is called 'hinge'; there are .*squared-error"),
        ({"steps": 0}, BadOption, "steps must be at least 1, not 0"),
        ({"batch": 0}, BadOption, "batch"),
        ({"input_size": -1}, BadOption, "input_size"),
        ({"hidden_size": 0}, BadOption, "hidden_size"),
        ({"output_size": 0}, BadOption, "output_size"),
        ({"layers": 0}, BadOption, "layers must be at least 1"),
        (
            {"options": {"projection_size": 3}},
            BadOption,
            "the cell rnn has no option projection_size; it has activation",
        ),
        (
            {"cell": "gru", "options": {"projection_size": 3}},
            BadOption,
            "gru has no option projection_size; it has reset",
        ),
        (
            {"cell": "lru", "options": {"reset": "after"}},
            BadOption,
            "lru has no option reset; it has radius_min",
        ),
        (
            {"cell": "lstm", "options": {"reset": "after"}},
            BadOption,
            "lstm has no option reset; it has none",
        ),
        (
            {"cell": "gru", "options": {"reset": "never"}},
            BadOption,
            "gru: reset is 'after' or 'before'",
        ),
        (
            {"cell": "projected-lstm", "options": {"projection_size": 6}},
            BadOption,
            "projection_size is 1 … 5, the hidden size",
        ),
        (
            {"algorithm": "evolution"},
            UnknownName,
            "no algorithm is called 'evolution'; there are bptt, rtrl",
        ),
        (
            {"algorithm": "rtrl", "layers": 2, "jacobians": False},
            BadOption,
            "one layer in one direction",
        ),
        ({"window": 2, "layers": 2, "jacobians": False}, BadOption, "a window cuts one layer"),
        (
            {"chunk": 2, "bidirectional": True, "jacobians": False},
            BadOption,
            "chunks need one direction",
        ),
        ({"window": 2, "chunk": 2}, BadOption, "by a window or by chunks, not by both"),
        ({"window": -1}, BadOption, "window"),
        ({"chunk": 0}, BadOption, "chunk"),
        ({"dropout": 0.5}, BadOption, "dropout stands between layers, and there is one layer"),
        ({"dropout": 1.0, "layers": 2}, BadOption, "a share of at least 0 and below 1"),
        (
            {"bidirectional": True},
            BadOption,
            "Jacobians are compared for one layer in one direction",
        ),
        ({"loss": "projection", "trained": 3}, BadOption, "nothing to train on"),
    ],
)
def test_a_case_that_cannot_be(wrong, error, message):
    with pytest.raises(error, match=message):
        problem_of(replace(CASES[0], **wrong))


# Training.


@pytest.mark.parametrize(
    "name", ["tanh-trained", "relu-trained", "sigmoid-last-trained", "tanh-tokens-trained"]
)
def test_training_lowers_the_loss_and_moves_weights_only(trial, name):
    before, after = trial(name, trained=0).problem, trial(name).problem
    candidate = trial(name).candidate
    assert candidate.answer(after).loss < 0.9 * candidate.answer(before).loss
    still = {
        key
        for key in before.variables
        if np.array_equal(before.variables[key], after.variables[key])
    }
    assert still == {"h_0", "x"} & set(before.variables)
    for key, array in before.constants.items():
        np.testing.assert_array_equal(array, after.constants[key])


def test_the_learning_rate_is_that_of_the_mean_loss(trial):
    one, other = (
        trial("tanh-trained", reduction=reduction).problem for reduction in ("sum", "mean")
    )
    for name in one.weight_names:
        np.testing.assert_allclose(one.variables[name], other.variables[name], rtol=1e-9)


def test_an_update_goes_down_the_gradient_it_is_given(trial):
    problem = trial("tanh").problem
    ones = {name: np.ones_like(problem.variables[name]) for name in problem.weight_names}
    moved = update(problem, ones, 0.25)
    for name in problem.weight_names:
        np.testing.assert_array_equal(moved.variables[name], problem.variables[name] - 0.25)
    np.testing.assert_array_equal(moved.variables["x"], problem.variables["x"])


# Answers.


@every_case
def test_an_answer_tells_every_gradient_and_every_share(case):
    problem = problem_of(case)
    answer = built_in(case.cell, case.options).answer(problem)
    jacobians = {"state_jacobian", "jacobian_product_to_end"} if case.jacobians else set()
    assert set(answer.gradients) == set(problem.variables) | jacobians
    assert set(answer.steps) == (set(problem.variables) - {"W_hy", "b_y"}) | jacobians
    for name in problem.variables:
        assert answer.gradients[name].shape == problem.variables[name].shape
    for name in problem.parameter_names:
        assert answer.steps[name].shape == (case.steps, *problem.variables[name].shape)
    for part, size in problem.state_sizes.items():
        assert answer.steps[f"{part}_0"].shape == (case.steps + 1, case.batch, size)
        assert answer.states[part].shape == (case.steps, case.batch, size)


@every_case
def test_shares_sum_to_the_gradient(case):
    problem = problem_of(case)
    answer = built_in(case.cell, case.options).answer(problem)
    for name in problem.parameter_names:
        np.testing.assert_allclose(
            answer.steps[name].sum(axis=0), answer.gradients[name], rtol=1e-9, atol=1e-12
        )
    for part in problem.state_sizes:
        start = (
            -1 if part.endswith("_reverse") else 0
        )  # backwards in time, the initial state is that of step T + 1
        np.testing.assert_allclose(
            answer.steps[f"{part}_0"][start], answer.gradients[f"{part}_0"], rtol=1e-12
        )


def test_an_answer_is_the_same_twice_and_leaves_the_problem(trial):
    problem, candidate = trial("tanh").problem, trial("tanh").candidate
    before = numbers(problem)
    one, two = candidate.answer(problem), candidate.answer(problem)
    assert numbers(problem) == before
    assert one.loss == two.loss
    for name, gradient in one.gradients.items():
        np.testing.assert_array_equal(gradient, two.gradients[name])


def test_a_cell_that_is_not_there():
    with pytest.raises(UnknownName, match="no cell is called 'nosuch'; there are rnn"):
        built_in("nosuch", {})


def test_a_cell_is_one_line_in_the_table(monkeypatch, trial):
    monkeypatch.setitem(built_in_cells.CELLS, "mine", RNN)
    assert built_in("mine", {"activation": "relu"}) == CellCandidate(RNN("relu"))
    assert (
        problem_of(replace(CASES[0], cell="mine")).variables.keys()
        == trial("tanh").problem.variables.keys()
    )


def test_walk_names_and_shapes_everything_that_a_dump_holds(trial):
    problem, candidate = trial("tanh").problem, trial("tanh").candidate
    arrays = dict(walk(problem, candidate))
    size = {
        "step": 12,
        "origin": 12,
        "t": 13,
        "k": 13,
        "batch": 3,
        "state": 5,
        "state_prev": 5,
        "rank": 5,
        "unit": 5,
    }
    for name, dimensions in dump.DIMENSIONS.items():
        found = {key: array for key, array in arrays.items() if name in key.split("/")}
        assert found, name
        for array in found.values():
            assert array.shape == tuple(size[dimension] for dimension in dimensions)
    answer = candidate.answer(problem)
    for name in problem.variables:
        np.testing.assert_array_equal(arrays[f"gradient/{name}"], answer.gradients[name])
    np.testing.assert_array_equal(arrays["state_jacobian"], answer.gradients["state_jacobian"])
    np.testing.assert_allclose(arrays["d_state"], answer.steps["h_0"], rtol=1e-12)
