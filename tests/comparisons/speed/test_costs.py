"""The other costs: their form, that equality comes first, and that what is timed is what it says;
no times.
"""

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from bptt_crosscheck.comparisons.speed import costs, memory, throughput
from bptt_crosscheck.comparisons.speed.costs import HAND
from bptt_crosscheck.comparisons.speed.throughput import NAMES, ContendersDisagree, Sizes, Spread

TINY = Sizes(3, 2, 3, 4, 3)


def is_a_spread(found):
    return isinstance(found, Spread) and 0 < found.low <= found.median <= found.high


@pytest.mark.parametrize("cell", NAMES)
def test_all_ways_to_the_jacobians_give_the_same(cell):
    runs = costs.jacobian_runs(throughput.task_of(cell, TINY, "float64"))
    size = 8 if cell == "lstm" else 4
    assert len(runs) == 3
    for who, run in runs.items():
        assert run().shape == (3, 2, size, size), who
    costs.must_be_equal(runs)


def test_a_jacobian_that_is_another_is_found():
    runs = costs.jacobian_runs(throughput.task_of("rnn", TINY, "float64"))
    with pytest.raises(ContendersDisagree, match="a cheat: the Jacobians are off by"):
        costs.must_be_equal(
            {HAND: runs[HAND], "a cheat": lambda: np.swapaxes(runs[HAND](), -1, -2)}
        )


def test_the_products_alone_are_the_products():
    steps = np.random.default_rng(0).normal(size=(4, 2, 3, 3))
    alone = costs.products_alone(steps)()
    for t, products in enumerate(costs.all_products(steps), start=1):
        assert len(products) == t
        np.testing.assert_array_equal(products, alone[t - 1])
    np.testing.assert_allclose(alone[3][1], steps[3] @ steps[2] @ steps[1], rtol=1e-13)


def test_every_section_has_lines_of_ratios():
    found = [
        *costs.step_jacobian_costs([TINY], 0),
        *costs.product_costs((3,), 0, steps=3),
        *costs.growth_costs(0, {"B": (TINY, Sizes(3, 4, 3, 4, 3))}),
    ]
    assert len(found) == 7
    for each in found:
        assert each.what
        assert each.sizes
        assert all(isinstance(value, Spread) for value in each.values.values())
    assert all(is_a_spread(value) for each in found[:4] for value in each.values.values())


def test_the_exponent_of_a_power_is_that_power(monkeypatch):
    sizes = [Sizes(T, 1, 2, 2, 2) for T in (10, 20, 40)]

    def exact(runs, seconds):
        seconds_of = {str(each): 1e-3 * each.steps**1.5 for each in sizes}
        return {name: np.full(3, seconds_of[name]) for name in runs}

    monkeypatch.setattr(costs, "interleaved", exact)
    (first, *_) = costs.growth_costs(0, {"T": sizes})
    assert first.values["exponent"].median == pytest.approx(1.5)


def test_a_verdict_is_timed_in_a_process_of_its_own():
    first, again = costs.verdict_costs(1, steps=2, hidden=2)
    for each in (first, again):
        assert all(is_a_spread(value) for value in each.values.values())
    assert (first.goal, again.goal) == ("< 1.5 s", "< 0.1 s")


def test_the_modules_whose_start_is_timed_are_all_there():
    names = costs.modules_of_manual()
    assert {"bptt_crosscheck.manual.cells.lstm", "bptt_crosscheck.manual.through_time.bptt"} <= set(
        names
    )
    assert all(find_spec(name) for name in names)


def test_the_start_is_timed_in_turns(monkeypatch):
    monkeypatch.setattr(costs, "_process", lambda *arguments: partial(sum, range(1000)))
    found = costs.start_costs(2, with_report=True)
    assert [each.what.split(",")[0] for each in found] == [
        "importing manual",
        "report.py --help",
        "report.py --quick",
    ]
    assert set(found[1].values) == {"seconds", "over import numpy"}


def test_the_sections_are_those_that_the_command_knows():
    from bptt_crosscheck.comparisons.speed.benchmark import GRADIENTS, SECTIONS

    assert [GRADIENTS, *costs.sections(True, 0)] == list(SECTIONS)


def test_memory_is_told_over_that_of_the_plain_gradient(monkeypatch):
    rows = [
        memory.PeakMemory(name, mebibytes, ratio)
        for name, mebibytes, ratio in (("by hand", 400.0, 1.0), ("a tape cut", 100.0, 1.5))
    ]
    monkeypatch.setattr(memory, "peaks", lambda sizes: rows)
    plain, other = costs.memory_costs(2_000)
    assert (
        plain.values["memory"].median,
        other.values["memory"].median,
        other.values["time"].median,
    ) == (1.0, 0.25, 1.5)
    assert other.sizes == "T = 2,000, 100 MiB"
