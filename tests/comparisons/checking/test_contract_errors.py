"""Whatever the code under test returns, raises, prints or spoils: an error of the right class,
naming the part; no verdict.
"""

import sys

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, QuestionError, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.checking.user_file import checks_in
from bptt_crosscheck.comparisons.errors import (
    BadContract,
    BadFile,
    BadOption,
    CandidateFailed,
    InputsChanged,
    NotRepeatable,
    UnknownName,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

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


class Exploding:
    """An object that says it is an array, and is not."""

    def __array__(self, *args, **kwargs):
        raise ZeroDivisionError("no array here")


ragged, generator = [[1.0], [2.0, 3.0]], (number for number in (1.0, 2.0))

# what is nowhere an array of the right shape
GARBAGE = {
    "None": None,
    "text": "dW",
    "bytes": b"dW",
    "object": object(),
    "function": len,
    "class": float,
    "set": {1.0, 2.0},
    "generator": generator,
    "ragged": ragged,
    "objects": np.array([[None, 1.0]]),
    "strings": np.array(["a", "b"]),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "complex": np.ones((3, 2)) * 1j,
    "exploding": Exploding(),
}
SHAPES = {
    "huge": np.zeros(10**6),
    "flat": np.zeros(6),
    "empty": np.zeros(0),
    "number": 3.5,
    "deep": np.zeros((1,) * 12),
}

every_garbage = pytest.mark.parametrize(
    "garbage", [*GARBAGE.values(), *SHAPES.values()], ids=[*GARBAGE, *SHAPES]
)


def refused(error, *words, of):
    """of() raises this very error, whose text has these words."""
    with pytest.raises(QuestionError) as caught:
        of()
    assert caught.type is error, caught.value
    for word in words:
        assert word in str(caught.value)


def replaced(nest, path, value):
    """The nest with another value at the path; the value itself for the empty path."""
    if not path:
        return value
    key, *rest = path
    if isinstance(nest, tuple):
        return tuple(
            replaced(item, rest, value) if index == key else item for index, item in enumerate(nest)
        )
    return {**nest, key: replaced(nest[key], rest, value)}


def cell_returning(method, path, value):
    """A cell whose method returns what Elman's does, with the value at the path."""
    return spoiled(**{method: lambda *arguments: replaced(elman(method, *arguments), path, value)})


# method, path in what it returns, what the text calls it
CELL_PARTS = (
    ("step", (), "Spoiled.step"),
    ("step", (0,), "Spoiled.step: new_state"),
    ("step", (0, "h"), "Spoiled.step: new_state['h']"),
    ("step_backward", (), "Spoiled.step_backward"),
    ("step_backward", (0,), "Spoiled.step_backward: d_params"),
    ("step_backward", (0, "W"), "Spoiled.step_backward: d_params['W']"),
    ("step_backward", (1,), "Spoiled.step_backward: d_x"),
    ("step_backward", (2,), "Spoiled.step_backward: d_state_prev"),
    ("step_backward", (2, "h"), "Spoiled.step_backward: d_state_prev['h']"),
)


@every_garbage
@pytest.mark.parametrize(
    ("method", "path", "part"), CELL_PARTS, ids=[part for *_, part in CELL_PARTS]
)
def test_garbage_from_a_cell(method, path, part, garbage):
    if part.endswith("d_x") and garbage is None:
        garbage = []  # None is allowed: not given

    refused(
        BadContract,
        part,
        of=lambda: check_cell(cell_returning(method, path, garbage), **SIZES, **TORCH),
    )


@every_garbage
@pytest.mark.parametrize("path", [(), ("W",)], ids=["whole", "W"])
def test_garbage_from_gradients(path, garbage):
    if path and garbage is None:
        garbage = []  # None is allowed: not given

    def spoil(params, inputs):
        return replaced(gradients(params, inputs), path, garbage)

    part = "gradients: W" if path else "gradients return"
    refused(BadContract, part, of=lambda: check_gradients(spoil, loss, PARAMS, INPUTS, **TORCH))


@every_garbage
@pytest.mark.parametrize("path", [(), ("W",)], ids=["whole", "W"])
def test_garbage_from_a_vjp(path, garbage):
    if path and garbage is None:
        garbage = []

    def spoil(params, inputs, cotangents):
        return replaced(vjp(params, inputs, cotangents), path, garbage)

    part = "vjp: W" if path else "vjp return"
    refused(BadContract, part, of=lambda: check_vjp(spoil, outputs, PARAMS, INPUTS, **TORCH))


LOSSES = {
    **GARBAGE,
    "two numbers": np.ones(2),
    "no number": np.zeros(0),
    "dict": {"loss": 1.0},
    "list": [1.0, 2.0],
    "complex number": 1j,
}


@pytest.mark.parametrize("value", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("form", ["xp", "NumPy"])
def test_garbage_from_a_loss(form, value):
    bad = (lambda xp, params, inputs: value) if form == "xp" else (lambda params, inputs: value)
    references = TORCH if form == "xp" else {}
    refused(
        BadContract,
        "loss",
        of=lambda: check_gradients(gradients, bad, PARAMS, INPUTS, **references),
    )


OUTPUTS = {name: value for name, value in GARBAGE.items() if name != "ragged"} | {
    "no output": {},
    "no item": (),
    "Nones": [None, None],
}


@pytest.mark.parametrize("value", OUTPUTS.values(), ids=OUTPUTS)
def test_garbage_from_a_function_without_loss(value):
    refused(
        BadContract,
        "function",
        of=lambda: check_vjp(vjp, lambda params, inputs: value, PARAMS, INPUTS),
    )


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(max_size=3),
        st.binary(max_size=3),
        st.integers(),
        st.floats(),
        st.complex_numbers(),
        st.datetimes(),
        st.sampled_from([*GARBAGE.values(), *SHAPES.values()]),
        npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_dims=3, max_side=2)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from(["W", "U", "h", "x", "q"]), inner, max_size=2),
    ),
    max_leaves=4,
)  # sides of at most 2: never the shape (3, 2) of W or (2, 3) of h
fuzz = settings(max_examples=30, deadline=None, derandomize=True)


