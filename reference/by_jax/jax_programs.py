"""Compiled jax functions, kept by what they compute, not by which Python object asked.

A cell's step is another object at every check, and what it computes hangs on more than its code: on
attributes, on globals, on what it calls. So it is traced anew for every object. Where the trace of
one step tells all of it (reference.by_jax.jax_traces), that is the key; else the lowered program
is: its whole text, constants included. The compilation, by far the longest part, is shared.
"""

import re
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import jax

# Operations whose result moves by rounding where their arguments do. Others choose: a maximum, a
# sign, a sort, an integer.
SMOOTH = frozenset(
    "abs add broadcast_in_dim compare concatenate constant divide dot_general dynamic_slice "
    "dynamic_update_slice exponential exponential_minus_one gather iota log log_plus_one "
    "logistic multiply negate pad power reduce reshape return rsqrt scatter select slice sqrt "
    "subtract tanh transpose while".split()
)
CONSTANT = re.compile(r"(%\S+) = stablehlo\.(?:constant|broadcast_in_dim (%[^,\s]+))")
COMPARED = re.compile(r"stablehlo\.compare\s+(\w+), (%[^,\s]+), (%[^,\s]+),\s+FLOAT")


Compiled: TypeAlias = Future[Callable[..., Any]]
Lowered: TypeAlias = tuple[Any, str]  # the program, its text


@dataclass(frozen=True)
class Program:
    """A program, equal to another where what is told of it, its options and its device are."""

    told: Hashable
    options: tuple[tuple[tuple[str, Any], ...], bool]
    place: Hashable
    lower: Callable[[], Lowered] = field(compare=False, repr=False)

    def compile(self) -> Compiled:
        """Begun on another thread, where XLA needs no Python.

        Lowered here, in the modes of the caller.
        """
        return _COMPILER.submit(_compiled, *self.lower(), *self.options)


_COMPILER = ThreadPoolExecutor(1, "compiler")


@lru_cache(maxsize=256)
def _kept(program: Program) -> Compiled:
    return program.compile()


def executable(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    fast_options: dict[str, Any],
    compile_fast: bool,
    told: Hashable = None,
) -> Compiled:
    """The function compiled for arguments of these shapes.

    With the options of `fast_options` if asked for, or if it bears them.

    `told`: all that tells what it computes, shapes included, where something does
    (reference.by_jax.jax_traces); else the lowered program tells. `result()` waits for it.
    """
    asked = (tuple(fast_options.items()), compile_fast)
    if told is not None:
        return _kept(Program(told, asked, place(), lambda: _lowered(function, arguments)))
    lowered, text = _lowered(function, arguments)
    told = (text, lowered.in_tree, lowered.out_tree)
    program = Program(told, asked, place(), lambda: (lowered, text))
    return _kept(program) if is_complete(text) else program.compile()


def _lowered(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Lowered:
    # An argument left out would be missing from the text.
    lowered = jax.jit(function, keep_unused=True).lower(*arguments)
    return lowered, lowered.as_text()


def _compiled(
    lowered: Any, text: str, fast_options: tuple[tuple[str, Any], ...], compile_fast: bool
) -> Callable[..., Any]:
    fast = bool(fast_options) and (compile_fast or bears_fast_compilation(text))
    return lowered.compile(compiler_options=dict(fast_options) if fast else None)


def place() -> Hashable:
    """Where jax computes by default."""
    return jax.default_backend(), str(getattr(jax.config, "jax_default_device", None))


def is_complete(text: str) -> bool:
    """Whether the text is all that there is.

    No call back into Python, and no constants that are handed over beside it.
    """
    constants_beside = getattr(jax.config, "jax_use_simplified_jaxpr_constants", False)
    return "custom_call" not in text and not constants_beside


def bears_fast_compilation(text: str) -> bool:
    """Whether no value is compared with another that may be the same number rounded otherwise.

    Compiled fast, a number may be computed twice.

    A comparison with a constant is only as uncertain as rounding makes it anyway.
    """
    if not set(re.findall(r"stablehlo\.(\w+)", text)) <= SMOOTH:
        return False
    return all(_compares_with_constants(function) for function in text.split("func.func"))


def _compares_with_constants(function: str) -> bool:
    constants: set[str] = set()
    for line in function.splitlines():
        made, compared = CONSTANT.search(line), COMPARED.search(line)
        if made and (made[2] is None or made[2] in constants):
            constants.add(made[1])
        elif made:
            constants.discard(made[1])
        if compared and (compared[1] in ("EQ", "NE") or not constants & {compared[2], compared[3]}):
            return False
    return True
