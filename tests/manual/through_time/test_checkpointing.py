"""Checkpoints: the same gradient to the last bit, in a fraction of the memory."""

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bptt_crosscheck.manual.cells.gru import GRU
from bptt_crosscheck.manual.cells.lru import LRU
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.min_gru import MinGRU
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.cells.slstm import SLSTM
from bptt_crosscheck.manual.through_time import bptt, checkpointing
from bptt_crosscheck.manual.through_time.checkpointing import Kept, Recomputed
from bptt_crosscheck.manual.through_time.network import Head, Network, Projection

from tests.manual.through_time.test_sequence_form import draw, every_dtype, told, unlike

CELLS = {
    "rnn": RNN(),
    "lstm": LSTM(),
    "gru-after": GRU("after"),
    "gru-before": GRU("before"),
    "min-gru": MinGRU(),
    "lru": LRU(),
    "slstm": SLSTM(),
}
every_cell = pytest.mark.parametrize("name", CELLS)
PLAIN = {"budget": float("inf")}


def of_steps(steps, monkeypatch):
    monkeypatch.setattr(checkpointing, "BLOCK", steps)
    monkeypatch.setattr(checkpointing, "ROWS", 0)


@pytest.fixture
def blocks_of_four(monkeypatch):
    of_steps(4, monkeypatch)


def ask(made, question, mask=None, chunk=None, **how):
    """(tape, all that is told)."""
    params, initial, x, cotangents = question
    tape = checkpointing.run(made, params, initial, x, mask, **how)
    return tape, told(tape, checkpointing.gradients(made, params, tape, cotangents, chunk))


def at_once(made, question, mask=None, chunk=None):
    """The same from one block."""
    params, initial, x, cotangents = question
    tape = bptt.run(made, params, initial, x, mask)
    return told(tape, bptt.gradients(made, params, tape, cotangents, chunk))


def identical(found, expected):
    """Of one dtype, and equal in every bit, that of the sign of zero included."""
    assert found.keys() == expected.keys()
    return all(
        found[n].dtype == v.dtype and found[n].tobytes() == v.tobytes() for n, v in expected.items()
    )


def masked(steps, batch):
    return np.arange(steps)[:, None] < np.linspace(1, steps, batch).astype(int)


def step_form(cell):
    return SimpleNamespace(step=cell.step, step_backward=cell.step_backward)


@every_dtype
@pytest.mark.parametrize("checkpoint", [1, 4, 5, 8, 22, 23, 1000])
@every_cell
def test_the_gradient_is_identical(name, checkpoint, dtype, blocks_of_four):
    question = draw(CELLS[name], (23, 2, 3, 4), dtype)
    (plain, expected), (tape, found) = (
        ask(CELLS[name], question, **PLAIN),
        ask(CELLS[name], question, checkpoint=checkpoint),
    )
    assert (type(plain.caches), type(tape.caches)) == (Kept, Recomputed)
    assert identical(found, expected)
    assert unlike(found, at_once(CELLS[name], question)) == set()


@pytest.mark.parametrize(
    "sizes", [(2, 1, 1, 1), (5, 1, 3, 1), (23, 1, 1, 5), (24, 3, 2, 4)], ids=str
)
@every_cell
def test_in_blocks_of_one_step_every_segment_is_its_own_length(name, sizes, monkeypatch):
    of_steps(1, monkeypatch)
    question = draw(CELLS[name], sizes)
    _, expected = ask(CELLS[name], question, **PLAIN)
    for checkpoint in range(1, sizes[0] + 2):
        assert identical(ask(CELLS[name], question, checkpoint=checkpoint)[1], expected), checkpoint


@every_cell
def test_in_blocks_as_long_as_they_are(name):
    question = draw(CELLS[name], (2 * 341 + 45, 3, 2, 5))
    assert checkpointing.block_of(question[2]) == 341  # 1024 rows
    _, expected = ask(CELLS[name], question, **PLAIN)
    for checkpoint in (1, 342):
        assert identical(ask(CELLS[name], question, checkpoint=checkpoint)[1], expected)


@every_dtype
@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 9])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("name", ["lstm", "min-gru"])
def test_with_masks_tokens_and_chunks_too(name, tokens, chunk, dtype, blocks_of_four):
    question = draw(CELLS[name], (23, 3, 2, 4), dtype, tokens=tokens)
    for mask in (None, masked(23, 3)):
        _, expected = ask(CELLS[name], question, mask, chunk, **PLAIN)
        assert unlike(expected, at_once(CELLS[name], question, mask, chunk)) == set()
        for checkpoint in (1, 8, 100):
            assert identical(
                ask(CELLS[name], question, mask, chunk, checkpoint=checkpoint)[1], expected
            )


