"""What is said instead of a verdict when the question itself is wrong: another function, no
numbers, a kink, nothing to see.
"""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.checking.preflight import (
    finite_forward,
    finite_inputs,
    repeatable,
    same_in_any_layout,
)
from bptt_crosscheck.comparisons.checking.ties import ties_in
from bptt_crosscheck.comparisons.errors import (
    AtKink,
    ForwardMismatch,
    LayoutMatters,
    NotFinite,
    NotRepeatable,
    Vacuous,
)
from bptt_crosscheck.comparisons.judging.not_seen import Why
from bptt_crosscheck.comparisons.problems.answer import Answer
from bptt_crosscheck.comparisons.witnesses.tolerance import epsilon
from bptt_crosscheck.manual.cells.lstm import LSTM
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.comparisons.small import (
    INPUTS,
    PARAMS,
    SIZES,
    TORCH,
    elman,
    gradients,
    loss,
    numpy_loss,
    outputs,
    spoiled,
    vjp,
)


def halved_in_numpy(xp, params, state, x):
    new, cache = elman("step", xp, params, state, x)
    return ({"h": new["h"] / 2} if xp is np else new), cache


def single_precision_in_numpy(xp, params, state, x):
    new, cache = elman("step", xp, params, state, x)
    return ({"h": new["h"].astype(np.float32)} if xp is np else new), cache


def one_off_in_torch(xp, params, state, x):
    new, cache = elman("step", xp, params, state, x)
    return {"h": new["h"] + (1e-6 if "torch" in xp.__name__ else 0)}, cache


@pytest.mark.parametrize("step", [halved_in_numpy, single_precision_in_numpy, one_off_in_torch])
def test_a_step_that_is_another_one_in_each_framework(step):
    with pytest.raises(
        ForwardMismatch, match="the forward pass in NumPy is not the one that the references run"
    ) as caught:
        check_cell(
            spoiled(step=step), **SIZES, references=["torch"] if "numpy" in step.__name__ else None
        )
    assert "state h: differs from torch" in str(caught.value)


def test_a_loss_that_is_another_one_in_each_framework():
    def other(xp, params, inputs):
        return loss(xp, params, inputs) * (1 if xp is np else 2)

    with pytest.raises(ForwardMismatch, match="loss: differs from torch"):
        check_gradients(gradients, other, PARAMS, INPUTS, **TORCH)


def test_where_the_functions_differ_nothing_is_said_of_gradients():
    report = check_cell(spoiled(step=halved_in_numpy), raise_exception=False, **SIZES, **TORCH)
    assert not report.passed
    assert report.rows == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_and_inputs_that_are_not_finite(value):
    weights = PARAMS["W"].copy()
    weights[2, 1] = value
    with pytest.raises(NotFinite, match=rf"W\[2, 1\] is {value}"):
        check_gradients(gradients, loss, {**PARAMS, "W": weights}, INPUTS)
    with pytest.raises(NotFinite, match=rf"c is {value}"):
        check_gradients(gradients, loss, PARAMS, {**INPUTS, "c": value})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(value):
    with pytest.raises(NotFinite, match=f"the loss is {value}"):
        check_gradients(gradients, lambda p, i: numpy_loss(p, i) + value, PARAMS, INPUTS)


def test_a_state_that_is_not_finite_is_told_with_its_step():
    states = {"c": np.zeros((3, 2, 2)), "h": np.zeros((3, 2, 2))}
    states["h"][1, 0, 0] = np.nan
    with pytest.raises(
        NotFinite, match="the state h is NaN from step 2 of 3 on, in the forward pass"
    ):
        finite_forward(Answer(0.0, {}, states))


def test_a_forward_that_overflows_after_some_steps():
    def growing(_, params, state, x):
        with np.errstate(over="ignore", invalid="ignore"):
            return {"h": state["h"] * 1e200 + x @ params["W"].T}, (x, state["h"], state["h"])

    with pytest.raises(NotFinite, match="the state h is infinite from step 2 of 3 on"):
        check_cell(
            spoiled(
                step=growing,
                step_backward=lambda params, cache, d: elman("step_backward", params, cache, d),
            ),
            **SIZES,
        )


