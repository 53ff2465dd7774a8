"""Copies of a user's code with all that it can reach: its objects, closures, modules.

A reference evaluates a user's function many times, at other numbers, in other number types. What
the function keeps meanwhile (a state carried on, gradients added up, complex numbers, tensors) must
not be left in the user's objects, nor reach the next evaluation. A `World` copies the function,
and with it whatever the copy might write into or read:

    functions     rebuilt on copies of their closures and defaults, and of the globals they name
    classes       rebuilt where they are the user's own, so that their methods are copies too
    instances     rebuilt field by field, as copy.deepcopy does
    modules       the user's own: copied name by name when it is asked for
    arrays, lists, dicts, sets   copied

What belongs to the interpreter or to an installed package stays what it is, and so does what
cannot be copied (a lock, an open file). Within one world everything is copied once: what was one
object to the user is one object to the copies. Nothing of the user's is changed, and nothing
global: a world can be made in any thread.

`swap` may put something else in the place of an object: reference.by_torch.numpy_code runs NumPy
code on torch by it.
"""

import builtins
import collections
import copyreg
import functools
import random
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

NEW_OBJECT: Any = vars(copyreg)["__newobj__"]
UNCHANGED = object()  # what `swap` returns for what it does not replace

ATOMS = (
    type(None),
    type(NotImplemented),
    type(Ellipsis),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    types.CodeType,
)
CONTAINERS = (
    collections.OrderedDict,
    collections.defaultdict,
    collections.deque,
    collections.Counter,
    types.SimpleNamespace,
    random.Random,
    np.random.Generator,
    np.random.RandomState,
)
# Attributes of a class that its copy gets by being made, not by being assigned.
MADE_WITH_THE_CLASS = frozenset(
    "__dict__ __weakref__ __abstractmethods__ _abc_impl __slots__ __module__ __qualname__ "
    "__doc__ __class__ __mro__ __bases__".split()
)

OWN = Path(__file__).resolve().parents[1]
STDLIB = Path(sysconfig.get_paths()["stdlib"])

Swap = Callable[[Any], Any]


def _nothing_swapped(value: Any) -> Any:
    del value
    return UNCHANGED


@lru_cache(maxsize=4096)
def is_users_file(name: str) -> bool:
    """Whether a source file is neither the interpreter's, nor an installed package's, nor ours."""
    if name.startswith("<"):
        return not name.startswith(("<frozen", "<__array"))
    path = Path(name).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    ours = any(path.is_relative_to(OWN / room) for room in ("manual", "reference", "comparisons"))
    return not (ours or path.is_relative_to(STDLIB))


def is_users_module(space: dict[str, Any]) -> bool:
    """Whether these globals are of a module of the user's: his file, or a notebook."""
    name, file = str(space.get("__name__")), space.get("__file__")
    if isinstance(file, str):
        return is_users_file(file)
    return name == "__main__" or space.get("__spec__") is None


@lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> frozenset[str]:
    """The names that code looks up in its globals, nested functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_in(constant)
    return frozenset(names)


class World:
    """Copies of objects, each made once."""

    def __init__(self, swap: Swap = _nothing_swapped, provided: dict[str, Any] | None = None):
        self.swap = swap
        self.provided = provided or {}  # in place of builtins of the same names
        self.memo: dict[int, Any] = {}
        self.originals: list[Any] = []  # kept alive, so that no id is given twice
        self.spaces: dict[int, dict[str, Any]] = {}

    def copy(self, value: Any) -> Any:
        """The copy of an object in this world."""
        if type(value) in ATOMS:
            return value
        known = self.memo.get(id(value), UNCHANGED)
        if known is not UNCHANGED:
            return known
        swapped = self.swap(value)
        if swapped is not UNCHANGED:
            return self._remember(value, swapped)
        for kind, copied in _HOW:
            if isinstance(value, kind):
                return copied(self, value)
        return self._instance(value)

    def _remember(self, value: Any, copied: Any) -> Any:
        self.memo[id(value)] = copied
        self.originals.append(value)
        return copied

    # Code.

    def _function(self, function: types.FunctionType) -> Any:
        """On copies of its closure, of its defaults, and of the globals that it names."""
        old, users = function.__globals__, is_users_module(function.__globals__)
        if not users and function.__closure__ is None:
            return self._remember(function, function)
        space = self.space_of(old) if users else old
        cells = tuple(self._empty_cell(cell) for cell in function.__closure__ or ())
        new = types.FunctionType(function.__code__, space, function.__name__, None, cells or None)
        self._remember(function, new)
        if users:
            self._fill(space, old, names_in(function.__code__))
        for cell in function.__closure__ or ():
            self._fill_cell(cell)
        new.__defaults__ = self.copy(function.__defaults__)
        new.__kwdefaults__ = self.copy(function.__kwdefaults__)
        new.__qualname__, new.__doc__ = function.__qualname__, function.__doc__
        for name, value in vars(function).items():
            setattr(new, name, self.copy(value))
        return new

    def space_of(self, old: dict[str, Any]) -> dict[str, Any]:
        """The globals that stand for these: so far without the user's names."""
        new = self.spaces.get(id(old))
        if new is None:
            kept = ("__name__", "__file__", "__package__", "__spec__", "__loader__", "__doc__")
            new = {name: old[name] for name in kept if name in old}
            new["__builtins__"] = {
                **vars(builtins),
                "__import__": self._import,
                **self.provided,
            }
            self.spaces[id(old)] = new
            self.originals.append(old)
        return new

    def _fill(self, new: dict[str, Any], old: dict[str, Any], names: frozenset[str]) -> None:
        for name in names:
            if name in old and name not in new:
                new[name] = self.copy(old[name])

    def _import(self, *args: Any, **kwargs: Any) -> Any:
        """`import` within a copied function."""
        return self.copy(builtins.__import__(*args, **kwargs))

    def _empty_cell(self, cell: types.CellType) -> types.CellType:
        known = self.memo.get(id(cell))
        return self._remember(cell, types.CellType()) if known is None else known

    def _fill_cell(self, cell: types.CellType) -> None:
        new = self.memo[id(cell)]
        if _is_empty(cell) or not _is_empty(new):
            return
        new.cell_contents = self.copy(cell.cell_contents)

    def _method(self, method: types.MethodType) -> Any:
        return types.MethodType(self.copy(method.__func__), self.copy(method.__self__))

    def _builtin(self, function: types.BuiltinFunctionType) -> Any:
        """A method of a copied object, where it is one: `W.dot`, `states.append`."""
        owner = function.__self__
        if owner is None or isinstance(owner, types.ModuleType | type):
            return self._remember(function, function)
        return getattr(self.copy(owner), function.__name__, function)

    def _partial(self, partial: "functools.partial[Any]") -> Any:
        arguments = [self.copy(value) for value in partial.args]
        keywords = {name: self.copy(value) for name, value in partial.keywords.items()}
        return self._remember(
            partial, functools.partial(self.copy(partial.func), *arguments, **keywords)
        )

    def _wrapped(self, wrapper: Any) -> Any:
        """What a cache wraps: values of the caller's are not to be remembered."""
        return self._remember(wrapper, self.copy(wrapper.__wrapped__))

    def _descriptor(self, descriptor: Any) -> Any:
        return self._remember(descriptor, type(descriptor)(self.copy(descriptor.__func__)))

    def _property(self, found: property) -> Any:
        parts = (self.copy(part) for part in (found.fget, found.fset, found.fdel))
        fget, fset, fdel = parts
        return self._remember(found, property(fget, fset, fdel, found.__doc__))

    def _cached_property(self, found: "functools.cached_property[Any]") -> Any:
        new = functools.cached_property(self.copy(found.func))
        new.attrname = found.attrname
        return self._remember(found, new)

    def _module(self, module: types.ModuleType) -> Any:
        """The user's own: its names are copied when they are asked for."""
        if not is_users_module(vars(module)):
            return self._remember(module, module)
        return self._remember(module, _ModuleCopy(module, self))

    def _class(self, cls: type) -> Any:
        """The user's own: made again, of copies of its methods."""
        if not _is_users_class(cls):
            return self._remember(cls, cls)
        body: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        if "__slots__" in vars(cls):
            body["__slots__"] = vars(cls)["__slots__"]
        bases = tuple(self.copy(base) for base in cls.__bases__)
        try:
            new = self.copy(type(cls))(cls.__name__, bases, body)
        except Exception:  # made in a way of its own: its methods stay the user's
            return self._remember(cls, cls)
        self._remember(cls, new)
        for name, value in vars(cls).items():
            made = isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
            if name not in MADE_WITH_THE_CLASS and not made:
                setattr(new, name, self.copy(value))
        return new

    # Data.

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        new = self._remember(array, np.array(array, order="K", subok=True))
        if array.dtype.hasobject and array.dtype.names is None:
            for at in np.ndindex(array.shape):
                new[at] = self.copy(array[at])
        return new

    def _dict(self, given: dict[Any, Any]) -> Any:
        if type(given) is not dict:
            return self._instance(given)
        new = self._remember(given, dict[Any, Any]())
        for key, value in given.items():
            new[self.copy(key)] = self.copy(value)
        return new

    def _list(self, given: list[Any]) -> Any:
        if type(given) is not list:
            return self._instance(given)
        new = self._remember(given, list[Any]())
        new.extend(self.copy(value) for value in given)
        return new

    def _tuple(self, given: tuple[Any, ...]) -> Any:
        if type(given) is not tuple:
            return self._instance(given)
        items = tuple(self.copy(value) for value in given)
        known = self.memo.get(id(given), UNCHANGED)  # where the tuple reaches itself
        return self._remember(given, items) if known is UNCHANGED else known

    def _set(self, given: set[Any] | frozenset[Any]) -> Any:
        return self._remember(given, type(given)(self.copy(value) for value in given))

    def _instance(self, value: Any) -> Any:
        """Of a class of the user's, of ours, or of a container: field by field."""
        if hasattr(value, "py_func"):  # compiled by numba: as Python again
            return self._remember(value, self.copy(value.py_func))
        cls = type(value)
        if not (_is_copied_class(cls) or issubclass(cls, CONTAINERS)):
            return self._remember(value, value)
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # a generator, a lock, an open file
            return self._remember(value, value)
        if isinstance(reduced, str):
            return self._remember(value, value)
        return self._rebuilt(value, *reduced)

    def _rebuilt(
        self,
        value: Any,
        make: Any,
        args: Any,
        state: Any = None,
        items: Iterator[Any] | None = None,
        pairs: Iterator[Any] | None = None,
        *_: Any,
    ) -> Any:
        """From what __reduce_ex__ tells, as copy.deepcopy does."""
        if make is NEW_OBJECT:
            cls = self.copy(args[0])
            new = cls.__new__(cls, *[self.copy(each) for each in args[1:]])
        else:
            new = self.copy(make)(*[self.copy(each) for each in args])
        self._remember(value, new)
        if state is not None:
            self._set_state(new, self.copy(state))
        for item in items or ():
            new.append(self.copy(item))
        for key, each in pairs or ():
            new[self.copy(key)] = self.copy(each)
        return new

    @staticmethod
    def _set_state(new: Any, state: Any) -> None:
        if hasattr(new, "__setstate__"):
            new.__setstate__(state)
            return
        fields, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        vars(new).update(fields or {}) if fields else None
        for name, value in (slots or {}).items():
            object.__setattr__(new, name, value)


