"""Verdicts as data: what passes, what JSON says, and the sentence for a person."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.checking.case_report import CaseReport
from bptt_crosscheck.comparisons.checking.report_data import Report
from bptt_crosscheck.comparisons.checking.training_row import ParameterVerdict, TrainingRow
from bptt_crosscheck.comparisons.judging.comparator import Side, Yardstick, compare
from bptt_crosscheck.comparisons.witnesses.left_out import LeftOut, WhyLeftOut


def verdict(name, actual, expected, reference="torch"):
    """One of two steps; the noise is 1e-15."""
    values = None if actual is None else np.array(actual), np.array(expected)
    mine, theirs = (Side(value, value) for value in values)
    return compare(name, reference, mine, theirs, Yardstick(1e-15, np.full(2, 1e-15), 64.0))


RIGHT = verdict("W_hh", [1.0, 2.0], [1.0, 2.0])
WRONG = verdict("b_h", [1.0, 2.2], [1.0, 2.0])
MISSING = verdict("x", None, [1.0, 2.0], "jax")
INFINITE = verdict("h_0", [1.0, -math.inf], [1.0, 2.0])


def case(rows, forward=(), name="tanh"):
    sizes = {"steps": 12, "batch": 3, "input_size": 4, "hidden_size": 5, "output_size": None}
    left_out = {"torch.nn": LeftOut(WhyLeftOut.NOT_APPLICABLE, "no module")}
    return CaseReport(
        name,
        "rnn",
        "squared",
        **sizes,
        seconds=0.5,
        rows=list(rows),
        forward=list(forward),
        left_out=left_out,
    )


def report(*cases, **more):
    return Report({"numpy": "2", "seed": 0}, list(cases), **more)


def trained(verdict):
    """A training at whose end one parameter stands so to one reference's."""
    row = ParameterVerdict(
        reference=verdict.reference,
        parameter=verdict.gradient,
        max_rel_error=verdict.max_rel_error,
        error_over_noise=verdict.error_over_noise,
        passed=verdict.passed,
        updated_by="torch.optim",
    )
    return TrainingRow(
        text="a text",
        characters=100,
        vocabulary=20,
        updates=6,
        cell="rnn",
        settings={"optimiser": "sgd", "learning_rate": 0.5},
        loss_before=3.0,
        loss_after=2.0,
        rows=[row],
    )


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (report(case([RIGHT])), True),
        (report(case([RIGHT], [RIGHT]), case([RIGHT])), True),
        (report(), False),
        (report(case([])), False),
        (report(case([RIGHT]), case([])), False),
        (report(case([RIGHT, WRONG])), False),
        (report(case([RIGHT, MISSING])), False),
        (report(case([RIGHT], [WRONG])), False),
        (report(case([RIGHT]), case([WRONG])), False),
        (report(case([RIGHT]), training=[trained(RIGHT)]), True),
        (report(case([RIGHT]), training=[trained(RIGHT), trained(WRONG)]), False),
    ],
)
def test_a_report_passes_if_there_is_something_to_say_and_all_of_it_agrees(found, passed):
    assert found.passed is passed
    assert found.to_dict()["passed"] is passed