def test_finite_numbers_of_any_kind_are_let_through():
    finite_inputs(
        {"i": np.array([1, 2]), "b": np.array([True]), "f": np.array([[1e300]]), "e": np.zeros(0)}
    )
    finite_forward(
        Answer(1.0, {"W": np.array([np.nan])}, {"h": np.zeros((2, 1))})
    )  # a gradient is the verdict's business


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Answer(2.0, {"W": np.ones(2)}), "for the loss:"),
        (Answer(1.0, {"W": np.array([1.0, 1.1])}), "for the gradient W:"),
        (Answer(1.0, {"W": np.ones(3)}), "for the gradient W:"),
        (Answer(1.0, {}), "for the gradient W:"),
        (Answer(1.0, {"W": np.array([1.0, np.nan])}), "for the gradient W:"),
    ],
)
def test_two_answers_to_one_question(other, words):
    with pytest.raises(NotRepeatable, match=words):
        repeatable(Answer(1.0, {"W": np.ones(2)}), other)


def test_the_same_answer_twice_may_round_differently_and_be_nan():
    first, second = np.array([1.0, 1e-30, np.nan]), np.array([1 + 1e-9, 1e-30, np.nan])
    repeatable(Answer(1.0, {"W": first}), Answer(1.0, {"W": second}))
    with pytest.raises(NotRepeatable):
        repeatable(
            Answer(1.0, {"W": first}), Answer(1.0, {"W": second * [1, 2, 1]})
        )  # small is no excuse


@pytest.mark.parametrize(
    ("dtype", "same", "other"),
    [("float64", 1e-9, 1e-5), ("float32", 1e-4, 1e-2), ("float16", 0.02, 0.2)],
)
def test_the_same_answer_is_the_same_to_its_precision(dtype, same, other):
    roundoff = epsilon(dtype)
    first = np.array([0.3, 0.7])
    repeatable(Answer(1.0, {"W": first}), Answer(1.0, {"W": first * (1 + same)}), roundoff)
    with pytest.raises(NotRepeatable, match="for the gradient W:"):
        repeatable(Answer(1.0, {"W": first}), Answer(1.0, {"W": first * (1 + other)}), roundoff)


def test_numbers_of_float32_are_held_to_its_precision_in_whatever_arrays():
    first = np.array([0.3, 0.7], dtype="float32").astype(float)
    second = (first * (1 + 2e-5)).astype("float32").astype(float)
    repeatable(Answer(1.0, {"W": first}), Answer(1.0, {"W": second}))
    with pytest.raises(NotRepeatable):
        repeatable(Answer(1.0, {"W": first}), Answer(1.0, {"W": first * (1 + 2e-5)}))


def test_what_sums_that_cancel_leave_may_be_another():
    first, second = np.array([1.0, 3e-17]), np.array([1.0, -8e-17])
    repeatable(Answer(1.0, {"W": first}), Answer(1.0, {"W": second}))
    with pytest.raises(NotRepeatable):
        repeatable(Answer(1.0, {"W": first}), Answer(1.0, {"W": np.add(second, [0, 1e-9])}))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_in_another_order_at_each_call(dtype):
    order = np.random.default_rng(1)
    r = np.random.default_rng(0)
    x, c = (r.normal(size=(60, 3)).astype(dtype) for _ in range(2))

    def wave(xp, params, inputs):
        return xp.sum(inputs["c"] * xp.sin(inputs["x"] * params["w"]))

    def summed(factor):
        def gradients(params, inputs):
            parts = inputs["c"] * inputs["x"] * np.cos(inputs["x"] * params["w"])
            total = np.zeros_like(params["w"])
            for n in order.permutation(len(parts)):
                total += parts[n]
            return {"w": total * np.asarray(factor, dtype)}

        return gradients

    question = {"w": np.array([0.4, 1.2, -0.7], dtype=dtype)}, {"x": x, "c": c}
    report = check_gradients(summed(1), wave, *question, **TORCH)
    assert "asked twice, the code gives answers that differ by rounding: w" in str(report)
    with pytest.raises(GradientMismatch):
        check_gradients(summed(1.001), wave, *question, **TORCH)


