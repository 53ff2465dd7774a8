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
    given, weights = (
        {name: value.astype(lowered.dtype, copy=False) for name, value in arrays.items()}
        for arrays in (d_state, params)
    )
    caches = CellCandidate(cell).forward(lowered).tape.caches
    terms = [
        cell.step_backward(weights, cache, {name: value[t + 1] for name, value in given.items()})
        for t, cache in enumerate(caches)
    ]
    shares = {name: _told([term[0][name] for term in terms]) for name in problem.parameter_names}
    shares["x"] = _told([term[1] for term in terms])
    return shares, {name: _told([term[2][name] for term in terms]) for name in d_state}


def _told(arrays: list[Any]) -> Array:
    """Stacked over steps, in float64."""
    return np.stack([np.asarray(array) for array in arrays]).astype(np.float64, copy=False)


def walk(problem: Problem, candidate: CellCandidate) -> Iterator[tuple[str, Array]]:
    """(name, array) of all that the derivation can show along the sequence.

    Names and layout as in comparisons.reporting.dump.

    Of several layers or directions each run stands by itself, in the order of its own steps, with
    its suffix before the name.
    """
    problem = problem.lowered()
    params, network, done = (
        problem.variables,
        candidate.network(problem),
        candidate.forward(problem),
    )
    by_step = network.backward(params, done, by_step=True)
    for layer in network.directions():
        for run in layer:
            prefix, tape = (
                f"{run.suffix.lstrip('_')}/" if run.suffix else "",
                done.tapes[run.suffix],
            )
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
        totals = [
            bptt.within(tape, t, {name: value[t + 1] for name, value in d_state.items()})
            for t in range(tape.steps)
        ]
        yield (
            "delta",
            np.stack(
                [cell.delta(params, tape.caches[t], total)[0] for t, total in enumerate(totals)]
            ),
        )
    yield "d_state", jacobians.flatten_state(d_state)
