"""The benchmark: its form, that it asserts equality first, and that every contender is timed; no
times.
"""

import json
import os
import sys
import threading

import numpy as np
import pytest
import threadpoolctl
from bptt_crosscheck.comparisons.speed import benchmark, throughput
from bptt_crosscheck.comparisons.speed.benchmark import app
from bptt_crosscheck.comparisons.speed.throughput import (
    EAGER,
    JAX,
    MODULE,
    NAMES,
    PRODUCTS,
    ContendersDisagree,
    Sizes,
    Task,
)
from typer.testing import CliRunner

TINY = Sizes(4, 2, 3, 5, 4)
every_cell = pytest.mark.parametrize("cell", NAMES)
every_dtype = pytest.mark.parametrize("dtype", throughput.DTYPES)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Threads and environment are put back."""
    monkeypatch.setattr(throughput, "SMALLEST", TINY)
    kept = dict(os.environ)
    with threadpoolctl.threadpool_limits(None):
        yield
    os.environ.clear()
    os.environ.update(kept)


def asked(*arguments):
    only = [] if "--only" in arguments else ["--only", "gradients"]
    return CliRunner().invoke(
        app, ["--quick", "--seconds", "0", *only, *arguments], env={"COLUMNS": "160"}
    )


def test_a_table_per_cell_and_dtype_and_the_same_as_json(tmp_path):
    target = tmp_path / "times.json"
    said = asked("--json", str(target))
    assert said.exit_code == 0, said.output
    for cell in NAMES:
        for dtype in throughput.DTYPES:
            assert f"{cell}, {dtype}" in said.output
    assert "threads 1" in said.output
    told = json.loads(target.read_text())
    assert {"versions", "results", "costs"} == set(told)
    assert {"threads", "numpy", "torch", "jax", "BLAS"} == set(told["versions"])
    assert told["costs"] == {}
    assert [(each["cell"], each["dtype"]) for each in told["results"]] == [
        (c, d) for c in NAMES for d in throughput.DTYPES
    ]
    for each in told["results"]:
        assert each["sizes"] == vars(TINY)
        assert each["rounds"] >= throughput.LEAST_ROUNDS
        assert set(each["ratios"]) == {MODULE, EAGER, JAX}
        assert all(
            0 < found["low"] <= found["median"] <= found["high"]
            for found in (*each["ratios"].values(), each["share"])
        )


def test_the_json_read_again_is_markdown_of_ratios(tmp_path):
    target = tmp_path / "times.json"
    assert (
        asked(
            "--json", str(target), "--cell", "gru", "--only", "gradients", "--only", "products"
        ).exit_code
        == 0
    )
    said = asked("--read", str(target))
    assert said.exit_code == 0, said.output
    header, rule, first, *others = said.output.splitlines()
    assert header.count("|") == rule.count("|") == first.count("|")
    assert first.startswith(f"| gru | {TINY} |")
    assert first.count("%") == len(throughput.DTYPES)
    assert any(line.startswith("| all ∂s_t/∂s_k |") for line in others)
    assert others[-1].startswith("threads 1, numpy ")
    assert " s |" not in said.output, "no seconds, which are those of one machine"


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\x80",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"versions": {}, "results": [{"cell": "rnn"}], "costs": {}}',
        b'{"versions": [], "results": [], "costs": {}}',
        b'{"versions": {}, "results": 3, "costs": {}}',
    ],
)
def test_what_is_no_json_of_it_is_refused_in_one_line(monkeypatch, capfd, tmp_path, content):
    path = tmp_path / "times.json"
    if content is not None:
        path.write_bytes(content)
    assert refusal(monkeypatch, capfd, "--read", path).startswith(f"benchmark: {path} ")


def refusal(monkeypatch, capfd, *arguments):
    """The one line with which the command refuses."""
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        benchmark.main()
    out, err = capfd.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1)
    return err


@pytest.mark.parametrize("target", ["/dev/zero", "."])
def test_what_has_no_end_is_not_read(monkeypatch, capfd, target):
    assert "is no regular file" in refusal(monkeypatch, capfd, "--read", target)


@pytest.mark.parametrize("name", ["none/times.json", "x" * 256])
def test_json_that_cannot_be_written_is_refused_before_the_work(monkeypatch, capfd, tmp_path, name):
    monkeypatch.setattr(benchmark, "measure", None)
    assert "cannot be written" in refusal(monkeypatch, capfd, "--json", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_gets_the_json_once_and_whole(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    read = []
    thread = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_text()))
    thread.start()
    said = asked("--json", str(tmp_path / "fifo"), "--cell", "rnn", "--only", "gradients")
    thread.join()
    assert said.exit_code == 0
    assert len(json.loads(read[0])["results"]) == len(throughput.DTYPES)


def test_what_was_measured_before_it_is_interrupted_is_kept(tmp_path, monkeypatch):
    target, measured = tmp_path / "times.json", throughput.measured

    def interrupted(task, *given):
        if task.cell == "lstm":
            raise KeyboardInterrupt
        return measured(task, *given)

    monkeypatch.setattr(throughput, "measured", interrupted)
    assert asked("--json", str(target)).exit_code != 0
    told = json.loads(target.read_text())
    assert [(each["cell"], each["dtype"]) for each in told["results"]] == [
        ("rnn", d) for d in throughput.DTYPES
    ]
    assert f"| rnn | {TINY} |" in asked("--read", str(target)).output


def test_a_section_that_there_is_not_is_refused():
    said = asked("--only", "weather")
    assert said.exit_code == 2
    assert "is none of gradients, Jacobians" in said.output


def test_a_cell_that_there_is_not_is_refused():
    said = asked("--cell", "transformer")
    assert said.exit_code == 2
    assert "is none of rnn, lstm, gru" in said.output


@every_dtype
@every_cell
def test_all_contenders_compute_the_same(cell, dtype):
    task = throughput.task_of(cell, TINY, dtype)
    mine = throughput.by_hand(task)
    throughput.must_agree(throughput.contenders(task), mine(), task.dtype)


def gradient_spoiled(run, name):
    loss, gradients = run()
    return lambda: (loss, {**gradients, name: gradients[name] * 1.001})


@every_cell
def test_one_that_computes_something_else_is_found(cell):
    task = throughput.task_of(cell, TINY, "float64")
    mine = throughput.by_hand(task)
    with pytest.raises(
        ContendersDisagree, match=r"a cheat: the gradient for W_hh \(float64\) is off by 1.0e-03"
    ):
        throughput.must_agree({"a cheat": gradient_spoiled(mine, "W_hh")}, mine(), task.dtype)
    loss, gradients = mine()
    with pytest.raises(ContendersDisagree, match="the loss is"):
        throughput.must_agree(
            {"a cheat": lambda: (1.001 * loss, gradients)}, (loss, gradients), task.dtype
        )
    with pytest.raises(ContendersDisagree, match="the loss is nan"):
        throughput.must_agree(
            {"a cheat": lambda: (np.nan, gradients)}, (loss, gradients), task.dtype
        )
    narrow = {name: value.astype(np.float32) for name, value in gradients.items()}
    with pytest.raises(ContendersDisagree, match="float32"):
        throughput.must_agree({"a cheat": lambda: (loss, narrow)}, (loss, gradients), task.dtype)


def test_a_disagreement_is_the_exit_status(monkeypatch):
    right = throughput.contenders

    def cheat(task, with_compile):
        return {"a cheat": gradient_spoiled(right(task, with_compile)[JAX], "x")}

    monkeypatch.setattr(throughput, "contenders", cheat)
    said = asked("--cell", "rnn")
    assert said.exit_code == 1
    assert "a cheat" in said.stderr


def test_every_round_runs_everybody_once_beginning_with_another(monkeypatch):
    order = []
    monkeypatch.setattr(throughput, "timed", lambda run, often=1: run() or float(often))
    monkeypatch.setattr(throughput, "TURN", 0.5)
    times = throughput.interleaved(
        {name: lambda name=name: order.append(name) for name in "abc"}, 0
    )
    assert order == list("abc") + list("abcbcacab")  # once to see how long each takes
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys(
        "abc", throughput.LEAST_ROUNDS
    )


def test_what_is_short_runs_often_in_its_turn():
    times = throughput.interleaved(dict.fromkeys("ab", lambda: None), 0)
    assert all(0 < value < throughput.TURN / 100 for values in times.values() for value in values)
    ran = []
    assert throughput.timed(lambda: ran.append(1), 7) > 0
    assert len(ran) == 7


def test_ratios_are_taken_within_rounds():
    found = throughput.spread(np.array([1.0, 10.0, 3.0]) / np.array([2.0, 20.0, 6.0]))
    assert (found.low, found.median, found.high) == (0.5, 0.5, 0.5)


@every_cell
def test_the_matrix_products_are_those_of_one_pass(cell):
    task: Task = throughput.task_of(cell, TINY, "float64")
    assert throughput.matrix_products(task)() is None
    assert PRODUCTS not in throughput.contenders(task)


EXACT = {"W": np.array([1.0, -2.5])}  # in float32 too


def test_a_narrower_dtype_is_told_even_where_its_numbers_are_right():
    narrow = {"W": EXACT["W"].astype(np.float32)}
    with pytest.raises(ContendersDisagree, match=r"W \(float32\) is off by 0.0e\+00"):
        throughput.must_agree({"a cheat": lambda: (1.0, narrow)}, (1.0, EXACT), np.dtype("float64"))


@pytest.mark.parametrize("off", [1e-5, 1e-9, -1e-9])
def test_a_loss_is_right_to_rounding(off):
    with pytest.raises(ContendersDisagree, match="the loss is"):
        throughput.must_agree(
            {"a cheat": lambda: (1.0 + off, EXACT)}, (1.0, EXACT), np.dtype("float64")
        )
    throughput.must_agree({"right": lambda: (1.0, EXACT)}, (1.0, EXACT), np.dtype("float64"))
