"""The pytest plugin, run as its users run it: in a process of its own, on tests in a folder of
their own.
"""

import json
import os
import re
import subprocess
import sys
import zlib
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
from bptt_crosscheck.comparisons.errors import UnknownName
from bptt_crosscheck.comparisons.pytest_plugin import GradientOracle, OracleSummary

from tests.comparisons.small import INPUTS, PARAMS, gradients, numpy_loss

ROOT = Path(__file__).parents[2]

TESTS = """
import sys

import numpy as np
import pytest


def loss(params, inputs):
    return np.sum(np.sin(params["w"] * inputs["x"]))


def right(params, inputs):
    return {"w": inputs["x"] * np.cos(params["w"] * inputs["x"])}


def wrong(params, inputs):
    return {"w": inputs["x"] * np.sin(params["w"] * inputs["x"])}


def test_without_a_check():
    assert not {"torch", "jax"} & set(sys.modules)


PROBLEM = {"w": np.array([0.3, -1.2])}, {"x": np.array([2.0, 0.7])}


@pytest.mark.parametrize("times", [1, 2])
def test_right(gradient_oracle, times):
    for _ in range(times):
        report = gradient_oracle.check_gradients(right, loss, *PROBLEM)
    assert report.passed


def test_wrong(gradient_oracle):
    gradient_oracle.check_gradients(right, loss, *PROBLEM)
    gradient_oracle.check_gradients(wrong, loss, *PROBLEM)


def test_vjp(gradient_oracle):
    def vjp(params, inputs, cotangents):
        return {"w": cotangents * 2}

    gradient_oracle.check_vjp(vjp, lambda params, inputs: 2 * params["w"], *PROBLEM)


def test_question(gradient_oracle):
    gradient_oracle.check_gradients(lambda params, inputs: None, loss, *PROBLEM)


class TestInAClass:
    def test_expected_to_be_wrong(self, gradient_oracle):
        assert not gradient_oracle.check_gradients(wrong, loss, *PROBLEM, raise_exception=False).passed

    def test_own_seed(self, gradient_oracle):
        assert gradient_oracle.check_gradients(right, loss, *PROBLEM, seed=5).environment["seed"] == 5


def test_with_the_fixture_alone(gradient_oracle):
    assert gradient_oracle.reports == []
"""


