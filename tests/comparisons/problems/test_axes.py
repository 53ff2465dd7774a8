"""What the axes of arrays stand for: what can be declared, and what is refused in one line."""

import numpy as np
import pytest
from bptt_crosscheck.comparisons.errors import BadOption
from bptt_crosscheck.comparisons.problems.axes import (
    Layout,
    axis_word,
    declared_layout,
    shares_along,
    written_layout,
)

T, B, I, H = 6, 2, 3, 4  # noqa: E741
PARAMS = {"W": np.zeros((H, I)), "U": np.zeros((H, H))}
INPUTS = {"x": np.zeros((B, T, I)), "h_0": np.zeros((B, H)), "y": np.zeros((T, B))}
FOUR = {"q": np.zeros((B, T, H, I)), "k": np.zeros((B, T, H, I)), "s": np.zeros((B, H, I, I))}


@pytest.mark.parametrize(
    "given", ["BTI", "bti", "B T I", "b,t,i", ("B", "T", "I"), ["batch", "time", "I"]]
)
def test_letters_alone_are_those_of_x(given):
    layout = declared_layout(given, PARAMS, INPUTS)
    assert layout is not None
    assert dict(layout.letters) == {"x": ("B", "T", "I")}
    assert (layout.size("T"), layout.size("B"), layout.axis("x", "T")) == (T, B, 1)
    assert layout.axis("h_0", "T") is None


def test_arrays_by_name():
    layout = declared_layout({"x": "BTI", "y": "TB", "U": "HH"}, PARAMS, INPUTS)
    assert layout is not None
    assert (layout.axis("y", "T"), layout.axis("U", "T"), layout.size("T")) == (0, None, T)


def test_without_x_letters_are_those_of_all_arrays_like_the_first():
    for params, inputs in ((FOUR, {}), (PARAMS, FOUR)):
        layout = declared_layout("BTHD", params, inputs)
        assert layout is not None
        assert list(layout.letters) == ["q", "k"]


def test_nothing_declared_is_nothing_known():
    assert declared_layout(None, PARAMS, INPUTS) is None
    assert (Layout().size("T"), Layout().of("x"), Layout().axis("x", "B")) == (None, (), None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "a letter per axis"),
        ("", "a letter per axis"),
        ((), "a letter per axis"),
        ("BT", "2 axes, and x has 3: its shape is (2, 6, 3)"),
        ("BTID", "4 axes, and x has 3"),
        ("TTI", "two axes T"),
        ("BTB", "two axes B"),
        ("B1I", "is not a letter per axis"),
        (("B", None, "I"), "is not a letter per axis"),
        ({"z": "BT"}, "no input or param is called 'z'; there are W, U, x, h_0, y"),
        ({"x": "BTI", "y": "BT"}, "T is 6 in x and 2 in y"),
        ({"x": "TBI", "h_0": "BH"}, "B is 6 in x and 2 in h_0"),
        ({"x": 3}, "a letter per axis"),
    ],
)
def test_what_does_not_fit_is_refused(given, words):
    with pytest.raises(BadOption) as caught:
        declared_layout(given, PARAMS, INPUTS)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_letters_of_no_array_are_refused():
    with pytest.raises(BadOption, match="give a dict of name → letters"):
        declared_layout("BTHD", PARAMS, {"h_0": INPUTS["h_0"]})


@pytest.mark.parametrize(
    ("letters", "axis", "word"),
    [
        ("TBI", 0, "step"),
        ("TBI", 1, "row"),
        ("TBI", 2, "feature"),
        ("BTHD", 2, "head"),
        ("BTHD", 3, "feature"),
        ("BTH", 2, "unit"),
        ("BTC", 2, "C"),
        (("", "T"), 0, ""),
        ((), 1, ""),
    ],
)
def test_words_of_axes(letters, axis, word):
    assert axis_word(tuple(letters), axis) == word


def test_t_is_by_x_and_else_by_all_that_agree():
    shapes = {"x": (5, 2), "y": (7, 2), "z": (7,)}
    assert Layout({"x": ("T", "B"), "y": ("T", "B")}, shapes).size("T") == 5
    assert Layout({"y": ("T", "B"), "z": ("T",)}, shapes).size("T") == 7
    assert Layout({"y": ("T", "B"), "z": ("B",)}, shapes).size("B") is None, "they contradict"


def test_shares_have_time_in_front():
    arrays = {"x": np.arange(24.0).reshape(2, 3, 4), "h": np.zeros(3)}
    shares = shares_along(arrays, {"x": 1, "y": 0, "h": 1})
    assert list(shares) == ["x"]
    np.testing.assert_array_equal(shares["x"][2], arrays["x"][:, 2])


def test_what_stands_on_a_command_line():
    assert written_layout(None) is None
    assert written_layout("BTI") == "BTI"
    assert written_layout("x=BTI, h_0=BH") == {"x": "BTI", "h_0": "BH"}
