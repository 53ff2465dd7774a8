"""What a report must say to be repeated."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from .case_report import CaseReport
from .report_data import Report

PACKAGES = ("numpy", "torch", "jax", "scipy", "array-api-compat")


def environment(seed: int, dtype: str) -> dict[str, Any]:
    """What a report must say to be repeated: versions (null where not installed), seed, dtype."""
    versions: dict[str, Any] = {name: _version(name) for name in PACKAGES}
    return versions | {"python": platform.python_version(), "seed": seed, "dtype": dtype}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def report_of(cases: list[CaseReport], seed: int, dtype: str, notes: Sequence[str] = ()) -> Report:
    """The Report of these cases."""
    return Report(environment(seed, dtype), cases, notes=list(notes))