def strictly(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_spells_what_it_cannot_hold():
    rows = strictly(report(case([MISSING, INFINITE])).to_json())["cases"][0]["rows"]
    assert (rows[0]["max_abs_error"], rows[0]["error_over_noise"], rows[0]["worst_index"]) == (
        "NaN",
        "NaN",
        None,
    )
    assert (rows[1]["error_over_noise"], rows[1]["candidate_value"]) == ("Infinity", "-Infinity")


def test_json_spells_it_in_training_and_environment_as_well():
    data = strictly(report(case([RIGHT]), training=[trained(MISSING)]).to_json())
    assert data["training"][0]["rows"][0]["error_over_noise"] == "NaN"


def test_json_says_what_the_report_holds():
    found = report(case([RIGHT, WRONG], [RIGHT]), notes=["a note"])
    data = strictly(found.to_json())
    assert data == found.to_dict() | {"cases": data["cases"]}
    assert (data["schema"], data["passed"], data["notes"]) == (1, False, ["a note"])
    (only,) = data["cases"]
    sizes = {"steps": 12, "batch": 3, "input_size": 4, "hidden_size": 5, "output_size": None}
    assert sizes.items() <= only.items()
    assert {
        "name": "tanh",
        "cell": "rnn",
        "passed": False,
        "seconds": 0.5,
        "diagnosis": [],
    }.items() <= only.items()
    assert only["left_out"] == {"torch.nn": "no module"}
    assert {"gradient", "reference", "max_abs_error", "max_rel_error", "noise", "error_over_noise", "worst_index",
            "first_wrong_step", "passed"} <= set(only["rows"][0])  # fmt: skip
    assert (
        only["rows"][1]["gradient"],
        only["rows"][1]["first_wrong_step"],
        only["rows"][1]["passed"],
    ) == ("b_h", 2, False)
    assert len(only["forward"]) == 1


def test_environment_is_in_the_json():
    assert strictly(report(case([RIGHT])).to_json())["environment"] == {"numpy": "2", "seed": 0}


@pytest.mark.parametrize(
    "row",
    [
        MISSING,
        replace(RIGHT, error_over_noise=math.nan),
        replace(RIGHT, step_error_over_noise=math.nan),
    ],
)
def test_nan_counts_as_infinitely_wrong(row):
    assert row.worst_over_noise == math.inf
    assert case([RIGHT, row]).worst_over_noise() == math.inf


def test_worst_of_a_case():
    found = case(
        [RIGHT, WRONG, replace(RIGHT, reference="jax", max_rel_error=3.0)],
        [replace(RIGHT, step_error_over_noise=7.0)],
    )
    assert found.worst_rel_error("torch") == pytest.approx(0.1)
    assert found.worst_rel_error("jax") == 3.0
    assert found.worst_rel_error("nobody") is None
    assert found.worst_over_noise() == WRONG.worst_over_noise > 1e14
    assert case([RIGHT], [replace(RIGHT, step_error_over_noise=7.0)]).worst_over_noise() == 7.0
    assert math.isnan(case([]).worst_over_noise())


@pytest.mark.parametrize("order", [(RIGHT, MISSING), (MISSING, RIGHT)])
def test_nan_among_the_errors_shows_wherever_it_stands(order):
    rows = [replace(row, reference="torch") for row in order]
    assert math.isnan(case(rows).worst_rel_error("torch"))


def test_failures_are_the_forwards_first():
    assert [row.gradient for row in case([RIGHT, WRONG], [MISSING]).failures()] == ["x", "b_h"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (RIGHT, ["W_hh agrees with torch"]),
        (
            WRONG,
            [
                "b_h",
                "differs",
                "[1]",
                "2.2",
                "torch has 2",
                "relative error 1.0e-01",
                "times what rounding explains",
                "step 2",
            ],
        ),
        (MISSING, ["x", "missing", "against jax"]),
        (INFINITE, ["h_0", "not finite", "[1]", "-inf", "torch has 2"]),
    ],
)
def test_sentence(row, words):
    for word in words:
        assert word in row.sentence()
    assert "\n" not in row.sentence()


def test_text_of_a_report():
    lines = str(
        report(
            case([RIGHT]), case([RIGHT, WRONG], name="relu"), case([], [MISSING], name="identity")
        )
    ).splitlines()
    assert lines[0].startswith("tanh: 1 comparisons agree")
    assert lines[1] == "relu: 1 of 2 comparisons disagree"
    assert WRONG.sentence() in [line.strip() for line in lines]
    assert "identity: the forward passes differ; no gradient was compared" in lines


def test_shares_that_are_wrong_under_a_right_whole_are_said_to_be():
    whole, right, wrong = (np.array(value) for value in ([3.0], [1.0, 2.0], [2.0, 1.0]))
    yardstick = Yardstick(1e-15, np.full(2, 1e-15), 64.0)
    found = compare(
        "b_h", "torch", Side(whole, wrong[:, None]), Side(whole, right[:, None]), yardstick
    )
    assert not found.passed
    assert found.only_in_steps
    assert (
        "only in the shares of single steps, 1.0e+15 times what rounding explains; walking back"
        in found.sentence()
    )
    assert "worst" not in found.sentence()
    assert not WRONG.only_in_steps
    assert "relative error" in WRONG.sentence()
