"""The sequence form of a cell against its step form.

Equal to rounding, in the digits of closed gates too.
"""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.manual.activations import ACTIVATIONS
from bptt_crosscheck.manual.cell import are_zeros, has_sequence_form, zeros
from bptt_crosscheck.manual.cells.gru import GRU
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.projected_lstm import ProjectedLSTM
from bptt_crosscheck.manual.cells.rnn import IRNN, RNN
from bptt_crosscheck.manual.through_time import bptt, sequences
from bptt_crosscheck.manual.through_time.network import Head, Network, Projection

from tests.closeness import relative_error

CELLS = {
    **{f"rnn-{name}": RNN(name) for name in ACTIVATIONS},
    "irnn": IRNN(),
    "lstm": LSTM(),
    "gru-after": GRU("after"),
    "gru-before": GRU("before"),
}
GATED = ("lstm", "gru-after", "gru-before")
SIZES = [(1, 1, 1, 1), (1, 3, 2, 4), (6, 1, 3, 5), (7, 3, 1, 1), (9, 2, 3, 4)]  # T, B, I, H
ROUNDINGS = 450  # units in the last place of the largest entry: 1e-13 in float64
every_cell = pytest.mark.parametrize("name", CELLS)
every_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def read_only(arrays):
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def draw(made, sizes=(9, 2, 3, 4), dtype=np.float64, *, tokens=False, bias=0.0, gates=None, seed=0):
    """(params, initial, x, cotangents), all read-only.

    In these gates, or all, one bias is `bias` more, the next so much less.
    """
    (T, B, I, H), rng = sizes, np.random.default_rng(seed)  # noqa: E741
    params = {
        name: rng.normal(size=s, scale=s[-1] ** -0.5)
        for name, s in made.parameter_shapes(I, H).items()
    }
    for name in params.keys() & {"b_h", "b_x"}:
        moved = np.isin(np.arange(len(params[name])) // H, range(4) if gates is None else gates)
        params[name] = params[name] + bias * moved * np.where(
            np.arange(len(params[name])) % 2, 1, -1
        )
    initial = {name: rng.normal(size=(B, *shape)) for name, shape in made.state_shapes(H).items()}
    cotangents = {name: rng.normal(size=(T, *value.shape)) for name, value in initial.items()}
    x = rng.integers(I, size=(T, B)) if tokens else rng.normal(size=(T, B, I)).astype(dtype)
    x.setflags(write=False)
    params, initial, cotangents = (
        read_only({n: v.astype(dtype) for n, v in each.items()})
        for each in (params, initial, cotangents)
    )
    return params, initial, x, cotangents


def told(tape, found):
    """Everything by name.

    The trajectory, the gradients for the parameters, x and the initial state.
    """
    named = {f"{name}_t": value for name, value in tape.states.items()} | found.params
    return (
        named
        | {f"{name}_0": d[0] for name, d in found.d_state.items()}
        | ({} if found.x is None else {"x": found.x})
    )


def by_steps(made, params, initial, x, cotangents):
    tape = bptt.forward(made, params, initial, x)
    return told(tape, bptt.backward(made, params, tape, cotangents))


def by_sequence(made, params, initial, x, cotangents):
    tape = bptt.run(made, params, initial, x)
    assert isinstance(tape.caches, bptt.SequenceCaches)
    return told(tape, bptt.gradients(made, params, tape, cotangents))


def unlike(found, expected, roundings=ROUNDINGS):
    """The names in which two answers differ, in an entry or in the dtype."""
    assert found.keys() == expected.keys()
    tolerance = {name: roundings * np.finfo(value.dtype).eps for name, value in expected.items()}
    agrees = {
        name: relative_error(found[name], value) <= tolerance[name]
        for name, value in expected.items()
    }
    return {
        name
        for name, value in expected.items()
        if not agrees[name] or found[name].dtype != value.dtype
    }


@every_dtype
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@every_cell
def test_the_two_forms_are_equal(name, sizes, tokens, dtype):
    question = draw(CELLS[name], sizes, dtype, tokens=tokens)
    found = by_sequence(CELLS[name], *question)
    assert unlike(found, by_steps(CELLS[name], *question)) == set()
    assert {value.dtype for value in found.values()} == {np.dtype(dtype)}


class Spoiled(LSTM):
    """Its sequence form hands back what is a millionth too much."""

    def sequence_backward(self, *given):
        d_params, d_x, d_initial = super().sequence_backward(*given)
        return d_params, d_x, {**d_initial, "c": 1.000001 * d_initial["c"]}


def test_a_sequence_form_that_differs_is_found():
    question = draw(LSTM())
    assert unlike(by_sequence(Spoiled(), *question), by_steps(LSTM(), *question)) == {"c_0"}


class FromOne(LSTM):
    """The complements of its gates as 1 − σ."""

    def recur(self, xp, params, state, projected, x):
        new, cache = super().recur(xp, params, state, projected, x)
        return new, {**cache, **{f"not_{gate}": 1 - cache[gate] for gate in "ifo"}}


def worst_entry(found, expected, gates):
    """The largest relative error of a single entry of the first bias's gradient, in those gates."""
    (name, *_) = (key for key in expected if key.startswith("b_"))
    size = len(expected[name]) // (4 if "c_0" in expected else 3)
    rows = np.concatenate([np.arange(gate * size, (gate + 1) * size) for gate in gates])
    assert np.abs(expected[name][rows]).min() < 1e-10 * np.abs(expected[name]).max()
    return np.max(np.abs(found[name][rows] / expected[name][rows] - 1))


@every_dtype
@pytest.mark.parametrize(
    ("name", "gates"), [("lstm", (0, 1, 3)), ("gru-after", (0, 1)), ("gru-before", (0, 1))]
)
def test_gates_that_are_closed_or_wide_open_keep_their_digits(name, gates, dtype):
    question = draw(CELLS[name], (1, 1, 3, 4), dtype, bias=30, gates=gates)
    expected = by_steps(CELLS[name], *question)
    assert (
        worst_entry(by_sequence(CELLS[name], *question), expected, gates)
        < ROUNDINGS * np.finfo(dtype).eps
    )
    if name == "lstm":
        assert worst_entry(by_steps(FromOne(), *question), expected, gates) > 1e-3


@every_dtype
@pytest.mark.parametrize("bias", [200, 2000])
@pytest.mark.parametrize("name", GATED)
def test_beyond_the_range_of_the_exponential_nothing_is_lost(name, bias, dtype):
    question = draw(CELLS[name], (4, 2, 3, 4), dtype, bias=bias)
    found = by_sequence(CELLS[name], *question)
    assert all(np.isfinite(value).all() for value in found.values())
    assert unlike(found, by_steps(CELLS[name], *question)) == set()


LAYOUTS = {
    "Fortran's order": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: np.flip(np.flip(a).copy()),
}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_the_memory_layout_does_not_matter(name, layout, tokens):
    params, initial, x, cotangents = draw(CELLS[name], tokens=tokens)
    turned = [
        read_only({key: LAYOUTS[layout](value) for key, value in each.items()})
        for each in (params, initial, cotangents)
    ]
    found = by_sequence(CELLS[name], turned[0], turned[1], LAYOUTS[layout](x), turned[2])
    assert unlike(found, by_steps(CELLS[name], params, initial, x, cotangents)) == set()


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("cache", "many"), [(1, 23 * 5), (1100, 23 * 3), (5000, 12)])
@every_cell
def test_the_tiles_do_not_matter(name, cache, many, tokens, monkeypatch):
    question = draw(CELLS[name], (23, 5, 3, 4), tokens=tokens)
    expected = by_steps(CELLS[name], *question)
    monkeypatch.setattr(sequences, "CACHE", cache)
    assert len(sequences.tiles(23, 5, 500)) == many
    assert unlike(by_sequence(CELLS[name], *question), expected) == set()