def relu_loss(xp, params, inputs):
    a = params["w"] * inputs["c"]
    return xp.sum(xp.where(a > 0, a, 0 * a))


def abs_loss(xp, params, inputs):
    return xp.sum(xp.abs(params["w"] * inputs["c"]))


def maximum_loss(xp, params, inputs):
    return xp.sum(xp.maximum(params["w"] * inputs["c"], xp.zeros_like(params["w"])))


AT_ZERO = {"w": np.array([0.0, 1.0, -1.0])}
C = {"c": np.array([2.0, 3.0, 4.0])}
KINKS = {
    "a comparison": (relu_loss, lambda a: a >= 0, "a tie in a comparison (a relu at zero?)"),
    "abs": (abs_loss, lambda a: np.where(a >= 0, 1.0, -1.0), "abs of zero"),
    "maximum": (maximum_loss, lambda a: a >= 0, "a tie of maximum"),
}
every_kink = pytest.mark.parametrize(("function", "derivative", "words"), KINKS.values(), ids=KINKS)


def slopes(derivative):
    return lambda params, inputs: {"w": derivative(params["w"] * inputs["c"]) * inputs["c"]}


@every_kink
@pytest.mark.parametrize("references", [["torch"], ["torch", "jax"]])
def test_another_choice_at_a_kink_is_not_called_wrong(function, derivative, words, references):
    with pytest.raises(AtKink) as caught:
        check_gradients(slopes(derivative), function, AT_ZERO, C, references=references)
    assert f"{words} at test_preflight.py:" in str(caught.value)
    assert "Move the inputs" in str(caught.value)


@every_kink
def test_any_choice_at_a_kink_of_numpy_code_passes_with_a_note(function, derivative, words):
    def one_of(share):
        return lambda p, i: {"w": slopes(derivative)(p, i)["w"] - share * np.array([1.0, 0, 0])}

    def asked(gradients):
        numpy_alone = lambda params, inputs: function(np, params, inputs)  # noqa: E731
        return check_gradients(gradients, numpy_alone, AT_ZERO, C, references=["differences"])

    gap = (
        4.0 if function is abs_loss else 2.0
    )  # 2w, or 4 times |w|: from the right 2, from the left 0, or −2
    for share in (0.0, 0.5 * gap, gap):
        report = asked(one_of(share))
        assert (
            "note: the function has a kink in w at [0]: differences allow all between its "
            "one-sided derivatives" in str(report)
        )
        assert f"note: at a kink: {words}" in str(report)
    for share in (-1e-6, gap + 1e-6):
        with pytest.raises(GradientMismatch, match="w: differs from differences"):
            asked(one_of(share))
    with pytest.raises(GradientMismatch, match="w: differs from differences"):
        asked(lambda p, i: {"w": slopes(derivative)(p, i)["w"] + np.array([0, 1e-6, 0])})


@pytest.mark.parametrize(
    ("function", "derivative"), [kink[:2] for kink in KINKS.values()], ids=KINKS
)
def test_beside_the_kink_the_same_derivation_is_right_and_another_is_wrong(function, derivative):
    aside = {"w": AT_ZERO["w"] + 0.25}
    assert check_gradients(slopes(derivative), function, aside, C, **TORCH).passed
    with pytest.raises(GradientMismatch):
        check_gradients(slopes(lambda a: 1.01 * derivative(a)), function, aside, C, **TORCH)


def test_agreement_at_a_kink_passes_with_a_note():
    report = check_gradients(slopes(lambda a: a > 0), relu_loss, AT_ZERO, C, **TORCH)
    assert report.passed
    assert "note: at a kink: a tie in a comparison (a relu at zero?) at test_preflight.py:" in str(
        report
    )


