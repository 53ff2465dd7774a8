"""Where the true gradient is infinite nothing is judged, and the step is told; a finite truth
excuses nobody.
"""

import json
import sys

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons import command_line
from bptt_crosscheck.comparisons.candidates import built_in_cells
from bptt_crosscheck.comparisons.errors import NotFinite, Overflow
from bptt_crosscheck.comparisons.studies import built_in_cases

from tests.comparisons.small import TORCH, Elman

STEPS = 70
W = {"W": 2.0**16 * np.array([[4.0, 0.25], [0.5, -4.0]])}
AT_REST = {"x": np.zeros((STEPS, 2))}  # tanh(0) = 0 for ever, with slope 1: ∂s_T/∂s_t = W^(T−t)
EXPLODING = {"steps": 600, "batch": 1, "input_size": 2, "hidden_size": 2}


def states(xp, params, inputs):
    h, told = xp.zeros(2), []
    for t in range(inputs["x"].shape[0]):
        h = xp.tanh(params["W"] @ h + inputs["x"][t])
        told.append(h)
    return xp.stack(told)


def last(xp, params, inputs):
    return xp.sum(states(xp, params, inputs)[-1])


def right(params, inputs):
    """∂L/∂x_t = (Wᵀ)^(T−t) 1; ∂L/∂W = 0 as h is zero, or NaN where that is multiplied with an
    infinity.
    """
    dh, d_x, d_w = np.ones(2), np.zeros_like(inputs["x"]), np.zeros((2, 2))
    for t in reversed(range(len(inputs["x"]))):
        d_x[t], d_w = dh, d_w + np.outer(dh, np.zeros(2))
        dh = params["W"].T @ dh
    return {"x": d_x, "W": d_w}


def clipped(params, inputs):
    return {
        name: np.clip(np.nan_to_num(value), -1e3, 1e3)
        for name, value in right(params, inputs).items()
    }


@pytest.fixture
def first_step():
    """The step from which on, walking back, (Wᵀ)^(T−t) 1 exceeds the largest number: in
    logarithms.
    """

    def told(largest):
        v, size, t = np.ones(2), 0.0, STEPS
        while size + np.log(np.abs(v).max()) < np.log(float(largest)):
            v, t = W["W"].T @ v, t - 1
            size, v = size + np.log(np.abs(v).max()), v / np.abs(v).max()
        return t

    return told


@pytest.mark.parametrize("references", [["torch"], ["jax"], ["torch", "jax"]])
@pytest.mark.parametrize(
    ("gradients", "words"),
    [
        (right, "the code under test is not finite either"),
        (clipped, "the code under test is finite there"),
    ],
)
def test_an_infinite_gradient_is_told_with_its_step(first_step, references, gradients, words):
    with pytest.raises(
        Overflow, match="the true gradient overflows float64 in x, W; walking back from step 70, "
    ) as caught:
        check_gradients(gradients, last, W, AT_REST, references=references)
    assert (
        f"∂L/∂x_t is infinite from step {first_step(np.finfo(np.float64).max)} on; {words}"
        in str(caught.value)
    )


def test_a_gradient_that_exceeds_float32_though_not_float64(first_step):
    small = ({"W": W["W"].astype(np.float32)}, {"x": AT_REST["x"][:12].astype(np.float32)})
    lag = STEPS - first_step(np.finfo(np.float32).max)
    with pytest.raises(
        Overflow,
        match=f"overflows float32 in x; .* step 12, ∂L/∂x_t is infinite from step {12 - lag} on",
    ):
        check_gradients(lambda p, i: {"x": right(p, i)["x"]}, last, *small, **TORCH)


def test_what_has_not_overflowed_is_judged():
    short = {"x": AT_REST["x"][:40]}
    assert check_gradients(lambda p, i: {"x": right(p, i)["x"]}, last, W, short, **TORCH).passed
    with pytest.raises(GradientMismatch, match="x: differs"):
        check_gradients(lambda p, i: {"x": clipped(p, i)["x"]}, last, W, short, **TORCH)
    with pytest.raises(GradientMismatch, match="x: not finite"):
        check_gradients(lambda p, i: {"x": right(p, i)["x"] * np.inf}, last, W, short, **TORCH)


def test_an_infinite_gradient_that_is_not_given_does_not_matter():
    """∂L/∂v is finite, and is judged."""

    def function(xp, params, inputs):
        return last(xp, params, inputs) + xp.sum(params["v"] ** 2)

    given = {**W, "v": np.array([1.0, -2.0])}
    assert check_gradients(lambda p, i: {"v": 2 * p["v"]}, function, given, AT_REST, **TORCH).passed
    with pytest.raises(GradientMismatch, match="v: differs"):
        check_gradients(lambda p, i: {"v": 3 * p["v"]}, function, given, AT_REST, **TORCH)


def test_a_vjp():
    def vjp(params, inputs, cotangents):
        del cotangents
        return right(params, inputs)

    with pytest.raises(
        Overflow,
        match="vjp, all outputs: the true gradient overflows float64 in x, W; walking back from step 70",
    ):
        check_vjp(vjp, states, W, AT_REST, **TORCH)


