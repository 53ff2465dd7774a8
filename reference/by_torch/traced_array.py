"""A NumPy array whose numbers are a torch tensor's, so that what is computed with it can be
differentiated.

`Traced` behaves as np.ndarray does, in NumPy's own dtypes; every operation is done by torch,
through torch._numpy, and recorded by its autograd. Arrays of integers and truth values have no
derivative: they stay NumPy's, and every operation that gives them is NumPy's own, on the numbers.

A derivative must be whole or not be told. Wherever a number would leave what is traced (np.asarray,
an assignment into an array of NumPy's own, int(), a function that torch does not have), `Left` is
raised, and kept, so that code which catches it is found out; and so it is where the result of an
operation has lost its derivative.
"""

import dis
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..worlds import is_users_file
from . import traced_operations
from .traced_operations import DISCRETE, IN_PLACE, SEQUENCES, SUPPLEMENTS, torch_numpy

Array = np.ndarray[Any, Any]

# What str % value calls: the number ends in a text.
FORMATTING = ("BINARY_OP", "FORMAT_VALUE", "BINARY_MODULO")


class Left(TypeError):
    """A number left what is traced."""


@dataclass
class Trace:
    """What was noticed while code ran.

    left       the first number that left
    narrowed   where numbers were put into a lower precision: its name → file and line
    """

    left: Left | None = None
    narrowed: dict[str, str] = field(default_factory=dict[str, str])


TRACE: ContextVar[Trace] = ContextVar("TRACE")


def leave(what: str) -> Left:
    """The exception that says what left, noted; to be raised."""
    error = Left(what)
    trace = TRACE.get(None)
    if trace is not None and trace.left is None:
        trace.left = error
    return error


