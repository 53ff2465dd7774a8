"""Reverse mode by jax: `jax.grad` through `lax.scan`, compiled, in the arrays' own precision.

64-bit mode, and the device where another than the CPU is chosen, are entered by context managers
around each call; the caller's jax configuration is never changed. Functions are traced once an
object, and compiled once a program (reference.by_jax.jax_programs): a second problem of the same
equations and shapes does neither again, another object that computes the same is not compiled
again.
"""

from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as xp
import numpy as np

from .. import devices
from ..arrays import Array, Arrays, Named
from ..equations.parts import ScalarFunction, Step
from ..equations.unrolling import SequenceLoss
from . import jax_programs, jax_traces

# A check runs each compiled function a few times only: XLA's optimisations cost far more than they
# ever save here. But at level 0 an intermediate value may be computed twice, and differ in its last
# bit: x == max(x) can then be false everywhere. Equations that are known to ask no such thing are
# compiled this way; code from outside where its program shows that it does not
# (reference.by_jax.jax_programs.bears_fast_compilation), else as jax does it by default.
COMPILER_OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def why_not_on(device: str) -> str | None:
    """Why jax cannot compute there, or None."""
    try:
        _device(device)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def _device(name: str) -> Any:
    """jax's device of torch's name: "cuda:1" is the second of the platform cuda.

    Raises RuntimeError where there is none.
    """
    platform, _, number = name.partition(":")
    found = jax.devices(platform)
    if int(number or 0) >= len(found):
        raise RuntimeError(f"there are {len(found)} of {platform}")
    return found[int(number or 0)]


@contextmanager
def in_double() -> Generator[None]:
    """64-bit mode, on the chosen device."""
    place = (
        nullcontext()
        if devices.chosen() == "cpu"
        else jax.default_device(_device(devices.chosen()))
    )
    with jax.enable_x64(True), place:
        yield


@lru_cache(maxsize=1)
def compiler_options() -> dict[str, Any]:
    """Those of COMPILER_OPTIONS that the installed XLA knows.

    The names belong to it, and come and go with its versions.
    """
    if _are_known(COMPILER_OPTIONS):
        return COMPILER_OPTIONS
    return {name: value for name, value in COMPILER_OPTIONS.items() if _are_known({name: value})}


def _are_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=options)(0.0)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


def scan(body: Any, state: Named, per_step: Named) -> dict[str, Any]:
    """The time loop: lax.scan of `body`; states stacked over steps."""

    def carry_and_keep(state: Any, at_step: Any) -> tuple[Any, Any]:
        new = body(state, at_step)
        return new, new

    return jax.lax.scan(carry_and_keep, dict(state), dict(per_step))[1]


@dataclass(frozen=True)
class _Shaped:
    """The arguments of a function, equal to others of the same names, shapes, dtypes and place."""

    shapes: tuple[tuple[str, tuple[int, ...], str], ...]
    place: Hashable
    arguments: tuple[dict[str, Any], ...] = field(compare=False, repr=False)


def _shaped(*arguments: Named) -> _Shaped:
    named = [item for each in arguments for item in each.items()]
    shapes = tuple((name, value.shape, str(value.dtype)) for name, value in named)
    like = [
        {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in each.items()}
        for each in arguments
    ]
    return _Shaped(shapes, jax_programs.place(), tuple(like))


@lru_cache(maxsize=256)
def _value_and_gradient(
    function: ScalarFunction, shaped: _Shaped, compile_fast: bool
) -> jax_programs.Compiled:
    def forward(variables: Any, constants: Any) -> Any:
        return function(xp, scan, variables, constants)

    variables, constants = shaped.arguments
    told: Hashable = None
    if isinstance(function, SequenceLoss) and not compile_fast:
        function, traced = jax_traces.traced(function, {**constants, **variables})
        told = None if traced is None else (traced, shaped.shapes, len(variables))
    differentiated = jax.value_and_grad(forward, has_aux=True)
    return jax_programs.executable(
        differentiated, shaped.arguments, compiler_options(), compile_fast, told
    )


