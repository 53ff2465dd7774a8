"""The unit roundoff of stochastic arithmetic, where it is not that of the numbers themselves.

0 unless another is chosen: float64 arithmetic then rounds at random as a shorter precision does.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_chosen: ContextVar[float] = ContextVar("roundoff", default=0.0)


def chosen() -> float:
    """By how much of itself a result is moved at most; 0 where the dtype says so."""
    return _chosen.get()


@contextmanager
def of(roundoff: float) -> Generator[None]:
    """Within it, stochastic arithmetic rounds by so much."""
    token = _chosen.set(roundoff)
    try:
        yield
    finally:
        _chosen.reset(token)
