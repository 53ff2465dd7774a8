"""What a person reads."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.checking.environment import report_of
from bptt_crosscheck.comparisons.checking.report_data import Report
from bptt_crosscheck.comparisons.checking.training_row import ParameterVerdict, TrainingRow
from bptt_crosscheck.comparisons.reporting import tables
from bptt_crosscheck.comparisons.witnesses.tolerance import LIMIT
from rich.console import Console


def printed(rendered, width=200):
    stream = io.StringIO()
    Console(file=stream, width=width).print(rendered)
    return stream.getvalue()


@pytest.fixture(scope="module")
def right(trial):
    return trial("tanh").check(references=("torch", "torch.nn"))


@pytest.fixture(scope="module")
def wrong(trial, with_gradient):
    return replace(trial("tanh").planted(with_gradient("W_hh", lambda d: 1.1 * d)), name="spoilt")


@pytest.fixture(scope="module")
def other_function(trial):
    return replace(
        trial("tanh").planted(lambda answer: replace(answer, loss=2 * answer.loss)), name="another"
    )


@pytest.fixture(scope="module")
def no_module(trial):
    return trial("sigmoid-last").check(references=("torch", "torch.nn"))


def shown(*cases, seconds=1.5, verbose=False, width=200, **more):
    return printed(
        tables.rendered(replace(report_of(list(cases), 0, "float64"), **more), seconds, verbose),
        width,
    )


def line_of(text, start):
    (line,) = (line for line in text.splitlines() if line.strip().startswith(start) and "·" in line)
    return line


def test_a_line_for_each_case(right, wrong):
    text = shown(right, wrong)
    assert "12·3·4·5·6" in line_of(text, "rnn tanh")
    assert line_of(text, "rnn tanh").rstrip().endswith("agree")
    assert line_of(text, "rnn spoilt").rstrip().endswith("DIFFER")
    assert f"{right.worst_rel_error('torch'):.1e}" in line_of(text, "rnn tanh")
    assert "1.0e-01" in line_of(text, "rnn spoilt")


def test_what_disagrees_is_said_in_words(right, wrong):
    text = shown(right, wrong)
    (row,) = wrong.failures()
    assert row.sentence() in " ".join(text.split())
    assert row.sentence() not in " ".join(shown(right).split())


def test_a_forward_that_differs_is_said_in_words(other_function):
    text = shown(other_function)
    assert "forward passes differ" in text
    assert line_of(text, "rnn another").rstrip().endswith("DIFFER")


def test_a_reference_without_such_a_module_has_a_dash(right, no_module):
    text = shown(right, no_module)
    assert "–" in line_of(text, "rnn sigmoid-last")
    assert "–" not in line_of(text, "rnn tanh")
    assert "–: not asked, or not told by that reference" in " ".join(text.split())


def test_totals(right, wrong):
    rows, bad = len(right.rows) + len(wrong.rows), len(wrong.failures())
    assert (
        shown(right, wrong)
        .splitlines()[-1]
        .startswith(f"1 of 2 cases, {rows - bad} of {rows} comparisons agree; 1.5 s")
    )


def test_the_limit_is_explained(right):
    assert f"up to {LIMIT:g} agrees" in " ".join(shown(right).split())


def test_every_gradient_when_verbose(right):
    text, brief = shown(right, verbose=True), shown(right)
    for row in (*right.rows, *right.forward):
        assert [
            line
            for line in text.splitlines()
            if line.split()[: len(row.gradient.split())] == row.gradient.split()
        ]
    assert "first wrong step" in text
    assert "first wrong step" not in brief


def test_notes_are_shown(right):
    assert "reference 'jax' needs jax" in shown(right, notes=["reference 'jax' needs jax"])


def test_training_is_said_in_words(right):
    row = ParameterVerdict("torch", "b_h", 5e-14, 0.5, passed=True, updated_by="torch.optim")
    settings = {"optimiser": "momentum", "clip": "value"}
    run = TrainingRow("a.txt", 1234, 26, 60, "gru", settings, 3.5, 1.25, [row])
    together = shown(right, training=[run])
    assert "a.txt: 1,234 characters, 26 distinct; 60 updates" in together
    assert "(gru, SGD with momentum, gradients clipped by value)" in together
    assert "manual and torch (torch.optim), trained apart" in together
    assert "from 3.500 to 1.250" in together
    assert "stayed together" in together
    apart = shown(right, training=[replace(run, rows=[row, replace(row, passed=False)])])
    assert "DRIFTED APART" in apart


@pytest.mark.parametrize("name", ["text notes[red].txt", "text [b]", "text [/x]", "text a:smile:b"])
def test_names_are_no_markup(right, wrong, name):
    for verbose in (False, True):
        text = shown(replace(right, name=name), replace(wrong, name=name), verbose=verbose)
        assert text.count(name) >= 2


def test_nothing_to_show(right):
    assert "nothing was compared" in shown()
    assert isinstance(report_of([right], 0, "float64"), Report)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.0e+00"), (1.26e-12, "1.3e-12"), (math.inf, "inf"), (math.nan, "nan")],
)
def test_number(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.50×"), (999.0, "999.00×"), (1e6, "1.0e+06×"), (math.inf, "inf×"), (math.nan, "nan×")],
)
def test_ratio(value, text):
    assert tables.ratio(value) == text


def test_a_pipe_is_as_wide_as_ever_unless_told(monkeypatch, right, wrong):
    monkeypatch.setenv("COLUMNS", "40")
    assert tables.console().width == 40
    monkeypatch.delenv("COLUMNS")
    assert not tables.console().is_terminal
    assert tables.console().width == tables.console(stderr=True).width == tables.NARROW
    text = shown(right, wrong, width=tables.NARROW)
    assert max(map(len, text.splitlines())) <= tables.NARROW
    assert "DIFFER" in text


def test_numbers_that_are_not_finite_are_shown(trial, with_gradient):
    nan = trial("tanh").planted(with_gradient("W_hh", lambda d: np.nan * d))
    line = line_of(shown(nan), "rnn tanh")
    assert "nan" in line
    assert line.rstrip().endswith("DIFFER")
