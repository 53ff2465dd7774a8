"""Real-time recurrent learning.

The gradient of backpropagation through time, forwards, for every cell; and what it keeps.
"""

import gc
import tracemalloc

import numpy as np
import pytest
from bptt_crosscheck.manual import jacobians
from bptt_crosscheck.manual.cells.gru import GRU
from bptt_crosscheck.manual.cells.lru import LRU
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.min_gru import MinGRU
from bptt_crosscheck.manual.cells.min_lstm import MinLSTM
from bptt_crosscheck.manual.cells.peephole_lstm import PeepholeLSTM
from bptt_crosscheck.manual.cells.projected_lstm import ProjectedLSTM
from bptt_crosscheck.manual.cells.residual import ResidualRNN
from bptt_crosscheck.manual.cells.rnn import IRNN, RNN
from bptt_crosscheck.manual.cells.slstm import SLSTM
from bptt_crosscheck.manual.through_time import bptt, rtrl

from tests.closeness import ROUNDING, relative_error

CELLS = {
    "rnn-tanh": RNN(),
    "rnn-relu": RNN("relu"),
    "irnn": IRNN(),
    "residual": ResidualRNN(),
    "lstm": LSTM(),
    "peephole-lstm": PeepholeLSTM(),
    "projected-lstm": ProjectedLSTM(2),
    "gru-after": GRU(),
    "gru-before": GRU("before"),
    "min-gru": MinGRU(),
    "min-lstm": MinLSTM(),
    "lru": LRU(),
    "slstm": SLSTM(),
    "leaky memory": None,
}
I, H = 3, 3  # noqa: E741
MASK = np.array([[1, 1], [1, 0], [1, 1], [0, 1], [1, 0]], dtype=bool)


@pytest.fixture
def cell(name, leaky_memory):
    return CELLS[name] or leaky_memory


def draw(cell, steps, batch=2, hidden_size=H, masked=False):
    """(params, tape, cotangents)."""
    rng = np.random.default_rng(2)
    params = {
        key: 0.7 * rng.normal(size=shape)
        for key, shape in cell.parameter_shapes(I, hidden_size).items()
    }
    states = cell.state_shapes(hidden_size).items()
    initial = {key: rng.normal(size=(batch, *shape)) + 3 * (key == "n") for key, shape in states}
    cotangents = {key: rng.normal(size=(steps, *value.shape)) for key, value in initial.items()}
    mask = MASK[:steps] if masked else None
    return (
        params,
        bptt.forward(cell, params, initial, rng.normal(size=(steps, batch, I)), mask),
        cotangents,
    )


def wrong(found, expected):
    """The names in which RTRL's (∂L/∂W, ∂L/∂s_0) differ from BPTT's."""
    d_params, d_start = found
    everything = {**d_params, **{f"{key}_0": value for key, value in d_start.items()}}
    truth = {**expected.params, **{f"{key}_0": value[0] for key, value in expected.d_state.items()}}
    assert everything.keys() == truth.keys()
    return {
        key
        for key, value in truth.items()
        if not relative_error(everything[key], value) <= ROUNDING
    }


@pytest.mark.parametrize("name", CELLS)
def test_it_equals_backpropagation_through_time(cell):
    for steps in (1, 2, 5):
        for masked in (False, True):
            drawn = draw(cell, steps, masked=masked)
            assert wrong(rtrl.gradients(cell, *drawn), bptt.backward(cell, *drawn)) == set()


@pytest.mark.parametrize("name", ["projected-lstm", "lru", "leaky memory"])
def test_the_influence_of_a_row_is_its_own_step_s_derivative(cell):
    """∂⁺s_t/∂W, pulled back by a cotangent, is step_backward's share.

    The unit cotangents make it a Jacobian.
    """
    params, tape, cotangents = draw(cell, 3, masked=True)
    for t in range(3):
        at_once = rtrl.immediate(cell, params, tape, t)
        e = jacobians.flatten_state({key: cotangents[key][t] for key in tape.states})
        total = bptt.within(tape, t, {key: cotangents[key][t] for key in tape.states})
        for key, value in cell.step_backward(params, tape.caches[t], total)[0].items():
            assert relative_error(np.einsum("bi,bi...->...", e, at_once[key]), value) <= ROUNDING
            assert t != 1 or not at_once[key][1].any(), (
                "a row without a step has no influence at once"
            )


def without_jacobian(monkeypatch, cell):
    told = jacobians.state_jacobian
    monkeypatch.setattr(
        jacobians, "state_jacobian", lambda *arguments: np.zeros_like(told(*arguments))
    )


def with_transposed_jacobian(monkeypatch, cell):
    told = jacobians.state_jacobian
    monkeypatch.setattr(
        jacobians, "state_jacobian", lambda *arguments: np.swapaxes(told(*arguments), -1, -2)
    )


def without_immediate(monkeypatch, cell):
    told = rtrl.immediate

    def nothing(*arguments):
        return {key: 0 * value for key, value in told(*arguments).items()}

    monkeypatch.setattr(rtrl, "immediate", nothing)


@pytest.mark.parametrize("name", ["lstm", "gru-after"])
@pytest.mark.parametrize("mistake", [without_jacobian, with_transposed_jacobian, without_immediate])
def test_an_influence_that_forgets_a_term_is_seen(monkeypatch, cell, mistake):
    drawn, alone = draw(cell, 5), draw(cell, 1)
    expected, expected_alone = bptt.backward(cell, *drawn), bptt.backward(cell, *alone)
    starts, weights = {f"{key}_0" for key in drawn[2]}, set(drawn[0])
    mistake(monkeypatch, cell)
    assert wrong(rtrl.gradients(cell, *drawn), expected) == (
        weights if mistake is without_immediate else weights | starts
    )
    assert wrong(rtrl.gradients(cell, *alone), expected_alone) == (
        weights if mistake is without_immediate else starts
    )


def peak(cell, drawn):
    """Bytes held at most during rtrl.gradients, beside what it was given."""
    gc.collect()
    tracemalloc.start()
    try:
        rtrl.gradients(cell, *drawn)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_kept_of_the_influence_does_not_depend_on_the_length(monkeypatch):
    """Beside the Jacobians J_1..J_T, (T, B, S, S), which are there from the start."""
    cell, size, few, many = GRU(), 8, 3, 9
    short, long = draw(cell, few, hidden_size=size), draw(cell, many, hidden_size=size)
    influence = 2 * size * sum(value.size for value in short[0].values()) * 8
    at_three = peak(cell, short)
    assert at_three > influence
    assert peak(cell, long) - at_three < influence / 2
    told, kept = rtrl.immediate, []

    def hoarding(*arguments):
        kept.append(told(*arguments))
        return kept[-1]

    monkeypatch.setattr(rtrl, "immediate", hoarding)
    assert peak(cell, long) - at_three > (many - few) * influence
