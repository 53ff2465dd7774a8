"""A file as people have it: with neighbours, data, a folder of its own; and nothing left behind."""

import sys
from pathlib import Path

import numpy as np
import pytest
from bptt_crosscheck.comparisons.checking.user_file import checks_in
from bptt_crosscheck.comparisons.errors import BadFile, CandidateFailed

SIZES = {"steps": 3, "batch": 2, "input_size": 2, "hidden_size": 3}
OPTIONS = {"references": "torch"}
CELL = """
    def parameter_shapes(self, I, H): return {"W": (H, I), "U": (H, H)}
    def state_shapes(self, H): return {"h": (H,)}
    def step(self, xp, p, s, x):
        h = xp.tanh(x @ p["W"].T + s["h"] @ p["U"].T)
        return {"h": h}, (x, s["h"], h)
    def step_backward(self, p, cache, d):
        delta = SLOPE(cache[2]) * d["h"]
        return {"W": delta.T @ cache[0], "U": delta.T @ cache[1]}, delta @ p["W"], {
            "h": delta @ p["U"]}
"""
SLOPE = "def slope(h): return 1 - h**2\n"


def cell(head="", start="class Cell:", slope="(lambda h: 1 - h**2)"):
    return f"{head}\n{start}{CELL.replace('SLOPE', slope)}"


LATE = "def slope(h):\n    import {name}\n    return {name}.slope(h)\n"


def late(name):
    return cell(LATE.format(name=name), slope="slope")


READ = "import numpy as np\nONE = np.load('one.npy')\n"
READ_LATE = (
    "import numpy as np\ndef loss(xp, p, i): return xp.sum(p['w'] * i['k'])\n"
    "def gradients(p, i): return {'w': i['k']}\n"
    "def example(): return {'w': np.ones(3)}, {'k': np.load('one.npy')}\n"
)
GONE = "import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\n"
FILES = {
    "a neighbour": cell("from problem import slope", slope="slope"),
    "a neighbour, when it is wanted": late("problem"),
    "cases": late("cases"),
    "errors": late("errors"),
    "a name of Python's own": late("tabnanny"),
    "by its path": cell(
        "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\nfrom problem import slope",
        slope="slope",
    ),
    "importlib": cell(
        "import importlib\nslope = importlib.import_module('problem').slope", slope="slope"
    ),
    "an abstract base": cell(
        "from abc import ABC, abstractmethod\nclass Base(ABC):\n    @abstractmethod\n"
        "    def step(self): ...\n    @abstractmethod\n    def step_backward(self): ...\n",
        "class Cell(Base):",
    ),
    "a base without a body": cell(
        "class Base:\n    def step(self): raise NotImplementedError\n"
        "    def step_backward(self): raise NotImplementedError\n",
        "class Cell(Base):",
    ),
    "a protocol": cell(
        "from typing import Protocol\nclass Base(Protocol):\n    def step(self): ...\n"
        "    def step_backward(self): ...\n",
        "class Cell(Base):",
    ),
    "a dataclass": cell(
        "from __future__ import annotations\nfrom dataclasses import dataclass",
        "@dataclass(frozen=True, slots=True)\nclass Cell:\n    gain: float = 1.0",
    ),
    "objects of a class with arguments": cell(
        "", "class Cell:\n    def __init__(self, gain): self.gain = gain\n"
    )
    + "\none = Cell(1.0)\nsame = one\n",
    "another folder": cell(GONE + READ),
    "another folder, later": GONE + READ_LATE,
    "data beside it": cell(READ),
    "data beside it, later": READ_LATE,
    "a main block": cell() + "\nif __name__ == '__main__':\n    raise SystemExit(3)\n",
}


def surroundings():
    return [*sys.path], Path.cwd(), [*sys.meta_path], [*map(id, sys.modules.values())]


