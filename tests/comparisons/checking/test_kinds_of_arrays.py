"""Whatever kind of array stands among params, inputs, outputs or gradients: it runs, or a line
says what to give instead; and what runs can still be wrong.
"""

import array
from collections import deque
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from bptt_crosscheck import check_cell, check_gradients, check_vjp, from_jax, from_torch
from bptt_crosscheck.comparisons.errors import BadContract, QuestionError

from tests.comparisons.small import SIZES, TORCH, Elman, spoiled

ONES = np.arange(1.0, 7.0).reshape(2, 3) / 4  # exact in every precision
RUN = {
    "big-endian": ONES.astype(">f8"),
    "big-endian float32": ONES.astype(">f4"),
    "float32": ONES.astype("f4"),
    "float16": ONES.astype("f2"),
    "bfloat16": ONES.astype(ml_dtypes.bfloat16),
    "longdouble": ONES.astype(np.longdouble),
    "Fortran": np.asfortranarray(ONES),
    "negative strides": ONES[::-1, ::-1],
    "every second": np.repeat(ONES, 2, axis=1)[:, ::2],
    "0-d": np.array(1.5),
    "a NumPy number": np.float64(1.5),
    "a number": 1.5,
    "zero-size": np.zeros((0, 3)),
    "a column without rows": np.zeros((2, 0)),
    "read-only": np.broadcast_to(ONES[:1], (2, 3)),
    "torch": torch.tensor(ONES),
    "torch float32": torch.tensor(ONES).float(),
    "torch bfloat16": torch.tensor(ONES).bfloat16(),
    "torch with a graph": torch.tensor(ONES, requires_grad=True),
    "a torch parameter": torch.nn.Parameter(torch.tensor(ONES)),
    "jax": jax.numpy.asarray(ONES),
    "jax bfloat16": jax.numpy.asarray(ONES, dtype="bfloat16"),
}
WHOLE = {
    "big-endian integers": np.arange(6).reshape(2, 3).astype(">i4"),
    "bytes": np.arange(6, dtype="u1").reshape(2, 3),
    "unsigned": np.arange(6, dtype="u8").reshape(2, 3),
    "booleans": np.eye(2, 3) > 0,
    "an integer": 3,
    "a NumPy integer": np.int16(3),
    "torch integers": torch.arange(6).reshape(2, 3),
    "jax integers": jax.numpy.arange(6).reshape(2, 3),
}
REFUSED = {
    "masked": (np.ma.masked_array(ONES, mask=ONES > 1), "masked array"),
    "a matrix": (ONES.view(np.matrix), "is a matrix"),
    "records": (np.zeros(2, dtype=[("a", "f8")]).view(np.recarray), "is a recarray"),
    "without numbers": (torch.ones(2, 3, device="meta"), "no numbers"),
    "sparse": (torch.eye(3).to_sparse(), "no numbers"),
    "keys": (jax.random.key(0), "no numbers"),
}
REFUSED_AS_PARAMS = REFUSED | {
    "objects": (ONES.astype(object), "array of object"),
    "structured": (np.zeros(2, dtype=[("a", "f8")]), "array of"),
    "dates": (np.zeros(2, dtype="M8[s]"), "array of datetime64"),
    "texts": (np.array(["a"]), "array of <U1"),
    "eight bits": (ONES.astype(ml_dtypes.float8_e4m3fn), "array of float8"),
    "integers": (np.ones(3, dtype=int), "no array of real floating-point numbers"),
    "complex": (ONES * 1j, "no array of real floating-point numbers"),
    "a buffer": (array.array("d", [1.0, 2.0]), "give it as a NumPy array"),
    "a set": ({1.0, 2.0}, "is a set: give its arrays in a dict or a list"),
    "a deque": (deque([ONES]), "is a deque: give its arrays"),
    "an object": (SimpleNamespace(W=ONES), "is a SimpleNamespace: give its arrays"),
}


def loss(xp, params, inputs):
    return xp.sum(params["W"] * params["W"] * inputs["x"])


def numpy_loss(params, inputs):
    return np.sum(np.square(as_numpy(params["W"])) * as_numpy(inputs["x"]))


def as_numpy(value):
    """The numbers of anything, in float64."""
    plain = value.detach().double() if isinstance(value, torch.Tensor) else value
    return np.asarray(plain).astype(np.float64)


