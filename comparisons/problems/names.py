"""Names that a user's cell gives, kept apart from ours.

A problem names its arrays by text, "x", "h_0", "mask", "W_hh@t", and a user may call a parameter
or a state just so. At the door every such name is put between marks that no user's name holds,
⟮parameter:x⟯ or ⟮state:h⟯. What is derived from it, ⟮state:h⟯_0 say, is then a name that nobody
else can make, and nothing of the user's is ever read out of a text. `shown` takes the marks away
from all that a person reads.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from typing import Any, cast

from ..errors import BadContract

OPEN, CLOSE = "⟮", "⟯"
MARKED = re.compile(f"{OPEN}[a-z]+:([^{OPEN}{CLOSE}]*){CLOSE}")


class Role(StrEnum):
    """What a name from outside is the name of."""

    PARAMETER = "parameter"
    STATE = "state"


def marked(role: Role, name: str) -> str:
    """The name by which we know what the user calls `name`."""
    return f"{OPEN}{role}:{name}{CLOSE}"


def a_name(part: str, name: Any) -> str:
    """The user's name as a plain text.

    Raises BadContract for what is no text, and for one that cannot be printed or marked.
    """
    if not isinstance(name, str):
        raise BadContract(f"{part}: a name is a text, not a {type(name).__name__}")
    if not name.isprintable() or OPEN in name or CLOSE in name:
        raise BadContract(
            f"{part}: the name {name[:60]!a} holds a character that cannot be printed, or {OPEN} "
            f"or {CLOSE}: take another"
        )
    return str(name)


def shown(value: Any) -> Any:
    """The value, a text, a record or a collection of such, with the user's names as the user has
    them.
    """
    if isinstance(value, str):
        return MARKED.sub(_plainly, value) if OPEN in value else value
    if isinstance(value, Mapping):
        named = cast(Mapping[Any, Any], value)
        return {shown(name): shown(item) for name, item in named.items()}
    if isinstance(value, list):
        return [shown(item) for item in cast(list[Any], value)]
    if type(value) is tuple:
        return tuple(shown(item) for item in cast(tuple[Any, ...], value))
    if is_dataclass(value) and not isinstance(value, type):
        told = {each.name: shown(getattr(value, each.name)) for each in fields(value) if each.init}
        return replace(value, **told)
    return value


def _plainly(found: re.Match[str]) -> str:
    return found.group(1) or "''"


def is_marked(name: str) -> bool:
    """Whether it is just what the user calls something, with nothing derived from it."""
    return MARKED.fullmatch(name) is not None
