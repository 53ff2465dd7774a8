"""Checks inside other programs: an event loop, a pool of threads, a notebook, a file run as a
script.
"""

import asyncio
import linecache
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
from bptt_crosscheck import check_cell, check_gradients
from bptt_crosscheck.comparisons.errors import CandidateFailed, DoesNotReturn

from tests.comparisons.small import INPUTS, PARAMS, SIZES, Elman, gradients, loss, numpy_loss


@pytest.mark.parametrize("timeout", [None, 100])
def test_within_an_event_loop(timeout):
    async def checks():
        here = check_cell(Elman(), timeout=timeout, **SIZES)
        beside = [
            asyncio.to_thread(check_cell, Elman(), seed=seed, timeout=timeout, **SIZES)
            for seed in range(2)
        ]
        numeric = asyncio.to_thread(check_gradients, gradients, numpy_loss, PARAMS, INPUTS)
        return [here, *await asyncio.gather(*beside, numeric)]

    assert all(report.passed for report in asyncio.run(checks()))


@pytest.mark.parametrize("timeout", [None, 100])
def test_code_that_runs_an_event_loop_of_its_own(timeout):
    async def later(params, inputs):
        await asyncio.sleep(0)
        return gradients(params, inputs)

    def derived(params, inputs):
        return asyncio.run(later(params, inputs))

    assert check_gradients(derived, loss, PARAMS, INPUTS, timeout=timeout).passed


def test_code_that_hangs_within_an_event_loop_leaves_the_loop_running():
    def hangs(params, inputs):
        while True:
            pass

    async def checks():
        with pytest.raises(DoesNotReturn):
            check_gradients(hangs, loss, PARAMS, INPUTS, timeout=0.3)
        return await asyncio.sleep(0, "on")

    assert asyncio.run(checks()) == "on"


@pytest.mark.parametrize("timeout", [None, 100])
def test_in_a_pool_of_threads(timeout):
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(check_cell, Elman(), timeout=timeout, **SIZES) for _ in range(6)]
    rows = [[case.rows for case in each.result().cases] for each in made]
    assert rows == [rows[0]] * 6


# A notebook: its cells are no files, its streams are no files, and its code is in __main__.

CELL = """
import numpy as np


class Mine:
    def parameter_shapes(self, I, H):
        return {"W": (H, I), "U": (H, H)}

    def state_shapes(self, H):
        return {"h": (H,)}

    def step(self, xp, params, state, x):
        print("at step")
        h = xp.tanh(x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": h}, (x, state["h"], h)

    def step_backward(self, params, cache, d_state):
        x, before, h = cache
        delta = (1 - h**2) * d_state["h"]
        return {"W": delta.T @ x, "U": delta.T @ before}, delta @ params["W"], {"h": BACK}
"""


class OutStream:
    """What a notebook has in place of a file: texts that are sent elsewhere."""

    def __init__(self):
        self.texts = []

    def write(self, text):
        self.texts.append(text)
        return len(text)

    def flush(self):
        pass


@pytest.fixture
def notebook(monkeypatch):
    """run(cell's text): what it defines, in a __main__ that has no file."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    names = []

    def run(text, name):
        monkeypatch.setattr(sys, "stdout", OutStream())
        monkeypatch.setattr(sys, "stderr", OutStream())
        lines = text.splitlines(keepends=True)
        linecache.cache[name] = (len(text), None, lines, name)
        names.append(name)
        exec(compile(text, name, "exec"), vars(main))
        return main

    yield run
    for name in names:
        linecache.cache.pop(name, None)


NAMES = ["<ipython-input-1-0123456789ab>", "/var/cache/ipykernel_1234/567890.py"]
in_every_notebook = pytest.mark.parametrize("name", NAMES)


@in_every_notebook
@pytest.mark.parametrize("timeout", [None, 100])
def test_a_cell_of_a_notebook(notebook, name, timeout):
    main = notebook(CELL.replace("BACK", 'delta @ params["U"]'), name)
    assert check_cell(main.Mine(), timeout=timeout, **SIZES).passed
    assert sys.stdout.texts == []
    assert sys.stderr.texts.count("at step") == 5
    main = notebook(CELL.replace("BACK", 'delta @ params["U"].T'), name)
    assert not check_cell(main.Mine(), timeout=timeout, raise_exception=False, **SIZES).passed


@in_every_notebook
def test_a_cell_of_a_notebook_that_fails_is_told_with_its_line(notebook, name):
    main = notebook(CELL.replace("BACK", "1 / 0"), name)
    with pytest.raises(CandidateFailed) as failed:
        check_cell(main.Mine(), **SIZES)
    assert "Mine.step_backward raised ZeroDivisionError" in str(failed.value)
    assert f"{name.rpartition('/')[2]}:20: return" in str(failed.value)


@in_every_notebook
def test_a_cell_of_a_notebook_that_hangs_is_told_with_its_line(notebook, name):
    main = notebook("def hangs(params, inputs):\n    while True:\n        pass\n", name)
    with pytest.raises(DoesNotReturn, match=rf"it was at {name.rpartition('/')[2]}:[23]: "):
        check_gradients(main.hangs, loss, PARAMS, INPUTS, timeout=0.3)


def test_a_report_is_shown_as_its_text():
    report = check_cell(Elman(), **SIZES)
    shown = []
    report._repr_pretty_(types.SimpleNamespace(text=shown.append), cycle=False)
    assert shown == [str(report)]
