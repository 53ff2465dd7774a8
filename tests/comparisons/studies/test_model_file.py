"""Recurrent layers of a model's file.

Found by name and shape, checked at their own weights, and refused in one line.
"""

import json
import re
import struct
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from bptt_crosscheck.comparisons import command_line
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.crosscheck import check_problem
from bptt_crosscheck.comparisons.errors import BadModelFile, BadOption
from bptt_crosscheck.comparisons.reporting.dump import load
from bptt_crosscheck.comparisons.studies import model_file
from bptt_crosscheck.comparisons.studies.model_file import cases_of, named_apart, read
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


# What is there, and is no numbers.


def spoiled(**changed):
    return {**GRU, **changed}


def sparse():
    return torch.eye(12)[:, :4].to_sparse()


def quantised():
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(12, 4), 0.1, 0, torch.qint8)


NO_NUMBERS = {
    "0-d": (lambda: torch.tensor(1.0), "weight_hh_l0 has 0 axes"),
    "0 x 0": (lambda: torch.zeros(0, 0), r"weight_hh_l0 of shape \(0, 0\) has no entries"),
    "no columns": (lambda: torch.zeros(12, 0), r"of shape \(12, 0\) has no entries"),
    "three axes": (lambda: torch.zeros(3, 4, 4), "weight_hh_l0 has 3 axes"),
    "meta": (lambda: torch.zeros(12, 4, device="meta"), "device meta: it holds no numbers"),
    "sparse": (sparse, "weight_hh_l0 is sparse"),
    "compressed": (lambda: torch.eye(12)[:, :4].to_sparse_csr(), "weight_hh_l0 is sparse"),
    "quantised": (quantised, "weight_hh_l0 is quantised"),
    "integers": (lambda: torch.ones(12, 4, dtype=torch.int64), "holds torch.int64, not floating"),
    "complex": (lambda: torch.ones(12, 4, dtype=torch.complex64), "holds torch.complex64"),
    "a view of one number": (
        lambda: torch.ones(1).expand(3 << 17, 1 << 17),
        "51,539,[0-9,]+ numbers are too many to compare",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "said"), NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_a_tensor_without_numbers_keeps_its_layer_out_and_no_other(saved, make, said):
    broken = {f"broken.{key}": value for key, value in spoiled(weight_hh_l0=make()).items()}
    stored = read(saved({**broken, **{f"whole.{key}": value for key, value in GRU.items()}}))
    assert [each.name for each in stored.found] == ["whole"]
    (skipped,) = stored.skipped
    assert re.search(f"^broken: .*{said}", skipped)
    with pytest.raises(BadModelFile, match=f"{said}[^\n]*$"):
        read(saved(spoiled(weight_hh_l0=make())))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weight_hr_l0", torch.tensor(1.0), "weight_hr_l0 has 0 axes"),
        ("bias_hh_l0", torch.tensor(1.0), r"bias_hh_l0 has the shape \(\)"),
        ("bias_hh_l0", torch.zeros(0), "bias_hh_l0 of shape .* has no entries"),
        ("weight_ih_l0", torch.zeros(12, 0), "weight_ih_l0 of shape .* has no entries"),
        ("weight_hh_l999999999", torch.zeros(12, 4), "weight_ih_l1 is missing"),
    ],
)
def test_whatever_else_of_a_layer_is_no_matrix_of_its_own(saved, name, value, said):
    with pytest.raises(BadModelFile, match=said):
        read(saved(spoiled(**{name: value})))


def test_integers_in_a_safetensors_file(saved):
    wrong = spoiled(weight_hh_l0=torch.ones(12, 4, dtype=torch.int64))
    with pytest.raises(BadModelFile, match="weight_hh_l0 holds I64, not floating-point numbers"):
        read(saved(wrong, "model.safetensors"))


def endless():
    inner = dict(GRU)
    inner["itself"] = inner
    return inner


def doubled():
    """Forty dicts, each twice in the next: 2⁴⁰ ways to the innermost."""
    inner = dict(GRU)
    for _ in range(40):
        inner = {"a": inner, "b": inner}
    return inner


@pytest.mark.parametrize("make", [endless, doubled])
def test_dicts_that_lead_back_are_walked_once(saved, make):
    (found,) = read(saved(make())).found
    assert found.cell == "gru"


def test_dicts_without_end_are_refused(saved):
    inner = dict(GRU)
    for _ in range(300):
        inner = {"a": inner}
    with pytest.raises(BadModelFile, match="dicts in dicts, more than 64 deep"):
        read(saved(inner))


def test_keys_that_are_no_names_are_passed_over(saved):
    stored = read(saved({**GRU, ("a", 1): torch.ones(1), 1.5: torch.ones(1)}))
    assert stored.skipped == []


def test_two_tensors_of_one_name_are_none(saved):
    flat = {f"a.b.{key}": value for key, value in GRU.items()}
    with pytest.raises(BadModelFile, match="a.b: weight_ih_l0 is there twice"):
        read(saved({**flat, "a": {"b": GRU}}))