@fuzz
@given(
    part=st.sampled_from([part for part in CELL_PARTS if part[2] != "Spoiled.step_backward: d_x"]),
    value=anything,
)
def test_fuzzed_cell(part, value):
    with pytest.raises(QuestionError):
        check_cell(cell_returning(part[0], part[1], value), **SIZES, **TORCH)


@fuzz
@given(value=anything)
def test_fuzzed_gradients(value):
    with pytest.raises(QuestionError):
        check_gradients(lambda params, inputs: value, loss, PARAMS, INPUTS, **TORCH)


@fuzz
@given(value=anything)
def test_fuzzed_vjp(value):
    with pytest.raises(QuestionError):
        check_vjp(lambda params, inputs, cotangents: {"W": value}, outputs, PARAMS, INPUTS, **TORCH)


@fuzz
@given(
    size=st.one_of(st.integers(-3, 3), anything.filter(lambda value: not isinstance(value, int)))
)
def test_fuzzed_shapes(size):
    """Shapes that are none are refused; others do not fit the step, which does not find its U."""
    with pytest.raises(QuestionError):
        check_cell(spoiled(parameter_shapes=lambda *_: {"W": size}), **SIZES, **TORCH)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: {"W": d["W"]}, ("lacks U", "its keys are W, U")),
        (lambda d: {**d, "V": d["W"]}, ("has the unknown V", "its keys are W, U")),
        (lambda d: {"dW": d["W"], "dU": d["U"]}, ("lacks W, U", "has the unknown dW, dU")),
        (lambda d: {}, ("lacks W, U",)),
        (lambda d: {**d, "W": d["W"].T}, ("has the shape (2, 3), where (3, 2) belongs",)),
        (lambda d: {**d, "W": d["W"][None]}, ("has the shape (1, 3, 2), where (3, 2) belongs",)),
    ],
)
def test_keys_and_shapes_of_a_cell(change, words):
    def step_backward(*arguments):
        d_params, d_x, d_state_prev = elman("step_backward", *arguments)
        return change(d_params), d_x, d_state_prev

    refused(
        BadContract,
        "step_backward: d_params",
        *words,
        of=lambda: check_cell(spoiled(step_backward=step_backward), **SIZES),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: {f"d{name}": value for name, value in d.items()},
            ("gradients returned dW, dU, db", "there are W, U, b, x"),
        ),
        (lambda d: {**d, "V": d["W"]}, ("gradients returned V", "there are W, U, b, x")),
        (lambda d: {0: d["W"]}, ("gradients returned 0",)),
        (lambda d: {}, ("gradients returned no gradient", "W, U, b")),
        (lambda d: dict.fromkeys(d), ("gradients returned no gradient",)),
        (
            lambda d: tuple(d.values())[:2],
            ("gradients returned 2 gradients for 3 params (W, U, b)",),
        ),
        (lambda d: [*d.values(), 1.0], ("gradients returned 4 gradients for 3 params",)),
        (
            lambda d: {**d, "W": d["W"].T},
            ("gradients: W has the shape (2, 3), where (3, 2) belongs",),
        ),
        (
            lambda d: {**d, "b": d["b"][:, None]},
            ("gradients: b has the shape (3, 1), where (3,) belongs",),
        ),
    ],
)
def test_keys_and_shapes_of_gradients(change, words):
    refused(
        BadContract,
        *words,
        of=lambda: check_gradients(
            lambda p, i: change(gradients(p, i)), loss, PARAMS, INPUTS, **TORCH
        ),
    )


