"""The architecture: which room may import which, what imports cost, that public names are told.

Every rule is a function from source text to violations, and has a twin that must find one.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import bptt_crosscheck
import pytest

PACKAGE = "bptt_crosscheck"
ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("manual", "reference", "comparisons")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("**/*.py"))]

# The rooms of comparisons/, a room or a single module each. A room imports what stands on a line
# below it, never what stands above, and not its neighbour on the same line.
FLOORS = (
    "report",
    "command_line pytest_plugin",
    "trial",
    "studies",
    "reporting",
    "checking",
    "diagnosis",
    "judging",
    "candidates witnesses",
    "problems",
    "user_code",
    "errors output places plain_data time_limit",
)
# The stopwatch stands apart: nobody imports it, and it sees this much.
APART = {
    "benchmark": "speed",
    "speed": "problems candidates reporting errors places plain_data",
}
# What judges computes and returns. It asks nobody, and of those who ask it knows the noise alone,
# and the record of what they said.
ASKS_NOBODY = {
    "judging": "problems witnesses.tolerance witnesses.ask.Witnesses errors plain_data",
}
MANUAL = {
    "arrays": "",
    "activations": "arrays",
    "cell": "arrays",
    "layouts": "arrays",
    "linear": "arrays",
    "losses": "arrays",
    "training": "arrays",
    "cells": "activations arrays cell linear through_time.sequences",
    "jacobians": "arrays cell linear through_time",
    "through_time": "arrays cell jacobians linear losses",
}
REFERENCE = {
    "arrays": "",
    "devices": "",
    "roundoff": "",
    "equations": "arrays",
    "by_jax": "arrays devices equations",
    "by_torch": "arrays devices equations roundoff worlds",
    "numeric": "arrays equations",
    "unrolled": "arrays equations",
    "worlds": "",
}

# The arrows from comparisons/ to the two sides. Only who stands on trial is made of manual/, and
# only witnesses are made of reference/; the rest is listed with its reason.
ACROSS = {
    "candidates": "manual",
    "witnesses": "reference",
    # a loss by its step, and copies of code, both of the user's
    "candidates.user_function": "manual reference.unrolled reference.worlds",
    "candidates.user_cell": "manual reference.worlds",
    "checking.rebinding": "reference.worlds",  # copies of the user's code, with another NumPy
    "studies.optimisers": "manual.training reference",  # the updates of both
    "trial.mutate_*": "manual",  # spoils it
    "trial.other_checkers": "reference",  # the frameworks' own
    "speed": "manual reference",  # times both
}

STANDARD = set(sys.stdlib_module_names)
FRAMEWORKS = ({"torch", "array_api_compat"}, {"jax", "optax"}, {"scipy"}, {"flint"})
NEVER_AT_ONCE = {"torch", "jax", "optax", "array_api_compat", "scipy", "flint"}
WHEN_USED = {"xarray", "matplotlib", "safetensors"}  # inside the function that needs them
THIRD_PARTY = {
    "manual": {"numpy"},
    "reference": {"numpy"},
    "comparisons": {"numpy", "ml_dtypes", "typer", "rich", *WHEN_USED},
}
ALONE = {
    "comparisons.pytest_plugin": {"pytest"},
    "comparisons.studies.model_file": {"torch"},  # a file of weights in torch's own format
    "comparisons.speed.throughput": {"threadpoolctl"},
    "comparisons.trial.low_precision": {"torch"},  # code that computes in short arrays
}

BY_NAME = ("import_module", "__import__")
SILENT = ("problems", "candidates", "witnesses", "judging", "diagnosis", "checking")
PRINTS = ("command_line", "reporting", "report")


@dataclass(frozen=True)
class Import:
    """A dotted name that is imported, and whether that happens as soon as the module is."""

    name: str
    at_once: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Place:
    """Where a dotted name stands: its folder, its room there, and its name in that folder."""

    folder: str
    room: str
    inside: str


def imports(source: str, package: str) -> list[Import]:
    """All imports in a source text of that package: statements at any depth, modules as text."""
    return list(_imports(ast.parse(source).body, package, at_once=True))


def _imports(nodes: Iterable[ast.AST], package: str, at_once: bool) -> Iterator[Import]:
    for node in nodes:
        yield from (Import(name, at_once) for name in _imported_by(node, package))
        inner = at_once and not _runs_later(node)
        yield from _imports(ast.iter_child_nodes(node), package, inner)


def _imported_by(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _base(node, package)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(BY_NAME):
        return [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
    if isinstance(node, ast.Constant) and re.fullmatch(rf"{PACKAGE}(\.\w+)+", str(node.value)):
        return [node.value]  # a table of modules by name
    return []


def _base(node: ast.ImportFrom, package: str) -> str:
    """What the names of a from-import hang on: a relative one is resolved."""
    parents = package.split(".")
    above = parents[: len(parents) - node.level + 1] if node.level else []
    return ".".join([*above, node.module] if node.module else above)


def _runs_later(node: ast.AST) -> bool:
    only_typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    return only_typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def module_of(path: Path) -> str:
    """The dotted name below the package: comparisons.judging.judge."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> str:
    """The dotted package that relative imports in the file start from."""
    return f"{PACKAGE}.{'.'.join(path.relative_to(ROOT).parent.parts)}"


