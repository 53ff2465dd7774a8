"""A mistake is named only where it reproduces every entry; each explanation has a neighbour that
it must not explain.
"""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients
from bptt_crosscheck.comparisons.candidates.draw import cell_problem
from bptt_crosscheck.comparisons.diagnosis.of_gradients import diagnose, factor_between, name_factor
from bptt_crosscheck.comparisons.judging.findings import Mistake
from bptt_crosscheck.comparisons.witnesses.engines import select
from bptt_crosscheck.comparisons.witnesses.tolerance import LIMIT, LOW_LIMIT, Noise
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.comparisons.small import (
    INPUTS,
    PARAMS,
    SIZES,
    TORCH,
    Elman,
    elman,
    gradients,
    loss,
    numpy_loss,
    spoiled,
)


@pytest.fixture(scope="module")
def asked():
    """(problem, truth, noise) of an Elman cell over three steps, as torch tells it."""
    shapes = ({"W": (3, 2), "U": (3, 3)}, {"h": (3,)})
    problem = replace(
        cell_problem("Elman", shapes, SIZES, 0), step=lambda *arguments: Elman().step(*arguments)[0]
    )
    [torch] = select(("torch",))
    truth = torch.answer(problem)
    return problem, truth, Noise(dict.fromkeys(truth.gradients, 1e-15), {})


def explained(asked, **changed):
    """The texts for the truth with some gradients changed."""
    problem, truth, noise = asked
    return [
        found.text
        for found in diagnose(
            problem, replace(truth, gradients={**truth.gradients, **changed}), truth, noise
        )
    ]


def test_the_truth_needs_no_explanation(asked):
    assert explained(asked) == []
    assert explained(asked, U=asked[1].gradients["U"] * (1 + 1e-15)) == []


def test_one_common_factor(asked):
    truth = asked[1].gradients
    everywhere = {name: -value for name, value in truth.items()}
    assert explained(asked, **everywhere) == ["exact up to sign, in every gradient"]
    third = {name: value / 3 for name, value in truth.items()}
    [text] = explained(asked, **third)
    assert text.startswith("exact up to the factor 1/T =")
    assert text.endswith("= 1/3, in every gradient")
    assert not any(
        "every gradient" in text
        for text in explained(asked, **{**third, "W": truth["W"] / 3 * (1 + 1e-6)})
    )


def test_a_factor_in_one_gradient_is_of_that_one(asked):
    truth = asked[1].gradients
    assert explained(asked, U=-truth["U"]) == ["U is exact up to sign"]
    w, u = explained(asked, U=truth["U"] * 2, W=truth["W"] / 3)
    assert w.startswith("W is exact up to the factor 1/T =")
    assert u.startswith("U is exact up to the factor B =")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda u: u * 1.1 + 1e-6,
        lambda u: u * np.linspace(1, 2, 9).reshape(3, 3),
        np.zeros_like,
        np.abs,
    ],
)
def test_what_nothing_explains_is_left_unexplained(asked, spoil):
    assert explained(asked, U=spoil(asked[1].gradients["U"])) == []


def test_all_zeros_are_not_explained_by_clipping(asked):
    assert (
        explained(
            asked, **{name: np.zeros_like(value) for name, value in asked[1].gradients.items()}
        )
        == []
    )


def test_a_gradient_that_is_missing_or_of_another_shape_or_not_finite_is_not_explained(asked):
    problem, truth, noise = asked
    for value in (np.full((3, 3), np.nan), np.full((3, 3), np.inf), np.zeros((2, 2))):
        assert explained(asked, U=value) == []
    left = {name: value for name, value in truth.gradients.items() if name != "U"}
    assert diagnose(problem, replace(truth, gradients=left), truth, noise) == []


def test_a_transpose(asked):
    truth = asked[1].gradients["U"]
    assert explained(asked, U=truth.T) == ["U is the transpose of the true gradient"]
    wrong = truth.T.copy()
    wrong[0, 1] *= 1.001
    assert explained(asked, U=wrong) == []


def test_shares_of_steps(asked):
    _, truth, _ = asked
    shares = truth.steps["W"]
    assert explained(asked, W=shares[1:].sum(axis=0)) == [
        "W is the sum over the steps with step 1 left out"
    ]
    assert explained(asked, W=shares[:-1].sum(axis=0)) == [
        "W is the sum over the steps with step 3 left out"
    ]
    assert explained(asked, W=shares[-1]) == ["W is the sum over the steps with step 3 alone"]
    assert explained(asked, W=shares[0]) == ["W is the sum over the steps with step 1 alone"]
    assert explained(asked, W=shares[0] + shares[2]) == []