def gradients_uncompiled(
    function: ScalarFunction, variables: Named, constants: Named
) -> tuple[float, Arrays, Arrays]:
    """The same as `gradients`, operation by operation.

    For functions with loops and branches of their own, asked once.
    """
    with in_double():

        def forward(leaves: Any) -> Any:
            return function(
                xp, scan, leaves, {name: xp.asarray(value) for name, value in constants.items()}
            )

        leaves = {name: xp.asarray(value) for name, value in variables.items()}
        (value, outputs), found = jax.value_and_grad(forward, has_aux=True)(leaves)
        return float(value), _arrays(outputs), _arrays(found)


def gradients(
    function: ScalarFunction, variables: Named, constants: Named, compile_fast: bool = False
) -> tuple[float, Arrays, Arrays]:
    """(value, outputs, gradient for every variable) of function(xp, scan, variables, constants).

    `compile_fast`: compiled with COMPILER_OPTIONS, for functions that are known to bear it.
    """
    with in_double():
        arguments = dict(variables), dict(constants)
        (value, outputs), found = _value_and_gradient(
            function, _shaped(*arguments), compile_fast
        ).result()(*arguments)
        return float(value), _arrays(outputs), _arrays(found)


def begin(
    function: ScalarFunction, variables: Named, constants: Named, compile_fast: bool = False
) -> None:
    """The compilation, which takes `gradients` longest, begun on another thread."""
    with in_double():
        _value_and_gradient(function, _shaped(dict(variables), dict(constants)), compile_fast)


def _arrays(named: Named) -> Arrays:
    return {name: np.asarray(value) for name, value in named.items()}


@lru_cache(maxsize=256)
def _jacobians(
    step: Step, state_sizes: tuple[tuple[str, int], ...], compile_fast: bool
) -> Callable[..., Any]:
    names = [name for name, _ in state_sizes]
    cuts = list(np.cumsum([size for _, size in state_sizes])[:-1])

    def one_step(s: Any, x_t: Any, params: Any) -> Any:
        parts = dict(zip(names, xp.split(s[None], cuts, axis=-1), strict=True))
        new = step(xp, params, parts, x_t[None])
        return xp.concatenate([new[name] for name in names], axis=-1)[0]

    def last_state(offsets: Any, s: Any, xs: Any, params: Any) -> Any:
        return jax.lax.scan(
            lambda s, at: (one_step(s + at[0], at[1], params), None), s, (offsets, xs)
        )[0]

    def along_one_row(s: Any, xs: Any, params: Any) -> tuple[Any, Any]:
        _, before = jax.lax.scan(lambda s, x_t: (one_step(s, x_t, params), s), s, xs)
        local = jax.vmap(jax.jacrev(one_step), in_axes=(0, 0, None))(before, xs, params)
        unrolled = jax.jacrev(last_state)(xp.zeros_like(before), s, xs, params)
        return local, xp.swapaxes(unrolled, 0, 1)

    every_row = jax.vmap(along_one_row, in_axes=(0, 1, None), out_axes=1)
    return jax.jit(every_row, compiler_options=compiler_options() if compile_fast else None)


def jacobians(
    step: Step,
    params: Named,
    state_sizes: Mapping[str, int],
    initial: Array,
    x: Array,
    compile_fast: bool = False,
) -> Arrays:
    """∂s_t/∂s_{t−1} and ∂s_T/∂s_k, k = 0..T−1, both (T, B, S, S).

    Their names are "state_jacobian" and "jacobian_product_to_end".

    jacrev of one step along the trajectory, and jacrev of the unrolled map with respect to an
    offset at every earlier state; `compile_fast` as in `gradients`.
    """
    with in_double():
        local, unrolled = _jacobians(step, tuple(state_sizes.items()), compile_fast)(
            initial, x, dict(params)
        )
        return {
            "state_jacobian": np.asarray(local),
            "jacobian_product_to_end": np.asarray(unrolled),
        }
