"""The user's own NumPy code with another `np`: one whose new arrays are watched as well.

An array that the code makes itself, a buffer of states, knows nothing of what is watched: what is
written into it is lost to sight, and so is what goes through float() or Python's math. In a world
of its own (reference.worlds) the code finds others in their place; nothing of the user's is
touched.
"""

import math
from typing import Any

import numpy as np

from ...reference.worlds import UNCHANGED, World
from .ties import Log, Watched, watch

# What makes an array of numbers out of anything but an array that is watched already.
MAKERS = frozenset(
    "zeros empty ones full array asarray ascontiguousarray asfortranarray copy fromiter".split()
)


class WatchingNumpy:
    """NumPy, the arrays of floating-point numbers that it makes being watched."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        """NumPy's own, or one that watches what it makes."""
        own = getattr(np, name)
        if name not in MAKERS:
            return own

        def make(*args: Any, **kwargs: Any) -> Any:
            made = own(*args, **kwargs)
            return watch(made, self._log) if made.dtype.kind == "f" else made

        return make


class WatchingMath:
    """Python's math, NumPy's function standing in where a number is watched."""

    def __getattr__(self, name: str) -> Any:
        """Math's own, or one that keeps a watched number watched."""
        own = getattr(math, name)
        of_numpy = getattr(np, name, None)
        if not callable(own) or of_numpy is None:
            return own

        def function(*args: Any) -> Any:
            watched = any(isinstance(each, Watched) for each in args)
            return of_numpy(*args) if watched else own(*args)

        return function


class WatchingFloat(float):
    """Python's float, which leaves a watched number what it is."""

    def __new__(cls, value: Any = 0.0) -> Any:
        """The number."""
        return value if isinstance(value, Watched) else float(value)


def watching_world(log: Log) -> World:
    """A world in which NumPy, math and float() keep in sight what is watched."""
    numpy, python_math = WatchingNumpy(log), WatchingMath()
    makers = {id(getattr(np, name)): name for name in MAKERS}

    def swap(value: Any) -> Any:
        if value is np:
            return numpy
        if value is math:
            return python_math
        if value is float:
            return WatchingFloat
        maker = makers.get(id(value))
        return UNCHANGED if maker is None else getattr(numpy, maker)

    return World(swap, {"float": WatchingFloat})
