"""Check hand-derived gradients of recurrent networks against references that share no code.

check_cell, check_gradients and check_vjp are the entry points; docs/your-derivation.md explains
them. This folder is the package `bptt_crosscheck`: manual/, reference/ and comparisons/ are its
parts, `bptt_crosscheck.manual` and so on. Each public name is imported when it is first asked for:
`bptt-crosscheck --help` waits for none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparisons.candidates.adapters import (
        from_attributes,
        from_jax,
        from_list,
        from_torch,
        from_update,
        set_attributes,
    )
    from .comparisons.checking.entry_points import check_cell, check_gradients, check_vjp
    from .comparisons.checking.report_data import Report
    from .comparisons.errors import GradientMismatch, QuestionError
    from .reference.unrolled import Unrolled

__version__ = "0.2.0"

__all__ = [
    "GradientMismatch",
    "QuestionError",
    "Report",
    "Unrolled",
    "__version__",
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

_ADAPTERS = ".comparisons.candidates.adapters"
_ENTRY_POINTS = ".comparisons.checking.entry_points"
_ERRORS = ".comparisons.errors"

_MODULES = {
    "GradientMismatch": _ERRORS,
    "QuestionError": _ERRORS,
    "Report": ".comparisons.checking.report_data",
    "Unrolled": ".reference.unrolled",
    "check_cell": _ENTRY_POINTS,
    "check_gradients": _ENTRY_POINTS,
    "check_vjp": _ENTRY_POINTS,
    "from_attributes": _ADAPTERS,
    "from_jax": _ADAPTERS,
    "from_list": _ADAPTERS,
    "from_torch": _ADAPTERS,
    "from_update": _ADAPTERS,
    "set_attributes": _ADAPTERS,
}


def __getattr__(name: str) -> Any:
    """The public name, from its module."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
