"""The one way from records to plain data and to JSON.

JSON has no NaN and no infinities: they are written as the strings "NaN", "Infinity" and
"-Infinity".
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

NOT_A_NUMBER, INFINITE, MINUS_INFINITE = "NaN", "Infinity", "-Infinity"
NONFINITE = (NOT_A_NUMBER, INFINITE, MINUS_INFINITE)


def plain(value: Any) -> Any:
    """The value as dicts, lists, text, numbers, booleans and None; a record with a `to_dict` says
    itself what it is.
    """
    says_itself = getattr(value, "to_dict", None)
    if callable(says_itself):
        return says_itself()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        named = cast(Mapping[Any, Any], value)
        return {str(key): plain(item) for key, item in named.items()}
    if isinstance(value, list | tuple):
        items = cast(list[Any], value)
        return [plain(item) for item in items]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    scalar = getattr(value, "item", None)  # NumPy's
    return scalar() if callable(scalar) else cast(Any, value)


def spelled(value: Any) -> Any:
    """Plain data with NaN and infinities as text."""
    if isinstance(value, dict):
        named = cast(dict[str, Any], value)
        return {key: spelled(item) for key, item in named.items()}
    if isinstance(value, list):
        items = cast(list[Any], value)
        return [spelled(item) for item in items]
    if isinstance(value, float) and not math.isfinite(value):
        return _name_of(value)
    return value


def _name_of(value: float) -> str:
    if math.isnan(value):
        return NOT_A_NUMBER
    return INFINITE if value > 0 else MINUS_INFINITE


NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def json_text(value: Any, indent: int | None = 1) -> str:
    """JSON text of a record or of plain data; what cannot be printed is escaped."""
    made = spelled(plain(value))
    text = json.dumps(made, indent=indent, ensure_ascii=False, allow_nan=False)
    return NOT_ASCII.sub(_printable, text)


def _printable(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]
