"""What a cell offers to the time loop: the step form, and two halves of it that let work be hoisted out of the loop.

The step form is the contract: `step` and, under it, `step_backward`. Most cells compute a net input that is linear in x,

    a_t = W_xh x_t + b_h + (what waits for s_{t−1})             (1)

so that a step falls into `project` (for every step at once) and `recur`, and its backward into `delta` = ∂L/∂a_t, which recurs,
and `accumulate`, in which every weight gradient is one product over all steps. `Halves` puts the step form together from them.
"""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]
Shapes: TypeAlias = dict[str, tuple[int, ...]]
StepGradients: TypeAlias = tuple[Arrays, Array | None, Arrays]


class Cell(Protocol):
    """What a cell must offer; no base class is needed.

    It may say besides: `output_names`, the parts of its state that are its output to what comes after, if that is not h; and
    `initialise(rng, input_size, hidden_size, batch)`, its own draw of some parameters and initial states ("n_0").
    """

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shape of each parameter."""
        ...

    def state_shapes(self, hidden_size: int) -> Shapes:
        """Shape of each part of the state, without the batch axis; its order is the order of s_t."""
        ...

    def step(self, xp: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache)."""
        ...

    def step_backward(self, params: Any, cache: Any, d_state: Any) -> StepGradients:
        """(d_params, d_x, d_state_prev)."""
        ...


@runtime_checkable
class HoistedCell(Protocol):
    """A cell that splits its step, so that all that does not recur is done for every step at once."""

    def project(self, xp: Any, params: Any, x: Any) -> Any:
        """What x contributes to the net input, for (B, ·) or (T, B, ·)."""
        ...

    def recur(self, xp: Any, params: Any, state: Any, projected: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache), given this step's share of `project`."""
        ...

    def delta(self, params: Any, cache: Any, d_state: Any) -> tuple[Array, Arrays]:
        """(∂L/∂(net input), d_state_prev); leading axes of d_state beyond those of the cache are carried along."""
        ...

    def accumulate(self, params: Any, cache: Any, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, d_x) over every leading axis of delta."""
        ...


class Halves:
    """The step form of a cell that is given by its halves."""

    def step(self: HoistedCell, xp: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache) from the state (B, ·) before and x_t."""
        return self.recur(xp, params, state, self.project(xp, params, x), x)

    def step_backward(self: HoistedCell, params: Any, cache: Any, d_state: Any) -> StepGradients:
        """(d_params, dx_t, d_state_prev) from the total derivatives d_state = ∂L/∂s_t, by name, (B, ·) each."""
        delta, d_state_prev = self.delta(params, cache, d_state)
        d_params, d_x = self.accumulate(params, cache, delta)
        return d_params, d_x, d_state_prev


def output_names(cell: Any) -> tuple[str, ...]:
    """The parts of the state that the next layer, or the head, reads: h, where the cell says nothing else."""
    return tuple(getattr(cell, "output_names", ("h",)))


def output_size(cell: Cell, hidden_size: int) -> int:
    """Size of that output."""
    shapes = cell.state_shapes(hidden_size)
    return sum(shapes[name][-1] for name in output_names(cell))