def users_line() -> str:
    """'file.py:12' of the innermost line of the user's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_users_file(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


def numpy_dtype(tensor: torch.Tensor) -> np.dtype[Any]:
    """NumPy's dtype of a tensor's numbers."""
    return np.dtype(str(tensor.dtype).removeprefix("torch."))


class Traced:
    """An array of real or complex floating-point numbers, shape and strides those of `tensor`."""

    __array_priority__ = 1e6
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    # What it is.

    shape = property(lambda self: tuple(self.tensor.shape))
    ndim = property(lambda self: self.tensor.ndim)
    size = property(lambda self: self.tensor.numel())
    dtype = property(lambda self: numpy_dtype(self.tensor))
    itemsize = property(lambda self: self.tensor.element_size())
    nbytes = property(lambda self: self.size * self.itemsize)
    T = property(lambda self: self.transpose())
    mT = property(lambda self: self.swapaxes(-1, -2))  # noqa: N815 - NumPy's name
    flat = property(lambda self: self.reshape(-1))

    @property
    def real(self) -> Any:
        """The real parts."""
        return evaluate("real", (self,), {})

    @property
    def imag(self) -> Any:
        """The imaginary parts."""
        return evaluate("imag", (self,), {})

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return len(self.tensor)

    def __iter__(self) -> Iterator[Any]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[index] for index in range(len(self)))

    def numbers(self) -> Array:
        """The numbers as they are now, a copy, without their derivative."""
        return self.tensor.detach().resolve_conj().cpu().numpy().copy()

    # What it is turned into.

    def __repr__(self) -> str:
        return repr(self.numbers())

    def __str__(self) -> str:
        return str(self.numbers())

    def __format__(self, spec: str) -> str:
        return format(self.numbers()[()], spec)

    def __bool__(self) -> bool:
        return bool(self.numbers())

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise leave(
            "a number leaves the array that is differentiated (np.asarray, or an "
            "assignment into an array that NumPy itself made)"
        )

    def __float__(self) -> float:
        caller = sys._getframe(1)
        if not self.tensor.requires_grad or _is_formatting(caller):
            return float(self.numbers())
        raise leave("float() takes a number out of differentiation")

    def __complex__(self) -> complex:
        if not self.tensor.requires_grad:
            return complex(self.numbers())
        raise leave("complex() takes a number out of differentiation")

    def __int__(self) -> int:
        if not self.tensor.requires_grad:
            return int(self.numbers())
        raise leave("int() takes a number out of differentiation")

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __round__(self, digits: int = 0) -> Any:
        return evaluate("round", (self, digits), {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise leave("pickling takes numbers out of differentiation")

    def __copy__(self) -> "Traced":
        return self.copy()

    def __deepcopy__(self, memo: Any) -> "Traced":
        return self.copy()

    def item(self, *index: Any) -> Any:
        """One number of it, which stays traced."""
        if index:
            return self.reshape(-1)[index[0]] if len(index) == 1 else self[tuple(index)]
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return scalar(self.tensor.reshape(()))

    def tolist(self) -> Any:
        """Nested lists of its numbers, which stay traced."""
        return [row.tolist() for row in self] if self.ndim else self.item()

    def tobytes(self, *_: Any) -> Any:
        """Raises Left."""
        raise leave("tobytes() takes numbers out of differentiation")

    tofile = dump = dumps = tostring = tobytes

    def copy(self, *_: Any, **__: Any) -> "Traced":
        """The same numbers in an array of their own."""
        return type(self)(self.tensor.clone())

    __pos__ = copy

    def flatten(self, order: str = "C") -> Any:
        """A copy with one axis."""
        return self.reshape(-1, order=order).copy()

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        """The numbers in another dtype; integers and truth values without a derivative."""
        kind = np.dtype(dtype)
        if kind.kind not in "fc":
            return self.numbers().astype(kind)
        return type(self)(cast(self.tensor, kind).clone())

    def view(self, *kinds: Any) -> Any:
        """The array itself, as another array on the same numbers."""
        if any(np.dtype(kind) != self.dtype for kind in kinds if not isinstance(kind, type)):
            raise leave("view() as another dtype")
        return Traced(self.tensor.view_as(self.tensor))

    def reshape(self, *shape: Any, order: str = "C", **_: Any) -> Any:
        """The numbers in another shape; a view where NumPy gives one."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        if order == "F":
            turned = self.transpose().reshape(*tuple(wanted)[::-1])
            return turned.transpose()
        return Traced(self.tensor.reshape(tuple(int(size) for size in wanted)))

    def transpose(self, *axes: Any) -> "Traced":
        """The axes in another order."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(order or range(self.ndim)[::-1])
        return Traced(self.tensor.permute(tuple(int(axis) for axis in order)))

    def fill(self, value: Any) -> None:
        """Put one number everywhere."""
        self[...] = value

    def sort(self, axis: int = -1, **_: Any) -> None:
        """Sort in place."""
        self[...] = evaluate("sort", (self, axis), {})

    def put(self, indices: Any, values: Any, **_: Any) -> None:
        """Put numbers at flat indices."""
        positions = np.unravel_index(np.asarray(indices), self.shape)
        self[positions] = values

    # Its parts.

    def __getitem__(self, index: Any) -> Any:
        index = _plain_index(index)
        if _is_basic(index):
            found = self.tensor[index]
            return self._part(found, index)
        positions = _positions(index, self.shape)
        return self._part(self.tensor[_places(positions, self.shape)], index)

    def _part(self, found: torch.Tensor, index: Any) -> Any:
        """A number is a scalar; with an ellipsis, an array without axes."""
        whole = index if isinstance(index, tuple) else (index,)
        return Traced(found) if found.ndim or any(at is ... for at in whole) else scalar(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        index, given = _plain_index(index), tensor_of(value)
        given = cast(given, self.dtype)
        if _is_basic(index):
            target = self.tensor[index]
            target.copy_(_fitting(given, target))
            return
        positions = _positions(index, self.shape)
        values = torch.broadcast_to(_fitting(given, positions), positions.shape)
        _, last = np.unique(positions.ravel()[::-1], return_index=True)
        kept = positions.size - 1 - last  # of numbers put at one place, the last stays
        places = _places(positions.ravel()[kept], self.shape)
        self.tensor.index_put_(places, values.reshape(-1)[torch.from_numpy(kept)])

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    # What others compute with it.

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """A ufunc of NumPy's own, or of scipy's, of which this is an argument."""
        name = ufunc.__name__
        if method == "__call__":
            return evaluate(name, inputs, kwargs)
        return ufunc_method(name, method, *inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """A function of NumPy's own, of which this is an argument."""
        room = function.__module__.removeprefix("numpy").removeprefix(".")
        prefix = f"{room}." if room in ("linalg", "fft") else ""
        return evaluate(prefix + function.__name__, args, kwargs)


