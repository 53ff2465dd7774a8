"""A mistake is named only where it reproduces every entry; each explanation has a neighbour that
it must not explain.
"""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients
from bptt_crosscheck.comparisons.candidates.draw import cell_problem
from bptt_crosscheck.comparisons.diagnosis.of_gradients import diagnose, name_factor
from bptt_crosscheck.comparisons.diagnosis.pairs import factor_between
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


# What cannot be told.


def linear(xp, params, inputs):
    """⟨a, w⟩ of which the gradient of `unused` is zero."""
    return xp.sum(params["a"] * inputs["w"]) + 0.0 * xp.sum(params["unused"])


LINEAR = {"a": np.ones(3), "unused": np.array([0.3, -0.7, 1.1])}


def linear_gradients(**given):
    return lambda params, inputs: {"a": inputs["w"], **given}


@pytest.mark.parametrize("references", [["torch"], ["differences"], ["complex step"]])
@pytest.mark.parametrize("size", [1.0, 1e-9, 1e9])
def test_nothing_is_a_factor_times_zero(references, size):
    given = linear_gradients(unused=size * np.array([1.0, -2.0, 3.0]))
    asked = (linear, LINEAR, {"w": np.array([0.3, 2.0, -1.0])})
    report = check_gradients(given, *asked, references=references, raise_exception=False)
    assert {row.gradient for row in report.rows if not row.passed} == {"unused"}
    assert report.cases[0].diagnosis == []


def test_a_factor_is_of_every_gradient_only_where_that_of_none_is_zero(asked):
    """All are negative, and that of x, which is zero in truth, is not zero."""
    problem, truth, noise = asked
    zero = replace(truth, gradients={**truth.gradients, "x": 0 * truth.gradients["x"]})
    given = {name: -value for name, value in truth.gradients.items()}
    found = diagnose(problem, replace(truth, gradients=given), zero, noise)
    assert [text.text for text in found] == [
        f"{name} is exact up to sign" for name in given if name != "x"
    ]
    given["x"] = 0 * given["x"]
    [found] = diagnose(problem, replace(truth, gradients=given), zero, noise)
    assert found.text == "exact up to sign, in every gradient"


@pytest.mark.parametrize("size", [1e-3, 1.0, 3.0])
def test_what_is_left_of_a_gradient_in_its_rounding_is_no_factor(asked, size):
    """Of a truth whose noise is 1e-15, so much of that noise."""
    _, truth, noise = asked
    limit = noise.limit * 1e-15
    rng = np.random.default_rng(1)
    for _ in range(20):
        shape = truth.gradients["U"].shape
        assert explained(asked, U=size * limit * rng.normal(size=shape) / 3) == []
        both = size * limit * truth.gradients["U"] / 3
        assert not any("factor" in text for text in explained(asked, U=both))


def test_few_entries_fit_any_factor(asked):
    """Two entries, of which one is nothing but noise, are a factor times whatever else is so."""
    problem, truth, noise = asked
    few = np.zeros_like(truth.gradients["U"])
    few[0, 0] = 0.7
    one = replace(truth, gradients={**truth.gradients, "U": few})
    given = {**truth.gradients, "U": few * 1.37}
    assert diagnose(problem, replace(truth, gradients=given), one, noise) == []
    few[1, 1] = 0.3
    given = {**truth.gradients, "U": few * 1.37}
    [found] = diagnose(problem, replace(truth, gradients=given), one, noise)
    assert found.text == "U is exact up to the factor 1.37"


def test_a_sum_that_is_zero_is_not_the_share_of_a_step(asked):
    """The last step has no share, and all zeros were given."""
    problem, truth, noise = asked
    shares = truth.steps["W"].copy()
    shares[-1] = 0
    steps, total = {**truth.steps, "W": shares}, shares.sum(axis=0)
    late = replace(truth, steps=steps, gradients={**truth.gradients, "W": total})

    def told(value):
        given = {**late.gradients, "W": value}
        found = diagnose(problem, replace(late, gradients=given), late, noise)
        return [finding.text for finding in found]

    assert told(0 * total) == []
    assert told(1e-16 * np.ones_like(total)) == []
    assert told(shares[0]) == ["W is the sum over the steps with step 1 alone"]


def test_along_directions_every_gradient_is_every_one():
    """The sign of b is off, and a large w is wrong otherwise: not every gradient has that sign."""

    def wrong(params, inputs):
        return {"b": -np.cos(params["b"]), "w": 2 * params["w"] + 1}

    def squares(params, inputs):
        return np.sum(params["w"] ** 2) + np.sum(np.sin(params["b"]))

    asked = (squares, {"w": np.linspace(-1, 2, 100), "b": np.array([0.4, -1.0])}, {})
    for derived, words in (
        (wrong, "b is exact up to sign"),
        (lambda p, i: {**wrong(p, i), "w": -2 * p["w"]}, "exact up to sign, in every gradient"),
    ):
        report = check_gradients(derived, *asked, references="differences", raise_exception=False)
        assert [found.text for found in report.cases[0].diagnosis] == [words]


def test_the_gradient_of_another(asked):
    truth = asked[1].gradients
    assert explained(asked, U=truth["h_0"][:1].T @ truth["h_0"][:1]) == []

    def two(xp, params, inputs):
        first, second = params["w"]
        return xp.sum(xp.sin(first * inputs["x"]) * second)

    def given(same):
        def gradients(params, inputs):
            first, second = params["w"]
            x = inputs["x"]
            right = [x * second * np.cos(first * x), np.sin(first * x)]
            return {"w": [right[same[0]], right[same[1]]]}

        return gradients

    params = {"w": [np.array([0.7, 0.2]), np.array([0.9, 1.4])]}
    for same, texts in (
        ((1, 1), ["w[0] is given the gradient of w[1]"]),
        ((0, 0), ["w[1] is given the gradient of w[0]"]),
        (
            (1, 0),
            ["w[0] is given the gradient of w[1]", "w[1] is given the gradient of w[0]"],
        ),
        ((0, 1), []),
    ):
        inputs = {"x": np.array([0.5, 1.7])}
        report = check_gradients(given(same), two, params, inputs, **TORCH, raise_exception=False)
        assert [found.text for found in report.cases[0].diagnosis] == texts
        assert {found.mistake for found in report.cases[0].diagnosis} <= {Mistake.ANOTHER}


def test_references_disagree_only_over_what_was_asked():
    """jax and torch may round otherwise in what nobody gave."""
    from bptt_crosscheck.comparisons.judging.judge import references_agree
    from bptt_crosscheck.comparisons.problems.convention import Convention
    from bptt_crosscheck.comparisons.witnesses.ask import Asked, Testimony

    shapes = ({"W": (3, 2), "U": (3, 3)}, {"h": (3,)})
    problem = replace(
        cell_problem("Elman", shapes, SIZES, 0), step=lambda *arguments: Elman().step(*arguments)[0]
    )
    engines = select(("torch", "jax"))
    testimony = Testimony(problem, engines, Convention(), frozenset())
    first, second = engines
    off = testimony.asked.answers[second]
    off = replace(off, gradients={**off.gradients, "x": off.gradients["x"] + 1})
    answers = {first: testimony.asked.answers[first], second: off}
    witnesses = replace(testimony.brief, plain=answers, told=answers)
    assert isinstance(testimony.asked, Asked)
    assert references_agree(problem, witnesses, {"W", "U", "h_0"})
    assert not references_agree(problem, witnesses, {"W", "x"})
