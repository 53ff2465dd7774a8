"""Check a hand-derived gradient of a recurrent network against references that share no code with it.

check_cell, check_gradients and check_vjp are the entry points; docs/your-derivation.md explains them. Each name is imported when
it is first asked for: `report.py --help` waits for none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "adapters": ("from_attributes", "from_jax", "from_list", "from_torch", "from_update", "set_attributes"),
    "checks": ("check_cell", "check_gradients", "check_vjp"),
    "engines": ("Unrolled",),
    "errors": ("GradientMismatch", "QuestionError"),
    "verdict": ("Report",),
}


def __getattr__(name: str) -> Any:
    """The public name, from its module."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"comparisons.{module}"), name)
    raise AttributeError(f"module 'comparisons' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
