"""A loss over a sequence, given by its step, so that its gradient can also be cut.

Truncated backpropagation is no gradient of the loss; it is the gradient of another function, in
which states are held fixed at certain places. With each loss going back at most K steps (windowed
truncation; Williams and Peng 1990),

    L_K = Σ_t ℓ_t(s_t),   s_t = step(… step(stop(s_{t−K−1}), x_{t−K}) …, x_t)       (1)

where stop(·) is a constant to differentiation, and the window of t holds K + 1 steps: t itself and
K earlier ones. Nothing is cut where the window reaches s_0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .arrays import Named
from .equations.parts import stop_gradient

State = dict[str, Any]


@dataclass(frozen=True)
class Unrolled:
    """loss(xp, params, inputs) = Σ_t step_loss, over the first axis of inputs in `sequence`.

    initial(xp, params, inputs) -> state                       s_0, a dict of arrays
    step(xp, params, state, at) -> state                       `at`: this step's inputs, by name
    step_loss(xp, params, state, at) -> scalar                 ℓ_t, of the new state
    """

    initial: Callable[[Any, Any, Any], State]
    step: Callable[[Any, Any, State, Named], State]
    step_loss: Callable[[Any, Any, State, Named], Any]
    sequence: tuple[str, ...] = ("x",)

    def __call__(self, xp: Any, params: Any, inputs: Any) -> Any:
        """The plain loss."""
        state, total = self.initial(xp, params, inputs), 0.0
        for at in self.at_steps(inputs):
            state = self.step(xp, params, state, at)
            total = total + self.step_loss(xp, params, state, at)
        return total

    def truncated(self, window: int) -> Callable[[Any, Any, Any], Any]:
        """loss(xp, params, inputs) whose gradient is the truncated one, by (1) with K = window.

        Its value is the plain loss.
        """

        def loss(xp: Any, params: Any, inputs: Any) -> Any:
            trajectory, total, at = [self.initial(xp, params, inputs)], 0.0, self.at_steps(inputs)
            for t in range(len(at)):
                first = max(0, t - window)
                start = trajectory[first]
                state = (
                    start
                    if first == 0
                    else {name: stop_gradient(value) for name, value in start.items()}
                )
                for k in range(first, t + 1):
                    state = self.step(xp, params, state, at[k])  # (1)
                trajectory.append(state)
                total = total + self.step_loss(xp, params, state, at[t])
            return total

        return loss

    def at_steps(self, inputs: Any) -> list[dict[str, Any]]:
        """The inputs of each step: those of `sequence` indexed along their first axis."""
        length = len(inputs[self.sequence[0]])
        return [{name: inputs[name][t] for name in self.sequence} for t in range(length)]
