"""Every built-in cell against torch's autograd on equations typed a second time.

Each gradient, each step's share, each Jacobian.

CELLS is the table: a cell, and its step in reference.equations. Every comparison gives the names
that are wrong; the right cell has none, and a mistake planted in a cell has those that it should
have.
"""

import math
import sys
from functools import cache, partial
from itertools import product

import jax
import numpy as np
import pytest
import torch
from bptt_crosscheck import GradientMismatch, check_cell
from bptt_crosscheck.comparisons.candidates.built_in_cells import CellCandidate
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.crosscheck import check_problem
from bptt_crosscheck.comparisons.problems.cases import Case
from bptt_crosscheck.comparisons.witnesses.engines import select
from bptt_crosscheck.manual import jacobians
from bptt_crosscheck.manual.cells.gru import GRU
from bptt_crosscheck.manual.cells.lru import LRU, eigenvalues
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.min_gru import MinGRU
from bptt_crosscheck.manual.cells.min_lstm import MinLSTM
from bptt_crosscheck.manual.cells.peephole_lstm import PeepholeLSTM
from bptt_crosscheck.manual.cells.projected_lstm import ProjectedLSTM
from bptt_crosscheck.manual.cells.residual import ResidualRNN
from bptt_crosscheck.manual.cells.rnn import IRNN, RNN
from bptt_crosscheck.manual.cells.slstm import SLSTM
from bptt_crosscheck.manual.through_time import bptt
from bptt_crosscheck.reference import equations
from bptt_crosscheck.reference.by_torch import torch_autograd

from tests.closeness import ROUNDING, relative_error

CELLS = {
    "rnn-tanh": (RNN(), partial(equations.rnn, activation="tanh")),
    "rnn-relu": (RNN("relu"), partial(equations.rnn, activation="relu")),
    "irnn": (IRNN(), partial(equations.rnn, activation="relu")),
    "residual": (ResidualRNN(0.5), partial(equations.residual, alpha=0.5, activation="tanh")),
    "lstm": (LSTM(), equations.lstm),
    "peephole-lstm": (PeepholeLSTM(), equations.peephole_lstm),
    "projected-lstm": (ProjectedLSTM(2), partial(equations.projected_lstm, projection_size=2)),
    "gru-after": (GRU("after"), partial(equations.gru, reset="after")),
    "gru-before": (GRU("before"), partial(equations.gru, reset="before")),
    "min-gru": (MinGRU(), partial(equations.min_gru, activation="positive")),
    "min-lstm": (MinLSTM(), partial(equations.min_lstm, activation="positive")),
    "lru": (LRU(), equations.lru),
    "slstm": (SLSTM(), equations.slstm),
}
every_cell = pytest.mark.parametrize("name", CELLS)
I, H = 3, 4  # noqa: E741
LIMIT = 64  # how many times the measured noise an error may be


def read_only(*dictionaries):
    for array in (array for arrays in dictionaries for array in arrays.values()):
        array.setflags(write=False)
    return dictionaries


def draw(cell, steps=5, batch=2, seed=3, tokens=False):
    """(params, initial, x, cotangents): all random, non-zero and read-only.

    What the cell draws itself is its own.

    But not the IRNN's: with W_hh = I a carry that forgets W_hh is right.
    """
    rng = np.random.default_rng(seed)
    params = {
        name: 0.5 * rng.normal(size=shape) for name, shape in cell.parameter_shapes(I, H).items()
    }
    initial = {
        name: rng.normal(size=(batch, *shape)) for name, shape in cell.state_shapes(H).items()
    }
    x = rng.integers(I, size=(steps, batch)) if tokens else rng.normal(size=(steps, batch, I))
    cotangents = {name: rng.normal(size=(steps, *value.shape)) for name, value in initial.items()}
    if hasattr(cell, "initialise") and not isinstance(cell, IRNN):
        for name, value in cell.initialise(rng, I, H, batch).items():
            (params if name in params else initial)[name.removesuffix("_0")] = value
    read_only(params, initial, {"x": x}, cotangents)
    return params, initial, x, cotangents


@cache
def function_of(name, step):
    cell = CELLS[name][0]
    return equations.SequenceLoss(
        step,
        equations.projection,
        tuple(cell.parameter_shapes(I, H)),
        tuple(cell.state_shapes(H)),
        "@t",
    )


def by_torch(name, params, initial, x, cotangents, rounding_seed=None, step=None):
    """Gradients of Σ_t ⟨C_t, s_t⟩ by name; "W_hh@t" and "h@t" are the shares of the steps 1..T."""
    offsets = {
        f"{key}@t": np.zeros((len(x), *value.shape), value.dtype)
        for key, value in {**params, **initial}.items()
    }
    variables = {**params, **{f"{key}_0": value for key, value in initial.items()}, **offsets}
    constants = {f"cotangent_{key}": value for key, value in cotangents.items()}
    (constants if x.dtype.kind == "i" else variables)["x"] = x
    return torch_autograd.gradients(
        function_of(name, step or CELLS[name][1]), variables, constants, rounding_seed
    )[2]


def swept(cell, params, initial, x, cotangents):
    return bptt.backward(cell, params, bptt.forward(cell, params, initial, x), cotangents)


def by_hand(cell, params, initial, x, cotangents):
    """The same gradients from the derivation.

    The whole by the sequence form, the shares by the step form.
    """
    tape = bptt.forward(cell, params, initial, x)
    whole, apart = (
        bptt.backward(cell, params, tape, cotangents),
        bptt.shares(cell, params, tape, cotangents),
    )
    found = {**whole.params, **({} if whole.x is None else {"x": whole.x})}
    found |= {f"{key}_0": value[0] for key, value in whole.d_state.items()}
    found |= {f"{key}@t": value for key, value in apart.params.items()}
    return found | {f"{key}@t": value[1:] for key, value in apart.d_state.items()}


