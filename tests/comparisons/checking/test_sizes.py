"""A cell at other sizes: mistakes that show only there, and cells that have no other sizes."""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell
from bptt_crosscheck.comparisons.candidates.built_in_cells import CELLS
from bptt_crosscheck.comparisons.errors import NotRepeatable
from bptt_crosscheck.manual.cells.rnn import RNN

from tests.comparisons.small import TORCH, Elman, elman, spoiled


def wrong_where(condition):
    """An Elman cell whose step_backward is wrong where condition(params, cache) holds."""

    def step_backward(params, cache, d_state):
        d_params, d_x, before = elman("step_backward", params, cache, d_state)
        if condition(params, cache):
            d_x = d_x * 1.01
        return d_params, d_x, before

    return spoiled(step_backward=step_backward)


ONLY = {
    "six units or more": lambda params, cache: len(params["U"]) >= 6,
    "a multiple of eight units": lambda params, cache: len(params["U"]) % 8 == 0,
    "an odd number of units above five": lambda params, cache: len(params["U"]) in (7, 9),
    "one row": lambda params, cache: len(cache[0]) == 1,
    "four rows or more": lambda params, cache: len(cache[0]) >= 4,
    "eight rows or more": lambda params, cache: len(cache[0]) >= 8,
    "an odd number of inputs": lambda params, cache: cache[0].shape[1] % 2 == 1,
    "more inputs than units": lambda params, cache: params["W"].shape[1] > len(params["W"]),
    "one unit": lambda params, cache: len(params["U"]) == 1,
    "x is zero": lambda params, cache: not cache[0].any(),
    "an initial state of zero": lambda params, cache: not cache[1].any(),
}


@pytest.mark.parametrize("condition", ONLY.values(), ids=ONLY)
def test_a_mistake_at_some_sizes_alone(condition):
    with pytest.raises(GradientMismatch, match="x: differs from torch") as caught:
        check_cell(wrong_where(condition), **TORCH)
    assert "8 comparisons agree" not in str(caught.value)
    assert "Spoiled at T = " in str(caught.value)


class Counting(Elman):
    """Wrong from the thirteenth step of a sequence on."""

    def step(self, xp, params, state, x):
        h = xp.tanh(x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": h, "t": state["t"] + 1.0}, (x, state["h"], h, state["t"])

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,), "t": (1,)}

    def initialise(self, rng, input_size, hidden_size, batch):
        del rng, input_size, hidden_size
        return {"t_0": np.full((batch, 1), 0.01)}

    def step_backward(self, params, cache, d_state):
        d_params, d_x, before = super().step_backward(params, cache[:3], d_state)
        if cache[3].max() > 12.5:
            d_params["W"] = 0 * d_params["W"]
        return d_params, d_x, {**before, "t": d_state["t"]}


def test_a_mistake_in_long_sequences_alone():
    with pytest.raises(GradientMismatch, match="Counting at T = 17"):
        check_cell(Counting(), **TORCH)


def test_right_at_all_sizes_is_told():
    told = str(check_cell(Elman(), **TORCH))
    assert (
        "also right at T = 17, B = 1, I = 11, H = 9, x = 0 at steps 5, 16, 17; T = 2, B = 8, "
        "I = 3, H = 16, initial states zero; T = 1, B = 2, I = 1, H = 1"
    ) in told
    report = check_cell(Elman(), **TORCH)
    assert [len(case.also) for case in report.cases] == [0, 3]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("seed", range(3))
def test_built_in_cells_are_right_at_all_sizes(name, seed):
    report = check_cell(CELLS[name](), seed=seed, **TORCH)
    assert report.passed
    assert len(report.cases[-1].also) >= 2
    assert not any("not judged" in note for case in report.cases for note in case.notes)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_in_a_lower_precision(dtype):
    assert check_cell(RNN(), dtype=dtype, **TORCH).passed
    with pytest.raises(GradientMismatch, match="at T = 17"):
        check_cell(doubled_for_one_row(), dtype=dtype, **TORCH)


def doubled_for_one_row():
    def step_backward(params, cache, d_state):
        d_params, d_x, before = elman("step_backward", params, cache, d_state)
        return d_params, d_x * (2 if len(d_x) == 1 else 1), before

    return spoiled(step_backward=step_backward)


