"""What is asked for, and that the report is the same by one process and by two."""

from dataclasses import replace

import pytest
from bptt_crosscheck.comparisons.errors import BadOption, NotRepeatable, UnknownName
from bptt_crosscheck.comparisons.problems.cases import CASES, QUICK
from bptt_crosscheck.comparisons.studies import built_in_cases
from bptt_crosscheck.comparisons.studies.built_in_cases import RunOptions, results
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
