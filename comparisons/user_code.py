"""Calls into code that is not ours: whatever goes wrong inside is said of that code, by name and
line.

The code runs in this process with the caller's rights. What it prints goes to standard error, up
to a bound; an exception, a sys.exit or a flood of output becomes `CandidateFailed`. An endless
silent loop is not caught.
"""

import contextlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from .errors import CandidateFailed, InputsChanged, QuestionError
from .places import ROOT

STDLIB = sysconfig.get_paths()["stdlib"]
OUTPUT_LIMIT = 200_000  # characters that one call may print
SHORT = 60  # characters of somebody else's value that are told
LONGEST = 500  # characters of somebody else's message that are told


class OutputFlood(RuntimeError):
    """More was printed than anybody will read."""


class BoundedOutput:
    """A text stream that passes on what it gets until the bound is reached, and raises then."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.left = OUTPUT_LIMIT

    def write(self, text: str) -> int:
        """Pass the text on. Raises OutputFlood."""
        self.left -= len(text)
        if self.left < 0:
            raise OutputFlood(f"it printed more than {OUTPUT_LIMIT:,} characters in one call")
        return self.stream.write(text)

    def flush(self) -> None:
        """Flush what it passes on to."""
        self.stream.flush()


def call(part: str, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args). Raises CandidateFailed, naming `part` and the line, for anything that goes
    wrong inside.
    """
    try:
        with contextlib.redirect_stdout(BoundedOutput(sys.stderr)):  # pyright: ignore[reportArgumentType]
            return function(*args)
    except (QuestionError, KeyboardInterrupt):
        raise
    except BaseException as error:
        what = (
            "left the interpreter (sys.exit)"
            if isinstance(error, SystemExit)
            else f"raised {describe(error)}"
        )
        raise CandidateFailed(f"{part} {what}{at_line(error.__traceback__)}") from error


def unchanged(part: str, after: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Raises InputsChanged where an array that was handed to `part` is no longer what it was."""
    for name, original in before.items():
        if not _is_still(after[name], original):
            raise InputsChanged(
                f"{part} writes into {name!r}, an array that it was given: work on a copy"
            )


def _is_still(now: Any, original: Any) -> bool:
    """Whether the numbers are the same; NaN is NaN."""
    if (
        type(now) is np.ndarray
        and type(original) is np.ndarray
        and now.shape == original.shape
        and (now == original).all()
    ):
        return True
    return np.array_equal(now, original, equal_nan=np.asarray(original).dtype.kind in "fc")


def describe(error: BaseException) -> str:
    """The error's type and the first line of its text, as far as it can be told and printed."""
    try:
        text = str(error).strip().split("\n")[0]
    except Exception:  # of an error that cannot say what it is
        text = ""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def spelled(value: Any) -> str:
    """The value as Python writes it, in a few words; its type where it cannot be written."""
    try:
        text = repr(value)
    except Exception:  # of an object that answers otherwise, or of a number of too many digits
        return f"a {type(value).__name__}"
    return printable(text if len(text) <= SHORT else f"{text[:SHORT]}…")


def printable(text: str) -> str:
    """The text, what no terminal should be sent written as Python writes it."""
    if text.isprintable():
        return text
    told = (each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)
    return "".join(told)


def at_line(trace: TracebackType | None) -> str:
    """' at file.py:12: the line', of the innermost frame that belongs to neither an installed
    package nor this one.
    """
    for frame in reversed(traceback.extract_tb(trace)):
        path = Path(frame.filename)
        if (
            "site-packages" in path.parts
            or path.is_relative_to(STDLIB)
            or frame.filename.startswith(("<frozen", "<__array"))
        ):
            continue
        if is_own(path):
            continue
        return f" at {path.name}:{frame.lineno}: {frame.line}"
    return ""


def comes_from_outside(error: BaseException) -> bool:
    """Whether some frame of the error's traceback runs code that is neither installed nor this
    project's own.
    """
    return bool(at_line(error.__traceback__))


def is_own(path: Path) -> bool:
    """Whether the file is in one of this project's own three folders."""
    return any(
        path.resolve().is_relative_to(ROOT / folder)
        for folder in ("manual", "reference", "comparisons")
    )


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """The names of its positional parameters; empty where they cannot be known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in positional]
