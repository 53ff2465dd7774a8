"""The three entry points: forms of parameters and gradients, what is not given, what carries
state, who can follow.
"""

import functools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from bptt_crosscheck import (
    GradientMismatch,
    QuestionError,
    Report,
    Unrolled,
    check_cell,
    check_gradients,
    check_vjp,
)
from bptt_crosscheck.comparisons.errors import (
    BadContract,
    NothingFollows,
    NotRepeatable,
    UnknownName,
)

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
    outputs,
    spoiled,
    vjp,
)


def wrong_in(name, function=gradients):
    """The gradients with one of them a tenth too large."""

    def spoil(*arguments):
        found = function(*arguments)
        return {**found, name: found[name] * 1.1}

    return spoil


def test_a_right_cell_passes_under_every_choice_of_cotangents():
    report = check_cell(Elman(), **SIZES)
    assert isinstance(report, Report)
    assert report.passed
    cotangents = ["Elman, cotangents on all states", "Elman, cotangents on the final states"]
    assert [case.name for case in report.cases] == cotangents
    assert {(row.gradient, row.reference) for row in report.rows} == {
        (g, r) for g in ("W", "U", "x", "h_0") for r in ("torch", "jax")
    }
    assert all(
        case.steps == 3 and case.batch == 2 and case.input_size == 2 and case.hidden_size == 3
        for case in report.cases
    )


class Leaky:
    """c′ = c/2 + W x, h′ = tanh(c′ + h u): two states of different size, one weight a number."""

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (hidden_size, input_size), "V": (2, hidden_size), "u": ()}

    def state_shapes(self, hidden_size):
        return {"c": (hidden_size,), "h": (2,)}

    def step(self, xp, params, state, x):
        c = state["c"] / 2 + x @ params["W"].T
        h = xp.tanh(c @ params["V"].T + params["u"] * state["h"])
        return {"c": c, "h": h}, (x, state["h"], c, h)

    def step_backward(self, params, cache, d_state):
        x, before, c, h = cache
        delta = d_state["h"] * (1 - h**2)
        dc = d_state["c"] + delta @ params["V"]
        d_params = {"W": dc.T @ x, "V": delta.T @ c, "u": np.sum(delta * before)}
        return d_params, dc @ params["W"], {"c": dc / 2, "h": delta * params["u"]}


class LeakyWithoutCarry(Leaky):
    """The cell's own state handed on is forgotten, which a loss on h at the last step alone would
    hardly show.
    """

    def step_backward(self, params, cache, d_state):
        d_params, d_x, before = super().step_backward(params, cache, d_state)
        return d_params, d_x, {**before, "c": before["c"] - d_state["c"] / 2}


def test_two_states_and_a_number_among_the_weights():
    report = check_cell(Leaky(), **SIZES)
    on = [case.name.removeprefix("Leaky, cotangents on ") for case in report.cases]
    assert on == ["all states", "c alone", "h alone", "the final states"]
    report = check_cell(LeakyWithoutCarry(), **SIZES, raise_exception=False, **TORCH)
    assert [row.output for row in report.cases[0].local if not row.passed] == ["d_state_prev['c']"]


def test_a_cell_that_keeps_its_cache_on_itself():
    class Remembering(Elman):
        def step(self, xp, params, state, x):
            new, self.cache = super().step(xp, params, state, x)
            return new, None

        def step_backward(self, params, cache, d_state):
            assert cache is None
            return super().step_backward(params, self.cache, d_state)

    assert check_cell(Remembering(), **SIZES, **TORCH).passed


def test_a_cell_of_functions_in_a_namespace():
    methods = {
        name: getattr(Elman(), name)
        for name in ("parameter_shapes", "state_shapes", "step", "step_backward")
    }
    assert check_cell(SimpleNamespace(**methods), **SIZES, **TORCH).passed


@pytest.mark.parametrize(
    "sizes",
    [{"steps": 1}, {"batch": 1}, {"input_size": 1}, {"hidden_size": 1}, dict.fromkeys(SIZES, 1)],
)
def test_sizes_of_one(sizes):
    assert check_cell(Elman(), **{**SIZES, **sizes}, **TORCH).passed
    wrong = spoiled(
        step_backward=lambda *a: [
            *elman("step_backward", *a)[:2],
            {"h": elman("step_backward", *a)[2]["h"] * 1.01},
        ]
    )
    with pytest.raises(GradientMismatch, match="h_0: differs"):
        check_cell(wrong, **{**SIZES, **sizes}, **TORCH)


