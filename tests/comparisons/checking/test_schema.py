"""The schema that is shipped is that of the records, and reports keep to it."""

import copy
import json
import math

import jsonschema
import pytest
from bptt_crosscheck import check_cell, check_gradients
from bptt_crosscheck.comparisons.checking import schema
from bptt_crosscheck.comparisons.checking.environment import report_of

from tests.comparisons.small import (
    INPUTS,
    PARAMS,
    SIZES,
    TORCH,
    Elman,
    elman,
    gradients,
    loss,
    spoiled,
)

SCHEMA = json.loads(schema.FILE.read_text(encoding="utf-8"))


def must_keep(told):
    jsonschema.validate(told, SCHEMA, jsonschema.Draft202012Validator)


def test_the_file_is_that_of_the_types():
    assert schema.FILE.read_text(encoding="utf-8") == schema.text()


def test_the_file_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


WRONG = spoiled(step_backward=lambda p, c, d: elman("step_backward", p, (c[0], c[1], 0 * c[2]), d))
NAN = spoiled(
    step_backward=lambda p, c, d: (
        {name: math.nan * v for name, v in p.items() if name in "WU"},
        d["h"] @ p["W"],
        d,
    )
)


@pytest.mark.parametrize("cell", [Elman(), WRONG, NAN], ids=["right", "wrong", "NaN"])
def test_a_report_on_a_cell(cell):
    report = check_cell(cell, raise_exception=False, **SIZES, **TORCH)
    must_keep(json.loads(report.to_json()))


def test_a_report_on_what_cannot_be_asked():
    report = check_gradients(
        gradients, loss, {**PARAMS, "W": PARAMS["W"] * math.nan}, INPUTS, raise_exception=False
    )
    told = json.loads(report.to_json())
    assert told["errors"][0]["error"] == "NotFinite"
    must_keep(told)


def right():
    return json.loads(check_cell(Elman(), **SIZES, **TORCH).to_json())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.pop("passed"),
        lambda told: told.update(schema=2),
        lambda told: told["cases"][0].pop("rows"),
        lambda told: told["cases"][0]["rows"][0].pop("reason"),
        lambda told: told["cases"][0]["rows"][0].update(noise="small"),
        lambda told: told["cases"][0]["rows"][0].update(passed="yes"),
        lambda told: told["cases"][0].update(diagnosis=[{"mistake": "unknown"}]),
        lambda told: told.update(errors=["NotFinite"]),
    ],
)
def test_what_is_no_report_is_refused(spoil):
    told = copy.deepcopy(right())
    must_keep(told)
    spoil(told)
    with pytest.raises(jsonschema.ValidationError):
        must_keep(told)


def test_a_type_without_a_schema_is_an_error():
    with pytest.raises(TypeError, match="has no schema"):
        schema.schema_of(complex)


def test_an_empty_report_keeps_to_it_too():
    must_keep(json.loads(report_of([], 0, "float64").to_json()))
