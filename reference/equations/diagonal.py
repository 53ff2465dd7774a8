"""Linear recurrences, each unit by itself."""

from typing import Any

from ..arrays import Named
from .parts import Step, affine, blocks


def lru(xp: Any, params: Named, state: Named, x: Any, **drawn_between: float) -> dict[str, Any]:
    """Orvieto et al. 2023.

    Each (re, im) shrunk by exp(−e^ν), turned by the angle e^θ, and moved by e^γ B x.
    """
    del drawn_between  # radii, which ν has
    shrink, angle = xp.exp(-xp.exp(params["nu"])), xp.exp(params["theta"])
    move_re, move_im = blocks(affine(xp, x, params["W_xh"]), 2)
    gain, re, im = xp.exp(params["gamma"]), state["re"], state["im"]
    return {
        "re": shrink * (re * xp.cos(angle) - im * xp.sin(angle)) + gain * move_re,
        "im": shrink * (re * xp.sin(angle) + im * xp.cos(angle)) + gain * move_im,
    }


STEPS: dict[str, Step] = {"lru": lru}
