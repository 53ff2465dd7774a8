"""Compiled jax functions that are kept by what they compute, not by which Python object asked for it.

A cell's step is another object at every check, and what it computes hangs on more than its code: on attributes, on globals, on
what it calls. So a function is traced anew for every object, which costs a tenth of a second, and the lowered program is the
key: its whole text, constants included. Only the compilation, by far the longest part, is shared.
"""

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax

# Operations whose result moves by rounding where their arguments do. Others choose: a maximum, a sign, a sort, an integer.
SMOOTH = frozenset(
    "abs add broadcast_in_dim compare concatenate constant divide dot_general dynamic_slice dynamic_update_slice exponential "
    "exponential_minus_one gather iota log log_plus_one logistic multiply negate pad power reduce reshape return rsqrt scatter "
    "select slice sqrt subtract tanh transpose while".split()
)
CONSTANT = re.compile(r"(%\S+) = stablehlo\.(?:constant|broadcast_in_dim (%[^,\s]+))")
COMPARED = re.compile(r"stablehlo\.compare\s+(\w+), (%[^,\s]+), (%[^,\s]+),\s+FLOAT")


@dataclass(frozen=True)
class Program:
    """A lowered program; equal to another where the text, the trees of arguments and results, options and device are."""

    text: str
    trees: Hashable
    options: tuple[tuple[str, Any], ...]
    place: Hashable
    lowered: Any = field(compare=False, repr=False)

    def compile(self) -> Callable[..., Any]:
        """The executable."""
        return self.lowered.compile(compiler_options=dict(self.options) or None)


@lru_cache(maxsize=256)
def _kept(program: Program) -> Callable[..., Any]:
    return program.compile()


def executable(
    function: Callable[..., Any], arguments: tuple[Any, ...], haste: dict[str, Any], hastily: bool
) -> Callable[..., Any]:
    """The function compiled for arguments of these shapes; with the options of `haste` if asked for, or if it bears them."""
    lowered = jax.jit(function, keep_unused=True).lower(*arguments)  # an argument left out would be missing from the text
    text = lowered.as_text()
    options = tuple(haste.items()) if hastily or bears_haste(text) else ()
    program = Program(text, (lowered.in_tree, lowered.out_tree), options, place(), lowered)
    return _kept(program) if is_complete(text) else program.compile()


def place() -> Hashable:
    """Where jax computes by default."""
    return jax.default_backend(), str(getattr(jax.config, "jax_default_device", None))


def is_complete(text: str) -> bool:
    """Whether the text is all that there is: no call back into Python, and no constants that are handed over beside it."""
    return "custom_call" not in text and not getattr(jax.config, "jax_use_simplified_jaxpr_constants", False)


def bears_haste(text: str) -> bool:
    """Whether no value is compared with another that may be the same number computed twice, rounded otherwise.

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
