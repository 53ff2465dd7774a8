"""Code that means something else than the plain gradient: declared it passes, undeclared the text
says what would explain it.
"""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, Unrolled, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.errors import BadOption, ForwardMismatch
from bptt_crosscheck.comparisons.problems.answer import Answer
from bptt_crosscheck.comparisons.problems.convention import Convention, convention_of, global_norm

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

T, B = 5, 3
rng = np.random.default_rng(0)
BATCH = {"x": rng.normal(size=(T, B, 2))}
WEIGHTS = {"W": rng.normal(size=(4, 2)), "U": rng.normal(size=(4, 4)) / 2}


def batch_loss(xp, params, inputs):
    h, total = xp.zeros((B, 4)), 0.0
    for t in range(T):
        h = xp.tanh(inputs["x"][t] @ params["W"].T + h @ params["U"].T)
        total = total + xp.sum(h**2) / 2
    return total


def batch_gradients(params, inputs):
    x, h = inputs["x"], [np.zeros((B, 4))]
    for x_t in x:
        h.append(np.tanh(x_t @ params["W"].T + h[-1] @ params["U"].T))
    found, dh = {name: np.zeros_like(value) for name, value in params.items()}, np.zeros((B, 4))
    for t in range(T, 0, -1):
        delta = (dh + h[t]) * (1 - h[t] ** 2)
        found["W"] += delta.T @ x[t - 1]
        found["U"] += delta.T @ h[t - 1]
        dh = delta @ params["U"]
    return found


def times(factor):
    return lambda found: {name: value * factor for name, value in found.items()}


def cut(bound):
    return lambda found: {name: np.clip(value, -bound, bound) for name, value in found.items()}


def normed(bound, eps=0.0):
    return lambda found: times(min(1.0, bound / (global_norm(found) + eps)))(found)


def normed_each(bound, eps=0.0):
    return lambda found: {
        name: normed(bound, eps)({name: value})[name] for name, value in found.items()
    }


# declared, what the code does, what the text says when it is not declared
CONVENTIONS = (
    ({"sign": -1}, times(-1), "exact up to sign, in every gradient"),
    ({"scale": 2.5}, times(2.5), "exact up to the factor 2.5, in every gradient"),
    ({"scale": 1 / 7}, times(1 / 7), "exact up to the factor 0.1428571429, in every gradient"),
    ({"scale": "1/T"}, times(1 / T), "exact up to the factor 1/T ="),
    ({"scale": "1/B"}, times(1 / B), "exact up to the factor 1/B ="),
    ({"scale": "1/(T·B)"}, times(1 / (T * B)), "exact up to the factor 1/(T·B)"),
    ({"scale": "1/(T*B)"}, times(1 / (T * B)), "1/(T·B)"),
    ({"scale": "1 / (B · T)"}, times(1 / (T * B)), "1/(T·B)"),
    ({"scale": "T"}, times(T), "exact up to the factor T ="),
    ({"scale": "B"}, times(B), "exact up to the factor B ="),
    ({"sign": -1, "scale": "1/B"}, times(-1 / B), "exact up to the factor −1/B ="),
    ({"clip_value": 0.5}, cut(0.5), "exact up to clipping at ±0.5"),
    (
        {"clip_norm": 0.5},
        normed(0.5),
        "exact up to clipping all gradients together to the global norm 0.5\n",
    ),
    (
        {"clip_norm": 0.5},
        normed(0.5, 1e-6),
        "the global norm 0.5 as torch's clip_grad_norm_ clips it, by norm + 1e-06",
    ),
    ({"clip_norm": 0.5, "clip_norm_eps": 1e-3}, normed(0.5, 1e-3), "exact up to the factor 0.0"),
    (
        {"clip_norm_each": 0.5},
        normed_each(0.5),
        "exact up to clipping each array by itself to norm 0.5\n",
    ),
    (
        {"clip_norm_each": 0.5},
        normed_each(0.5, 1e-6),
        "each array by itself to norm 0.5 as torch's clip_grad_norm_ clips it",
    ),
    (
        {"scale": "1/B", "clip_value": 0.25},
        lambda found: cut(0.25)(times(1 / B)(found)),
        "exact up to the factor 1/B = 1/3 and clipping at ±0.25",
    ),
    (
        {"sign": -1, "clip_value": 0.25},
        lambda found: cut(0.25)(times(-1)(found)),
        "exact up to sign and clipping at ±0.25",
    ),
    (
        {"sign": -1, "clip_norm": 0.5},
        lambda found: times(-1)(normed(0.5)(found)),
        "exact up to sign and clipping all gradients together to the global norm 0.5",
    ),
)
every_convention = pytest.mark.parametrize(
    ("declared", "does", "words"), CONVENTIONS, ids=[str(c) for c, *_ in CONVENTIONS]
)


