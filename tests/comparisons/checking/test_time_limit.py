"""timeout=: a call of the code under test that does not return is ended, and its line said."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bptt_crosscheck import check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.checking.user_file import checks_in
from bptt_crosscheck.comparisons.errors import BadOption, CandidateFailed, DoesNotReturn

from tests.comparisons.small import (
    INPUTS,
    PARAMS,
    SIZES,
    TORCH,
    Elman,
    elman,
    gradients,
    loss,
    numpy_loss,
    outputs,
    spoiled,
    vjp,
)

LIMIT = 0.3
ENDED = []


def spin(*_):
    try:
        while True:
            pass
    finally:
        ENDED.append("spin")


def sleep(*_):
    time.sleep(LIMIT * 12)


def wait(*_):
    held = threading.Lock()
    held.acquire()
    held.acquire(timeout=LIMIT * 12)


def catch(*_):
    """Ends by the second exception that it is sent."""
    try:
        while True:
            pass
    except BaseException:
        while True:
            pass


HANGING = {
    "a loop": (spin, "pass"),
    "asleep": (sleep, "time.sleep(LIMIT * 12)"),
    "a lock": (wait, "held.acquire(timeout=LIMIT * 12)"),
    "one that catches all": (catch, "pass"),
}


def refused(part, of):
    """The text of the one error."""
    report = of()
    [error] = report.errors
    assert isinstance(error, DoesNotReturn)
    assert str(error).startswith(f"{part} did not return within {LIMIT:g} s: it was at {HERE}:")
    assert not report.passed
    return str(error)


HERE = Path(__file__).name
LIMITED = {"timeout": LIMIT, "raise_exception": False}


@pytest.mark.parametrize(("hang", "line"), HANGING.values(), ids=HANGING)
def test_whatever_it_hangs_in(hang, line):
    check_gradients(gradients, loss, PARAMS, INPUTS, **TORCH)  # what is imported once
    start = time.monotonic()
    told = refused(
        "gradients",
        lambda: check_gradients(lambda p, i: hang(), loss, PARAMS, INPUTS, **TORCH, **LIMITED),
    )
    assert time.monotonic() - start < LIMIT * 10
    assert told.endswith((f": {line}", ": while True:"))


@pytest.mark.parametrize("method", ["parameter_shapes", "state_shapes", "step", "step_backward"])
def test_wherever_a_cell_hangs(method):
    cell = spoiled(**{method: spin})
    refused(f"Spoiled.{method}", lambda: check_cell(cell, **SIZES, **TORCH, **LIMITED))


def in_torch_alone(xp, params, inputs):
    while xp is not np:
        pass
    return loss(xp, params, inputs)


def at_the_seventh_call(count=[0]):  # noqa: B006
    count[0] += 1
    if count[0] > 6:
        spin()


PARTS = {
    "gradients": lambda: check_gradients(spin, loss, PARAMS, INPUTS, **TORCH, **LIMITED),
    "loss": lambda: check_gradients(gradients, lambda p, i: spin(), PARAMS, INPUTS, **LIMITED),
    "loss ": lambda: check_gradients(gradients, in_torch_alone, PARAMS, INPUTS, **LIMITED),
    "setup": lambda: check_gradients(
        gradients, numpy_loss, PARAMS, INPUTS, setup=at_the_seventh_call, **LIMITED
    ),
    "vjp": lambda: check_vjp(spin, outputs, PARAMS, INPUTS, **TORCH, **LIMITED),
    "function": lambda: check_vjp(vjp, lambda p, i: spin(), PARAMS, INPUTS, **LIMITED),
}


@pytest.mark.parametrize("part", PARTS)
def test_wherever_a_function_hangs(part):
    if part == "setup":  # within an evaluation of the loss
        assert isinstance(PARTS[part]().errors[0], DoesNotReturn)
    else:
        refused(part.strip(), PARTS[part])


def test_it_is_raised():
    with pytest.raises(DoesNotReturn, match="gradients did not return"):
        check_gradients(spin, loss, PARAMS, INPUTS, **TORCH, timeout=LIMIT)


def test_a_loop_is_over_afterwards():
    ENDED.clear()
    check_gradients(spin, loss, PARAMS, INPUTS, **TORCH, **LIMITED)
    assert ENDED == ["spin"]


def test_the_time_is_that_of_one_call():
    """Many calls, each well within it, may take longer together."""

    def slow(params, inputs):
        time.sleep(0.02)
        return numpy_loss(params, inputs)

    start = time.monotonic()
    options = {"references": "complex step", "timeout": 1}
    assert check_gradients(gradients, slow, PARAMS, INPUTS, **options).passed
    assert time.monotonic() - start > 1


CHECKS = {
    "check_cell": lambda **options: check_cell(Elman(), **SIZES, **options),
    "check_gradients": lambda **options: check_gradients(
        gradients, loss, PARAMS, INPUTS, **options
    ),
    "check_vjp": lambda **options: check_vjp(vjp, outputs, PARAMS, INPUTS, **options),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_within_the_limit_the_report_is_the_same(check):
    limited, free = check(timeout=100), check()
    assert limited.passed
    assert [case.rows for case in limited.cases] == [case.rows for case in free.cases]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "1", True, 1j, 1e300])
def test_a_limit_that_is_none(seconds):
    [error] = check_cell(Elman(), **SIZES, timeout=seconds, raise_exception=False).errors
    assert isinstance(error, BadOption)
    assert "timeout is a number of seconds above 0" in str(error)


def test_what_it_raises_within_the_limit_comes_through():
    def fails(params, inputs):
        return 1 / 0

    with pytest.raises(CandidateFailed, match="raised ZeroDivisionError.*at test_time_limit.py"):
        check_gradients(fails, loss, PARAMS, INPUTS, timeout=100)


def test_an_interrupt_by_hand_comes_through():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_cell(spoiled(step=interrupted), **SIZES, **TORCH, timeout=100)


def test_a_check_within_a_check_keeps_to_the_outer_limit():
    def inner(params, inputs):
        check_gradients(lambda p, i: spin(), loss, PARAMS, INPUTS, timeout=100)

    refused("gradients", lambda: check_gradients(inner, loss, PARAMS, INPUTS, **TORCH, **LIMITED))


def test_what_it_prints_is_kept_too(capsys):
    def chatty(*arguments):
        print("at step")
        return elman("step", *arguments)

    assert check_cell(spoiled(step=chatty), **SIZES, **TORCH, timeout=100).passed
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("at step") == 5


FILES = {
    "the file": "while True: pass\n",
    "a cell's constructor": """
class Cell:
    def __init__(self):
        while True: pass
    def step(self): pass
    def step_backward(self): pass
""",
    "the example": """
def loss(params, inputs): pass
def gradients(params, inputs): pass
def example():
    while True: pass
""",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_that_hangs_before_anything_is_checked(text, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(DoesNotReturn, match=r"it was at mine.py:\d+: while True: pass"):
        [made() for made in checks_in(str(path), {}, {"timeout": LIMIT})]
