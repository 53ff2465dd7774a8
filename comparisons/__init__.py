"""Check a hand-derived gradient of a recurrent network against references that share no code with it.

check_cell, check_gradients and check_vjp are the entry points; docs/your-derivation.md explains them.
"""

from comparisons.adapters import from_attributes, from_jax, from_list, from_torch, from_update, set_attributes
from comparisons.checks import check_cell, check_gradients, check_vjp
from comparisons.engines import Unrolled
from comparisons.errors import GradientMismatch, QuestionError
from comparisons.verdict import Report

__all__ = [
    "GradientMismatch",
    "QuestionError",
    "Report",
    "Unrolled",
    "check_cell",
    "check_gradients",
    "check_vjp",
    "from_attributes",
    "from_jax",
    "from_list",
    "from_torch",
    "from_update",
    "set_attributes",
]
