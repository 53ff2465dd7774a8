"""The command line: what it prints where, what it returns, and how it refuses."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import bptt_crosscheck
import numpy as np
import pytest
from bptt_crosscheck.comparisons import command_line
from bptt_crosscheck.comparisons.candidates import built_in_cells
from bptt_crosscheck.comparisons.checking.environment import report_of
from bptt_crosscheck.comparisons.checking.training_row import ParameterVerdict, TrainingRow
from bptt_crosscheck.comparisons.problems.cases import CASES, QUICK
from bptt_crosscheck.comparisons.reporting.dump import load
from bptt_crosscheck.comparisons.reporting.terminal import Status
from bptt_crosscheck.comparisons.studies import built_in_cases, language_model
from bptt_crosscheck.manual.cells.rnn import RNN

SMALL = ("--quick", "--steps", "2", "--batch", "2", "--input-size", "2", "--hidden-size", "3")
QUICK_CASES = [case for case in CASES if case.name in QUICK]
QUICK_RNN = [case.name for case in QUICK_CASES if case.cell == "rnn"]
ROOT = Path(command_line.__file__).parent.parent


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abracadabra, simsalabim\n" * 4)
    return path


@pytest.fixture
def command(monkeypatch, capfd):
    """command(*arguments) → (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command_line.main()
        return left.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def small(command, text):
    """The same on few and small cases, against torch alone unless other references are named."""
    return lambda *more: command(
        *SMALL,
        "--cell",
        "rnn",
        "--text",
        text,
        *(() if "--references" in more else ("--references", "torch")),
        *more,
    )


def folded(text):
    """The text as if on one line: a narrow terminal breaks it anywhere."""
    return " ".join(text.split())


def strictly(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Broken(RNN):
    """The carry is dropped."""

    def delta(self, params, cache, d_state):
        delta, d_state_prev = super().delta(params, cache, d_state)
        return delta, {"h": 0 * d_state_prev["h"]}


class Another(RNN):
    """Not the function that the references differentiate."""

    def recur(self, xp, params, state, projected, x):
        new, cache = super().recur(xp, params, state, 1.001 * projected, x)
        return new, cache


# What is said.


def test_everything_agrees(command, tmp_path):
    """All references, and the README for a text."""
    target = tmp_path / "report.json"
    status, out, err = command(*SMALL, "--json", target)
    assert (status, err) == (0, "")
    for name in QUICK:
        assert name.split("-")[0] in out
    assert "DIFFER" not in out
    assert folded(out).count("stayed together") == 3
    data = strictly(target.read_text())
    assert (data["schema"], data["passed"]) == (1, True)
    assert {"numpy", "torch", "jax", "python", "seed", "dtype"} <= set(data["environment"])
    names = [case["name"] for case in data["cases"]]
    assert names == [
        *(case.name for case in QUICK_CASES),
        *(f"text README.md, update {number}" for number in (0, 3, 6)),
    ]
    for case in data["cases"]:
        assert case["passed"]
        assert {
            "name",
            "cell",
            "steps",
            "batch",
            "input_size",
            "hidden_size",
            "seconds",
            "rows",
            "diagnosis",
        } <= set(case)
        assert (case["steps"], case["batch"], case["hidden_size"]) == (2, 2, 3)
        assert {row["reference"] for row in case["rows"]} >= {"torch", "jax"}
        for row in case["rows"]:
            assert row["passed"]
            assert {"gradient", "reference", "max_abs_error", "max_rel_error", "noise", "error_over_noise", "worst_index",
                    "first_wrong_step", "passed"} <= set(row)  # fmt: skip
    (training,) = data["training"]
    assert (training["text"], training["updates"], training["passed"]) == ("README.md", 6, True)
    assert list(tmp_path.iterdir()) == [target]


def test_json_alone_on_standard_output(small):
    """The same numbers for the same seed, others for another."""
    (status, out, err), (_, again, _), (_, other, _) = (
        small("--json", "-", "--seed", seed) for seed in (3, 3, 4)
    )
    assert status == 0
    assert "comparisons agree" in err
    assert "error/noise" in err
    assert strictly(out)["passed"]
    assert rows(out) == rows(again)
    assert rows(out) != rows(other)


def rows(out):
    return [row for case in strictly(out)["cases"] for row in case["rows"]], strictly(out)[
        "training"
    ]


def test_options_reach_the_report(small):
    status, out, err = small("--seed", "5", "--dtype", "float32", "--json", "-", "--verbose")
    environment = strictly(out)["environment"]
    assert (status, environment["seed"], environment["dtype"]) == (0, 5, "float32")
    assert err.count("every gradient against every reference") == len(QUICK_RNN) + 3


def test_a_dump_for_each_case(small, tmp_path):
    status, _, _ = small("--dump", tmp_path / "new" / "dumps")
    assert status == 0
    assert sorted(path.stem for path in (tmp_path / "new" / "dumps").iterdir()) == sorted(QUICK_RNN)
    data = load(tmp_path / "new" / "dumps" / "tanh.npz")
    np.testing.assert_allclose(data["state_jacobian"], data["torch/state_jacobian"], rtol=1e-12)


# What is wrong with the derivation: 1.


def test_a_wrong_derivation(monkeypatch, small, tmp_path):
    monkeypatch.setitem(built_in_cells.CELLS, "rnn", Broken)
    status, out, err = small("--json", tmp_path / "r.json")
    assert (status, err) == (1, "")
    assert "DIFFER" in out
    assert "DRIFTED APART" in folded(out)
    assert "W_hh" in out
    data = strictly((tmp_path / "r.json").read_text())
    assert not data["passed"]
    wrong = {
        (row["gradient"], row["first_wrong_step"])
        for row in data["cases"][0]["rows"]
        if not row["passed"]
    }
    assert wrong == {(name, 1) for name in ("W_xh", "W_hh", "b_h", "x", "h_0")}, (
        "T = 2: wrong from T − 1"
    )


def test_another_function_is_a_wrong_question(monkeypatch, small):
    """The forward passes differ: no gradient was compared, so that none is called wrong."""
    monkeypatch.setitem(built_in_cells.CELLS, "rnn", Another)
    status, out, _ = small()
    assert "forward passes differ" in out
    assert status == 2


def drifted_apart():
    row = ParameterVerdict("torch", "b_h", 1e-3, 1e9, passed=False, updated_by="torch.optim")
    return TrainingRow(
        "a.txt", 10, 3, 6, "rnn", {"optimiser": "sgd", "clip": None}, 1.0, 1.0, [row]
    )


@pytest.mark.parametrize(
    ("kinds", "missing", "status"),
    [
        ("r", {}, 0),
        ("rr", {}, 0),
        ("r", {"jax": "pip install jax"}, 2),
        ("rw", {}, 1),
        ("w", {"jax": "pip install jax"}, 1),
        ("f", {}, 2),
        ("rf", {}, 2),
        ("wf", {}, 1),
        ("fw", {}, 1),
    ],
)
def test_exit_status(trial, with_gradient, kinds, missing, status):
    """r: right, w: a wrong gradient, f: the forward differs.

    A wrong gradient outweighs everything.
    """
    made = {
        "r": trial("one-step").check(),
        "w": trial("one-step").planted(with_gradient("W_hh", lambda d: 1.1 * d)),
        "f": trial("one-step").planted(lambda answer: replace(answer, loss=2 * answer.loss)),
    }
    found = report_of([made[kind] for kind in kinds], 0, "float64")
    assert command_line.exit_status(found, missing) == status
    if status == 0:
        apart = replace(found, training=[drifted_apart()])
        assert command_line.exit_status(apart, missing) == 1


def test_nothing_to_compare_is_no_disagreement():
    assert command_line.exit_status(report_of([], 0, "float64"), {}) == 2


def test_a_wrong_gradient_outweighs_a_missing_framework(monkeypatch, small):
    without(monkeypatch, "jax")
    monkeypatch.setitem(built_in_cells.CELLS, "rnn", Broken)
    assert small("--references", "torch,jax")[0] == 1


# What is missing: 2, and the rest still runs.


def without(monkeypatch, *frameworks):
    """As if these were not installed."""
    modules = {
        "torch": ("by_torch.torch_autograd", "by_torch.torch_nn"),
        "jax": ("by_jax.jax_grad", "by_jax.forward_mode"),
        "flint": ("numeric.interval",),
    }
    for framework in frameworks:
        monkeypatch.setitem(sys.modules, framework, None)
        for module in modules[framework]:
            name = f"bptt_crosscheck.reference.{module}"
            monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_missing_framework(monkeypatch, small):
    without(monkeypatch, "jax")
    status, out, err = small("--references", "torch,jax,torch.nn")
    assert (status, err) == (2, "")
    assert "pip install jax" in out
    assert "comparisons agree" in out
    assert folded(out).count("stayed together") == 2


def test_a_missing_framework_that_is_not_asked_for(monkeypatch, small):
    without(monkeypatch, "jax")
    status, out, err = small("--references", "torch")
    assert (status, err) == (0, "")
    assert "comparisons agree" in out
    assert "pip install" not in out
    assert "every gradient against every reference" not in out


def test_the_other_framework_missing(monkeypatch, small):
    without(monkeypatch, "torch")
    status, out, _ = small("--references", "torch,jax,torch.nn")
    assert status == 2
    assert "pip install torch" in out
    assert folded(out).count("stayed together") == 1


def test_a_proof_that_cannot_be_had(monkeypatch, small):
    without(monkeypatch, "flint")
    status, out, err = small("--references", "torch,proof")
    assert (status, err) == (2, "")
    assert (
        "reference 'proof' needs python-flint, which cannot be imported: pip install python-flint"
        in " ".join(out.split())
    )
    assert "comparisons agree" in out
    assert "True error" not in out


def test_a_proof_shows_the_true_error_of_all(small):
    status, out, _ = small("--references", "torch,proof")
    assert status == 0
    table = out[out.index("True error, proven") :]
    assert table.split().count("W_hh") >= 1
    assert "manual" in table
    assert "stayed together" in folded(out), "training goes on with those that can"


def test_no_framework_at_all(monkeypatch, small):
    without(monkeypatch, "torch", "jax")
    refused(small("--references", "torch,jax,torch.nn"), "pip install torch", "pip install jax")


# What is wrong with the question: 2, and one line.


def refused(result, *words):
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.count("\n") == 1, err
    assert err.startswith("bptt-crosscheck: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "nosuch"], ["nosuch", "rnn"]),
        (["--references", "nosuch"], ["nosuch", "torch, jax, torch.nn"]),
        (["--references", ""], ["torch, jax, torch.nn"]),
        (["--references", "torch,,jax"], ["torch, jax, torch.nn"]),
        (["--steps", "0"], ["--steps"]),
        (["--steps", "-3"], ["--steps"]),
        (["--steps", "many"], ["--steps", "integer"]),
        (["--batch", "0"], ["--batch"]),
        (["--input-size", "0"], ["--input-size"]),
        (["--hidden-size", "0"], ["--hidden-size"]),
        (["--seed", "-1"], ["--seed"]),
        (["--dtype", "bfloat16"], ["--dtype", "bfloat16", "float16"]),
        (["--nosuch"], ["--nosuch"]),
        (["--steps"], ["--steps"]),
        (["nosuch"], ["nosuch"]),
    ],
)
def test_an_option_that_cannot_be(command, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused(command(*arguments), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["No such file"]),
        (b"", ["empty"]),
        (b"\x80\x81", ["UTF-8", "byte 0"]),
        (b"short", ["5 characters", "needs 7"]),
    ],
)
def test_a_text_that_cannot_be(command, tmp_path, content, words):
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    refused(command("--quick", "--text", tmp_path / "t.txt"), "t.txt", *words)


