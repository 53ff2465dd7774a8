"""torch as a contender in speed.

One forward and backward of a cell under a linear head and softmax cross-entropy, summed.

Each way returns a function of no arguments, to be timed, which gives the loss and the gradient for
every variable; all that can be done once is done before. Variables are named and shaped as in
reference.equations; sigmoid, tanh and cross-entropy are torch's own, as is what a user would write,
and what does not wait for the state is computed for all steps at once.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from ..arrays import Array, Arrays, Named

Run: TypeAlias = Callable[[], tuple[float, Arrays]]
Tensors: TypeAlias = Mapping[str, torch.Tensor]
State: TypeAlias = tuple[torch.Tensor, ...]
Loss: TypeAlias = Callable[[Tensors, torch.Tensor], torch.Tensor]

MODULES: dict[str, Any] = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def use_threads(count: int) -> None:
    """How many threads an operation takes."""
    torch.set_num_threads(count)


def rnn(own: Tensors, state: State, u: torch.Tensor) -> State:
    """h ← tanh(u + W_hh h)."""
    return (torch.tanh(torch.addmm(u, state[0], own["W_hh"].T)),)


def lstm(own: Tensors, state: State, u: torch.Tensor) -> State:
    """(h, c) ← the LSTM's, gates stacked i, f, g, o."""
    h, c = state
    i, f, g, o = torch.addmm(u, h, own["W_hh"].T).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(own: Tensors, state: State, u: torch.Tensor) -> State:
    """h ← the GRU's with the reset after the product, gates stacked r, z, n."""
    (h,) = state
    v_r, v_z, v_n = torch.addmm(own["b_hh"], h, own["W_hh"].T).chunk(3, dim=-1)
    u_r, u_z, u_n = u.chunk(3, dim=-1)
    n = torch.tanh(u_n + torch.sigmoid(u_r + v_r) * v_n)
    return (torch.lerp(n, h, torch.sigmoid(u_z + v_z)),)


STEPS: dict[str, Callable[[Tensors, State, torch.Tensor], State]] = {
    "rnn": rnn,
    "lstm": lstm,
    "gru": gru,
}


def state_names(cell: str) -> tuple[str, ...]:
    """The parts of a cell's state."""
    return ("h", "c") if cell == "lstm" else ("h",)


def in_bias(cell: str) -> str:
    """The name of the bias beside W_xh."""
    return "b_x" if cell == "gru" else "b_h"


def under_head(leaves: Tensors, h: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Softmax cross-entropy of the head's outputs on h (T, B, H), summed over steps and rows."""
    y = functional.linear(h.flatten(0, 1), leaves["W_hy"], leaves["b_y"])
    return functional.cross_entropy(y, target.flatten(), reduction="sum")


def unrolled(cell: str) -> Loss:
    """The loss by a Python loop over the steps."""

    def loss(leaves: Tensors, target: torch.Tensor) -> torch.Tensor:
        state: State = tuple(leaves[f"{name}_0"] for name in state_names(cell))
        outputs: list[torch.Tensor] = []
        for u in functional.linear(leaves["x"], leaves["W_xh"], leaves[in_bias(cell)]):
            state = STEPS[cell](leaves, state, u)
            outputs.append(state[0])
        return under_head(leaves, torch.stack(outputs), target)

    return loss


def differentiated(loss: Loss, leaves: Tensors, target: Array) -> Run:
    """The loss and its gradients by torch.autograd."""
    targets = torch.tensor(target)

    def run() -> tuple[float, Arrays]:
        value = loss(leaves, targets)
        found = torch.autograd.grad(value, list(leaves.values()))
        return value.item(), {name: each.numpy() for name, each in zip(leaves, found, strict=True)}

    return run


def leaves_of(variables: Named) -> dict[str, torch.Tensor]:
    """Copies that ask for their gradients."""
    return {name: torch.tensor(value, requires_grad=True) for name, value in variables.items()}


def eager(cell: str, variables: Named, target: Array) -> Run:
    """The loop, operation by operation."""
    return differentiated(unrolled(cell), leaves_of(variables), target)


def compiled(cell: str, variables: Named, target: Array) -> Run:
    """The loop by torch.compile, which unrolls it: the first call takes long."""
    return differentiated(torch.compile(unrolled(cell)), leaves_of(variables), target)


def module(cell: str, variables: Named, target: Array) -> Run:
    """torch.nn.RNN, LSTM or GRU; of the two biases of RNN and LSTM, the second is zero."""
    leaves = leaves_of(variables)
    size, hidden = leaves["x"].shape[-1], leaves["h_0"].shape[-1]
    built = MODULES[cell](size, hidden, dtype=leaves["x"].dtype)
    own = {"W_xh": "weight_ih_l0", "W_hh": "weight_hh_l0", in_bias(cell): "bias_ih_l0"}
    own |= {"b_hh": "bias_hh_l0"} if cell == "gru" else {}
    with torch.no_grad():
        built.bias_hh_l0.zero_()
        for name, theirs in own.items():
            getattr(built, theirs).copy_(leaves[name])

    def loss(leaves: Tensors, target: torch.Tensor) -> torch.Tensor:
        state = [leaves[f"{name}_0"][None] for name in state_names(cell)]
        h, _ = built(leaves["x"], tuple(state) if len(state) > 1 else state[0])
        return under_head(leaves, h, target)

    return differentiated(
        loss, leaves | {name: getattr(built, theirs) for name, theirs in own.items()}, target
    )


def step_jacobians(
    cell: str, variables: Named, before: Array, split: Callable[..., State]
) -> Callable[[], Array]:
    """∂s_t/∂s_{t−1} of every step and row, (T, B, S, S), at the states `before` (T, B, S).

    By vmap(jacrev(step)).
    """
    own = {name: torch.tensor(value) for name, value in variables.items()}
    s, x = torch.tensor(before).flatten(0, 1), own["x"].flatten(0, 1)

    def one_step(s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        u = functional.linear(x[None], own["W_xh"], own[in_bias(cell)])
        return torch.cat(STEPS[cell](own, split(s[None]), u), dim=-1)[0]

    function = torch.vmap(torch.func.jacrev(one_step))
    return lambda: function(s, x).unflatten(0, before.shape[:2]).numpy()
