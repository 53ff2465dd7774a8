"""What the code under test prints: its first lines to standard error, the rest of them counted.

Python has one standard output for all threads. Put another stream in its place for a check, and
every other thread prints into it; let two threads do so side by side, and one of theirs stays. So
sys.stdout and sys.stderr stay the objects that they are. Their method `write` alone is covered by
one that looks whether whoever writes is within a check, in a variable of that thread's context, and
keeps to the bound only then; all others write as ever. It is uncovered when the last check ends. A
stream that lets nothing be covered keeps nothing back.

Not seen is what goes past the two objects: a stream that the code puts in their place, threads that
it starts, programs, and writes to the file descriptor itself.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Any

LINES = 5  # of one check that are shown
CHARACTERS = 1_000  # likewise
DEBUGGERS = frozenset(  # modules
    ("pdb", "bdb", "cmd", "IPython.core.debugger", "IPython.terminal.debugger")
)
FRAMES = 8  # above a write, in which one of them is looked for
FLOOD = 10_000_000  # characters in one call: it prints without end

Write = Callable[[str], int]


class OutputFlood(RuntimeError):
    """More was printed in one call than anybody will read."""


class Kept:
    """The output of one check: passed on up to the bound, counted beyond it."""

    def __init__(self, pass_on: Write) -> None:
        self.pass_on = pass_on
        self.lines_left = LINES
        self.characters_left = CHARACTERS
        self.lines_more = 0
        self.characters_more = 0
        self.in_this_call = 0
        self.shown_last = "\n"
        self.hidden_last = "\n"
        self.is_over = False

    def begin_call(self) -> None:
        """The code under test is called: what it prints without end, it prints within one call.

        A line that the call before did not end is one as well.
        """
        self.in_this_call = 0
        if self.shown_last != "\n" and self.lines_left:
            self.lines_left -= 1

    def write(self, text: str) -> int:
        """How many characters it took. Raises OutputFlood."""
        self.in_this_call += len(text)
        if self.in_this_call > FLOOD:
            raise OutputFlood(f"it printed more than {FLOOD:,} characters in one call")
        shown = "" if self.is_over else self._within_bound(text)
        if not shown and _is_debugged():
            return self.pass_on(text)
        if shown:
            self.pass_on(shown)
            self.shown_last = shown[-1]
        self._hide(text[len(shown) :])
        return len(text)

    def _within_bound(self, text: str) -> str:
        """So much of the text as there is room for."""
        if not self.lines_left or not self.characters_left:
            return ""
        lines = text[: self.characters_left].splitlines(keepends=True)[: self.lines_left]
        self.lines_left -= sum(line.endswith("\n") for line in lines)
        shown = "".join(lines)
        self.characters_left -= len(shown)
        return shown

    def _hide(self, hidden: str) -> None:
        """Count it; once something is hidden, so is all that comes after it."""
        if hidden:
            self.lines_left = 0
            self.lines_more += hidden.count("\n")
            self.characters_more += len(hidden)
            self.hidden_last = hidden[-1]

    def close(self) -> None:
        """Say how much more there was."""
        self.is_over = True
        lines = self.lines_more + (self.hidden_last != "\n")
        if lines:
            start = "" if self.shown_last == "\n" else "\n"
            counted = "1 more line" if lines == 1 else f"{lines:,} more lines"
            what = f"{counted} ({self.characters_more:,} characters) that the code under test"
            with suppress(OSError, ValueError):  # nobody is left to read it
                self.pass_on(f"{start}… {what} printed\n")


def _is_debugged() -> bool:
    """Whether a debugger writes, or what was typed at its prompt: that is somebody who reads."""
    frame = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    for _ in range(FRAMES):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") in DEBUGGERS:
            return True
        frame = frame.f_back
    return False


_kept: ContextVar[Kept | None] = ContextVar("kept", default=None)
_lock = Lock()


@dataclass
class _Covered:
    """A stream, its own `write`, the one that covers it, and how many checks want it covered."""

    stream: Any
    own: Write
    cover: Write
    count: int = 0


_covered: dict[int, _Covered] = {}


def _cover_of(own: Write) -> Write:
    def write(text: str) -> int:
        kept = _kept.get()
        return own(text) if kept is None else kept.write(text)

    return write


def _cover(stream: Any) -> _Covered | None:
    """The stream covered once more; None where it does not let itself be covered."""
    with _lock:
        covered = _covered.get(id(stream))
        if covered is None:
            covered = _Covered(stream, stream.write, _cover_of(stream.write))
            try:
                stream.write = covered.cover
            except (AttributeError, TypeError):
                return None
            _covered[id(stream)] = covered
        covered.count += 1
        return covered


def _uncover(covered: _Covered) -> None:
    with _lock:
        covered.count -= 1
        if covered.count:
            return
        del _covered[id(covered.stream)]
        stream = covered.stream
        if stream.write is not covered.cover:
            return  # somebody has covered it again, and writes through this one
        with suppress(AttributeError):
            del stream.write
        if stream.write != covered.own:  # it was an attribute of the stream's own before
            stream.write = covered.own


def current() -> Kept | None:
    """The output of the check that this thread is in, if it is in one."""
    return _kept.get()


@contextmanager
def kept() -> Generator[None]:
    """Within it, what this thread prints is kept to the bound, and goes to standard error.

    Within another one, it is that one's.
    """
    if _kept.get() is not None:
        yield
        return
    streams = {id(stream): stream for stream in (sys.stdout, sys.stderr) if stream is not None}
    covered = [each for each in map(_cover, streams.values()) if each is not None]
    own = {id(each.stream): each.own for each in covered}
    mine = Kept(own.get(id(sys.stderr)) or getattr(sys.stderr, "write", len))
    token = _kept.set(mine)
    try:
        yield
    finally:
        _kept.reset(token)
        for each in covered:
            _uncover(each)
        mine.close()
