"""LSTM and GRU: the two forms of each derivation, its Jacobian, its extremes, and mistakes that are seen."""

from functools import partial

import numpy as np
import pytest

from comparisons import GradientMismatch, check_cell
from manual import bptt, jacobians
from manual.gru import GRU
from manual.lstm import LSTM
from reference import equations, torch_autograd
from tests.closeness import ROUNDING, relative_error

CELLS = {
    "lstm": (LSTM(), equations.lstm),
    "gru-after": (GRU("after"), partial(equations.gru, reset="after")),
    "gru-before": (GRU("before"), partial(equations.gru, reset="before")),
}
every_cell = pytest.mark.parametrize("name", CELLS)
I, H = 3, 4  # noqa: E741


def draw(cell, steps=5, batch=2, scale=1.0):
    rng = np.random.default_rng(3)
    params = {name: scale * rng.normal(size=shape) for name, shape in cell.parameter_shapes(I, H).items()}
    initial = {name: rng.normal(size=(batch, *shape)) for name, shape in cell.state_shapes(H).items()}
    x = rng.normal(size=(steps, batch, I))
    cotangents = {name: rng.normal(size=(steps, *value.shape)) for name, value in initial.items()}
    for array in (*params.values(), *initial.values(), x, *cotangents.values()):
        array.setflags(write=False)
    return params, initial, x, cotangents


def swept(cell, params, initial, x, cotangents):
    return bptt.backward(cell, params, bptt.forward(cell, params, initial, x), cotangents)


class StepForm:
    """The cell without its two halves: the time loop sums steps."""

    def __init__(self, cell):
        self.step, self.step_backward = cell.step, cell.step_backward


@every_cell
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 3), (2, 1), (7, 3)])
def test_sequence_form_is_the_sum_of_the_steps(name, steps, batch):
    cell = CELLS[name][0]
    drawn = draw(cell, steps, batch)
    fast, plain = swept(cell, *drawn), swept(StepForm(cell), *drawn)
    for key, value in plain.params.items():
        assert relative_error(fast.params[key], value) <= ROUNDING
    assert relative_error(fast.x, plain.x, separately=1) <= ROUNDING
    for key, value in plain.d_state.items():
        assert relative_error(fast.d_state[key], value, separately=1) <= ROUNDING


@every_cell
def test_jacobians_of_step_and_of_the_unrolled_map(name):
    cell, step = CELLS[name]
    params, initial, x, _ = draw(cell)
    tape = bptt.forward(cell, params, initial, x)
    local = jacobians.state_jacobians(cell, params, tape)
    sizes = {key: value.shape[-1] for key, value in initial.items()}
    told = torch_autograd.jacobians(step, params, sizes, jacobians.flatten_state(initial), x)
    assert relative_error(local, told["state_jacobian"], separately=2) <= ROUNDING
    assert relative_error(jacobians.products_to_end(local), told["jacobian_product_to_end"], separately=2) <= ROUNDING
    by_backward = jacobians.state_jacobians(StepForm(cell), params, tape)
    assert relative_error(by_backward, local, separately=2) <= ROUNDING


@every_cell
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_saturated_gates_stay_finite(name, sign):
    cell = CELLS[name][0]
    params, initial, x, cotangents = draw(cell)
    biases = {key: np.full_like(value, sign * 30) if value.ndim == 1 else value for key, value in params.items()}
    found = swept(cell, biases, initial, x, cotangents)
    assert all(np.isfinite(value).all() for value in (*found.params.values(), *found.d_state.values(), found.x))


@every_cell
def test_strided_inputs_give_the_same(name):
    cell = CELLS[name][0]
    params, initial, x, cotangents = draw(cell)
    strided = {key: np.asfortranarray(value) for key, value in params.items()}
    backwards = np.ascontiguousarray(x[::-1])[::-1]
    one, two = swept(cell, params, initial, x, cotangents), swept(cell, strided, initial, backwards, cotangents)
    for key, value in one.params.items():
        assert relative_error(two.params[key], value) <= ROUNDING


@every_cell
def test_own_step_is_differentiated_to_the_same(name):
    assert check_cell(CELLS[name][0], references=["torch"]).passed


def test_gru_refuses_a_reset_elsewhere():
    with pytest.raises(ValueError, match="'after' or 'before'"):
        GRU("between")


class CellCarryDropped(LSTM):
    def delta(self, params, cache, d_state):
        delta, previous = super().delta(params, cache, d_state)
        return delta, {**previous, "c": np.zeros_like(previous["c"])}


class TanhOfCellForgotten(LSTM):
    def delta(self, params, cache, d_state):
        return super().delta(params, {**cache, "tanh_c": np.zeros_like(cache["tanh_c"])}, d_state)


class GatesPermuted(LSTM):
    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        i, f, g, o = np.split(d_params["b_h"], 4)
        return {**d_params, "b_h": np.concatenate([i, g, f, o])}, d_x


class OneBiasForBoth(GRU):
    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        return {**d_params, "b_hh": d_params["b_x"]}, d_x


class CarryThroughResetForgotten(GRU):
    def delta(self, params, cache, d_state):
        delta, previous = super().delta(params, cache, d_state)
        size = params["W_hh"].shape[-1]
        through_reset = delta[..., :size] @ params["W_hh"][:size]
        return delta, {"h": previous["h"] - through_reset}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (CellCarryDropped(), "is wrong in d_state_prev['c']"),
        (TanhOfCellForgotten(), "is wrong in d_params['W_xh']"),
        (GatesPermuted(), "b_h has the right 4 blocks of rows in the wrong order: 1, 3, 2, 4"),
        (OneBiasForBoth("after"), "rows 8–11 of 12 only (block 3 of 3, as gates are stacked)"),
        (CarryThroughResetForgotten("before"), "is wrong in d_state_prev['h']"),
    ],
)
def test_a_mistake_is_found_where_it_is(cell, said):
    with pytest.raises(GradientMismatch) as caught:
        check_cell(cell, references=["torch"], hidden_size=H)
    assert said in str(caught.value)