class Fixed(Elman):
    """Its sizes are those it was made for, whatever it is asked."""

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (5, 4), "U": (5, 5)}

    def state_shapes(self, hidden_size):
        return {"h": (5,)}


class Remembers(Elman):
    """It keeps the width that it is asked for, and reads it in every step."""

    def parameter_shapes(self, input_size, hidden_size):
        self.width = hidden_size
        return super().parameter_shapes(input_size, hidden_size)

    def step(self, xp, params, state, x):
        assert state["h"].shape[-1] == self.width
        return super().step(xp, params, state, x)


class InHeads(Elman):
    """Its width is a multiple of five."""

    def step(self, xp, params, state, x):
        xp.reshape(state["h"], (-1, 5))
        return super().step(xp, params, state, x)


class ManyRows(Elman):
    """It takes no single row."""

    def step(self, xp, params, state, x):
        assert len(x) > 1, "at least two rows"
        return super().step(xp, params, state, x)


@pytest.mark.parametrize(
    ("cell", "also", "words"),
    [
        (Fixed(), 3, "not judged at T = 17, B = 1, I = 11, H = 9"),
        (Remembers(), 3, ""),
        (InHeads(), 3, "not judged at T = 17, B = 1, I = 11, H = 9"),
        (ManyRows(), 2, "not judged at T = 17, B = 1"),
    ],
)
def test_a_cell_that_does_not_take_other_sizes(cell, also, words):
    report = check_cell(cell, **TORCH)
    assert report.passed
    assert words in str(report)
    assert len(report.cases[-1].also) == also
    assert check_cell(cell, **TORCH).passed


class FixedAndWrong(Fixed):
    def step_backward(self, params, cache, d_state):
        d_params, d_x, before = super().step_backward(params, cache, d_state)
        return d_params, d_x * (2 if len(d_x) == 1 else 1), before


def test_a_mistake_for_one_row_in_a_cell_of_fixed_sizes():
    with pytest.raises(GradientMismatch, match="at T = 17, B = 1, I = 4, H = 5"):
        check_cell(FixedAndWrong(), **TORCH)


class KeepsItsFirstWeights(Elman):
    first = None

    def step_backward(self, params, cache, d_state):
        if self.first is None or self.first["U"].shape != params["U"].shape:
            self.first = params
        return super().step_backward(self.first, cache, d_state)


class KeepsItsFirstWeightsForGood(Elman):
    first = None

    def step_backward(self, params, cache, d_state):
        self.first = self.first or params
        return super().step_backward(self.first, cache, d_state)


class Normalised(Elman):
    """h′ = z / ‖z‖, which a state and an x of zero have not."""

    def step(self, xp, params, state, x):
        z = x @ params["W"].T + state["h"] @ params["U"].T
        size = xp.sqrt(xp.sum(z * z, axis=-1, keepdims=True))
        return {"h": z / size}, (x, state["h"], z / size, size)

    def step_backward(self, params, cache, d_state):
        x, before, h, size = cache
        d = d_state["h"]
        delta = (d - h * (d * h).sum(axis=-1, keepdims=True)) / size
        return (
            {"W": delta.T @ x, "U": delta.T @ before},
            delta @ params["W"],
            {"h": delta @ params["U"]},
        )


def test_a_cell_that_keeps_its_first_weights():
    with pytest.raises(NotRepeatable, match="depends on what it was asked before"):
        check_cell(KeepsItsFirstWeightsForGood(), **TORCH)


def test_a_cell_that_is_not_defined_at_zero():
    assert check_cell(Normalised(), **TORCH).passed


def relu_cell(choice):
    def step(xp, params, state, x):
        z = x @ params["W"].T + state["h"] @ params["U"].T
        return {"h": xp.where(z > 0, z, 0 * z)}, (x, state["h"], z)

    def step_backward(params, cache, d_state):
        x, before, z = cache
        delta = d_state["h"] * choice(z)
        return (
            {"W": delta.T @ x, "U": delta.T @ before},
            delta @ params["W"],
            {"h": delta @ params["U"]},
        )

    return spoiled(step=step, step_backward=step_backward)


@pytest.mark.parametrize("choice", [lambda z: z > 0, lambda z: z >= 0])
@pytest.mark.parametrize("seed", range(5))
def test_either_choice_of_a_relu_at_zero_is_right(choice, seed):
    assert check_cell(relu_cell(choice), seed=seed, **TORCH).passed