@pytest.fixture
def folder(tmp_path):
    for name in ("problem", "cases", "errors", "tabnanny", "torch"):
        (tmp_path / f"{name}.py").write_text(SLOPE)
    np.save(tmp_path / "one.npy", np.ones(3))
    return tmp_path


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_in_its_folder(text, folder):
    (folder / "mine.py").write_text(text)
    import torch  # noqa: F401  # what is imported for the first time would stay

    before = surroundings()
    checks = checks_in(str(folder / "mine.py"), SIZES, OPTIONS)
    assert surroundings() == before
    for check in checks:
        report = check()
        assert report.passed, report
    path, working, finders, modules = surroundings()
    assert len(checks) == 1
    assert (path, working, finders) == before[:3]
    assert set(modules) >= set(before[3])
    assert not any(str(folder) in str(vars(m).get("__file__")) for m in sys.modules.values())


def test_each_file_has_its_own_neighbour(tmp_path):
    """Two files whose neighbours have one name: the second is not judged by the first's."""
    passed = []
    for name, factor in (("right", 1), ("wrong", 2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "problem.py").write_text(f"def slope(h): return {factor} * (1 - h**2)\n")
        (folder / "mine.py").write_text(late("problem"))
        [check] = checks_in(str(folder / "mine.py"), SIZES, OPTIONS)
        passed.append(check().passed)
    assert passed == [True, False]


def test_what_fails_leaves_nothing_behind(folder):
    (folder / "mine.py").write_text(GONE + "import sys, problem\nsys.path.clear()\n1 / 0\n")
    before = surroundings()
    with pytest.raises(CandidateFailed, match="ZeroDivisionError"):
        checks_in(str(folder / "mine.py"), SIZES, OPTIONS)
    assert surroundings() == before


def test_data_that_is_nowhere(folder):
    (folder / "mine.py").write_text("open('nowhere.txt')\n")
    with pytest.raises(CandidateFailed, match="FileNotFoundError"):
        checks_in(str(folder / "mine.py"), SIZES, OPTIONS)


def test_an_abstract_class_alone_is_nothing_to_check(folder):
    (folder / "mine.py").write_text(
        "from abc import ABC, abstractmethod\nclass Base(ABC):\n    @abstractmethod\n"
        "    def step(self): ...\n    def step_backward(self): ...\n"
    )
    with pytest.raises(BadFile, match="nothing to check"):
        checks_in(str(folder / "mine.py"), SIZES, OPTIONS)


ODD_FILES = {
    "what is no module": "import sys\nsys.modules['oddity'] = 3\nsys.modules[__name__] = None\n",
    "what is no path": "import sys\nsys.path[:] = [None, 3]\n",
    "without finders": "import sys\nsys.meta_path.clear()\n",
    "a folder that is gone": (
        "import os, shutil, tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder)\n"
        "shutil.rmtree(folder)\n"
    ),
    "a module that answers": "def __getattr__(name): raise RuntimeError(name)\n",
    "an object that answers": (
        "class X:\n    def __getattr__(self, name): raise RuntimeError(name)\nx = X()\n"
    ),
    "another name for it": (
        "from typing import Generic, TypeVar\nclass Of(Generic[TypeVar('T')]):\n"
        "    def step(self): ...\n    def step_backward(self): ...\nC = Of[int]\ndel Of\n"
    ),
}


@pytest.mark.parametrize("text", ODD_FILES.values(), ids=ODD_FILES)
def test_a_file_that_turns_things_over(text, folder):
    (folder / "mine.py").write_text(cell() + "\n" + text)
    before = surroundings()
    [check] = checks_in(str(folder / "mine.py"), SIZES, OPTIONS)
    assert check().passed
    assert surroundings()[:3] == before[:3]
    assert not {"oddity", "derivation_mine"} & set(sys.modules)


@pytest.mark.parametrize("name", ["x" * 5000 + ".py", "a\0b.py", "folder.py", "", ":"])
def test_names_that_no_file_has(name, tmp_path, monkeypatch):
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadFile, match="there is no such file"):
        checks_in(name, SIZES, OPTIONS)
