"""For which problems torch has a module of its own."""

from typing import Any

from ..problems.cases import PROJECTION
from ..problems.problem import AnyProblem, Problem

# cell → the options with which torch has a module of its own; None: with any
TORCH_MODULES: dict[str, tuple[dict[str, Any], ...] | None] = {
    "rnn": ({"activation": "tanh"}, {"activation": "relu"}),
    "irnn": ({},),
    "lstm": ({},),
    "projected-lstm": None,
    "gru": ({"reset": "after"},),
}


def no_torch_module(problem: AnyProblem) -> str | None:
    """Why torch has no module that answers this problem; None where it has one."""
    if not isinstance(problem, Problem) or problem.step is not None:
        return f"torch has no such module as {problem.cell}"
    return _no_such_cell(problem) or _no_such_arrangement(problem) or _tells_too_little(problem)


def _no_such_cell(problem: Problem) -> str | None:
    if problem.cell not in TORCH_MODULES:
        return f"torch has no such module as {problem.cell}"
    options = TORCH_MODULES[problem.cell]
    if options is not None and dict(problem.options) not in options:
        return f"torch has no such module as {problem.cell} with {problem.options}"
    if problem.cell == "projected-lstm" and len(set(problem.state_sizes.values())) == 1:
        return "torch's projection is to fewer units than there are"
    return None


def _no_such_arrangement(problem: Problem) -> str | None:
    if problem.window is not None:
        return "torch's modules know no window"
    if problem.chunk is not None and "lengths" in problem.constants:
        return "torch's packed sequences cannot be empty, as the last chunks of a short row are"
    return None


def _tells_too_little(problem: Problem) -> str | None:
    """Whether the cotangents are on states that a module keeps to itself."""
    if problem.readout != PROJECTION:
        return None
    plain = problem.suffixes == [""] and "lengths" not in problem.constants
    if not plain and problem.of_one_run(problem.state_sizes) != ("h",):
        return (
            "torch's modules tell no cell state within a sequence of several layers, directions or "
            "lengths"
        )
    by_layer = any(name.startswith("dropout_l") for name in problem.constants)
    if problem.layers > 1 and not by_layer:
        return "torch's modules tell the states of the top layer alone"
    return None
