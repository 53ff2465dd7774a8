"""Users call things as they like, also as we call ours: nothing is read out of a name."""

import json

import numpy as np
import pytest
from bptt_crosscheck import check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.errors import BadContract

from tests.comparisons.odd import Cell, Scalars
from tests.comparisons.small import SIZES, TORCH, Elman, spoiled

NAMES = [
    *"x h h_0 lengths mask target targets tokens cotangent_h b_y W_y loss state_jacobian alive d_x "
    "jacobian_product_to_end W@t h@t U@t W_l0 W_reverse h_reverse h_l0_reverse dropout_l0 a.b W[0] "
    "ω 名 W_xh lstm {0} %s '".split(),
    "",
    "state h",
    "a b",
    '"',
    "W,V",
]
OF_STATES = [name for name in NAMES if name != "h"]


class Wrong(Cell):
    """With the gradient of its first weight, or what it hands back, as many times too large."""

    def __init__(self, weight="W", state="h", weight_times=1.0, state_times=1.0):
        super().__init__(weight, state)
        self.weight_times, self.state_times = weight_times, state_times

    def step_backward(self, params, cache, d_state):
        assert list(params) == [self.weight, "U"]
        assert list(d_state) == [self.state]
        d_params, d_x, before = super().step_backward(params, cache, d_state)
        d_params[self.weight] *= self.weight_times
        return d_params, d_x, {self.state: self.state_times * before[self.state]}


def wrong_in(report):
    return {row.gradient for row in report.rows if not row.passed}


def asked(cell, **options):
    report = check_cell(cell, **{**SIZES, **TORCH, **options}, raise_exception=False)
    assert report.errors == []
    for text in (str(report), report.to_json()):
        assert "⟮" not in text
    return report


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_of_any_name(name):
    assert asked(Wrong(weight=name)).passed
    report = asked(Wrong(weight=name, weight_times=7.0))
    assert wrong_in(report) == {name or "''"}
    assert "exact up to the factor 7" in str(report)


@pytest.mark.parametrize("name", OF_STATES)
def test_a_state_of_any_name(name):
    assert asked(Wrong(state=name)).passed
    report = asked(Wrong(state=name, state_times=7.0))
    told = name or "''"
    assert wrong_in(report) == {"W", "U", "x", f"{told}_0"}
    assert f"d_state_prev[{told!r}] (steps" in str(report) or not name
    assert "walking back, first wrong at step 2 (wrong: 1–2 of 1–3)" in str(report)


def test_by_both_frameworks():
    assert asked(Wrong(weight="h@t", state="W_l0_reverse"), references=None).passed


def test_a_parameter_and_a_state_of_one_name():
    assert asked(Wrong(weight="h", state="h")).passed
    assert wrong_in(asked(Wrong(weight="h", state="h", weight_times=2.0))) == {"h"}


@pytest.mark.parametrize(("name", "ours"), [("x", "the input x"), ("h_0", "the initial state h_0")])
def test_ours_is_called_otherwise_where_a_parameter_has_the_name(name, ours):
    """The wrong gradient is not the user's: d_x, and with it nothing else."""

    class WrongInput(Wrong):
        def step_backward(self, params, cache, d_state):
            d_params, d_x, before = super().step_backward(params, cache, d_state)
            return d_params, 2 * d_x, before

    cell = WrongInput(weight=name) if name == "x" else Wrong(weight=name, state_times=2.0)
    report = asked(cell)
    assert ours in wrong_in(report)
    assert name not in wrong_in(report) or name == "h_0"
    rows = json.loads(report.to_json())["cases"][0]["rows"]
    names = [row["gradient"] for row in rows]
    assert len(set(names)) == len(names)


def test_params_are_those_declared_in_their_order():
    """In the loop, at single steps, for the references and where ties are looked for."""
    seen = []

    class Looking(Elman):
        def parameter_shapes(self, input_size, hidden_size):
            return {"W": (hidden_size, input_size), "U": (hidden_size, hidden_size), "A": (1,)}

        def step(self, xp, params, state, x):
            seen.append((list(params), list(state)))
            new, cache = super().step(xp, params, state, x)
            return {"h": new["h"] * params["A"]}, (cache, new["h"])

        def step_backward(self, params, cache, d_state):
            seen.append((list(params), list(d_state)))
            inner = {"h": d_state["h"] * params["A"]}
            d_params, d_x, before = super().step_backward(params, cache[0], inner)
            gradients = {name: np.zeros_like(value) for name, value in params.items()}
            gradients["A"] += np.sum(d_state["h"] * cache[1])
            for name, value in d_params.items():
                gradients[name] += value
            return gradients, 3 * d_x, before

    report = asked(Looking(), references=None)
    assert wrong_in(report) == {"x"}
    assert all(names == (["W", "U", "A"], ["h"]) for names in seen)


