"""The device on which torch and jax compute, where they have it.

"cpu" unless another is chosen, "cuda" say.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_chosen: ContextVar[str] = ContextVar("device", default="cpu")


def chosen() -> str:
    """Its name, as torch has it: "cpu", "cuda", "cuda:1"."""
    return _chosen.get()


@contextmanager
def on(device: str) -> Generator[None]:
    """Within it, references compute on this device."""
    token = _chosen.set(device)
    try:
        yield
    finally:
        _chosen.reset(token)