@every_convention
def test_declared_it_passes_and_undeclared_it_is_explained(declared, does, words):
    def meant(params, inputs):
        return does(batch_gradients(params, inputs))

    assert check_gradients(meant, batch_loss, WEIGHTS, BATCH, convention=declared, **TORCH).passed
    with pytest.raises(GradientMismatch) as caught:
        check_gradients(meant, batch_loss, WEIGHTS, BATCH, **TORCH)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "does"),
    [row[:2] for row in (*CONVENTIONS[3:12:4], *CONVENTIONS[12:])],
    ids=lambda value: None if callable(value) else str(value),
)
def test_a_mistake_under_a_declared_convention_is_seen(declared, does):
    def wrong(params, inputs):
        found = batch_gradients(params, inputs)
        # another factor in each entry: a norm hides one that is common, a bound that of one entry
        spoil = np.linspace(0.98, 0.99, 16).reshape(4, 4)
        return does({**found, "U": found["U"] * spoil})

    with pytest.raises(GradientMismatch, match="U: differs from torch"):
        check_gradients(wrong, batch_loss, WEIGHTS, BATCH, convention=declared, **TORCH)


@pytest.mark.parametrize(
    ("declared", "does"),
    [
        ({"sign": -1}, times(-1)),
        ({"clip_value": 0.2}, cut(0.2)),
        ({"clip_norm": 0.3}, normed(0.3)),
        ({"clip_norm": 0.3}, normed(0.3, 1e-6)),
        ({"clip_norm_each": 0.1}, normed_each(0.1)),
    ],
)
def test_numpy_code_has_conventions_too(declared, does):
    assert check_gradients(
        lambda p, i: does(gradients(p, i)), numpy_loss, PARAMS, INPUTS, convention=declared
    ).passed
    with pytest.raises(GradientMismatch, match="diagnosis: exact up to"):
        check_gradients(lambda p, i: does(gradients(p, i)), numpy_loss, PARAMS, INPUTS)


def test_a_plain_gradient_is_wrong_where_another_was_declared():
    with pytest.raises(GradientMismatch, match="exact up to the factor T ="):
        check_gradients(
            batch_gradients, batch_loss, WEIGHTS, BATCH, convention={"scale": "1/T"}, **TORCH
        )
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(
            batch_gradients, batch_loss, WEIGHTS, BATCH, convention={"clip_value": 0.5}, **TORCH
        )


def test_bounds_that_nothing_reaches_change_nothing():
    assert check_gradients(
        gradients, loss, PARAMS, INPUTS, convention={"clip_value": 1e3, "clip_norm": 1e3}, **TORCH
    ).passed


def test_clipping_from_one_side_is_no_clipping():
    def one_sided(params, inputs):
        return {name: np.minimum(value, 0.2) for name, value in gradients(params, inputs).items()}

    with pytest.raises(GradientMismatch) as caught:
        check_gradients(one_sided, loss, PARAMS, INPUTS, convention={"clip_value": 0.2}, **TORCH)
    assert "exact up to clipping" not in str(caught.value)
    assert "where torch has -0.2" in str(caught.value)


def test_the_norm_is_that_of_the_gradients_given():
    def two_of_three(params, inputs):
        found = gradients(params, inputs)
        return normed(0.3)({"W": found["W"], "b": found["b"]})

    assert check_gradients(
        two_of_three, loss, PARAMS, INPUTS, convention={"clip_norm": 0.3}, **TORCH
    ).passed


def test_a_vjp_has_conventions_too():
    negative = lambda p, i, c: times(-1)(vjp(p, i, c))  # noqa: E731
    assert check_vjp(negative, outputs, PARAMS, INPUTS, convention={"sign": -1}, **TORCH).passed
    with pytest.raises(GradientMismatch, match="exact up to sign"):
        check_vjp(negative, outputs, PARAMS, INPUTS, **TORCH)


STEPWISE = Unrolled(
    lambda xp, params, inputs: {"h": xp.zeros(3)},
    lambda xp, params, state, at: {
        "h": xp.tanh(params["W"] @ at["x"] + params["U"] @ state["h"] + params["b"])
    },
    lambda xp, params, state, at: xp.sum(state["h"] ** 2) / 2,
)