def test_a_tuple_that_is_too_short_is_told_by_its_length():
    cell = spoiled(step=lambda *arguments: (elman("step", *arguments)[0],))
    refused(
        BadContract,
        "Spoiled.step returns (new_state, cache)",
        "1",
        of=lambda: check_cell(cell, **SIZES, **TORCH),
    )


def test_lists_stand_for_tuples_and_for_arrays():
    def step_backward(*arguments):
        d_params, d_x, d_state_prev = elman("step_backward", *arguments)
        return [
            {name: value.tolist() for name, value in d_params.items()},
            d_x.tolist(),
            {"h": d_state_prev["h"].tolist()},
        ]

    assert check_cell(
        spoiled(step=lambda *a: list(elman("step", *a)), step_backward=step_backward),
        **SIZES,
        **TORCH,
    ).passed


SHAPE_ANSWERS = {
    "None": None,
    "nothing": {},
    "a list": [(3, 2)],
    "text": {"W": "3"},
    "zero": {"W": (0, 2)},
    "negative": {"W": (-3, 2)},
    "fraction": {"W": (1.5, 2)},
    "no shape": {"W": None},
    "an array": {"W": np.zeros((3, 2))},
}


@pytest.mark.parametrize("value", SHAPE_ANSWERS.values(), ids=SHAPE_ANSWERS)
@pytest.mark.parametrize("method", ["parameter_shapes", "state_shapes"])
def test_shapes_that_are_none(method, value):
    refused(
        BadContract,
        f"Spoiled.{method}",
        of=lambda: check_cell(spoiled(**{method: lambda *_: value}), **SIZES, **TORCH),
    )


@pytest.mark.parametrize("method", ["parameter_shapes", "state_shapes"])
def test_shapes_too_large_for_any_memory(method):
    refused(
        BadContract,
        "Spoiled",
        of=lambda: check_cell(
            spoiled(**{method: lambda *_: {"W": (10**7, 10**7)}}), **SIZES, **TORCH
        ),
    )


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "⟮x⟯", 0, None])
def test_a_name_that_is_no_printable_text(name):
    cell = spoiled(parameter_shapes=lambda n, h: {name: (h, n)})
    refused(BadContract, "parameter_shapes", "name", of=lambda: check_cell(cell, **SIZES, **TORCH))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, ("parameter_shapes, state_shapes, step, step_backward",)),
        ("Elman", ("str lacks parameter_shapes",)),
        (
            type("Half", (), {"step": len, "parameter_shapes": len})(),
            ("Half lacks state_shapes, step_backward",),
        ),
        (
            type("Half", (), {"step_backward": 3})(),
            ("Half lacks parameter_shapes, state_shapes, step, step_backward",),
        ),
    ],
)
def test_not_a_cell(cell, words):
    refused(BadContract, *words, of=lambda: check_cell(cell))


class Private(BaseException):
    pass


def raising(error):
    def spoil(*_):
        raise error

    return spoil


def recursing(*arguments):
    return recursing(*arguments)


def leaving(*_):
    sys.exit(0)