class TracedScalar(Traced):
    """What NumPy gives as a scalar: a number that is never changed in place."""

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(f"'{self.dtype.type.__name__}' object does not support item assignment")


def scalar(tensor: torch.Tensor) -> TracedScalar:
    """A number, apart from the array that it was taken from."""
    return TracedScalar(tensor.clone() if tensor._base is not None else tensor)


def _is_formatting(frame: Any) -> bool:
    """Whether the caller is text % value."""
    at = frame.f_lasti
    found = (each for each in dis.get_instructions(frame.f_code) if each.offset == at)
    instruction = next(found, None)
    if instruction is None:
        return False
    return instruction.opname in FORMATTING and (
        instruction.opname != "BINARY_OP" or instruction.argrepr.startswith("%")
    )


# Conversions.


def cast(tensor: torch.Tensor, dtype: np.dtype[Any]) -> torch.Tensor:
    """The tensor in a dtype of NumPy's; that it got narrower is noted."""
    wanted = getattr(torch, dtype.name, None)
    if wanted is None:
        raise leave(f"torch has no numbers of dtype {dtype.name}")
    if tensor.dtype == wanted:
        return tensor
    narrower = tensor.requires_grad and numpy_dtype(tensor).itemsize > dtype.itemsize
    trace = TRACE.get(None)
    if narrower and trace is not None:
        trace.narrowed.setdefault(dtype.name, users_line())
    return tensor.to(wanted)


def tensor_of(value: Any) -> torch.Tensor:
    """The tensor of anything that NumPy would make an array of."""
    if isinstance(value, Traced):
        return value.tensor
    if isinstance(value, list | tuple) and has_traced(value):
        rows = [tensor_of(item) for item in value]
        widest = np.result_type(*(numpy_dtype(row) for row in rows))
        return torch.stack([cast(row, widest) for row in rows])
    array = np.asarray(value)
    if array.dtype.kind not in "fciub":
        raise leave(f"an array of dtype {array.dtype.name} beside what is differentiated")
    if getattr(torch, array.dtype.name, None) is None:
        raise leave(f"torch has no numbers of dtype {array.dtype.name}")
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(native)


def has_traced(value: Any) -> bool:
    """Whether there is a traced array among arguments, however nested."""
    if isinstance(value, Traced):
        return True
    if isinstance(value, list | tuple):
        return any(has_traced(item) for item in value)
    if isinstance(value, dict):
        return any(has_traced(item) for item in value.values())
    return False


def traced(value: Any) -> Any:
    """Arrays of floating-point numbers, however nested in what NumPy returned, as traced ones."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "fc" and hasattr(torch, value.dtype.name):
            return Traced(tensor_of(value))
        return value
    if type(value) in (list, tuple):
        return type(value)(traced(item) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(traced(item) for item in value))
    return value


def detached(value: Any) -> Any:
    """Numbers in place of every traced array among arguments."""
    if isinstance(value, TracedScalar):
        return value.numbers()[()]
    if isinstance(value, Traced):
        return value.numbers()
    if isinstance(value, list | tuple):
        return type(value)(detached(item) for item in value)
    if isinstance(value, dict):
        return {name: detached(item) for name, item in value.items()}
    return value


# Indices.


def _plain_index(index: Any) -> Any:
    """The index without lists and scalars of NumPy's."""
    if isinstance(index, tuple):
        return tuple(_plain_index(at) for at in index)
    if isinstance(index, Traced):
        raise IndexError("arrays used as indices must be of integer (or boolean) type")
    if isinstance(index, np.integer) or (isinstance(index, np.ndarray) and _is_number(index)):
        return int(index)
    return np.asarray(index) if isinstance(index, list) else index


