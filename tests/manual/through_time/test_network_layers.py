"""Layers, directions, dropout and unequal lengths, against torch.

Against its own modules, and against a network unrolled by hand in it.

torch tells the outputs of the top layer and the final states of every run: the cotangents here are
on these. What torch has no module for (other cells, dropout with a given mask) is unrolled in
`unrolled`, with the steps of reference.equations.
"""

from dataclasses import dataclass, replace
from functools import partial

import array_api_compat.torch as xp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual.cell import output_names
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
from bptt_crosscheck.manual.through_time.network import Network, Projection
from bptt_crosscheck.reference import equations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.closeness import ROUNDING, relative_error

T, B, I, H = 6, 3, 2, 3  # noqa: E741
LENGTHS = np.array([4, 6, 1])

# cell, torch's module
MODULES = {
    "rnn-tanh": (RNN(), partial(torch.nn.RNN, nonlinearity="tanh")),
    "rnn-relu": (RNN("relu"), partial(torch.nn.RNN, nonlinearity="relu")),
    "lstm": (LSTM(), torch.nn.LSTM),
    "projected-lstm": (ProjectedLSTM(2), partial(torch.nn.LSTM, proj_size=2)),
    "gru": (GRU(), torch.nn.GRU),
}

# cell, its step in reference.equations
STEPS = {
    "irnn": (IRNN(), partial(equations.rnn, activation="relu")),
    "residual": (ResidualRNN(0.5), partial(equations.residual, alpha=0.5, activation="tanh")),
    "lstm": (LSTM(), equations.lstm),
    "peephole-lstm": (PeepholeLSTM(), equations.peephole_lstm),
    "gru-before": (GRU("before"), partial(equations.gru, reset="before")),
    "min-gru": (MinGRU(), partial(equations.min_gru, activation="positive")),
    "min-lstm": (MinLSTM(), partial(equations.min_lstm, activation="positive")),
    "lru": (LRU(), equations.lru),
    "slstm": (SLSTM(), equations.slstm),
}


@dataclass(frozen=True)
class Question:
    """A network and its arrays, read-only."""

    net: Network
    params: dict
    inputs: dict

    def by_hand(self, net=None):
        """(states by name, gradients by name); net: another one, with a mistake."""
        net = net or self.net
        done = net.forward(self.params, self.inputs)
        return done.states, net.backward(self.params, done)

    def but(self, **inputs):
        return replace(self, inputs={**self.inputs, **inputs})


def ends(name):
    """Where the run that `name` belongs to ends."""
    return 0 if name.endswith("_reverse") else -1


def ask(cell, layers=3, both=True, lengths=None, dropout=False, only_ends=False, kind=Network):
    """A question with random weights and initial states.

    Cotangents on the top layer's output and on every final state.
    """
    rng = np.random.default_rng(1)
    net = kind(cell, Projection(), tuple(cell.state_shapes(H)), layers, both)
    params = {
        name: 0.7 * rng.normal(size=shape) for name, shape in net.parameter_shapes(I, H).items()
    }
    inputs = {"x": rng.normal(size=(T, B, I))}
    for name, shape in net.state_shapes(H).items():
        inputs[f"{name}_0"] = rng.normal(size=(B, *shape)) + 3 * name.startswith("n_l")
        cotangent = rng.normal(size=(T, B, *shape))
        if name not in net.reads() or only_ends:
            cotangent[np.arange(T) != ends(name) % T] = 0
        elif lengths is not None:
            inside = np.arange(T)[:, None] < lengths
            inside[ends(name)] = True  # a final state is that of each row's own last step
            cotangent = cotangent * inside[..., None]
        inputs[f"cotangent_{name}"] = cotangent
    if lengths is not None:
        inputs["lengths"] = lengths
    for layer in range(layers - 1 if dropout else 0):
        inputs[f"dropout_l{layer}"] = (rng.random((T, B, net.features(H))) > 0.4) / 0.6
    for array in (*params.values(), *inputs.values()):
        array.setflags(write=False)
    return Question(net, params, inputs)


def wrong(found, expected):
    """The names in which the two differ; x is judged step by step."""
    assert found.keys() == expected.keys()
    return {
        name
        for name, value in expected.items()
        if not relative_error(found[name], value, separately=int(name == "x")) <= ROUNDING
    }


def leaves_of(question):
    differentiable = [name for name in question.inputs if name == "x" or name.endswith("_0")]
    arrays = {**question.params, **{name: question.inputs[name] for name in differentiable}}
    return {name: torch.tensor(value, requires_grad=True) for name, value in arrays.items()}