def imports_of(path: Path) -> list[Import]:
    return imports(path.read_text(encoding="utf-8"), package_of(path))


def place(name: str) -> Place:
    """Where a dotted name below the package stands."""
    folder, _, inside = name.partition(".")
    return Place(folder, inside.partition(".")[0], inside)


def arrows() -> dict[str, dict[str, str]]:
    """Folder → room → what it may import there, in words."""
    below: list[str] = []
    rooms: dict[str, str] = {}
    for floor in reversed(FLOORS):
        rooms |= dict.fromkeys(floor.split(), " ".join(below))
        below += floor.split()
    return {"manual": MANUAL, "reference": REFERENCE, "comparisons": rooms | ASKS_NOBODY | APART}


def stands_in(inside: str, allowed: str) -> bool:
    """Whether a dotted name is one of the allowed, or a part of one; * stands for anything."""
    return any(fnmatchcase(f"{inside}.", f"{each}.*") for each in allowed.split())


def running_back(found: list[Import], module: str) -> list[str]:
    """Imports of this package that the tables do not allow to the module of that name."""
    here = place(module)
    wrong: list[str] = []
    for each in found:
        name = each.name.removeprefix(f"{PACKAGE}.")
        if each.top != PACKAGE or name == "__version__":
            continue
        there = place(name)
        if there.folder == here.folder:
            beside = arrows()[here.folder].get(here.room, "")
            right = there.room == here.room or stands_in(there.inside, beside)
        else:
            right = here.folder == "comparisons" and stands_in(name, _allowed_across(here.inside))
        wrong += [] if right else [name]
    return wrong


def _allowed_across(inside: str) -> str:
    """By the longest entry that fits."""
    fitting = [entry for entry in ACROSS if stands_in(inside, entry)]
    return ACROSS[max(fitting, key=len)] if fitting else ""


def foreign(found: list[Import], allowed: set[str]) -> list[str]:
    """What is imported and neither allowed, nor of this package, nor of the standard library."""
    return [each.name for each in found if each.top not in allowed | STANDARD | {PACKAGE}]


def frameworks(found: list[Import]) -> list[set[str]]:
    """The frameworks among the imports; more than one is a violation."""
    return [framework for framework in FRAMEWORKS if framework & {each.top for each in found}]


def modules_among(found: list[Import]) -> list[Path]:
    """The files of this package among the imports."""
    files = {f"{PACKAGE}.{module_of(path)}": path for path in SOURCES if path.stem != "__init__"}
    return [
        path
        for name, path in files.items()
        if any(f"{each.name}.".startswith(f"{name}.") for each in found)
    ]


def with_what_they_import(found: list[Import]) -> list[Import]:
    """The imports, and those of all modules of this package among them, to the end."""
    seen: dict[Path, list[Import]] = {}
    waiting = modules_among(found)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen[path] = imports_of(path)
            waiting += modules_among(seen[path])
    return found + [each for inner in seen.values() for each in inner]


