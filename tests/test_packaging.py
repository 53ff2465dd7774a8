"""What is built is what is meant, and works where a user has packages called as our folders are.

The source archive is made of a tree with rubbish in it, the wheel of the unpacked archive. The
wheel is installed in an environment of its own, the archive, editable, in another; both see the
packages of the interpreter that runs this, save this one.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import bptt_crosscheck
import pytest

PACKAGE = "bptt_crosscheck"
ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("manual", "reference", "comparisons")
VERSION = bptt_crosscheck.__version__
NOT_COPIED = (
    ".git",
    "__pycache__",
    "*.egg-info",
    ".venv*",
    ".*_cache",
    ".hypothesis",
    "build",
    "dist",
)
RUBBISH = (
    ".git/config",
    "build/lib/bptt_crosscheck/stale.py",
    "comparisons/__pycache__/stale.cpython-311.pyc",
    "dist/old.whl",
    "dumps/tanh.npz",
    "notes.txt",
    "scratch.py",
)

CELL = """
import numpy as np

from comparisons import MINE


class Elman:
    def parameter_shapes(self, I, H):
        return {"W": (H, I), "U": (H, H)}

    def state_shapes(self, H):
        return {"h": (H,)}

    def step(self, xp, p, s, x):
        h = xp.tanh(x @ p["W"].T + s["h"] @ p["U"].T)
        return {"h": h}, (x, s["h"], h)

    def step_backward(self, p, cache, d):
        delta = d["h"] * (1 - cache[2] ** 2)
        d_params = {"W": delta.T @ cache[0], "U": delta.T @ cache[1]}
        return d_params, delta @ p["W"], {"h": delta @ p["U"]}
"""
TESTS = """
from comparisons import MINE
from my_cell import Elman


def test_own_package():
    assert MINE == "comparisons"


def test_right(gradient_oracle):
    gradient_oracle.check_cell(Elman(), steps=3)
"""
IMPORTS = """
import bptt_crosscheck
import bptt_crosscheck.comparisons, bptt_crosscheck.manual, bptt_crosscheck.reference
import comparisons, manual, reference, tests
from bptt_crosscheck import check_cell
from bptt_crosscheck.manual.cells.lstm import LSTM
for each in (comparisons, manual, reference, tests):
    assert each.MINE == each.__name__
