"""The architecture: which folder may import which, what an import costs, and that public names say what they are.

Every rule is a function from source text to violations, and has a twin that must find one.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("manual", "reference", "comparisons")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("**/*.py"))]

# What a module may import besides the standard library and its own folder. The rest of the table follows from it.
THIRD_PARTY = {"manual": {"numpy"}, "reference": {"numpy"}, "comparisons": {"numpy", "ml_dtypes", "typer", "rich"}}
ACROSS = {
    "comparisons/candidates.py": {"manual"},
    "comparisons/costs.py": {"manual", "reference"},
    "comparisons/engines.py": {"reference"},
    "comparisons/expression_mutants.py": {"manual"},
    "comparisons/loop_mutants.py": {"manual"},
    "comparisons/memory.py": {"manual", "reference"},
    "comparisons/side_by_side.py": {"reference"},
    "comparisons/throughput.py": {"manual", "reference"},
    "comparisons/updates.py": {"manual", "reference"},
}
ALONE = {
    "comparisons/pytest_plugin.py": {"pytest"},
    "comparisons/checkpoint.py": {"torch"},
    "comparisons/throughput.py": {"threadpoolctl"},
}
FRAMEWORKS = ({"torch", "array_api_compat"}, {"jax", "optax"}, {"scipy"}, {"flint"})  # a file has one, or none
WHEN_USED = {"xarray", "matplotlib", "safetensors"}  # in comparisons/, inside the function that needs them
PURE = ("crosscheck", "tolerance", "comparator", "problem", "verdict", "errors")
OUTPUT = {
    "bptt_crosscheck.comparisons.command_line",
    "bptt_crosscheck.comparisons.reporting.tables",
    "bptt_crosscheck.comparisons.reporting.dump",
}


@dataclass(frozen=True)
class Import:
    """A dotted name that is imported, and whether that happens as soon as the module is."""

    name: str
    at_once: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def imports(source: str, package: str) -> list[Import]:
    """All imports in a source text of that package: statements at any depth, and import_module of a literal."""
    return list(_imports(ast.parse(source).body, package, at_once=True))


def _imports(nodes: list[ast.AST] | list[ast.stmt], package: str, at_once: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (package if node.level else "", node.module) if part)
            yield from (Import(f"{base}.{alias.name}", at_once) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (Import(argument.value, at_once) for argument in node.args[:1] if isinstance(argument, ast.Constant))
        only_typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        later = only_typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(list(ast.iter_child_nodes(node)), package, at_once and not later)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def foreign(found: list[Import], allowed: set[str]) -> list[str]:
    """What is imported and neither allowed nor of the standard library."""
    return [each.name for each in found if each.top not in allowed | set(sys.stdlib_module_names)]


def frameworks(found: list[Import]) -> list[set[str]]:
    """The frameworks among the imports; more than one is a violation."""
    return [framework for framework in FRAMEWORKS if framework & {each.top for each in found}]


def with_siblings(found: list[Import], folder: Path) -> list[Import]:
    """The imports, and those of the modules of the same folder among them."""
    siblings = [folder / f"{path.stem}.py" for path in folder.glob("*.py") if any(_is(each, path) for each in found)]
    return found + [each for path in siblings for each in imports(path.read_text(), folder.name)]


def _is(each: Import, path: Path) -> bool:
    return f"{each.name}.".startswith(f"{path.parent.name}.{path.stem}.")


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods, and the module itself, without a docstring."""
    tree = ast.parse(source)
    return (["module"] if ast.get_docstring(tree) is None else []) + list(_undocumented(tree.body, ""))


def _undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _undocumented(node.body, f"{prefix}{node.name}.")


def shadowing(names: list[str]) -> set[str]:
    """Those that are also the name of a module of the standard library or of an installed distribution."""
    return set(names) & (set(sys.stdlib_module_names) | (set(metadata.packages_distributions()) - set(FOLDERS)))


