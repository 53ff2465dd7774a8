"""A command of a terminal: what it prints there, and what its exit status says."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from bptt_crosscheck.comparisons.command_line import show_text
from bptt_crosscheck.comparisons.errors import BadOption
from bptt_crosscheck.comparisons.reporting.tables import console
from bptt_crosscheck.comparisons.reporting.terminal import Status, Visible, run, visible
from rich.text import Text

UNIX = pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes and signals of Unix")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ½ ∂L/∂W × 10⁻³ 日本 é\n", "plain ½ ∂L/∂W × 10⁻³ 日本 é\n"),
        ("10\u202f% of\xa0it", "10\u202f% of\xa0it"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\tc\x08\x7f\x00", r"a\rb\tc\x08\x7f\x00"),
        ("\u202eback\u2066\u200f", r"\u202eback\u2066\u200f"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\udc80", r"\udc80"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_moves_a_terminal_is_spelled(text, shown):
    assert visible(text) == shown


def test_rendered_text_has_the_colours_of_its_own_alone(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    made = console()
    with made.capture() as captured:
        made.print(Visible(Text("a\x1b[31mb", style="bold")))
    assert captured.get() == "\x1b[1ma\\x1b[31mb\x1b[0m\n"


def test_what_grows_longer_by_it_is_not_cut_off(monkeypatch, capfd):
    monkeypatch.delenv("COLUMNS", raising=False)
    show_text(Text("\x1b" * 10 + "x" * 100 + " end"), "", None)
    assert capfd.readouterr().out.split() == ["\\x1b" * 10 + "x" * 100, "end"]


# Widths.


@pytest.mark.parametrize(
    "given", ["0", "1", "19", "-3", "", "abc", "²", "1e3", "99999999999999999999", "٣٣٣"]
)
@pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
def test_a_width_that_is_none_is_as_if_not_given(monkeypatch, capfd, name, given):
    """Also in what typer prints."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def say() -> None:
        """Say so, at some length, so that there is something to wrap in a pipe."""
        console().print(Text("word " * 60))

    def told():
        for arguments in ([], ["--help"]):
            monkeypatch.setattr(sys, "argv", ["say", *arguments])
            assert run("say", app) == 0
        return capfd.readouterr().out

    monkeypatch.delenv(name, raising=False)
    usual = told()
    monkeypatch.setenv(name, given)
    if name == "COLUMNS" or given not in ("1", "19"):
        assert told() == usual
    assert os.environ[name] == given, "the environment is the caller's"


def test_a_width_is_kept(monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "40")
    console().print(Text("word " * 60))
    assert max(map(len, capfd.readouterr().out.splitlines())) in range(36, 41)


# The exit status.


def ended(monkeypatch, capfd, app):
    return run("a command", app), *capfd.readouterr()


def raising(error):
    def app(standalone_mode):
        assert not standalone_mode
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BadOption("no\nsuch \x1b[31mthing"), 2, "a command: no such \\x1b[31mthing\n"),
        (typer.BadParameter("what?"), 2, "a command: Invalid value: what?\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2, "a command: x: No such file\n"),
        (OSError(errno.ENOSPC, "No space"), 2, "a command: standard output cannot be written: No space\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 3, "a command: there is not enough memory\n"),
    ],
)  # fmt: skip
def test_what_ends_a_command_has_a_status_and_at_most_a_line(
    monkeypatch, capfd, error, status, said
):
    assert ended(monkeypatch, capfd, raising(error)) == (status, "", said)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("\x1b[31m"), AssertionError(), OSError(1, "?")]
)
def test_a_mistake_of_its_own_is_told_with_its_place(monkeypatch, capfd, error):
    status, _, err = ended(monkeypatch, capfd, raising(error))
    assert status == Status.FAILED == 3
    assert err.startswith("Traceback")
    assert err.endswith("a command: a mistake of its own, not of what it was asked to check\n")
    assert "\x1b" not in err


def test_a_status_is_handed_on(monkeypatch, capfd):
    for status in Status:
        assert ended(monkeypatch, capfd, lambda standalone_mode, told=status: told)[0] == status
    assert ended(monkeypatch, capfd, lambda standalone_mode: None)[0] == 0