def gradients(factor):
    def derived(params, inputs):
        x = as_numpy(inputs["x"])
        return {"W": factor * 2 * as_numpy(params["W"]) * x}

    return derived


def asked(derived, loss, params, inputs, **options):
    return check_gradients(derived, loss, params, inputs, **options, raise_exception=False)


@pytest.mark.parametrize("references", ["torch", "jax", "complex step", "differences"])
@pytest.mark.parametrize("kind", RUN)
def test_a_parameter(kind, references):
    given = RUN[kind]
    like = np.ones(np.shape(given))
    params, inputs = {"W": given, "V": np.ones(2)}, {"x": like}

    def with_another(xp, params, inputs):
        return loss(xp, params, inputs) + xp.sum(params["V"])

    def derived(factor):
        return lambda p, i: {**gradients(factor)(p, i), "V": np.ones(2)}

    report = asked(derived(1), with_another, params, inputs, references=references)
    assert report.passed, report
    report = asked(derived(2), with_another, params, inputs, references=references)
    assert {row.gradient for row in report.rows if not row.passed} == (
        {"W"} if like.size else set()
    )


@pytest.mark.parametrize("kind", [*RUN, *WHOLE])
def test_an_input(kind):
    given = (RUN | WHOLE)[kind]
    params, inputs = {"W": np.full(np.shape(given), 0.5), "V": np.ones(2)}, {"x": given}

    def with_another(xp, params, inputs):
        return loss(xp, params, inputs) + xp.sum(params["V"] ** 2)

    def derived(factor):
        return lambda p, i: {**gradients(factor)(p, i), "V": 2 * p["V"]}

    right, wrong = (asked(derived(f), with_another, params, inputs, **TORCH) for f in (1, 2))
    assert right.passed, right
    assert wrong.passed == (np.size(as_numpy(given)) == 0)
    assert asked(gradients(1), numpy_loss, {"W": params["W"]}, inputs).errors == [] or kind in (
        "zero-size",
        "a column without rows",
    )


@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED)
def test_inputs_that_could_only_be_misread(given, words):
    with pytest.raises(BadContract, match=words) as caught:
        check_gradients(gradients(1), loss, {"W": ONES}, {"x": ONES, "k": given}, **TORCH)
    assert "inputs: k" in str(caught.value)


@pytest.mark.parametrize(("given", "words"), REFUSED_AS_PARAMS.values(), ids=REFUSED_AS_PARAMS)
def test_params_that_would_be_passed_by_in_silence(given, words):
    with pytest.raises(BadContract, match=words):
        check_gradients(gradients(1), loss, {"W": given}, {"x": ONES}, **TORCH)


def test_what_is_no_array_stays_as_it_is():
    """Among inputs: names, options, objects; to the code under test as to the references."""
    odd = {
        "names": np.array(["a", "b"]),
        "objects": np.array([None, len], dtype=object),
        "text": "tanh",
        "nothing": None,
        "function": abs,
        "set": {1, 2},
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
    }

    def reads(xp, params, inputs):
        assert inputs["names"][1] == "b"
        assert inputs["objects"][1] is len
        assert inputs["set"] == {1, 2}
        return loss(xp, params, inputs)

    assert check_gradients(gradients(1), reads, {"W": ONES}, {"x": ONES, **odd}, **TORCH).passed


@pytest.mark.parametrize("kind", ["torch", "torch with a graph", "jax", "big-endian"])
def test_the_code_under_test_gets_what_was_given(kind):
    given, seen = RUN[kind], []

    def derived(params, inputs):
        seen.append((type(params["W"]), str(params["W"].dtype), type(inputs["x"])))
        return gradients(1)(params, inputs)

    assert check_gradients(derived, loss, {"W": given}, {"x": given}, **TORCH).passed
    assert (type(given), str(given.dtype), type(given)) in seen


def test_torch_code_on_tensors():
    def derived(params, inputs):
        weight = params["W"].clone()
        return {"W": 2 * weight * inputs["x"]}  # requires a gradient itself

    params = {"W": torch.tensor(ONES, requires_grad=True)}
    assert check_gradients(derived, loss, params, {"x": torch.tensor(ONES)}).passed