def test_the_seed_makes_the_problem():
    reports = [
        check_cell(Elman(), seed=seed, raise_exception=False, **SIZES, **TORCH)
        for seed in (1, 1, 2)
    ]
    values = [[row.reference_value for row in report.rows] for report in reports]
    assert values[0] == values[1] != values[2]
    assert [report.environment["seed"] for report in reports] == [1, 1, 2]


NESTED = {
    "layers": [{"W": PARAMS["W"], "U": PARAMS["U"]}, {"b": PARAMS["b"]}],
    "scale": 1.5,
    "name": "a string",
    "none": None,
}


def flat(params):
    first, second = params["layers"]
    return {**first, **second}


def nested_loss(xp, params, inputs):
    return loss(xp, flat(params), inputs) * params["scale"] ** 2


def nested_gradients(params, inputs):
    found, scale = gradients(flat(params), inputs), params["scale"]
    assert type(scale) is float
    layers = [{name: found[name] * scale**2 for name in names} for names in (("W", "U"), ("b",))]
    return {"layers": layers, "scale": 2 * scale * numpy_loss(flat(params), inputs)}


def by_path(params, inputs):
    found = nested_gradients(params, inputs)
    [first, second] = found["layers"]
    return {
        "layers[0].W": first["W"],
        "layers[0].U": first["U"],
        "layers[1].b": second["b"],
        "scale": found["scale"],
    }


@pytest.mark.parametrize("form", [nested_gradients, by_path])
def test_nested_parameters_are_named_by_their_path(form):
    report = check_gradients(form, nested_loss, NESTED, INPUTS)
    named = {row.gradient for row in report.rows}
    assert named == {"layers[0].W", "layers[0].U", "layers[1].b", "scale"}

    def wrong(params, inputs):
        found = form(params, inputs)
        return {**found, "scale": found["scale"] * 1.01}

    with pytest.raises(GradientMismatch, match=r"scale: differs from torch") as caught:
        check_gradients(wrong, nested_loss, NESTED, INPUTS)
    assert "right: layers[0].W, layers[0].U, layers[1].b" in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [
        {"w": 0.3},
        {"w": np.array(0.3)},
        {"w": np.float64(0.3)},
        {"w": [0.3, 0.4]},
        {"w": (0.3, [0.1, 0.2])},
    ],
)
def test_numbers_alone_or_in_lists(params):
    def leaves(value):
        return (
            [leaf for item in value for leaf in leaves(item)]
            if isinstance(value, list | tuple)
            else [value]
        )

    def cubes(xp, params, inputs):
        return xp.sum(xp.stack([(w * inputs["c"]) ** 3 for w in leaves(params["w"])]))

    def derivative(value, c):
        return (
            [derivative(item, c) for item in value]
            if isinstance(value, list | tuple)
            else 3 * value**2 * c**3
        )

    def right(params, inputs):
        return {"w": derivative(params["w"], inputs["c"])}

    assert check_gradients(right, cubes, params, {"c": 2.0}).passed
    with pytest.raises(GradientMismatch, match="w"):
        check_gradients(
            lambda p, i: {"w": derivative(p["w"], 1.01 * i["c"])},
            cubes,
            params,
            {"c": 2.0},
            **TORCH,
        )


def test_python_floats_stay_python_floats_for_code_that_needs_them():
    def chain(params, inputs):
        s = math.tanh(params["u"] * inputs["x"][0])
        return math.tanh(params["u"] * inputs["x"][1] + params["w"] * s)

    def right(params, inputs):
        x, s = inputs["x"], math.tanh(params["u"] * inputs["x"][0])
        slope = 1 - chain(params, inputs) ** 2
        return {"u": slope * (x[1] + params["w"] * (1 - s**2) * x[0]), "w": slope * s}

    params, inputs = {"u": 0.7, "w": -1.3}, {"x": [0.5, 0.25]}
    report = check_gradients(right, chain, params, inputs)
    assert report.passed
    assert "complex step: cannot follow" in str(report)
    with pytest.raises(GradientMismatch, match=r"u: differs from torch \(NumPy code\)"):
        check_gradients(lambda p, i: {**right(p, i), "u": right(p, i)["w"]}, chain, params, inputs)