def flooding(*_):
    """Would go on for ever; gives up after a hundred million characters, so that the tests end
    when nobody stops it.
    """
    for _ in range(1000):
        print("x" * 100_000)
    raise Private("nobody stopped it")


FAILURES = {
    "KeyError": (raising(KeyError("h")), "raised KeyError: 'h' at test_contract_errors.py:"),
    "MemoryError": (raising(MemoryError()), "raised MemoryError"),
    "AssertionError": (raising(AssertionError("no")), "raised AssertionError: no"),
    "GradientMismatch": (raising(GradientMismatch("no")), "raised GradientMismatch: no"),
    "StopIteration": (raising(StopIteration()), "raised StopIteration"),
    "BaseException": (raising(Private("mine")), "raised Private: mine"),
    "RecursionError": (recursing, "raised RecursionError"),
    "sys.exit": (leaving, "left the interpreter (sys.exit) at test_contract_errors.py:"),
    "endless print": (flooding, "raised OutputFlood: it printed more than 10,000,000 characters"),
}
every_failure = pytest.mark.parametrize(("fail", "words"), FAILURES.values(), ids=FAILURES)


@every_failure
@pytest.mark.parametrize("method", ["parameter_shapes", "state_shapes", "step", "step_backward"])
def test_a_cell_that_fails(method, fail, words):
    refused(
        CandidateFailed,
        f"Spoiled.{method} {words}",
        of=lambda: check_cell(spoiled(**{method: fail}), **SIZES, **TORCH),
    )


FAILING = {
    "gradients": lambda fail: check_gradients(lambda p, i: fail(), numpy_loss, PARAMS, INPUTS),
    "loss": lambda fail: check_gradients(gradients, lambda p, i: fail(), PARAMS, INPUTS),
    "setup": lambda fail: check_gradients(gradients, numpy_loss, PARAMS, INPUTS, setup=fail),
    "vjp": lambda fail: check_vjp(lambda p, i, c: fail(), outputs, PARAMS, INPUTS, **TORCH),
    "function": lambda fail: check_vjp(vjp, lambda p, i: fail(), PARAMS, INPUTS),
}


@every_failure
@pytest.mark.parametrize("part", FAILING)
def test_a_function_that_fails(part, fail, words):
    refused(CandidateFailed, f"{part} {words}", of=lambda: FAILING[part](fail))


def test_an_interrupt_by_hand_goes_through():
    with pytest.raises(KeyboardInterrupt):
        check_cell(spoiled(step=raising(KeyboardInterrupt())), **SIZES, **TORCH)


def test_what_it_prints_goes_to_standard_error(capfd):
    def chatty(*arguments):
        print("at step")
        return elman("step", *arguments)

    assert check_cell(spoiled(step=chatty), **SIZES, **TORCH).passed
    out, err = capfd.readouterr()
    assert out == ""
    assert "at step" in err


def writing(where):
    """Something that doubles, in place, the array found by where(arguments)."""

    def write(*arguments):
        where(*arguments).__imul__(2)

    return write


@pytest.mark.parametrize(
    ("method", "where", "name"),
    [
        ("step", lambda xp, params, state, x: x, "'x'"),
        ("step", lambda xp, params, state, x: params["W"], "'W'"),
        ("step", lambda xp, params, state, x: state["h"], "'h'"),
        ("step_backward", lambda params, cache, d_state: params["U"], "'U'"),
        ("step_backward", lambda params, cache, d_state: d_state["h"], "'h'"),
    ],
)
def test_a_cell_that_writes_into_what_it_is_given(method, where, name):
    def spoil(*arguments):
        where(*arguments).__imul__(2)
        return elman(method, *arguments)

    refused(
        InputsChanged,
        f"Spoiled.{method} writes into",
        name,
        of=lambda: check_cell(spoiled(**{method: spoil}), **SIZES, **TORCH),
    )


def after(write, function):
    def spoil(*arguments):
        write(*arguments)
        return function(*arguments)

    return spoil