def test_what_stands_behind_the_end_of_a_row_is_not_read(blocks_of_four):
    (params, initial, x, cotangents), mask = draw(LSTM(), (9, 2, 3, 4)), masked(9, 2)
    spoiled = np.where(mask[..., None], x, np.nan)
    _, expected = ask(LSTM(), (params, initial, x, cotangents), mask, checkpoint=4)
    tape, found = ask(LSTM(), (params, initial, spoiled, cotangents), mask, checkpoint=4)
    assert identical(found, expected)
    assert np.isfinite(tape.x).all()


@pytest.mark.parametrize("checkpoint", [1, 8])
def test_a_cell_that_is_a_step_and_its_derivation(checkpoint, blocks_of_four):
    question = draw(RNN(), (11, 2, 3, 4))
    made = step_form(RNN())
    _, expected = ask(made, question, **PLAIN)
    assert identical(ask(made, question, checkpoint=checkpoint)[1], expected)
    assert unlike(expected, at_once(RNN(), question)) == set()


@pytest.mark.parametrize("steps", [1, 4])
def test_one_block_is_the_loop_itself(steps, blocks_of_four):
    question = draw(LSTM(), (steps, 2, 3, 4))
    tape, found = ask(LSTM(), question, checkpoint=1)
    assert isinstance(tape.caches, bptt.SequenceCaches)
    assert identical(found, at_once(LSTM(), question))


# Who forgets what it is handed, or computes from another border, is found.


def test_a_segment_that_hands_nothing_on_is_found(blocks_of_four, monkeypatch):
    question, whole = draw(LSTM(), (23, 2, 3, 4)), bptt.gradients
    expected = at_once(LSTM(), question)
    monkeypatch.setattr(bptt, "gradients", lambda *given: whole(*given[:5]))
    assert unlike(ask(LSTM(), question, checkpoint=4)[1], expected) == {
        "W_xh",
        "W_hh",
        "b_h",
        "x",
        "h_0",
        "c_0",
    }


def test_a_wrong_border_is_found(blocks_of_four):
    params, initial, x, cotangents = question = draw(LSTM(), (23, 2, 3, 4))
    tape = checkpointing.run(LSTM(), params, initial, x, checkpoint=8)
    first, second, *rest = tape.caches.borders
    swapped = replace(tape, caches=replace(tape.caches, borders=[second, first, *rest], recent={}))
    found = told(tape, checkpointing.gradients(LSTM(), params, swapped, cotangents))
    assert {"W_hh", "h_0", "c_0"} <= unlike(found, at_once(LSTM(), question))


# The caches, and when a tape is too large.


@pytest.mark.parametrize("name", ["lstm", "lru"])
@pytest.mark.parametrize("how", [PLAIN, {"checkpoint": 8}], ids=["kept", "recomputed"])
def test_the_caches_are_those_of_the_steps(name, how, blocks_of_four):
    params, initial, x, cotangents = draw(CELLS[name], (23, 2, 3, 4))
    tape, plain = (
        checkpointing.run(CELLS[name], params, initial, x, **how),
        bptt.forward(CELLS[name], params, initial, x),
    )
    assert tape.steps == len(tape.caches) == 23
    for t in (0, 3, 4, 8, 22, -1, -23):
        assert unlike(tape.caches[t], plain.caches[t]) == set()
    assert [
        unlike(*pair) for pair in zip(tape.caches[5:14:2], plain.caches[5:14:2], strict=True)
    ] == [set()] * 5
    with pytest.raises(IndexError):
        tape.caches[23]
    shares = bptt.added_up(bptt.shares(CELLS[name], params, tape, cotangents))
    assert (
        unlike(told(tape, shares), at_once(CELLS[name], (params, initial, x, cotangents))) == set()
    )