def test_a_kink_where_the_references_choose_differently_hides_no_mistake():
    """abs has slope 0 at 0 for one framework and 1 for another; that says nothing of the entries
    that are far from the kink.
    """

    def function(xp, params, inputs):
        return abs_loss(xp, params, inputs) + xp.sum(inputs["large"] * params["w"] ** 2)

    def wrong(params, inputs):
        w = params["w"]
        return {
            "w": np.where(w * inputs["c"] >= 0, 1.0, -1.0) * inputs["c"]
            + 2 * inputs["large"] * w
            + np.array([0, 30.0, 0])
        }

    with pytest.raises((AtKink, GradientMismatch)):
        check_gradients(wrong, function, AT_ZERO, {**C, "large": np.array([0.0, 0.0, 1000.0])})


def test_a_relu_cell_at_zero():
    def step(xp, params, state, x):
        a = 0 * (x @ params["W"].T) + state["h"] @ params["U"].T * 0
        return {"h": xp.where(a > 0, a, 0 * a) + state["h"] / 2}, (x, state["h"], a)

    def step_backward(params, cache, d_state):
        x, before, a = cache
        delta = d_state["h"] * (a >= 0)
        return (
            {"W": delta.T @ x, "U": delta.T @ before},
            delta @ params["W"],
            {"h": delta @ params["U"] + d_state["h"] / 2},
        )

    # it ties wherever it is moved, and changes nothing: no choice gives another derivative
    with pytest.raises(GradientMismatch):
        check_cell(spoiled(step=step, step_backward=step_backward), **SIZES, **TORCH)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda a: np.maximum(a, 1.0), "a tie of maximum"),
        (lambda a: np.minimum(1.0, a), "a tie of minimum"),
        (lambda a: np.maximum(0, a - 2), "a tie of maximum"),
        (lambda a: np.fmax(a, np.ones(3)), "a tie of fmax"),
        (lambda a: np.abs(a - 1), "abs of zero"),
        (lambda a: np.sign(a * 0), "sign of zero"),
        (lambda a: a * (a > 2), "a tie in a comparison"),
        (lambda a: np.where(a <= 3 * (1 + 1e-16), a, 0), "a tie in a comparison"),
        (lambda a: np.stack([a, a])[1] > 1, "a tie in a comparison"),
        (lambda a: np.clip(a, 1, 2), "a tie"),
        (lambda a: np.max(np.concatenate([a, a])), "a tie"),
    ],
)
def test_ties_are_noticed_whatever_they_went_through(run, words):
    [*ties] = ties_in(lambda watched: run(watched(np.array([1.0, 2.0, 3.0]))))
    assert ties
    assert words in ties[0]


@pytest.mark.parametrize(
    "run",
    [
        lambda a: np.maximum(a, 1.5),
        lambda a: np.abs(a),
        lambda a: a > 1 + 1e-9,
        lambda a: np.tanh(a) @ a,
        lambda a: a.astype(int) > 1,
    ],
)
def test_where_nothing_is_tied_nothing_is_noted(run):
    assert ties_in(lambda watched: run(watched(np.array([1.0, 2.0, 3.0])))) == []


def test_what_cannot_be_watched_has_nothing_noted():
    assert ties_in(lambda watched: watched(np.ones(2)).no_such_method()) == []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4))
def test_watching_changes_no_number(values):
    array, seen = np.array(values), []

    def run(watched):
        a = watched(array)
        seen.append(np.asarray(np.tanh(a * 2)[::-1].sum() + np.outer(a, a).T @ a))

    ties_in(run)
    assert (seen[0] == np.tanh(array * 2)[::-1].sum() + np.outer(array, array).T @ array).all()


def ignores_v(xp, params, _):
    return xp.sum(params["w"] ** 2)


def at_its_minimum(xp, params, inputs):
    return xp.sum((params["w"] - inputs["c"]) ** 2) + xp.sum(params["v"])


def softmax_under_ones(xp, params, _):
    e = xp.exp(params["v"])
    return xp.sum(e / xp.sum(e)) + xp.sum(params["w"])