def truncated(window):
    """Each loss back through its own step and at most `window` earlier ones."""

    def found(params, inputs):
        x, h = inputs["x"], [np.zeros(3)]
        for x_t in x:
            h.append(np.tanh(params["W"] @ x_t + params["U"] @ h[-1] + params["b"]))
        total = {name: np.zeros_like(value) for name, value in params.items()}
        for t in range(1, len(x) + 1):
            dh = h[t]
            for k in range(t, max(1, t - window) - 1, -1):
                delta = dh * (1 - h[k] ** 2)
                total["W"] += np.outer(delta, x[k - 1])
                total["U"] += np.outer(delta, h[k - 1])
                total["b"] += delta
                dh = params["U"].T @ delta
        return total

    return found


@pytest.mark.parametrize("window", [0, 1, 2, 4])
def test_truncation_counts_the_earlier_steps(window):
    for declared in (window, window + 1, window - 1)[: 2 if window == 0 else 3]:
        report = check_gradients(
            truncated(window),
            STEPWISE,
            PARAMS,
            INPUTS,
            convention={"truncation": declared},
            raise_exception=False,
            **TORCH,
        )
        assert report.passed == (
            min(declared, 3) == min(window, 3)
        )  # T = 4: nothing is cut from 3 on


def test_truncation_by_jax_and_undeclared():
    assert check_gradients(
        truncated(1), STEPWISE, PARAMS, INPUTS, convention={"truncation": 1}, references=["jax"]
    ).passed
    with pytest.raises(GradientMismatch, match="U: differs"):
        check_gradients(truncated(1), STEPWISE, PARAMS, INPUTS, **TORCH)
    with pytest.raises(BadOption, match="truncation needs the loss as an Unrolled"):
        check_gradients(truncated(1), loss, PARAMS, INPUTS, convention={"truncation": 1}, **TORCH)


def test_truncation_is_not_left_to_numeric_references():
    """A constant to differentiation is no constant to differences: they would be held against the
    plain gradient.
    """
    asked = {"convention": {"truncation": 1}, "references": ["differences"]}
    with pytest.raises(BadOption, match="truncation"):
        check_gradients(gradients, STEPWISE, PARAMS, INPUTS, **asked)


def test_truncation_leaves_out_numeric_references_beside_others():
    report = check_gradients(
        truncated(1),
        STEPWISE,
        PARAMS,
        INPUTS,
        convention={"truncation": 1},
        references=["torch", "differences"],
    )
    assert report.passed
    assert {row.reference for row in report.rows} == {"torch"}
    assert "no number that could be evaluated" in str(report.cases[0].left_out["differences"])


BAD = (
    ({"scael": 2}, ("no 'scael'", "sign, scale, clip_value, clip_norm, clip_norm_each, ")),
    ({1: 2}, ("no 1",)),
    ("1/T", ("convention",)),
    (5, ("convention",)),
    ({"sign": 0}, ("sign",)),
    ({"sign": "minus"}, ("sign",)),
    ({"sign": None}, ("sign",)),
    ({"scale": None}, ("scale",)),
    ({"scale": 0}, ("scale",)),
    ({"scale": float("nan")}, ("scale",)),
    ({"scale": float("inf")}, ("scale",)),
    ({"scale": [2]}, ("scale",)),
    ({"scale": ""}, ("scale",)),
    ({"scale": "1/Q"}, ("scale '1/Q'", '"1/(T·B)"')),
    ({"scale": "T/B"}, ("scale 'T/B'",)),
    ({"scale": "/T"}, ("scale '/T'",)),
    ({"scale": "two"}, ("scale 'two'",)),
    ({"clip_value": 0}, ("clip_value", "positive", "not 0")),
    ({"clip_value": -1}, ("clip_value", "positive", "not -1")),
    ({"clip_value": float("nan")}, ("clip_value",)),
    ({"clip_value": "five"}, ("clip_value",)),
    ({"clip_norm": 0.0}, ("clip_norm",)),
    ({"clip_norm": [1.0]}, ("clip_norm",)),
    ({"clip_norm_each": 0.0}, ("clip_norm_each", "positive")),
    ({"clip_norm_eps": 1e-6}, ("clip_norm_eps", "give that too")),
    ({"clip_norm": 1.0, "clip_norm_eps": -1e-6}, ("clip_norm_eps", "at least 0")),
    ({"clip_norm": 1.0, "clip_norm_eps": "torch"}, ("clip_norm_eps",)),
    ({"clip_norm": 1.0, "clip_norm_each": 1.0}, ("give one of them",)),
    ({"clip_norm": 1.0, "clipped": "x"}, ('clipped is "all" or "params"', "not 'x'")),
    ({"clipped": "params"}, ("clipped", "give that too")),
    (Convention(clip_value=-1.0), ("clip_value", "positive")),
    (Convention(scale="two"), ("scale 'two'",)),
    ({"truncation": -1}, ("truncation", "at least 0", "not -1")),
    ({"truncation": 1.5}, ("truncation",)),
    ({"truncation": "3"}, ("truncation",)),
    ({"precision": "float8"}, ("precision 'float8'", "float16, float32, float64")),
    ({"precision": 32}, ("precision 32",)),
)


