"""How long one call of the code under test may take: beyond that it is ended.

Closures, cells of a notebook and objects with a state cannot be handed to another process, and a
process forked beside the threads of torch and jax may stand still. So the check runs in a thread of
its own; the caller waits for it, looks at a clock that is set whenever the code under test is
called, and goes on without it when the time is up, with the line at which it was. The thread is
then sent an exception: a loop in Python ends by it. What waits in C (time.sleep, a lock) ends when
it comes back, and until then sleeps on in a daemon thread, which no exit of the process waits for.

Limits: code that catches every exception in a loop stays; C code that never releases Python's lock
(a regular expression that backtracks for ever) stops the caller too; and what a thread has for
itself, such as jax.enable_x64 or torch.no_grad around the check, the code under test does not see.
"""

import contextvars
import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")

ATTEMPTS = 5  # to end the thread
BETWEEN = 0.05  # seconds


class Ended(BaseException):
    """Raised in code that has had its time, where it is."""


class Expired(Exception):
    """A call took longer than it may: which part, and the stack at which it was."""

    def __init__(self, part: str, stack: traceback.StackSummary) -> None:
        super().__init__(part)
        self.part = part
        self.stack = stack


@dataclass
class Clock:
    """When the call of the code under test began that has not yet returned, and of which part."""

    seconds: float
    part: str = ""
    since: float | None = None

    @contextmanager
    def running(self, part: str) -> Generator[None]:
        """A call of this part. Within another one, it is part of that one."""
        if self.since is not None:
            yield
            return
        self.part, self.since = part, time.monotonic()
        try:
            yield
        finally:
            self.since = None

    def left(self) -> float:
        """The seconds in which nothing can expire."""
        since = self.since
        return self.seconds if since is None else since + self.seconds - time.monotonic()


_clock: ContextVar[Clock | None] = ContextVar("clock", default=None)


def current() -> Clock | None:
    """The clock of the check that this thread works for, if its time is limited."""
    return _clock.get()


@dataclass
class _Work:
    """A function at work on a thread: what it returned or raised, and whether it is done."""

    function: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    returned: Any = None
    raised: BaseException | None = None

    def run(self, clock: Clock) -> None:
        """To be called in a context of its own."""
        _clock.set(clock)
        try:
            self.returned = self.function()
        except BaseException as error:
            self.raised = error
        finally:
            self.done.set()


def limited(seconds: float, function: Callable[[], Result]) -> Result:
    """function() on a thread of its own, in a copy of the caller's context.

    Raises what it raises, and Expired where one call in it takes longer than so many seconds.
    """
    if _clock.get() is not None:
        return function()
    clock, work = Clock(seconds), _Work(function)
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(work.run, clock), name="check", daemon=True)
    thread.start()
    try:
        while not work.done.wait(max(clock.left(), 0)):
            if clock.left() <= 0:
                raise Expired(clock.part, _stack_of(thread))
    except BaseException:
        _end(thread, work.done)
        raise
    if work.raised is not None:
        raise work.raised
    return work.returned


def _stack_of(thread: threading.Thread) -> traceback.StackSummary:
    running = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
    frame = running.get(thread.ident or 0)
    return traceback.StackSummary() if frame is None else traceback.extract_stack(frame)


def _end(thread: threading.Thread, done: threading.Event) -> None:
    """Send the thread an exception, a few times, since the code may catch it."""
    for _ in range(ATTEMPTS):
        told = ctypes.c_ulong(thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(told, ctypes.py_object(Ended))
        if done.wait(BETWEEN):
            return