def circle(graph: dict[str, list[str]]) -> list[str]:
    """Names that import each other in a circle; empty where none do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods, and the module itself, without a docstring."""
    tree = ast.parse(source)
    return (["module"] if ast.get_docstring(tree) is None else []) + list(
        _undocumented(tree.body, "")
    )


def _undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _undocumented(node.body, f"{prefix}{node.name}.")


def shadowing(names: list[str]) -> set[str]:
    """Those that are also the name of a standard module or of an installed distribution."""
    installed = set(metadata.packages_distributions()) - set(FOLDERS)
    return set(names) & (STANDARD | installed)


def printing(found: list[Import]) -> list[str]:
    """What is imported in order to print or to write files."""
    output = [f"{PACKAGE}.comparisons.{room}" for room in PRINTS]
    return [
        each.name for each in found if each.top == "rich" or stands_in(each.name, " ".join(output))
    ]


NAMES = rf"({'|'.join(FOLDERS)})(?:\.\w+)*"
FROM_BARE = re.compile(rf"\bfrom {NAMES} import\b")
IMPORT_BARE = re.compile(
    rf"(?:^|;)\s*import (?:[\w.]+, )*{NAMES}(?:, [\w.]+)*\s*(?:$|;| as )", re.MULTILINE
)


def by_bare_name(text: str) -> list[str]:
    """Folders imported as if they were packages of their own, in code or in a text of code."""
    lines = re.sub(r"\\n|[\"']", "\n", text)
    return FROM_BARE.findall(lines) + IMPORT_BARE.findall(lines)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has in addition after the statement."""
    code = (
        "import sys; before = set(sys.modules); "
        f"{statement}; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def every_module_of(folder: str) -> str:
    names = [module_of(path) for path in SOURCES if path.is_relative_to(ROOT / folder)]
    return ", ".join(f"{PACKAGE}.{name}" for name in names)


every_source = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: str(path.relative_to(ROOT))
)


def test_there_are_sources():
    assert {place(module_of(path)).folder for path in SOURCES} == set(FOLDERS)


def test_every_room_is_in_the_table():
    rooms = {
        folder: {place(module_of(path)).room for path in (ROOT / folder).glob("**/*.py")} - {""}
        for folder in FOLDERS
    }
    assert rooms == {folder: set(table) for folder, table in arrows().items()}


def test_the_tables_name_only_what_there_is():
    there = {module_of(path) for path in SOURCES}
    tables = [(ACROSS, "comparisons."), (ALONE, "")]
    for table, prefix in tables:
        for entry in table:
            assert [name for name in there if stands_in(name, prefix + entry)], entry


@every_source
def test_imports_follow_the_arrows(path):
    assert running_back(imports_of(path), module_of(path)) == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        str(path): [str(other) for other in modules_among(imports_of(path)) if other != path]
        for path in SOURCES
        if path.stem != "__init__"
    }
    assert circle(graph) == []


@every_source
def test_other_packages_are_those_of_the_folder(path):
    module = module_of(path)
    here = place(module)
    allowed = THIRD_PARTY[here.folder] | ALONE.get(module, set())
    if here.folder == "reference" and here.room not in {
        "equations",
        "devices",
        "roundoff",
        "unrolled",
    }:
        allowed |= set().union(*FRAMEWORKS)
    assert foreign(imports_of(path), allowed) == []


@every_source
def test_what_is_heavy_is_imported_when_used(path):
    if place(module_of(path)).folder == "comparisons":
        heavy = WHEN_USED | NEVER_AT_ONCE
        assert [each.name for each in imports_of(path) if each.at_once and each.top in heavy] == []


@pytest.mark.parametrize("path", sorted((ROOT / "reference").glob("**/*.py")), ids=module_of)
def test_a_reference_has_one_framework(path):
    assert len(frameworks(with_what_they_import(imports_of(path)))) <= 1


@every_source
def test_what_computes_does_not_print(path):
    if place(module_of(path)).room in SILENT:
        assert printing(imports_of(path)) == []


@every_source
def test_public_names_have_docstrings(path):
    assert undocumented(path.read_text(encoding="utf-8")) == []


def test_no_module_takes_another_modules_name():
    """comparisons/report.py runs as a script, with its folder on the path."""
    assert shadowing([path.stem for path in SOURCES if path.stem != "__init__"]) == set()


@pytest.mark.parametrize("folder", [*FOLDERS, "tests", "examples", "docs"])
def test_nobody_imports_a_folder_by_its_bare_name(folder):
    own = {"test_layering.py", "test_packaging.py"}  # the twins below, and a user's own packages
    texts = [
        path
        for path in (ROOT / folder).glob("**/*")
        if path.suffix in {".py", ".md"} and path.name not in own
    ]
    assert texts
    found = {
        str(path.relative_to(ROOT)): by_bare_name(path.read_text(encoding="utf-8"))
        for path in texts
    }
    assert {name: bare for name, bare in found.items() if bare} == {}


def test_the_package_itself_costs_nothing():
    assert loaded_by(f"import {PACKAGE}") - STANDARD == {PACKAGE}


def test_the_root_under_another_name_loads_nothing():
    """pytest takes this folder, which has an __init__, for a package, and imports it."""
    spec = f"importlib.util.spec_from_file_location('clone', {str(ROOT / '__init__.py')!r})"
    steps = ("import importlib.util", f"spec = {spec}", "m = importlib.util.module_from_spec(spec)")
    execute = "sys.modules['clone'] = m; spec.loader.exec_module(m); hasattr(m, 'setup_module')"
    assert loaded_by("; ".join((*steps, execute))) - STANDARD == {"clone"}


def test_public_names_are_where_the_package_says():
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    typed = {each.name for each in imports(source, PACKAGE) if each.name.startswith(f"{PACKAGE}.")}
    told = {f"{PACKAGE}{module}.{name}" for name, module in bptt_crosscheck._MODULES.items()}
    assert typed == told
    assert {*bptt_crosscheck._MODULES, "__version__"} == set(bptt_crosscheck.__all__)
    assert [name for name in bptt_crosscheck.__all__ if not hasattr(bptt_crosscheck, name)] == []


def test_manual_costs_no_more_than_numpy():
    loaded = loaded_by(f"import {every_module_of('manual')}")
    assert loaded - STANDARD - loaded_by("import numpy") == {PACKAGE}


@pytest.mark.parametrize(
    "statement",
    [f"import {PACKAGE}.comparisons", f"import {every_module_of('comparisons')}"],
    ids=["package", "every module"],
)
def test_comparisons_load_no_framework(statement):
    loaded = loaded_by(statement)
    assert PACKAGE in loaded
    assert loaded.isdisjoint(NEVER_AT_ONCE | WHEN_USED)


# The twins: what each rule must find.


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import torch.func as f",
        "from torch import nn",
        "def f():\n    import torch",
        "if True:\n    from torch.nn import RNN",
        "class A:\n    import torch",
        "import importlib\nimportlib.import_module('torch')",
        "__import__('torch')",
        "try:\n    import os\nexcept ImportError:\n    import torch",
    ],
)
def test_a_forbidden_import_is_found(source):
    found = foreign(imports(source, f"{PACKAGE}.manual"), {"numpy"})
    assert [name.partition(".")[0] for name in found] == ["torch"]


@pytest.mark.parametrize(
    "source",
    ["import os.path", "from . import bptt", "from .bptt import Tape", "import numpy as np"],
)
def test_an_allowed_import_is_not_reported(source):
    assert foreign(imports(source, f"{PACKAGE}.manual.through_time"), {"numpy"}) == []


@pytest.mark.parametrize(
    ("source", "package", "name"),
    [
        ("from . import tolerance", "comparisons.witnesses", "comparisons.witnesses.tolerance"),
        (
            "from .tolerance import Noise",
            "comparisons.witnesses",
            "comparisons.witnesses.tolerance.Noise",
        ),
        ("from .. import errors", "comparisons.witnesses", "comparisons.errors"),
        ("from ..errors import BadOption", "comparisons.witnesses", "comparisons.errors.BadOption"),
        ("from ...manual.cells.rnn import RNN", "comparisons.candidates", "manual.cells.rnn.RNN"),
        ("from ... import manual", "comparisons.candidates", "manual"),
        ("import bptt_crosscheck.manual.cell as c", "comparisons.candidates", "manual.cell"),
        (
            "BY = {'torch': 'bptt_crosscheck.reference.devices'}",
            "comparisons.speed",
            "reference.devices",
        ),
    ],
)
def test_a_relative_import_is_resolved(source, package, name):
    assert [each.name for each in imports(source, f"{PACKAGE}.{package}")] == [f"{PACKAGE}.{name}"]


@pytest.mark.parametrize(
    ("module", "source", "violation"),
    [
        ("judging.judge", "from ..diagnosis import of_gradients", "diagnosis.of_gradients"),
        ("judging.judge", "from ..witnesses.ask import ask", "witnesses.ask.ask"),
        ("judging.judge", "from ..witnesses import engines", "witnesses.engines"),
        ("judging.judge", "from ..candidates import draw", "candidates.draw"),
        ("problems.cases", "def f():\n    from ..candidates import draw", "candidates.draw"),
        ("candidates.draw", "from ..witnesses import engines", "witnesses.engines"),
        ("witnesses.ask", "from ..candidates import draw", "candidates.draw"),
        ("errors", "from . import places", "places"),
        ("checking.ties", "from ..reporting.tables import ratio", "reporting.tables.ratio"),
        ("studies.cures", "from ..trial import subject", "trial.subject"),
        ("trial.trial", "from ..speed.costs import time", "speed.costs.time"),
        ("trial.trial", "from .. import command_line", "command_line"),
        ("speed.costs", "from ..checking import crosscheck", "checking.crosscheck"),
    ],
)
def test_an_arrow_that_runs_back_is_found(module, source, violation):
    package = f"{PACKAGE}.comparisons.{module}".rpartition(".")[0]
    found = running_back(imports(source, package), f"comparisons.{module}")
    assert found == [f"comparisons.{violation}"]


@pytest.mark.parametrize(
    ("module", "source", "violation"),
    [
        ("comparisons.judging.judge", "from ...manual import cell", "manual.cell"),
        ("comparisons.candidates.draw", "from ...reference import devices", "reference.devices"),
        ("comparisons.candidates.user_function", "import bptt_crosscheck.reference", "reference"),
        ("comparisons.witnesses.ask", "from ...manual.cell import Cell", "manual.cell.Cell"),
        ("comparisons.trial.mutate_loop", "from ...reference import devices", "reference.devices"),
        ("comparisons.trial.trial", "from ...manual import cell", "manual.cell"),
        ("comparisons.studies.optimisers", "from ...manual import cell", "manual.cell"),
        (
            "comparisons.checking.ties",
            "M = 'bptt_crosscheck.reference.devices'",
            "reference.devices",
        ),
        ("comparisons.checking.ties", "from ... import check_cell", "check_cell"),
        ("comparisons", "from .errors import BadOption", "comparisons.errors.BadOption"),
        ("manual.cells.rnn", "from ..through_time import bptt", "manual.through_time.bptt"),
        ("manual.cells.rnn", "from ...reference import devices", "reference.devices"),
        ("manual.cells.rnn", "from ...comparisons import errors", "comparisons.errors"),
        ("manual.through_time.sequences", "from ..cells import rnn", "manual.cells.rnn"),
        ("manual.linear", "from . import cell", "manual.cell"),
        ("reference.equations.gated", "from .. import by_torch", "reference.by_torch"),
        ("reference.by_torch.torch_nn", "from .. import by_jax", "reference.by_jax"),
        ("reference.numeric.interval", "from .. import by_torch", "reference.by_torch"),
        ("reference.equations.gated", "from ...manual.cells import gru", "manual.cells.gru"),
        ("reference.unrolled", "import bptt_crosscheck.comparisons.errors", "comparisons.errors"),
    ],
)
def test_an_arrow_across_folders_is_found(module, source, violation):
    package = f"{PACKAGE}.{module.rpartition('.')[0] or module}"
    assert running_back(imports(source, package), module) == [violation]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("comparisons.judging.judge", "from ..witnesses.tolerance import Noise"),
        ("comparisons.checking.ties", "from ..candidates import user_cell"),
        ("comparisons.trial.mutate_anything", "from ...manual.through_time import bptt"),
        ("comparisons.trial.other_checkers", "from ...reference.by_torch import torch_gradcheck"),
        ("comparisons.candidates.user_function", "from ...reference.unrolled import Unrolled"),
        ("comparisons.command_line", "from .. import __version__"),
        ("manual.cells.rnn", "from ..through_time.sequences import Joined"),
        ("reference.by_jax.jax_grad", "from ..equations.parts import Step"),
    ],
)
def test_an_arrow_of_the_table_is_not_reported(module, source):
    assert running_back(imports(source, f"{PACKAGE}.{module.rpartition('.')[0]}"), module) == []


@pytest.mark.parametrize(
    ("source", "at_once"),
    [
        ("import xarray", True),
        ("class A:\n    import xarray", True),
        ("def f():\n    import xarray", False),
        ("if TYPE_CHECKING:\n    import xarray", False),
    ],
)
def test_an_import_at_once_is_told_from_one_when_used(source, at_once):
    assert [each.at_once for each in imports(source, f"{PACKAGE}.comparisons")] == [at_once]


@pytest.mark.parametrize(
    "source",
    [
        "from ..reporting import dump",
        "from .. import command_line",
        "from ..reporting.tables import ratio",
        "from rich import box",
    ],
)
def test_an_import_in_order_to_print_is_found(source):
    text = f"from ..problems import problem\n{source}"
    assert len(printing(imports(text, f"{PACKAGE}.comparisons.judging"))) == 1


@pytest.mark.parametrize(
    "source", ["import torch, jax", "import jax\ndef f():\n    import array_api_compat.torch"]
)
def test_two_frameworks_in_a_file_are_found(source):
    assert len(frameworks(imports(source, f"{PACKAGE}.reference.by_jax"))) == 2


def test_a_second_framework_by_way_of_another_module_is_found():
    source = "import jax\nfrom ..by_torch.torch_nn import gradients"
    found = imports(source, f"{PACKAGE}.reference.by_jax")
    assert len(frameworks(found)) == 1
    assert len(frameworks(with_what_they_import(found))) == 2


def test_a_circle_is_found():
    assert circle({"a": ["b"], "b": ["c"], "c": []}) == []
    assert set(circle({"a": ["b"], "b": ["c"], "c": ["a"]})) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(): pass", ["module", "f"]),
        (
            '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): pass\n    def _g(self): pass',
            ["A.f"],
        ),
        ('"""Doc."""\nclass A:\n    class B:\n        """Doc."""', ["A"]),
        ('"""Doc."""\nasync def f(): pass\ndef _g(): pass', ["f"]),
        ('"""Doc."""\nclass A:\n    """Doc."""\n    @property\n    def f(self): pass', ["A.f"]),
    ],
)
def test_a_missing_docstring_is_found(source, names):
    assert undocumented(source) == names


def test_a_name_taken_from_another_module_is_found():
    assert shadowing(["rnn", "types", "rich", "html", "numpy"]) == {
        "types",
        "rich",
        "html",
        "numpy",
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from comparisons import dump", ["comparisons"]),
        ("import manual.cells.rnn", ["manual"]),
        ("code = 'import sys; from reference.by_torch import torch_nn'", ["reference"]),
        ("import torch, jax, comparisons, os", ["comparisons"]),
        ("code = 'import sys\\nimport manual'", ["manual"]),
        ("from bptt_crosscheck.comparisons import errors", []),
        ("from ..manual import cell", []),
        ("what to import comparisons/report.py from", []),
    ],
)
def test_a_bare_name_is_found(text, names):
    assert by_bare_name(text) == names


def test_what_an_import_loads_is_found():
    assert {"numpy", "json"} <= loaded_by("import numpy, json")