@pytest.mark.parametrize(("declared", "words"), BAD, ids=[str(declared) for declared, _ in BAD])
def test_conventions_that_are_none(declared, words):
    with pytest.raises(BadOption) as caught:
        check_gradients(gradients, STEPWISE, PARAMS, INPUTS, convention=declared, **TORCH)
    for word in words:
        assert word in str(caught.value)


def test_a_letter_that_no_input_tells_is_asked_for_as_a_number():
    """Two steps by two features: nothing shows which axis is time."""
    short = {"x": INPUTS["x"][:2]}

    def asked(xp, p, i):
        return xp.sum(xp.tanh(i["x"] @ p["W"].T) ** 2)

    def given(p, i):
        h = np.tanh(i["x"] @ p["W"].T)
        return {"W": (h * (1 - h**2)).T @ i["x"]}

    with pytest.raises(BadOption, match="give the number"):
        check_gradients(given, asked, PARAMS, short, convention={"scale": "1/T"}, **TORCH)
    for declared in ({"convention": {"scale": 0.5}}, {"convention": {"scale": "1/T"}}):
        layout = "TI" if declared["convention"]["scale"] == "1/T" else None
        assert check_gradients(
            given, asked, PARAMS, short, layout=layout, **declared, **TORCH
        ).passed


def test_a_letter_is_told_by_the_input_that_is_time_whatever_its_name():
    renamed = {"signal": INPUTS["x"]}
    asked = lambda xp, p, i: loss(xp, p, {"x": i["signal"]})  # noqa: E731
    given = lambda p, i: times(1 / 4)(gradients(p, {"x": i["signal"]}))  # noqa: E731
    for scale in ("1/T", 1 / 4):
        convention = {"scale": scale}
        assert check_gradients(given, asked, PARAMS, renamed, convention=convention, **TORCH).passed


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *given):
        self.calls += 1
        return self.function(*given)


def counted(function, names):
    """A counted function with these parameters."""
    count = Counted(function)
    if "xp" in names:
        return count, lambda xp, params, inputs: count(xp, params, inputs)
    return count, lambda params, inputs: count(params, inputs)


CANNOT_APPLY = (
    {"scale": "T"},
    {"scale": "1/T"},
    {"scale": "B"},
    {"scale": "1/(T·B)"},
    {"scale": "T/B"},
    {"sign": 0},
    {"clip_value": -1},
    {"clip_norm": "5"},
    {"clip_norm_each": 0},
    {"clip_norm_eps": 1e-6},
    {"truncation": 2},
    {"precision": "float8"},
    {"rtol": -1.0},
    {"atol": "0"},
    {"clip": 5},
)


@pytest.mark.parametrize("declared", CANNOT_APPLY, ids=str)
@pytest.mark.parametrize("references", [None, ["torch"], ["differences"]], ids=str)
def test_a_convention_that_cannot_apply_is_refused_before_anything_is_computed(
    declared, references
):
    params, inputs = {"w": np.ones(3)}, {"signal": np.ones(3)}
    for names in ("xp", "params"):
        count, asked = counted(lambda *given: given[-2]["w"].sum(), names)
        derived = Counted(lambda params, inputs: {"w": np.ones(3)})
        setup = Counted(lambda: None)
        options = {"convention": declared, "references": references, "setup": setup}
        with pytest.raises(BadOption):
            check_gradients(derived, asked, params, inputs, **options)
        assert (count.calls, derived.calls, setup.calls) == (0, 0, 0)


@pytest.mark.parametrize("declared", CANNOT_APPLY, ids=str)
def test_so_is_one_of_a_vjp(declared):
    params, inputs = {"w": np.ones(3)}, {"signal": np.ones(3)}
    count, asked = counted(lambda xp, params, inputs: params["w"] * 2, ("xp",))
    derived = Counted(lambda params, inputs, cotangents: {"w": 2 * cotangents})
    with pytest.raises(BadOption):
        check_vjp(derived, asked, params, inputs, convention=declared)
    assert (count.calls, derived.calls) == (0, 0)
    assert check_vjp(derived, asked, params, inputs).passed
    assert count.calls > 0  # the twin


