"""What a step is when jax has traced it.

Plain data, so that two steps can be told apart without lowering a whole program.

A cell's step is another object at every check, and only tracing it tells what it computes. The
trace of one step takes a twentieth of the time of the whole sequence's, and the sequence is then
made of the trace, not of the step: what is compared is what is compiled.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import jax
import jax.numpy as xp
import numpy as np
from jax.extend import core

from ..arrays import Named
from ..equations.unrolling import ONE_RUN, SequenceLoss

# Operations that are wholly told by their name and parameters. Others carry Python functions, or
# act on something.
PLAIN = frozenset(
    "abs add add_any and broadcast_in_dim ceil clamp concatenate convert_element_type copy cos "
    "cosh cumsum div dot_general dynamic_slice eq erf exp exp2 expand_dims expm1 floor gather "
    "ge gt integer_pow iota jit le log log1p logistic lt max min mul ne neg not or pad pjit pow "
    "reduce_max reduce_min reduce_sum reshape rsqrt select_n sign sin sinh slice split sqrt "
    "square squeeze stop_gradient sub tan tanh transpose".split()
)


class NotPlain(Exception):
    """Something in a trace that is more than numbers and names."""


@dataclass(frozen=True)
class Traced:
    """A step as its trace; `told` is equal where, and only where, the same is computed."""

    step: Callable[..., Any]
    told: Hashable


def traced(function: SequenceLoss, named: Named) -> tuple[SequenceLoss, Hashable]:
    """(the function on the trace of its step, all that tells what it computes).

    The arrays it computes from have given shapes.

    The function itself and None where a trace cannot tell, or there is more than one layer and
    direction.
    """
    if function.arrangement != ONE_RUN or "lengths" in named:
        return function, None
    params = {name: named[name] for name in function.parameter_names}
    state = {name: named[f"{name}_0"] for name in function.state_names}
    x = jax.ShapeDtypeStruct(named["x"].shape[1:], named["x"].dtype)
    try:
        step = _trace(function.step, params, state, x)
    except Exception:  # whatever is wrong with the step is told where the whole function is traced
        return function, None
    return replace(function, step=step.step), (replace(function, step=_nothing), step.told)


def _nothing() -> None:
    """Stands where a step stood."""


def _trace(step: Callable[..., Any], *arguments: Any) -> Traced:
    closed, like = jax.make_jaxpr(lambda *given: step(xp, *given), return_shape=True)(*arguments)
    tree = jax.tree.structure(like)
    run = core.jaxpr_as_fun(closed)

    def again(_xp: Any, *given: Any) -> Any:
        return jax.tree.unflatten(tree, run(*jax.tree.leaves(given)))

    settings = tuple(sorted((name, repr(value)) for name, value in jax.config.values.items()))
    return Traced(again, (_closed(closed), tree, settings))


def _closed(closed: Any) -> Hashable:
    return _jaxpr(closed.jaxpr), tuple(_number(value) for value in closed.consts)


def _jaxpr(jaxpr: Any) -> Hashable:
    """Every operation with the numbers of its arguments, in the order in which they are made."""
    if jaxpr.effects:
        raise NotPlain("effects")
    numbers: dict[Any, int] = {}

    def made(variables: Any) -> Hashable:
        for variable in variables:
            numbers[variable] = len(numbers)
        return tuple(_kind(variable.aval) for variable in variables)

    def read(atom: Any) -> Hashable:
        return (
            (_number(atom.val), _kind(atom.aval))
            if isinstance(atom, core.Literal)
            else numbers[atom]
        )

    given = made((*jaxpr.constvars, *jaxpr.invars))
    operations: list[Hashable] = []
    for equation in jaxpr.eqns:
        if equation.primitive.name not in PLAIN:
            raise NotPlain(equation.primitive.name)
        arguments = tuple(read(atom) for atom in equation.invars)
        operations.append(
            (equation.primitive, arguments, _plain(equation.params), made(equation.outvars))
        )
    return (
        len(jaxpr.constvars),
        given,
        tuple(operations),
        tuple(read(atom) for atom in jaxpr.outvars),
    )


def _kind(aval: Any) -> Hashable:
    return tuple(aval.shape), aval.dtype.name, aval.weak_type, str(aval)


def _number(value: Any) -> Hashable:
    array = np.asarray(value)
    return array.dtype.name, array.shape, array.tobytes(), type(value)


def _plain(value: Any) -> Hashable:
    """A parameter of an operation, equal to another of the same meaning only."""
    if isinstance(value, core.ClosedJaxpr):
        return "closed", _closed(value)
    if isinstance(value, core.Jaxpr):
        return "jaxpr", _jaxpr(value)
    if isinstance(value, Mapping):
        return "mapping", tuple((str(name), _plain(each)) for name, each in sorted(value.items()))
    if isinstance(value, tuple | list):
        return type(value), tuple(_plain(each) for each in value)
    if value is None or isinstance(value, bool | int | str | bytes | Enum | np.dtype | type):
        return type(value), value
    if isinstance(value, float | complex | np.generic):
        return _number(value)
    own = type(value).__module__.startswith("jax") and not callable(value)  # of a sharding, say
    if isinstance(value, jax.sharding.Mesh) or own:
        return type(value), value
    raise NotPlain(type(value).__name__)
