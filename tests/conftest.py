"""The architecture is tested first; then what several folders need: an unrolled cell."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

# Before any BLAS is loaded: each worker of pytest-xdist has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jsonschema
import numpy as np
import pytest
from bptt_crosscheck.comparisons.checking.report_data import Report
from bptt_crosscheck.comparisons.places import ROOT
from bptt_crosscheck.reference import equations

T, B, I, V = 3, 2, 3, 5  # noqa: E741


@pytest.fixture(scope="session", autouse=True)
def reports_keep_to_their_schema() -> Iterator[None]:
    """Whatever JSON of a report a test makes is held against the schema that is shipped."""
    schema = json.loads((ROOT / "comparisons/checking/report.schema.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    to_json = Report.to_json

    def validated(report: Report) -> str:
        text = to_json(report)
        validator.validate(json.loads(text))
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "to_json", validated)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != "test_layering.py")


def numpy_scan(body: Any, state: Mapping[str, Any], per_step: Mapping[str, Any]) -> dict[str, Any]:
    """The time loop for real or complex NumPy arrays."""
    states = []
    for t in range(len(per_step["x"])):
        state = body(state, {name: value[t] for name, value in per_step.items()})
        states.append(state)
    return {name: np.stack([state[name] for state in states]) for name in states[0]}


@dataclass(frozen=True)
class Unrolled:
    """A step unrolled and read, and arrays to ask it at."""

    step: Callable[..., Any]
    readout: Callable[..., Any]
    function: Callable[..., Any]
    variables: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray]

    @property
    def params(self) -> dict[str, np.ndarray]:
        return {name: self.variables[name] for name in ("W_xh", "W_hh", "b_h")}

    @property
    def x(self) -> np.ndarray:
        return {**self.constants, **self.variables}["x"]

    def in_numpy(self, **moved: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
        """(value, states), some variables replaced."""
        return self.function(np, numpy_scan, {**self.variables, **moved}, self.constants)


@cache
def _function(
    activation: str, readout: str, options: tuple[tuple[str, str], ...]
) -> tuple[Any, Any, Any]:
    step = equations.bound_step("rnn", {"activation": activation})
    read = equations.bound_readout(readout, dict(options))
    return step, read, equations.SequenceLoss(step, read, ("W_xh", "W_hh", "b_h"), ("h",), "@t")


@pytest.fixture(scope="session", name="numpy_scan")
def fixture_numpy_scan() -> Callable[..., Any]:
    return numpy_scan


@pytest.fixture(scope="session")
def unrolled() -> Callable[..., Unrolled]:
    """unrolled(activation, readout, reduction, tokens, dtype, H, seed); the same equations give
    the same function object.
    """

    def build(
        activation="tanh",
        readout="squared-error",
        reduction="mean",
        tokens=False,
        dtype="float64",
        H=4,
        seed=7,
    ) -> Unrolled:
        rng = np.random.default_rng(seed)
        shapes = {
            "W_xh": (H, I),
            "W_hh": (H, H),
            "b_h": (H,),
            "W_hy": (V, H),
            "b_y": (V,),
            "x": (T, B, I),
            "h_0": (B, H),
        }
        variables = {
            name: (0.7 * rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()
        }
        variables["b_h"] += 1  # no unit of a relu is dead at every step
        for name in ("W_xh", "W_hh", "b_h"):
            variables[f"{name}@t"] = np.zeros((T, *shapes[name]), dtype)
        variables["h@t"] = np.zeros((T, B, H), dtype)
        constants = {
            "mask": np.array([[1, 0], [1, 1], [0, 1]], dtype),
            "cotangent_h": rng.normal(size=(T, B, H)).astype(dtype),
        }
        indices, rows = rng.integers(0, V, (T, B)), rng.normal(size=(T, B, V)).astype(dtype)
        constants["target"] = indices if readout == "softmax-cross-entropy" else rows
        if readout == "projection":
            del variables["W_hy"], variables["b_y"]
        if tokens:
            del variables["x"]
            constants["x"] = rng.integers(0, I, (T, B))
        options = () if readout == "projection" else (("reduction", reduction),)
        for array in (*variables.values(), *constants.values()):
            array.setflags(write=False)
        return Unrolled(*_function(activation, readout, options), variables, constants)

    return build