# What is small on disk and large in memory.


def zipped_again(path, fill):
    """The same archive, compressed, with a record of so many zeros more."""
    again = path.with_name("again.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        with new.open(f"{path.stem}/data/99", "w", force_zip64=True) as stream:
            for _ in range(fill >> 20):
                stream.write(bytes(1 << 20))
    return again


def test_a_file_that_expands_is_refused_before_it_is_loaded(monkeypatch, saved):
    path = zipped_again(saved(GRU), 4 << 20)
    assert path.stat().st_size < 20_000
    assert len(read(path).found) == 1, "compressed, and small enough"
    monkeypatch.setattr(model_file, "MOST_COPIED", 1 << 20)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(BadModelFile, match=r"expands to [0-9,]+ bytes in memory"):
        read(path)


def test_an_old_file_that_is_read_as_a_whole_is_not_to_be_large(monkeypatch, tmp_path):
    path = tmp_path / "old.pt"
    torch.save(GRU, path, _use_new_zipfile_serialization=False)
    assert len(read(path).found) == 1
    monkeypatch.setattr(model_file, "MOST_COPIED", 1 << 8)
    with pytest.raises(BadModelFile, match="expands to"):
        read(path)


def with_a_hole(path, hole):
    """A .safetensors file of a GRU's tensors, after an embedding of so many bytes that are none."""
    header = {"embedding": {"dtype": "BF16", "shape": [hole // 2], "data_offsets": [0, hole]}}
    at, data = hole, b""
    for name, value in GRU.items():
        own = value.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
        shape = list(value.shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(own)]}
        at, data = at + len(own), data + own
    told = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(told)) + told)
        stream.seek(hole, 1)
        stream.write(data)
    return path


MEASURED = """
import resource, sys
from pathlib import Path
from bptt_crosscheck.comparisons.studies.model_file import read
import torch, safetensors
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
(layers,) = read(Path(sys.argv[1])).found
print(layers.weights["W_hh"].dtype, peak() - before)
"""


@pytest.mark.parametrize("name", ["large.safetensors", "large.pt"])
def test_only_the_tensors_of_the_layers_are_read(tmp_path, saved, name):
    """Of a file of 256 MiB, most of it something else."""
    path = tmp_path / name
    if name.endswith(".pt"):
        embedding = torch.zeros(1 << 27, dtype=torch.bfloat16)
        torch.save({**GRU, "embedding": embedding}, path)
    else:
        with_a_hole(path, 1 << 28)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=True
    )
    dtype, grown = done.stdout.split()
    unit = 1 if sys.platform == "darwin" else 1024
    assert dtype == "float64"
    assert int(grown) * unit < 100 << 20


# Names.


def test_two_layers_of_one_name_are_told_apart(saved):
    cell = {key.removesuffix("_l0"): value for key, value in GRU.items()}
    stored = read(saved({**GRU, **cell}))
    assert [each.name for each in stored.found] == ["gru", "gru (2)"]


def test_names_apart():
    assert named_apart(["a", "a", "b", "a", "a (2)"]) == ["a", "a (2)", "b", "a (3)", "a (2) (2)"]


# The command.


SMALL = ("--references", "torch", "--steps", "2", "--batch", "1")


def test_every_layer_has_a_dump_of_its_own(command, saved, tmp_path):
    cell = {key.removesuffix("_l0"): value for key, value in GRU.items()}
    tensors = {}
    for prefix in ("", "a layer.", "a_layer.", "a/layer.", f"{'long' * 99}a.", f"{'long' * 99}b."):
        tensors |= {f"{prefix}{key}": value for key, value in (GRU | cell).items()}
    code, out, _ = command("--checkpoint", saved(tensors), "--dump", tmp_path / "dumps", *SMALL)
    assert code == 0, out
    dumped = list((tmp_path / "dumps").iterdir())
    assert len(dumped) == 12
    assert len({load(path).attrs["case"] for path in dumped}) == 12


def test_escapes_in_names_do_not_reach_the_terminal(command, saved):
    """Neither what was found nor what was skipped, nor where nothing is."""
    evil = "\x1b[31m\x9b2J\x07\u202e\nb\x7f"
    tensors = {f"{evil}.{key}": value for key, value in GRU.items()}
    code, out, err = command("--checkpoint", saved({**tensors, evil: torch.ones(1)}), *SMALL)
    assert code == 0, out + err
    assert out.count("\\x1b[31m\\x9b2J\\u202e") >= 3
    _, told, shown = command("--checkpoint", saved(tensors), *SMALL, "--json", "-")
    assert json.loads(told)["cases"][0]["name"] == evil
    code, _, refusal = command("--checkpoint", saved({evil: torch.ones(1)}), *SMALL)
    assert (code, refusal.count("\n")) == (2, 1)
    for text in (out, told, shown, refusal):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


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