def test_a_text_that_is_a_folder(command, tmp_path):
    refused(command("--text", tmp_path), "is no regular file")


def test_a_text_shorter_than_the_window_that_is_asked_for(command, text):
    refused(command("--quick", "--text", text, "--steps", "96"), "96 characters", "97")


def test_a_dump_to_a_file(command, text, tmp_path):
    (tmp_path / "mine").write_text("mine")
    refused(
        command(*SMALL, "--text", text, "--dump", tmp_path / "mine"), "mine", "cannot be written"
    )
    assert (tmp_path / "mine").read_text() == "mine"


def test_json_to_a_folder(command, text, tmp_path):
    (tmp_path / "folder").mkdir()
    refused(command(*SMALL, "--text", text, "--json", tmp_path / "folder"), "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_json_below_a_file(command, text, tmp_path):
    (tmp_path / "mine").write_text("mine")
    refused(command(*SMALL, "--text", text, "--json", tmp_path / "mine" / "r.json"), "mine")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_that_cannot_be_completed(monkeypatch, small, tmp_path):
    """The disk is full when the report is written: no half of it under the good name."""

    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "new").mkdir()
    monkeypatch.setattr(Path, "replace", full)
    status, _, err = small("--json", tmp_path / "new" / "r.json")
    assert status == 2
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("name", ["none/r.json", "x" * 256, "a/b/r.json"])
@pytest.mark.parametrize("asked", [SMALL, ("check", "mine.py"), ("cures",), ("trial", "--quick")])
def test_json_that_cannot_be_written_is_refused_before_the_work(
    command, monkeypatch, tmp_path, asked, name
):
    (tmp_path / "mine.py").write_text("raise SystemExit('it is run')")
    monkeypatch.chdir(tmp_path)
    refused(command(*asked, "--json", name), name, "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


MOVING = """
import os
import numpy as np

def loss(xp, params, inputs): return xp.sum(params["w"] ** 2)
def gradients(params, inputs): return {"w": 2 * params["w"]}
def example():
    os.chdir("elsewhere")
    return {"w": np.ones(3)}, {}
"""


def test_json_is_where_it_was_asked_for(command, monkeypatch, tmp_path):
    """Though the code under test goes elsewhere."""
    (tmp_path / "mine.py").write_text(MOVING)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    status, _, _ = command("check", "mine.py", "--references", "torch", "--json", "r.json")
    assert status == 0
    assert strictly((tmp_path / "r.json").read_text())["passed"]


@pytest.mark.parametrize("given", [("--plot", "none/p.png"), ("--dump", "mine.py")])
def test_what_else_of_a_study_cannot_be_written(command, monkeypatch, tmp_path, given):
    (tmp_path / "mine.py").write_text("mine")
    monkeypatch.chdir(tmp_path)
    refused(command("cures", *given), given[1], "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_a_dump_of_which_one_file_cannot_be_written(small, tmp_path):
    name = f"{QUICK_RNN[-1]}.npz"
    (tmp_path / "dumps" / name).mkdir(parents=True)
    refused(small("--dump", tmp_path / "dumps"), name, "folder")
    assert [path.name for path in (tmp_path / "dumps").iterdir()] == [name]


def test_json_beside_the_dumps_and_in_their_place(small, tmp_path):
    """The folder of the dumps is there before the JSON is to be in it."""
    assert small("--dump", tmp_path / "new", "--json", tmp_path / "new" / "r.json")[0] == 0
    assert strictly((tmp_path / "new" / "r.json").read_text())["passed"]
    both = tmp_path / "both"
    refused(small("--dump", both, "--json", both), "both is a folder")


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_text_without_an_end(command, target):
    refused(command("--quick", "--text", target), f"{target} is no regular file")


def test_a_text_that_is_too_long(command, monkeypatch, text):
    monkeypatch.setattr(language_model, "LONGEST", 50)
    refused(command("--quick", "--text", text), "has more than 50 bytes: give a part of it")


def test_the_lines_of_a_text_end_alike(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"a\r\nb\rc\n")
    assert language_model.read_corpus(tmp_path / "t.txt").vocabulary == "\nabc"


def test_jacobians_that_would_not_fit(command):
    refused(command("--hidden-size", "600", "--batch", "60"), "too large for its Jacobians")


def test_a_device_is_no_file_to_replace(small):
    status, _, _ = small("--json", "/dev/null")
    assert status == 0
    assert Path("/dev/null").is_char_device()


def test_a_file_keeps_its_mode(small, tmp_path):
    target = tmp_path / "r.json"
    target.write_text("before")
    target.chmod(0o600)
    (tmp_path / "link").symlink_to("r.json")
    assert small("--json", tmp_path / "link")[0] == 0
    assert strictly(target.read_text())["passed"]
    assert target.stat().st_mode & 0o777 == 0o600


def raising(error):
    def check(*_, **__):
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError("ours"), 3), (MemoryError(), 3), (KeyboardInterrupt(), 130)],
)
def test_status_1_is_a_wrong_gradient_and_nothing_else(monkeypatch, small, error, status):
    monkeypatch.setattr(built_in_cases, "check_problem", raising(error))
    assert small()[0] == status


