"""The comparison of memory.

That all contenders give one gradient, and that what each of them takes is told.
"""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.speed import memory
from bptt_crosscheck.comparisons.speed.memory import (
    CHECKPOINTED,
    CONTENDERS,
    PLAIN,
    LstmSizes,
    ProcessFailed,
)
from bptt_crosscheck.manual.through_time import checkpointing
from bptt_crosscheck.reference.by_jax import jax_checkpoint
from bptt_crosscheck.reference.by_jax.jax_throughput import STEPS

from tests.closeness import ROUNDING, relative_error

TINY = LstmSizes(steps=23, batch=2, input_size=3, hidden_size=4)


@pytest.fixture
def blocks_of_four(monkeypatch):
    monkeypatch.setattr(checkpointing, "BLOCK", 4)
    monkeypatch.setattr(checkpointing, "ROWS", 0)


@pytest.mark.parametrize(
    "sizes", [TINY, replace(TINY, steps=1)], ids=lambda sizes: str(sizes.steps)
)
def test_all_contenders_give_the_same_gradient(sizes, blocks_of_four):
    task = memory.task_of(sizes)
    plain = memory.gradient_of(PLAIN, task)()
    assert plain.keys() == task.variables.keys()
    for name in CONTENDERS[1:]:
        found = memory.gradient_of(name, task)()
        assert found.keys() == plain.keys()
        assert max(relative_error(found[key], value) for key, value in plain.items()) <= ROUNDING, (
            name
        )


def test_with_checkpoints_it_is_the_same_gradient_to_the_last_bit(blocks_of_four):
    task = memory.task_of(TINY)
    plain, found = (memory.gradient_of(name, task)() for name in (PLAIN, CHECKPOINTED))
    assert all(np.array_equal(found[key], value) for key, value in plain.items())


@pytest.mark.parametrize("cell", [cell for cell in STEPS if cell != "lstm"])
def test_a_scan_of_scans_is_the_scan(cell):
    rng, gates = np.random.default_rng(0), {"rnn": 1, "lstm": 4, "gru": 3}[cell]
    shapes = {"W_xh": (4 * gates, 3), "W_hh": (4 * gates, 4), "h_0": (2, 4), "x": (23, 2, 3)}
    shapes |= (
        {"b_x": (4 * gates,), "b_hh": (4 * gates,)} if cell == "gru" else {"b_h": (4 * gates,)}
    )
    shapes |= {"c_0": (2, 4)} if cell == "lstm" else {}
    variables, weights = (
        {name: rng.normal(size=shape) for name, shape in shapes.items()},
        rng.normal(size=(23, 2, 4)),
    )
    plain, found = (
        jax_checkpoint.gradient(cell, variables, weights, which)() for which in (False, True)
    )
    assert all(relative_error(found[key], value) <= ROUNDING for key, value in plain.items())
    assert all(value.dtype == np.float64 for value in found.values())


def test_each_has_a_row_of_its_own_process():
    names = (PLAIN, CHECKPOINTED)
    rows = memory.peaks(replace(TINY, steps=6000, hidden_size=32), names)
    assert tuple(row.contender for row in rows) == names
    assert rows[0].seconds_ratio == 1
    assert rows[1].mebibytes < 0.7 * rows[0].mebibytes
    assert all(row.mebibytes > 0 for row in rows)


def test_a_process_that_fails_is_told():
    with pytest.raises(ProcessFailed, match="at least one step"):
        memory.peaks(replace(TINY, steps=0), (PLAIN,))
