"""The device on which references compute: the CPU, one that is missing, and CUDA where there is
one.
"""

import numpy as np
import pytest
import torch
from bptt_crosscheck import check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.errors import MissingDevice
from bptt_crosscheck.comparisons.witnesses.engines import computing_on, select
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.reference import devices
from bptt_crosscheck.reference.by_torch import torch_autograd

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
MISSING = "cuda" if not torch.cuda.is_available() else f"cuda:{torch.cuda.device_count()}"


def square(xp, p, i):
    return xp.sum(p["a"] ** 2)


def twice(p, i):
    return {"a": 2 * p["a"]}


GIVEN = ({"a": np.array([0.5, -2.0])}, {})


@pytest.mark.parametrize("reference", ["torch", "jax", "torch.nn", "forward"])
def test_a_device_that_is_missing_is_refused_by_name(reference):
    with (
        pytest.raises(
            MissingDevice,
            match=rf"^{reference} cannot compute on '{MISSING}' here: .+ the device cpu$",
        ),
        computing_on(MISSING, select((reference,))),
    ):
        raise AssertionError("entered")


def test_the_checks_refuse_it():
    for check in (
        lambda device: check_cell(LSTM(), references=["torch"], device=device),
        lambda device: check_gradients(twice, square, *GIVEN, references=["jax"], device=device),
        lambda device: check_vjp(
            lambda p, i, c: {"a": 2 * p["a"] * c},
            lambda xp, p, i: p["a"] ** 2,
            *GIVEN,
            device=device,
        ),
    ):
        with pytest.raises(MissingDevice):
            check(MISSING)
    assert check_gradients(twice, square, *GIVEN, device="cpu").passed


def test_numeric_references_compute_where_numpy_does():
    assert check_gradients(
        twice, lambda p, i: np.sum(p["a"] ** 2), *GIVEN, references=["complex step"], device=MISSING
    ).passed


def test_the_choice_ends_with_its_block():
    with devices.on("meta"):
        assert devices.chosen() == "meta"
        assert torch_autograd.tensor(np.ones(3)).device.type == "meta"
    assert devices.chosen() == "cpu"
    assert torch_autograd.tensor(np.ones(3)).device.type == "cpu"


def test_what_the_equations_make_themselves_is_there_too():
    """xp.zeros within the equations lies where the variables do: on "meta", where tensors have
    shapes and no numbers.
    """
    seen = []

    def forward(leaves, fixed):
        seen.extend([torch.zeros(3).device.type, leaves["a"].device.type])
        return leaves["a"].sum(), {}

    with devices.on("meta"), pytest.raises((NotImplementedError, RuntimeError)):
        torch_autograd.differentiate(forward, {"a": np.ones(3)}, {})
    assert seen == ["meta", "meta"]


@needs_cuda
@pytest.mark.parametrize("reference", ["torch", "torch.nn", "jax"])
def test_references_on_cuda(trial, reference):
    case = trial("lstm")
    (engine,) = select((reference,))
    here = engine.answer(case.problem)
    with computing_on("cuda", (engine,)):
        there = engine.answer(case.problem)
    for name, value in here.gradients.items():
        np.testing.assert_allclose(
            there.gradients[name], value, rtol=0, atol=1e-12 * np.abs(value).max()
        )