class _ModuleCopy(types.ModuleType):
    """A module of the user's in a world: its names are the globals of the copied functions."""

    def __init__(self, module: types.ModuleType, world: World) -> None:
        super().__init__(module.__name__)
        object.__setattr__(self, "_of", (module, world, world.space_of(vars(module))))

    def __getattr__(self, name: str) -> Any:
        module, world, space = object.__getattribute__(self, "_of")
        if name not in space:
            space[name] = world.copy(getattr(module, name))
        return space[name]

    def __setattr__(self, name: str, value: Any) -> None:
        object.__getattribute__(self, "_of")[2][name] = value

    def __delattr__(self, name: str) -> None:
        del object.__getattribute__(self, "_of")[2][name]


def _is_empty(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False


@lru_cache(maxsize=4096)
def _is_users_class(cls: type) -> bool:
    """Whether a class was made in a module of the user's."""
    if issubclass(cls, Enum | BaseException | types.ModuleType):
        return False
    module = sys_module(cls.__module__)
    if module is None:
        return cls.__module__ not in ("builtins", None)
    return is_users_module(vars(module))


@lru_cache(maxsize=4096)
def _is_copied_class(cls: type) -> bool:
    """The user's classes, and ours, that hold what is the user's."""
    module = sys_module(cls.__module__)
    file = getattr(module, "__file__", None)
    ours = file is not None and Path(file).is_relative_to(OWN)
    return ours or _is_users_class(cls)


def sys_module(name: str | None) -> types.ModuleType | None:
    """The module of this name that is loaded."""
    return sys.modules.get(name or "")


_HOW: tuple[tuple[Any, Callable[[World, Any], Any]], ...] = (
    (np.ndarray, World._array),
    (types.FunctionType, World._function),
    (types.MethodType, World._method),
    (types.BuiltinFunctionType, World._builtin),
    (functools.partial, World._partial),
    (functools._lru_cache_wrapper, World._wrapped),
    ((staticmethod, classmethod), World._descriptor),
    (property, World._property),
    (functools.cached_property, World._cached_property),
    (types.ModuleType, World._module),
    (type, World._class),
    (dict, World._dict),
    (list, World._list),
    (tuple, World._tuple),
    ((set, frozenset), World._set),
)
