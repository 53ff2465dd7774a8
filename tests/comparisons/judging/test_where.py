"""Which part of an array is wrong: exact statements, in any rank, by what can be seen."""

import numpy as np
import pytest
from bptt_crosscheck.comparisons.judging.comparator import Side, Walk, Yardstick, compare
from bptt_crosscheck.comparisons.judging.where import WrongAxis, where_wrong

EVERY = slice(None)


def wrong_at(shape, *places):
    wrong = np.zeros(shape, dtype=bool)
    for place in places:
        wrong[place] = True
    return wrong


@pytest.mark.parametrize(
    ("shape", "places", "letters", "words"),
    [
        ((20,), [slice(5, 10)], "", "rows 5–9 of 20 only (block 2 of 4, as gates are stacked)"),
        ((5, 3), [0, 4], "", "rows 0, 4 of 5 only"),
        ((5, 3), [(EVERY, 1)], "", "columns 1 of 3 only"),
        ((4, 3), [(2, slice(0, 2))], "", "rows 2 of 4 only; columns 0–1 of 3 only"),
        ((4, 3), [(2, 1)], "", "one entry only"),
        ((2, 8, 3, 2), [(EVERY, EVERY, 1)], "", "axis 2, index 1 of 3 only"),
        ((2, 8, 3, 2), [(EVERY, slice(4))], "", "axis 1, indices 0–3 of 8 only"),
        (
            (2, 8, 3, 2),
            [(EVERY, EVERY, 0), (EVERY, EVERY, 2)],
            "",
            "axis 2, indices 0, 2 of 3 only",
        ),
        ((2, 8, 3, 2), [1], "BTHD", "axis 0 (row), index 1 of 2 only"),
        ((2, 8, 3, 2), [(EVERY, EVERY, 1)], "BTHD", "axis 2 (head), index 1 of 3 only"),
        ((2, 8, 3, 2), [(EVERY, slice(4))], "BTHD", "steps 1–4 of 1–8 (axis 1) only"),
        (
            (2, 6, 3),
            [(1, 4)],
            "BTI",
            "axis 0 (row), index 1 of 2 only; step 5 of 1–6 (axis 1) only",
        ),
        ((6, 3), [(EVERY, 2)], "TI", "axis 1 (feature), index 2 of 3 only"),
        ((2, 2, 2, 2, 3), [(..., 0)], "", "axis 4, index 0 of 3 only"),
        ((3, 4), [...], "", None),
        ((2, 3, 4), [...], "BTI", None),
        ((), [()], "", None),
        ((1,), [0], "", None),
    ],
)
def test_in_words(shape, places, letters, words):
    assert where_wrong(wrong_at(shape, *places), None, tuple(letters)).words == words


def test_nothing_wrong_is_nowhere():
    assert where_wrong(wrong_at((3, 4))).words is None


def test_as_data():
    axes = where_wrong(wrong_at((2, 6, 3), (1, 4)), None, ("B", "T", "I")).axes
    assert axes == [WrongAxis(0, 2, "B", [1]), WrongAxis(1, 6, "T", [4])]


def test_trivially_right_indices_are_no_clue():
    """Two of five columns cannot be wrong to be seen; of the other three all are."""
    telling = np.ones((3, 5), dtype=bool)
    telling[:, [1, 4]] = False
    wrong = telling.copy()
    assert where_wrong(wrong, telling).words is None
    wrong[:, 3] = False
    assert where_wrong(wrong, telling).words == "columns 0, 2 of 5 only"


@pytest.mark.parametrize("axis", range(4))
def test_trivially_right_indices_are_no_clue_along_any_axis(axis):
    telling = np.ones((3, 4, 3, 2), dtype=bool)
    np.moveaxis(telling, axis, 0)[0] = False
    assert where_wrong(telling.copy(), telling).words is None


def test_a_single_telling_entry_is_not_one_of_several():
    telling = wrong_at((3, 4), (1, 2))
    assert where_wrong(telling.copy(), telling).words is None
    assert where_wrong(telling.copy()).words == "one entry only"


def judged(given, true, letters=(), **walk):
    sides = (Side(given), Side(true))
    return compare(
        "W", "torch", *sides, Yardstick(1e-12, None, 16.0), Walk(letters=letters, **walk)
    )


def test_what_is_zero_on_both_sides_is_no_clue_to_the_comparator():
    true = np.outer([1.0, 2.0, 3.0], [1.0, 0.0, 1.0, 1.0, 0.0])
    assert judged(2 * true, true).where is None
    given = true.copy()
    given[:, 0] *= 2
    assert judged(given, true).where == "columns 0 of 5 only"


def test_what_is_zero_in_truth_and_given_is_a_clue():
    true = np.outer([1.0, 2.0, 3.0], [1.0, 0.0, 1.0])
    given = true + np.outer([1.0, 1.0, 1.0], [0.0, 1.0, 0.0])
    assert judged(given, true).where == "columns 1 of 3 only"


def test_what_has_vanished_below_the_allowed_error_is_no_clue():
    true = np.outer([1.0, 2.0], [1.0, 1e-15, 1.0])
    assert judged(2 * true, true).where is None


def test_steps_are_not_said_twice():
    true = np.ones((2, 6, 3))
    given = true.copy()
    given[1, 4] = 2
    shares = [value.swapaxes(0, 1) for value in (given, true)]
    sides = [Side(value, share) for value, share in zip((given, true), shares, strict=True)]
    walk = Walk(letters=("B", "T", "I"), axis=1)
    row = compare("x", "torch", *sides, Yardstick(1e-12, np.full(6, 1e-12), 16.0), walk)
    assert row.where == "axis 0 (row), index 1 of 2 only"
    assert "first wrong at step 5 (wrong: 5 of 1–6) along axis 1" in row.sentence()
    alone = compare("x", "torch", Side(given), Side(true), Yardstick(1e-12, None, 16.0), walk)
    assert "step 5 of 1–6 (axis 1) only" in alone.sentence()
    assert "walking back" not in alone.sentence()


def test_slices_that_are_no_steps_are_not_called_so():
    true = np.ones((2, 3))
    given = true.copy()
    given[1] += 1e-9
    sides = [Side(value, value) for value in (given, true)]
    yardstick = Yardstick(1.0, np.full(2, 1e-12), 16.0)
    row = compare("x", "torch", *sides, yardstick, Walk(axis=0, in_time=False))
    assert not row.passed
    assert row.wrong_slices == WrongAxis(0, 2, "", [1])
    assert "only in single slices" in row.sentence()
    assert "axis 0, index 1 of 2" in row.sentence()
    assert "step" not in row.sentence()
