"""What README and docs say is what happens."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import bptt_crosscheck
import pytest
from bptt_crosscheck.comparisons import errors
from bptt_crosscheck.comparisons.candidates.built_in_cells import CELLS, built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.case_report import CaseReport
from bptt_crosscheck.comparisons.checking.report_data import Report
from bptt_crosscheck.comparisons.command_line import main
from bptt_crosscheck.comparisons.judging.verdict import IN_WORDS, Verdict
from bptt_crosscheck.comparisons.problems import convention
from bptt_crosscheck.comparisons.problems.cases import CASES, Case
from bptt_crosscheck.comparisons.reporting import dump
from bptt_crosscheck.comparisons.trial.false_alarms import derivations
from bptt_crosscheck.comparisons.trial.trial import EVERY_FURTHER
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES, select
from bptt_crosscheck.comparisons.witnesses.tolerance import LIMIT, LOW_LIMIT
from bptt_crosscheck.comparisons.witnesses.torch_modules import TORCH_MODULES
from bptt_crosscheck.reference.equations.steps import STEPS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = ("manual", "reference", "comparisons")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("**/*.py"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRACTS = (ROOT / "docs" / "your-derivation.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 10: "ten", 20: "twenty", 50: "fifty"}
PATH = re.compile(
    r"(?<![\w/.-])(?:manual|reference|comparisons|tests|examples|docs|\.ci)/[\w./<>*-]*"
)
DOTTED = re.compile(
    r"(?<![\w./])(?:bptt_crosscheck|manual|reference|comparisons)(?:\.\w+)+(?![\w/])"
)
AGREES = re.compile(
    r"(?:up to|at most|≤)\s+(\d+)(?:\s+times)?\s+agrees?(?:\s+\((\d+)\s+below)?", re.IGNORECASE
)
NOISES = re.compile(r"(\d+)\s+(?:·\s+noise|noises)")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def in_code(text: str) -> str:
    """What stands in backticks, in fences and in indented blocks, a piece a line."""
    blocks = re.findall(r"^(?: {4}|\t)(.*)$", text, flags=re.MULTILINE)
    pieces = re.findall(r"```.*?```|`[^`]+`", text, flags=re.DOTALL)
    return "\n".join([*blocks, *pieces])


def missing_paths(text: str) -> list[str]:
    """Paths into this project that do not exist; <name> stands for any name."""
    named = {found.rstrip(".-") for found in PATH.findall(text)}
    patterns = {name: re.sub(r"<\w+>", "*", name) for name in named}
    return sorted(name for name, pattern in patterns.items() if not list(ROOT.glob(pattern)))


def missing_links(text: str, folder: Path) -> list[str]:
    """Targets of links in a document of that folder that do not exist."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    return [name for name in targets if "://" not in name and not (folder / name).exists()]


def missing_names(text: str) -> list[str]:
    """Dotted names of this package that lead nowhere."""
    return sorted({name for name in DOTTED.findall(text) if not leads_somewhere(name)})


def leads_somewhere(name: str) -> bool:
    """Whether a dotted name is a module, or what can be reached from one by its attributes."""
    dotted = name if name.startswith("bptt_crosscheck") else f"bptt_crosscheck.{name}"
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for attribute in parts[end:]:
            found = getattr(found, attribute, None)
        return found is not None
    return False


def docstrings(source: str) -> Iterator[str]:
    """Of a module, and of all that is in it."""
    documented = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented):
            yield ast.get_docstring(node) or ""


def wrong_limits(text: str) -> list[str]:
    """Sentences that name another limit than the one in force."""
    told = [(found.group(), found.groups()) for found in AGREES.finditer(text)]
    in_force = (f"{LIMIT:g}", f"{LOW_LIMIT:g}")
    wrong = [sentence for sentence, limits in told if limits != in_force]
    noises = [(found.group(), found.group(1)) for found in NOISES.finditer(text)]
    return wrong + [sentence for sentence, limit in noises if limit not in in_force]


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def shape_of(text: str) -> str:
    """The text without what differs in the last digits between machines: numbers as #."""
    return " ".join(re.sub(r"-?\d+(\.\d+)?(e[+-]\d+)?", "#", text).split())


