"""Mistakes of expression.

A cell, the time loop or the network with one expression of its source changed.

Nothing of `manual/` is touched: the changed code is compiled beside it (comparisons.trial.syntax).
"""

import types
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np

from ...manual import linear
from ...manual.cell import has_sequence_form
from ...manual.through_time import bptt, network
from ...manual.through_time.network import Network
from ..problems.answer import Answer
from ..problems.arrays import Array
from . import syntax as source
from .mutate_cell import altered, with_globals
from .mutate_loop import rewired
from .subject import Plants, Soil


@lru_cache(maxsize=64)
def _cell_variations(
    kind_of_cell: type, method: str, names: tuple[str, ...]
) -> tuple[source.Variation, ...]:
    return tuple(source.function_variations(getattr(kind_of_cell, method), names))


@lru_cache(maxsize=4)
def _loop_variations() -> tuple[source.Variation, ...]:
    functions = (
        "_walk",
        "past",
        "within",
        "walk_deltas",
        "backward",
        "shares",
        "_stacked",
        "added_up",
    )
    return tuple(source.module_variations(bptt, functions))


@lru_cache(maxsize=4)
def _network_variations() -> tuple[tuple[str, source.Variation], ...]:
    methods = ("backward", "_apart")
    return tuple(
        (name, each)
        for name in methods
        for each in source.function_variations(getattr(Network, name), ())
    )


@lru_cache(maxsize=4)
def _linear_variations() -> tuple[source.Variation, ...]:
    return tuple(source.function_variations(linear.linear_backward, ()))


# what sequence forms call for their way back
DELTAS = ("_deltas", "_deltas_after", "_deltas_before")
BACKWARDS = ("_slopes", "_complements", *DELTAS, "_o_last", "joined_backward", "weight_gradient")


@lru_cache(maxsize=16)
def _sequence_variations(kind_of_cell: Any) -> tuple[tuple[str, source.Variation], ...]:
    """Those of the sequence form's way back.

    Of the method, and of the functions that it or the forward calls.
    """
    method = kind_of_cell.sequence_backward
    functions = {name: method.__globals__[name] for name in BACKWARDS if name in method.__globals__}
    return tuple(
        (name, each)
        for name, function in {"sequence_backward": method, **functions}.items()
        for each in source.function_variations(function, ())
    )


def _sequence(soil: Soil, kind: str) -> Plants:
    if has_sequence_form(soil.cell) and "lengths" not in soil.problem.constants:
        for name, each in _sequence_variations(type(soil.cell)):
            if each.kind == kind and each.stands_in(soil.executed):
                yield each.what, partial(_with_sequence, soil, name, each)


def _with_sequence(soil: Soil, name: str, variation: source.Variation) -> Answer:
    method = cast(Any, type(soil.cell)).sequence_backward
    function = method if name == method.__name__ else method.__globals__[name]
    changed = variation.compiled(name, {**function.__globals__, "np": UNFILLED})
    if function is method:
        return soil.with_cell(altered(soil.cell, sequence_backward=changed))()
    twice = with_globals(soil.cell, "sequence_backward", **{name: changed})
    return soil.with_cell(with_globals(twice, "sequence", **{name: changed}))()


def _nan(shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    return np.full(shape, np.nan, dtype)


def _nan_like(like: Array) -> Array:
    return _nan(like.shape, like.dtype)


# NumPy for a mutant: memory that it never writes holds NaN, and not by chance what the right code
# left there.
UNFILLED = types.SimpleNamespace(**vars(np) | {"empty": _nan, "empty_like": _nan_like})


def of_source(kind: str) -> Callable[[Soil], Plants]:
    """Every change of this kind in the cell's delta, accumulate, step_jacobian and sequence form,
    in the loop and the network.
    """

    def plant(soil: Soil) -> Plants:
        kind_of_cell = cast(Any, type(soil.cell))
        tape = next(iter(soil.candidate.forward(soil.problem).tapes.values()))
        names = tuple(name for name, value in tape.caches[0].items() if value.dtype.kind == "f")
        for method in (
            "delta",
            "accumulate",
            *(("step_jacobian",) if soil.problem.jacobians else ()),
        ):
            function = getattr(kind_of_cell, method)
            for each in _of_kind(soil, _cell_variations(kind_of_cell, method, names), kind):
                yield each.what, partial(_with_method, soil, method, each, function.__globals__)
        for each in _of_kind(soil, _linear_variations(), kind):
            yield each.what, partial(_with_linear, soil, each)
        yield from _sequence(soil, kind)
        if kind != source.WRONG_VARIABLE:
            yield from _loop(soil, kind)
            yield from _network(soil, kind)

    return plant


def _of_kind(
    soil: Soil, variations: tuple[source.Variation, ...], kind: str
) -> list[source.Variation]:
    return [each for each in variations if each.kind == kind and each.stands_in(soil.executed)]


def _with_method(
    soil: Soil, method: str, variation: source.Variation, namespace: dict[str, Any]
) -> Answer:
    return soil.with_cell(altered(soil.cell, **{method: variation.compiled(method, namespace)}))()


def _with_linear(soil: Soil, variation: source.Variation) -> Answer:
    changed = variation.compiled("linear_backward", dict(vars(linear)))
    return soil.with_cell(with_globals(soil.cell, "accumulate", linear_backward=changed))()


def _loop(soil: Soil, kind: str) -> Plants:
    for each in _of_kind(soil, _loop_variations(), kind):
        yield each.what, partial(_with_loop, soil, each)


def _with_loop(soil: Soil, variation: source.Variation) -> Answer:
    module = types.SimpleNamespace(**variation.executed({"__name__": bptt.__name__}))
    sweep = _rebound(Network._sweep, bptt=module)  # pyright: ignore[reportPrivateUsage]
    return rewired(soil, partial(_with_methods, _sweep=sweep))()


def _network(soil: Soil, kind: str) -> Plants:
    for name, each in _network_variations():
        if each.kind == kind and each.stands_in(soil.executed):
            yield each.what, partial(_with_network, soil, name, each)


def _with_network(soil: Soil, name: str, variation: source.Variation) -> Answer:
    changed = variation.compiled(name, dict(vars(network)))
    return rewired(soil, partial(_with_methods, **{name: changed}))()


def _with_methods(net: Network, **methods: Any) -> Network:
    return altered(net, **methods)


def _rebound(function: Any, **names: Any) -> Any:
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
    )
