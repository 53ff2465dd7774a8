"""What torch keeps for the process, set for a thread: the same numbers as if it were set for all,
and no other thread notices.
"""

import threading

import array_api_compat.torch as xp
import numpy as np
import pytest
import torch
from bptt_crosscheck.reference.by_torch.locally import in_default_dtype, on_one_thread

BYTES = np.array([1, 2, 3])
INTEGERS = torch.arange(1, 4)
TRUTHS = torch.tensor([True, False, True])
SINGLE, DOUBLE = torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.2], dtype=torch.float64)

# What is made of nothing but Python's numbers, integers and truth values.
MADE = {
    "zeros": lambda: torch.zeros(2),
    "ones": lambda: torch.ones((2, 3)),
    "ones of xp": lambda: xp.ones(3),
    "eye": lambda: xp.eye(2),
    "full": lambda: torch.full((2,), 0.1),
    "full of xp": lambda: xp.full((2,), 0.1),
    "full of integers": lambda: torch.full((2,), 3),
    "linspace": lambda: xp.linspace(0, 1, 7),
    "logspace": lambda: torch.logspace(0, 1, 7),
    "arange": lambda: xp.arange(0.1, 1.0, 0.1),
    "arange of integers": lambda: xp.arange(3),
    "tensor": lambda: torch.tensor(0.1),
    "tensor of a list": lambda: torch.tensor([[0.1, 2], [3, 4]]),
    "tensor of integers": lambda: torch.tensor([1, 2]),
    "tensor of NumPy's float64": lambda: torch.tensor(np.float64(0.1)),
    "tensor of NumPy's float32": lambda: torch.tensor(np.float32(0.1)),
    "tensor of float32 numbers": lambda: torch.tensor(np.float32([0.1, 0.2])),
    "asarray": lambda: xp.asarray(0.1),
    "asarray of a list": lambda: xp.asarray([0.1, 0.2]),
    "asarray of integers": lambda: xp.asarray(BYTES),
    "as_tensor": lambda: torch.as_tensor([0.1]),
    "as_tensor of a named dtype": lambda: torch.as_tensor([0.1], dtype=torch.float32),
    "scalar": lambda: torch.scalar_tensor(0.1),
    "named dtype": lambda: torch.zeros(2, dtype=torch.float32),
    "no dtype": lambda: torch.zeros(2, dtype=None),
    "window": lambda: torch.hann_window(5),
    "times": lambda: INTEGERS * 0.1,
    "times from the right": lambda: 0.1 * INTEGERS,
    "over": lambda: INTEGERS / 3,
    "one over": lambda: 1 / INTEGERS,
    "minus": lambda: 0.1 - INTEGERS,
    "truths times": lambda: TRUTHS * 0.1,
    "power": lambda: INTEGERS**0.5,
    "sine": lambda: torch.sin(INTEGERS),
    "root by method": lambda: INTEGERS.sqrt(),
    "exponential of xp": lambda: xp.exp(INTEGERS),
    "sigmoid": lambda: torch.sigmoid(INTEGERS),
    "where of floats": lambda: torch.where(TRUTHS, 0.1, 0.2),
    "where of xp": lambda: xp.where(TRUTHS, xp.asarray(0.1), xp.asarray(0.2)),
    "where of a float and integers": lambda: torch.where(TRUTHS, 0.1, INTEGERS),
    "where by method": lambda: INTEGERS.where(TRUTHS, 0.1),
    "clamped": lambda: INTEGERS.clamp(0.1, 2.5),
    "converted": lambda: INTEGERS.float(),
    "converted by type": lambda: INTEGERS.to(torch.float32),
    "mean of named dtype": lambda: torch.mean(INTEGERS, dtype=torch.float32),
    "single": lambda: SINGLE * 0.1,
    "single with integers": lambda: SINGLE * INTEGERS[:2],
    "single and double": lambda: SINGLE + DOUBLE,
    "like": lambda: torch.zeros_like(SINGLE),
    "new": lambda: INTEGERS.new_zeros(2),
    "in a function": lambda: torch.nn.functional.relu(INTEGERS / 3),
    "two steps": lambda: torch.sin(INTEGERS / 3) + torch.zeros(3),
    "under vmap": lambda: torch.vmap(lambda i: torch.ones(2) * i)(INTEGERS),
}

# torch has no default complex dtype for all of them.
MADE_COMPLEX = {
    "number": lambda: torch.tensor(0.1j),
    "list": lambda: torch.tensor([0.1j, 1]),
    "integers times complex": lambda: INTEGERS * 0.1j,
}


def with_default(dtype, make):
    """As if it were set for all threads."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_numbers_are_those_under_torch_s_own_setting(make, dtype):
    wanted = with_default(dtype, make)
    with in_default_dtype(dtype):
        found = make()
        assert torch.get_default_dtype() == torch.float32
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("make", MADE_COMPLEX.values(), ids=MADE_COMPLEX)
def test_complex_numbers_too(make):
    wanted = with_default(torch.float64, make)
    with in_default_dtype(torch.float64):
        found = make()
    assert found.dtype == wanted.dtype == torch.complex128
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["tensor", "times", "where of floats", "over", "arange"])
def test_without_it_digits_are_lost(name):
    """The twin: what the context is for."""
    wanted = with_default(torch.float64, MADE[name])
    assert not torch.equal(MADE[name]().double(), wanted)


@pytest.mark.parametrize("draw", [lambda: torch.rand(3), lambda: torch.randn(3)])
def test_random_numbers_are_drawn_once(draw):
    def drawn():
        torch.manual_seed(1)
        return torch.stack([draw(), draw()])

    state = torch.random.get_rng_state()
    wanted = with_default(torch.float64, drawn)
    with in_default_dtype(torch.float64):
        found = drawn()
    torch.random.set_rng_state(state)
    assert torch.equal(found, wanted)


def test_no_other_thread_notices():
    seen = []

    def look():
        seen.append((torch.zeros(1).dtype, (INTEGERS / 3).dtype, torch.get_num_threads()))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with in_default_dtype(torch.float64), on_one_thread(wanted=True):
            assert torch.get_num_threads() == 1
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        look()
    finally:
        torch.set_num_threads(before)
    assert seen == [(torch.float32, torch.float32, 2)] * 2