@pytest.mark.parametrize("kind", ["big-endian", "negative strides", "torch", "jax", "float32"])
@pytest.mark.parametrize("adapter", [from_torch, from_jax])
def test_adapters(kind, adapter):
    derived = adapter(lambda p, i: (p["W"] * p["W"] * i["x"]).sum())
    assert check_gradients(derived, loss, {"W": RUN[kind]}, {"x": ONES}, **TORCH).passed
    assert check_gradients(derived, loss, {"W": ONES}, {"x": RUN[kind]}, **TORCH).passed


RETURNED = {
    "big-endian": lambda value: value.astype(">f8"),
    "longdouble": lambda value: value.astype(np.longdouble),
    "Fortran": np.asfortranarray,
    "a matrix": lambda value: value.view(np.matrix),
    "a list": lambda value: value.tolist(),
    "torch": torch.tensor,
    "torch with a graph": lambda value: torch.tensor(value, requires_grad=True),
    "jax": jax.numpy.asarray,
}


@pytest.mark.parametrize("turned", RETURNED.values(), ids=RETURNED)
@pytest.mark.parametrize("factor", [1, 3])
def test_returned_gradients(turned, factor):
    """0.5 and 1.5 in every precision: jax here is float32."""

    def derived(params, inputs):
        return {"W": turned(gradients(factor)(params, inputs)["W"])}

    report = asked(derived, loss, {"W": np.ones((2, 2)) / 4}, {"x": np.eye(2)}, **TORCH)
    assert report.errors == []
    assert report.passed == (factor == 1)


@pytest.mark.parametrize(
    "returned",
    [ONES.astype(object), ONES * 1j, np.ma.masked_array(ONES), np.array(["a"]), torch.ones(3).to_sparse(), np.zeros(2, dtype="M8[s]"), {1.0}, range(2), 1j, [[1.0], [1.0, 2.0]], abs],
)  # fmt: skip
@pytest.mark.parametrize("place", ["gradient", "output", "loss", "state", "d_x"])
def test_what_is_returned_and_cannot_be_compared(returned, place):
    ask = {
        "gradient": lambda: check_gradients(
            lambda p, i: {"W": returned}, loss, {"W": ONES}, {"x": ONES}, **TORCH
        ),
        "output": lambda: check_vjp(
            lambda p, i, c: {"W": c}, lambda xp, p, i: returned, {"W": ONES}, {}, **TORCH
        ),
        "loss": lambda: check_gradients(
            gradients(1), lambda xp, p, i: returned, {"W": ONES}, {"x": ONES}, **TORCH
        ),
        "state": lambda: check_cell(
            spoiled(step=lambda *a: ({"h": returned}, None)), **SIZES, **TORCH
        ),
        "d_x": lambda: check_cell(
            spoiled(step_backward=lambda *a: (Elman().step_backward(*a)[0], returned, {"h": 0})),
            **SIZES,
            **TORCH,
        ),
    }[place]
    with pytest.raises(QuestionError) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_initial_values_in_any_byte_order():
    class Drawn(Elman):
        def initialise(self, rng, input_size, hidden_size, batch):
            return {
                "U": np.eye(hidden_size, dtype=">f8"),
                "h_0": np.ones((batch, hidden_size), ">i2"),
            }

    assert check_cell(Drawn(), **SIZES).passed


def test_an_integer_by_itself_stays_one():
    """It sizes a list, say, which no array can do."""

    def reads(xp, params, inputs):
        return sum([loss(xp, params, inputs)] * inputs["n"])

    params = {"W": ONES, "m": 2}
    report = check_gradients(
        lambda p, i: {"W": p["m"] * 2 * p["W"]}, reads, params, {"x": np.ones((2, 3)), "n": 2}
    )
    assert report.passed


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"a\nb": ONES}, "cannot be printed"),
        ({1: ONES, "1": ONES}, "names two arrays"),
        ({"W": []}, "no array of real"),
    ],
)
def test_names_that_cannot_be_told(params, words):
    with pytest.raises(BadContract, match=words):
        check_gradients(gradients(1), loss, params, {"x": ONES}, **TORCH)


def test_a_nest_that_holds_itself():
    items = [ONES]
    items.append(items)
    with pytest.raises(BadContract, match="nested too deeply, or holds itself"):
        check_gradients(gradients(1), loss, {"W": ONES}, {"x": ONES, "k": items}, **TORCH)
