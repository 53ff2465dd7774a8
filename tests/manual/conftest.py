"""Shared by the tests of manual/.

read-only random sequences, what torch's autograd says of them, and a cell with two states.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from bptt_crosscheck.manual.cells.rnn import RNN
from torch.nn import functional

Array = np.ndarray[Any, Any]

NONLINEARITIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": lambda z: functional.logsigmoid(
        z
    ).exp(),  # torch.sigmoid's derivative loses its digits above 0
    "relu": torch.relu,
    "identity": lambda z: z,
    "softplus": lambda z: functional.softplus(z, threshold=500),
    "positive": lambda z: torch.where(z >= 0, z + 0.5, functional.logsigmoid(z).exp()),
}


@dataclass(frozen=True)
class Sequence:
    """params, initial, x or tokens, and cotangents, all read-only.

    By name, {"h": (B, H)}, (T, B, I) or (T, B), {"h": (T, B, H)}.
    """

    params: dict[str, Array]
    initial: dict[str, Array]
    x: Array
    cotangents: dict[str, Array]


def read_only(array: Array) -> Array:
    """The array itself, locked."""
    array.setflags(write=False)
    return array


def random_sequence(
    steps: int = 5,
    batch: int = 3,
    input_size: int = 4,
    hidden_size: int = 5,
    *,
    seed: int = 0,
    tokens: bool = False,
    gain: float = 1,
) -> Sequence:
    """Numbers for an RNN of moderate net inputs; W_hh has a spectral radius of about `gain`."""
    rng = np.random.default_rng(seed)
    params = {
        name: rng.standard_normal(shape)
        for name, shape in RNN().parameter_shapes(input_size, hidden_size).items()
    }
    params["W_xh"] /= np.sqrt(input_size)
    params["W_hh"] *= gain / np.sqrt(hidden_size)
    shape = (steps, batch, hidden_size)
    h_0, cotangent = rng.standard_normal(shape[1:]), rng.standard_normal(shape)
    x = (
        rng.integers(input_size, size=shape[:2])
        if tokens
        else rng.standard_normal((*shape[:2], input_size))
    )
    locked = {name: read_only(value) for name, value in params.items()}
    return Sequence(locked, {"h": read_only(h_0)}, read_only(x), {"h": read_only(cotangent)})


@dataclass(frozen=True)
class Unrolled:
    """Autograd's gradients of Σ_t ⟨C_t, h_t⟩, the share of each step by itself.

    states, d_state (T+1, B, H); delta (T, B, H); params name → (T, its shape); x (T, B, I), or None
    for tokens.
    """

    states: Array
    params: dict[str, Array]
    x: Array | None
    d_state: Array
    delta: Array


def leaf(array: Array) -> torch.Tensor:
    """A copy that asks for its gradient, unless it is tokens."""
    return torch.tensor(np.ascontiguousarray(array), requires_grad=array.dtype.kind == "f")


def unrolled_by_torch(sequence: Sequence, activation: str = "tanh") -> Unrolled:
    """The RNN written out in torch, with a copy of every parameter for each step."""
    steps = len(sequence.x)
    params = {name: leaf(np.stack([value] * steps)) for name, value in sequence.params.items()}
    x, h = leaf(sequence.x), leaf(sequence.initial["h"])
    states, nets = [h], []
    for t, (W_xh, W_hh, b_h) in enumerate(
        zip(params["W_xh"], params["W_hh"], params["b_h"], strict=True)
    ):
        from_input = x[t] @ W_xh.T if x.requires_grad else W_xh.T[x[t]]
        nets.append(from_input + states[-1] @ W_hh.T + b_h)
        states.append(NONLINEARITIES[activation](nets[-1]))
    for intermediate in (*nets, *states):
        intermediate.retain_grad()
    (torch.stack(states[1:]) * leaf(sequence.cotangents["h"])).sum().backward()
    return Unrolled(
        torch.stack(states).detach().numpy(),
        {name: value.grad.numpy() for name, value in params.items()},
        x.grad.numpy() if x.requires_grad else None,
        torch.stack([state.grad for state in states]).numpy(),
        torch.stack([net.grad for net in nets]).numpy(),
    )


class LeakyMemory:
    """c_t = k ⊙ c_{t−1} + W h_{t−1} + x_t, h_t = tanh c_t.

    A state in two parts, and the step form alone.
    """

    def parameter_shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        assert input_size == hidden_size
        return {"k": (hidden_size,), "W": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        return {"h": (hidden_size,), "c": (hidden_size,)}

    def step(self, xp: Any, params: Any, state: Any, x: Any) -> Any:
        c = params["k"] * state["c"] + state["h"] @ params["W"].T + x
        h = xp.tanh(c)
        return {"h": h, "c": c}, {"h": h, "h_prev": state["h"], "c_prev": state["c"]}

    def step_backward(self, params: Any, cache: Any, d_state: Any) -> Any:
        delta = d_state["c"] + (1 - cache["h"] ** 2) * d_state["h"]
        d_params = {"k": (delta * cache["c_prev"]).sum(axis=0), "W": delta.T @ cache["h_prev"]}
        return d_params, delta, {"h": delta @ params["W"], "c": params["k"] * delta}


def random_memory(
    steps: int = 4, batch: int = 2, hidden_size: int = 3, *, seed: int = 0
) -> Sequence:
    """Numbers for a LeakyMemory."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: read_only(rng.standard_normal(shape))  # noqa: E731
    shape = (steps, batch, hidden_size)
    return Sequence(
        {"k": draw(hidden_size), "W": draw(hidden_size, hidden_size)},
        {"h": draw(*shape[1:]), "c": draw(*shape[1:])},
        draw(*shape),
        {"h": draw(*shape), "c": draw(*shape)},
    )


@pytest.fixture(scope="session")
def draw_sequence() -> Callable[..., Sequence]:
    return random_sequence


@pytest.fixture(scope="session")
def unrolled() -> Callable[..., Unrolled]:
    return unrolled_by_torch


@pytest.fixture(scope="session")
def leaky_memory() -> LeakyMemory:
    return LeakyMemory()


@pytest.fixture(scope="session")
def draw_memory() -> Callable[..., Sequence]:
    return random_memory
