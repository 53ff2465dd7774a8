"""Cells with exponential gates, their normaliser and stabiliser."""

from typing import Any

from ..arrays import Named
from .parts import Step, affine, blocks, sigmoid


def slstm(xp: Any, params: Named, state: Named, x: Any) -> dict[str, Any]:
    """Beck et al. 2024, eqs.

    8–17, forget gate σ; the maximum is a select, which at a tie goes by the forget gate.
    """
    gates = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    log_input, to_keep, candidate, to_show = blocks(gates, 4)
    log_kept = state["m"] - xp.logaddexp(xp.zeros_like(to_keep), -to_keep)
    peak = xp.where(log_kept < log_input, log_input, log_kept)
    write, keep = xp.exp(log_input - peak), xp.exp(log_kept - peak)
    cell, normaliser = write * xp.tanh(candidate) + keep * state["c"], write + keep * state["n"]
    return {"h": sigmoid(xp, to_show) * (cell / normaliser), "c": cell, "n": normaliser, "m": peak}


STEPS: dict[str, Step] = {"slstm": slstm}