def pytest_run(folder, *options, tests=TESTS):
    """(exit status, output, oracle.json or None) of pytest in a fresh folder."""
    (folder / "test_mine.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    plugin = [] if registered() else ["-p", "bptt_crosscheck.comparisons.pytest_plugin"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--oracle-report",
        "out",
        *plugin,
        *options,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    path = folder / "out" / "oracle.json"
    return done.returncode, done.stdout, json.loads(path.read_text()) if path.exists() else None


def environment():
    """Wide lines."""
    return {**os.environ, "COLUMNS": "200"}


def registered():
    """Whether pytest loads the plugin by itself: as it does wherever the package is installed."""
    return any(
        entry.value == "bptt_crosscheck.comparisons.pytest_plugin"
        for entry in entry_points(group="pytest11")
    )


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """All of TESTS in one process."""
    return pytest_run(tmp_path_factory.mktemp("once"))


def section(output):
    """The lines of the plugin's summary."""
    [_, after] = re.split(r"=+ gradient oracle =+\n", output)
    return [line for line in after.split("\n=")[0].split("\n") if line]


def test_a_wrong_gradient_and_a_wrong_question_fail_the_test(once):
    status, output, _ = once
    assert status == 1
    assert "2 failed, 7 passed" in output
    assert "GradientMismatch: gradients: 3 of 3 comparisons disagree" in output
    assert "BadContract: gradients returns a dict" in output


def test_the_summary_says_how_many_and_which(once):
    counted, *failed = section(once[1])
    assert counted == "9 checks, 24 comparisons, 3 checks failed"
    seeds = {name: zlib.crc32(f"test_mine.py::{name}".encode()) for name in NAMES}
    why = {
        "test_wrong": "wrong: w",
        "test_question": "BadContract",
        "TestInAClass::test_expected_to_be_wrong": "wrong: w",
    }
    assert failed == [
        f"  test_mine.py::{name} (seed {seeds[name]}): {reason}" for name, reason in why.items()
    ]


NAMES = (
    "test_right[1]",
    "test_right[2]",
    "test_wrong",
    "test_vjp",
    "test_question",
    "TestInAClass::test_expected_to_be_wrong",
    "TestInAClass::test_own_seed",
)


def test_every_check_is_in_the_file(once):
    written = once[2]
    assert written["schema"] == 1
    tests = [check["test"].removeprefix("test_mine.py::") for check in written["checks"]]
    assert tests == sorted([*NAMES, "test_right[2]", "test_wrong"])
    passed = {check["test"]: check["report"]["passed"] for check in written["checks"]}
    assert [passed[f"test_mine.py::{name}"] for name in NAMES] == [
        True,
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    for check in written["checks"]:
        assert {"schema", "passed", "environment", "cases", "errors"} <= set(check["report"])
    [question] = [
        check["report"] for check in written["checks"] if "test_question" in check["test"]
    ]
    assert question["errors"][0]["error"] == "BadContract"


def test_a_failing_test_says_its_seed_and_how_to_repeat_it(once):
    seed = zlib.crc32(b"test_mine.py::test_wrong")
    assert f"seed {seed}; repeat with --oracle-seed {seed}" in once[1]
    assert (
        str(zlib.crc32(b"test_mine.py::test_vjp")) not in once[1]
    )  # a test that passes says nothing


def test_each_test_has_a_seed_of_its_own(once):
    seeds = {check["test"]: check["seed"] for check in once[2]["checks"]}
    assert len(set(seeds.values())) == len(seeds)
    used = {check["test"]: check["report"]["environment"]["seed"] for check in once[2]["checks"]}
    own = "test_mine.py::TestInAClass::test_own_seed"
    assert {name: seed for name, seed in used.items() if name != own} == {
        name: seed for name, seed in seeds.items() if name != own
    }


def test_the_seed_in_the_file_is_the_one_that_was_used(once):
    """Else a check that was given a seed of its own could not be repeated from the file."""
    assert [
        check
        for check in once[2]["checks"]
        if check["seed"] != check["report"]["environment"]["seed"]
    ] == []


def test_seed_and_references_by_option(tmp_path):
    options = ("--oracle-seed", "7", "--oracle-references", "differences", "-k", "right or vjp")
    status, output, written = pytest_run(tmp_path, *options)
    assert status == 0
    assert section(output)[0] == "4 checks, 4 comparisons, 0 checks failed"
    assert {check["seed"] for check in written["checks"]} == {7}
    rows = [
        row
        for check in written["checks"]
        for case in check["report"]["cases"]
        for row in case["rows"]
    ]
    assert {row["reference"] for row in rows} == {"differences"}


def test_two_processes_report_to_one(tmp_path, once):
    status, output, written = pytest_run(tmp_path, "-n", "2")
    assert status == 1
    assert section(output)[0] == section(once[1])[0]
    assert sorted(section(output)) == sorted(section(once[1]))

    def said(report):
        checks = report["checks"]
        return [(check["test"], check["seed"], check["report"]["passed"]) for check in checks]

    assert said(written) == said(once[2])


HANGS = """
import numpy as np


def test_hangs(gradient_oracle):
    def hangs(params, inputs):
        while True: pass

    gradient_oracle.check_gradients(hangs, lambda p, i: np.sum(p["w"]), {"w": np.ones(2)}, {})
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_what_does_not_return_is_ended_where_a_time_limit_is_given(processes, tmp_path):
    options = ("--oracle-timeout", "0.5", "-n", processes)
    status, output, written = pytest_run(tmp_path, *options, tests=HANGS)
    assert status == 1
    assert "did not return within 0.5 s: it was at test_mine.py:7: while True: pass" in output
    [check] = written["checks"]
    assert check["report"]["errors"][0]["error"] == "DoesNotReturn"


def test_without_checks_there_is_nothing_to_say(pytestconfig):
    said = []
    terminal = SimpleNamespace(section=said.append, write_line=said.append)
    OracleSummary(pytestconfig).pytest_terminal_summary(terminal)
    assert said == []


def test_a_reference_that_does_not_exist_is_said_by_every_check():
    oracle = GradientOracle(0, ["tensorflow"])
    with pytest.raises(UnknownName, match="no reference is called 'tensorflow'"):
        oracle.check_gradients(gradients, numpy_loss, PARAMS, INPUTS)
    assert not oracle.check_gradients(
        gradients, numpy_loss, PARAMS, INPUTS, raise_exception=False
    ).passed
    assert [report.passed for report in oracle.reports] == [False, False]


def test_importing_the_plugin_imports_no_framework():
    code = "import sys, bptt_crosscheck.comparisons.pytest_plugin; assert not {'torch', 'jax', 'scipy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


def test_the_package_registers_the_plugin():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(
        r"\[project.entry-points.pytest11\]\n\w+ = \"bptt_crosscheck.comparisons.pytest_plugin\"",
        text,
    )


def test_here_too(gradient_oracle):
    """The fixture in this very session."""
    assert gradient_oracle.check_gradients(gradients, numpy_loss, PARAMS, INPUTS).passed
    assert len(gradient_oracle.reports) == 1


def test_a_report_that_cannot_be_written_is_said_before_any_test_runs(tmp_path):
    (tmp_path / "out").write_text("mine")
    status, output, _ = pytest_run(tmp_path)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "passed" not in output
    assert (tmp_path / "out").read_text() == "mine"