GATES = {
    "W": np.random.default_rng(0).normal(size=(8, 2)),
    "V": np.random.default_rng(1).normal(size=(6, 2)),
}


def gate_loss(xp, params, inputs):
    return sum(
        xp.sum(xp.tanh(params[name] @ inputs["x"]) * inputs[name.lower()]) for name in params
    )


def gate_gradients(params, inputs):
    deltas = {
        name: (1 - np.tanh(value @ inputs["x"]) ** 2) * inputs[name.lower()]
        for name, value in params.items()
    }
    return {name: np.outer(delta, inputs["x"]) for name, delta in deltas.items()}


GATE_INPUTS = {"x": np.array([0.5, -0.8]), "w": np.linspace(0.3, 2, 8), "v": np.linspace(-1, 2, 6)}


def in_order(value, order):
    parts = np.split(value, len(order))
    return np.concatenate([parts[i] for i in order])


@pytest.mark.parametrize(
    ("name", "order", "words"),
    [
        ("W", (0, 2, 1, 3), "W has the right 4 blocks of rows in the wrong order: 1, 3, 2, 4"),
        ("W", (1, 0, 3, 2), "W has the right 4 blocks of rows in the wrong order: 2, 1, 4, 3"),
        ("V", (1, 0, 2), "V has the right 3 blocks of rows in the wrong order: 2, 1, 3"),
    ],
)
def test_gates_in_another_order(name, order, words):
    def permuted(params, inputs):
        found = gate_gradients(params, inputs)
        return {**found, name: in_order(found[name], order)}

    with pytest.raises(GradientMismatch) as caught:
        check_gradients(permuted, gate_loss, GATES, GATE_INPUTS, **TORCH)
    assert f"diagnosis: {words}" in str(caught.value)


def test_one_gate_that_is_wrong_is_told_by_its_block():
    def one_wrong(params, inputs):
        found = gate_gradients(params, inputs)
        found["W"][2:4] *= 1.5
        return found

    with pytest.raises(GradientMismatch) as caught:
        check_gradients(one_wrong, gate_loss, GATES, GATE_INPUTS, **TORCH)
    assert "rows 2–3 of 8 only (block 2 of 4, as gates are stacked)" in str(caught.value)
    assert "diagnosis" not in str(caught.value)


def after_backward(change):
    return spoiled(step_backward=lambda *arguments: change(*elman("step_backward", *arguments)))


CELLS = {
    "d_params transposed": (
        after_backward(lambda d, dx, ds: ({**d, "U": d["U"].T}, dx, ds)),
        "U is the transpose of the true gradient",
        {"d_params['U']"},
    ),
    "twice the carry": (
        after_backward(lambda d, dx, ds: (d, dx, {"h": 2 * ds["h"]})),
        "d_state_prev['h'] is exact up to the factor",
        {"d_state_prev['h']"},
    ),
    "the weight transposed": (
        spoiled(step_backward=lambda p, c, d: elman("step_backward", {**p, "U": p["U"].T}, c, d)),
        "d_state_prev['h'] is right with U transposed in step_backward: U stands where its "
        "transpose belongs",
        {"d_state_prev['h']"},
    ),
    "the sign of d_x": (
        after_backward(lambda d, dx, ds: (d, -dx, ds)),
        "x is exact up to sign",
        {"d_x"},
    ),
    "without the derivative of tanh": (
        spoiled(step_backward=lambda p, c, d: elman("step_backward", p, (c[0], c[1], 0 * c[2]), d)),
        "",
        {"d_params['W']", "d_params['U']", "d_x", "d_state_prev['h']"},
    ),
}


@pytest.mark.parametrize(("cell", "words", "outputs"), CELLS.values(), ids=CELLS)
def test_a_cell_is_told_which_output_is_wrong_by_itself_and_why(cell, words, outputs):
    report = check_cell(cell, raise_exception=False, **{**SIZES, "steps": 5}, **TORCH)
    local = report.cases[0].local
    assert {row.output for row in local if not row.passed} == outputs
    assert {row.output for row in local} == {
        "d_params['W']",
        "d_params['U']",
        "d_x",
        "d_state_prev['h']",
    }
    diagnosis = report.to_dict()["cases"][0]["diagnosis"]
    assert any(words in found["text"] for found in diagnosis) == bool(words)
    for found in diagnosis:
        assert set(found) == {"mistake", "where", "source", "explains", "text"}
        assert found["explains"] == 1.0
        assert f"diagnosis: {found['text']}" in str(report)
    for output in outputs:
        assert output in str(report).split("is wrong in ")[1].split("; right in")[0]