@pytest.fixture
def run_check(tmp_path, monkeypatch, capsys):
    """run_check(source) -> (exit status, output) of `report.py check` on a file with that in it."""

    def run(source: str) -> tuple[int, str]:
        path = tmp_path / "my_cell.py"
        path.write_text(source, encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["report.py", "check", str(path)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().out

    return run


def test_example_prints_what_readme_shows(run_check):
    status, out = run_check(fenced(README, "python")[0])
    assert status == 1
    assert shape_of(out) == shape_of(fenced(README, "text")[0])


def test_example_is_eight_lines():
    lines = fenced(README, "python")[0].split("class MyCell:")[1].splitlines()[1:]
    assert len([line for line in lines if line.strip()]) <= 8


def test_correction_that_readme_names_makes_all_agree(run_check):
    source = fenced(README, "python")[0]
    wrong, right = 'delta @ p["U"].T}', 'delta @ p["U"]}'
    assert wrong in source
    status, out = run_check(source.replace(wrong, right))
    assert status == 0
    assert "16 of 16 comparisons agree" in out


def test_five_lines_plot_the_norms(tmp_path, monkeypatch):
    import matplotlib as mpl

    mpl.use("Agg")
    case = next(case for case in CASES if case.name == "tanh-trained")
    candidate = built_in(case.cell, case.options)
    dump.write(tmp_path / "dumps", problem_of(case), candidate, select(("torch",)))
    monkeypatch.chdir(tmp_path)
    lines = fenced(README, "python")[-1]
    assert len(lines.strip().splitlines()) == 5
    exec(lines, {})
    assert (tmp_path / "vanishing.png").stat().st_size > 1000


def test_ci_runs_the_command_of_readme():
    commands = re.findall(r"^    (pip install .*\[test\].*)$", README, flags=re.MULTILINE)
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
every_source = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: str(path.relative_to(ROOT))
)


@every_document
def test_no_document_tells_another_limit(path):
    assert wrong_limits(text_of(path)) == []


def test_the_limit_in_force_is_told():
    tolerance = text_of(ROOT / "docs" / "tolerance.md")
    assert f"error ≤ {LIMIT:g} · noise" in tolerance
    assert f"may err {LOW_LIMIT:g} times as much" in tolerance
    for text in (README, CONTRACTS, SCHEMA):
        assert AGREES.search(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("up to 64 times agrees (4 below float64)", 1),
        ("at most 16 agrees", 1),
        ("Up to 16 agrees (8 below float64)", 1),
        ("error ≤ 64 · noise", 1),
        ("Up to 16\nagrees (4 below float64); error ≤ 16 · noise, 4 noises", 0),
    ],
)
def test_another_limit_is_found(text, found):
    assert len(wrong_limits(text)) == found


@every_document
def test_every_path_in_a_document_exists(path):
    assert missing_paths(in_code(text_of(path))) == []


@every_document
def test_every_link_leads_somewhere(path):
    assert missing_links(text_of(path), path.parent) == []


@every_document
def test_every_dotted_name_in_a_document_exists(path):
    assert missing_names(in_code(text_of(path))) == []


@every_source
def test_every_path_in_code_exists(path):
    assert missing_paths(text_of(path)) == []


@every_source
def test_every_dotted_name_in_a_docstring_exists(path):
    assert missing_names("\n".join(docstrings(text_of(path)))) == []


def test_what_is_missing_is_found():
    text = "`manual/none.py`, `manual/linear.py`, `bptt_crosscheck.check_nothing` `manual.linear`"
    block = "prose of docs/none.md\n\n    python comparisons/none.py\n"
    code = in_code(text + block)
    assert missing_paths(code) == ["comparisons/none.py", "manual/none.py"]
    assert missing_names(code) == ["bptt_crosscheck.check_nothing"]
    assert missing_links("[a](none.md) [b](README.md#c) [c](https://example.org)", ROOT) == [
        "none.md"
    ]
    assert missing_paths("`manual/cells/<cell>.py` `manual/<cell>/*.txt`") == [
        "manual/<cell>/*.txt"
    ]
    assert list(docstrings('"""A."""\nclass B:\n    """C."""')) == ["A.", "C."]


