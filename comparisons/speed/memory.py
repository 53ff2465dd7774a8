"""How much memory the gradient of a long run takes.

With a tape of all steps and with checkpoints, by hand and by jax.

The question is the gradient for every parameter, x and the initial state, of a loss that reads h
at every step through given weights, L = Σ_t ⟨C_t, h_t⟩, in float64. Each contender runs in a
process of its own, once; told is the most memory that it ever had, less that of a process which
only imports the same modules and draws the same numbers. The trajectory and ∂L/∂x are of T steps
for everybody, and are counted.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...manual.cell import zeros
from ...manual.cells.lstm import LSTM
from ...manual.through_time import checkpointing

Array: TypeAlias = npt.NDArray[Any]
Gradient: TypeAlias = Callable[[], dict[str, Array]]

PLAIN, CHECKPOINTED = "by hand", "by hand, checkpoints"
JAX, JAX_CHECKPOINTED = "jax.lax.scan", "jax.checkpoint"
CONTENDERS = (PLAIN, CHECKPOINTED, JAX, JAX_CHECKPOINTED)


@dataclass(frozen=True)
class Sizes:
    """T, B, I, H."""

    steps: int = 100_000
    batch: int = 1
    input_size: int = 16
    hidden_size: int = 64


@dataclass(frozen=True)
class Row:
    """A contender: its peak in MiB beyond its inputs and imports, and its time over that of the
    plain gradient by hand.

    Compiling is in both, as a run of this length is done once.
    """

    contender: str
    mebibytes: float
    seconds_ratio: float


@dataclass(frozen=True)
class Task:
    """Parameters, h_0, c_0 and x under the names of the gradient, and C (T, B, H)."""

    variables: dict[str, Array]
    weights: Array


class ProcessFailed(RuntimeError):
    """A contender's process ended without an answer: out of memory, or with an error of its own."""


def task_of(sizes: Sizes) -> Task:
    """An LSTM of random numbers, weights of deviation 1/√fan-in."""
    rng, B, H = np.random.default_rng(0), sizes.batch, sizes.hidden_size
    shapes = {
        "W_xh": (4 * H, sizes.input_size),
        "W_hh": (4 * H, H),
        "b_h": (4 * H,),
        "h_0": (B, H),
        "c_0": (B, H),
    }
    variables = {
        name: rng.normal(size=shape, scale=shape[-1] ** -0.5) for name, shape in shapes.items()
    }
    return Task(
        variables | {"x": rng.normal(size=(sizes.steps, B, sizes.input_size))},
        rng.normal(size=(sizes.steps, B, H)),
    )


def gradient_of(contender: str, task: Task) -> Gradient:
    """What the contender is asked for; its modules are imported."""
    if contender in (JAX, JAX_CHECKPOINTED):
        jax = import_module("bptt_crosscheck.reference.by_jax.jax_checkpoint")
        return jax.gradient("lstm", task.variables, task.weights, contender == JAX_CHECKPOINTED)
    return _by_hand(task, contender == CHECKPOINTED)


def _by_hand(task: Task, checkpointed: bool) -> Gradient:
    cell, initial = LSTM(), {name: task.variables[f"{name}_0"] for name in ("h", "c")}
    how: dict[str, Any] = (
        {"checkpoint": round(len(task.weights) ** 0.5)} if checkpointed else {"budget": np.inf}
    )
    cotangents = {"h": task.weights, "c": zeros(task.weights)}

    def run() -> dict[str, Array]:
        tape = checkpointing.run(cell, task.variables, initial, task.variables["x"], **how)
        found = checkpointing.gradients(cell, task.variables, tape, cotangents)
        first = {f"{name}_0": d[0] for name, d in found.d_state.items()}
        return found.params | first | ({} if found.x is None else {"x": found.x})

    return run


def peak() -> float:
    """The most memory this process ever had, in MiB.

    On Linux ru_maxrss begins with what the process had that started this one; VmHWM in /proc does
    not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10  # KiB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


def measure(contender: str, sizes: Sizes, asked: bool) -> tuple[float, float]:
    """(peak in MiB, seconds) of this process.

    Inputs and imports, and the gradient if it is asked.
    """
    run = gradient_of(contender, task_of(sizes))
    begun = time.perf_counter()
    if asked:
        run()
    return peak(), time.perf_counter() - begun


def _in_a_process(contender: str, sizes: Sizes, asked: bool) -> tuple[float, float]:
    measured = f"measure({contender!r}, {sizes!r}, {asked!r})"
    code = f"from {__name__} import *; print(*{measured})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProcessFailed(
            f"{contender} at {sizes}: exit status {done.returncode}\n{done.stderr[-2000:]}"
        )
    memory, seconds = done.stdout.split()[-2:]
    return float(memory), float(seconds)


def rows(sizes: Sizes = Sizes(), contenders: tuple[str, ...] = CONTENDERS) -> list[Row]:
    """One row a contender, one process after the other. Raises ProcessFailed."""
    plain = _in_a_process(PLAIN, sizes, asked=True)
    found: list[Row] = []
    for name in contenders:
        memory, seconds = plain if name == PLAIN else _in_a_process(name, sizes, asked=True)
        found.append(
            Row(name, memory - _in_a_process(name, sizes, asked=False)[0], seconds / plain[1])
        )
    return found