W_AND_V = {"w": np.array([2.0, 3.0, 4.0]), "v": np.array([0.3, -1.2, 0.7])}
NOTHING_TO_SEE = {
    "a loss that ignores v": (ignores_v, "v", lambda p, i: {"w": 2 * p["w"], "v": np.zeros(3)}),
    "a loss at its minimum": (
        at_its_minimum,
        "w",
        lambda p, i: {"w": 2 * (p["w"] - i["c"]), "v": np.ones(3)},
    ),
    "a softmax under ones": (
        softmax_under_ones,
        "v",
        lambda p, i: {"w": np.ones(3), "v": np.zeros(3)},
    ),
}


@pytest.mark.parametrize(("function", "name", "right"), NOTHING_TO_SEE.values(), ids=NOTHING_TO_SEE)
@pytest.mark.parametrize("form", ["torch", "torch and jax", "NumPy"])
def test_a_true_gradient_of_zero_shows_nothing(function, name, right, form):
    asked = (lambda p, i: function(np, p, i)) if form == "NumPy" else function
    references = {"torch": ["torch"], "torch and jax": ["torch", "jax"], "NumPy": None}[form]
    report = check_gradients(right, asked, W_AND_V, C, references=references)
    [hidden] = report.cases[0].not_seen
    assert hidden.gradient == name
    assert hidden.why is (Why.UNUSED if function is ignores_v else Why.TRUE_ZERO)
    assert f"not seen: {name}: " in str(report)
    comparisons = len(report.rows) - sum(row.gradient == name for row in report.rows)
    assert f"{comparisons} comparisons agree" in str(report)


@pytest.mark.parametrize(("function", "name", "right"), NOTHING_TO_SEE.values(), ids=NOTHING_TO_SEE)
@pytest.mark.parametrize("form", ["torch", "NumPy"])
def test_beside_a_true_gradient_of_zero_mistakes_are_seen(function, name, right, form):
    asked = (lambda p, i: function(np, p, i)) if form == "NumPy" else function
    other = "w" if name == "v" else "v"

    def wrong(params, inputs):
        return {**right(params, inputs), other: 1.01 * right(params, inputs)[other]}

    def not_zero(params, inputs):
        return {**right(params, inputs), name: np.full(3, 1e-3)}

    with pytest.raises(GradientMismatch, match=f"{other}: differs from") as caught:
        check_gradients(wrong, asked, W_AND_V, C)
    assert f"not seen: {name}: " in str(caught.value)
    assert f"right: {name}" not in str(caught.value)
    with pytest.raises(GradientMismatch, match=f"{name}: differs from") as caught:
        check_gradients(not_zero, asked, W_AND_V, C)
    assert "not seen: " not in str(caught.value)


@pytest.mark.parametrize(("function", "name", "right"), NOTHING_TO_SEE.values(), ids=NOTHING_TO_SEE)
@pytest.mark.parametrize("form", ["torch", "NumPy"])
def test_where_nothing_is_seen_nothing_passes(function, name, right, form):
    asked = (lambda p, i: function(np, p, i)) if form == "NumPy" else function
    alone = lambda p, i: {name: right(p, i)[name]}  # noqa: E731
    references = "differences" if form == "NumPy" else "torch"
    with pytest.raises(Vacuous, match=f"VACUOUS, nothing could be seen. {name}: "):
        check_gradients(alone, asked, W_AND_V, C, references=references)


def test_what_is_not_given_need_not_be_seen():
    assert check_gradients(lambda p, i: {"w": 2 * p["w"]}, ignores_v, W_AND_V, C, **TORCH).passed


def test_something_in_place_of_a_true_zero_is_wrong():
    with pytest.raises(GradientMismatch, match="v: differs"):
        check_gradients(
            lambda p, i: {"w": 2 * p["w"], "v": np.full(3, 1e-3)}, ignores_v, W_AND_V, C, **TORCH
        )


def test_a_vjp_of_outputs_that_do_not_depend_on_a_parameter():
    report = check_vjp(
        lambda p, i, c: {"v": np.zeros(3), "w": c},
        lambda xp, p, i: p["w"] * 1.0,
        W_AND_V,
        C,
        **TORCH,
    )
    assert "not seen: v: the loss does not read it" in str(report)


