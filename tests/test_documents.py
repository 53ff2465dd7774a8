"""What README and docs say is what happens."""

import re
import tomllib
from pathlib import Path

import pytest
from bptt_crosscheck.comparisons import errors
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.case_report import CaseReport
from bptt_crosscheck.comparisons.checking.report_data import Report
from bptt_crosscheck.comparisons.command_line import main
from bptt_crosscheck.comparisons.judging.verdict import Verdict
from bptt_crosscheck.comparisons.problems import convention
from bptt_crosscheck.comparisons.problems.cases import CASES
from bptt_crosscheck.comparisons.reporting import dump
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES, select
from bptt_crosscheck.comparisons.witnesses.tolerance import LIMIT

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRACTS = (ROOT / "docs" / "your-derivation.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def shape_of(text: str) -> str:
    """The text without what may differ in the last digits between machines: numbers as #, white space folded."""
    return " ".join(re.sub(r"-?\d+(\.\d+)?(e[+-]\d+)?", "#", text).split())


def run_check(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    path = folder / "my_cell.py"
    path.write_text(source, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["report.py", "check", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), capsys.readouterr().out


def test_example_prints_what_readme_shows(tmp_path, monkeypatch, capsys):
    status, out = run_check(fenced(README, "python")[0], tmp_path, monkeypatch, capsys)
    assert status == 1
    assert shape_of(out) == shape_of(fenced(README, "text")[0])


def test_example_is_eight_lines():
    lines = fenced(README, "python")[0].split("class MyCell:")[1].splitlines()[1:]
    assert len([line for line in lines if line.strip()]) <= 8


def test_correction_that_readme_names_makes_all_agree(tmp_path, monkeypatch, capsys):
    source = fenced(README, "python")[0]
    wrong, right = 'delta @ p["U"].T}', 'delta @ p["U"]}'
    assert wrong in source
    status, out = run_check(source.replace(wrong, right), tmp_path, monkeypatch, capsys)
    assert status == 0
    assert "16 of 16 comparisons agree" in out


def test_five_lines_plot_the_norms(tmp_path, monkeypatch):
    import matplotlib as mpl

    mpl.use("Agg")
    case = next(case for case in CASES if case.name == "tanh-trained")
    dump.write(tmp_path / "dumps", problem_of(case), built_in(case.cell, case.options), select(("torch",)))
    monkeypatch.chdir(tmp_path)
    lines = fenced(README, "python")[-1]
    assert len(lines.strip().splitlines()) == 5
    exec(lines, {})
    assert (tmp_path / "vanishing.png").stat().st_size > 1000


def test_ci_runs_the_command_of_readme():
    commands = re.findall(r"^    (pip install .*\[test\].*)$", README, flags=re.MULTILINE)
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_readme_tells_the_limit_in_force():
    assert f"Up to {LIMIT:g} agrees" in README
    assert f"error ≤ {LIMIT:g} · noise" in (ROOT / "docs" / "tolerance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["manual", "reference", "comparisons", "tests", "examples", "docs"])
def test_every_folder_is_explained(folder):
    assert re.search(rf"^    {folder}/ ", README, flags=re.MULTILINE)


def test_every_error_is_explained():
    classes = [name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__]
    internal = {"QuestionError", "CannotFollow", "BadText", "BadTarget", "BadModelFile"}  # seen from report.py, or not
    assert [name for name in classes if name not in internal and f"`{name}`" not in CONTRACTS] == []


def test_every_key_of_a_convention_is_explained():
    names = convention.Convention.__dataclass_fields__
    assert [name for name in names if f'"{name}"' not in CONTRACTS] == []


@pytest.mark.parametrize("schema", [Report, CaseReport, Verdict])
def test_every_key_of_the_report_is_explained(schema):
    assert [name for name in schema.__dataclass_fields__ if not re.search(rf"\b{name}\b", SCHEMA)] == []


def test_entry_points_are_explained():
    assert [
        name for name in ("check_cell", "check_gradients", "check_vjp") if name not in CONTRACTS or not hasattr(entry_points, name)
    ] == []


def test_constraints_are_names_and_exact_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"], *project["optional-dependencies"]["plot"]]
    names = {re.split(r"[>=\[]", requirement)[0].lower() for requirement in wanted} - {"bptt-crosscheck"}
    assert names - pinned == set()
    assert {engine.package for engine in ENGINES} <= pinned
