"""Recurrent layers of a model's file.

Found by name and shape, checked at their own weights, and refused in one line.
"""

import json
import sys

import numpy as np
import pytest
import torch
from bptt_crosscheck.comparisons import command_line
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.crosscheck import check_problem
from bptt_crosscheck.comparisons.errors import BadModelFile, BadOption
from bptt_crosscheck.comparisons.studies.model_file import cases_of, read
from bptt_crosscheck.comparisons.witnesses.ask import available
from bptt_crosscheck.manual.cells.lstm import LSTM
from safetensors.torch import save_file
from torch import nn


class Model(nn.Module):
    """An encoder and a decoder, with layers beside them that are none of ours."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.encoder = nn.LSTM(4, 5, 2, bidirectional=True)
        self.projected = nn.LSTM(10, 6, proj_size=2)
        self.decoder = nn.ModuleDict(
            {"gru": nn.GRU(3, 4), "cell": nn.GRUCell(2, 3), "rnn": nn.RNN(3, 2, bias=False)}
        )
        self.head = nn.Linear(4, 11)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def saved(tmp_path):
    def save(tensors, name="model.pt"):
        path = tmp_path / name
        if name.endswith(".safetensors"):
            save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        else:
            torch.save(tensors, path)
        return path

    return save


SENTENCES = [
    "encoder: lstm, 2 layers, both directions, input size 4, hidden size 5",
    "projected: projected-lstm, 1 layer, input size 10, hidden size 6",
    "decoder.gru: gru, 1 layer, input size 3, hidden size 4",
    "decoder.cell: gru, 1 layer, input size 2, hidden size 3",
    "decoder.rnn: rnn, 1 layer, input size 3, hidden size 2",
]


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.bin"])
def test_every_recurrent_layer_is_found_and_the_rest_is_named(model, saved, name):
    stored = read(saved(model.state_dict(), name))
    assert sorted(each.sentence() for each in stored.found) == sorted(SENTENCES)
    (skipped,) = stored.skipped
    assert skipped.startswith("3 other tensors: ")
    assert {"embedding.weight", "head.weight", "head.bias"} == set(
        skipped.partition(": ")[2].split(", ")
    )
    assert any("which nonlinearity" in line for line in stored.remarks())


def test_nested_dictionaries_and_half_precision(model, saved):
    halved = {key: value.to(torch.bfloat16) for key, value in model.state_dict().items()}
    (one, *_) = read(saved({"epoch": 3, "model": {"state_dict": halved}})).found
    assert one.name == "model.state_dict.encoder"
    assert one.weights["W_xh_l0"].dtype == np.float64
    expected = model.state_dict()["encoder.weight_ih_l0"].to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(one.weights["W_xh_l0"], expected)


def test_the_weights_that_are_checked_are_those_of_the_file(model, saved):
    """The forward pass at them is torch's."""
    layers = next(each for each in read(saved(model.state_dict())).found if each.name == "encoder")
    asked = next(iter(cases_of(layers, {})))
    problem = problem_of(asked.case).with_variables(asked.weights)
    runs = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    start = tuple(
        torch.tensor(np.stack([problem.variables[f"{part}{run}_0"] for run in runs]))
        for part in "hc"
    )
    with torch.no_grad():
        h, _ = model.encoder.double()(torch.tensor(np.array(problem.x)), start)
    states = built_in(asked.case.cell, asked.case.options).answer(problem).states
    np.testing.assert_allclose(
        np.concatenate([states["h_l1"], states["h_l1_reverse"]], axis=-1), h.numpy(), rtol=1e-12
    )
    model.encoder.float()


@pytest.fixture(scope="module")
def engines():
    return available(["torch", "torch.nn"])[0]


def test_gradients_and_jacobians_agree_at_those_weights(model, saved, engines):
    for layers in read(saved(model.state_dict())).found:
        for asked in cases_of(layers, {"steps": 3}):
            case = asked.case
            problem = problem_of(case).with_variables(asked.weights)
            checked = check_problem(problem, built_in(case.cell, case.options), engines)
            assert checked.passed, checked.failures()
            assert case.steps == 3
            compared = {row.gradient for row in checked.rows}
            assert compared >= set(asked.weights)
            assert ("state_jacobian" in compared) == (case.layers == 1 and not case.bidirectional)


class Mistaken(LSTM):
    """The forget gate's slope is left out."""

    def delta(self, params, cache, d_state):
        return super().delta(params, {**cache, "not_f": np.ones_like(cache["not_f"])}, d_state)


def test_a_mistake_is_seen_at_the_weights_of_a_file(model, saved, engines):
    layers = read(saved(model.state_dict())).found[0]
    asked = list(cases_of(layers, {}))[1]
    wrong = type(built_in("lstm", {}))(Mistaken())
    problem = problem_of(asked.case).with_variables(asked.weights)
    checked = check_problem(problem, wrong, engines)
    assert "W_hh" in {row.gradient for row in checked.failures()}


