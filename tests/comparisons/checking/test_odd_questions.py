"""Whatever is asked, what comes is a report or a question's error of one paragraph.

BPTT_ODD_QUESTIONS=10000 asks so many, BPTT_ODD_SEED=7 begins with that seed.
"""

import json
import os
import warnings

import numpy as np
import pytest
import torch  # noqa: F401  # so that its tensors are among the odd values
from bptt_crosscheck import check_cell
from bptt_crosscheck.comparisons.checking import cell_cases
from bptt_crosscheck.comparisons.checking.report_data import Report
from bptt_crosscheck.comparisons.errors import CandidateFailed, GradientMismatch, QuestionError

from tests.comparisons.odd import question
from tests.comparisons.small import SIZES, TORCH, Elman, spoiled

COUNT = int(os.environ.get("BPTT_ODD_QUESTIONS", "300"))
FIRST = int(os.environ.get("BPTT_ODD_SEED", "0"))
LONGEST = 6000  # characters of a message
SHARES = 10


def answer(seed):
    """What a question gets, in words; asserts that it is fit to be read."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            report = question(seed)()
    except (QuestionError, GradientMismatch) as error:
        must_be_one_paragraph(str(error))
        return type(error).__name__
    assert isinstance(report, Report)
    str(report)
    json.loads(report.to_json())
    for error in report.errors:
        must_be_one_paragraph(str(error))
    return type(report.errors[0]).__name__ if report.errors else str(report.passed)


def must_be_one_paragraph(text):
    assert text.strip()
    assert "\n\n" not in text
    assert len(text) < LONGEST
    assert "⟮parameter:" not in text
    assert "⟮state:" not in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.mark.parametrize("share", range(SHARES))
def test_every_question_gets_an_answer(share):
    told = {}
    for seed in range(FIRST + share, FIRST + COUNT, SHARES):
        try:
            got = answer(seed)
        except BaseException as error:
            raise AssertionError(f"question {seed} is answered by {error!r:.500}") from error
        told[got] = told.get(got, 0) + 1
    assert len(told) > 3, "the questions are all alike"


def test_a_mistake_of_our_own_is_not_called_theirs(monkeypatch):
    """What goes wrong where no line of theirs runs is raised as it is."""
    monkeypatch.setattr(cell_cases, "examine", len)
    with pytest.raises(TypeError, match="len"):
        check_cell(Elman(), **SIZES, **TORCH, raise_exception=False)


def test_code_that_returns_something_else_when_a_reference_asks_again():
    calls = []

    def tires(xp, params, state, x):
        calls.append(xp)
        return (
            "tired" if calls.count(xp) > 3 and xp is not np else Elman().step(xp, params, state, x)
        )

    with pytest.raises(CandidateFailed, match=r"asked again.*step returns \(new_state, cache\)"):
        check_cell(spoiled(step=tires), **SIZES, **TORCH)


def test_code_that_fails_when_it_is_asked_again():
    calls = []

    def tires(xp, params, state, x):
        calls.append(xp)
        if calls.count(xp) > 3 and xp is not np:
            raise RuntimeError("enough")
        return Elman().step(xp, params, state, x)

    with pytest.raises(QuestionError, match=r"enough at test_odd_questions.py"):
        check_cell(spoiled(step=tires), **SIZES, **TORCH)
