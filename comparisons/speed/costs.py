"""What else it costs besides one gradient: Jacobians, a verdict, the start, growth with the sizes.

Each section is a list of `Cost`: ratios measured in turns, as in comparisons.speed.throughput, and
beside them the goal that was set. What starts afresh is timed in processes of its own, again in
turns.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from ...manual import jacobians
from ...manual.through_time import bptt
from ..candidates.built_in_cells import CELLS
from ..places import ROOT
from . import memory
from .throughput import (
    HAND,
    JAX_MODULE,
    NAMES,
    ROUNDINGS,
    TORCH,
    Array,
    ContendersDisagree,
    Sizes,
    Spread,
    Task,
    by_hand,
    interleaved,
    spread,
    task_of,
)

VERDICT = """
import time
start = time.perf_counter()
import torch, jax, array_api_compat.torch
import bptt_crosscheck.reference.by_torch.torch_autograd
import bptt_crosscheck.reference.by_jax.jax_grad
from bptt_crosscheck import check_cell
from bptt_crosscheck.manual.cells.lstm import LSTM
imported = time.perf_counter()
times = []
for _ in range({checks}):
    begun = time.perf_counter()
    check_cell(LSTM(), steps={steps}, hidden_size={hidden})
    times.append(time.perf_counter() - begun)
