"""NumPy's and math's names, for code that runs on traced arrays.

A function of which no argument is traced is NumPy's own, its floating-point results traced arrays
from then on: np.zeros makes a buffer into which traced numbers can be put. Of a traced argument it
is torch's (traced_array.evaluate).
"""

import builtins
import math
import sys
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from .traced_array import (
    Traced,
    TracedScalar,
    cast,
    detached,
    evaluate,
    has_traced,
    leave,
    scalar,
    traced,
    ufunc_method,
)

ROOMS = ("linalg", "random", "fft")
SPECIAL = ("logsumexp", "softmax", "log_softmax")  # functions of scipy.special that are no ufuncs
# Functions of texts and tests: of numbers, without derivatives.
TELLING = ("set_printoptions", "save", "savetxt", "savez", "savez_compressed")


class Function:
    """One function of NumPy's, by its name below numpy."""

    def __init__(self, name: str, real: Callable[..., Any]) -> None:
        self.name, self.real = name, real
        self.__name__ = name.rpartition(".")[2]
        self.__doc__ = real.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """By torch where an argument is traced, else by NumPy."""
        if not has_traced((args, kwargs)):
            return traced(self.real(*args, **kwargs))
        if self.name.startswith("random."):
            raise leave(f"np.{self.name} of what is differentiated")
        if self.name in TELLING:
            return self.real(*detached(args), **detached(kwargs))
        return evaluate(self.name, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """reduce, at, outer, accumulate of a ufunc."""
        found = getattr(self.real, name)
        if not isinstance(self.real, np.ufunc) or not callable(found):
            return found

        def method(*args: Any, **kwargs: Any) -> Any:
            if not has_traced((args, kwargs)):
                return traced(found(*args, **kwargs))
            return ufunc_method(self.name, name, *args, **kwargs)

        return method


class _Told(types.ModuleType):
    """np.testing: what its functions are told are numbers."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        """The function, of the numbers of traced arrays."""
        real = getattr(self._module, name)
        return lambda *args, **kwargs: real(*detached(args), **detached(kwargs))


class _Kind(type):
    """Of classes that stand for NumPy's or Python's own: their instances are instances of these."""

    stands_for: type

    def __instancecheck__(cls, value: Any) -> bool:
        if isinstance(value, TracedScalar):
            return issubclass(value.dtype.type, cls.stands_for)
        return isinstance(value, cls.stands_for)

    def __subclasscheck__(cls, kind: Any) -> bool:
        return issubclass(getattr(kind, "stands_for", kind), cls.stands_for)

    def __eq__(cls, other: Any) -> bool:
        return getattr(other, "stands_for", other) is cls.stands_for

    def __hash__(cls) -> int:
        return hash(cls.stands_for)


class _ArrayKind(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, np.ndarray | Traced) and not isinstance(value, TracedScalar)


class Ndarray(metaclass=_ArrayKind):
    """np.ndarray: arrays of NumPy's and traced ones."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """np.ndarray(shape)."""
        return traced(np.ndarray(*args, **kwargs))


def _number_kind(kind: type) -> Any:
    """A scalar type of NumPy's, or float: called with a traced number, that stays traced."""

    def new(cls: Any, *args: Any) -> Any:
        del cls
        if not args or not isinstance(args[0], Traced):
            return kind(*args)
        if args[0].size != 1 and kind is float:
            raise TypeError("only 0-dimensional arrays can be converted to Python scalars")
        wanted = np.dtype(kind)
        if wanted.kind not in "fc":
            return kind(args[0])
        number = cast(args[0].tensor, wanted)
        return Traced(number) if number.ndim and kind is not float else scalar(number.reshape(()))

    return _Kind(kind.__name__, (kind,), {"__new__": new, "stands_for": kind})


class Namespace(types.ModuleType):
    """numpy, or a room of it."""

    def __init__(self, module: types.ModuleType, room: str = "") -> None:
        super().__init__(module.__name__)
        self._module, self._room = module, room

    def __getattr__(self, name: str) -> Any:
        """The name, as code on traced arrays is to see it."""
        found = _seen(self._room + name, getattr(self._module, name))
        setattr(self, name, found)
        return found


def _seen(name: str, value: Any) -> Any:
    if value is np.ndarray:
        return Ndarray
    if value is np.vectorize:
        return _vectorize
    if value is np.testing:
        return _Told(value)
    if isinstance(value, types.ModuleType):
        return _room(value) if name in ROOMS else value
    if isinstance(value, type):
        is_float = issubclass(value, np.inexact) and value in np.sctypeDict.values()
        return _number_kind(value) if is_float else value
    if name in _OWN_LOOPS:
        return _OWN_LOOPS[name]
    if callable(value) and not isinstance(value, np.random.RandomState):
        return Function(name, value)
    return value


@lru_cache
def _room(module: types.ModuleType) -> Namespace:
    return Namespace(module, module.__name__.rpartition(".")[2] + ".")


NUMPY = Namespace(np)


def _vectorize(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """np.vectorize: a loop over entries."""

    def looped(*args: Any) -> Any:
        shapes = [np.shape(detached(value)) for value in args]
        shape = np.broadcast_shapes(*shapes)
        spread = [NUMPY.broadcast_to(value, shape) for value in args]
        found = [function(*(each[at] for each in spread)) for at in np.ndindex(shape)]
        return NUMPY.array(found).reshape(shape)

    return looped


def _along_axis(function: Any, axis: int, array: Any, *args: Any, **kwargs: Any) -> Any:
    """np.apply_along_axis: a loop over vectors."""
    last = NUMPY.moveaxis(array, axis, -1)
    outer = last.shape[:-1]
    found = [function(last[at], *args, **kwargs) for at in np.ndindex(outer)]
    stacked = NUMPY.array(found)
    inner = tuple(stacked.shape[1:])
    shaped = stacked.reshape(*outer, *inner)
    return NUMPY.moveaxis(shaped, range(len(outer), shaped.ndim), _places(axis, inner, last.ndim))


def _places(axis: int, inner: tuple[int, ...], ndim: int) -> list[int]:
    first = axis % ndim
    return [first + k for k in range(len(inner))]


def _ndenumerate(array: Any) -> Any:
    return ((at, array[at]) for at in np.ndindex(array.shape))


class _Joined:
    """np.r_ and np.c_, without axes given as texts."""

    def __init__(self, name: str, real: Any) -> None:
        self.name, self.real = name, real

    def __getitem__(self, items: Any) -> Any:
        parts = items if isinstance(items, tuple) else (items,)
        if not has_traced(parts):
            return traced(self.real[items])
        arrays = [self._array(part) for part in parts]
        return evaluate("concatenate", (arrays, 0 if self.name == "r_" else -1), {})

    def _array(self, part: Any) -> Any:
        """One of them with as many axes as the result has."""
        if isinstance(part, str):
            raise leave(f"np.{self.name} of a text")
        if not has_traced(part):
            return traced(self.real[part])
        array = evaluate("atleast_1d", (part,), {})
        return array.reshape(-1, 1) if self.name == "c_" and array.ndim == 1 else array


_OWN_LOOPS: dict[str, Any] = {
    "c_": _Joined("c_", np.c_),
    "r_": _Joined("r_", np.r_),
    "apply_along_axis": _along_axis,
    "ndenumerate": _ndenumerate,
}


# math.


# The names of math that are others in NumPy.
OF_MATH = {
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atan2": "arctan2",
    "atanh": "arctanh",
    "fabs": "abs",
    "pow": "power",
    "fmod": "fmod",
}


class MathFunction:
    """A function of math's: of a traced number, NumPy's of the same meaning."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real = real
        self.__name__ = real.__name__

    def __call__(self, *args: Any) -> Any:
        """By math, or by NumPy's name where an argument is traced."""
        if not has_traced(args):
            return self.real(*args)
        name = OF_MATH.get(self.__name__, self.__name__)
        if name == "fsum":
            return sum(args[0])
        return evaluate(name, args, {})


class MathNamespace(types.ModuleType):
    """math."""

    def __getattr__(self, name: str) -> Any:
        """The name, as code on traced arrays is to see it."""
        value = getattr(math, name)
        return MathFunction(value) if callable(value) else value


MATH = MathNamespace("math")


# What stands in place of what.


class Drawing:
    """A random generator, whose draws are traced arrays."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        """Its method, or its attribute."""
        found = getattr(self._generator, name)
        return Function(f"random.{name}", found) if callable(found) else found


FLOAT = _number_kind(builtins.float)
PROVIDED = {"float": FLOAT}


@lru_cache(maxsize=1)
def _table() -> dict[int, Any]:
    """What stands for each function and class of NumPy's and math's: id → replacement."""
    found: dict[int, Any] = {id(float): FLOAT}
    for module, space in (
        (np, NUMPY),
        *((getattr(np, room), _room(getattr(np, room))) for room in ROOMS),
    ):
        for name in dir(module):
            value = getattr(module, name, None)
            if callable(value) and not name.startswith("_"):
                found.setdefault(id(value), getattr(space, name))
    for name in dir(math):
        if callable(getattr(math, name)) and not name.startswith("_"):
            found[id(getattr(math, name))] = getattr(MATH, name)
    return found


def stand_in(value: Any) -> Any:
    """What code on traced arrays is to see in place of an object; None where it is the object."""
    if isinstance(value, types.ModuleType):
        return _module_for(value)
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return None
    if callable(value):
        return _table().get(id(value)) or _of_scipy(value)
    return None


class SpecialNamespace(types.ModuleType):
    """scipy.special: its ufuncs find a traced argument by themselves, its functions do not."""

    def __getattr__(self, name: str) -> Any:
        """The name, as code on traced arrays is to see it."""
        value = getattr(sys.modules["scipy.special"], name)
        return Function(name, value) if name in SPECIAL else value


SPECIAL_FUNCTIONS = SpecialNamespace("scipy.special")


def _module_for(module: types.ModuleType) -> Any:
    if module is sys.modules.get("scipy.special"):
        return SPECIAL_FUNCTIONS
    if module is np:
        return NUMPY
    if module is math:
        return MATH
    if any(module is getattr(np, room) for room in ROOMS):
        return _room(module)
    return None


def _of_scipy(value: Any) -> Any:
    special = sys.modules.get("scipy.special")
    for name in SPECIAL if special is not None else ():
        if value is getattr(special, name, None):
            return Function(name, value)
    return None