@pytest.mark.parametrize("small", [0, 20_000])
@pytest.mark.parametrize("cache", [1, 2**20])
@every_cell
def test_panels_do_not_matter(name, cache, small, monkeypatch):
    question = draw(CELLS[name], (5, 7, 3, 64))
    expected = by_steps(CELLS[name], *question)
    monkeypatch.setattr(sequences, "CACHE", cache)
    monkeypatch.setattr(sequences, "SMALL", small)
    assert sequences.Multiplier(question[0]["W_hh"].T, 7).by_panels == bool(small)
    assert unlike(by_sequence(CELLS[name], *question), expected) == set()


@every_cell
def test_backward_twice_is_identical(name):
    params, initial, x, cotangents = draw(CELLS[name])
    tape = bptt.run(CELLS[name], params, initial, x)
    once, again = (
        told(tape, bptt.gradients(CELLS[name], params, tape, cotangents)) for _ in range(2)
    )
    assert all(np.array_equal(once[key], again[key]) for key in once)


def test_a_cotangent_known_to_be_zero_is_zero():
    params, initial, x, cotangents = draw(LSTM())
    nothing = zeros(cotangents["c"])
    assert are_zeros(nothing)
    assert not are_zeros(np.zeros_like(nothing))
    assert not are_zeros(np.broadcast_to(1.0, nothing.shape))
    found, expected = (
        by_sequence(LSTM(), params, initial, x, {**cotangents, "c": each})
        for each in (nothing, np.zeros_like(nothing))
    )
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


class AnotherDelta(LSTM):
    def delta(self, params, cache, d_state):
        return super().delta(params, cache, d_state)


def test_who_changes_the_step_has_no_sequence_form():
    assert all(has_sequence_form(each) for each in CELLS.values())
    assert not has_sequence_form(AnotherDelta())
    assert not has_sequence_form(ProjectedLSTM())
    assert not has_sequence_form(type("Without", (LSTM,), {"sequence": None})())


