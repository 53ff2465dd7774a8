"""The variants that are compared, and the problem of each: initialisations, gates and cells.

What all variants share is drawn once, from the seed (`draw`): the inputs x, the input weights V_i
(deviation 1/√I), orthogonal matrices Q_i for the recurrent weights, and the cotangent C of the one
loss, L = ⟨C, h_T⟩, at the last step alone (of the LRU, Re s_T). States start at zero, and biases
are zero where VARIANTS says nothing else. Adding a variant is adding a line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..candidates.built_in_cells import built_in
from ..candidates.draw import must_fit, problem_of
from ..judging.judge import judge
from ..judging.verdict import Verdict
from ..problems.answer import Answer
from ..problems.arrays import Array, frozen
from ..problems.cases import AFTER, POSITIVE, PROJECTION, RELU, TANH, Case
from ..problems.problem import Problem
from ..witnesses import tolerance
from ..witnesses.engines import Engine

PLAIN, EXPLODING, HOLDING = "tanh-Q", "tanh-3Q", "lstm-forget-3"


@dataclass(frozen=True)
class Shared:
    """What all variants have in common.

    x                   (T, B, I)
    orthogonal          Q_1..Q_4 (H, H)
    input_weights       V_1..V_4 (H, I)
    cotangent           C (B, H)
    uniform, angles     (H,), uniform in [0, 1) and in [0, 2π)
    """

    x: Array
    orthogonal: tuple[Array, ...]
    input_weights: tuple[Array, ...]
    cotangent: Array
    uniform: Array
    angles: Array

    def stacked(self, *order: int) -> dict[str, Array]:
        """W_xh and W_hh of a cell whose gates, as it stacks them, take these of the matrices.

        The candidate state's are the first.
        """
        matrices = {"W_xh": self.input_weights, "W_hh": self.orthogonal}
        return {
            name: np.concatenate([drawn[number] for number in order])
            for name, drawn in matrices.items()
        }


def draw(seed: int, steps: int, batch: int, input_size: int, hidden_size: int) -> Shared:
    """The shared data of this seed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, batch, input_size))
    gaussian = rng.normal(size=(4, hidden_size, hidden_size))
    inputs = rng.normal(scale=input_size**-0.5, size=(4, hidden_size, input_size))
    orthogonal = tuple(np.linalg.qr(matrix)[0] for matrix in gaussian)
    cotangent, angles = (
        rng.normal(size=(batch, hidden_size)),
        rng.uniform(0, 2 * np.pi, hidden_size),
    )
    return Shared(x, orthogonal, tuple(inputs), cotangent, rng.uniform(size=hidden_size), angles)


Start = Callable[[Shared], dict[str, Array]]


def gain(factor: float) -> Start:
    """W_hh = factor · Q_1."""
    return lambda shared: {"W_xh": shared.input_weights[0], "W_hh": factor * shared.orthogonal[0]}


def identity(shared: Shared) -> dict[str, Array]:
    """W_hh = I (Le, Jaitly and Hinton 2015)."""
    return gain(1)(shared) | {"W_hh": np.eye(shared.cotangent.shape[-1])}


def forget_bias(value: float) -> Start:
    """An LSTM, the gates i, f, g, o, with this bias of f."""
    return lambda shared: shared.stacked(1, 2, 0, 3) | {"b_h": _bias(shared, 0, value, 0, 0)}


def update_bias(value: float) -> Start:
    """A GRU, the gates r, z, n, with this bias of z: z = 1 keeps the old state."""
    return lambda shared: shared.stacked(1, 2, 0) | {"b_x": _bias(shared, 0, value, 0)}


def minimal(value: float) -> Start:
    """A minGRU, z and its candidate, with this bias of z: z = 0 keeps the old state."""
    return lambda shared: {"W_xh": shared.stacked(1, 0)["W_xh"], "b_h": _bias(shared, value, 0)}


def ring(low: float, high: float) -> Start:
    """An LRU with λ uniform in the ring low ≤ |λ| ≤ high (Orvieto et al. 2023, appendix A)."""

    def start(shared: Shared) -> dict[str, Array]:
        radius = np.sqrt(low**2 + (high**2 - low**2) * shared.uniform)
        angle = np.maximum(shared.angles, 1e-3)  # its logarithm is the parameter
        rates = {
            "nu": np.log(-np.log(radius)),
            "theta": np.log(angle),
            "gamma": np.log(1 - radius**2) / 2,
        }
        return rates | {"W_xh": shared.stacked(0, 1)["W_xh"]}

    return start