def test_one_hidden_unit(small):
    status, out, _ = small("--hidden-size", "1", "--seed", "1", "--references", "jax")
    assert status == 0, out


# What it costs to ask.


def test_help_loads_no_framework():
    code = (
        "import runpy, sys, time\n"
        "start = time.process_time()\n"
        "sys.argv = ['report.py', '--help']\n"
        "try:\n    runpy.run_path('comparisons/report.py', run_name='__main__')\n"
        "except SystemExit as left:\n    print('status', left.code)\n"
        "print('seconds', time.process_time() - start)\n"
        "print('frameworks', sorted({'torch', 'jax', 'array_api_compat', 'xarray'} & "
        "set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert (done.stderr, lines[-3], lines[-1]) == ("", "status 0", "frameworks []")
    assert float(lines[-2].split()[1]) < 3
    for option in (
        "--cell",
        "--steps",
        "--seed",
        "--dtype",
        "--references",
        "--text",
        "--json",
        "--dump",
        "--quick",
        "--verbose",
    ):
        assert option in done.stdout


def test_the_script_refuses_in_one_line():
    done = subprocess.run(
        [sys.executable, "comparisons/report.py", "--cell", "nosuch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    refused((done.returncode, done.stdout, done.stderr), "nosuch", "rnn")


def test_the_version(command):
    assert command("--version") == (0, f"bptt-crosscheck {bptt_crosscheck.__version__}\n", "")


@pytest.mark.parametrize("script", ["report.py", "benchmark.py"])
def test_a_script_without_the_package_says_so_in_one_line(tmp_path, script):
    """-S and -I: nothing that is installed is found, nor what PYTHONPATH names."""
    path = ROOT / "comparisons" / script
    done = subprocess.run(
        [sys.executable, "-S", "-I", path, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bptt-crosscheck is not installed: pip install -e .")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["report.py", "benchmark.py"])
def test_a_script_without_what_the_package_needs_says_so_in_one_line(tmp_path, script):
    (tmp_path / "typer.py").write_text("raise ImportError('no typer here')")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, ROOT / "comparisons" / script, "--help"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bptt-crosscheck cannot be started: no typer here\n"


def test_the_script_works_with_processes_of_its_own(monkeypatch, tmp_path):
    """Each of them finds the package, and not the rooms of comparisons/ in its place."""
    code = (
        "import runpy, sys\n"
        "from bptt_crosscheck.comparisons.studies import built_in_cases\n"
        "built_in_cases.WORTH_SHARING = 1\n"
        f"script = {str(ROOT / 'comparisons' / 'report.py')!r}\n"
        "sys.argv = [script, '--cell', 'residual', '--quick', '--steps', '2', '--references', "
        "'torch', '--jobs', '2']\n"
        "if __name__ == '__main__':\n    runpy.run_path(script, run_name='__main__')\n"
    )
    starter = tmp_path / "starter.py"
    starter.write_text(code)
    done = subprocess.run(
        [sys.executable, starter], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "comparisons agree" in done.stdout


@pytest.mark.parametrize(("passed", "expected"), [(True, 0), (False, 4)])
def test_the_json_of_a_trial_is_json(monkeypatch, command, passed, expected):
    """Infinities are text there as well; a goal that is missed is no gradient that disagrees."""

    @dataclass(frozen=True)
    class Found:
        passed: bool

        def to_dict(self):
            return {"largest": math.inf, "smallest": -math.inf, "none": math.nan}

    monkeypatch.setattr(
        "bptt_crosscheck.comparisons.trial.trial.run_trial", lambda plan, watch: Found(passed)
    )
    monkeypatch.setattr(
        "bptt_crosscheck.comparisons.trial.trial_tables.rendered_trial", lambda found, seconds: ""
    )
    status, out, _ = command("trial", "--quick", "--json", "-")
    told = strictly(out)
    assert status == expected
    assert (told["largest"], told["smallest"], told["none"]) == ("Infinity", "-Infinity", "NaN")


TALKING = """
import threading
import time
import numpy as np


def loss(params, inputs):
    print("w is", params["w"][0])
    thread = threading.Thread(target=print, args=("of a thread",))
    thread.start()
    thread.join()
    return np.sum(np.sin(params["w"]))


def gradients(params, inputs):
    return {"w": np.cos(params["w"])}


def example():
    return {"w": np.ones(3)}, {}
"""
SLEEPING = "    time.sleep(3600)\n"


def test_what_the_code_under_test_prints_is_not_on_standard_output(command, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TALKING)
    status, out, err = command("check", path, "--json", "-")
    assert status == 0
    assert strictly(out)["passed"]
    assert 0 < err.count("w is") <= 5
    assert "more lines" in err
    assert "of a thread" in err


def test_code_that_does_not_return_is_a_question_that_could_not_be_asked(command, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TALKING.replace('    return {"w"', f'{SLEEPING}    return {{"w"', 1))
    status, out, _ = command("check", path, "--timeout", "0.5")
    assert status == Status.NOT_ASKED
    assert folded(out).startswith(
        "DoesNotReturn: gradients did not return within 0.5 s: it was at mine.py:16: time.sleep"
    )


def test_a_file_that_does_not_return_is_one_line(command, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("while True: pass\n")
    status, out, err = command("check", path, "--timeout", "0.5")
    assert (status, out) == (Status.NOT_ASKED, "")
    assert err.count("\n") == 1
    assert "did not return within 0.5 s: it was at mine.py:1: while True: pass" in err


def test_a_time_limit_that_is_none(command, tmp_path):
    status, _, err = command("check", tmp_path / "mine.py", "--timeout", "0")
    assert status == Status.NOT_ASKED
    assert "--timeout" in err


ROWS_FIRST = (
    "from tests.comparisons.checking.test_time_axes import PARAMS, ROWS_FIRST, gradients_of, loss_of\n"
    "loss = loss_of(1)\n"
    "gradients = gradients_of(1, wrong=(1, 4))\n"
    "def example():\n    return PARAMS, ROWS_FIRST\n"
)


@pytest.mark.parametrize(
    ("more", "options", "words"),
    [
        ("", (), "axis 0, index 1 of 2 only"),
        ("", ("--layout", "BTI"), "axis 0 (row), index 1 of 2 only"),
        ("", ("--layout", "x=BTI,W=IH"), "axis 0 (row), index 1 of 2 only"),
        ("layout = 'BTI'\n", (), "axis 0 (row), index 1 of 2 only"),
        ("layout = {'x': 'TBI'}\n", ("--layout", "BTI"), "axis 0 (row), index 1 of 2 only"),
        ("def layout():\n    pass\n", (), "axis 0, index 1 of 2 only"),
    ],
)
def test_the_layout_of_a_file_and_of_the_command_line(command, tmp_path, more, options, words):
    path = tmp_path / "rows_first.py"
    path.write_text(ROWS_FIRST + more)
    status, out, _ = command("check", path, "--references", "torch", *options)
    text = " ".join(out.split())
    assert status == 1
    assert words in text
    assert "first wrong at step 5 (wrong: 5 of 1–7) along axis 1" in text


@pytest.mark.parametrize(("letters", "words"), [("BT", "x has 3"), ("z=B", "called 'z'")])
def test_a_layout_that_does_not_fit(command, tmp_path, letters, words):
    path = tmp_path / "rows_first.py"
    path.write_text(ROWS_FIRST)
    status, out, _ = command("check", path, "--references", "torch", "--layout", letters)
    assert status == 2
    assert words in " ".join(out.split())