def test_many_weights_take_fewer_steps_and_no_jacobians(saved):
    (layers,) = read(saved(nn.LSTM(300, 1000).state_dict())).found
    (case,) = (asked.case for asked in cases_of(layers, {}))
    assert case.steps < 10 <= 5 * case.steps + 5
    assert not case.jacobians
    assert any(
        "a state of 2000 numbers: its Jacobians are not compared" in note for note in layers.notes
    )
    with pytest.raises(BadOption, match="too large to compare"):
        list(cases_of(layers, {"steps": 500}))


def test_sizes_are_the_files_to_say(model, saved):
    layers = read(saved(model.state_dict())).found[0]
    with pytest.raises(BadOption, match="input_size and hidden_size are the model file's"):
        list(cases_of(layers, {"hidden_size": 3}))


GRU = nn.GRU(3, 4).state_dict()
ROTTEN = {
    "no recurrent layer": (
        nn.Linear(3, 2).state_dict(),
        r"no recurrent layer: none of its 2 tensors .* \(weight, bias\)",
    ),
    "nothing at all": ({}, "no recurrent layer: .*it is empty"),
    "a projection in a GRU": (
        {**GRU, "weight_hr_l0": torch.zeros(2, 4)},
        "weight_hr_l0: a projection in a GRU; only an LSTM has one",
    ),
    "a weight missing": (
        {key: value for key, value in GRU.items() if key != "weight_ih_l0"},
        "weight_ih_l0 is missing",
    ),
    "no cell's shape": (
        {**GRU, "weight_hh_l0": torch.zeros(9, 4)},
        r"shape \(9, 4\) is that of no RNN, GRU or LSTM",
    ),
    "no matrix": ({**GRU, "weight_hh_l0": torch.zeros(12)}, "weight_hh_l0 has 1 axes"),
    "an upper layer half there": (
        {**GRU, "weight_ih_l1": torch.zeros(12, 4)},
        "weight_hh_l1 is missing",
    ),
    "a wrong bias": ({**GRU, "bias_ih_l0": torch.zeros(5)}, "bias_ih_l0"),
}


@pytest.mark.parametrize(("tensors", "said"), ROTTEN.values(), ids=ROTTEN)
def test_what_is_no_recurrent_layer_is_refused(saved, tensors, said):
    with pytest.raises(BadModelFile, match=said):
        read(saved(tensors))


def test_a_layer_that_is_not_whole_is_skipped_and_the_other_found(saved):
    broken = {f"broken.{key}": value for key, value in GRU.items() if "weight_hh" not in key}
    stored = read(saved({**broken, **{f"whole.{key}": value for key, value in GRU.items()}}))
    assert [each.name for each in stored.found] == ["whole"]
    assert stored.skipped == ["broken: weight_hh_l0 is missing"]


def test_code_in_a_file_is_not_run(saved, tmp_path):
    """A pickled module would need code to be imported and run."""
    with pytest.raises(BadModelFile, match="weights_only=True .*never code: save model.state_dict"):
        read(saved(nn.GRU(2, 2)))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_file_of_something_else(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"abracadabra")
    with pytest.raises(BadModelFile, match=r"is no safetensors file|cannot be loaded"):
        read(path)


def test_files_that_cannot_be(tmp_path):
    with pytest.raises(BadModelFile, match="there is no such file"):
        read(tmp_path / "model.pt")
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(BadModelFile, match=r"a model file ends in \.safetensors, \.pt"):
        read(tmp_path / "weights.h5")


# The command.


@pytest.fixture
def command(monkeypatch, capfd):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command_line.main()
        return left.value.code, *capfd.readouterr()

    return run


def test_the_command_says_what_it_found_and_what_it_skipped(command, model, saved):
    code, out, _ = command(
        "--checkpoint",
        saved(model.state_dict()),
        "--cell",
        "gru",
        "--references",
        "torch",
        "--json",
        "-",
    )
    told = json.loads(out)
    assert code == 0
    assert [case["name"] for case in told["cases"]] == ["decoder.gru", "decoder.cell"]
    assert told["training"] == []
    assert "model.pt: found " + SENTENCES[0] in told["notes"]
    assert any(note.startswith("model.pt: skipped 3 other tensors") for note in told["notes"])


def test_the_command_refuses_in_one_line(command, saved, tmp_path):
    code, out, err = command("--checkpoint", saved(nn.Linear(2, 2).state_dict()))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "holds no recurrent layer" in err
    code, _, err = command("--checkpoint", saved(GRU), "--text", "README.md")
    assert code == 2
    assert "--text trains a model and --checkpoint has one" in err
    code, _, err = command("--checkpoint", saved(GRU), "--cell", "lstm")
    assert code == 2
    assert "there is no case of the cell lstm" in err
