"""Mistakes of expression: a cell, the time loop or the network with one expression of its source
changed.

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
from .mutate_loop import with_network
from .subject import Mutations, Subject


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
    source.must_have(dir(Network), methods, Network.__qualname__)
    return tuple(
        (name, each)
        for name in methods
        for each in source.function_variations(getattr(Network, name), ())
    )


@lru_cache(maxsize=4)
def _linear_variations() -> tuple[source.Variation, ...]:
    return tuple(source.function_variations(linear.linear_backward, ()))


# What the sequence forms call for their way back, by the module of `manual.cells`.
CALLED_BACK: dict[str, tuple[str, ...]] = {
    "rnn": ("joined_backward",),
    "lstm": ("_slopes", "_deltas", "_o_last", "joined_backward"),
    "gru": ("_slopes", "_complements", "_deltas_after", "_deltas_before", "weight_gradient"),
}


@lru_cache(maxsize=16)
def _sequence_variations(kind_of_cell: Any) -> tuple[tuple[str, source.Variation], ...]:
    """Those of the sequence form's way back: of the method, and of the functions that it calls.

    Raises NothingToMutate where a function is not there, or nothing is declared for the cell.
    """
    method = kind_of_cell.sequence_backward
    module = str(method.__module__).rpartition(".")[2]
    source.must_have(CALLED_BACK, [module], "CALLED_BACK, what sequence forms call back,")
    names = CALLED_BACK[module]
    source.must_have(method.__globals__, names, method.__module__)
    functions = {"sequence_backward": method}
    functions |= {name: method.__globals__[name] for name in names}
    found: list[tuple[str, source.Variation]] = []
    for name, function in functions.items():
        found += [(name, each) for each in source.function_variations(function, ())]
    return tuple(found)


def _sequence(subject: Subject, kind: str) -> Mutations:
    if has_sequence_form(subject.cell) and "lengths" not in subject.problem.constants:
        for name, each in _sequence_variations(type(subject.cell)):
            if each.kind == kind and each.stands_in(subject.executed):
                yield each.what, partial(_with_sequence, subject, name, each)


def _with_sequence(subject: Subject, name: str, variation: source.Variation) -> Answer:
    method = cast(Any, type(subject.cell)).sequence_backward
    function = method if name == method.__name__ else method.__globals__[name]
    changed = variation.compiled(name, {**function.__globals__, "np": UNFILLED})
    if function is method:
        return subject.with_cell(altered(subject.cell, sequence_backward=changed))()
    twice = with_globals(subject.cell, "sequence_backward", **{name: changed})
    return subject.with_cell(with_globals(twice, "sequence", **{name: changed}))()


def _nan(shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    return np.full(shape, np.nan, dtype)


def _nan_like(like: Array) -> Array:
    return _nan(like.shape, like.dtype)


# NumPy for a mutant: memory that it never writes holds NaN, and not by chance what the right code
# left there.
UNFILLED = types.SimpleNamespace(**vars(np) | {"empty": _nan, "empty_like": _nan_like})


def of_source(kind: str) -> Callable[[Subject], Mutations]:
    """Every change of this kind in the cell's delta, accumulate, step_jacobian and sequence form,
    in the loop and the network.
    """

    def mutate(subject: Subject) -> Mutations:
        kind_of_cell = cast(Any, type(subject.cell))
        tape = next(iter(subject.candidate.forward(subject.problem).tapes.values()))
        names = tuple(name for name, value in tape.caches[0].items() if value.dtype.kind == "f")
        for method in (
            "delta",
            "accumulate",
            *(("step_jacobian",) if subject.problem.jacobians else ()),
        ):
            function = getattr(kind_of_cell, method)
            for each in _of_kind(subject, _cell_variations(kind_of_cell, method, names), kind):
                yield each.what, partial(_with_method, subject, method, each, function.__globals__)
        for each in _of_kind(subject, _linear_variations(), kind):
            yield each.what, partial(_with_linear, subject, each)
        yield from _sequence(subject, kind)
        if kind != source.WRONG_VARIABLE:
            yield from _loop(subject, kind)
            yield from _network(subject, kind)

    return mutate


def _of_kind(
    subject: Subject, variations: tuple[source.Variation, ...], kind: str
) -> list[source.Variation]:
    return [each for each in variations if each.kind == kind and each.stands_in(subject.executed)]


def _with_method(
    subject: Subject, method: str, variation: source.Variation, namespace: dict[str, Any]
) -> Answer:
    return subject.with_cell(
        altered(subject.cell, **{method: variation.compiled(method, namespace)})
    )()


def _with_linear(subject: Subject, variation: source.Variation) -> Answer:
    changed = variation.compiled("linear_backward", dict(vars(linear)))
    return subject.with_cell(with_globals(subject.cell, "accumulate", linear_backward=changed))()


def _loop(subject: Subject, kind: str) -> Mutations:
    for each in _of_kind(subject, _loop_variations(), kind):
        yield each.what, partial(_with_loop, subject, each)


def _with_loop(subject: Subject, variation: source.Variation) -> Answer:
    module = types.SimpleNamespace(**variation.executed(_identity_of(bptt)))
    sweep = _rebound(Network._sweep, bptt=module)  # pyright: ignore[reportPrivateUsage]
    return with_network(subject, partial(_with_methods, _sweep=sweep))()


def _identity_of(module: types.ModuleType) -> dict[str, Any]:
    """What a module's source needs to find its neighbours."""
    return {"__name__": module.__name__, "__package__": module.__package__}


def _network(subject: Subject, kind: str) -> Mutations:
    for name, each in _network_variations():
        if each.kind == kind and each.stands_in(subject.executed):
            yield each.what, partial(_with_network, subject, name, each)


def _with_network(subject: Subject, name: str, variation: source.Variation) -> Answer:
    changed = variation.compiled(name, dict(vars(network)))
    return with_network(subject, partial(_with_methods, **{name: changed}))()


def _with_methods(net: Network, **methods: Any) -> Network:
    return altered(net, **methods)


def _rebound(function: Any, **names: Any) -> Any:
    source.must_have(function.__globals__, names, function.__module__)
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
    )
