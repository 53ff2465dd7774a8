"""Records as plain data, and as JSON that a strict reader takes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from bptt_crosscheck.comparisons.plain_data import NONFINITE, json_text, plain, spelled


class Kind(Enum):
    """What a leaf is."""

    SMALL = "small"
    LARGE = "large"


class Place(NamedTuple):
    """Where a leaf is."""

    row: int
    column: int


@dataclass(frozen=True)
class Leaf:
    """A number of some kind."""

    value: float
    kind: Kind = Kind.SMALL


@dataclass(frozen=True)
class Branch:
    """Leaves, and where they came from."""

    leaves: tuple[Leaf, ...]
    source: Path = Path("a") / "b"
    named: Mapping[Any, Any] = field(default_factory=dict[Any, Any])


class SaysItself:
    """A record that says itself what it is."""

    def to_dict(self) -> dict[str, Any]:
        return {"told": math.nan}


def strictly(text: str) -> Any:
    """The data in it, where it is JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_strict_reader_refuses_what_python_writes_by_itself():
    with pytest.raises(AssertionError, match="NaN is not JSON"):
        strictly(json.dumps(math.nan))


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")],
)
def test_what_json_cannot_hold_is_spelled_at_every_depth(value, text):
    assert text in NONFINITE
    given = {"one": value, "list": [1.0, (value, {"deep": value})], "record": Leaf(value)}
    assert strictly(json_text(given)) == {
        "one": text,
        "list": [1.0, [text, {"deep": text}]],
        "record": {"value": text, "kind": "small"},
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_scalars_of_numpy_are_numbers(dtype):
    assert strictly(json_text([dtype(0.5), dtype(np.nan), dtype(-np.inf)])) == [
        0.5,
        "NaN",
        "-Infinity",
    ]


def test_numbers_keep_their_type_and_every_digit():
    told = strictly(json_text([np.int64(3), np.bool_(True), True, 2, 0.1 + 0.2, -0.0, 5e-324]))
    assert [type(each) for each in told] == [int, bool, bool, int, float, float, float]
    assert told == [3, True, True, 2, 0.1 + 0.2, 0.0, 5e-324]
    assert math.copysign(1.0, told[5]) == -1.0


def test_records_within_records():
    named = MappingProxyType({"k": Leaf(2.0, Kind.LARGE), 3: None})
    assert plain(Branch((Leaf(1.0),), named=named)) == {
        "leaves": [{"value": 1.0, "kind": "small"}],
        "source": str(Path("a") / "b"),
        "named": {"k": {"value": 2.0, "kind": "large"}, "3": None},
    }


def test_a_record_that_says_itself_what_it_is():
    assert strictly(json_text([SaysItself()])) == [{"told": "NaN"}]


def test_a_named_tuple_is_a_list():
    assert plain({"worst": Place(4, 1)}) == {"worst": [4, 1]}


def test_plain_data_stays_what_it_is():
    data = {"text": "NaN", "none": None, "numbers": [1, 2.5], "yes": True}
    assert plain(data) == spelled(data) == strictly(json_text(data)) == data


def test_letters_of_every_alphabet_stay_letters():
    assert json_text({"∂L/∂W": "wörtlich"}, indent=None) == '{"∂L/∂W": "wörtlich"}'


@pytest.mark.parametrize("text", ["\x1b[31m", "\x7f\x9b", "\u202e\u2028", "\udc80", "\U000e0001"])
def test_what_cannot_be_printed_is_escaped_and_comes_back(text):
    told = json_text({"name": f"é{text}"})
    assert all(letter.isprintable() or letter == "\n" for letter in told)
    assert strictly(told) == {"name": f"é{text}"}


def test_what_has_no_spelling_is_an_error():
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        json_text({"known": {1, 2}})
