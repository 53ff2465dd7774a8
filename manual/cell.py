"""What a cell offers to the time loop.

The step form, and two halves of it that let work be hoisted out of the loop.

The step form is the contract: `step` and, under it, `step_backward`. Most cells compute a net input
that is linear in x,

    a_t = W_xh x_t + b_h + (what waits for s_{t−1})             (1)

so that a step falls into `project` (for every step at once) and `recur`, and its backward into
`delta` = ∂L/∂a_t, which recurs, and `accumulate`, in which every weight gradient is one product
over all steps. `Halves` puts the step form together from them.

A cell may give the same equations once more as a sequence form, `sequence` and `sequence_backward`:
a loop of its own that writes into memory laid out beforehand, and computes before and after it, for
every step at once, whatever does not recur. It is for speed, and holds for the step that the cell
takes: a subclass that changes the step has none. Beside the step form it differs by rounding.
"""

from typing import Any, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

import numpy as np

from .arrays import Array, Arrays

Shapes: TypeAlias = dict[str, tuple[int, ...]]
StepGradients: TypeAlias = tuple[Arrays, Array | None, Arrays]


class Cell(Protocol):
    """What a cell must offer; no base class is needed.

    It may say besides: `output_names`, the parts of its state that are its output to what comes
    after, if that is not h; and `initialise(rng, input_size, hidden_size, batch)`, its own draw of
    some parameters and initial states ("n_0").
    """

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shape of each parameter."""
        ...

    def state_shapes(self, hidden_size: int) -> Shapes:
        """Shape of each part of the state, without the batch axis.

        Its order is the order of s_t.
        """
        ...

    def step(self, xp: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache)."""
        ...

    def step_backward(self, params: Any, cache: Any, d_state: Any) -> StepGradients:
        """(d_params, d_x, d_state_prev)."""
        ...


@runtime_checkable
class HoistedCell(Protocol):
    """A cell that splits its step: all that does not recur is done for every step at once."""

    def project(self, xp: Any, params: Any, x: Any) -> Any:
        """What x contributes to the net input, for (B, ·) or (T, B, ·)."""
        ...

    def recur(self, xp: Any, params: Any, state: Any, projected: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache), given this step's share of `project`."""
        ...

    def delta(self, params: Any, cache: Any, d_state: Any) -> tuple[Array, Arrays]:
        """(∂L/∂(net input), d_state_prev).

        Leading axes of d_state beyond those of the cache are carried along.
        """
        ...

    def accumulate(self, params: Any, cache: Any, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, d_x) over every leading axis of delta."""
        ...


class SequenceCell(Cell, HoistedCell, Protocol):
    """A cell with a sequence form; all arrays have one dtype, but for tokens."""

    def sequence(self, params: Any, initial: Any, x: Array) -> tuple[Arrays, Arrays]:
        """(s_0..s_T by name, (T+1, B, ·); tape) over x (T, B, I), or tokens (T, B).

        initial is the state s_0, (B, ·) by name.
        """
        ...

    def sequence_backward(self, params: Any, x: Array, tape: Arrays, cotangents: Any, carry: Arrays | None) -> StepGradients:
        """(d_params, d_x, ∂L/∂s_0 by name) from cotangents e_1..e_T: name → (T, B, ·).

        carry is the part of ∂L/∂s_T that comes through steps after T, (B, ·) by name; None if there
        are none.
        """
        ...


STEP_FORM = ("step", "step_backward", "project", "recur", "delta", "accumulate")


def has_sequence_form(cell: Any) -> TypeGuard[SequenceCell]:
    """Whether the cell has a sequence form, and of the very step that it takes."""
    kind = cast(Any, type(cell))
    if not callable(getattr(kind, "sequence", None)) or not callable(getattr(kind, "sequence_backward", None)):
        return False
    return all(_is_by_its_author(kind, name) for name in STEP_FORM)


def jacobian_takes_rows_of_steps(cell: Any) -> bool:
    """Whether `step_jacobian` may be asked about rows of several steps as if they were of one.

    It may where the sequence form may.
    """
    return has_sequence_form(cell) and _is_by_its_author(cast(Any, type(cell)), "step_jacobian")


def _is_by_its_author(kind: Any, name: str) -> bool:
    """Whether the method is that of the class which wrote the sequence form."""
    owner = next(each for each in kind.__mro__ if "sequence_backward" in vars(each))
    return getattr(kind, name, None) is getattr(owner, name, kind)


def zeros(like: Array) -> Array:
    """Zeros of this shape and dtype that take no memory.

    One number, read everywhere, and read-only.
    """
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)


def are_zeros(array: Array) -> bool:
    """Whether the array is known to be zero without reading it: whether it comes from `zeros`."""
    return not any(array.strides) and not array[(0,) * array.ndim]


def arriving(carry: Arrays | None, name: str, like: Array) -> Array:
    """A copy, to be written to, of what comes back from later steps.

    Zeros (B, ·) if there are no later steps.
    """
    return np.zeros(like.shape, like.dtype) if carry is None else carry[name].astype(like.dtype)


class Halves:
    """The step form of a cell that is given by its halves."""

    def step(self: HoistedCell, xp: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """(new state, cache) from the state (B, ·) before and x_t."""
        return self.recur(xp, params, state, self.project(xp, params, x), x)

    def step_backward(self: HoistedCell, params: Any, cache: Any, d_state: Any) -> StepGradients:
        """(d_params, dx_t, d_state_prev) from the total derivatives d_state = ∂L/∂s_t.

        Both are by name, (B, ·) each.
        """
        delta, d_state_prev = self.delta(params, cache, d_state)
        d_params, d_x = self.accumulate(params, cache, delta)
        return d_params, d_x, d_state_prev


def output_names(cell: Any) -> tuple[str, ...]:
    """The parts of the state that the next layer, or the head, reads.

    h, where the cell says nothing else.
    """
    return tuple(getattr(cell, "output_names", ("h",)))


def output_size(cell: Cell, hidden_size: int) -> int:
    """Size of that output."""
    shapes = cell.state_shapes(hidden_size)
    return sum(shapes[name][-1] for name in output_names(cell))
