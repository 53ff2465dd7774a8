"""What the code under test prints: a few lines of a check on standard error, the rest counted."""

import contextlib
import io
import logging
import pdb
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bptt_crosscheck import check_cell, check_gradients
from bptt_crosscheck.comparisons import output

from tests.comparisons.small import SIZES, TORCH, elman, spoiled

POINT = {"w": np.random.default_rng(0).normal(size=9)}


def check(prints, **options):
    """The report on sin(w), differentiated numerically by a loss that prints."""

    def loss(params, inputs):
        prints()
        return np.sum(np.sin(params["w"]))

    return check_gradients(lambda p, i: {"w": np.cos(p["w"])}, loss, POINT, {}, **options)


def through_a_logger():
    handler = logging.StreamHandler()
    logger = logging.Logger("of the code under test")
    logger.addHandler(handler)
    logger.warning("w is 1")


PRINTING = {
    "a line": (lambda: print("w is 1"), output.LINES),
    "by pieces": (lambda: print("w", "is", 1), output.LINES),
    "to standard error": (lambda: print("w is 1", file=sys.stderr), output.LINES),
    "by the stream": (lambda: sys.stdout.write("w is 1\n"), output.LINES),
    "lines": (lambda: sys.stdout.writelines(["w is 1\n"] * 3), output.LINES),
    "unended": (lambda: print("w is 1", end=""), output.LINES),
    "a progress bar": (lambda: print("\rw is 1", end="", flush=True), output.LINES),
    "by a logger": (through_a_logger, output.LINES),
    "both": (lambda: (print("w is 1"), print("w is 1", file=sys.stderr)), output.LINES),
}


@pytest.mark.parametrize(("prints", "times"), PRINTING.values(), ids=PRINTING)
def test_a_few_lines_of_a_check_are_shown(prints, times, capsys):
    assert check(prints).passed
    out, err = capsys.readouterr()
    assert out == ""
    assert 0 < err.count("w is 1") <= times
    assert err.splitlines()[-1].startswith("… ")
    assert err.endswith("that the code under test printed\n")


def test_the_rest_is_counted(capsys):
    assert check(lambda: print("w is 1")).passed
    *shown, last = capsys.readouterr().err.splitlines()
    assert shown == ["w is 1"] * output.LINES
    told = re.fullmatch(
        r"… ([\d,]+) more lines \(([\d,]+) characters\) that the code under test printed", last
    )
    lines, characters = (int(number.replace(",", "")) for number in told.groups())
    assert lines > 0
    assert characters == lines * len("w is 1 ")


def test_few_lines_are_shown_as_they_are(capsys):
    with output.kept():
        print("one")
        print("two", end="")
    print("out")
    assert capsys.readouterr() == ("out\n", "one\ntwo")


@pytest.mark.parametrize("text", ["x" * 2_000_000, "x\n" * 1_000_000, "\n" * 2_000_000])
def test_two_million_characters_are_no_obstacle(text, capsys):
    assert check(lambda: print(text), references="complex step").passed
    err = capsys.readouterr().err
    assert len(err) < 1_200
    assert len(err.splitlines()) <= output.LINES + 2


def test_a_debugger_is_heard_after_any_number_of_lines(capsys):
    typed = io.StringIO("p 40 + 2\nprint('typed')\nc\n")
    with output.kept():
        for _ in range(100):
            print("line")
        pdb.Pdb(stdin=typed, stdout=sys.stdout, nosigint=True, readrc=False).set_trace()
        print("line")
    err = capsys.readouterr().err
    assert "(Pdb) 42\n" in err
    assert "typed" in err
    assert err.count("line\n") == output.LINES
    assert err.endswith("… 96 more lines (480 characters) that the code under test printed\n")


def test_each_check_has_its_own_lines(capsys):
    for _ in range(2):
        assert check(lambda: print("w is 1")).passed
    assert capsys.readouterr().err.count("w is 1") == 2 * output.LINES


def test_a_cell_that_prints_at_every_step(capsys):
    def chatty(*arguments):
        print("at step")
        return elman("step", *arguments)

    assert check_cell(spoiled(step=chatty), **SIZES, **TORCH).passed
    assert capsys.readouterr().err.count("at step") == output.LINES


def test_what_fails_is_preceded_by_what_it_printed(capsys):
    def fails():
        print("before it failed")
        raise ZeroDivisionError

    assert not check(fails, raise_exception=False).passed
    shown = capsys.readouterr().err.splitlines()
    assert set(shown) == {"before it failed"}
    assert len(shown) <= output.LINES


def test_the_streams_are_as_before_and_other_threads_write_as_ever():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with output.kept(), ThreadPoolExecutor(1) as other:
            assert (sys.stdout, sys.stderr) == (out, err)
            print("mine")
            other.submit(print, "of another").result()
        print("after")
        assert "write" not in {**vars(out), **vars(err)}
    assert out.getvalue() == "of another\nafter\n"
    assert err.getvalue() == "mine\n"


def test_two_checks_side_by_side_leave_nothing_covered():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(check, lambda: print("w is 1")) for _ in range(6)]
        assert all(each.result().passed for each in made)
        assert "write" not in {**vars(out), **vars(err)}
    assert out.getvalue() == ""
    assert err.getvalue().count("w is 1") == 6 * output.LINES


class Bare:
    """A stream with nothing but what print needs, which lets nothing be covered."""

    __slots__ = ("texts",)

    def __init__(self):
        self.texts = []

    def write(self, text):
        self.texts.append(text)


class Proxy:
    """A stream that hands on whatever is read from it and put on it."""

    def __init__(self, inner):
        object.__setattr__(self, "inner", inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        setattr(self.inner, name, value)


def test_a_stream_that_lets_nothing_be_covered_shows_all():
    bare = Bare()
    with contextlib.redirect_stdout(bare), output.kept():
        for _ in range(20):
            print("line")
    assert bare.texts == ["line", "\n"] * 20


def test_a_stream_that_stands_for_another():
    inner = io.StringIO()
    proxy = Proxy(inner)
    with contextlib.redirect_stdout(proxy), contextlib.redirect_stderr(proxy):
        with output.kept():
            for _ in range(20):
                print("line")
        print("after")
    assert inner.getvalue().count("line\n") == output.LINES
    assert inner.getvalue().endswith("after\n")
    assert proxy.write == inner.write


def test_a_stream_whose_write_was_already_one_of_its_own():
    stream, told = io.StringIO(), []
    stream.write = told.append
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        with output.kept():
            print("line")
        print("after")
    assert told == ["line", "\n", "after", "\n"]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_without_a_stream(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, name, None)
    assert check(lambda: print("w is 1")).passed


def test_a_stream_that_is_closed(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert check(lambda: None).passed
    with output.kept() as _:
        pass
