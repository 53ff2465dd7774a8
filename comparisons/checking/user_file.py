"""A Python file with somebody's derivation: find in it what can be checked, and check it.

    a cell                       a class with step and step_backward (made by calling it without
                                 arguments), or such an object
    loss, gradients, example     example() -> (params, inputs)
    function, vjp, example       likewise, without a loss

Beside these the file may define `convention`, a dict, `setup`, a function, and `layout`, letters
or a dict; beside a loss also `own_loss`, a function. The file runs in this process, with the rights
of whoever started it.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, get_origin

from .. import user_code
from ..candidates.user_cell import METHODS, tuple_of
from ..errors import BadContract, BadFile, QuestionError
from ..problems.convention import convention_of
from .entry_points import check_cell, check_gradients, check_vjp
from .report_data import Report
from .user_place import Place

Check: TypeAlias = Callable[..., Report]
Pending: TypeAlias = Callable[[], Report]  # a check that is still to be made
OPTIONAL = ("convention", "setup")
OPTIONAL_OF_A_LOSS = ("own_loss",)
FUNCTIONS = (("loss", "gradients", check_gradients), ("function", "vjp", check_vjp))


def checks_in(target: str, sizes: dict[str, int], options: dict[str, Any]) -> list[Pending]:
    """The checks for 'file.py' or 'file.py:Name'; sizes are for cells, options (seed, references)
    for all.

    Raises BadFile for a file that cannot be run or holds nothing to check, CandidateFailed for one
    that fails while it runs.
    """
    path, name = _split(target)
    if not _is_file(path):
        raise BadFile(f"{user_code.printable(str(path))}: there is no such file")
    place = Place(path.resolve().parent)
    module = place.run(lambda: user_code.limited(options.get("timeout"), lambda: _run(path)))
    found = _checks_in(module, path, name, sizes, options)
    return [_surrounded(place, check) for check in found]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _surrounded(place: Place, check: Pending) -> Pending:
    return lambda: place.run(check, _first_error)


def _first_error(report: Report) -> QuestionError | None:
    return report.errors[0] if report.errors else None


def _checks_in(
    module: ModuleType,
    path: Path,
    name: str | None,
    sizes: dict[str, int],
    options: dict[str, Any],
) -> list[Pending]:
    if name is not None:
        return [_check_of_name(module, name, path, {**sizes, **options})]
    found: list[Pending] = []
    for forward, backward, check in FUNCTIONS:
        if _has(module, forward, backward):
            found.append(_check_of_functions(module, options, forward, backward, check))
    for cell in _cells_in(module):
        found.append(_check_of_cell(cell, {**sizes, **options}))
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
    spec = importlib.util.spec_from_file_location(f"derivation_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise BadFile(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    user_code.call(str(path), spec.loader.exec_module, module)
    return module


def _has(module: ModuleType, *names: str) -> bool:
    return all(callable(vars(module).get(name)) for name in names)


def _cells_in(module: ModuleType) -> list[Any]:
    """The file's own cells, classes and objects, in its order; each object once.

    Left out are classes that others are only derived from, and those of which the file makes the
    objects itself because they need arguments.
    """
    own: list[Any] = []
    for value in vars(module).values():
        is_known = any(value is other for other in own)
        is_own = getattr(value, "__module__", None) == module.__name__
        if is_own and not is_known and _is_cell(value):
            own.append(value)
    return [value for value in own if not _stands_for_others(value, own)]


def _stands_for_others(value: Any, cells: list[Any]) -> bool:
    if not isinstance(value, type):
        return False
    classes = [each for each in cells if isinstance(each, type)]
    made: list[type[Any]] = [type(each) for each in cells if not isinstance(each, type)]
    if any(value in each.__mro__[1:] for each in classes):
        return _is_abstract(value)
    made_here = any(value in each.__mro__ for each in made)
    return inspect.isabstract(value) or (made_here and _needs_arguments(value))


def _is_abstract(cell: type) -> bool:
    """Whether one of its methods is left to others: abstract, missing, or a NotImplementedError."""
    if inspect.isabstract(cell) or getattr(cell, "_is_protocol", False):
        return True
    for name in METHODS:
        code = getattr(getattr(cell, name, None), "__code__", None)
        if not hasattr(cell, name) or "NotImplementedError" in getattr(code, "co_names", ()):
            return True
    return False


def _needs_arguments(cell: type) -> bool:
    try:
        inspect.signature(cell).bind()
    except TypeError:
        return True
    except ValueError:
        return False
    return False


def _is_cell(value: Any) -> bool:
    try:
        has = [callable(getattr(value, method, None)) for method in ("step", "step_backward")]
        return all(has) and get_origin(value) is None  # not Cell[int]
    except Exception:  # of an object that answers otherwise
        return False


def _check_of_name(module: ModuleType, name: str, path: Path, options: dict[str, Any]) -> Pending:
    public = [key for key in vars(module) if not key.startswith("_")]
    if name not in vars(module):
        raise BadFile(f"{path} has no {name!r}; it has {', '.join(public)}")
    if not _is_cell(getattr(module, name)):
        raise BadFile(f"{path}: {name} is no cell: it lacks step or step_backward")
    return _check_of_cell(getattr(module, name), options)


def _check_of_cell(cell: Any, options: dict[str, Any]) -> Pending:
    def check() -> Report:
        made = cell
        if isinstance(cell, type):
            make = partial(user_code.call, f"{cell.__name__}()", cell)
            made = user_code.limited(options.get("timeout"), make)
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
        make = partial(user_code.call, "example", module.example)
        example = user_code.limited(options.get("timeout"), make)
        params, inputs = tuple_of("example", example, 2, "(params, inputs)")
        known = OPTIONAL + (OPTIONAL_OF_A_LOSS if check is check_gradients else ())
        defined = vars(module)
        more = {name: defined[name] for name in known if name in defined}
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
