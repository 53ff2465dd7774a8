"""What is asked for, and that the report is the same by one process and by two."""

from dataclasses import replace
from pathlib import Path

import pytest
from bptt_crosscheck.comparisons.errors import (
    BadOption,
    BadTarget,
    NotRepeatable,
    UnknownName,
)
from bptt_crosscheck.comparisons.problems.cases import CASES, QUICK
from bptt_crosscheck.comparisons.studies import built_in_cases
from bptt_crosscheck.comparisons.studies.built_in_cases import RunOptions, results
from bptt_crosscheck.comparisons.studies.cure_variants import VARIANTS
from bptt_crosscheck.comparisons.studies.cures import examine
from bptt_crosscheck.comparisons.studies.language_model import corpus_of
from bptt_crosscheck.comparisons.studies.model_file import ModelFile
from bptt_crosscheck.comparisons.witnesses.ask import available


@pytest.fixture(scope="module")
def engines():
    return available(["torch"])[0]


def options(**given):
    corpus = corpus_of("text", "abracadabra, simsalabim\n" * 4)
    plain = {
        "cell": None,
        "sizes": {},
        "seed": 0,
        "dtype": "float64",
        "corpus": corpus,
        "quick": False,
        "dump": None,
    }
    return RunOptions(**plain | given)


def cases(**given):
    return [each.case for each in options(**given).cases()]


def test_cases_that_are_asked_for():
    assert cases() == list(CASES)
    assert [case.name for case in cases(quick=True)] == [
        case.name for case in CASES if case.name in QUICK
    ]
    assert not any(case.jacobians for case in cases(quick=True))
    assert {case.steps for case in cases(sizes={"steps": 3})} == {3}
    assert cases(cell="rnn") == [case for case in CASES if case.cell == "rnn"]
    assert options(sizes={"hidden_size": 7}).text_case().hidden_size == 7
    assert options(cell="gru").text_case().cell == "gru"


def test_what_there_is_not():
    with pytest.raises(UnknownName, match="no cell is called 'lstmm'"):
        cases(cell="lstmm")
    with pytest.raises(BadOption, match="there is no case of the cell gru"):
        cases(cell="gru", model=ModelFile("model.pt", [], []))
    with pytest.raises(BadOption, match="too large"):
        options(sizes={"hidden_size": 5000}).validate()


@pytest.mark.parametrize(
    ("sizes", "given", "refused"),
    [
        ({"hidden_size": 600, "batch": 60}, {}, r"^tanh: T=12, B=60, .* too large for its Jac.*"),
        ({"hidden_size": 600, "batch": 60}, {"quick": True}, None),
        ({"hidden_size": 600, "batch": 60}, {"cell": "min-lstm"}, "^min-lstm: .* Jacobians"),
        ({"hidden_size": 64, "batch": 16}, {"cell": "lstm"}, None),
        ({"hidden_size": 400}, {"cell": "rnn"}, r"^tanh-rtrl: .* Jacobians"),
        ({"hidden_size": 600, "batch": 60}, {"quick": True, "dump": Path("d")}, "^tanh: .* Jac"),
        ({"steps": 20_000}, {"cell": "residual", "dtype": "float16"}, None),
        ({"steps": 20_000}, {"cell": "residual", "dump": Path("d")}, "^residual: .* Jacobians"),
        ({"hidden_size": 200, "batch": 14}, {"cell": "lstm"}, "^lstm: .* Jacobians"),
    ],
)
def test_jacobians_are_to_fit_into_memory_too(sizes, given, refused):
    """Those that are compared, those that are dumped, those that are carried forward in time."""
    asked = options(sizes=sizes, **given)
    if refused is None:
        asked.validate()
        return
    with pytest.raises(BadOption, match=refused):
        asked.validate()


def test_all_dumps_of_a_study_are_to_fit_together(engines, tmp_path):
    sizes = {"steps": 30, "batch": 40, "input_size": 4, "hidden_size": 64}
    with pytest.raises(BadOption, match="the Jacobians of [0-9]+ variants have"):
        examine(tmp_path / "dumps", engines[0], 0, sizes)
    assert not (tmp_path / "dumps").exists()


def test_a_dump_that_cannot_be_written_is_refused_before_the_work(engines, tmp_path):
    (tmp_path / "residual.npz").mkdir()
    with pytest.raises(BadTarget, match="residual.npz is a folder"):
        options(cell="residual", dump=tmp_path).prepare_dumps()
    (tmp_path / f"{VARIANTS[-1].name}.npz").mkdir()
    sizes = {"steps": 5, "batch": 1, "input_size": 2, "hidden_size": 2}
    with pytest.raises(BadTarget, match="npz is a folder"):
        examine(tmp_path, engines[0], 0, sizes)
    assert len(list(tmp_path.iterdir())) == 2


def test_every_size_of_one_is_possible():
    """No case of the table needs more: the smallest network of every kind can be asked for."""
    options(sizes={"steps": 1, "batch": 1, "input_size": 1, "hidden_size": 1}).validate()


def without_seconds(report):
    told = report.to_dict()
    return {**told, "cases": [{**case, "seconds": 0} for case in told["cases"]]}


def test_two_processes_say_the_same_in_the_same_order(engines, monkeypatch):
    monkeypatch.setattr(built_in_cases, "WORTH_SHARING", 1)
    asked = options(cell="residual", sizes={"steps": 2, "batch": 2, "hidden_size": 2}, quick=True)
    heard = []
    shared = asked.report(
        engines, ["a remark"], 2, lambda pieces, name: heard.append((pieces, name))
    )
    assert without_seconds(shared) == without_seconds(asked.report(engines, ["a remark"], 1))
    assert shared.passed
    assert shared.notes == ["a remark"]
    assert heard == [(2, "residual"), (2, "training")]


def test_another_seed_is_another_report(engines):
    asked = options(cell="residual", sizes={"steps": 2}, quick=True)
    assert without_seconds(asked.report(engines, [], 1)) != without_seconds(
        replace(asked, seed=1).report(engines, [], 1)
    )


def refuse():
    raise BadOption("a question that cannot be asked")


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_goes_wrong_in_a_process_is_told(jobs):
    with (
        pytest.raises(BadOption, match="a question that cannot be asked"),
        results([refuse], jobs) as arriving,
    ):
        list(arriving)


def test_a_case_that_cannot_be_judged_keeps_no_other_from_it(monkeypatch, engines):
    """One of them answers otherwise the second time: the report says so, beside the rest."""
    kept = built_in_cases.check_problem

    def checked(problem, *given, **more):
        if problem.name == "relu":
            raise NotRepeatable("asked twice")
        return kept(problem, *given, **more)

    monkeypatch.setattr(built_in_cases, "check_problem", checked)
    report = options(cell="rnn", quick=False).report(engines, [], 1)
    assert "relu" not in {case.name for case in report.cases}
    assert "tanh" in {case.name for case in report.cases}
    assert [str(error) for error in report.errors] == ["asked twice"]
    assert not report.passed
