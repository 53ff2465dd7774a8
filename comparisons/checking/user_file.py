"""A Python file with somebody's derivation: find in it what can be checked, and check it.

    a cell                       a class with step and step_backward (made by calling it without
                                 arguments), or such an object
    loss, gradients, example     example() -> (params, inputs)
    function, vjp, example       likewise, without a loss

Beside these the file may define `convention`, a dict, `setup`, a function, and `layout`, letters
or a dict. The file runs in this process, with the rights of whoever started it.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from .. import user_code
from ..candidates.user_cell import tuple_of
from ..errors import BadContract, BadFile
from ..problems.convention import convention_of
from .entry_points import check_cell, check_gradients, check_vjp
from .report_data import Report

Check: TypeAlias = Callable[..., Report]
Pending: TypeAlias = Callable[[], Report]  # a check that is still to be made
OPTIONAL = ("convention", "setup")
FUNCTIONS = (("loss", "gradients", check_gradients), ("function", "vjp", check_vjp))


def checks_in(target: str, sizes: dict[str, int], options: dict[str, Any]) -> list[Pending]:
    """The checks for 'file.py' or 'file.py:Name'; sizes are for cells, options (seed, references)
    for all.

    Raises BadFile for a file that cannot be run or holds nothing to check, CandidateFailed for one
    that fails while it runs.
    """
    path, name = _split(target)
    module = _run(path)
    if name is not None:
        return [_check_of_name(module, name, path, {**sizes, **options})]
    found: list[Pending] = []
    for forward, backward, check in FUNCTIONS:
        if _has(module, forward, backward):
            found.append(_check_of_functions(module, options, forward, backward, check))
    for value in vars(module).values():
        own = getattr(value, "__module__", None) == module.__name__
        if own and _is_cell(value):
            found.append(_check_of_cell(value, {**sizes, **options}))
    if not found:
        raise BadFile(
            f"{path} holds nothing to check: no class with step and step_backward, and neither "
            "loss, gradients and example() "
            "nor function, vjp and example()"
        )
    return found


def _split(target: str) -> tuple[Path, str | None]:
    path, _, name = target.rpartition(":")
    return (Path(path), name) if path.endswith(".py") else (Path(target), None)


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadFile(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"derivation_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadFile(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    with _beside(path.parent):
        user_code.call(str(path), spec.loader.exec_module, module)
    return module


@contextlib.contextmanager
def _beside(folder: Path) -> Generator[None]:
    """Let the file import its neighbours."""
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


def _has(module: ModuleType, *names: str) -> bool:
    return all(callable(getattr(module, name, None)) for name in names)


def _is_cell(value: Any) -> bool:
    return all(callable(getattr(value, method, None)) for method in ("step", "step_backward"))


def _check_of_name(module: ModuleType, name: str, path: Path, options: dict[str, Any]) -> Pending:
    public = [key for key in vars(module) if not key.startswith("_")]
    if not hasattr(module, name):
        raise BadFile(f"{path} has no {name!r}; it has {', '.join(public)}")
    if not _is_cell(getattr(module, name)):
        raise BadFile(f"{path}: {name} is no cell: it lacks step or step_backward")
    return _check_of_cell(getattr(module, name), options)


def _check_of_cell(cell: Any, options: dict[str, Any]) -> Pending:
    def check() -> Report:
        made = user_code.call(f"{cell.__name__}()", cell) if isinstance(cell, type) else cell
        return check_cell(made, raise_exception=False, **options)

    return check


def _check_of_functions(
    module: ModuleType, options: dict[str, Any], forward: str, backward: str, check: Check
) -> Pending:
    if not _has(module, "example"):
        raise BadContract(
            f"{forward} and {backward} are there, but no example() -> (params, inputs) to try "
            "them on"
        )

    def run() -> Report:
        example = user_code.call("example", module.example)
        params, inputs = tuple_of("example", example, 2, "(params, inputs)")
        more = {name: getattr(module, name) for name in OPTIONAL if hasattr(module, name)}
        functions = (getattr(module, backward), getattr(module, forward))
        asked = {name: value for name, value in options.items() if name != "dtype"}
        own_layout = getattr(module, "layout", None)
        if asked.get("layout") is None and not callable(own_layout):
            asked["layout"] = own_layout
        if options.get("dtype", "float64") != "float64":
            declared = convention_of(more.get("convention"))
            more["convention"] = replace(declared, precision=options["dtype"])
        return check(*functions, params, inputs, raise_exception=False, **asked, **more)

    return run