def wrong(found, expected, tolerance=ROUNDING):
    """The names in which the two differ.

    What has a time axis is judged step by step, each by its own norm.
    """
    assert found.keys() == expected.keys()
    timed = {name: int(name == "x" or name.endswith("@t")) for name in expected}
    return {
        name
        for name, value in expected.items()
        if not relative_error(found[name], value, separately=timed[name]) <= tolerance
    }


class StepForm:
    """The cell without its two halves: the time loop sums steps."""

    def __init__(self, cell):
        self.step, self.step_backward = cell.step, cell.step_backward


def only_at(step, cotangents):
    alone = {name: np.zeros_like(value) for name, value in cotangents.items()}
    for name, value in cotangents.items():
        alone[name][step] = value[step]
    return alone


@every_cell
def test_every_gradient_and_every_step_s_share_equal_torch(name):
    cell = CELLS[name][0]
    for steps, batch in product((1, 2, 7), (1, 3)):
        *numbers, cotangents = draw(cell, steps, batch)
        for given in (cotangents, only_at(-1, cotangents), only_at(steps // 2, cotangents)):
            expected = by_torch(name, *numbers, given)
            assert wrong(by_hand(cell, *numbers, given), expected) == set()
            assert wrong(by_hand(StepForm(cell), *numbers, given), expected) == set()
        assert swept(StepForm(cell), *numbers, cotangents).delta is None


@every_cell
def test_jacobians_of_step_and_of_the_unrolled_map(name):
    cell, step = CELLS[name]
    params, initial, x, _ = draw(cell)
    tape = bptt.forward(cell, params, initial, x)
    local = jacobians.state_jacobians(cell, params, tape)
    sizes = {key: value.shape[-1] for key, value in initial.items()}
    told = torch_autograd.jacobians(step, params, sizes, jacobians.flatten_state(initial), x)
    assert relative_error(local, told["state_jacobian"], separately=2) <= ROUNDING
    assert (
        relative_error(
            jacobians.products_to_end(local), told["jacobian_product_to_end"], separately=2
        )
        <= ROUNDING
    )
    by_backward = jacobians.state_jacobians(StepForm(cell), params, tape)
    assert relative_error(by_backward, local, separately=2) <= ROUNDING


def test_a_jacobian_in_the_other_layout_is_seen():
    """Denominator layout, as Pascanu et al.

    Have it, pasted into numerator layout; a diagonal one would not show it.
    """
    cell, step = CELLS["lstm"]
    params, initial, x, _ = draw(cell)
    local = jacobians.state_jacobians(cell, params, bptt.forward(cell, params, initial, x))
    told = torch_autograd.jacobians(
        step, params, {"h": H, "c": H}, jacobians.flatten_state(initial), x
    )["state_jacobian"]
    assert relative_error(np.swapaxes(local, -1, -2), told, separately=2) > 0.1


# Extremes.


def saturated(name, sign):
    """(params, …) with every bias at ±30; the LRU has none: ν says how near |λ| is to 0 or to 1."""
    params, *others = draw(CELLS[name][0])
    there = {"nu"} if name == "lru" else {key for key in params if key.startswith("b_")}
    return {
        key: np.full_like(value, sign * 30) if key in there else value
        for key, value in params.items()
    }, *others


def beyond_noise(name, found, numbers):
    """The names in which `found` is further from torch than rounding moves torch itself.

    Each step is judged by itself, rounding is at random.
    """
    expected = by_torch(name, *numbers)
    moved = [by_torch(name, *numbers, rounding_seed=seed) for seed in range(4)]
    worst = set()
    for key, value in expected.items():
        rows = (len(value), -1) if key == "x" or key.endswith("@t") else (1, -1)
        noise = np.max(
            [np.abs(other[key] - value).reshape(rows).max(axis=1) for other in moved], axis=0
        )
        noise = noise + np.finfo(float).eps * np.abs(value).reshape(rows).max(axis=1)
        if not (np.abs(found[key] - value).reshape(rows).max(axis=1) <= LIMIT * noise).all():
            worst.add(key)
    return worst


@every_cell
def test_saturated_units_have_the_digits_that_torch_has(name):
    """tanh′ = 1 − tanh² has no digits left where tanh is ±1, in torch neither.

    There the noise measured says so.
    """
    for sign in (1.0, -1.0):
        numbers = saturated(name, sign)
        found = by_hand(CELLS[name][0], *numbers)
        assert all(np.isfinite(value).all() for value in found.values())
        assert beyond_noise(name, found, numbers) == set()
        assert "W_xh" in beyond_noise(
            name, {**found, "W_xh": found["W_xh"] + 1e-9 + found["W_xh"].max()}, numbers
        )


# The blocks of b_h (b_x) that go through σ, of how many.
SIGMOIDS = {
    "lstm": ("b_h", (0, 1, 3), 4),
    "peephole-lstm": ("b_h", (0, 1, 3), 4),
    "projected-lstm": ("b_h", (0, 1, 3), 4),
    "gru-after": ("b_x", (0, 1), 3),
    "gru-before": ("b_x", (0, 1), 3),
    "min-gru": ("b_h", (0,), 2),
    "min-lstm": ("b_h", (0, 1), 3),
    "slstm": ("b_h", (1, 3), 4),
}


def gru_by_complement(xp, params, state, x, *, reset):
    """equations.gru with 1 − z as σ(−a).

    n + z (h − n) has no digits left for n where z is 1, nor has its derivative.
    """
    from_x = equations.affine(xp, x, params["W_xh"]) + params["b_x"]
    (r_x, z_x, n_x), h = equations.blocks(from_x, 3), state["h"]
    (W_r, W_z, W_n), (b_r, b_z, b_n) = (
        torch.chunk(params["W_hh"], 3),
        torch.chunk(params["b_hh"], 3),
    )
    r, a = equations.sigmoid(xp, r_x + h @ W_r.T + b_r), z_x + h @ W_z.T + b_z
    n = xp.tanh(n_x + (r * (h @ W_n.T + b_n) if reset == "after" else (r * h) @ W_n.T + b_n))
    return {"h": equations.sigmoid(xp, -a) * n + equations.sigmoid(xp, a) * h}


def min_gru_by_complement(xp, params, state, x):
    """equations.min_gru, likewise."""
    a, candidate = equations.blocks(equations.affine(xp, x, params["W_xh"]) + params["b_h"], 2)
    return {
        "h": equations.sigmoid(xp, -a) * state["h"]
        + equations.sigmoid(xp, a) * equations.positive(xp, candidate)
    }


WITH_ALL_DIGITS = {
    "gru-after": partial(gru_by_complement, reset="after"),
    "gru-before": partial(gru_by_complement, reset="before"),
    "min-gru": min_gru_by_complement,
}


def wrong_blocks(name, cell, sign):
    """The gates of a bias's gradient that are wrong, each by its own norm.

    All σ gates, and nothing else, are at ±30.
    """
    bias, gates, count = SIGMOIDS[name]
    params, *others = draw(CELLS[name][0])
    moved = np.array(params[bias])
    for number in gates:
        np.split(moved, count)[number][...] = sign * 30
    numbers = ({**params, bias: moved}, *others)
    found, expected = (
        by_hand(cell, *numbers),
        by_torch(name, *numbers, step=WITH_ALL_DIGITS.get(name)),
    )
    blocks = [
        relative_error(*(np.split(gradients[bias], count)[k] for gradients in (found, expected)))
        for k in range(count)
    ]
    return {k for k, error in enumerate(blocks) if not error <= ROUNDING} | wrong(found, expected)


@pytest.mark.parametrize("name", SIGMOIDS)
def test_saturated_gates_alone_have_all_their_digits(name):
    for sign in (1.0, -1.0):
        assert wrong_blocks(name, CELLS[name][0], sign) == set()


@pytest.mark.parametrize(
    ("name", "gate", "number"), [("lstm", "f", 1), ("peephole-lstm", "o", 3), ("gru-after", "r", 0)]
)
def test_a_complement_by_subtraction_has_lost_its_digits(name, gate, number):
    """1 − σ(30) is 9e-14 with three digits."""

    class ByDifference(type(CELLS[name][0])):
        def recur(self, *arguments):
            state, cache = super().recur(*arguments)
            return state, {**cache, f"not_{gate}": 1 - cache[gate]}

    spoiled = ByDifference(**vars(CELLS[name][0]))
    assert number in wrong_blocks(name, spoiled, 1.0)
    assert wrong_blocks(name, spoiled, -1.0) == set(), "1 − σ(−30) has them all"


@every_cell
def test_zeros_everywhere_but_in_the_cotangents(name):
    """At the kinks of relu and of "positive" both sides take the documented derivative.

    The sLSTM's n is 1 after a step.
    """
    cell = CELLS[name][0]
    params, initial, x, cotangents = draw(cell, steps=3)
    zeros = [
        {key: np.zeros_like(value) for key, value in arrays.items()} for arrays in (params, initial)
    ]
    numbers = (*zeros, np.zeros_like(x), cotangents)
    assert wrong(by_hand(cell, *numbers), by_torch(name, *numbers)) == set()
    nothing = {key: np.zeros_like(value) for key, value in cotangents.items()}
    assert not any(value.any() for value in by_hand(cell, params, initial, x, nothing).values())


def test_another_slope_at_the_kink_is_seen_at_zero():
    class OneAtZero(RNN):
        def delta(self, params, cache, d_state):
            return super().delta(params, {**cache, "z": cache["z"] + 1}, d_state)

    cell = OneAtZero("relu")
    params, initial, x, cotangents = draw(cell, steps=3)
    zeros = [
        {key: np.zeros_like(value) for key, value in arrays.items()} for arrays in (params, initial)
    ]
    numbers = (*zeros, np.zeros_like(x), cotangents)
    assert wrong(by_hand(cell, *numbers), by_torch("rnn-relu", *numbers)) == {"b_h", "b_h@t"}, (
        "all else is times a zero"
    )


@every_cell
def test_nan_stays_in_its_row(name):
    cell = CELLS[name][0]
    params, initial, x, cotangents = draw(cell, steps=4, batch=3)
    clean = by_hand(cell, params, initial, x, cotangents)
    poisoned = x.copy()
    poisoned[2, 1] = np.nan
    found = by_hand(cell, params, initial, poisoned, cotangents)
    per_row = [
        key for key in found if key == "x" or key.removesuffix("@t").removesuffix("_0") in initial
    ]
    for key in per_row:
        np.testing.assert_array_equal(
            found[key][..., [0, 2], :], clean[key][..., [0, 2], :], err_msg=key
        )
    assert np.isnan(found["W_xh"]).any(), "not swallowed"


def test_nan_that_leaves_its_row_is_seen():
    class OverTheBatch(RNN):
        def delta(self, params, cache, d_state):
            delta, previous = super().delta(params, cache, d_state)
            return delta, {"h": previous["h"] + 0 * delta.sum()}

    params, initial, x, cotangents = draw(RNN(), steps=4, batch=3)
    poisoned = x.copy()
    poisoned[2, 1] = np.nan
    assert np.isnan(by_hand(OverTheBatch(), params, initial, poisoned, cotangents)["h_0"][0]).all()


# Forms of the inputs.

LAYOUTS = {
    "column major": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.flip(np.ascontiguousarray(np.flip(a))),
}


@every_cell
def test_the_memory_layout_does_not_matter(name):
    cell = CELLS[name][0]
    numbers = draw(cell)
    for layout in LAYOUTS.values():
        strided = [
            layout(one) if isinstance(one, np.ndarray) else {k: layout(v) for k, v in one.items()}
            for one in numbers
        ]
        assert not strided[2].flags.c_contiguous
        assert wrong(by_hand(cell, *strided), by_hand(cell, *numbers)) == set()
    *numbers, cotangents = numbers
    expanded = {key: np.broadcast_to(value[0, 0], value.shape) for key, value in cotangents.items()}
    assert all(value.strides[:2] == (0, 0) for value in expanded.values())
    plain = {key: np.ascontiguousarray(value) for key, value in expanded.items()}
    assert wrong(by_hand(cell, *numbers, expanded), by_torch(name, *numbers, plain)) == set()


class InMemoryOrder(LSTM):
    def accumulate(self, params, cache, delta):
        in_memory = {
            key: value.ravel(order="K").reshape(value.shape) for key, value in cache.items()
        }
        return super().accumulate(params, in_memory, delta)


class IgnoresStrides(LSTM):
    """What a kernel does that walks through the cotangent's memory as if it were contiguous."""

    def delta(self, params, cache, d_state):
        flat = {
            key: np.lib.stride_tricks.as_strided(v, (v.size,), (v.itemsize,), writeable=False)
            for key, v in d_state.items()
        }
        return super().delta(
            params, cache, {key: flat[key].reshape(value.shape) for key, value in d_state.items()}
        )


def test_code_that_reads_memory_in_its_own_order_is_seen():
    params, initial, x, cotangents = draw(LSTM(), steps=1)
    x = np.asfortranarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    _, cache = LSTM().step(np, params, initial, np.asfortranarray(x[0]))
    d_state = {key: value[0] for key, value in cotangents.items()}
    right, found = (
        LSTM().step_backward(params, cache, d_state),
        InMemoryOrder().step_backward(params, cache, d_state),
    )
    assert relative_error(found[0]["W_xh"], right[0]["W_xh"]) > 0.1
    odd = {key: np.asfortranarray(value) for key, value in d_state.items()}
    assert (
        relative_error(IgnoresStrides().step_backward(params, cache, odd)[2]["h"], right[2]["h"])
        > 0.1
    )


@every_cell
def test_tokens_are_the_columns_of_w_xh(name):
    cell = CELLS[name][0]
    numbers = draw(cell, steps=6, batch=3, tokens=True)
    assert len(np.unique(numbers[2])) < numbers[2].size, "a token occurs twice"
    found = by_hand(cell, *numbers)
    assert "x" not in found
    assert wrong(found, by_torch(name, *numbers)) == set()


def test_a_token_that_overwrites_instead_of_adding_is_seen():
    class Overwrites(MinGRU):
        def accumulate(self, params, cache, delta):
            d_params, d_x = super().accumulate(params, cache, delta)
            overwritten = np.zeros_like(d_params["W_xh"])
            overwritten[:, cache["x"].reshape(-1)] += delta.reshape(-1, delta.shape[-1]).T
            return {**d_params, "W_xh": overwritten}, d_x

    numbers = draw(MinGRU(), steps=6, batch=3, tokens=True)
    assert wrong(by_hand(Overwrites(), *numbers), by_torch("min-gru", *numbers)) == {
        "W_xh",
        "W_xh@t",
    }


def cast(given, dtype):
    return (
        {key: value.astype(dtype) for key, value in given.items()}
        if isinstance(given, dict)
        else given.astype(dtype)
    )


SINGLE = 2e-5  # measured over six draws of every cell: at most 5e-6, of a step of the LRU


@every_cell
def test_single_precision_is_kept_and_right(name):
    cell = CELLS[name][0]
    single = [cast(given, np.float32) for given in draw(cell)]
    found = by_hand(cell, *single)
    tape = bptt.forward(cell, *single[:3])
    local = jacobians.state_jacobians(cell, single[0], tape)
    assert {value.dtype.name for value in (*found.values(), *tape.states.values(), local)} == {
        "float32"
    }
    assert (
        wrong(found, by_torch(name, *(cast(given, np.float64) for given in single)), SINGLE)
        == set()
    )


def test_a_thousandth_in_single_precision_is_seen():
    class Slightly(GRU):
        def delta(self, params, cache, d_state):
            delta, previous = super().delta(params, cache, d_state)
            return delta, {"h": previous["h"] * np.float32(1.001)}

    single = [cast(given, np.float32) for given in draw(GRU())]
    expected = by_torch("gru-after", *(cast(given, np.float64) for given in single))
    assert wrong(by_hand(Slightly(), *single), expected, SINGLE) == set(expected)


# What is said in one cell's derivation.


def test_gru_refuses_a_reset_elsewhere():
    with pytest.raises(ValueError, match="'after' or 'before'"):
        GRU("between")


@pytest.mark.parametrize("size", [0, H + 1])
def test_a_projection_has_a_size_that_fits(size):
    with pytest.raises(ValueError, match="projection_size"):
        ProjectedLSTM(size).state_shapes(H)


def test_irnn_starts_at_identity_and_passes_the_gradient_of_an_active_unit_on_unchanged():
    cell = IRNN()
    drawn = cell.initialise(np.random.default_rng(0), I, H, 2)
    np.testing.assert_array_equal(drawn["W_hh"], np.eye(H))
    assert not drawn["b_h"].any()
    params, initial, x, cotangents = draw(cell, steps=6)
    params = {**params, **drawn, "W_xh": np.abs(params["W_xh"])}
    found = swept(
        cell, params, {"h": np.abs(initial["h"])}, np.abs(x), only_at(-1, cotangents)
    ).d_state["h"]
    np.testing.assert_array_equal(found, np.broadcast_to(cotangents["h"][-1], found.shape))
    moved = swept(
        cell,
        {**params, "W_hh": 0.9 * params["W_hh"]},
        {"h": np.abs(initial["h"])},
        np.abs(x),
        only_at(-1, cotangents),
    )
    assert relative_error(moved.d_state["h"][0], cotangents["h"][-1]) > 0.4, "0.9⁶"


@pytest.mark.parametrize(("cell", "name"), [(MinGRU(), "min-gru"), (MinLSTM(), "min-lstm")])
def test_at_the_kink_of_positive_the_slope_is_one(cell, name):
    """g jumps in slope from ¼ to 1 at zero.

    h is continuous there, so that only the derivative tells.
    """
    params, initial, x, cotangents = draw(cell, steps=1, batch=1)
    gates = len(params["b_h"]) - H
    params = {
        **params,
        "b_h": np.concatenate([params["b_h"][:gates], -(params["W_xh"] @ x[0, 0])[gates:]]),
    }
    _, cache = cell.step(np, params, initial, x[0])
    at_kink = {**cache, "a_h": np.zeros_like(cache["a_h"])}
    left = {**cache, "a_h": np.full_like(cache["a_h"], -1e-9), "g": np.full_like(cache["g"], 0.5)}
    at, below = (
        cell.delta(params, given, {"h": cotangents["h"][0]})[0][0, gates:]
        for given in (at_kink, left)
    )
    assert relative_error(at, 4 * below) <= 1e-8
    zero = {key: np.zeros_like(value) for key, value in params.items()}
    numbers = (zero, initial, x, cotangents)
    expected = by_torch(name, *numbers)
    assert wrong(by_hand(cell, *numbers), expected) == set()
    assert wrong({**by_hand(cell, *numbers), "b_h": expected["b_h"] / 4}, expected) == {"b_h"}


def test_the_lru_cannot_explode():
    """|λ| < 1; where e^−e^ν is 1 to float64, still not more."""
    nu, theta = np.meshgrid(np.linspace(-36, 6, 200), np.linspace(-5, 2, 50))
    radius = np.hypot(*eigenvalues(np, {"nu": nu, "theta": theta}))
    assert (radius <= 1 + 2 * np.finfo(float).eps).all()
    assert (np.hypot(*eigenvalues(np, {"nu": nu[nu > -34], "theta": theta[nu > -34]})) < 1).all()
    assert (
        np.max(np.hypot(*eigenvalues(np, {"nu": np.array([-700.0, -40.0]), "theta": np.zeros(2)})))
        <= 1 + 2 * np.finfo(float).eps
    )
    assert np.abs(np.exp(nu) * np.exp(1j * np.exp(theta))).max() > 1, (
        "without −e^ν in the exponent it can"
    )
    drawn = LRU(0.5, 0.9).initialise(np.random.default_rng(0), I, 1000, 1)
    radius = np.hypot(*eigenvalues(np, drawn))
    assert radius.min() >= 0.5 - 1e-12
    assert radius.max() <= 0.9 + 1e-12


def test_the_radius_of_the_lru_is_rounded_to_1_below_minus_54_log_2():
    """math.exp rounds as it should.

    NumPy's may be off by one unit in the last place, on the side below 1.
    """
    bound = -54 * math.log(2)
    assert math.exp(-math.exp(bound - 1e-9)) == 1
    assert math.exp(-math.exp(bound + 1e-9)) < 1
    assert math.exp(-math.exp(-36.0)) < 1
    above, below = np.linspace(bound + 1e-9, -36, 10_000), np.linspace(-50, -37.64, 10_000)
    assert (np.exp(-np.exp(above)) < 1).all()
    assert (np.exp(-np.exp(below)) == 1).all()


def test_the_gru_s_bias_gradients_differ_by_r_in_each_step_and_row_alone():
    params, initial, x, cotangents = draw(GRU("after"))
    tape = bptt.forward(GRU("after"), params, initial, x)
    shares = []
    for t, left in enumerate(tape.caches):
        for row in range(x.shape[1]):
            own = {name: value[row : row + 1] for name, value in left.items()}
            d_state = {"h": cotangents["h"][t, row : row + 1]}
            d_params, _, _ = GRU("after").step_backward(params, own, d_state)
            b_x_n, b_hh_n = d_params["b_x"][2 * H :], d_params["b_hh"][2 * H :]
            assert relative_error(b_hh_n, own["r"][0] * b_x_n) <= ROUNDING
            shares.append((own["r"][0], b_x_n, b_hh_n))
    r, b_x_n, b_hh_n = (np.array(parts) for parts in zip(*shares, strict=True))
    assert relative_error(b_hh_n.sum(axis=0), r.mean(axis=0) * b_x_n.sum(axis=0)) > 1e-3
    ratio = b_hh_n.sum(axis=0) / b_x_n.sum(axis=0)
    assert not (np.abs(r - ratio) <= 1e-3).all(axis=1).any(), (
        "no step's r is the factor of the sums"
    )


@pytest.mark.parametrize("cell", [cell for cell, _ in CELLS.values()], ids=list(CELLS))
def test_every_derivation_says_where_its_conventions_stand(cell):
    assert "manual/__init__.py" in sys.modules[type(cell).__module__].__doc__


def complex_lru(sequence=None):
    """(λ, s_0, u (T, B, H), e (T, B, H), gradients by hand): the LRU's numbers as complex ones."""
    params, initial, x, cotangents = draw(LRU())
    radius, angle = np.exp(-np.exp(params["nu"])), np.exp(params["theta"])
    v = x @ params["W_xh"].T
    u = np.exp(params["gamma"]) * (v[..., :H] + 1j * v[..., H:])
    e = cotangents["re"] + 1j * cotangents["im"]
    found = by_hand(LRU(), params, initial, x, cotangents)
    return radius * np.exp(1j * angle), initial["re"] + 1j * initial["im"], u, e, found


def test_the_lru_is_complex_multiplication():
    lambda_, s, u, _, _ = complex_lru()
    params, initial, x, _ = draw(LRU())
    tape = bptt.forward(LRU(), params, initial, x)
    for t, u_t in enumerate(u):
        s = lambda_ * s + u_t
        assert (
            relative_error(tape.states["re"][t + 1] + 1j * tape.states["im"][t + 1], s) <= ROUNDING
        )
    local = jacobians.state_jacobians(LRU(), params, tape)[0, 0]
    moved = np.array([0.3, -0.2, 0.5, 1.0]) + 1j * np.array([1.0, 0.4, -0.7, 0.1])
    image = local @ np.concatenate([moved.real, moved.imag])
    assert relative_error(image[:H] + 1j * image[H:], lambda_ * moved) <= ROUNDING
    assert relative_error(image[:H] + 1j * image[H:], np.conj(lambda_) * moved) > 0.1


def test_torch_s_complex_gradient_is_dre_plus_i_dim_and_jax_s_its_conjugate():
    lambda_, s_0, u, e, found = complex_lru()
    by_parts = found["re_0"] + 1j * found["im_0"]

    def real_loss(multiply, s):
        total = 0.0
        for u_t, e_t in zip(u, e, strict=True):
            s = multiply(s) + u_t
            total = total + (s.real * e_t.real + s.imag * e_t.imag).sum()
        return total

    u, e = torch.tensor(u), torch.tensor(e)
    s = torch.tensor(s_0, requires_grad=True)
    real_loss(lambda s: torch.tensor(lambda_) * s, s).backward()
    assert relative_error(s.grad.numpy(), by_parts) <= ROUNDING
    u, e = u.numpy(), e.numpy()
    with jax.enable_x64(True):
        told = np.asarray(
            jax.grad(lambda s: real_loss(lambda s: lambda_ * s, s))(jax.numpy.asarray(s_0))
        )
    assert relative_error(told, np.conj(by_parts)) <= ROUNDING
    assert relative_error(told, by_parts) > 0.1


class OtherBranch(SLSTM):
    """The stabiliser's maximum differentiated along the branch that was not taken."""

    def recur(self, *arguments):
        state, cache = super().recur(*arguments)
        return state, {**cache, "w": 1 - cache["w"]}


class StabiliserDetached(SLSTM):
    """m taken as a constant: nothing goes through it."""

    def delta(self, params, cache, d_state):
        dh, o, n = d_state["h"], cache["o"], cache["n"]
        dc, dn = d_state["c"] + dh * o / n, d_state["n"] - dh * o * cache["v"] / n
        di, df = dc * cache["z"] + dn, dc * cache["c_prev"] + dn * cache["n_prev"]
        delta, previous = super().delta(
            params, cache, {**d_state, "m": di * cache["i"] + df * cache["f"]}
        )
        return delta, {**previous, "m": np.zeros_like(dh)}


def reading(part, cotangents):
    return {
        key: value if key == part else np.zeros_like(value) for key, value in cotangents.items()
    }


def test_a_loss_that_reads_h_alone_does_not_ask_how_the_stabiliser_is_differentiated():
    *numbers, cotangents = draw(SLSTM(), steps=7, batch=3)
    for part, changed in (("h", False), ("c", True), ("n", True), ("m", True)):
        given = reading(part, cotangents)
        found, other = (swept(cell, *numbers, given) for cell in (SLSTM(), OtherBranch()))
        assert (relative_error(other.params["W_hh"], found.params["W_hh"]) > 0.01) is changed
        if not changed:
            for key, value in found.params.items():
                assert relative_error(other.params[key], value) <= ROUNDING
            assert relative_error(other.x, found.x, separately=1) <= ROUNDING
            for key, value in found.d_state.items():
                assert (
                    relative_error(other.d_state[key], value, separately=int(key != "m"))
                    <= ROUNDING
                ), key


def test_a_detached_stabiliser_is_right_for_a_loss_that_reads_h_alone_but_for_its_own_start():
    *numbers, cotangents = draw(SLSTM(), steps=7, batch=3)
    alone = reading("h", cotangents)
    expected = by_torch("slstm", *numbers, alone)
    assert wrong(by_hand(StabiliserDetached(), *numbers, alone), expected) == {"m_0", "m@t"}
    expected = by_torch("slstm", *numbers, cotangents)
    assert wrong(by_hand(StabiliserDetached(), *numbers, cotangents), expected) == set(expected)


def half_each(xp, params, state, x):
    """The sLSTM with a maximum that shares a tie, as torch.maximum does."""
    gates = (
        equations.affine(xp, x, params["W_xh"])
        + equations.affine(xp, state["h"], params["W_hh"])
        + params["b_h"]
    )
    log_input, to_keep, candidate, to_show = equations.blocks(gates, 4)
    log_kept = state["m"] - xp.logaddexp(xp.zeros_like(to_keep), -to_keep)
    peak = torch.maximum(log_input, log_kept)
    write, keep = xp.exp(log_input - peak), xp.exp(log_kept - peak)
    cell, normaliser = write * xp.tanh(candidate) + keep * state["c"], write + keep * state["n"]
    return {
        "h": equations.sigmoid(xp, to_show) * (cell / normaliser),
        "c": cell,
        "n": normaliser,
        "m": peak,
    }


@pytest.mark.parametrize(("part", "differing"), [("h", False), ("m", True)])
def test_a_tie_of_the_stabiliser_shows_only_where_m_is_read(part, differing):
    cell = SLSTM()
    params, initial, x, cotangents = draw(cell, steps=1)
    params = {key: np.zeros_like(value) for key, value in params.items()}
    params["b_h"][:H] = -np.log1p(1.0)  # p = log σ(0) + 0 = q
    params["b_h"][3 * H :] = 0.3
    params["W_xh"][2 * H :] = 0.7
    initial = {**initial, "m": np.zeros_like(initial["m"])}
    _, cache = cell.step(np, params, initial, x[0])
    assert (cache["w"] == 1).all()
    assert (cache["i"] == cache["f"]).all(), "a tie"
    numbers = (params, initial, x, reading(part, cotangents))
    names = tuple(params), tuple(initial)
    variables = {**params, **{f"{key}_0": value for key, value in initial.items()}, "x": x}
    function = equations.SequenceLoss(half_each, equations.projection, *names, "@t")
    shared = torch_autograd.gradients(
        function, variables, {f"cotangent_{k}": v for k, v in numbers[3].items()}
    )[2]
    found = {key: value for key, value in by_hand(cell, *numbers).items() if key in shared}
    assert wrong(by_hand(cell, *numbers), by_torch("slstm", *numbers)) <= {"m_0"}
    assert bool(np.max(np.abs(found["m_0"] - shared["m_0"])) > 0.1) is differing
    assert relative_error(found["b_h"][2 * H :], shared["b_h"][2 * H :]) <= ROUNDING
    assert (relative_error(found["b_h"][:H], shared["b_h"][:H]) > 0.1) is differing


# Mistakes, and where they are said to be.


def with_delta(change):
    """The methods of a cell whose delta is changed.

    change(self, params, cache, d_state, delta, previous).
    """

    def delta(self, params, cache, d_state):
        return change(
            self, params, cache, d_state, *super(type(self), self).delta(params, cache, d_state)
        )

    return {"delta": delta}


def with_accumulate(change):
    """The same of accumulate: change(self, params, cache, delta, d_params, d_x)."""

    def accumulate(self, params, cache, delta):
        return change(
            self, params, cache, delta, *super(type(self), self).accumulate(params, cache, delta)
        )

    return {"accumulate": accumulate}


def gate(values, number, size):
    return values[..., number * size : (number + 1) * size]


def carry(part, change):
    """Another dh_{t−1}, or dc_{t−1}: change(params, cache, d_state, delta, its right value)."""

    def changed(self, params, cache, d_state, delta, previous):
        return delta, {**previous, part: change(params, cache, d_state, delta, previous[part])}

    return with_delta(changed)


def share(name, change):
    """Another gradient of one parameter: change(params, cache, delta, its right value)."""

    def changed(self, params, cache, delta, d_params, d_x):
        return {**d_params, name: change(params, cache, delta, d_params[name])}, d_x

    return with_accumulate(changed)


def block(number, change):
    """Another δ of one gate: change(params, cache, d_state, its right value).

    What comes of δ goes on from the wrong one.
    """

    def changed(self, params, cache, d_state, delta, previous):
        size = (
            next(iter(cache.values())).shape[-1] if "x" not in cache else cache["h_prev"].shape[-1]
        )
        moved = np.array(delta)
        gate(moved, number, size)[...] = change(params, cache, d_state, gate(delta, number, size))
        after = dict(previous)
        if "W_hh" in params:
            after["h"] = (
                previous["h"] + (moved - delta)[..., : len(params["W_hh"])] @ params["W_hh"]
            )
        return moved, after

    return with_delta(changed)


def old_state_for_new(cache):
    return {**cache, "h_prev": cache["h"]}


def new_state_for_old(self, params, cache, delta):
    return super(type(self), self).accumulate(params, old_state_for_new(cache), delta)


def peephole_by_old_cell(params, cache, delta, right):
    size = cache["c"].shape[-1]
    return np.sum((gate(delta, 3, size) * cache["c_prev"]).reshape(-1, size), axis=0)


def minus_peephole(name, number):
    return carry(
        "c", lambda p, c, d, delta, right: right - p[name] * gate(delta, number, len(p[name]))
    )


def output_peephole_left_out(self, params, cache, d_state):
    return super(type(self), self).delta(
        {**params, "p_o": np.zeros_like(params["p_o"])}, cache, d_state
    )


def swapped(one, other):
    """A delta that takes one entry of the cache for the other."""

    def delta(self, params, cache, d_state):
        return super(type(self), self).delta(
            params, {**cache, one: cache[other], other: cache[one]}, d_state
        )

    return {"delta": delta}


def gates_permuted(params, cache, delta, right):
    i, f, g, o = np.split(right, 4)
    return np.concatenate([i, g, f, o])


def without_tanh_of_cell(self, params, cache, d_state):
    return super(type(self), self).delta(
        params, {**cache, "tanh_c": np.zeros_like(cache["tanh_c"])}, d_state
    )


def projected_without_o(params, cache, delta, right):
    width, size = params["W_hh"].shape
    return delta[..., width:].reshape(-1, size).T @ cache["tanh_c"].reshape(
        -1, params["W_hr"].shape[1]
    )


def seen_without_reset(self, params, cache, delta):
    return super(type(self), self).accumulate(params, {**cache, "seen": cache["h_prev"]}, delta)


def not_conjugated(part, sign):
    def other(params, cache, d_state, delta, right):
        lambda_im = eigenvalues(np, params)[1]
        return right - 2 * sign * lambda_im * d_state["im" if part == "re" else "re"]

    return carry(part, other)


def chain_rule_left_out(name):
    return share(name, lambda p, c, delta, right: right / np.exp(p[name]))


SMALL = {"steps": 2, "batch": 2, "input_size": 2, "hidden_size": 3, "references": ["torch"]}

# cell, what is planted, its methods, what is said
MISTAKES = (
    (
        RNN(),
        "slope left out of δ",
        with_delta(lambda s, p, c, d, delta, before: (d["h"], before)),
        "d_params['W_xh']",
    ),
    (
        RNN(),
        "transposed carry",
        carry("h", lambda p, c, d, delta, right: delta @ p["W_hh"].T),
        "d_state_prev['h']",
    ),
    (RNN("relu"), "new state for old", {"accumulate": new_state_for_old}, "d_params['W_hh']"),
    (
        RNN("relu"),
        "dead units pass",
        with_delta(lambda s, p, c, d, delta, before: (d["h"], before)),
        "d_params['b_h']",
    ),
    (IRNN(), "new state for old", {"accumulate": new_state_for_old}, "d_params['W_hh']"),
    (
        IRNN(),
        "carry not cut at a dead unit",
        carry("h", lambda p, c, d, delta, right: d["h"] @ p["W_hh"]),
        "d_state_prev['h']",
    ),
    (
        IRNN(),
        "carry as if W_hh stayed I",
        carry("h", lambda p, c, d, delta, right: delta),
        "d_state_prev['h']",
    ),
    (
        ResidualRNN(),
        "identity path",
        carry("h", lambda p, c, d, delta, right: right - d["h"]),
        "d_state_prev['h']",
    ),
    (
        ResidualRNN(),
        "α left out",
        share("b_h", lambda p, c, delta, right: 2 * right),
        "d_params['b_h']",
    ),
    (
        LSTM(),
        "carry of c dropped",
        carry("c", lambda p, c, d, delta, right: 0 * right),
        "d_state_prev['c']",
    ),
    (LSTM(), "1 − tanh² c forgotten", {"delta": without_tanh_of_cell}, "d_params['W_xh']"),
    (
        LSTM(),
        "gates permuted",
        share("b_h", gates_permuted),
        "4 blocks of rows in the wrong order: 1, 3, 2, 4",
    ),
    (
        PeepholeLSTM(),
        "p_i ⊙ δ_i",
        minus_peephole("p_i", 0),
        "is wrong in d_state_prev['c'] (steps 1–2 of 1–2); right in",
    ),
    (
        PeepholeLSTM(),
        "p_f ⊙ δ_f",
        minus_peephole("p_f", 1),
        "is wrong in d_state_prev['c'] (steps 1–2 of 1–2); right in",
    ),
    (PeepholeLSTM(), "p_o ⊙ δ_o", {"delta": output_peephole_left_out}, "right in d_params['p_o']"),
    (
        PeepholeLSTM(),
        "o sees the old cell",
        share("p_o", peephole_by_old_cell),
        "is wrong in d_params['p_o'] (steps",
    ),
    (
        ProjectedLSTM(2),
        "carry of c dropped",
        carry("c", lambda p, c, d, delta, right: 0 * right),
        "d_state_prev['c']",
    ),
    (ProjectedLSTM(2), "o left out", share("W_hr", projected_without_o), "d_params['W_hr']"),
    (
        GRU("after"),
        "one bias for both",
        share("b_hh", lambda p, c, delta, right: delta[..., :9].sum(0)),
        "block 3 of 3",
    ),
    (GRU("after"), "z and 1 − z swapped", swapped("z", "not_z"), "d_state_prev['h']"),
    (
        GRU("before"),
        "carry through r",
        carry("h", lambda p, c, d, delta, right: right - delta[..., :3] @ p["W_hh"][:3]),
        "d_state_prev['h']",
    ),
    (
        GRU("before"),
        "W_hn without r",
        {"accumulate": seen_without_reset},
        "is wrong in d_params['W_hh']",
    ),
    (MinGRU(), "z and 1 − z swapped", swapped("z", "not_z"), "d_state_prev['h']"),
    (MinGRU(), "slope of g", block(1, lambda p, c, d, right: d["h"] * c["z"]), "d_params['W_xh']"),
    (MinLSTM(), "ī and f̄ swapped", swapped("not_i", "not_f"), "is wrong in d_params['W_xh']"),
    (MinLSTM(), "sign of δ_i", block(1, lambda p, c, d, right: -right), "block 2 of 3"),
    (LRU(), "no conjugate, re", not_conjugated("re", 1), "is wrong in d_state_prev['re']"),
    (LRU(), "no conjugate, im", not_conjugated("im", -1), "is wrong in d_state_prev['im']"),
    (LRU(), "e^ν left out", chain_rule_left_out("nu"), "is wrong in d_params['nu']"),
    (LRU(), "e^θ left out", chain_rule_left_out("theta"), "is wrong in d_params['theta']"),
)


def planted(cell, methods):
    return type("Mistaken", (type(cell),), methods)(**vars(cell))


@pytest.mark.parametrize(
    ("cell", "methods", "said"),
    [(c, m, s) for c, _, m, s in MISTAKES],
    ids=[f"{type(c).__name__}: {what}" for c, what, _, _ in MISTAKES],
)
def test_a_mistake_is_found_where_it_is(cell, methods, said):
    with pytest.raises(GradientMismatch) as caught:
        check_cell(planted(cell, methods), **SMALL)
    assert said in str(caught.value)


@every_cell
def test_own_step_is_differentiated_to_the_same(name):
    assert check_cell(CELLS[name][0], **{**SMALL, "batch": 1}).passed


def wrong_rows(name, candidate, **options):
    """The gradients that are said to be wrong along the way that built-in cells take."""
    problem = problem_of(
        Case(
            name, name, steps=4, batch=2, input_size=2, hidden_size=3, loss="projection", **options
        )
    )
    case = check_problem(problem, candidate, select(("torch",)))
    assert not case.forward_differs
    return {row.gradient for row in case.failures()}


class NormaliserForgotten(SLSTM):
    def delta(self, params, cache, d_state):
        delta, previous = super().delta(params, cache, d_state)
        return delta, {**previous, "n": np.zeros_like(previous["n"])}


class ForgetGateAsSigmoid(SLSTM):
    """δ_f with f f̄, as if f were σ(a_f)."""

    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        size = cache["f"].shape[-1]
        rows = np.array(delta)
        gate(rows, 1, size)[...] *= cache["f"]
        return {**d_params, "b_h": rows.reshape(-1, 4 * size).sum(axis=0)}, d_x


EVERY_SLSTM = {"W_xh", "W_hh", "b_h", "x", "h_0", "c_0", "n_0", "m_0"}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (SLSTM(), set()),
        (StabiliserDetached(), EVERY_SLSTM),
        (NormaliserForgotten(), EVERY_SLSTM),
        (ForgetGateAsSigmoid(), {"b_h"}),
    ],
)
def test_a_mistake_in_the_slstm_is_found(cell, said):
    assert wrong_rows("slstm", CellCandidate(cell)) == said


class OwnDerivativeOfH(CellCandidate):
    """dW_hr with the loss's own derivative of h_t, where its total derivative belongs."""

    def answer(self, problem):
        answer = super().answer(problem)
        tape = self.forward(problem).tape
        m = np.stack([cache["m"] for cache in tape.caches])
        answer.gradients["W_hr"] = np.einsum("tbp,tbh->ph", problem.constants["cotangent_h"], m)
        return answer


@pytest.mark.parametrize(
    ("candidate", "said"), [(CellCandidate, set()), (OwnDerivativeOfH, {"W_hr"})]
)
def test_the_projection_s_gradient_has_the_carry_in_it(candidate, said):
    options = {"options": {"projection_size": 2}}
    assert wrong_rows("projected-lstm", candidate(ProjectedLSTM(2)), **options) == said