def gradients_of(total, leaves):
    return dict(
        zip(
            leaves,
            (g.numpy() for g in torch.autograd.grad(total, list(leaves.values()))),
            strict=True,
        )
    )


def by_module(question, module_of):
    """(top layer's outputs (T, B, ·), final states by name, gradients) from torch.nn."""
    leaves, inputs, net = leaves_of(question), question.inputs, question.net
    module = module_of(
        I, H, num_layers=net.layers, bidirectional=net.bidirectional, dtype=torch.float64
    )
    suffixes = [run.suffix for layer in net.directions() for run in layer]
    named = {}
    for suffix in suffixes:
        both = "b_hh" + suffix in leaves
        b = leaves["b_x" + suffix] if both else leaves["b_h" + suffix]
        named |= {
            f"weight_ih{suffix}": leaves["W_xh" + suffix],
            f"weight_hh{suffix}": leaves["W_hh" + suffix],
        }
        named |= {
            f"bias_ih{suffix}": b,
            f"bias_hh{suffix}": leaves["b_hh" + suffix] if both else torch.zeros_like(b),
        }
        named |= (
            {f"weight_hr{suffix}": leaves["W_hr" + suffix]} if "W_hr" + suffix in leaves else {}
        )
    assert named.keys() == dict(module.named_parameters()).keys()
    initial = [
        torch.stack([leaves[f"{name}{suffix}_0"] for suffix in suffixes])
        for name in net.state_names
    ]
    x = leaves["x"]
    if "lengths" in inputs:
        x = pack_padded_sequence(x, torch.tensor(inputs["lengths"]), enforce_sorted=False)
    output, last = torch.func.functional_call(
        module, named, (x, tuple(initial) if len(initial) > 1 else initial[0])
    )
    if "lengths" in inputs:
        output = pad_packed_sequence(output, total_length=T)[0]
    last = last if len(initial) > 1 else (last,)
    final = {
        name + suffix: last[k][n]
        for k, name in enumerate(net.state_names)
        for n, suffix in enumerate(suffixes)
    }
    total = sum(
        (torch.tensor(inputs[f"cotangent_{name}"][ends(name)]) * value).sum()
        for name, value in final.items()
    )
    for name, part in zip(
        net.reads(), torch.tensor_split(output, len(net.reads()), dim=-1), strict=True
    ):
        steps = np.arange(T) != ends(name) % T  # that of the end stands for the final state
        total = (
            total
            + (torch.tensor(inputs[f"cotangent_{name}"][steps]) * part[torch.tensor(steps)]).sum()
        )
    told = {name: value.detach().numpy() for name, value in final.items()}
    return output.detach().numpy(), told, gradients_of(total, leaves)


def unrolled(question, step):
    """(states by name (T, B, ·), gradients).

    The layers, directions, masks and lengths written out.
    """
    leaves, inputs, net = leaves_of(question), question.inputs, question.net
    lengths = torch.tensor(inputs.get("lengths", np.full(B, T)))
    y, states = leaves["x"], {}
    for layer in range(net.layers):
        handed_on = []
        for way in ("", "_reverse") if net.bidirectional else ("",):
            suffix = f"_l{layer}{way}"
            params = {name: leaves[name + suffix] for name in net.cell.parameter_shapes(1, H)}
            state, at = {name: leaves[f"{name}{suffix}_0"] for name in net.state_names}, {}
            for t in reversed(range(T)) if way else range(T):
                alive = (t < lengths)[:, None]
                new = step(xp, params, state, y[t])
                state = at[t] = {
                    name: torch.where(alive, new[name], state[name]) for name in net.state_names
                }
            states |= {
                name + suffix: torch.stack([at[t][name] for t in range(T)])
                for name in net.state_names
            }
            handed_on += [states[name + suffix] for name in output_names(net.cell)]
        y = torch.cat(handed_on, dim=-1)
        if f"dropout_l{layer}" in inputs:
            y = y * torch.tensor(inputs[f"dropout_l{layer}"])
    total = sum(
        (torch.tensor(inputs[f"cotangent_{name}"]) * value).sum() for name, value in states.items()
    )
    return {name: value.detach().numpy() for name, value in states.items()}, gradients_of(
        total, leaves
    )


def check_against_module(question, module_of):
    states, found = question.by_hand()
    output, final, expected = by_module(question, module_of)
    mine = np.concatenate([states[name] for name in question.net.reads()], axis=-1)
    inside = (np.arange(T)[:, None] < question.inputs.get("lengths", np.full(B, T)))[..., None]
    assert relative_error(mine * inside, output, separately=1) <= ROUNDING
    assert wrong({name: states[name][ends(name)] for name in final}, final) == set()
    assert wrong(found, expected) == set()