def test_functions_that_write_into_what_they_are_given():
    first, inputs, last = (
        writing(lambda p, *_: p["W"]),
        writing(lambda p, i, *_: i["x"]),
        writing(lambda p, i, c: c),
    )
    refused(
        InputsChanged,
        "gradients",
        "'W'",
        of=lambda: check_gradients(after(first, gradients), numpy_loss, PARAMS, INPUTS),
    )
    refused(
        InputsChanged,
        "gradients",
        "'x'",
        of=lambda: check_gradients(after(inputs, gradients), numpy_loss, PARAMS, INPUTS),
    )
    refused(
        InputsChanged,
        "vjp",
        "'x'",
        of=lambda: check_vjp(after(inputs, vjp), outputs, PARAMS, INPUTS, **TORCH),
    )
    refused(
        InputsChanged,
        "vjp",
        "cotangent",
        of=lambda: check_vjp(after(last, vjp), outputs, PARAMS, INPUTS, **TORCH),
    )

    def loss_in_place(params, inputs):
        inputs["x"] *= 2
        return numpy_loss(params, inputs)

    refused(
        InputsChanged,
        "loss",
        "'x'",
        of=lambda: check_gradients(gradients, loss_in_place, PARAMS, INPUTS),
    )


def test_what_was_given_is_never_changed():
    params, inputs = (
        {name: value.copy() for name, value in PARAMS.items()},
        {"x": INPUTS["x"].copy()},
    )

    def greedy(params, inputs):
        found = gradients(params, inputs)
        params["W"][:] = 0
        inputs["x"][:] = 0
        params.clear()
        return found

    report = check_gradients(greedy, loss, params, inputs, raise_exception=False, **TORCH)
    assert not report.passed
    assert all((params[name] == value).all() for name, value in PARAMS.items())
    assert (inputs["x"] == INPUTS["x"]).all()


def growing(function):
    """Something that answers more each time."""
    calls = []

    def spoil(*arguments):
        calls.append(1)
        answer = function(*arguments)
        return (
            {name: value * len(calls) for name, value in answer.items()}
            if isinstance(answer, dict)
            else answer * len(calls)
        )

    return spoil


def random(function):
    """Something that draws random numbers."""
    rng = np.random.default_rng(0)
    return lambda *arguments: {
        name: value + rng.normal(size=value.shape) for name, value in function(*arguments).items()
    }


@pytest.mark.parametrize("spoil", [growing, random])
def test_answers_that_do_not_repeat(spoil):
    def step_backward(*arguments):
        d_params, d_x, d_state_prev = elman("step_backward", *arguments)
        return d_params, d_x, wrong(d_state_prev)

    wrong = spoil(lambda d_state_prev: d_state_prev)
    words = ("asked twice", "setup=")
    refused(
        NotRepeatable,
        *words,
        of=lambda: check_cell(spoiled(step_backward=step_backward), **SIZES, **TORCH),
    )
    refused(
        NotRepeatable,
        "gradient W",
        *words,
        of=lambda: check_gradients(spoil(gradients), numpy_loss, PARAMS, INPUTS),
    )
    refused(
        NotRepeatable,
        "gradient W",
        *words,
        of=lambda: check_vjp(spoil(vjp), outputs, PARAMS, INPUTS, **TORCH),
    )


