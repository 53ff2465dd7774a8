"""A command of a terminal: what of a text may be printed there, and with what status it ends.

Exit status 1 says that a gradient disagrees, and nothing else does: a command that cannot finish
ends with a status of its own.
"""

import codecs
import contextlib
import errno
import os
import re
import signal
import sys
import threading
import traceback
import unicodedata
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from typer.exceptions import TyperException

from ..errors import BadTarget, QuestionError


class Status(IntEnum):
    """What the exit status says. What a signal ends has 128 and its number, as in a shell."""

    AGREE = 0
    DISAGREE = 1
    NOT_ASKED = 2
    FAILED = 3
    MISSED = 4  # a goal of the trial
    CLOSED_PIPE = 128 + 13


# The signs of the tables, where the terminal has none but ASCII; other characters are escaped.
IN_ASCII = str.maketrans(
    {"·": ".", "×": "x", "–": "-", "—": "-", "−": "-", "‖": "|", "∂": "d", "≤": "<", "²": "2"}
)
SIZE = re.compile(r"[0-9]{1,4}")
LEAST = {"COLUMNS": 20, "LINES": 1}  # of a terminal that somebody reads
# What the system says of writing where there is no room, or no longer a terminal.
NO_ROOM = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EIO,
    errno.EBADF,
    getattr(errno, "EDQUOT", errno.ENOSPC),
}
NOT_WRITTEN = "standard output cannot be written"
STAND_IN = "bptt-crosscheck-stand-in"
NOT_ASCII_OR_CONTROL = re.compile(r"[^\x20-\x7e\n]")


def visible(text: str) -> str:
    """The text with all that moves a terminal's cursor, colours it or turns it round as escapes.

    Line ends stay.
    """
    return NOT_ASCII_OR_CONTROL.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


@dataclass(frozen=True)
class Visible:
    """What is rendered, without control characters other than rich's own."""

    inner: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Its segments, one after the other."""
        for segment in console.render(self.inner, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


@contextmanager
def telling() -> Generator[None]:
    """Raises BadTarget where what is printed cannot be written; BrokenPipeError passes."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadTarget(f"{NOT_WRITTEN}: {error.strerror or error}") from error


def run(name: str, app: Callable[..., Any]) -> int:
    """The exit status of a typer application.

    Whatever is wrong with the question is one line on standard error.
    """
    with _widths(), _streams(), _signals() as received:
        status = _status_of(name, app)
        if received.number is not None:
            status = 128 + received.number
        lost = _settled()
        if lost is not None and status in (Status.AGREE, Status.DISAGREE):
            status = _not_told(name, lost)
        return int(status)


def _status_of(name: str, app: Callable[..., Any]) -> int:
    try:
        return int(app(standalone_mode=False) or Status.AGREE)
    except BrokenPipeError:
        return Status.CLOSED_PIPE
    except SystemExit as left:  # so end typer and rich where nobody reads on
        closed = isinstance(left.__context__, BrokenPipeError)
        return Status.CLOSED_PIPE if closed else int(left.code or 0)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except QuestionError as error:
        _say(f"{name}: {error}")
        return Status.NOT_ASKED
    except TyperException as error:
        _say(f"{name}: {error.format_message()}")
        return Status.NOT_ASKED
    except MemoryError:
        _say(f"{name}: there is not enough memory")
        return Status.FAILED
    except BrokenExecutor:
        _say(f"{name}: a process at work was ended from outside, perhaps for want of memory")
        return Status.FAILED
    except OSError as error:
        return _refused(name, error)
    except Exception:
        return _failed(name)


def _refused(name: str, error: OSError) -> int:
    """What the system refuses: a file of that name, or to take what is printed."""
    if error.filename is not None:
        _say(f"{name}: {error.filename}: {error.strerror}")
        return Status.NOT_ASKED
    return _not_told(name, error) if error.errno in NO_ROOM else _failed(name)


def _failed(name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        print(visible(traceback.format_exc()), file=sys.stderr, end="")
    _say(f"{name}: a mistake of its own, not of what it was asked to check")
    return Status.FAILED


def _say(message: str) -> None:
    """One line on standard error, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        print(visible(" ".join(message.splitlines())), file=sys.stderr, flush=True)


def _settled() -> OSError | None:
    """None once all that was printed is written; else why not, and the rest is given up."""
    failure: OSError | None = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            failure = failure or error
            with contextlib.suppress(OSError, ValueError):
                _give_up(stream.fileno())
    return failure


def _not_told(name: str, error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        return Status.CLOSED_PIPE
    _say(f"{name}: {NOT_WRITTEN}: {error.strerror or error}")
    return Status.NOT_ASKED


def _give_up(descriptor: int) -> None:
    """What is still to be written there goes nowhere: Python would try once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def _widths() -> Generator[None]:
    """COLUMNS and LINES that are no sizes to read by are as if nobody had given them."""
    kept = {name: os.environ.pop(name) for name in LEAST if not _is_size(name)}
    try:
        yield
    finally:
        os.environ.update(kept)


def _is_size(name: str) -> bool:
    """Whether a variable of the environment is a number of columns or lines, or not there."""
    given = os.environ.get(name)
    if given is None:
        return True
    return SIZE.fullmatch(given) is not None and int(given) >= LEAST[name]


@contextmanager
def _streams() -> Generator[None]:
    """Standard output and error that exist, and take every character."""
    codecs.register_error(STAND_IN, _stand_in)
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by whoever started this
                nowhere = opened.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                setattr(sys, name, nowhere)
        with _taking_all(sys.stdout), _taking_all(sys.stderr):
            try:
                yield
            finally:
                sys.stdout, sys.stderr = before


@contextmanager
def _taking_all(stream: Any) -> Generator[None]:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        yield
        return
    errors = stream.errors
    reconfigure(errors=STAND_IN)
    try:
        yield
    finally:
        reconfigure(errors=errors)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that the encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end].translate(IN_ASCII)
    return lost.encode("ascii", "backslashreplace").decode(), error.end


@dataclass
class Received:
    """The number of the signal that is to end the command."""

    number: int | None = None
    before: dict[int, Any] = field(default_factory=dict[int, Any])


class Ended(KeyboardInterrupt):
    """A signal asks for the end: what was begun is put away first."""


@contextmanager
def _signals() -> Generator[Received]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does; the second time at once."""
    received = Received()

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        received.number = number
        signal.signal(number, signal.SIG_DFL)
        raise Ended

    for number in _ending():
        received.before[number] = signal.signal(number, end)
    try:
        yield received
    finally:
        for number, before in received.before.items():
            signal.signal(number, before)


def _ending() -> Iterator[int]:
    """The signals that would end this process, where they can be heard."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            yield number