print(bptt_crosscheck.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a process writes that has nothing of this one's environment; it must succeed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """The wheel or sdist of a source tree, by its build backend."""
    code = f"from setuptools.build_meta import build_{kind}; build_{kind}({str(target)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (made,) = target.iterdir()
    return made


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def programs(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        return self.programs / "python"

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("**/site-packages")
        return found

    def install(self, *what: str | Path) -> None:
        options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
        command = (sys.executable, "-m", "pip", "--python", self.python, "install", *options, *what)
        run(*command, cwd=self.folder)


def environment(folder: Path) -> Environment:
    """Empty, but for the path to what this interpreter has; an editable install is no path."""
    venv.create(folder, with_pip=False)
    made = Environment(folder)
    hosts = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (made.packages / "host.pth").write_text("\n".join(hosts) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The source archive of a tree with rubbish in it."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_COPIED))
    for name in RUBBISH:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("rubbish", encoding="utf-8")
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory) -> Path:
    """The folder in the source archive."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 has it
        packed.extractall(folder)
    return folder / f"{PACKAGE}-{VERSION}"


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory) -> Path:
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    """Where the wheel is installed."""
    made = environment(tmp_path_factory.mktemp("installed"))
    made.install(wheel)
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A user's folder, with packages called as our folders are."""
    folder = tmp_path_factory.mktemp("project")
    for name in (*FOLDERS, "tests"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"MINE = {name!r}\n", encoding="utf-8")
    (folder / "my_cell.py").write_text(CELL, encoding="utf-8")
    (folder / "tests" / "test_mine.py").write_text(TESTS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def command(installed, project) -> Callable[..., str]:
    """The installed command, called from the user's folder."""
    return lambda *arguments: run(installed.programs / "bptt-crosscheck", *arguments, cwd=project)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as packed:
        text = packed.read(f"{PACKAGE}-{VERSION}.dist-info/METADATA").decode("utf-8")
    return email.message_from_string(text)


def files(*patterns: str) -> set[str]:
    """Of this tree, by pattern."""
    found = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    return {name for name in found if "__pycache__" not in name}


def test_the_archive_is_whole_and_clean(archive):
    with tarfile.open(archive) as packed:
        members = {member.name.partition("/")[2] for member in packed if member.isfile()}
    own = {name for name in members if not name.startswith(f"{PACKAGE}.egg-info/")}
    assert own - {"PKG-INFO", "setup.cfg"} == files(
        "*.md", "*.toml", "*.txt", "*.in", "*.cff", "*.py", "LICENSE", "py.typed", ".ci/*",
        *(f"{folder}/**/*.*" for folder in (*FOLDERS, "tests", "docs", "examples")),
    )  # fmt: skip


def test_the_wheel_holds_one_name(wheel):
    names = names_in(wheel)
    assert {name.partition("/")[0] for name in names} == {PACKAGE, f"{PACKAGE}-{VERSION}.dist-info"}
    assert not [name for name in names if name.startswith(f"{PACKAGE}/tests")]
    code = {name.removeprefix(f"{PACKAGE}/") for name in names if name.endswith(".py")}
    folders = (*FOLDERS, "examples")
    assert code == files("*.py", *(f"{folder}/**/*.py" for folder in folders))


def test_the_wheel_holds_what_goes_with_the_code(wheel):
    names = names_in(wheel)
    beside = files("docs/*", "README.md", "py.typed", "constraints.txt", "comparisons/**/*.json")
    assert {f"{PACKAGE}/{name}" for name in beside} <= names
    assert f"{PACKAGE}-{VERSION}.dist-info/licenses/LICENSE" in names


def test_the_wheel_says_what_it_is(wheel):
    metadata = metadata_of(wheel)
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "MIT"
    assert {"Framework :: Pytest", "Typing :: Typed"} <= set(metadata.get_all("Classifier", []))


def test_the_version_is_told_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project
    # A literal, which the build reads without importing what the package needs.
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert f'\n__version__ = "{VERSION}"\n' in source
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {VERSION}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {VERSION}" in changes


def test_every_folder_of_code_is_a_package_of_the_table():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    modules = files("*.py", *(f"{folder}/**/*.py" for folder in FOLDERS))
    folders = {Path(name).parent.parts for name in modules}
    assert set(table["packages"]) == {".".join((PACKAGE, *parts)) for parts in folders}
    assert [
        name for name in map(Path, modules) if not (ROOT / name.parent / "__init__.py").is_file()
    ] == []


def test_nothing_else_is_installed(installed):
    ours = {path.name for path in installed.packages.iterdir()} - {"host.pth"}
    assert ours == {PACKAGE, f"{PACKAGE}-{VERSION}.dist-info"}


def test_imports_beside_packages_of_the_same_names(installed, project):
    said = run(installed.python, "-c", IMPORTS, cwd=project)
    assert Path(said.strip()).is_relative_to(installed.packages)


def test_the_command_says_its_version(command):
    assert VERSION in command("--version")


def test_the_command_explains_itself(command):
    assert "--references" in command("--help")


def test_the_command_checks_what_is_built_in(command):
    assert re.search(r"\bagree\b", command("--quick", "--cell", "rnn", "--references", "torch"))


def test_the_command_checks_a_cell_that_imports_the_users_package(command):
    said = command("check", "my_cell.py", "--references", "torch", "--steps", "3")
    assert re.search(r"(\d+) of \1 comparisons agree", said)


def test_the_plugin_in_a_project_with_a_package_of_our_name(installed, project):
    options = ("-p", "no:cacheprovider", "-n", "0", "--oracle-references", "torch")
    said = run(installed.python, "-m", "pytest", *options, "tests", cwd=project)
    assert "2 passed" in said
    assert "1 checks" in said


def test_the_archive_runs_its_tests(unpacked, tmp_path):
    made = environment(tmp_path)
    made.install("--editable", unpacked)
    where = run(made.python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=tmp_path)
    assert Path(where.strip()) == unpacked / "__init__.py"
    pytest_there = (made.python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider")
    said = run(*pytest_there, "--collect-only", cwd=unpacked)
    assert "error" not in said.splitlines()[-1]
    said = run(*pytest_there, "tests/manual/test_linear.py", cwd=unpacked)
    assert re.search(r"\d+ passed", said)