def printing(found: list[Import]) -> list[str]:
    """What is imported in order to print or to write files."""
    return [each.name for each in found if each.top == "rich" or OUTPUT & {each.name, each.name.rpartition(".")[0]}]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has in addition after the statement."""
    code = (
        f"import sys; before = set(sys.modules); {statement}; print(*{{m.partition('.')[0] for m in set(sys.modules) - before}})"
    )
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def modules(folder: str) -> str:
    return ", ".join(f"{folder}.{path.stem}" for path in SOURCES if path.parent == ROOT / folder and path.stem != "__init__")


every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def test_there_are_sources():
    assert {package_of(path) for path in SOURCES} == set(FOLDERS)


@every_source
def test_imports_follow_the_arrows(path):
    package, relative = package_of(path), str(path.relative_to(ROOT))
    found = imports(path.read_text(), package)
    allowed = {package} | THIRD_PARTY[package] | ACROSS.get(relative, set()) | ALONE.get(relative, set())
    if package == "reference" and path.stem != "equations":
        allowed |= set().union(*FRAMEWORKS)
    elif package == "comparisons":
        allowed |= WHEN_USED
    assert foreign(found, allowed) == []


@every_source
def test_what_is_heavy_is_imported_when_used(path):
    if package_of(path) == "comparisons":
        found = imports(path.read_text(), "comparisons")
        assert [each.name for each in found if each.at_once and each.top in WHEN_USED] == []


@pytest.mark.parametrize("path", sorted((ROOT / "reference").glob("*.py")), ids=lambda path: path.stem)
def test_a_reference_has_one_framework(path):
    assert len(frameworks(with_siblings(imports(path.read_text(), "reference"), path.parent))) <= 1


@pytest.mark.parametrize("name", PURE)
def test_what_judges_does_not_print(name):
    assert printing(imports((ROOT / "comparisons" / f"{name}.py").read_text(), "comparisons")) == []


@every_source
def test_public_names_have_docstrings(path):
    assert undocumented(path.read_text()) == []


def test_no_module_takes_another_modules_name():
    assert shadowing([path.stem for path in SOURCES if path.stem != "__init__"]) == set()


def test_the_packages_are_the_three_folders():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"] == list(FOLDERS)


def test_manual_costs_no_more_than_numpy():
    assert loaded_by(f"import {modules('manual')}") - set(sys.stdlib_module_names) - loaded_by("import numpy") == {"manual"}


@pytest.mark.parametrize("statement", ["import comparisons", f"import {modules('comparisons')}"], ids=["package", "every module"])
def test_comparisons_load_no_framework(statement):
    loaded = loaded_by(statement)
    assert "comparisons" in loaded
    assert loaded.isdisjoint({"torch", "jax", "optax", "array_api_compat", *WHEN_USED})


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
    assert [name.partition(".")[0] for name in foreign(imports(source, "manual"), {"numpy", "manual"})] == ["torch"]


@pytest.mark.parametrize(
    ("source", "package", "violation"),
    [
        ("from reference import equations", "manual", "bptt_crosscheck.reference.equations.unrolling"),
        ("from manual.rnn import RNN", "reference", "bptt_crosscheck.manual.cells.rnn.RNN"),
        ("import comparisons.verdict", "reference", "bptt_crosscheck.comparisons.checking.report_data"),
        ("from reference import torch_nn", "comparisons", "bptt_crosscheck.reference.by_torch.torch_nn"),
    ],
)
def test_an_import_across_folders_is_found(source, package, violation):
    assert foreign(imports(source, package), {package, "numpy"}) == [violation]


@pytest.mark.parametrize("source", ["import os.path", "from . import bptt", "from .bptt import Tape", "import numpy as np"])
def test_an_allowed_import_is_not_reported(source):
    assert foreign(imports(source, "manual"), {"numpy", "manual"}) == []


@pytest.mark.parametrize(
    ("source", "at_once"),
    [("import xarray", True), ("class A:\n    import xarray", True), ("def f():\n    import xarray", False),
     ("if TYPE_CHECKING:\n    import xarray", False)],
)  # fmt: skip
def test_an_import_at_once_is_told_from_one_when_used(source, at_once):
    assert [each.at_once for each in imports(source, "comparisons")] == [at_once]


@pytest.mark.parametrize(
    "source",
    [
        "from comparisons import dump",
        "import comparisons.report",
        "from comparisons.terminal import ratio",
        "from rich import box",
    ],
)
def test_an_import_in_order_to_print_is_found(source):
    assert len(printing(imports(f"from comparisons import problem\n{source}", "comparisons"))) == 1


@pytest.mark.parametrize("source", ["import torch, jax", "import jax\ndef f():\n    import array_api_compat.torch"])
def test_two_frameworks_in_a_file_are_found(source):
    assert len(frameworks(imports(source, "reference"))) == 2


def test_a_second_framework_by_way_of_a_sibling_is_found():
    found = imports("import jax\nfrom reference.torch_autograd import differentiate", "reference")
    assert len(frameworks(found)) == 1
    assert len(frameworks(with_siblings(found, ROOT / "reference"))) == 2


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(): pass", ["module", "f"]),
        ('"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): pass\n    def _g(self): pass', ["A.f"]),
        ('"""Doc."""\nclass A:\n    class B:\n        """Doc."""', ["A"]),
        ('"""Doc."""\nasync def f(): pass\ndef _g(): pass', ["f"]),
        ('"""Doc."""\nclass A:\n    """Doc."""\n    @property\n    def f(self): pass', ["A.f"]),
    ],
)
def test_a_missing_docstring_is_found(source, names):
    assert undocumented(source) == names


def test_a_name_taken_from_another_module_is_found():
    assert shadowing(["rnn", "types", "rich", "html", "numpy"]) == {"types", "rich", "html", "numpy"}


def test_what_an_import_loads_is_found():
    assert {"numpy", "json"} <= loaded_by("import numpy, json")