@pytest.mark.parametrize("name", MODULES)
def test_three_layers_both_ways_equal_torch_s_own_module(name):
    cell, module = MODULES[name]
    check_against_module(ask(cell), module)
    check_against_module(ask(cell, only_ends=True), module)


@pytest.mark.parametrize("name", MODULES)
def test_four_layers_one_way_and_one_layer_both_ways(name):
    cell, module = MODULES[name]
    check_against_module(ask(cell, layers=4, both=False), module)
    check_against_module(ask(cell, layers=1), module)


@pytest.mark.parametrize("name", MODULES)
def test_unequal_lengths_equal_packed_sequences(name):
    cell, module = MODULES[name]
    for lengths in (LENGTHS, np.array([1, 2, 3]), np.array([T, T, T])):
        check_against_module(ask(cell, layers=2, lengths=lengths), module)
    check_against_module(ask(cell, layers=3, both=False, lengths=LENGTHS, only_ends=True), module)


@pytest.mark.parametrize("name", STEPS)
def test_layers_directions_dropout_and_lengths_equal_the_unrolled_network(name):
    cell, step = STEPS[name]
    for lengths, dropout in ((None, True), (LENGTHS, True), (LENGTHS, False)):
        question = ask(cell, lengths=lengths, dropout=dropout)
        (states, found), (expected_states, expected) = question.by_hand(), unrolled(question, step)
        assert wrong(states, expected_states) == set()
        assert wrong(found, expected) == set()


def test_dropout_masks_differ_from_none():
    masked = ask(LSTM(), dropout=True)
    plain = replace(
        masked,
        inputs={
            name: value for name, value in masked.inputs.items() if not name.startswith("dropout")
        },
    )
    found, other = masked.by_hand()[1], plain.by_hand()[1]
    assert wrong(found, other) >= {"W_xh_l0", "W_xh_l1", "x", "h_l0_0"}


# Padding.


def padded(like):
    return np.broadcast_to((np.arange(T)[:, None] >= LENGTHS)[..., None], like.shape)


@pytest.mark.parametrize(
    "cell",
    [RNN("relu"), LSTM(), GRU("before"), MinLSTM(), LRU(), SLSTM()],
    ids=lambda c: type(c).__name__,
)
def test_what_stands_in_the_padding_is_never_read(cell):
    question = ask(cell, lengths=LENGTHS)
    expected_states, expected = question.by_hand()
    for garbage in (np.nan, np.inf, 1e300):
        x = np.where(padded(question.inputs["x"]), garbage, question.inputs["x"])
        states, found = question.but(x=x).by_hand()
        for name, value in {**expected_states, **expected}.items():
            np.testing.assert_array_equal({**states, **found}[name], value, err_msg=name)
        assert not found["x"][padded(x)].any()
        assert found["x"][~padded(x)].any(axis=-1).all()


def test_tokens_out_of_range_may_stand_in_the_padding_and_nowhere_else():
    question = ask(GRU(), lengths=LENGTHS)
    tokens = np.random.default_rng(0).integers(I, size=(T, B))
    expected = question.but(x=tokens).by_hand()[1]
    outside = np.arange(T)[:, None] >= LENGTHS
    for garbage in (-1, 99):
        found = question.but(x=np.where(outside, garbage, tokens)).by_hand()[1]
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    with pytest.raises(ValueError, match="token -1"):
        question.but(x=np.where(outside, tokens, -1)).by_hand()


def test_garbage_within_a_row_is_read():
    question = ask(LSTM(), lengths=LENGTHS)
    x = question.inputs["x"].copy()
    x[3, 0] = np.nan
    assert np.isnan(question.but(x=x).by_hand()[1]["W_xh_l0"]).any()


@pytest.mark.parametrize(
    "cell", [LSTM(), GRU(), LRU(), SLSTM()], ids=lambda cell: type(cell).__name__
)
@pytest.mark.parametrize("both", [False, True])
def test_a_row_s_gradients_are_those_of_the_row_alone_at_its_own_length(cell, both):
    question = ask(cell, both=both, lengths=LENGTHS, only_ends=True)
    found = question.by_hand()[1]
    for row, length in enumerate(LENGTHS):
        alone, others_still = {}, {}
        for name, value in question.inputs.items():
            mine = value[row : row + 1] if value.ndim < 3 else value[:, row : row + 1]
            if name.startswith("cotangent_"):
                others_still[name] = np.where(np.arange(B)[:, None] == row, value, 0)
                mine = (
                    mine[:length] if name.endswith("_reverse") else mine[-length:]
                )  # its end stays where the run ends
            alone[name] = mine[:length] if name == "x" else mine
        del alone["lengths"]
        expected = replace(question, inputs=alone).by_hand()[1]
        own = question.but(**others_still).by_hand()[1]
        own |= {name: value[row : row + 1] for name, value in found.items() if name.endswith("_0")}
        own["x"] = found["x"][:length, row : row + 1]
        assert wrong(own, expected) == set()
        together = {**own, **{name: found[name] for name in question.params}}
        assert wrong(together, expected) == set(question.params), (
            "the other rows have a share in these"
        )


