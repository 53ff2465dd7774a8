"""Cells whose gates say how much is kept and how much is written."""

from typing import Any

from ..arrays import Named
from .parts import NONLINEARITIES, Step, affine, blocks, sigmoid


def lstm(xp: Any, params: Named, state: Named, x: Any) -> dict[str, Any]:
    """torch.nn.LSTMCell with one bias.

    Input, forget, cell and output gate stacked in this order.
    """
    gates = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    to_write, to_keep, candidate, to_show = blocks(gates, 4)
    cell = sigmoid(xp, to_keep) * state["c"] + sigmoid(xp, to_write) * xp.tanh(candidate)
    return {"h": sigmoid(xp, to_show) * xp.tanh(cell), "c": cell}


def gru(xp: Any, params: Named, state: Named, x: Any, *, reset: str) -> dict[str, Any]:
    """torch.nn.GRUCell: reset, update and new gate stacked in this order.

    Reset "before" is the paper's form.
    """
    from_x = affine(xp, x, params["W_xh"]) + params["b_x"]
    from_h = affine(xp, state["h"], params["W_hh"]) + params["b_hh"]
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = blocks(from_x, 3), blocks(from_h, 3)
    open_reset, update = sigmoid(xp, reset_x + reset_h), sigmoid(xp, update_x + update_h)
    if reset == "before":
        start = 2 * state["h"].shape[-1]
        new_h = (
            affine(xp, open_reset * state["h"], params["W_hh"][start:, :]) + params["b_hh"][start:]
        )
    else:
        new_h = open_reset * new_h
    new = xp.tanh(new_x + new_h)
    return {"h": update * state["h"] + sigmoid(xp, -update_x - update_h) * new}


def peephole_lstm(xp: Any, params: Named, state: Named, x: Any) -> dict[str, Any]:
    """Gers et al. 2002.

    Input and forget gate look at the old cell, the output gate at the new one.
    """
    old = state["c"]
    gates = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    to_write, to_keep, candidate, to_show = blocks(gates, 4)
    keep, write = (
        sigmoid(xp, to_keep + old * params["p_f"]),
        sigmoid(xp, to_write + old * params["p_i"]),
    )
    cell = keep * old + write * xp.tanh(candidate)
    return {"h": xp.tanh(cell) * sigmoid(xp, to_show + cell * params["p_o"]), "c": cell}


def projected_lstm(
    xp: Any, params: Named, state: Named, x: Any, *, projection_size: int | None = None
) -> dict[str, Any]:
    """torch.nn.LSTM(proj_size): the LSTM on the projected h, its own h projected."""
    del projection_size  # W_hr has it
    inner = lstm(xp, params, state, x)
    return {"h": affine(xp, inner["h"], params["W_hr"]), "c": inner["c"]}


def min_gru(xp: Any, params: Named, state: Named, x: Any, *, activation: str) -> dict[str, Any]:
    """Feng et al. 2024, section 3.1.

    Between the old state and a candidate, update and candidate told by x alone.
    """
    update, candidate = blocks(affine(xp, x, params["W_xh"]) + params["b_h"], 2)
    return {
        "h": sigmoid(xp, -update) * state["h"]
        + sigmoid(xp, update) * NONLINEARITIES[activation](xp, candidate)
    }


def min_lstm(xp: Any, params: Named, state: Named, x: Any, *, activation: str) -> dict[str, Any]:
    """Feng et al. 2024, section 3.2: forget and input gate over their sum."""
    to_keep, to_write, candidate = blocks(affine(xp, x, params["W_xh"]) + params["b_h"], 3)
    keep, write = sigmoid(xp, to_keep), sigmoid(xp, to_write)
    return {
        "h": (keep * state["h"] + write * NONLINEARITIES[activation](xp, candidate))
        / (keep + write)
    }


STEPS: dict[str, Step] = {
    "lstm": lstm,
    "peephole-lstm": peephole_lstm,
    "projected-lstm": projected_lstm,
    "gru": gru,
    "min-gru": min_gru,
    "min-lstm": min_lstm,
}