def _is_number(index: Array) -> bool:
    return index.ndim == 0 and index.dtype.kind in "iu"


def _is_basic(index: Any) -> bool:
    """Whether NumPy gives a view by this index, and torch has it."""
    whole = index if isinstance(index, tuple) else (index,)
    for at in whole:
        if isinstance(at, bool | np.bool_):
            return False
        if isinstance(at, slice):
            if at.step is not None and at.step < 0:
                return False
        elif not (at is None or at is ... or isinstance(at, int)):
            return False
    return True


def _positions(index: Any, shape: tuple[int, ...]) -> Array:
    """Where the parts of an array are that NumPy gives by this index: flat positions."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.asarray(np.arange(size).reshape(shape)[index])


def _places(positions: Array, shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """The same as an index of torch's."""
    along = np.unravel_index(positions, shape) if shape else ()
    return tuple(torch.from_numpy(np.array(at)) for at in along)


def _fitting(given: torch.Tensor, target: Any) -> torch.Tensor:
    """Without axes of one in front that the target does not have."""
    while given.ndim > target.ndim and given.shape[0] == 1:
        given = given[0]
    return given


# Operations.


def evaluate(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """NumPy's function of this name ("linalg.norm") of arguments of which some are traced."""
    if name in DISCRETE:
        found = traced_operations.real(name)(*detached(args), **detached(kwargs))
        return traced(found)
    if name in IN_PLACE:
        return _change(name, *args, **kwargs)
    out, where = kwargs.pop("out", None), kwargs.pop("where", True)
    result = _computed(name, args, kwargs)
    if where is not True:
        result = _chosen(where, result, out)
    return result if out is None else _put_out(out, result)


def _computed(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By torch. Raises Left where it has no such function, or loses the derivative."""
    function = SUPPLEMENTS.get(name) or traced_operations.of_torch(name)
    if function is None:
        raise leave(f"torch has no np.{name}")
    is_ufunc = isinstance(traced_operations.real(name), np.ufunc)
    given = [_given(name, value, is_ufunc) for value in args]
    named = {key: _given(name, value, is_ufunc) for key, value in kwargs.items()}
    try:
        found = function(*given, **named)
    except NotImplementedError as error:
        raise leave(f"torch has no np.{name} of this kind ({error})") from error
    result = _wrapped(found)
    if _is_tracked((args, kwargs)) and not _keeps_derivative(result):
        raise leave(f"np.{name} loses the derivative")
    return result


def _given(name: str, value: Any, is_ufunc: bool) -> Any:
    """An argument as torch._numpy takes it."""
    if isinstance(value, Traced):
        return torch_numpy.ndarray(value.tensor)
    if isinstance(value, np.ndarray):
        return torch_numpy.ndarray(tensor_of(value))
    if isinstance(value, np.generic):
        whole = isinstance(value, np.integer | np.bool_) and not is_ufunc
        return value.item() if whole else torch_numpy.ndarray(tensor_of(value))
    if isinstance(value, np.dtype | type):
        return torch_numpy.dtype(np.dtype(value).name)
    if isinstance(value, list | tuple) and has_traced(value):
        if name in SEQUENCES:
            return [_given(name, item, is_ufunc) for item in value]
        return torch_numpy.ndarray(tensor_of(value))
    return value


def _wrapped(found: Any) -> Any:
    """A result of torch._numpy's, as NumPy would have it."""
    if isinstance(found, torch_numpy.ndarray):
        found = found.tensor
    if isinstance(found, torch.Tensor):
        if not (found.dtype.is_floating_point or found.dtype.is_complex):
            return found.numpy()[()]
        return Traced(found) if found.ndim else scalar(found)
    if isinstance(found, list | tuple):
        items = [_wrapped(item) for item in found]
        return type(found)(*items) if hasattr(found, "_fields") else type(found)(items)
    return found


def _is_tracked(value: Any) -> bool:
    if isinstance(value, Traced):
        return value.tensor.requires_grad
    if isinstance(value, list | tuple):
        return any(_is_tracked(item) for item in value)
    return isinstance(value, dict) and any(_is_tracked(item) for item in value.values())


def _keeps_derivative(result: Any) -> bool:
    """Whether every array of floating-point numbers in a result has one."""
    if isinstance(result, Traced):
        return result.tensor.requires_grad
    if isinstance(result, list | tuple):
        return all(_keeps_derivative(item) for item in result)
    return not (isinstance(result, np.ndarray | np.generic) and result.dtype.kind in "fc")


def _chosen(where: Any, result: Any, out: Any) -> Any:
    """The result of a ufunc where it was asked for, elsewhere what stood in `out`."""
    before = out[0] if isinstance(out, tuple) else out
    return evaluate("where", (where, result, 0.0 if before is None else before), {})


def _put_out(out: Any, result: Any) -> Any:
    """The result, put into the array that was handed for it."""
    target = out[0] if isinstance(out, tuple) else out
    if not isinstance(target, Traced):
        raise leave("the result is put into an array that NumPy itself made")
    target[...] = result
    return target


def _change(name: str, target: Any, *args: Any, **kwargs: Any) -> None:
    """What NumPy does to its first argument in place."""
    if not isinstance(target, Traced):
        raise leave(f"np.{name} puts numbers into an array that NumPy itself made")
    IN_PLACE[name](target, *args, **kwargs)


def ufunc_method(name: str, method: str, *args: Any, **kwargs: Any) -> Any:
    """np.add.reduce(…), np.add.at(…), np.multiply.outer(…), np.add.accumulate(…)."""
    if method == "outer":
        one, other = (Traced(tensor_of(each)) for each in args)
        return evaluate(name, (one.reshape(*one.shape, *(1,) * other.ndim), other), kwargs)
    if method == "at" and name == "add":
        return _add_at(*args)
    other_name = traced_operations.UFUNC_METHODS.get((name, method))
    if other_name is None:
        raise leave(f"torch has no np.{name}.{method}")
    kwargs.setdefault("axis", 0)
    return evaluate(other_name, args, kwargs)


def _add_at(target: Any, index: Any, values: Any) -> None:
    """np.add.at: what falls on one place adds up."""
    if not isinstance(target, Traced):
        raise leave("np.add.at puts numbers into an array that NumPy itself made")
    positions = _positions(_plain_index(index), target.shape)
    given = cast(tensor_of(values), target.dtype)
    given = torch.broadcast_to(given, positions.shape).reshape(-1)
    target.tensor.index_put_(_places(positions.ravel(), target.shape), given, accumulate=True)


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: evaluate(name, (self, *args), kwargs)


def _operator(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, other: evaluate(name, (self, other), {})


def _reflected(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, other: evaluate(name, (other, self), {})


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    def change(self: Traced, other: Any) -> Any:
        result = evaluate(name, (self, other), {})
        if isinstance(self, TracedScalar):
            return result
        self[...] = result
        return self

    return change


for _name in traced_operations.METHODS:
    setattr(Traced, _name, _method(_name))
for _short, _name in traced_operations.OPERATORS.items():
    setattr(Traced, f"__{_short}__", _operator(_name))
    setattr(Traced, f"__r{_short}__", _reflected(_name))
    setattr(Traced, f"__i{_short}__", _in_place(_name))
for _short, _name in traced_operations.COMPARISONS.items():
    setattr(Traced, f"__{_short}__", _operator(_name))
for _short, _name in traced_operations.UNARY.items():
    setattr(Traced, f"__{_short}__", _method(_name))