@pytest.mark.parametrize("mask", [None, masked(23, 2)], ids=["sequence form", "plain loop"])
def test_a_tape_past_the_budget_is_not_kept(mask, blocks_of_four):
    params, initial, x, _ = draw(LSTM(), (23, 2, 3, 4))
    run = checkpointing.run(LSTM(), params, initial, x, mask)
    assert isinstance(run.caches, Kept)
    size = sum(checkpointing._bytes(tape) for tape in run.caches.tapes)
    if mask is None:
        assert (
            size == 23 * 2 * (6 * 4 + 3 + 1 + 4) * 8
        )  # what multiplies dh and d̃c, six numbers a unit, and (x, 1, h)
    assert isinstance(
        checkpointing.run(LSTM(), params, initial, x, mask, budget=1.1 * size).caches, Kept
    )
    beyond = checkpointing.run(LSTM(), params, initial, x, mask, budget=0.9 * size)
    assert isinstance(beyond.caches, Recomputed)
    assert (beyond.caches.together, len(beyond.caches.borders)) == (8, 3)  # √23, made up to blocks


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"checkpoint": 0}, "at least 1"), ({"x": np.zeros((0, 2, 3))}, "one step")],
)
def test_what_cannot_be_asked(changed, message):
    params, initial, x, _ = draw(RNN())
    with pytest.raises(ValueError, match=message):
        checkpointing.run(RNN(), params, initial, **{"x": x, "checkpoint": 2, **changed})


def test_a_chunk_of_no_step_is_refused(blocks_of_four):
    with pytest.raises(ValueError, match="chunk of 0 steps"):
        ask(RNN(), draw(RNN()), chunk=0)


# The network.


def network_question(net, steps=11, lengths=False):
    rng = np.random.default_rng(0)
    params = {key: rng.normal(size=s) / 2 for key, s in net.parameter_shapes(3, 4).items()}
    inputs = {f"{key}_0": rng.normal(size=(2, *s)) for key, s in net.state_shapes(4).items()}
    inputs |= {
        f"cotangent_{key}": rng.normal(size=(steps, 2, *s))
        for key, s in net.state_shapes(4).items()
    }
    inputs |= {
        "x": rng.normal(size=(steps, 2, 3)),
        "target": rng.normal(size=(steps, 2, 3)),
        "mask": np.ones((steps, 2)),
    }
    return params, inputs | ({"lengths": np.array([steps, 5])} if lengths else {})


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    "readout", [Projection(), Head("squared-error", "mean", 3)], ids=["projection", "head"]
)
@pytest.mark.parametrize(
    "kind",
    [{}, {"chunk": 3}, {"layers": 2}, {"layers": 2, "bidirectional": True}],
    ids=["one layer", "chunks", "two layers", "both directions"],
)
@pytest.mark.parametrize("name", ["lstm", "min-gru"])
def test_a_network_with_checkpoints_has_the_same_gradient(
    name, kind, readout, lengths, blocks_of_four
):
    net = Network(CELLS[name], readout, tuple(CELLS[name].state_shapes(4)), **kind)
    net = (
        replace(net, readout=replace(readout, reads=net.reads()))
        if isinstance(readout, Head)
        else net
    )
    params, inputs = network_question(net, lengths=lengths)
    answers = []
    for each in (net, replace(net, checkpoint=8), replace(net, budget=0)):
        done = each.forward(params, inputs)
        answers.append({"loss": np.array(done.loss), **done.states, **each.backward(params, done)})
        shares = each.backward(params, done, by_step=True)
        assert (
            unlike(
                {"W_xh": sum(shares[n].sum(0).sum() for n in shares if n.startswith("W_xh"))},
                {"W_xh": sum(answers[-1][n].sum() for n in shares if n.startswith("W_xh"))},
                1e5,
            )
            == set()
        )
    assert identical(answers[1], answers[0])
    assert identical(answers[2], answers[0])


def test_a_window_and_checkpoints_exclude_each_other():
    with pytest.raises(ValueError, match="checkpoints would save nothing"):
        Network(RNN(), Projection(), window=2, checkpoint=4)


# Memory.


def peak(made, steps, **how):
    """The most that is allocated at once for states, tape and gradients, in bytes.

    What is told in the end does not count.
    """
    params, initial, x, cotangents = draw(made, (steps, 4, 4, 16))
    tracemalloc.start()
    try:
        tape = checkpointing.run(made, params, initial, x, **how)
        found = checkpointing.gradients(made, params, tape, cotangents)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return most - sum(value.nbytes for value in told(tape, found).values())


@pytest.mark.parametrize(
    ("name", "fraction"), [("rnn", 0.15), ("lstm", 0.2), ("gru-after", 0.2), ("lru", 0.15)]
)
def test_checkpoints_take_a_fraction_of_the_memory(name, fraction, monkeypatch):
    of_steps(64, monkeypatch)
    most, least = peak(CELLS[name], 2000, **PLAIN), peak(CELLS[name], 2000, checkpoint=64)
    assert least < fraction * most


def test_the_memory_of_the_tape_does_not_grow_with_the_steps(monkeypatch):
    of_steps(64, monkeypatch)
    few, many = (peak(LSTM(), steps, checkpoint=128) for steps in (1000, 8000))
    assert many < 1.1 * few
