"""A derivation walked step by step: the share of every step in every gradient."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...manual import jacobians
from ...manual.cell import Cell, HoistedCell
from ...manual.through_time import bptt
from ..problems.arrays import Array
from ..problems.problem import PRODUCT_TO_END, STATE_JACOBIAN, Problem
from .built_in_cells import CellCandidate


def local_gradients(
    cell: Cell, problem: Problem, d_state: Mapping[str, Array], params: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(share of every step in each parameter and in x, d_state_prev of every step), from
    step_backward given d_state.

    d_state: name → (T+1, B, ·), someone else's total derivatives; each step stands by itself.
    `params` are what step_backward is given; the forward runs on the problem's own.
    """
    lowered = problem.lowered()
    given = _cast(d_state, lowered.dtype)
    weights = _cast(params, lowered.dtype)
    shares: dict[str, list[Any]] = {name: [] for name in (*problem.parameter_names, "x")}
    previous: dict[str, list[Any]] = {name: [] for name in d_state}
    for t, cache in enumerate(CellCandidate(cell).forward(lowered).tape.caches):
        total = _at(given, t + 1)
        d_params, d_x, d_state_prev = cell.step_backward(weights, cache, total)
        for name in problem.parameter_names:
            shares[name].append(d_params[name])
        shares["x"].append(d_x)
        for name, steps in previous.items():
            steps.append(d_state_prev[name])
    return _over_steps(shares), _over_steps(previous)


def _cast(arrays: Mapping[str, Array], dtype: np.dtype[Any]) -> dict[str, Array]:
    return {name: value.astype(dtype, copy=False) for name, value in arrays.items()}


def _at(arrays: Mapping[str, Array], index: int) -> dict[str, Array]:
    """Each array at this index of its first axis."""
    return {name: value[index] for name, value in arrays.items()}


def _over_steps(terms: Mapping[str, list[Any]]) -> dict[str, Array]:
    """Stacked over steps, in float64."""
    stacked: dict[str, Array] = {}
    for name, arrays in terms.items():
        stacked[name] = np.stack(arrays).astype(np.float64, copy=False)
    return stacked


def walk(problem: Problem, candidate: CellCandidate) -> Iterator[tuple[str, Array]]:
    """(name, array) of all that the derivation can show along the sequence.

    Names and layout as in comparisons.reporting.dump.

    Of several layers or directions each run stands by itself, in the order of its own steps, with
    its suffix before the name.
    """
    problem = problem.lowered()
    params = problem.variables
    network = candidate.network(problem)
    done = candidate.forward(problem)
    by_step = network.backward(params, done, by_step=True)
    for layer in network.directions():
        for run in layer:
            prefix = f"{run.suffix.lstrip('_')}/" if run.suffix else ""
            tape = done.tapes[run.suffix]
            d_state = {name: run.in_time(by_step[f"{name}{run.suffix}_0"]) for name in tape.states}
            for name, array in _walk_run(candidate.cell, run.own(params), tape, d_state):
                yield prefix + name, array
    if len(done.tapes) == 1 and network.window is None and network.chunk is None:
        norms = jacobians.contribution_norms(
            candidate.cell, params, done.tape, done.reading.cotangents
        )
        yield from ((f"contribution_norm/{name}", value) for name, value in norms.items())
    for name, gradient in network.backward(params, done).items():
        yield f"gradient/{name}", gradient


def _walk_run(
    cell: Cell, params: Mapping[str, Array], tape: bptt.Tape, d_state: dict[str, Array]
) -> Iterator[tuple[str, Array]]:
    local = jacobians.state_jacobians(cell, params, tape)
    products = jacobians.products_to_end(local)
    yield STATE_JACOBIAN, local
    yield PRODUCT_TO_END, products
    yield "singular_values", jacobians.singular_values(products)
    yield "product_norm", jacobians.product_norms(local)
    yield "growth_rates", jacobians.growth_rates(local)
    if isinstance(cell, HoistedCell):
        deltas: list[Array] = []
        for t, cache in enumerate(tape.caches):
            total = bptt.within(tape, t, _at(d_state, t + 1))
            deltas.append(cell.delta(params, cache, total)[0])
        yield "delta", np.stack(deltas)
    yield "d_state", jacobians.flatten_state(d_state)