def test_a_convention_ready_made_is_taken_as_it_is():
    made = Convention(sign=-1)
    assert convention_of(made) == made
    assert convention_of(None) == Convention()
    assert check_gradients(
        lambda p, i: times(-1)(gradients(p, i)), loss, PARAMS, INPUTS, convention=made, **TORCH
    ).passed


def test_what_is_not_named_stays_plain():
    answer = Answer(
        1.0, {"W": np.array([3.0]), "x": np.array([4.0])}, steps={"W": np.array([[1.0], [2.0]])}
    )
    told = Convention(scale="1/T").apply(answer, 2, None, {"W"})
    assert (told.gradients["W"], told.gradients["x"]) == (1.5, 4.0)
    assert told.steps["W"].tolist() == [[0.5], [1.0]]
    clipped = Convention(clip_norm=1.0).apply(answer, 2, None, {"W", "x"})
    assert (clipped.gradients["W"], clipped.gradients["x"]) == (
        pytest.approx(0.6),
        pytest.approx(0.8),
    )
    assert clipped.steps == {}  # clipping is not linear


# rtol and atol in place of the measured noise.


def off_by(factor):
    return lambda params, inputs: {
        name: value * factor for name, value in gradients(params, inputs).items()
    }


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ({}, False),
        ({"rtol": 1e-3}, True),
        ({"rtol": 1e-5}, False),
        ({"atol": 10.0}, True),
        ({"rtol": 0.0, "atol": 1e-12}, False),
        ({"convention": {"rtol": 1e-3}}, True),
        ({"convention": {"rtol": 1e-3}, "rtol": 1e-5}, False),
    ],
)
def test_a_tolerance_of_ones_own(asked, passes):
    report = check_gradients(
        off_by(1 + 1e-4), loss, PARAMS, INPUTS, **TORCH, **asked, raise_exception=False
    )
    assert report.passed is passes
    assert ("as asked for, not by measured noise" in " ".join(report.cases[0].notes)) is bool(asked)


def test_a_tolerance_is_of_gradients_not_of_the_forward_pass():
    with pytest.raises(ForwardMismatch):
        check_cell(spoiled(step=halved), **SIZES, **TORCH, rtol=1e9)


def halved(xp, params, state, x):
    """Another function in NumPy than in torch."""
    new, cache = elman("step", xp, params, state, x)
    return ({"h": new["h"] / 2} if xp is np else new), cache


def test_a_tolerance_for_a_cell_and_for_a_vjp():
    assert check_cell(spoiled(), **SIZES, **TORCH, rtol=1e-9).passed
    assert check_vjp(vjp, outputs, PARAMS, INPUTS, **TORCH, atol=1e-9).passed
    with pytest.raises(GradientMismatch):
        check_vjp(
            lambda *a: {n: 2 * v for n, v in vjp(*a).items()},
            outputs,
            PARAMS,
            INPUTS,
            **TORCH,
            rtol=0.5,
            atol=0.0,
        )


@pytest.mark.parametrize("bad", [-1.0, float("nan"), "1e-3", True])
def test_a_tolerance_that_cannot_be(bad):
    with pytest.raises(BadOption, match="rtol is a number of at least 0"):
        check_gradients(gradients, loss, PARAMS, INPUTS, **TORCH, rtol=bad)


def test_not_a_number_passes_no_tolerance():
    with pytest.raises(GradientMismatch):
        check_gradients(off_by(np.nan), loss, PARAMS, INPUTS, **TORCH, rtol=1e9, atol=1e9)


@pytest.mark.parametrize("factor", [3.0, -3.0])
def test_a_gap_at_a_kink_is_scaled_with_its_gradient(factor):
    """A width has no sign: scaled by −3 it is three times as wide."""
    answer = Answer(
        1.0,
        {"w": np.ones(2), "v": np.ones(2)},
        kinks={"w": np.array([0.5, 0.0]), "v": np.array([0.25, 0.0])},
    )
    told = Convention(scale=factor).apply(answer, None, None, {"w"})
    np.testing.assert_array_equal(told.gradients["w"], [factor, factor])
    np.testing.assert_array_equal(told.kinks["w"], [1.5, 0.0])
    np.testing.assert_array_equal(told.kinks["v"], [0.25, 0.0])