@every_cell
def test_the_caches_of_the_steps_are_those_of_the_step_form(name):
    params, initial, x, cotangents = draw(CELLS[name])
    tape, plain = (
        bptt.run(CELLS[name], params, initial, x),
        bptt.forward(CELLS[name], params, initial, x),
    )
    assert tape.steps == plain.steps == len(x)
    assert tape.caches[-1].keys() == plain.caches[-1].keys()
    shares = bptt.added_up(bptt.shares(CELLS[name], params, tape, cotangents))
    assert (
        unlike(told(tape, shares), by_steps(CELLS[name], params, initial, x, cotangents)) == set()
    )


def test_what_the_sequence_form_cannot_do_is_done_by_the_step_form():
    params, initial, x, cotangents = draw(LSTM())
    mask = np.ones(x.shape[:2], dtype=bool)
    single = {key: value.astype(np.float32) for key, value in initial.items()}
    half = [
        {key: value.astype(np.float16) for key, value in each.items()} for each in (params, initial)
    ]
    plain = [bptt.run(LSTM(), params, initial, x, mask), bptt.run(LSTM(), params, single, x)]
    plain += [
        bptt.run(LSTM(), *half, x.astype(np.float16)),
        bptt.run(AnotherDelta(), params, initial, x),
    ]
    assert not any(isinstance(tape.caches, bptt.SequenceCaches) for tape in plain)
    tape = bptt.run(LSTM(), params, initial, x)
    for found, expected in (
        (
            bptt.gradients(LSTM(), params, tape, cotangents, chunk=2),
            bptt.backward(LSTM(), params, tape, cotangents, chunk=2),
        ),
        (
            bptt.gradients(LSTM(), params, replace(tape, mask=mask), cotangents),
            bptt.backward(LSTM(), params, tape, cotangents),
        ),
    ):
        assert found.delta is not None
        assert all(
            np.array_equal(found.params[key], value) for key, value in expected.params.items()
        )
    with pytest.raises(ValueError, match="at least one step"):
        bptt.run(LSTM(), params, initial, x[:0])


@pytest.mark.parametrize(
    "readout", [Projection(), Head("squared-error", "mean", 3)], ids=["projection", "head"]
)
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("name", ["rnn-tanh", *GATED])
def test_a_network_by_either_form_is_the_same(name, layers, bidirectional, readout):
    made = CELLS[name]
    without = type("Without", (type(made),), {"sequence": None})(**vars(made))
    answers = []
    for each in (made, without):
        net = Network(each, readout, tuple(made.state_shapes(4)), layers, bidirectional)
        rng = np.random.default_rng(0)
        params = {key: rng.normal(size=s) / 2 for key, s in net.parameter_shapes(3, 4).items()}
        inputs = {
            f"{key}_0": rng.normal(size=(2, *s)) for key, s in net.state_shapes(4).items()
        } | {"x": rng.normal(size=(5, 2, 3))}
        inputs |= {
            f"cotangent_{key}": rng.normal(size=(5, 2, *s))
            for key, s in net.state_shapes(4).items()
        }
        inputs |= {"target": rng.normal(size=(5, 2, 3)), "mask": np.ones((5, 2))}
        net = (
            replace(net, readout=replace(readout, reads=net.reads()))
            if isinstance(readout, Head)
            else net
        )
        done = net.forward(params, inputs)
        answers.append({"loss": np.array(done.loss), **done.states, **net.backward(params, done)})
    assert unlike(*answers) == set()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_given_again_only_when_nothing_refers_to_it(monkeypatch):
    monkeypatch.setattr(sequences, "WORTH_KEEPING", 100)
    monkeypatch.setattr(sequences, "_SPARE", [])
    first = sequences.empty((7, 8), np.float64)
    first[...] = 1
    part, where = first[2:, ::2].T, address(first)
    del first
    other = sequences.empty((7, 8), np.float64)
    other[...] = 2
    assert address(other) != where
    assert (part == 1).all()
    del part
    again = sequences.empty((8, 7), np.int64)
    assert address(again) == where
    assert again.flags.writeable
    assert again.shape == (8, 7)
    assert (other == 2).all()


def test_spare_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(sequences, "WORTH_KEEPING", 100)
    monkeypatch.setattr(sequences, "_SPARE", [])
    monkeypatch.setattr(sequences, "KEPT", 1000)
    held = [sequences.empty((50,), np.float64) for _ in range(5)]
    assert not sequences._SPARE
    del held
    assert len(sequences._SPARE) == 2
    sequences.empty((125,), np.float64)
    assert [each.nbytes for each in sequences._SPARE] == [400], (
        "what is not asked for any more makes room"
    )


def test_two_tapes_of_one_process_do_not_share_memory():
    question = draw(LSTM(), (64, 64, 3, 33))
    tapes = [bptt.run(LSTM(), *question[:3]) for _ in range(2)]
    assert not any(
        np.shares_memory(tapes[0].caches.tape[name], value)
        for name, value in tapes[1].caches.tape.items()
    )
    expected = told(tapes[0], bptt.gradients(LSTM(), question[0], tapes[0], question[3]))
    del tapes[0]
    again = bptt.run(LSTM(), *question[:3])
    found = told(again, bptt.gradients(LSTM(), question[0], again, question[3]))
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
