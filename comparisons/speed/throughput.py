"""How fast the hand-derived gradients are, beside the same gradients by the frameworks.

The question is the loss and all its gradients, for every parameter, x and the initial state, of a
cell under a linear head and softmax cross-entropy, summed over every step and row. All contenders
run in one process, with the same numbers and the same number of threads. In each round every one of
them runs once, so that what slows the machine down slows all of them; told are ratios within
rounds.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from typing import Any, TypeAlias, cast

import numpy as np
import threadpoolctl  # pyright: ignore[reportMissingTypeStubs]

from ...manual.through_time.network import Head, Network
from ...manual.through_time.sequences import Multiplier
from ..candidates.built_in_cells import CELLS
from ..problems.arrays import Array

Told: TypeAlias = tuple[float, Mapping[str, Array]]  # the loss, and its gradients by name
Run: TypeAlias = Callable[[], Told]

NAMES = ("rnn", "lstm", "gru")
DTYPES = ("float64", "float32")
HAND, PRODUCTS = "by hand", "matrix products"
MODULE, EAGER, COMPILED, JAX = "torch.nn", "torch eager", "torch.compile", "jax.jit"
TORCH = "bptt_crosscheck.reference.by_torch.torch_throughput"
JAX_MODULE = "bptt_crosscheck.reference.by_jax.jax_throughput"
ROUNDINGS = 10_000  # how many units in the last place of its largest entry a gradient may differ
LEAST_ROUNDS = 3
TURN = 0.01  # seconds, at least


class ContendersDisagree(AssertionError):
    """Two contenders do not compute the same gradient."""


@dataclass(frozen=True)
class Sizes:
    """T, B, I, H, V."""

    steps: int
    batch: int
    input_size: int
    hidden_size: int
    output_size: int

    def __str__(self) -> str:
        return f"{self.steps}·{self.batch}·{self.input_size}·{self.hidden_size}·{self.output_size}"


SMALLEST = Sizes(50, 1, 16, 16, 16)
GRID = (
    SMALLEST,
    Sizes(100, 8, 32, 64, 32),
    Sizes(100, 32, 64, 128, 64),
    Sizes(128, 64, 128, 256, 128),
    Sizes(64, 64, 256, 512, 256),
)
LONG = (Sizes(1_000, 8, 32, 64, 32), Sizes(10_000, 8, 32, 64, 32))


@dataclass(frozen=True)
class Task:
    """A cell's name, and the numbers: variables, all of one dtype, and the targets (T, B)."""

    cell: str
    sizes: Sizes
    variables: dict[str, Array]
    target: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of every variable."""
        return self.variables["x"].dtype

    def network(self) -> Network:
        """The built-in cell under its head."""
        cell = CELLS[self.cell]()
        head = Head("softmax-cross-entropy", "sum", self.sizes.output_size)
        return Network(cell, head, tuple(cell.state_shapes(self.sizes.hidden_size)))


@dataclass(frozen=True)
class Spread:
    """The median of what was measured, and how far it is from its 10th to its 90th percentile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What was measured of one task.

    rounds    how many were run
    ratios    time of the hand-derived over each contender's
    share     of the time by hand, what its matrix products alone take
    """

    cell: str
    dtype: str
    sizes: Sizes
    rounds: int
    ratios: dict[str, Spread]
    share: Spread


def task_of(cell: str, sizes: Sizes, dtype: str, seed: int = 0) -> Task:
    """Random numbers: weights of deviation 1/√fan-in, all else of deviation 1, biases ½."""
    rng, (T, B, H) = np.random.default_rng(seed), (sizes.steps, sizes.batch, sizes.hidden_size)
    made = CELLS[cell]()
    shapes = made.parameter_shapes(sizes.input_size, H)
    shapes |= {"W_hy": (sizes.output_size, H), "b_y": (sizes.output_size,)}
    drawn: dict[str, Array] = {}
    for name, shape in shapes.items():
        deviation = shape[-1] ** -0.5 if len(shape) > 1 else 0.5
        drawn[name] = rng.normal(size=shape, scale=deviation)
    for name, shape in made.state_shapes(H).items():
        drawn[f"{name}_0"] = rng.normal(size=(B, *shape))
    drawn["x"] = rng.normal(size=(T, B, sizes.input_size))
    target = rng.integers(0, sizes.output_size, (T, B))
    variables = {name: value.astype(dtype) for name, value in drawn.items()}
    return Task(cell, sizes, variables, target)


def use_threads(count: int) -> None:
    """As many threads for everybody; before jax is first imported, since XLA asks then."""
    threadpoolctl.threadpool_limits(count)
    os.environ["NPROC"] = str(count)
    if count == 1:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = flags.strip()
    import_module(TORCH).use_threads(count)
    threadpoolctl.threadpool_limits(count)  # torch brought thread pools of its own


def by_hand(task: Task) -> Run:
    """The derivation of manual/, forward and backward."""
    network, params, sizes = task.network(), task.variables, task.sizes
    mask = np.ones((sizes.steps, sizes.batch), task.dtype)
    inputs = {**task.variables, "target": task.target, "mask": mask}

    def run() -> Told:
        done = network.forward(params, inputs)
        return done.loss, network.backward(params, done)

    return run


def contenders(task: Task, with_compile: bool = False) -> dict[str, Run]:
    """The frameworks, by name."""
    torch, jax = import_module(TORCH), import_module(JAX_MODULE)
    ways = {MODULE: torch.module, EAGER: torch.eager, JAX: jax.compiled}
    if with_compile:
        ways[COMPILED] = torch.compiled
    return {name: way(task.cell, task.variables, task.target) for name, way in ways.items()}


def matrix_products(task: Task) -> Callable[[], None]:
    """The matrix products of one forward and backward and nothing else.

    They are asked for as NumPy does them fastest: those with W_hh step by step, all others over all
    steps at once.
    """
    T, B = task.target.shape
    W_xh, W_hh, W_hy = (task.variables[name] for name in ("W_xh", "W_hh", "W_hy"))
    ones = partial(np.ones, dtype=task.dtype)
    x, h = ones((T * B, W_xh.shape[1])), ones((T * B, W_hh.shape[1]))
    y, a = ones((T * B, len(W_hy))), ones((T * B, len(W_xh)))
    d_x, d_h = np.empty_like(x), np.empty_like(h)
    d_weights = [np.empty(W.shape[::-1], W.dtype) for W in (W_xh, W_hh, W_hy)]
    forth, back = Multiplier(W_hh.T, B), Multiplier(W_hh, B)
    (a_t, _), (h_t, _) = forth.room(1, B), back.room(1, B)

    def run() -> None:
        np.dot(x, W_xh.T, out=a)
        for h_prev in h.reshape(T, B, -1):
            forth.times(h_prev, a_t[0])
        np.dot(h, W_hy.T, out=y)
        np.dot(y, W_hy, out=d_h)
        for delta in a.reshape(T, B, -1):
            back.times(delta, h_t[0])
        np.dot(a, W_xh, out=d_x)
        for left, right, out in zip((x, h, h), (a, a, y), d_weights, strict=True):
            np.dot(left.T, right, out=out)

    return run


def must_agree(runs: Mapping[str, Run], expected: Told, dtype: np.dtype[Any]) -> None:
    """Raises ContendersDisagree where a loss or a gradient is further off than rounding explains.

    A loss or a gradient that is NaN agrees with nothing.
    """
    tolerance, (loss, gradients) = ROUNDINGS * np.finfo(dtype).eps, expected
    for who, run in runs.items():
        their_loss, theirs = run()
        if not abs(their_loss - loss) <= tolerance * abs(loss):
            raise ContendersDisagree(f"{who}: the loss is {their_loss}, not {loss}")
        for name, value in gradients.items():
            their = theirs[name]
            error = np.max(np.abs(their - value)) / np.max(np.abs(value))
            if their.dtype != dtype or not error <= tolerance:
                which = f"the gradient for {name} ({their.dtype})"
                raise ContendersDisagree(f"{who}: {which} is off by {error:.1e}")


def interleaved(
    runs: Mapping[str, Callable[[], Any]], seconds: float, least: int = LEAST_ROUNDS
) -> dict[str, Array]:
    """Seconds by name (rounds,): each has a turn a round, and every round begins with another.

    For so many seconds, `least` rounds at least. What is short runs several times in its turn, so
    that it does not pay for the caches that the one before has emptied.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    names, start = list(runs), time.perf_counter()
    in_turn = dict.fromkeys(runs, 1)
    if least > 1:
        in_turn = {name: 1 + int(TURN / timed(run)) for name, run in runs.items()}
    rounds = 0
    while rounds < least or time.perf_counter() - start < seconds:
        first = rounds % len(names)
        for name in (*names[first:], *names[:first]):
            times[name].append(timed(runs[name], in_turn[name]))
        rounds += 1
    return {name: np.array(values) for name, values in times.items()}