def test_a_cell_whose_state_forgets_a_parameter():
    def step(xp, params, state, x):
        return {"h": xp.tanh(x @ params["W"].T) + state["h"] / 2}, x @ params["W"].T

    def step_backward(params, cache, d_state):
        delta = d_state["h"] * (1 - np.tanh(cache[1]) ** 2)
        return (
            {"W": delta.T @ cache[0], "U": np.zeros((3, 3))},
            delta @ params["W"],
            {"h": d_state["h"] / 2},
        )

    def with_x(xp, params, state, x):
        new, a = step(xp, params, state, x)
        return new, (x, a)

    cell = spoiled(step=with_x, step_backward=step_backward)
    report = check_cell(cell, **SIZES, **TORCH)
    assert "not seen: U: the loss does not read it" in str(report)


def one_step(xp, params, inputs):
    h = xp.zeros(3)
    return xp.sum(xp.tanh(params["W"] @ inputs["x"][0] + params["U"] @ h) ** 2)


def one_step_gradients(params, inputs):
    h = np.tanh(params["W"] @ inputs["x"][0])
    return {"W": np.outer(2 * h * (1 - h**2), inputs["x"][0]), "U": np.zeros((3, 3))}


@pytest.mark.parametrize("form", ["torch", "NumPy"])
def test_a_weight_that_is_read_and_does_not_matter_is_not_called_unused(form):
    """One step from a state of zero: nothing reaches U, and U is not to be taken out."""
    asked = (lambda p, i: one_step(np, p, i)) if form == "NumPy" else one_step
    params = {name: PARAMS[name] for name in ("W", "U")}
    report = check_gradients(one_step_gradients, asked, params, INPUTS)
    [hidden] = report.cases[0].not_seen
    assert (hidden.gradient, hidden.why) == ("U", Why.TRUE_ZERO)
    assert "take it out" not in str(report)


def dead(xp, params, _):
    z = params["v"] - 100.0
    return xp.sum(xp.where(z > 0, z, 0 * z)) + xp.sum(params["w"] ** 2)


def test_a_dead_unit_is_not_called_unused():
    report = check_gradients(
        lambda p, i: {"w": 2 * p["w"], "v": np.zeros(3)}, dead, W_AND_V, C, **TORCH
    )
    assert [each.why for each in report.cases[0].not_seen] == [Why.TRUE_ZERO]


@pytest.mark.parametrize("size", [0.0, 1e8, 1e14, 1e17])
def test_a_gradient_lost_in_a_large_loss_is_not_called_zero(size):
    """The value has no digits left for what the parameter does."""

    def offset(params, inputs):
        return size + np.sum(params["w"] ** 2 * inputs["c"])

    def right(params, inputs):
        return {"w": 2 * params["w"] * inputs["c"]}

    try:
        told = str(check_gradients(right, offset, {"w": W_AND_V["w"]}, C, references="differences"))
    except Vacuous as error:
        told = str(error)
    assert ("(uncertain by ±" in told) == (size >= 1e14)
    assert "zero" not in told
    assert "does not read" not in told


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_loss_in_a_lower_precision_tells_no_zero(dtype):
    """Beside 5, what the weight does is below the last place of the loss."""

    def lowered(params, inputs):
        h = np.tanh(params["w"] * inputs["c"]).astype(dtype)
        return np.sum(h) * dtype(1e-5) + dtype(5)

    def right(params, inputs):
        return {"w": 1e-5 * inputs["c"] * (1 - np.tanh(params["w"] * inputs["c"]) ** 2)}

    small = {"w": 0.1 * W_AND_V["w"]}
    with pytest.raises(Vacuous, match="the references do not know the gradient"):
        check_gradients(right, lowered, small, C, references="differences")


def exploding(params, inputs):
    """T = 40, gain 4, in a buffer: the loss is so curved that no difference tells its slope."""
    h = np.zeros((41, 20))
    for t in range(40):
        h[t + 1] = np.tanh(params["U"] @ h[t] + inputs["x"][t] + params["b"])
    return np.sum(h[40]) + np.sum(params["c"] ** 2)


