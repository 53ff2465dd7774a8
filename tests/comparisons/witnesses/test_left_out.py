"""References that are named and missing, and operations that one of them cannot follow: left out
by name, never failed.
"""

import json
import sys

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons import command_line
from bptt_crosscheck.comparisons.errors import MissingFramework, NothingFollows

from tests.comparisons.small import (
    INPUTS,
    PARAMS,
    SIZES,
    Elman,
    elman,
    gradients,
    loss,
    outputs,
    spoiled,
    vjp,
)

ASKED = {"references": ["torch", "proof"]}
INSTALL = "reference 'proof' needs python-flint, which cannot be imported: pip install python-flint"
CHECKS = {
    "check_cell": lambda **more: check_cell(Elman(), **SIZES, **more),
    "check_gradients": lambda **more: check_gradients(gradients, loss, PARAMS, INPUTS, **more),
    "check_vjp": lambda **more: check_vjp(vjp, outputs, PARAMS, INPUTS, **more),
}
every_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)


@pytest.fixture
def no_proof(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    monkeypatch.delitem(sys.modules, "bptt_crosscheck.reference.numeric.interval", raising=False)


@every_check
def test_the_others_are_asked_and_nobody_believes_in_a_proof(no_proof, check):
    found = check(**ASKED, raise_exception=False)
    assert all(case.passed for case in found.cases)
    assert {row.reference for row in found.rows} == {"torch"}
    assert str(found.cases[0].left_out["proof"]).startswith(INSTALL)
    assert [type(error) for error in found.errors] == [MissingFramework]
    assert not found.passed
    assert f"left out: proof: {INSTALL}" in str(found)
    with pytest.raises(
        MissingFramework, match="pip install python-flint .*the other references were asked"
    ):
        check(**ASKED)


@every_check
def test_where_none_is_left_nothing_is_asked(no_proof, check):
    with pytest.raises(MissingFramework, match="pip install python-flint"):
        check(references=["proof"])
    assert check(references=["proof"], raise_exception=False).cases == []


def test_what_is_missing_without_being_named_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "bptt_crosscheck.reference.by_jax.jax_grad", raising=False)
    found = check_gradients(gradients, loss, PARAMS, INPUTS)
    assert found.passed
    assert (
        "left out: jax: reference 'jax' needs jax, which cannot be imported: pip install jax"
        in str(found)
    )


def test_a_wrong_gradient_outweighs_a_missing_reference(no_proof):
    with pytest.raises(GradientMismatch, match="b: differs from torch"):
        check_gradients(
            lambda p, i: {**gradients(p, i), "b": 2 * gradients(p, i)["b"]},
            loss,
            PARAMS,
            INPUTS,
            **ASKED,
        )


@pytest.mark.parametrize(("wrong", "status"), [("", 2), ("2 * ", 1)])
def test_the_command_line_says_the_same(no_proof, monkeypatch, capfd, tmp_path, wrong, status):
    (tmp_path / "mine.py").write_text(
        "from tests.comparisons.small import INPUTS, PARAMS, gradients as right, loss\n"
        "def gradients(params, inputs):\n    return "
        f"{{k: {wrong}v for k, v in right(params, inputs).items()}}\n"
        "def example():\n    return PARAMS, INPUTS\n"
    )
    arguments = ["check", str(tmp_path / "mine.py"), "--references", "torch,proof", "--json", "-"]
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    with pytest.raises(SystemExit) as left:
        command_line.main()
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert (left.value.code, told["passed"], told["errors"][0]["error"]) == (
        status,
        False,
        "MissingFramework",
    )
    assert INSTALL in " ".join(err.split())
    assert {row["reference"] for case in told["cases"] for row in case["rows"]} == {"torch"}


# What a reference cannot follow: the operation and the line are told.


OPERATIONS = {
    "np.floor": lambda xp, z: z + 0 * np.floor(z),
    "float": lambda xp, z: z + 0 * float(xp.sum(z)),
    "xp.sort": lambda xp, z: z + 0 * xp.sort(z),
    "if": lambda xp, z: z if xp.sum(z) > -1e9 else -z,
    "a power": lambda xp, z: z + 0 * (z * z + 1) ** 0.5,
}
ARRAY, TRACED = "__array__", "traced array"
LEFT_OUT = [
    ("np.floor", "torch", ARRAY),
    ("np.floor", "jax", ARRAY),
    ("np.floor", "forward", ARRAY),
    ("np.floor", "complex step", "floor of complex numbers is not analytic"),
    ("np.floor", "proof", "ufuncs"),
    ("float", "torch", "__float__ takes a number out of differentiation"),
    ("float", "jax", TRACED),
    ("float", "forward", TRACED),
    ("float", "complex step", "not 'complex'"),
    ("float", "proof", "float()"),
    ("xp.sort", "proof", "xp.sort has no rule"),
    ("if", "forward", TRACED),
    ("a power", "proof", "a power of 0.5"),
]


def with_operation(operation):
    def step(xp, params, state, x):
        z = operation(xp, x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": xp.tanh(z)}, (x, state["h"], xp.tanh(z))

    def function(xp, params, inputs):
        return loss(xp, {**params, "b": operation(xp, params["b"])}, inputs)

    return spoiled(step=step, step_backward=lambda *given: elman("step_backward", *given)), function


@pytest.mark.parametrize("kind", ["cell", "loss"])
@pytest.mark.parametrize(
    ("name", "reference", "words"), LEFT_OUT, ids=[f"{name}, {who}" for name, who, _ in LEFT_OUT]
)
def test_an_operation_that_cannot_be_followed_is_told_with_its_line(name, reference, words, kind):
    cell, function = with_operation(OPERATIONS[name])
    asked = {"references": [reference, "differences"], "raise_exception": False}
    found = (
        check_cell(cell, **SIZES, **asked)
        if kind == "cell"
        else check_gradients(gradients, function, PARAMS, INPUTS, **asked)
    )
    assert found.passed, str(found)
    assert {row.reference for row in found.rows} == {"differences"}
    reason = str(found.cases[0].left_out[reference])
    assert reason.startswith("cannot follow")
    assert words in reason
    assert f" at test_left_out.py:{OPERATIONS[name].__code__.co_firstlineno}: " in reason
    assert f"left out: {reference}: cannot follow" in str(found)


def test_a_wrong_cell_against_a_reference_that_tells_no_steps():
    def halved(*given):
        d_params, d_x, d_state = elman("step_backward", *given)
        return d_params, d_x / 2, d_state

    with pytest.raises(GradientMismatch, match="x: differs from differences"):
        check_cell(spoiled(step_backward=halved), **SIZES, references=["differences"])


def test_where_it_is_the_only_reference_the_line_is_told_too():
    _, function = with_operation(OPERATIONS["xp.sort"])
    with pytest.raises(
        NothingFollows,
        match=r"proof: cannot follow: xp.sort has no rule for dual balls at test_left_out.py:\d+",
    ):
        check_gradients(gradients, function, PARAMS, INPUTS, references=["proof"])