def timed(run: Callable[[], Any], often: int = 1) -> float:
    """Seconds for one run, of so many in a row."""
    begun = time.perf_counter()
    for _ in range(often):
        run()
    return (time.perf_counter() - begun) / often


def spread(values: Array) -> Spread:
    """Median, 10th and 90th percentile."""
    low, median, high = np.percentile(values, (10, 50, 90))
    return Spread(float(median), float(low), float(high))


def measured(task: Task, seconds: float, with_compile: bool = False) -> Result:
    """The result of one task; that all agree comes first, and warms everybody up."""
    mine, theirs = by_hand(task), contenders(task, with_compile)
    must_agree({HAND: mine, **theirs}, mine(), task.dtype)
    times = interleaved({HAND: mine, **theirs, PRODUCTS: matrix_products(task)}, seconds)
    return Result(
        cell=task.cell,
        dtype=str(task.dtype),
        sizes=task.sizes,
        rounds=len(times[HAND]),
        ratios={name: spread(times[HAND] / times[name]) for name in theirs},
        share=spread(times[PRODUCTS] / times[HAND]),
    )


@dataclass(frozen=True)
class Line:
    """One line of the table, before its numbers are drawn."""

    cell: str
    sizes: Sizes
    dtype: str


def lines(quick: bool, cells: Sequence[str] = NAMES) -> list[Line]:
    """What is measured, in order."""
    all_sizes = (SMALLEST,) if quick else (*GRID, *LONG)
    return [Line(*each) for each in product(cells, all_sizes, DTYPES)]


def versions(threads: int) -> dict[str, Any]:
    """What the numbers depend on: threads, NumPy and its BLAS, torch, jax."""
    found: dict[str, Any] = {"threads": threads}
    for name in ("numpy", "torch", "jax"):
        found[name] = import_module(name).__version__
    blas: set[str] = set()
    for pool in cast(list[dict[str, Any]], threadpoolctl.threadpool_info()):
        if pool["user_api"] == "blas":
            blas.add(f"{pool['internal_api']} {pool['version']}")
    return {**found, "BLAS": ", ".join(sorted(blas))}