def test_every_built_in_cell_is_in_the_table_of_readme():
    rows = re.findall(r"^\| ([a-z, -]+) \| ([a-z_, .]+\.py) \|", README, flags=re.MULTILINE)
    cells = [cell for names, _ in rows for cell in names.split(", ")]
    files = [name for _, names in rows for name in names.split(", ")]
    assert sorted(cells) == sorted(CELLS) == sorted(STEPS)
    assert [name for name in files if not (ROOT / "manual" / "cells" / name).is_file()] == []


@pytest.mark.parametrize("cell", sorted(set(CELLS) - set(TORCH_MODULES)))
def test_a_cell_costs_four_files(cell):
    """Its derivation, which need not know the name, and the three that CONTRIBUTING lists.

    Studies are left out: they ask about cells of their choice.
    """
    sources = [path for path in SOURCES if path.parent != ROOT / "comparisons" / "studies"]
    naming = {str(path.relative_to(ROOT)) for path in sources if f'"{cell}"' in text_of(path)}
    tables = {
        "comparisons/candidates/built_in_cells.py",
        "comparisons/problems/cases.py",
    }
    family = naming - tables
    assert naming >= tables
    assert [Path(name).parent.name for name in family] == ["equations"]


@every_document
def test_how_often_jax_is_asked_is_told(path):
    told = re.findall(r"one\s+problem\s+in\s+(\w+)", text_of(path))
    assert set(told) <= {NUMBERS[EVERY_FURTHER]}


@every_document
def test_how_many_orders_of_summation_there_are_is_told(path):
    case = Case("lstm", "lstm", steps=2, batch=2)
    problem, candidate = problem_of(case), built_in(case.cell, case.options)
    orders = list(derivations(candidate, problem, candidate.answer(problem)))
    told = re.findall(r"(\w+)\s+orders\s+of\s+summation", text_of(path))
    assert set(told) <= {NUMBERS[len(orders)]}


@pytest.mark.parametrize("folder", [*FOLDERS, "tests", "examples", "docs"])
def test_every_folder_is_explained(folder):
    assert re.search(rf"^    {folder}/ ", README, flags=re.MULTILINE)


def test_every_room_is_explained():
    house = text_of(ROOT / "CONTRIBUTING.md")
    for room in {path.parent for path in SOURCES} - {ROOT / folder for folder in FOLDERS}:
        assert re.search(rf"^ {{6}}.*\b{room.name}/ ", README, flags=re.MULTILINE), room
        assert room.parent.name != "comparisons" or f"{room.name}/" in house, room


def test_every_error_is_explained():
    own = [value for value in vars(errors).values() if isinstance(value, type)]
    classes = [each.__name__ for each in own if each.__module__ == errors.__name__]
    # seen from report.py, or not
    internal = {"QuestionError", "CannotFollow", "BadText", "BadTarget", "BadModelFile"}
    assert [name for name in classes if name not in internal and f"`{name}`" not in CONTRACTS] == []


def test_every_key_of_a_convention_is_explained():
    names = convention.Convention.__dataclass_fields__
    assert [name for name in names if f'"{name}"' not in CONTRACTS] == []


@pytest.mark.parametrize("schema", [Report, CaseReport, Verdict])
def test_every_key_of_the_report_is_explained(schema):
    told = [name for name in schema.__dataclass_fields__ if name not in IN_WORDS]
    assert [name for name in told if not re.search(rf"\b{name}\b", SCHEMA)] == []


def test_entry_points_are_explained():
    names = ("check_cell", "check_gradients", "check_vjp")
    assert [name for name in names if name not in CONTRACTS] == []
    assert [name for name in names if not hasattr(bptt_crosscheck, name)] == []


def test_constraints_are_names_and_exact_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)
    ] == []
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["plot"]]
    names = {re.split(r"[>=\[]", requirement)[0].lower() for requirement in wanted} - {
        "bptt-crosscheck"
    }
    assert names - pinned == set()
    assert {engine.package for engine in ENGINES} <= pinned
