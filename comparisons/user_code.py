"""Calls into code that is not ours: whatever goes wrong inside is said of that code, by name and
line.

The code runs in this process with the caller's rights. What it prints goes to standard error, up
to a bound (comparisons.output); an exception, a sys.exit or printing without end becomes
`CandidateFailed`. What does not return is ended where the time of a call is limited
(comparisons.time_limit).
"""

import inspect
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from . import output, time_limit
from .errors import CandidateFailed, DoesNotReturn, InputsChanged, QuestionError
from .places import ROOT

STDLIB = sysconfig.get_paths()["stdlib"]
SHORT = 60  # characters of somebody else's value that are told
LONGEST = 500  # characters of somebody else's message that are told

Result = TypeVar("Result")


def call(part: str, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args). Raises CandidateFailed, naming `part` and the line, for anything that goes
    wrong inside.
    """
    try:
        with output.kept():
            return evaluated(part, function, *args)
    except (QuestionError, KeyboardInterrupt, time_limit.Ended):
        raise
    except BaseException as error:
        what = (
            "left the interpreter (sys.exit)"
            if isinstance(error, SystemExit)
            else f"raised {describe(error)}"
        )
        raise CandidateFailed(f"{part} {what}{at_line(error.__traceback__)}") from error


def evaluated(part: str, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), code from outside, for somebody who knows what it means where it fails."""
    printing, clock = output.current(), time_limit.current()
    if printing is not None:
        printing.begin_call()
    if clock is None:
        return function(*args)
    with clock.running(part):
        return function(*args)


def limited(seconds: float | None, work: Callable[[], Result]) -> Result:
    """work(), in which no call of code from outside takes longer than so many seconds.

    Raises DoesNotReturn, with its line, where one does (comparisons.time_limit).
    """
    if seconds is None:
        return work()
    try:
        return time_limit.limited(seconds, work)
    except time_limit.Expired as expired:
        where = line_in(expired.stack)
        what = f"{expired.part} did not return within {seconds:g} s"
        raise DoesNotReturn(f"{what}: it was{where}" if where else what) from None


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
    return line_in(traceback.extract_tb(trace))


def line_in(stack: traceback.StackSummary) -> str:
    """The same, of a stack."""
    for frame in reversed(stack):
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