FORMS = {
    "dict": lambda d: d,
    "tuple": lambda d: tuple(d.values()),
    "list": lambda d: list(d.values()),
    "dict in another order": lambda d: dict(reversed(d.items())),
    "lists of lists": lambda d: {name: value.tolist() for name, value in d.items()},
    "with an input's": lambda d: d,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_gradients(form):
    assert check_gradients(lambda p, i: form(gradients(p, i)), loss, PARAMS, INPUTS, **TORCH).passed
    with pytest.raises(GradientMismatch, match="U: differs from torch") as caught:
        check_gradients(lambda p, i: form(wrong_in("U")(p, i)), loss, PARAMS, INPUTS, **TORCH)
    assert "right: W, b" in str(caught.value)


def test_gradients_of_inputs_are_judged_where_they_are_given():
    def with_x(params, inputs):
        found, x = gradients(params, inputs), inputs["x"]
        moved = [
            loss(np, params, {"x": x + 1e-30j * unit.reshape(x.shape)}).imag / 1e-30
            for unit in np.eye(x.size)
        ]
        return {**found, "x": np.reshape(moved, x.shape)}

    assert {
        row.gradient for row in check_gradients(with_x, loss, PARAMS, INPUTS, **TORCH).rows
    } == {"W", "U", "b", "x"}
    with pytest.raises(GradientMismatch, match="x: differs from torch"):
        check_gradients(wrong_in("x", with_x), loss, PARAMS, INPUTS, **TORCH)


PARTIAL = {
    "left out": lambda d: {"W": d["W"], "b": d["b"]},
    "None": lambda d: {**d, "U": None},
    "None in a tuple": lambda d: (d["W"], None, d["b"]),
}


@pytest.mark.parametrize("form", PARTIAL.values(), ids=PARTIAL)
@pytest.mark.parametrize("numpy_alone", [False, True])
def test_what_is_not_given_is_listed_and_not_wrong(form, numpy_alone):
    asked = numpy_loss if numpy_alone else loss
    report = check_gradients(lambda p, i: form(gradients(p, i)), asked, PARAMS, INPUTS)
    assert report.passed
    assert {row.gradient for row in report.rows} == {"W", "b"}
    assert "U" in report.cases[0].not_given
    assert not {"W", "b"} & set(report.cases[0].not_given)
    with pytest.raises(GradientMismatch, match="b: differs") as caught:
        check_gradients(lambda p, i: form(wrong_in("b")(p, i)), asked, PARAMS, INPUTS)
    assert re.search("not given.*: U", str(caught.value))


def test_a_report_that_passes_says_what_was_not_given():
    """Else a forgotten key looks like a gradient that agrees."""
    report = check_gradients(
        lambda p, i: {"W": gradients(p, i)["W"]}, loss, PARAMS, INPUTS, **TORCH
    )
    assert re.search("not given.*: U, b", str(report))


NUMERIC = {"complex step", "differences"}


def test_a_loss_with_a_numpy_signature_is_run_on_torch_and_asked_numerically():
    report = check_gradients(gradients, numpy_loss, PARAMS, INPUTS)
    assert {row.reference for row in report.rows} == {"torch (NumPy code)", *NUMERIC}
    assert "the loss is NumPy code" not in str(report)
    with pytest.raises(GradientMismatch, match="U: differs from torch"):
        check_gradients(wrong_in("U"), numpy_loss, PARAMS, INPUTS)


def test_a_loss_that_only_numeric_references_answer_is_said_to_be_judged_by_them():
    report = check_gradients(
        gradients, numpy_loss, PARAMS, INPUTS, references=["complex step", "differences"]
    )
    assert {row.reference for row in report.rows} == NUMERIC
    assert "the loss is NumPy code" in str(report)
    with pytest.raises(GradientMismatch, match="U: differs from complex step"):
        check_gradients(
            wrong_in("U"), numpy_loss, PARAMS, INPUTS, references=["complex step", "differences"]
        )


@pytest.mark.parametrize(
    "function", [functools.partial(loss), lambda xp, /, params, inputs: loss(xp, params, inputs)]
)
def test_whatever_has_xp_as_its_first_parameter_is_asked_by_autodiff(function):
    assert check_gradients(gradients, function, PARAMS, INPUTS, **TORCH).passed


def test_a_loss_that_is_an_object():
    class Loss:
        def __call__(self, xp, params, inputs):
            return loss(xp, params, inputs)

    assert check_gradients(gradients, Loss(), PARAMS, INPUTS, **TORCH).passed


class Carrying:
    """A model whose state goes on from call to call, with dropout from a generator of its own."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.h, self.rng = np.zeros(3), np.random.default_rng(0)

    def run(self, params, inputs):
        states, masks = [self.h], []
        for x in inputs["x"]:
            masks.append(self.rng.random(3) < 0.7)
            states.append(
                masks[-1] * np.tanh(params["W"] @ x + params["U"] @ states[-1] + params["b"])
            )
        self.h = states[-1]
        return states, masks

    def loss(self, params, inputs):
        return np.sum(np.square(self.run(params, inputs)[0][1:])) / 2

    def gradients(self, params, inputs):
        states, masks = self.run(params, inputs)
        found, dh = {name: np.zeros_like(value) for name, value in params.items()}, np.zeros(3)
        for t in range(4, 0, -1):
            delta = (dh + states[t]) * (masks[t - 1] - states[t] ** 2 * masks[t - 1])
            for name, seen in (("W", inputs["x"][t - 1]), ("U", states[t - 1])):
                found[name] += np.outer(delta, seen)
            found["b"] += delta
            dh = params["U"].T @ delta
        return found


def test_setup_resets_what_is_carried():
    model = Carrying()
    assert check_gradients(model.gradients, model.loss, PARAMS, INPUTS, setup=model.reset).passed
    with pytest.raises(NotRepeatable, match="setup="):
        check_gradients(model.gradients, model.loss, PARAMS, INPUTS)
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(
            wrong_in("W", model.gradients), model.loss, PARAMS, INPUTS, setup=model.reset
        )


def single(arrays):
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def test_float32_arrays_are_judged_by_the_rounding_of_float32():
    seen = set()

    def noting(params, inputs):
        seen.update(value.dtype for value in (*params.values(), *inputs.values()))
        return gradients(params, inputs)

    assert check_gradients(noting, loss, single(PARAMS), single(INPUTS), **TORCH).passed
    assert seen == {np.dtype(np.float32)}
    with pytest.raises(GradientMismatch, match="U: differs"):
        check_gradients(
            lambda p, i: {**gradients(p, i), "U": gradients(p, i)["U"] * (1 + 1e-3)},
            loss,
            single(PARAMS),
            single(INPUTS),
        )


def in_single(params, inputs):
    return gradients(single(params), single(inputs))


@pytest.mark.parametrize("asked", [loss, numpy_loss])
def test_code_that_computes_in_float32_says_so(asked):
    assert check_gradients(
        in_single, asked, PARAMS, INPUTS, convention={"precision": "float32"}
    ).passed
    with pytest.raises(GradientMismatch):
        check_gradients(in_single, asked, PARAMS, INPUTS)
    with pytest.raises(GradientMismatch, match="b: differs"):
        check_gradients(
            wrong_in("b", in_single), asked, PARAMS, INPUTS, convention={"precision": "float32"}
        )


def test_code_that_computes_in_float16():
    half = lambda arrays: {name: value.astype(np.float16) for name, value in arrays.items()}  # noqa: E731
    assert check_gradients(
        lambda p, i: gradients(half(p), half(i)),
        loss,
        PARAMS,
        INPUTS,
        convention={"precision": "float16"},
    ).passed
    assert check_gradients(gradients, loss, half(PARAMS), half(INPUTS)).passed


def in_place(xp, params, inputs):
    """States written into an array made before: torch follows, jax does not."""
    states = xp.zeros((5, 3))
    states = states + 0 * xp.sum(params["b"])
    total = 0.0
    for t in range(4):
        h = xp.tanh(params["W"] @ inputs["x"][t] + params["U"] @ (states[t] * 1.0) + params["b"])
        states[t + 1] = h
        total = total + xp.sum(h**2) / 2
    return total


def test_a_reference_that_cannot_follow_is_left_out_with_the_line():
    report = check_gradients(gradients, in_place, PARAMS, INPUTS)
    assert report.passed
    assert {row.reference for row in report.rows} == {"torch"}
    assert "test_entry_points.py:" in str(report.cases[0].left_out["jax"])
    assert "states[t + 1] = h" in str(report.cases[0].left_out["jax"])
    assert "left out: jax: cannot follow" in str(report)
    with pytest.raises(GradientMismatch, match="U: differs from torch"):
        check_gradients(wrong_in("U"), in_place, PARAMS, INPUTS)


def test_where_nobody_follows_the_lines_are_told():
    def with_numpy(xp, params, inputs):
        return xp.sum(np.tanh(params["W"])) + loss(xp, params, inputs)

    with pytest.raises(NothingFollows) as caught:
        check_gradients(gradients, with_numpy, PARAMS, INPUTS)
    for reference in ("torch:? cannot follow", "jax:? cannot follow"):
        assert re.search(reference, str(caught.value))
    assert 'np.tanh(params["W"])' in str(caught.value)
    with pytest.raises(NothingFollows, match="Spoiled.* torch:? cannot follow: .* at small.py:"):
        check_cell(spoiled(step=lambda xp, p, s, x: elman("step", np, p, s, x)), **SIZES)


def test_code_typed_at_a_prompt_is_left_out_like_code_in_a_file():
    typed = "def at_prompt(xp, params, inputs):\n    return xp.sum(np.tanh(params['W']))\n"
    names = {"np": np}
    exec(compile(typed, "<stdin>", "exec"), names)
    with pytest.raises(NothingFollows, match="torch:? cannot follow"):
        check_gradients(
            lambda p, i: {"W": 1 - np.tanh(p["W"]) ** 2}, names["at_prompt"], PARAMS, INPUTS
        )


def test_numpy_code_whose_own_loss_cannot_carry_complex_numbers_is_left_to_differences():
    def preallocating(params, inputs):
        states = np.zeros((5, 3))
        for t in range(4):
            states[t + 1] = np.tanh(
                params["W"] @ inputs["x"][t] + params["U"] @ states[t] + params["b"]
            )
        return np.sum(states**2) / 2

    report = check_gradients(gradients, preallocating, PARAMS, INPUTS, references=[*NUMERIC])
    assert {row.reference for row in report.rows} == {"differences"}
    assert "complex step" in report.cases[0].left_out
    with pytest.raises(GradientMismatch, match="U: differs from differences"):
        check_gradients(wrong_in("U"), preallocating, PARAMS, INPUTS, references=[*NUMERIC])


def test_numpy_code_that_drops_the_imaginary_part_is_left_to_differences():
    def with_abs(params, inputs):
        return np.sum(np.abs(outputs(np, params, inputs)) ** 2) / 2

    report = check_gradients(gradients, with_abs, PARAMS, INPUTS, references=[*NUMERIC])
    assert {row.reference for row in report.rows} == {"differences"}
    with pytest.raises(GradientMismatch, match="U: differs from differences"):
        check_gradients(wrong_in("U"), with_abs, PARAMS, INPUTS, references=[*NUMERIC])


def test_large_arrays_of_numpy_code_are_looked_at_along_directions():
    params, inputs = (
        {"W": np.random.default_rng(0).normal(size=(20, 6))},
        {"x": np.linspace(0.1, 1.0, 6)},
    )

    def right(params, inputs):
        return {"W": np.outer(1 - np.tanh(params["W"] @ inputs["x"]) ** 2, inputs["x"])}

    def value(params, inputs):
        return np.sum(np.tanh(params["W"] @ inputs["x"]))

    assert check_gradients(right, value, params, inputs).passed

    def one_entry_wrong(params, inputs):
        found = right(params, inputs)
        found["W"][3, 2] *= 1.001
        return found

    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(one_entry_wrong, value, params, inputs)


def test_references_by_name():
    report = check_gradients(gradients, numpy_loss, PARAMS, INPUTS, references=["differences"])
    assert {row.reference for row in report.rows} == {"differences"}
    report = check_gradients(gradients, loss, PARAMS, INPUTS, references=["torch", "complex step"])
    assert {row.reference for row in report.rows} == {"torch", "complex step"}
    with pytest.raises(UnknownName, match="'autograd'"):
        check_gradients(gradients, loss, PARAMS, INPUTS, references=["autograd"])
    with pytest.raises(NothingFollows, match="not called xp"):
        check_gradients(gradients, numpy_loss, PARAMS, INPUTS, references=["torch"])


OUTPUTS = {
    "an array": (lambda h: h, lambda c: c),
    "a dict": (
        lambda h: {"h": h, "last": h[-1]},
        lambda c: c["h"] + np.outer([0, 0, 0, 1], c["last"]),
    ),
    "a tuple": (lambda h: (h, h[-1]), lambda c: c[0] + np.outer([0, 0, 0, 1], c[1])),
    "a list in a dict": (
        lambda h: {"all": [h, h[0]]},
        lambda c: c["all"][0] + np.outer([1, 0, 0, 0], c["all"][1]),
    ),
}


@pytest.mark.parametrize(("shaped", "gathered"), OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("numpy_alone", [False, True])
def test_cotangents_come_in_the_form_of_the_outputs(shaped, gathered, numpy_alone):
    function = (
        (lambda p, i: shaped(outputs(np, p, i)))
        if numpy_alone
        else (lambda xp, p, i: shaped(outputs(xp, p, i)))
    )
    references = {} if numpy_alone else TORCH
    report = check_vjp(
        lambda p, i, c: vjp(p, i, gathered(c)), function, PARAMS, INPUTS, **references
    )
    assert report.passed
    assert len(report.cases) == (1 if shaped(INPUTS["x"]) is INPUTS["x"] else 3)
    with pytest.raises(GradientMismatch, match="U: differs"):
        check_vjp(
            lambda p, i, c: wrong_in("U", vjp)(p, i, gathered(c)),
            function,
            PARAMS,
            INPUTS,
            **references,
        )


def test_an_output_whose_cotangent_is_forgotten():
    def function(xp, params, inputs):
        h = outputs(xp, params, inputs)
        return {"h": h, "last": h[-1]}

    report = check_vjp(
        lambda p, i, c: vjp(p, i, c["h"]), function, PARAMS, INPUTS, raise_exception=False, **TORCH
    )
    assert [case.passed for case in report.cases] == [False, True, False]
    assert "vjp, output.h alone: 3 comparisons agree" in str(report)


def test_an_unrolled_loss_is_a_loss():
    whole = Unrolled(
        lambda xp, params, inputs: {"h": xp.zeros(3)},
        lambda xp, params, state, at: {
            "h": xp.tanh(params["W"] @ at["x"] + params["U"] @ state["h"] + params["b"])
        },
        lambda xp, params, state, at: xp.sum(state["h"] ** 2) / 2,
    )
    assert whole(np, PARAMS, INPUTS) == pytest.approx(numpy_loss(PARAMS, INPUTS), rel=1e-14)
    assert check_gradients(gradients, whole, PARAMS, INPUTS, **TORCH).passed
    with pytest.raises(GradientMismatch, match="U: differs"):
        check_gradients(wrong_in("U"), whole, PARAMS, INPUTS, **TORCH)


def test_a_failed_check_is_an_assertion_error_a_runtime_error_and_no_question_error():
    with pytest.raises(GradientMismatch) as caught:
        check_gradients(wrong_in("U"), loss, PARAMS, INPUTS, **TORCH)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, RuntimeError)
    assert not isinstance(caught.value, QuestionError)
    report = check_gradients(wrong_in("U"), loss, PARAMS, INPUTS, raise_exception=False, **TORCH)
    assert str(report) == str(caught.value)
    assert report.errors == []


@pytest.mark.parametrize(("factor", "wrong"), [(1, set()), (3, {"a.b"})])
def test_a_key_that_reads_like_a_path_is_another_name(factor, wrong):
    """The key "a.b" beside a nested {"a": {"b": …}}: each is judged by itself."""
    params = {"a.b": np.ones(2), "a": {"b": np.ones(2)}}
    report = check_gradients(
        lambda p, i: {"a.b": np.ones(2), "a": {"b": factor * 2 * p["a"]["b"]}},
        lambda xp, p, i: xp.sum(p["a.b"]) + xp.sum(p["a"]["b"] ** 2),
        params,
        {},
        raise_exception=False,
    )
    assert {row.gradient for row in report.rows} == {"['a.b']", "a.b"}
    assert {row.gradient for row in report.rows if not row.passed} == wrong


def test_two_names_that_read_the_same_are_refused():
    """1 and "1" cannot be told apart in any text."""
    with pytest.raises(BadContract, match="names two arrays"):
        check_gradients(
            lambda p, i: {1: np.ones(2)}, lambda p, i: p[1].sum(), {1: np.ones(2), "1": 1.0}, {}
        )