@pytest.mark.parametrize("key", ["x", "h_0", "h", "W@t"])
def test_a_gradient_of_anything_else_is_an_error(key):
    def step_backward(params, cache, d_state):
        d_params, d_x, before = Elman().step_backward(params, cache, d_state)
        return {**d_params, key: d_x}, d_x, before

    with pytest.raises(BadContract, match=f"d_params has the unknown {key}"):
        check_cell(spoiled(step_backward=step_backward), **SIZES, **TORCH)


def test_what_is_handed_over_is_the_users_to_take_apart():
    def step(xp, params, state, x):
        return Elman().step(xp, {name: params.pop(name) for name in list(params)}, state, x)

    assert check_cell(spoiled(step=step), **SIZES, **TORCH).passed


def test_a_draw_of_its_own_in_any_shape():
    """W_xh (I, H), a number, a vector, states in two axes and none; some of it drawn."""
    assert asked(Scalars(), references=None, input_size=3, hidden_size=2).passed


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 2, 2)])
def test_a_weight_called_as_ours_is_need_not_have_its_shape(shape):
    class Sums(Elman):
        def parameter_shapes(self, input_size, hidden_size):
            return {"W_xh": shape}

        def step(self, xp, params, state, x):
            h = state["h"] * 0.5 + xp.sum(params["W_xh"] ** 2)
            return {"h": h}, None

        def step_backward(self, params, cache, d_state):
            d = np.sum(d_state["h"])
            return {"W_xh": 2 * params["W_xh"] * d}, np.zeros((2, 2)), {"h": 0.5 * d_state["h"]}

        def initialise(self, rng, input_size, hidden_size, batch):
            assert (input_size, hidden_size, batch) == (2, 3, 2)
            return {"W_xh": rng.normal(size=shape), "h_0": rng.normal(size=(2, 3))}

    report = check_cell(Sums(), **SIZES, **TORCH, raise_exception=False)
    assert wrong_in(report) == set()


# Functions.


def loss(xp, params, inputs):
    return xp.sum(sum(value**2 for value in params.values()) * inputs["k"])


@pytest.mark.parametrize("name", [*NAMES, "k@t", "output", "cotangent"])
@pytest.mark.parametrize("factor", [1, 7])
def test_a_functions_parameter_of_any_name(name, factor):
    params = {name: np.arange(1.0, 4.0), "V": np.ones(3)}
    report = check_gradients(
        lambda p, i: {name: factor * 2 * p[name] * i["k"], "V": 2 * p["V"] * i["k"]},
        loss,
        params,
        {"k": np.array([1.0, -2.0, 0.5])},
        **TORCH,
        raise_exception=False,
    )
    assert report.errors == []
    assert {row.gradient for row in report.rows} == {name or "''", "V"}
    assert wrong_in(report) == ({name or "''"} if factor > 1 else set())


@pytest.mark.parametrize("factor", [1, 7])
def test_outputs_that_read_alike(factor):
    """The output "a.b", and "b" within "a"; one called loss, a list, "output[0]"."""
    names = ("loss", "a.b", "output[0]", "output")

    def function(xp, params, inputs):
        told = {name: params["w"] * (at + 2.0) for at, name in enumerate(names)}
        return {**told, "a": {"b": params["w"] ** 2}, "list": [params["w"]]}

    def vjp(params, inputs, cotangents):
        total = sum(cotangents[name] * (at + 2.0) for at, name in enumerate(names))
        total = total + factor * 2 * params["w"] * cotangents["a"]["b"] + cotangents["list"][0]
        return {"w": total}

    report = check_vjp(vjp, function, {"w": np.ones(3)}, {}, **TORCH, raise_exception=False)
    assert report.errors == []
    wrong = [case.name for case in report.cases if not case.passed]
    assert wrong == ([] if factor == 1 else ["vjp, all outputs", "vjp, output.a.b alone"])
    assert len(report.cases) == 7


def test_gradients_by_path_or_by_nest():
    params = {"W[0]": np.ones(2), "W": [np.ones(2), np.ones(2)], "list": [1.0, 2.0, 3.0]}

    def loss(xp, p, i):
        two = xp.sum(p["W[0]"] ** 2) + xp.sum(p["W"][0] ** 3) + xp.sum(p["W"][1])
        return two + p["list"][0] * p["list"][1] * p["list"][2]

    def gradients(p, i):
        return {
            "W[0]": 2 * p["W[0]"],
            "W": [3 * p["W"][0] ** 2, np.ones(2)],
            "list": np.prod(p["list"]) / np.array(p["list"]),
        }

    report = check_gradients(gradients, loss, params, {}, **TORCH)
    assert {row.gradient for row in report.rows} == {
        "['W[0]']", "W[0]", "W[1]", "list[0]", "list[1]", "list[2]"
    }  # fmt: skip
