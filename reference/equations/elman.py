"""h ← φ(W x + U h + b), and what is built on it."""

from functools import partial
from typing import Any

from ..arrays import Named
from .parts import NONLINEARITIES, Step, affine


def rnn(xp: Any, params: Named, state: Named, x: Any, *, activation: str) -> dict[str, Any]:
    """h ← φ(x W_xhᵀ + h W_hhᵀ + b_h)."""
    net = affine(xp, x, params["W_xh"]) + affine(xp, state["h"], params["W_hh"]) + params["b_h"]
    return {"h": NONLINEARITIES[activation](xp, net)}


def residual(
    xp: Any, params: Named, state: Named, x: Any, *, alpha: float, activation: str
) -> dict[str, Any]:
    """The old state plus α times what an RNN would make of it."""
    return {"h": state["h"] + alpha * rnn(xp, params, state, x, activation=activation)["h"]}


STEPS: dict[str, Step] = {
    "rnn": rnn,
    "irnn": partial(rnn, activation="relu"),
    "residual": residual,
}
