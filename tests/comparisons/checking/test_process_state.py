"""What belongs to the whole process is during and after a check what it was before: looked at from
a thread that begins meanwhile, in every call of the code under test.
"""

import contextlib
import io
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from bptt_crosscheck import check_cell, check_gradients, check_vjp

from tests.comparisons.small import INPUTS, PARAMS, SIZES, Elman, gradients, loss, outputs, vjp

AUTODIFF = ("torch", "jax")
NUMERIC = ("complex step", "differences")


def of_python():
    """What Python keeps for all threads."""
    return {
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "print": print,
        "displayhook": sys.displayhook,
        "excepthook": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "sys.path": list(sys.path),
        "meta path": list(sys.meta_path),
        "environ": dict(os.environ),
        "folder": Path.cwd(),
        "modules": {name: sys.modules.get(name) for name in BEFORE},
        "warning filters": list(warnings.filters),
        "warnings": (warnings.showwarning, warnings.formatwarning, warnings.warn),
        "random": random.getstate(),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        "locale": locale.setlocale(locale.LC_ALL),
    }


def of_numpy():
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "numpy random": (kind, keys.tobytes(), *rest),
        "errstate": np.geterr(),
        "printing": np.get_printoptions(),
    }


def of_frameworks():
    return {
        "torch dtype": torch.get_default_dtype(),
        "torch device": torch.get_default_device(),
        "torch random": torch.random.get_rng_state().numpy().tobytes(),
        "torch threads": torch.get_num_threads(),
        "torch gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch strictness": torch.are_deterministic_algorithms_enabled(),
        "torch kernels": (torch.backends.mkldnn.enabled, torch.get_float32_matmul_precision()),
        "torch anomalies": torch.is_anomaly_enabled(),
        "jax": {
            name: value for name, value in jax.config.values.items() if name != "jax_dump_ir_to"
        },
        "jax x64": jax.config.jax_enable_x64,
        "jax array": jax.numpy.zeros(1).dtype,
    }


BEFORE = frozenset(sys.modules)


def state():
    return {**of_python(), **of_numpy(), **of_frameworks()}


def seen_by_another_thread():
    """The state as a thread sees it that begins now."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(state()))
    thread.start()
    thread.join()
    return seen[0]


def changed(before, after):
    return [name for name, value in before.items() if value != after[name]]


class Watch:
    """Functions that look at the state whenever they are called, from another thread."""

    def __init__(self):
        self.before = seen_by_another_thread()
        self.looks = 0
        self.found = set()

    def look(self):
        self.looks += 1
        if self.looks < 20 or self.looks % 50 == 0:  # of the many for differences, not each
            self.found |= set(changed(self.before, seen_by_another_thread()))

    def of(self, function):
        """The function, watched; its first parameter is still called xp where it was."""
        if function in (loss, outputs):

            def watched(xp, params, inputs):
                self.look()
                print("watched")
                return function(xp, params, inputs)

        else:

            def watched(*given):
                self.look()
                print("watched")
                return function(*given)

        return watched


def numpy_only(function):
    return lambda params, inputs: function(np, params, inputs)


def cell(watch, references, **options):
    made = Elman()
    made.step, made.step_backward = watch.of(made.step), watch.of(made.step_backward)
    return check_cell(made, references=references, **SIZES, **options)


def gradients_of(watch, references, **options):
    forward = numpy_only(watch.of(loss)) if set(references) <= set(NUMERIC) else watch.of(loss)
    given = watch.of(gradients)
    return check_gradients(given, forward, PARAMS, INPUTS, references=references, **options)


def products_of(watch, references, **options):
    forward = (
        numpy_only(watch.of(outputs)) if set(references) <= set(NUMERIC) else watch.of(outputs)
    )
    return check_vjp(watch.of(vjp), forward, PARAMS, INPUTS, references=references, **options)


CHECKS = {"check_cell": cell, "check_gradients": gradients_of, "check_vjp": products_of}
ASKED = [(name, [reference]) for name in CHECKS for reference in (*AUTODIFF, *NUMERIC)]
ASKED += [("check_cell", ["forward"]), ("check_cell", ["proof"]), ("check_cell", [*AUTODIFF])]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "references"), ASKED, ids=lambda value: str(value))
def test_nothing_of_the_process_changes(name, references, two_threads):
    CHECKS[name](Watch(), references)  # whatever is imported when first asked for
    watch = Watch()
    mine = state()
    assert CHECKS[name](watch, references).passed
    assert watch.looks > 3
    assert watch.found == set()
    assert changed(mine, state()) == []
    assert "write" not in vars(sys.stdout)
    assert changed(watch.before, seen_by_another_thread()) == []


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_nor_in_a_lower_precision(precision, two_threads):
    cell(Watch(), ["torch"], dtype=precision)
    watch = Watch()
    assert cell(watch, ["torch"], dtype=precision).passed
    assert watch.found == set()


def test_nor_where_it_fails():
    def fails(*given):
        raise ZeroDivisionError

    watch = Watch()
    mine = state()
    report = check_gradients(fails, watch.of(loss), PARAMS, INPUTS, raise_exception=False)
    assert [type(error).__name__ for error in report.errors] == ["CandidateFailed"]
    assert changed(mine, state()) == []
    assert watch.found == set()


def test_nor_by_four_threads_side_by_side(two_threads):
    check_cell(Elman(), **SIZES)
    before, mine = seen_by_another_thread(), state()
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(check_cell, Elman(), seed=seed, **SIZES) for seed in range(8)]
        made += [pool.submit(gradients_of, Watch(), [*NUMERIC], seed=seed) for seed in range(4)]
        assert all(each.result().passed for each in made)
    assert changed(mine, state()) == []
    assert changed(before, seen_by_another_thread()) == []


def test_other_threads_print_as_ever_meanwhile(capsys):
    def prints(params, inputs):
        thread = threading.Thread(target=print, args=("of another thread",))
        thread.start()
        thread.join()
        return gradients(params, inputs)

    assert check_gradients(prints, loss, PARAMS, INPUTS, references="torch").passed
    out, err = capsys.readouterr()
    assert set(out.splitlines()) == {"of another thread"}
    assert len(out.splitlines()) > 1
    assert err == ""


# The twins: what the snapshot must see.


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextlib.contextmanager
def a_path():
    sys.path.append("nowhere")
    yield
    sys.path.remove("nowhere")


@contextlib.contextmanager
def a_variable():
    os.environ["OF_NO_USE"] = "1"
    yield
    del os.environ["OF_NO_USE"]


@contextlib.contextmanager
def errors_as_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImportWarning)
        yield


@contextlib.contextmanager
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def drawing(draw):
    @contextlib.contextmanager
    def drawn():
        draw()
        yield

    return drawn


PLANTED = {
    "stdout": lambda: contextlib.redirect_stdout(io.StringIO()),
    "stderr": lambda: contextlib.redirect_stderr(io.StringIO()),
    "torch dtype": default_dtype,
    "torch threads": one_thread,
    "torch random": drawing(lambda: torch.rand(1)),
    "numpy random": drawing(np.random.rand),
    "random": drawing(random.random),
    "warning filters": errors_as_warnings,
    "sys.path": a_path,
    "environ": a_variable,
    "jax x64": x64,
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_change_is_seen_from_another_thread(name, two_threads):
    watch = Watch()
    with PLANTED[name]():
        for _ in range(3):
            watch.look()
    assert name in watch.found
    watch = Watch()
    watch.look()
    assert watch.found == set()
