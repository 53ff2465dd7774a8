"""Every file of examples/, run by the command that its docstring gives, and again with a mistake planted in it."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from comparisons import report

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# file, exit status, words of its output
OUTCOMES = (
    ("minimal_gated_unit", 0, ("cotangents on the final states: 16 comparisons agree", "32 of 32 comparisons agree")),
    (
        "minimal_gated_unit_with_mistake",
        1,
        ("is wrong in d_state_prev['h'] (steps 1–12 of 1–12); right in d_params['W_f']", "walking back, first wrong at step 11"),
    ),
    ("legacy_class_rnn", 0, ("1 of 1 cases", "the loss is NumPy code")),
    ("update_in_place", 0, ("8 of 8 comparisons agree",)),
    ("windowed_truncation", 0, ("6 of 6 comparisons agree",)),
    ("vjp_without_loss", 0, ("vjp, output.last alone: 10 comparisons agree", "30 of 30 comparisons agree")),
    ("torch_autograd_function_lstm", 0, ("14 of 14 comparisons agree",)),
    ("jax_custom_vjp_gru", 0, ("14 of 14 comparisons agree",)),
    ("dropout_with_setup", 0, ("1 of 1 cases", "complex step")),
    ("test_with_pytest", 0, ("6 passed", "1 checks failed", "wrong: W, U, x, h_0")),
    (
        "inspect_report",
        0,
        ("d_params['U'] wrong", "d_state_prev['h'] right", "transpose in U: U is the transpose of the true gradient"),
    ),
    (
        "clipped_gradients",
        0,
        (
            "diagnosis: exact up to clipping at ±0.5",
            "--- clipped, declared gradients: 4 comparisons agree",
            "--- clipped from above only, declared gradients: 2 of 4 comparisons disagree",
            "where torch has -0.5",
        ),
    ),
    (
        "mean_or_sum",
        0,
        ("diagnosis: exact up to the factor 1/T = 1/7, in every gradient", "--- declared gradients: 6 comparisons agree"),
    ),
)

# file, what it says, what somebody else would have written, exit status, words of the output
MISTAKES = (
    (
        "minimal_gated_unit",
        "dh * (n - h) + dfh * h",
        "dh * (n - h)",
        1,
        (
            "is wrong in d_params['W_f']",
            "d_params['U_f']",
            "d_params['b_f']",
            "right in d_params['W_n'], d_params['U_n'], d_params['b_n']",
        ),
    ),
    ("legacy_class_rnn", "draw @ hs[t - 1].T", "draw @ hs[t].T", 1, ("Whh: differs from", "right: Wxh, Why, bh, by")),
    ("update_in_place", "np.outer(delta, h[t - 1])", "np.outer(delta, h[t])", 1, ("U: differs from torch", "right: W, V, b")),
    (
        "windowed_truncation",
        "convention = {",
        "convention = {} and {",
        1,
        ("U: differs from torch", "W: differs from torch", "right: V"),
    ),
    (
        "windowed_truncation",
        '{"truncation": BPTT_TRUNCATE}',
        '{"truncation": BPTT_TRUNCATE + 1}',
        1,
        ("U: differs from torch", "W: differs from torch", "right: V"),
    ),
    (
        "vjp_without_loss",
        'dh = cotangents["last"]',
        "dh = np.zeros_like(h[0])",
        1,
        (
            "vjp, output.states alone: 10 comparisons agree",
            "vjp, output.last alone: 10 of 10 comparisons disagree",
            "W: all zero",
        ),
    ),
    ("torch_autograd_function_lstm", "dc * f, delta.T @ x", "dc, delta.T @ x", 1, ("c: differs from torch", "right: weight")),
    ("jax_custom_vjp_gru", "[dr, dz, dn * r]", "[dr, dz, dn]", 1, ("b_h: differs from torch", "right: weight")),
    ("dropout_with_setup", "(dh + h[t]) * masks[t - 1] *", "(dh + h[t]) *", 1, ("W: differs from", "U: differs from")),
    ("dropout_with_setup", "def setup():", "def never_called():", 2, ("NotRepeatable: asked twice", "reset it in setup=")),
)


def command_of(path):
    """The words of the last line of the docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    return docstring.split("\n")[-1].split()


def status_of(run):
    """What a program would leave with."""
    try:
        run()
    except SystemExit as left:
        return left.code or 0
    return 0


def check(path, monkeypatch, capfd):
    """(exit status, output without line breaks) of `python comparisons/report.py check path`."""
    monkeypatch.setattr(sys, "argv", ["report.py", "check", str(path)])
    status = status_of(report.main)
    return status, " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(("name", "status", "words"), OUTCOMES, ids=[name for name, *_ in OUTCOMES])
def test_the_command_in_the_docstring(name, status, words, monkeypatch, capfd):
    path = EXAMPLES / f"{name}.py"
    program, *arguments = command_of(path)
    assert arguments[-1] == f"examples/{name}.py"
    if arguments[:2] == ["comparisons/report.py", "check"]:
        found, output = check(path, monkeypatch, capfd)
    elif program == "python":
        found = status_of(lambda: runpy.run_path(str(path), run_name="__main__"))
        output = " ".join(capfd.readouterr().out.split())
    else:
        options = ["-p", "no:cacheprovider", "--oracle-references", "torch"]
        done = subprocess.run([sys.executable, "-m", program, *arguments, *options], cwd=ROOT, capture_output=True, text=True)
        found, output = done.returncode, " ".join(done.stdout.split())
    assert found == status
    for word in words:
        assert word in output


@pytest.mark.parametrize("name", [name for name, *_ in OUTCOMES if "__main__" in (EXAMPLES / f"{name}.py").read_text()])
def test_as_a_script(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert "agree" in capsys.readouterr().out


def test_by_the_shell():
    command = [sys.executable, "comparisons/report.py", "check", "examples/legacy_class_rnn.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 cases" in done.stdout


@pytest.mark.parametrize(("name", "was", "now", "status", "words"), MISTAKES, ids=[f"{name}-{was}" for name, was, *_ in MISTAKES])
def test_a_mistake_planted_in_it_is_seen(name, was, now, status, words, tmp_path, monkeypatch, capfd):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count(was) == 1
    path = tmp_path / f"{name}.py"
    path.write_text(text.replace(was, now))
    found, output = check(path, monkeypatch, capfd)
    assert found == status
    for word in words:
        assert word in output


def test_every_file_is_in_the_table():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {name for name, *_ in OUTCOMES}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(path):
    lines = path.read_text().split("\n")
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert 3 <= docstring.count("\n") + 1 <= 7
    assert len(lines) < 80