def exploding_gradients(params, inputs):
    U, h = params["U"], [np.zeros(20)]
    for x in inputs["x"]:
        h.append(np.tanh(U @ h[-1] + x + params["b"]))
    d_U, d_b, d_h = np.zeros((20, 20)), np.zeros(20), np.ones(20)
    for t in range(40, 0, -1):
        delta = d_h * (1 - h[t] ** 2)
        d_U += np.outer(delta, h[t - 1])
        d_b += delta
        d_h = U.T @ delta
    return {"U": d_U, "b": d_b, "c": 2 * params["c"]}


chaos = np.random.default_rng(0)
EXPLODES = {
    "U": 4 / np.sqrt(20) * chaos.normal(size=(20, 20)),
    "b": 0.3 * chaos.normal(size=20),
    "c": chaos.normal(size=3),
}
CHAOTIC = {"x": chaos.normal(size=(40, 20))}


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_what_explodes_is_not_called_zero_and_differences_tell_its_sign(factor):
    def given(params, inputs):
        found = exploding_gradients(params, inputs)
        return {"U": factor * found["U"], "b": factor * found["b"], "c": found["c"]}

    named = ["complex step", "differences"]
    report = check_gradients(
        given, exploding, EXPLODES, CHAOTIC, references=named, raise_exception=False
    )
    assert report.passed == (factor == 1.0)
    assert "zero" not in str(report)


def test_a_small_gradient_is_not_a_vacuous_one():
    """1e-30 of the others, and still judged by its own size."""

    def tiny(xp, params, inputs):
        return loss(xp, {**params, "b": params["b"] * 1e-30}, inputs)

    def right(params, inputs):
        found = gradients({**params, "b": params["b"] * 1e-30}, inputs)
        return {**found, "b": found["b"] * 1e-30}

    assert check_gradients(right, tiny, PARAMS, INPUTS, **TORCH).passed
    with pytest.raises(GradientMismatch, match="b: differs from torch"):
        check_gradients(
            lambda p, i: {**right(p, i), "b": right(p, i)["b"] * 1.0001},
            tiny,
            PARAMS,
            INPUTS,
            **TORCH,
        )
    assert check_vjp(vjp, outputs, PARAMS, INPUTS, **TORCH).passed


class ReadsMemory(LSTM):
    """What a kernel does that walks through the cotangent's memory as if it were contiguous."""

    def delta(self, params, cache, d_state):
        flat = {
            name: np.lib.stride_tricks.as_strided(v, (v.size,), (v.itemsize,), writeable=False)
            for name, v in d_state.items()
        }
        return super().delta(
            params,
            cache,
            {name: flat[name].reshape(value.shape) for name, value in d_state.items()},
        )


def test_a_cell_that_reads_memory_in_its_own_order():
    with pytest.raises(
        LayoutMatters, match="another memory order .* the gradient W_xh: it reads memory as if"
    ):
        check_cell(ReadsMemory(), references=["torch"], steps=3)
    assert check_cell(LSTM(), references=["torch"], steps=3).passed


EPS = 2.0**-52


def test_an_answer_in_another_layout_may_differ_by_rounding_alone():
    first = Answer(1.0, {"W": np.array([1.0, 1e-12])})
    same_in_any_layout(first, Answer(1.0, {"W": np.array([1.0, 1.1e-12])}), EPS)
    with pytest.raises(LayoutMatters):
        same_in_any_layout(first, Answer(1.0, {"W": np.array([1.0, 1e-5])}), EPS)
    with pytest.raises(LayoutMatters):
        same_in_any_layout(first, Answer(1.0, {}), EPS)
    same_in_any_layout(first, Answer(1.0, {"W": np.array([1.0, 1e-3])}), 2.0**-23)
    with pytest.raises(LayoutMatters):
        same_in_any_layout(first, Answer(1.0, {"W": np.array([1.0, 1e-2])}), 2.0**-23)
