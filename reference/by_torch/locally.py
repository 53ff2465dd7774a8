"""What torch keeps for the whole process, set for the calling thread alone: the default dtype, and
on how many threads an operation runs.

torch.set_default_dtype and torch.set_num_threads reach every thread, and a thread that begins
meanwhile keeps what it found: two checks side by side would leave one's setting behind as the
other's "before".
"""

import ctypes
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

# Functions whose numbers are of the default dtype unless another is named.
OF_DEFAULT_DTYPE = frozenset(
    getattr(torch, name)
    for name in (
        "zeros ones empty empty_strided rand randn eye linspace logspace scalar_tensor "
        "bartlett_window blackman_window hamming_window hann_window kaiser_window"
    ).split()
)
# Functions whose numbers are of the default dtype where they are given Python's floats.
OF_WHAT_IS_GIVEN = frozenset(
    getattr(torch, name) for name in "tensor as_tensor asarray full arange range".split()
)
# Methods that name a dtype by their own name.
CONVERSIONS = frozenset(
    getattr(torch.Tensor, name) for name in "float half bfloat16 double cfloat cdouble type".split()
)
CHOICES = frozenset((torch.where, torch.Tensor.where))
COMPLEX = {torch.float16: torch.complex32, torch.float64: torch.complex128}


def in_default_dtype(wanted: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which this thread's default dtype is `wanted`, as far as operations show it.

    torch.get_default_dtype() tells the process's own.
    """
    return nullcontext() if torch.get_default_dtype() == wanted else DefaultDtype(wanted)


class DefaultDtype(TorchFunctionMode):
    """Operations make numbers of this dtype where torch would take the process's default.

    That is where no dtype is named and no argument has one: torch.zeros(3), and integers times or
    divided by Python's floats. torch.autograd.grad leaves the context before it begins, so that a
    backward in Python is outside of it.
    """

    def __init__(self, wanted: torch.dtype | None = None) -> None:
        super().__init__()
        usual = torch.get_default_dtype()
        self.wanted = wanted or usual
        self.instead: dict[torch.dtype, torch.dtype] = {}
        if self.wanted != usual:
            complex_usual = COMPLEX.get(usual, torch.complex64)
            complex_wanted = COMPLEX.get(self.wanted, torch.complex64)
            self.instead = {usual: self.wanted, complex_usual: complex_wanted}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, in the wanted dtype where it would be in the default one."""
        named = kwargs or {}
        if func in OF_DEFAULT_DTYPE:
            return func(*args, **_completed(named, self.wanted))
        result = func(*args, **named)
        if type(result) is not torch.Tensor or result.dtype not in self.instead:
            return result
        if func in CONVERSIONS or _tells_dtype((args, named)):
            return result
        wanted = self.instead[result.dtype]
        if func in OF_WHAT_IS_GIVEN:
            return func(*args, **_completed(named, wanted))
        turned = self.choice if func in CHOICES else self.number
        return func(*_each(args, turned), **{name: turned(each) for name, each in named.items()})

    def number(self, value: Any) -> Any:
        """Integers and truth values as numbers of the wanted dtype; anything else as it is."""
        return value.to(self.wanted) if isinstance(value, torch.Tensor) else value

    def choice(self, value: Any) -> Any:
        """The same between which `where` chooses; what it chooses by stays."""
        if isinstance(value, float):
            return torch.tensor(value, dtype=self.wanted)
        if isinstance(value, torch.Tensor) and value.dtype != torch.bool:
            return value.to(self.wanted)
        return value


def _completed(named: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The keywords with the dtype where they name none."""
    return dict(named) if named.get("dtype") is not None else {**named, "dtype": dtype}


def _each(values: Any, turned: Callable[[Any], Any]) -> list[Any]:
    return [turned(value) for value in values]


def _tells_dtype(value: Any) -> bool:
    """Whether a dtype, or numbers that have one of floating point, are in the arguments."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() or value.is_complex()
    if isinstance(value, torch.dtype):
        return True
    if isinstance(value, dict):
        return any(map(_tells_dtype, value.values()))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    if isinstance(value, tuple | list):
        return any(map(_tells_dtype, value))  # pyright: ignore[reportUnknownArgumentType]
    has_own = isinstance(value, np.ndarray | np.generic) and not isinstance(value, float | complex)
    return has_own and value.dtype.kind not in "iub"


@lru_cache(maxsize=1)
def _set_threads_of_this_thread() -> Callable[[int], Any] | None:
    """OpenMP's omp_set_num_threads, which the standard has act on the calling thread alone.

    None where torch is built on something else.
    """
    try:
        return ctypes.CDLL(torch._C.__file__).omp_set_num_threads
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def on_one_thread(wanted: bool) -> Generator[None]:
    """Operations that this thread asks for run on one thread, if that is wanted and can be had for
    it alone; as many as before afterwards.
    """
    before = torch.get_num_threads()
    change = _set_threads_of_this_thread() if wanted and before > 1 else None
    if change is None:
        yield
        return
    change(1)
    try:
        yield
    finally:
        change(before)
