"""A user's name between its marks is nobody else's, and nobody sees the marks."""

from dataclasses import dataclass

import pytest
from bptt_crosscheck.comparisons.errors import BadContract
from bptt_crosscheck.comparisons.judging.verdict import Reason
from bptt_crosscheck.comparisons.problems.names import Role, a_name, is_marked, marked, shown

NAMES = ("W", "", "h_0", "W@t", "x", "a b", "a:b", "parameter:W", "state", "名", "'", "{0}", "%s")


@dataclass(frozen=True)
class Record:
    name: str
    others: list[str]
    by_name: dict[str, tuple[str, ...]]
    kind: Reason
    number: float = 0.0


def test_no_two_are_the_same():
    made = [marked(role, name) for role in Role for name in NAMES]
    derived = [f"{name}{suffix}" for name in made for suffix in ("", "_0", "@t", "_reverse")]
    derived += [f"cotangent_{name}" for name in made] + list(NAMES)
    assert len(set(derived)) == len(derived)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_name_is_shown(name):
    told = marked(Role.STATE, name)
    seen = name or "''"
    assert is_marked(told)
    assert not is_marked(f"{told}_0")
    assert shown(told) == seen
    assert shown(f"∂L/∂{told}_t of {told}_0") == f"∂L/∂{seen}_t of {seen}_0"


def test_everywhere_in_a_record():
    name = marked(Role.PARAMETER, "W")
    record = Record(name, [f"d_{name}"], {name: (name, "x")}, Reason.DIFFERS, 1.0)
    assert shown(record) == Record("W", ["d_W"], {"W": ("W", "x")}, Reason.DIFFERS, 1.0)
    assert shown(record).kind is Reason.DIFFERS


@pytest.mark.parametrize("name", ["⟮", "a⟯", "\n", "\x1b[0m", "\ud800", 0, None, ("W",), b"W"])
def test_what_cannot_be_a_name(name):
    with pytest.raises(BadContract, match="parameter_shapes: "):
        a_name("parameter_shapes", name)
