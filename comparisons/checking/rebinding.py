"""The user's own NumPy code with another `np`: one whose new arrays are watched as well.

An array that the code makes itself, a buffer of states, knows nothing of what is watched: what is
written into it is lost to sight, and so is what goes through float() or Python's math. Functions
are made anew for one run, from the same code, with globals that give others in their place; the
objects of the user's classes that they reach are copied, and so are not changed by the run. Nothing
of the user's is touched: neither modules, nor functions, nor objects.
"""

import copy
import math
from collections.abc import Callable
from types import CellType, FunctionType, MethodType
from typing import Any, cast

import numpy as np

from .ties import Log, Watched, from_outside, watch

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


class _Globals(dict[str, Any]):
    """Globals whose values are made anew as they are read."""

    def __init__(self, own: dict[str, Any], anew: Callable[[Any], Any]) -> None:
        super().__init__(own)
        self.setdefault("float", WatchingFloat)
        self._anew = anew

    def __getitem__(self, name: str) -> Any:
        return self._anew(super().__getitem__(name))


class Rebinding:
    """For one run: what the code reaches, made anew with another NumPy."""

    def __init__(self, log: Log) -> None:
        self.numpy = WatchingNumpy(log)
        self.math = WatchingMath()
        self.made: dict[int, Any] = {}
        self.kept: list[Any] = []  # so that no identity is used twice
        self.globals: dict[int, _Globals] = {}
        self.inside: set[int] = set()

    def anew(self, value: Any) -> Any:
        """The value with another NumPy inside; itself where it holds none of the user's code."""
        if value is np:
            return self.numpy
        if value is math:
            return self.math
        if id(value) in self.made:
            return self.made[id(value)]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            function = self.anew(value.__func__)
            return MethodType(function, self.anew(value.__self__))
        if isinstance(value, type):
            return self._class(cast(type[Any], value))
        if _is_of_the_user(cast(type[Any], type(value))):
            return self._object(value)
        return value

    def _remember(self, value: Any, made: Any) -> Any:
        self.kept += [value, made]
        self.made[id(value)] = self.made[id(made)] = made
        return made

    def _function(self, function: FunctionType) -> Any:
        if not from_outside(function.__code__.co_filename):
            return function
        own = function.__globals__
        if id(own) not in self.globals:
            self.globals[id(own)] = _Globals(own, self.anew)
        cells = tuple(CellType() for _ in function.__closure__ or ())
        made = FunctionType(
            function.__code__,
            self.globals[id(own)],
            function.__name__,
            function.__defaults__,
            cells or None,
        )
        made.__kwdefaults__ = function.__kwdefaults__
        self._remember(function, made)  # before its cells: it may reach itself
        for cell, before in zip(cells, function.__closure__ or (), strict=True):
            try:
                cell.cell_contents = self.anew(before.cell_contents)
            except ValueError:  # nothing was put into it yet
                continue
        return made

    def _class(self, kind: type[Any]) -> Any:
        if not _is_of_the_user(kind):
            return kind
        methods: dict[str, Any] = {}
        made = cast(Any, type(kind))(kind.__name__, (kind,), {})
        self._remember(kind, made)
        for base in reversed(kind.__mro__):
            for name, member in vars(base).items():
                if isinstance(member, staticmethod):
                    methods[name] = staticmethod(self.anew(cast(Any, member).__func__))
                elif isinstance(member, FunctionType):
                    methods[name] = self.anew(member)
        for name, method in methods.items():
            setattr(made, name, method)
        return made

    def _object(self, value: Any) -> Any:
        copied = self._remember(value, copy.deepcopy(value))
        self._inside(copied)
        return copied

    def _inside(self, value: Any) -> None:
        """Give the methods of a copied object, and of the objects that it holds, another NumPy."""
        for each in _held(value):
            self._inside(each)
        kind = cast(type[Any], type(value))
        if not _is_of_the_user(kind) or id(value) in self.inside:
            return
        self.inside.add(id(value))
        self._remember(value, value)
        value.__class__ = self.anew(kind)
        attributes = cast(dict[str, Any], vars(value))
        for name, member in attributes.items():
            if isinstance(member, FunctionType):
                attributes[name] = self.anew(member)
        self._inside(attributes)


def _held(value: Any) -> list[Any]:
    """What a list, tuple or dict holds."""
    if isinstance(value, dict):
        return list(cast(dict[Any, Any], value).values())
    return list(cast(list[Any], value)) if isinstance(value, list | tuple) else []


def _is_of_the_user(kind: type[Any]) -> bool:
    """Whether a class has a method of the user's own."""
    for member in vars(kind).values():
        inner = cast(Any, member).__func__ if isinstance(member, staticmethod) else member
        if isinstance(inner, FunctionType) and from_outside(inner.__code__.co_filename):
            return True
    return False