@pytest.mark.parametrize(
    ("lengths", "said"),
    [([0, 6, 1], "not 0 … 6"), ([4, 7, 1], "not 1 … 7"), ([-1, 2, 2], "not -1 … 2")],
)
def test_lengths_out_of_range_are_refused(lengths, said):
    question = ask(LSTM(), lengths=LENGTHS).but(lengths=np.array(lengths))
    with pytest.raises(ValueError, match=f"lengths are 1 … 6, the number of steps; {said}"):
        question.by_hand()


@pytest.mark.parametrize(
    "cell", [LSTM(), GRU("before"), LRU(), SLSTM()], ids=lambda cell: type(cell).__name__
)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["equal", "unequal"])
def test_the_shares_of_the_steps_sum_to_the_whole(cell, lengths):
    question = ask(cell, lengths=lengths, dropout=True)
    done = question.net.forward(question.params, question.inputs)
    whole, apart = (
        question.net.backward(question.params, done, by_step) for by_step in (False, True)
    )
    together = {name: apart[name].sum(axis=0) for name in question.params}
    together |= {
        name: apart[name][-1 if "_reverse" in name else 0] for name in whole if name.endswith("_0")
    }
    assert wrong({**together, "x": apart["x"]}, whole) == set()
    assert all(len(apart[name]) == T for name in question.params)
    one_left_out = {name: together[name] - apart[name][2] for name in question.params}
    assert wrong({**together, "x": apart["x"], **one_left_out}, whole) == set(question.params)


def test_shares_stand_in_the_order_of_time_in_both_directions():
    """A short row has no share in its padding, which is at the end whichever way the run goes."""
    question = ask(LSTM(), lengths=np.array([4, 3, 1]))
    done = question.net.forward(question.params, question.inputs)
    apart = question.net.backward(question.params, done, by_step=True)
    for name in question.params:
        assert not apart[name][4:].any(), name
        assert all(share.any() for share in apart[name][:4]), name


# Mistakes of a network, not of a cell.


class LayersCut(Network):
    """What an upper layer hands back is thrown away."""

    def _apart(self, layer, done, d_y):
        return super()._apart(layer, done, None)


class DropoutForgotten(Network):
    def backward(self, params, done, by_step=False):
        return super().backward(params, replace(done, dropout=[None] * self.layers), by_step)


class PaddingPassedThrough(Network):
    """Padded steps go through the cell's derivative like any other."""

    def backward(self, params, done, by_step=False):
        tapes = {suffix: replace(tape, mask=None) for suffix, tape in done.tapes.items()}
        return super().backward(params, replace(done, tapes=tapes), by_step)


class DirectionsExchanged(Network):
    def _apart(self, layer, done, d_y):
        return super()._apart(layer, done, d_y)[::-1]


@pytest.mark.parametrize(
    "mistaken", [LayersCut, DropoutForgotten, PaddingPassedThrough, DirectionsExchanged]
)
def test_a_mistake_between_layers_shows_below_and_not_above(mistaken):
    question = ask(LSTM(), lengths=LENGTHS, dropout=True)
    expected = unrolled(question, equations.lstm)[1]
    above = {name for name in expected if "_l2" in name}
    if mistaken is PaddingPassedThrough:
        above = {
            "W_xh_l2_reverse"
        }  # backwards in time the padding comes first, with x taken as zero
    assert (
        wrong(question.by_hand(mistaken(**vars(question.net)))[1], expected)
        == set(expected) - above
    )


def test_the_same_mistakes_are_hidden_by_equal_lengths_one_layer_or_no_dropout():
    plain, single = ask(LSTM()), ask(LSTM(), layers=1)
    for question, mistaken in (
        (plain, PaddingPassedThrough),
        (plain, DropoutForgotten),
        (single, LayersCut),
    ):
        expected = (
            unrolled(question, equations.lstm)[1] if question is plain else question.by_hand()[1]
        )
        assert wrong(question.by_hand(mistaken(**vars(question.net)))[1], expected) == set()
