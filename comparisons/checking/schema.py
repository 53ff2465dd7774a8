"""The JSON Schema of a report, read off the types of its records.

    python -m bptt_crosscheck.comparisons.checking.schema > comparisons/checking/report.schema.json

writes the file that is shipped; a test holds it to the types, and every report of the tests to it.
A float is a number or one of the strings that stand for what JSON cannot hold. Later versions add
keys; they rename none.
"""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import QuestionError
from ..judging.verdict import IN_WORDS, Verdict
from ..plain_data import NONFINITE
from ..witnesses.left_out import LeftOut
from .case_report import CaseReport
from .report_data import SCHEMA, Report
from .training_row import TrainingRow

FILE = Path(__file__).with_name("report.schema.json")
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"anyOf": [{"type": "number"}, {"enum": list(NONFINITE)}]}
BOOLEAN: Schema = {"type": "boolean"}

# Records that say something else of themselves than their fields: what they leave out, what they
# add.
WITHOUT: dict[type, Sequence[str]] = {Verdict: IN_WORDS, TrainingRow: ("settings",)}
BESIDES: dict[type, Mapping[str, Schema]] = {
    Verdict: {"reason": {"anyOf": [TEXT, {"type": "null"}]}, "passed": BOOLEAN},
    CaseReport: {"passed": BOOLEAN},
    TrainingRow: {"passed": BOOLEAN},
    Report: {"schema": {"const": SCHEMA}, "passed": BOOLEAN},
}

# Types that are told as something simpler than a record.
TOLD_AS: dict[type, Schema] = {
    str: TEXT,
    bool: BOOLEAN,
    int: {"type": "integer"},
    float: NUMBER,
    type(None): {"type": "null"},
    LeftOut: TEXT,
    QuestionError: {
        "type": "object",
        "properties": {"error": TEXT, "text": TEXT},
        "required": ["error", "text"],
    },
}


def schema_of(told: Any) -> Schema:
    """The schema of what a type is written as."""
    if told is Any:
        return {}
    if told in TOLD_AS:
        return TOLD_AS[told]
    origin, arguments = get_origin(told), get_args(told)
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(each) for each in arguments]}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if isinstance(told, type) and issubclass(told, Enum):
        return {"enum": [each.value for each in told]}
    if isinstance(told, type) and hasattr(told, "__dataclass_fields__"):
        return _schema_of_record(told)
    raise TypeError(f"{told} has no schema")


def _schema_of_record(record: type) -> Schema:
    hints = get_type_hints(record)
    properties: dict[str, Schema] = {}
    for each in fields(record):
        if each.name not in WITHOUT.get(record, ()):
            properties[each.name] = schema_of(hints[each.name])
    properties |= BESIDES.get(record, {})
    return {"type": "object", "properties": properties, "required": list(properties)}


def report_schema() -> Schema:
    """The schema of `Report.to_dict()`."""
    return {"$schema": DIALECT, "title": "bptt-crosscheck report", **schema_of(Report)}


def text() -> str:
    """The schema as it is shipped."""
    return json.dumps(report_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