def _bias(shared: Shared, *values: float) -> Array:
    return np.repeat(np.array(values, dtype=np.float64), shared.cotangent.shape[-1])


@dataclass(frozen=True)
class Variant:
    """A cell and how it starts; `name` names its dump, `label` says in the table what it is."""

    name: str
    label: str
    cell: str
    options: Mapping[str, Any]
    start: Start


VARIANTS: tuple[Variant, ...] = (
    Variant("tanh-0.9Q", "tanh RNN, W_hh = 0.9 Q", "rnn", TANH, gain(0.9)),
    Variant(PLAIN, "tanh RNN, W_hh = Q", "rnn", TANH, gain(1)),
    Variant(EXPLODING, "tanh RNN, W_hh = 3 Q", "rnn", TANH, gain(3)),
    Variant("relu-Q", "relu RNN, W_hh = Q", "rnn", RELU, gain(1)),
    Variant("irnn", "IRNN: relu, W_hh = I", "irnn", {}, identity),
    Variant(
        "residual-0.1",
        "residual RNN, α = 0.1",
        "residual",
        {"alpha": 0.1, "activation": "tanh"},
        gain(1),
    ),
    Variant(
        "residual-1",
        "residual RNN, α = 1",
        "residual",
        {"alpha": 1.0, "activation": "tanh"},
        gain(1),
    ),
    Variant("lstm-forget-0", "LSTM, b_f = 0", "lstm", {}, forget_bias(0)),
    Variant("lstm-forget-1", "LSTM, b_f = 1", "lstm", {}, forget_bias(1)),
    Variant(HOLDING, "LSTM, b_f = 3", "lstm", {}, forget_bias(3)),
    Variant("gru-update-0", "GRU, b_z = 0", "gru", AFTER, update_bias(0)),
    Variant("gru-update-3", "GRU, b_z = 3", "gru", AFTER, update_bias(3)),
    Variant("min-gru-update-0", "minGRU, b_z = 0", "min-gru", POSITIVE, minimal(0)),
    Variant("min-gru-update-minus-4", "minGRU, b_z = −4", "min-gru", POSITIVE, minimal(-4)),
    Variant("lru-0.5-0.99", "LRU, 0.5 ≤ |λ| ≤ 0.99", "lru", {}, ring(0.5, 0.99)),
    Variant("lru-0.99-0.999", "LRU, 0.99 ≤ |λ| ≤ 0.999", "lru", {}, ring(0.99, 0.999)),
)


def case_for(variant: Variant, sizes: Mapping[str, int], window: int | None = None) -> Case:
    """The variant without numbers, its gradient cut after `window` steps if there is one.

    Raises BadOption where it is too large.
    """
    name = variant.name if window is None else f"{variant.name}-window-{window}"
    given: dict[str, Any] = {"window": window, **sizes}
    case = Case(
        name,
        variant.cell,
        dict(variant.options),
        PROJECTION,
        initial_state="zero",
        jacobians=True,
        **given,
    )
    must_fit(case)
    return case


def problem_for(case: Case, variant: Variant, shared: Shared, seed: int = 0) -> Problem:
    """The variant's case on the shared data."""
    drawn = problem_of(case, seed)
    zero = {name: np.zeros_like(drawn.variables[name]) for name in drawn.parameter_names}
    constants = {name: np.zeros_like(value) for name, value in drawn.constants.items()}
    constants[f"cotangent_{drawn.output_names[0]}"][-1] = shared.cotangent
    moved = drawn.with_variables({**zero, **variant.start(shared), "x": shared.x})
    return replace(moved, constants=frozen(constants), loss_label="⟨C, h_T⟩")


def agreement(problem: Problem, engine: Engine) -> list[Verdict]:
    """The verdicts on loss, states, gradients, ∂s_t/∂s_{t−1} and ∂s_T/∂s_k against a reference's.

    By step where it tells its steps. The noise is the floor of comparisons.witnesses.tolerance;
    where that is not enough, the answer to moved weights as well.
    """

    def ask(asked: Problem, rounding_seed: int = 0) -> Answer:
        del rounding_seed
        return engine.answer(asked, shares=False)

    mine, reference = built_in(problem.cell, problem.options).answer(problem), ask(problem)

    def judged(samples: int) -> list[Verdict]:
        noise = tolerance.measure(problem, ask, reference, samples)
        return [
            judge(problem, mine, reference, engine.name, name, noise)
            for name in tolerance.quantities(reference)
        ]

    at_the_floor = judged(0)
    if all(verdict.passed for verdict in at_the_floor):
        return at_the_floor
    return judged(tolerance.SAMPLES)
