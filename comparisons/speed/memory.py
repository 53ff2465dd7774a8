"""How much memory the gradient of a long run takes: with a tape of all steps and with checkpoints.

The question is the gradient for every parameter, x and the initial state, of a loss that reads h at
every step through given weights, L = Σ_t ⟨C_t, h_t⟩, in float64, by hand and by jax. Each contender
runs in a process of its own, once; told is the most memory that it ever had, less that of a process
which only imports the same modules and draws the same numbers. The trajectory and ∂L/∂x are of T
steps for everybody, and are counted.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...manual.cell import zeros
from ...manual.cells.lstm import LSTM
from ...manual.through_time import checkpointing
from ..problems.arrays import Array

Gradient: TypeAlias = Callable[[], dict[str, Array]]

PLAIN, CHECKPOINTED = "by hand", "by hand, checkpoints"
JAX, JAX_CHECKPOINTED = "jax.lax.scan", "jax.checkpoint"
CONTENDERS = (PLAIN, CHECKPOINTED, JAX, JAX_CHECKPOINTED)


@dataclass(frozen=True)
class LstmSizes:
    """T, B, I, H."""

    steps: int = 100_000
    batch: int = 1
    input_size: int = 16
    hidden_size: int = 64


@dataclass(frozen=True)
class PeakMemory:
    """What a contender takes; compiling is in both, as a run of this length is done once.

    mebibytes        its peak beyond its inputs and imports
    seconds_ratio    its time over that of the plain gradient by hand
    """

    contender: str
    mebibytes: float
    seconds_ratio: float


@dataclass(frozen=True)
class LstmTask:
    """Parameters, h_0, c_0 and x under the names of the gradient, and C (T, B, H)."""

    variables: dict[str, Array]
    weights: Array


class ProcessFailed(RuntimeError):
    """A contender's process ended without an answer: out of memory, or with an error of its own."""


def task_of(sizes: LstmSizes) -> LstmTask:
    """An LSTM of random numbers, weights of deviation 1/√fan-in."""
    rng, B, H = np.random.default_rng(0), sizes.batch, sizes.hidden_size
    shapes = {
        "W_xh": (4 * H, sizes.input_size),
        "W_hh": (4 * H, H),
        "b_h": (4 * H,),
        "h_0": (B, H),
        "c_0": (B, H),
    }
    variables: dict[str, Array] = {}
    for name, shape in shapes.items():
        variables[name] = rng.normal(size=shape, scale=shape[-1] ** -0.5)
    variables["x"] = rng.normal(size=(sizes.steps, B, sizes.input_size))
    return LstmTask(variables, rng.normal(size=(sizes.steps, B, H)))


def gradient_of(contender: str, task: LstmTask) -> Gradient:
    """What the contender is asked for; its modules are imported."""
    if contender in (JAX, JAX_CHECKPOINTED):
        jax = import_module("bptt_crosscheck.reference.by_jax.jax_checkpoint")
        return jax.gradient("lstm", task.variables, task.weights, contender == JAX_CHECKPOINTED)
    return _by_hand(task, contender == CHECKPOINTED)


def _by_hand(task: LstmTask, checkpointed: bool) -> Gradient:
    cell, params = LSTM(), task.variables
    initial = {name: params[f"{name}_0"] for name in ("h", "c")}
    segment = round(len(task.weights) ** 0.5)
    how: dict[str, Any] = {"checkpoint": segment} if checkpointed else {"budget": np.inf}
    cotangents = {"h": task.weights, "c": zeros(task.weights)}

    def run() -> dict[str, Array]:
        tape = checkpointing.run(cell, params, initial, params["x"], **how)
        found = checkpointing.gradients(cell, params, tape, cotangents)
        gradients = dict(found.params)
        for name, d in found.d_state.items():
            gradients[f"{name}_0"] = d[0]
        if found.x is not None:
            gradients["x"] = found.x
        return gradients

    return run


def peak() -> float:
    """The most memory this process ever had, in MiB.

    On Linux ru_maxrss begins with what the process had that started this one; VmHWM in /proc does
    not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        (line,) = (each for each in lines if each.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10  # KiB
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@dataclass(frozen=True)
class Measured:
    """Of one process: its peak in MiB, and the seconds that the gradient took."""

    peak: float
    seconds: float


def measure(contender: str, sizes: LstmSizes, asked: bool) -> Measured:
    """What this process takes for inputs and imports, and for the gradient if it is asked."""
    run = gradient_of(contender, task_of(sizes))
    begun = time.perf_counter()
    if asked:
        run()
    return Measured(peak(), time.perf_counter() - begun)


CODE = """
from bptt_crosscheck.comparisons.speed.memory import LstmSizes, measure
found = measure({contender!r}, {sizes!r}, {asked!r})
print(found.peak, found.seconds)
"""


def _in_a_process(contender: str, sizes: LstmSizes, asked: bool) -> Measured:
    code = CODE.format(contender=contender, sizes=sizes, asked=asked)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"exit status {done.returncode}\n{done.stderr[-2000:]}"
        raise ProcessFailed(f"{contender} at {sizes}: {said}")
    memory, seconds = done.stdout.split()[-2:]
    return Measured(float(memory), float(seconds))


def peaks(
    sizes: LstmSizes = LstmSizes(), contenders: Sequence[str] = CONTENDERS
) -> list[PeakMemory]:
    """One a contender, one process after the other. Raises ProcessFailed."""
    plain = _in_a_process(PLAIN, sizes, asked=True)
    found: list[PeakMemory] = []
    for name in contenders:
        whole = plain if name == PLAIN else _in_a_process(name, sizes, asked=True)
        without = _in_a_process(name, sizes, asked=False)
        memory, ratio = whole.peak - without.peak, whole.seconds / plain.seconds
        found.append(PeakMemory(name, memory, ratio))
    return found
