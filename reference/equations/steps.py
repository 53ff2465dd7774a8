"""Every step by its name; each family has its own."""

from functools import partial

from ..arrays import Named
from . import diagonal, elman, exponential, gated
from .parts import Step

STEPS: dict[str, Step] = {**elman.STEPS, **gated.STEPS, **diagonal.STEPS, **exponential.STEPS}


def bound_step(name: str, options: Named) -> Step:
    """The step of STEPS called `name`, its options filled in."""
    return partial(STEPS[name], **options)
