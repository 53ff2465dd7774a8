"""Every file of examples/, run by the command that its docstring gives, and again with a mistake
planted in it.
"""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import bptt_crosscheck
import pytest
from bptt_crosscheck.comparisons import command_line

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# file, exit status, words of its output
OUTCOMES = {
    "minimal_gated_unit": (
        0,
        "cotangents on the final states: 16 comparisons agree",
        "32 of 32 comparisons agree",
    ),
    "minimal_gated_unit_with_mistake": (
        1,
        "is wrong in d_state_prev['h'] (steps 1–12 of 1–12); right in d_params['W_f']",
        "walking back, first wrong at step 11",
    ),
    "legacy_class_rnn": (0, "1 of 1 cases", "gradients"),
    "update_in_place": (0, "4 of 4 comparisons agree"),
    "windowed_truncation": (0, "3 of 3 comparisons agree"),
    "vjp_without_loss": (
        0,
        "vjp, output.last alone: 5 comparisons agree",
        "15 of 15 comparisons agree",
    ),
    "torch_autograd_function_lstm": (0, "7 of 7 comparisons agree"),
    "jax_custom_vjp_gru": (0, "14 of 14 comparisons agree"),
    "dropout_with_setup": (0, "1 of 1 cases", "complex step"),
    "test_with_pytest": (0, "6 passed", "1 checks failed", "wrong: W, U, x, h_0"),
    "inspect_report": (
        0,
        "d_params['U'] wrong",
        "d_state_prev['h'] right",
        "transpose in U: U is the transpose of the true gradient",
    ),
    "clipped_gradients": (
        0,
        "diagnosis: exact up to clipping at ±0.5",
        "--- clipped, declared gradients: 4 comparisons agree",
        "--- clipped from above only, declared gradients: 2 of 4 comparisons disagree",
        "where torch has -0.5",
    ),
    "mean_or_sum": (
        0,
        "diagnosis: exact up to the factor 1/T =",
        "--- declared gradients: 6 comparisons agree",
    ),
}

# file, what it says, what somebody else would have written, exit status, words of the output
MISTAKES = (
    (
        ("minimal_gated_unit", "dh * (n - h) + dfh * h", "dh * (n - h)"),
        (
            1,
            "is wrong in d_params['W_f']",
            "d_params['b_f']",
            "right in d_params['W_n'], d_params['U_n'], d_params['b_n']",
        ),
    ),
    (
        ("legacy_class_rnn", "draw @ hs[t - 1].T", "draw @ hs[t].T"),
        (1, "Whh: differs from", "right: Wxh, Why, bh, by"),
    ),
    (
        ("update_in_place", "np.outer(delta, h[t - 1])", "np.outer(delta, h[t])"),
        (1, "U: differs from torch", "right: W, V, b"),
    ),
    (
        ("windowed_truncation", 'convention = {"truncation": BPTT_TRUNCATE}', "convention = {}"),
        (1, "U: differs from torch", "W: differs from torch", "right: V"),
    ),
    (
        (
            "windowed_truncation",
            '{"truncation": BPTT_TRUNCATE}',
            '{"truncation": BPTT_TRUNCATE + 1}',
        ),
        (1, "U: differs from torch", "W: differs from torch", "right: V"),
    ),
    (
        ("vjp_without_loss", 'dh = cotangents["last"]', "dh = np.zeros_like(h[0])"),
        (
            1,
            "output.states alone: 5 comparisons agree",
            "output.last alone: 5 of 5 comparisons disagree",
        ),
    ),
    (
        ("torch_autograd_function_lstm", "dc * f, delta.T @ x", "dc, delta.T @ x"),
        (1, "c: differs from torch", "right: weight"),
    ),
    (
        ("jax_custom_vjp_gru", "[dr, dz, dn * r]", "[dr, dz, dn]"),
        (1, "b_h: differs from torch", "right: weight"),
    ),
    (
        ("dropout_with_setup", "(dh + h[t]) * masks[t - 1] *", "(dh + h[t]) *"),
        (1, "W: differs from", "U: differs from"),
    ),
    (
        ("dropout_with_setup", "def setup():", "setup = None\n\n\ndef never_called():"),
        (2, "NotRepeatable: asked twice", "reset it in setup="),
    ),
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


def check(path, monkeypatch, capfd, *options):
    """(exit status, output without line breaks) of `python comparisons/report.py check path`."""
    monkeypatch.setattr(sys, "argv", ["report.py", "check", str(path), *options])
    status = status_of(command_line.main)
    return status, words_of(capfd)


def words_of(capfd):
    """What was printed, without line breaks."""
    return " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_command_in_the_docstring(name, monkeypatch, capfd):
    path, (status, *words) = EXAMPLES / f"{name}.py", OUTCOMES[name]
    program, *arguments = command_of(path)
    assert arguments[-1] == f"examples/{name}.py"
    if arguments[:2] == ["comparisons/report.py", "check"]:
        torch_alone = name in (
            "update_in_place",
            "windowed_truncation",
            "vjp_without_loss",
            "torch_autograd_function_lstm",
        )
        found, output = check(
            path, monkeypatch, capfd, *(["--references", "torch"] if torch_alone else [])
        )
    elif program == "python":
        found = status_of(lambda: runpy.run_path(str(path), run_name="__main__"))
        output = words_of(capfd)
    else:
        options = ["-p", "no:cacheprovider", "--oracle-references", "torch"]
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments, *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        found, output = done.returncode, " ".join(done.stdout.split())
    assert found == status
    for word in words:
        assert word in output


def test_by_the_shell():
    command = [sys.executable, "comparisons/report.py", "check", "examples/legacy_class_rnn.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 cases" in done.stdout


SCRIPTS = [name for name in OUTCOMES if "if __name__" in (EXAMPLES / f"{name}.py").read_text()]


@pytest.mark.parametrize(
    "name", [name for name in SCRIPTS if "check" in command_of(EXAMPLES / f"{name}.py")]
)
def test_as_a_script_it_asks_the_same_question(name, monkeypatch, capsys):
    asked = []
    for entry in ("check_cell", "check_gradients", "check_vjp"):
        monkeypatch.setattr(
            bptt_crosscheck,
            entry,
            lambda *given, **options: asked.append((given, options)) or "asked",
        )
    module = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out == "asked\n"
    [(given, options)] = asked
    assert options.get("convention") == module.get("convention")
    assert options.get("setup") == module.get("setup")
    if "example" in module:
        assert given[:2] in [
            tuple(map(module.get, names)) for names in (("gradients", "loss"), ("vjp", "function"))
        ]
    else:
        assert type(given[0]) is module["MinimalGatedUnit"]


@pytest.mark.parametrize(
    ("mistake", "outcome"), MISTAKES, ids=[f"{name}, {now}" for (name, _, now), _ in MISTAKES]
)
def test_a_mistake_planted_in_it_is_seen(mistake, outcome, tmp_path, monkeypatch, capfd):
    (name, was, now), (status, *words) = mistake, outcome
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count(was) == 1
    path = tmp_path / f"{name}.py"
    path.write_text(text.replace(was, now))
    sizes = ["--steps", "3"] if "step_backward" in text else []
    references = ["--references", "torch"] if "xp, params" in text else []
    found, output = check(path, monkeypatch, capfd, *sizes, *references)
    assert found == status
    for word in words:
        assert word in output


def test_every_file_is_in_the_table():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(OUTCOMES)


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_example_is_short_and_says_what_it_shows(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring is not None
    assert 3 <= docstring.count("\n") + 1 <= 7
    assert text.count("\n") < 80