def test_a_right_cell_in_a_wrong_loop_over_steps():
    """The carry is dropped when the last step before is reached: step_backward is right at every
    step but one.
    """
    calls = []

    def step_backward(params, cache, d_state):
        calls.append(1)
        d_params, d_x, before = elman("step_backward", params, cache, d_state)
        return d_params, d_x, before if len(calls) % 3 else {"h": 0 * before["h"]}

    report = check_cell(
        spoiled(step_backward=step_backward), raise_exception=False, **SIZES, **TORCH
    )
    assert not report.passed
    assert {row.gradient for row in report.rows if not row.passed} == {"h_0"}
    assert "right: W, U, x" in str(report)


finite = st.floats(-1e3, 1e3).filter(lambda value: abs(value) > 1e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(factor=finite, values=st.lists(finite, min_size=1, max_size=6))
def test_factors_are_recovered(factor, values):
    true = np.array(values)
    noise = float(np.max(np.abs(true))) * 1e-15
    found = factor_between(factor * true, true, noise)
    assert found == pytest.approx(factor, rel=1e-12)
    if len(values) > 1:
        tilted = factor * true
        tilted[0] *= 1.01
        assert factor_between(tilted, true, noise) is None


def test_there_is_no_factor_between_nothing_and_something():
    assert factor_between(np.ones(2), np.zeros(2), 1e-16) is None
    assert factor_between(np.zeros(2), np.ones(2), 1e-16) is None
    assert factor_between(np.ones(2), np.ones(2), 1e-16) == 1.0


SIZE_NAMES = {"T": 12, "B": 3, "x.shape[0]": 7, "one": 1}


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (-1.0, "sign"),
        (12.0, "the factor T = 12"),
        (1 / 3, "the factor 1/B = 1/3"),
        (36.0, "the factor T·B = 36"),
        (1 / 36, "the factor 1/(T·B) = 1/36"),
        (-12.0, "the factor −T = 12"),
        (1 / 7, "the factor 1/x.shape[0] = 1/7"),
        (2.0, "the factor 2"),
        (0.5, "the factor 0.5"),
        (12.001, "the factor 12.001"),
    ],
)
def test_factors_have_names(factor, text):
    assert name_factor(factor, SIZE_NAMES) == text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda g: -g, "exact up to sign, in every gradient"),
        (lambda g: g / 4, "exact up to the factor 1/T ="),
        (lambda g: np.clip(g, -0.2, 0.2), "exact up to clipping at ±0.2"),
    ],
)
def test_differences_alone_explain_as_well_as_they_can_tell(spoil, words):
    def wrong(params, inputs):
        return {name: spoil(gradient) for name, gradient in gradients(params, inputs).items()}

    with pytest.raises(GradientMismatch) as caught:
        check_gradients(wrong, numpy_loss, PARAMS, INPUTS, references=["differences"])
    assert f"diagnosis: {words}" in str(caught.value)


def test_a_step_left_out_by_code_with_a_loss_is_seen_in_the_gradient_of_its_input():
    """Without steps of its own, the function tells the step by the axis of x that is time."""

    def with_x(params, inputs):
        found, x = gradients(params, inputs), inputs["x"]
        moved = [
            loss(np, params, {"x": x + 1e-30j * unit.reshape(x.shape)}).imag / 1e-30
            for unit in np.eye(x.size)
        ]
        dx = np.reshape(moved, x.shape)
        dx[2] = 0
        return {**found, "x": dx}

    words = (
        r"x: differs from torch; worst at \[2, [01]\].*first wrong at step 3 \(wrong: 3 of 1–4\)"
    )
    with pytest.raises(GradientMismatch, match=words):
        check_gradients(with_x, loss, PARAMS, INPUTS, **TORCH)


def test_what_is_right_to_rounding_has_the_factor_one():
    true = np.array([1.0, -2.0, 3.0])
    near = true * (1 + 3e-16)
    assert float(near @ true) / float(true @ true) != 1.0
    assert factor_between(near, true, 1e-14) == 1.0


def test_below_float64_the_limit_is_lower(asked):
    """What LIMIT would take for rounding is no explanation where LOW_LIMIT holds."""
    problem, truth, _ = asked
    noise = dict.fromkeys(truth.gradients, 0.001)
    given = truth.gradients["U"].T + 8e-3
    answer = replace(truth, gradients={**truth.gradients, "U": given})
    wide = Noise(noise, {}, limit=LIMIT)
    low = Noise(noise, {}, limit=LOW_LIMIT)
    assert [found.mistake for found in diagnose(problem, answer, truth, wide)] == [
        Mistake.TRANSPOSE
    ]
    assert diagnose(problem, answer, truth, low) == []