def test_a_loss_that_does_not_repeat():
    refused(
        NotRepeatable,
        "the loss",
        of=lambda: check_gradients(gradients, growing(numpy_loss), PARAMS, INPUTS),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_a_gradient_that_is_not_finite_or_beyond_measure_is_wrong(value):
    reason = "b: differs" if value == 1e308 else "b: not finite"

    def spoil(params, inputs):
        return {**gradients(params, inputs), "b": np.full(3, value)}

    with pytest.raises(GradientMismatch, match=reason):
        check_gradients(spoil, loss, PARAMS, INPUTS, **TORCH)
    with pytest.raises(GradientMismatch, match=reason):
        check_gradients(spoil, numpy_loss, PARAMS, INPUTS)
    with pytest.raises(GradientMismatch, match=reason):
        check_vjp(
            lambda p, i, c: {**vjp(p, i, c), "b": np.full(3, value)},
            outputs,
            PARAMS,
            INPUTS,
            **TORCH,
        )


NOT_FINITE = (
    ((0, "W"), (3, 2), np.nan, "W"),
    ((0, "W"), (3, 2), np.inf, "W"),
    ((0, "W"), (3, 2), 1e308, "W"),
    ((1,), (2, 2), np.nan, "x"),
    ((1,), (2, 2), np.inf, "x"),
    ((1,), (2, 2), 1e308, "x"),
    ((2, "h"), (2, 3), np.nan, "h_0"),
)


@pytest.mark.parametrize(("path", "shape", "value", "name"), NOT_FINITE)
def test_so_it_is_from_a_cell(path, shape, value, name):
    with pytest.raises(GradientMismatch, match=f"{name}: (differs|not finite)"):
        check_cell(cell_returning("step_backward", path, np.full(shape, value)), **SIZES, **TORCH)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_of_one_number_is_a_scalar(shape):
    assert check_gradients(
        gradients, lambda xp, p, i: xp.reshape(loss(xp, p, i), shape), PARAMS, INPUTS, **TORCH
    ).passed
    assert check_gradients(
        gradients,
        lambda params, inputs: np.reshape(numpy_loss(params, inputs), shape),
        PARAMS,
        INPUTS,
    ).passed


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("references", [["torch"], ["jax"], None])
def test_a_loss_that_cuts_the_graph_is_no_reason_to_call_a_gradient_wrong(references):
    """float(…) of a tensor is a number without history: no reference can say anything."""
    with pytest.raises(QuestionError):
        check_gradients(
            gradients, lambda xp, p, i: float(loss(xp, p, i)), PARAMS, INPUTS, references=references
        )


def test_a_loss_with_another_name_for_its_namespace_is_told_the_right_one():
    refused(
        BadContract,
        "xp",
        of=lambda: check_gradients(gradients, lambda np, p, i: loss(np, p, i), PARAMS, INPUTS),
    )


@pytest.mark.parametrize(
    ("params", "inputs", "words"),
    [
        ([1.0], INPUTS, ("params is a dict of name → array, not a list",)),
        (None, INPUTS, ("params is a dict", "None")),
        (PARAMS, INPUTS["x"], ("inputs is a dict", "ndarray")),
        (PARAMS, None, ("inputs is a dict", "None")),
        ({}, INPUTS, ("params holds no array",)),
        ({"W": "text", "n": None}, INPUTS, ("params holds no array",)),
        (PARAMS, {"x": INPUTS["x"], "W": 1.0}, ("W is both among params and among inputs",)),
    ],
)
def test_params_and_inputs_that_are_none(params, inputs, words):
    refused(BadContract, *words, of=lambda: check_gradients(gradients, loss, params, inputs))
    refused(BadContract, *words, of=lambda: check_vjp(vjp, outputs, params, inputs))


@pytest.mark.parametrize(
    "whole", [np.array([1, 2]), np.array([1j, 2j])], ids=["integers", "complex numbers"]
)
def test_a_wrong_gradient_of_numbers_that_are_not_floating_point_does_not_pass(whole):
    """Weights written as 1 and 2 are weights; what was returned for them is judged, or refused,
    but never dropped.
    """

    def wrong(params, _):
        return {"w": np.array([5.0, 7.0]), "u": np.cos(params["u"])}

    def value(params, inputs):
        return np.sum(np.sin(params["u"])) + np.real(np.sum(params["w"] * inputs["x"]))

    with pytest.raises((QuestionError, GradientMismatch), match="w"):
        check_gradients(
            wrong, value, {"w": whole, "u": np.array([0.3])}, {"x": np.array([1.0, -1.0])}
        )


ASKED_WITHOUT_RAISING = {
    "a function that fails": (
        CandidateFailed,
        lambda: check_vjp(vjp, raising(KeyError("q")), PARAMS, INPUTS, raise_exception=False),
    ),
    "a function that returns nothing": (
        BadContract,
        lambda: check_vjp(vjp, lambda p, i: None, PARAMS, INPUTS, raise_exception=False),
    ),
    "a cell that is none": (BadContract, lambda: check_cell(None, raise_exception=False)),
    "a loss that fails": (
        CandidateFailed,
        lambda: check_gradients(
            gradients, raising(KeyError()), PARAMS, INPUTS, raise_exception=False
        ),
    ),
    "an unknown reference": (
        UnknownName,
        lambda: check_cell(Elman(), references=["tensorflow"], raise_exception=False),
    ),
    "params that are none": (
        BadContract,
        lambda: check_gradients(gradients, loss, None, INPUTS, raise_exception=False),
    ),
}


@pytest.mark.parametrize(
    ("error", "ask"), ASKED_WITHOUT_RAISING.values(), ids=ASKED_WITHOUT_RAISING
)
def test_on_request_the_report_says_what_would_have_been_raised(error, ask):
    report = ask()
    assert not report.passed
    assert [type(found) for found in report.errors] == [error]
    assert str(report).startswith(error.__name__)
    assert report.to_dict()["errors"][0]["error"] == error.__name__


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", None])
def test_sizes_that_are_none(name, value):
    refused(BadOption, name, of=lambda: check_cell(Elman(), **{**SIZES, name: value}))


@pytest.mark.parametrize("seed", [-1, 1.5, "one", None])
def test_seeds_that_are_none(seed):
    refused(BadOption, "seed", of=lambda: check_cell(Elman(), seed=seed, **SIZES, **TORCH))
    refused(
        BadOption,
        "seed",
        of=lambda: check_gradients(gradients, numpy_loss, PARAMS, INPUTS, seed=seed),
    )


@pytest.mark.parametrize("references", [["tensorflow"], ["torch", "tensorflow"], "tensorflow"])
def test_references_that_do_not_exist(references):
    refused(
        UnknownName,
        "'tensorflow'",
        "torch, jax",
        of=lambda: check_cell(Elman(), references=references, **SIZES),
    )


FILES = {
    "nothing to check": ("x = 1\n", BadFile, "holds nothing to check"),
    "fails while it runs": (
        "x = 1\nprint(x / 0)\n",
        CandidateFailed,
        "raised ZeroDivisionError: division by zero at file.py:2",
    ),
    "no Python": ("def f(:\n", CandidateFailed, "raised SyntaxError"),
    "leaves": ("import sys\nsys.exit(0)\n", CandidateFailed, "left the interpreter"),
    "floods": ("for _ in range(2000): print('x' * 9999)\n", CandidateFailed, "printed more than"),
    "without example": (
        "def loss(p, i): 0\ndef gradients(p, i): 0\n",
        BadContract,
        "no example() -> (params, inputs)",
    ),
    "no vjp": ("def function(p, i): 0\ndef example(): 0\n", BadFile, "holds nothing to check"),
}


@pytest.mark.parametrize(("text", "error", "words"), FILES.values(), ids=FILES)
def test_files_that_hold_nothing_to_check(text, error, words, tmp_path):
    path = tmp_path / "file.py"
    path.write_text(text)
    refused(error, words, of=lambda: checks_in(str(path), {}, {}))


def test_files_that_are_not_there(tmp_path):
    refused(
        BadFile, "nowhere.py: there is no such file", of=lambda: checks_in("nowhere.py", {}, {})
    )
    refused(BadFile, "there is no such file", of=lambda: checks_in(str(tmp_path), {}, {}))
    refused(
        BadFile,
        "nowhere.py: there is no such file",
        of=lambda: checks_in("nowhere.py:Cell", {}, {}),
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Other", "has no 'Other'; it has sys, Cell"),
        ("sys", "sys is no cell: it lacks step or step_backward"),
    ],
)
def test_names_that_are_no_cell_in_the_file(name, words, tmp_path):
    (tmp_path / "file.py").write_text(
        "import sys\nclass Cell:\n    def step(self): 0\n    def step_backward(self): 0\n"
    )
    refused(BadFile, words, of=lambda: checks_in(f"{tmp_path / 'file.py'}:{name}", {}, {}))


@pytest.mark.parametrize("returned", ["None", "{}", "({},)", "({'w': 1.0}, {}, 3)", "'text'"])
def test_an_example_that_is_none(returned, tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        f"def loss(p, i): return 0\ndef gradients(p, i): return {{}}\ndef example(): return "
        f"{returned}\n"
    )
    [check] = checks_in(str(path), {}, {})
    refused(BadContract, "example returns (params, inputs)", of=check)


def test_a_cell_in_a_file_that_cannot_be_made(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        "class Cell:\n    def __init__(self, size): 0\n    def step(self): 0\n    def "
        "step_backward(self): 0\n"
    )
    [check] = checks_in(str(path), {}, {})
    refused(CandidateFailed, "Cell() raised TypeError", of=check)
