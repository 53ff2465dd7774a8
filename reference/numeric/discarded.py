"""An imaginary part that NumPy is about to discard: an error, in the context that asks for it.

NumPy only warns of it, and Python's warning filters are the process's: set to "error" here, they
would be so in every other thread, and two threads that set and restore them side by side leave one
of theirs behind. But a warning is made before any filter is asked what is to become of it. So
NumPy's own class gets an initialiser, while somebody is within the context, that raises in the
contexts that asked for it and changes nothing in all others.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

from numpy.exceptions import ComplexWarning

_asked: ContextVar[bool] = ContextVar("discarded is an error", default=False)
_lock = Lock()
_within = [0]


class Discarded(ComplexWarning):
    """An imaginary part would have been discarded."""


def _made(warning: ComplexWarning, *told: Any) -> None:
    if _asked.get() and not isinstance(warning, Discarded):
        raise Discarded(*told)
    super(ComplexWarning, warning).__init__(*told)


def _count(change: int) -> None:
    """One more context, or one less: the initialiser is there as long as there are any."""
    with _lock:
        _within[0] += change
        if change > 0 and _within[0] == 1:
            type.__setattr__(ComplexWarning, "__init__", _made)
        elif _within[0] == 0:
            type.__delattr__(ComplexWarning, "__init__")


@contextmanager
def discarding_is_an_error() -> Generator[None]:
    """Within it, in this thread, Discarded is raised where NumPy would warn of a ComplexWarning."""
    _count(1)
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)
        _count(-1)