def test_without_a_time_axis_the_gradient_is_named():
    def steep(xp, params, inputs):
        return xp.sum(xp.exp(params["w"] * inputs["a"]))

    given = {"w": np.array([2.0, 354.75])}, {"a": np.array([1.0, 2.0])}
    with pytest.raises(
        Overflow, match=r"the true gradient overflows float64 in w; the code under test"
    ):
        check_gradients(
            lambda p, i: {"w": i["a"] * np.exp(p["w"] * i["a"])}, steep, given[0], given[1], **TORCH
        )


def test_a_branch_that_is_not_taken_is_no_overflow():
    def function(xp, params, _):
        return xp.sum(
            xp.where(
                params["w"] > 0,
                xp.sqrt(xp.abs(params["w"])) * 0 + params["w"],
                0 * xp.log(params["w"] * 0),
            )
        )

    with pytest.raises(
        NotFinite, match=r"not finite for w, .*a branch of where\(\) that is not taken"
    ) as caught:
        check_gradients(
            lambda p, i: {"w": np.ones(2)}, function, {"w": np.array([1.0, 2.0])}, {}, **TORCH
        )
    assert not isinstance(caught.value, Overflow)


class Linear(Elman):
    """h′ = W x + U h, U 4 times the identity."""

    def step(self, _, params, state, x):
        h = x @ params["W"].T + state["h"] @ params["U"].T
        return {"h": h}, (x, state["h"], 0 * h)

    def initialise(self, rng, input_size, hidden_size, batch):
        del rng, input_size, batch
        return {"U": 4 * np.eye(hidden_size)}


def test_a_state_of_a_cell_that_is_infinite():
    with pytest.raises(
        Overflow,
        match=r"the state h is infinite from step 49\d of 600 on, in the forward pass: it exceeds the",
    ):
        check_cell(Linear(), **EXPLODING, **TORCH)
    with pytest.raises(
        Overflow, match=r"the state h is infinite from step \d\d of 600 on, .* the largest float32"
    ):
        check_cell(Linear(), **EXPLODING, **TORCH, dtype="float32")


class Chaotic(Elman):
    """h′ = sin(20 (W x + U h)): the state stays below 1, its derivative grows at every step."""

    def step(self, xp, params, state, x):
        z = 20 * (x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": xp.sin(z)}, (x, state["h"], z)

    def step_backward(self, params, cache, d_state):
        x, before, z = cache
        delta = 20 * d_state["h"] * np.cos(z)
        return (
            {"W": delta.T @ x, "U": delta.T @ before},
            delta @ params["W"],
            {"h": delta @ params["U"]},
        )


def test_a_cell_whose_gradient_is_infinite_though_its_states_are_not():
    words = r"overflows float64 in W, U, h_0, x; walking back from step 500, ∂L/∂h_t is infinite from step \d+ on; the code .* either"
    with pytest.raises(Overflow, match=words):
        check_cell(Chaotic(), **{**EXPLODING, "steps": 500}, **TORCH)
    assert check_cell(Chaotic(), **{**EXPLODING, "steps": 3}, **TORCH).passed


def asked(monkeypatch, capfd, *arguments):
    """(exit status, standard output, JSON)."""
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments), "--json", "-"])
    with pytest.raises(SystemExit) as left:
        command_line.main()
    out, err = capfd.readouterr()
    return left.value.code, " ".join(err.split()), json.loads(out)


def test_the_command_line_goes_on_with_the_other_cases(monkeypatch, capfd):
    problem_of = built_in_cases.problem_of

    def steep(case, seed):
        problem = problem_of(case, seed)
        return problem.with_variables({"W_hh": 1e200 * problem.variables["W_hh"]})

    monkeypatch.setattr(built_in_cases, "problem_of", steep)
    asking = (
        "--cell",
        "irnn",
        "--quick",
        "--steps",
        4,
        "--batch",
        1,
        "--hidden-size",
        3,
        "--references",
        "torch",
    )
    status, said, told = asked(monkeypatch, capfd, *asking)
    assert (status, told["passed"]) == (2, False)
    assert [error["error"] for error in told["errors"]] == ["Overflow"]
    assert "irnn: the state h is infinite from step" in told["errors"][0]["text"]
    assert "Overflow: irnn: the state h is infinite from step" in said
    assert told["cases"], "the character model's"
    assert all(row["passed"] for case in told["cases"] for row in case["rows"])


def test_a_wrong_gradient_elsewhere_outweighs_it(monkeypatch, capfd):
    class Wrong(built_in_cells.CELLS["irnn"]):
        def accumulate(self, params, cache, delta):
            d_params, d_x = super().accumulate(params, cache, delta)
            return {**d_params, "b_h": 2 * d_params["b_h"]}, d_x

    monkeypatch.setitem(built_in_cells.CELLS, "irnn", Wrong)
    test_status = asked(
        monkeypatch, capfd, "--cell", "irnn", "--quick", "--steps", 2, "--references", "torch"
    )[0]
    assert test_status == 1


def test_a_file(monkeypatch, capfd, tmp_path):
    (tmp_path / "steep.py").write_text(
        "import numpy as np\n"
        "from tests.comparisons.judging.test_overflow import W, AT_REST, last as loss, right as "
        "gradients\n"
        "def example():\n    return W, AT_REST\n"
    )
    status, said, told = asked(
        monkeypatch, capfd, "check", tmp_path / "steep.py", "--references", "torch"
    )
    assert (status, told["passed"], told["errors"][0]["error"]) == (2, False, "Overflow")
    assert "∂L/∂x_t is infinite from step" in said