def test_nothing_of_the_process_is_changed_afterwards(monkeypatch, capfd):
    def state():
        numbers = (signal.SIGINT, signal.SIGTERM)
        handlers = [signal.getsignal(number) for number in numbers]
        return handlers, sys.stdout, sys.stderr, sys.stdout.errors, dict(os.environ)

    before = state()
    for app in (raising(BadOption("no")), raising(KeyboardInterrupt()), lambda standalone_mode: 0):
        ended(monkeypatch, capfd, app)
        assert state() == before


# In a process of its own.

COMMAND = """
import sys, typer
from bptt_crosscheck.comparisons.command_line import show_text
from bptt_crosscheck.comparisons.reporting.terminal import run
from rich.table import Table

app = typer.Typer(add_completion=False)

@app.command()
def say(lines: int = 3, json: str | None = None, status: int = 0):
    table = Table("T·B", "½ ∂L/∂W", "名")
    for number in range(lines):
        table.add_row("×–", "‖²", "é")
    show_text(table, '{"name": "é½\\\\ud83d\\\\ude00😀"}', json)
    raise typer.Exit(status)

sys.exit(run("say", app))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "say.py"
    path.write_text(COMMAND, encoding="utf-8")
    return path


@pytest.fixture
def say(script):
    def said(*arguments, **options):
        command = [sys.executable, script, *map(str, arguments)]
        return subprocess.run(command, check=False, stderr=subprocess.PIPE, **options)

    return said


ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("status", [0, 1])
def test_every_encoding_takes_a_report(say, tmp_path, encoding, status):
    env = os.environ | ASCII | {"PYTHONIOENCODING": encoding}
    target = tmp_path / "r.json"
    done = say("--status", status, "--json", target, stdout=subprocess.PIPE, env=env)
    assert (done.returncode, done.stderr) == (status, b"")
    assert done.stdout.decode(encoding.partition(":")[0]).count("\n") > 4
    assert target.read_text(encoding="utf-8") == '{"name": "é½\\ud83d\\ude00😀"}\n'


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_in_every_encoding_is_the_same(say, encoding):
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = say("--json", "-", stdout=subprocess.PIPE, env=env)
    assert done.returncode == 0
    assert json.loads(done.stdout.decode(encoding)) == {"name": "é½😀😀"}


@UNIX
@pytest.mark.parametrize("status", [0, 1])
def test_nobody_reads_on(say, tmp_path, status):
    """The pipe is closed; a file that was asked for is whole all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    target = tmp_path / "r.json"
    done = say("--lines", 9, "--status", status, "--json", target, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    assert target.read_text(encoding="utf-8").endswith("}\n")


@UNIX
@pytest.mark.parametrize("arguments", [["--help"], ["--json", "-"], ["--json", "/dev/stdout"]])
def test_nobody_reads_what_else_is_printed(say, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = say(*arguments, stdout=writer)
    os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr


@UNIX
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [[], ["--help"], ["--json", "-"], ["--json", "/dev/full"]])
@pytest.mark.parametrize("status", [0, 1])
def test_a_full_disk_is_one_line(say, arguments, status):
    with Path("/dev/full").open("wb") as full:
        done = say(*arguments, "--status", status, stdout=full)
    assert done.returncode == 2
    told = done.stderr.decode().splitlines()
    assert told[-1].startswith("say: ")
    assert told[-1].endswith("cannot be written: No space left on device")
    if "-" not in arguments:
        assert len(told) == 1


@UNIX
@pytest.mark.parametrize("status", [0, 1])
def test_closed_streams_leave_the_status(script, tmp_path, status):
    command = f'"$0" "$1" --status {status} --json r.json >&- 2>&- <&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, script], cwd=tmp_path, check=False
    )
    assert done.returncode == status
    assert (tmp_path / "r.json").read_text(encoding="utf-8").startswith('{"name"')


ENDLESS = """
import sys, time
from bptt_crosscheck.comparisons.reporting.terminal import run
def app(standalone_mode):
    try:
        print("begun", flush=True)
        time.sleep(600)
    finally:
        print("put away", flush=True)
sys.exit(run("endless", app))
"""


@UNIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_has_a_status_of_its_own(name):
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + getattr(signal, name), "put away\n", "")