print(imported - start, *times)
"""


@dataclass(frozen=True)
class Cost:
    """One line: what, at which sizes, the numbers by name, and the goal in words."""

    what: str
    sizes: str
    values: dict[str, Spread]
    goal: str


def step_jacobian_costs(sizes: Sequence[Sizes], seconds: float) -> list[Cost]:
    """All ∂s_t/∂s_{t−1} of a sequence from its tape, over jacrev by jax and by torch.func."""
    found: list[Cost] = []
    for cell in NAMES:
        tasks = [task_of(cell, each, "float64") for each in sizes]
        found += [_step_jacobians(task, seconds) for task in tasks]
    return found


def jacobian_runs(task: Task) -> dict[str, Callable[[], Array]]:
    """Every way to the Jacobians of all steps: ours from the tape, theirs from the same states."""
    cell, params = CELLS[task.cell](), task.variables
    names = list(cell.state_shapes(task.sizes.hidden_size))
    initial = {name: params[f"{name}_0"] for name in names}
    tape = bptt.forward(cell, params, initial, params["x"])
    before = np.concatenate([tape.states[name][:-1] for name in names], axis=-1)
    torch, jax = import_module(TORCH), import_module(JAX_MODULE)

    # jax and torch take the state as one vector, of which each cell makes its parts.
    def split(s: Any) -> tuple[Any, ...]:
        width = s.shape[-1] // len(names)
        starts = range(0, width * len(names), width)
        return tuple(s[..., start : start + width] for start in starts)

    return {
        HAND: partial(jacobians.state_jacobians, cell, params, tape),
        "jax.jit jacrev": jax.step_jacobians(task.cell, params, before, split),
        "torch.func jacrev": torch.step_jacobians(task.cell, params, before, split),
    }


def _step_jacobians(task: Task, seconds: float) -> Cost:
    runs = jacobian_runs(task)
    must_be_equal(runs)
    times = interleaved(runs, seconds)
    mine = times.pop(HAND)
    ratios = {name: spread(mine / taken) for name, taken in times.items()}
    return Cost(f"step Jacobians, {task.cell}", str(task.sizes), ratios, "≤ 1.00 of the faster")


def must_be_equal(runs: Mapping[str, Callable[[], Array]]) -> None:
    """Raises ContendersDisagree where one gives another array than ours."""
    expected = runs[HAND]()
    tolerance = ROUNDINGS * np.finfo(expected.dtype).eps * np.max(np.abs(expected))
    for who, run in runs.items():
        error = np.max(np.abs(run() - expected))
        if not error <= tolerance:
            raise ContendersDisagree(f"{who}: the Jacobians are off by {error:.1e}")


def all_products(steps: Array) -> list[Array]:
    """∂s_t/∂s_k for every t and k < t."""
    return [jacobians.products_to_end(steps[:t]) for t in range(1, len(steps) + 1)]


def products_alone(steps: Array) -> Callable[[], list[Array]]:
    """The same matrix products and nothing else.

    Factors and places are looked up, and memory is laid out, beforehand.
    """
    out = [np.empty((t, *steps.shape[1:])) for t in range(1, len(steps) + 1)]
    factors_and_place: list[tuple[Array, Array, Array]] = []
    for products in out:
        last = len(products) - 1
        products[last] = steps[last]
        backwards = reversed(range(last))
        factors_and_place += [(products[k + 1], steps[k], products[k]) for k in backwards]

    def run() -> list[Array]:
        for newer, step, into in factors_and_place:
            np.matmul(newer, step, out=into)
        return out

    return run


def product_costs(states: Sequence[int], seconds: float, steps: int = 12) -> list[Cost]:
    """All products of S × S Jacobians: the share of the time that matrix products alone take."""
    found: list[Cost] = []
    for size in states:
        rng = np.random.default_rng(0)
        drawn = rng.normal(size=(steps, 1, size, size), scale=size**-0.5)
        runs = {HAND: partial(all_products, drawn), "limit": products_alone(drawn)}
        must_be_equal({name: partial(_last, run) for name, run in runs.items()})
        times = interleaved(runs, seconds)
        share = {"limit": spread(times["limit"] / times[HAND])}
        sizes = f"T = {steps}, S = {size}"
        found.append(Cost("all ∂s_t/∂s_k", sizes, share, "≥ 0.75 where S ≥ 128"))
    return found


def _last(run: Callable[[], list[Array]]) -> Array:
    """The products to the last step: the others are among their factors."""
    return run()[-1]


def verdict_costs(rounds: int, steps: int, hidden: int) -> list[Cost]:
    """check_cell in fresh processes: after the imports, and again in the same process.

    In seconds, and over the imports.
    """
    code = VERDICT.format(checks=2, steps=steps, hidden=hidden)
    imports, cold, warm = np.array([_printed(code) for _ in range(rounds)]).T
    sizes = f"lstm, T = {steps}, H = {hidden}"
    first, again = (_told(seconds, imports, "over imports") for seconds in (cold, warm))
    return [
        Cost("first check", sizes, first, "< 1.5 s"),
        Cost("same shapes again", sizes, again, "< 0.1 s"),
    ]


def _printed(code: str) -> list[float]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(each) for each in done.stdout.split()]


def _process(*arguments: str) -> Callable[[], Any]:
    command = [sys.executable, *arguments]
    return partial(subprocess.run, command, capture_output=True, check=True)


def memory_costs(steps: int) -> list[Cost]:
    """The most memory that a long LSTM's gradient takes, and its time, over the plain one's."""
    peaks = memory.peaks(memory.LstmSizes(steps=steps))
    plain = next(each.mebibytes for each in peaks if each.contender == memory.PLAIN)
    found: list[Cost] = []
    for each in peaks:
        values = {"memory": each.mebibytes / plain, "time": each.seconds_ratio}
        spreads = {name: Spread(value, value, value) for name, value in values.items()}
        sizes = f"T = {steps:,}, {each.mebibytes:.0f} MiB"
        found.append(Cost(each.contender, sizes, spreads, ""))
    return found


def modules_of_manual() -> list[str]:
    """Every module of manual/, as it is imported."""
    found: list[str] = []
    for path in (ROOT / "manual").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__init__":
            found.append(".".join(("bptt_crosscheck", *parts)))
    return sorted(found)


def start_costs(rounds: int, with_report: bool) -> list[Cost]:
    """`import manual` beyond `import numpy`, the command line's --help and --quick.

    Fresh processes, in turns.
    """
    report = str(ROOT / "comparisons" / "report.py")
    runs = {
        "numpy": _process("-c", "import numpy"),
        "manual": _process("-c", f"import numpy, {', '.join(modules_of_manual())}"),
        "help": _process(report, "--help"),
    }
    for run in runs.values():
        run()
    times = interleaved(runs, 0.0, rounds)
    beyond, of_numpy = times["manual"] - times["numpy"], "over import numpy"
    manual = _told(beyond, times["numpy"], of_numpy)
    found = [
        Cost("importing manual, all of it, beyond numpy", "", manual, "≤ 0.02 s"),
        Cost("report.py --help", "", _told(times["help"], times["numpy"], of_numpy), "< 0.5 s"),
    ]
    if with_report:
        once = interleaved({"quick": _process(report, "--quick"), "numpy": runs["numpy"]}, 0.0, 1)
        quick = _told(once["quick"], once["numpy"], of_numpy)
        found.append(Cost("report.py --quick", "", quick, ""))
    return found


def _told(seconds: Array, of: Array, name: str) -> dict[str, Spread]:
    return {"seconds": spread(seconds), name: spread(seconds / of)}


GROWTH: dict[str, tuple[Sizes, ...]] = {
    "T": tuple(Sizes(T, 8, 32, 64, 32) for T in (50, 100, 200, 400, 800)),
    "B": tuple(Sizes(50, B, 32, 64, 32) for B in (4, 8, 16, 32, 64)),
    "H": tuple(Sizes(50, 16, 32, H, 32) for H in (64, 128, 256, 512)),
}


def growth_costs(seconds: float, grown: Mapping[str, Sequence[Sizes]] = GROWTH) -> list[Cost]:
    """The exponent p of time ∝ size^p, for forward and backward by hand.

    By least squares of logarithms within every round.
    """
    found: list[Cost] = []
    for cell in NAMES:
        found += [_exponent(cell, axis, sizes, seconds) for axis, sizes in grown.items()]
    return found


# Which field of Sizes an axis is.
FIELDS = {"T": "steps", "B": "batch", "H": "hidden_size"}


def _exponent(cell: str, axis: str, sizes: Sequence[Sizes], seconds: float) -> Cost:
    runs = {str(each): by_hand(task_of(cell, each, "float64")) for each in sizes}
    for run in runs.values():
        run()
    times = interleaved(runs, seconds)
    logs_of_sizes = np.log([getattr(each, FIELDS[axis]) for each in sizes])
    logs_of_times = np.log(np.stack(list(times.values())))
    slopes = np.polyfit(logs_of_sizes, logs_of_times, 1)[0]
    along_sizes = f"{sizes[0]} … {sizes[-1]}"
    return Cost(f"time by {axis}, {cell}", along_sizes, {"exponent": spread(slopes)}, "")


SMALL = (Sizes(50, 4, 16, 32, 16),)
LARGE = (*SMALL, Sizes(50, 4, 32, 64, 32), Sizes(50, 4, 64, 128, 64))


def sections(quick: bool, seconds: float) -> dict[str, Callable[[], list[Cost]]]:
    """Every section of costs, by name; it is measured when it is called."""
    few = {axis: sizes[:3] for axis, sizes in GROWTH.items()}
    return {
        "Jacobians": lambda: step_jacobian_costs(SMALL if quick else LARGE, seconds),
        "products": lambda: product_costs((128,) if quick else (32, 64, 128, 256), seconds),
        "verdict": lambda: verdict_costs(1 if quick else 3, 50, 32),
        "start": lambda: start_costs(3 if quick else 11, not quick),
        "memory": lambda: memory_costs(2_000 if quick else 100_000),
        "growth": lambda: growth_costs(seconds / 3, few if quick else GROWTH),
    }
