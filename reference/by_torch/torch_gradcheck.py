"""torch.autograd.gradcheck on a derivation in NumPy, wrapped as a torch.autograd.Function.

A checker to compare ours with. No check of a derivation asks it, the trial alone, in processes of
its own: the warning filter that is set here is in nobody else's way.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..arrays import Arrays, Named


def accepts(
    value: Callable[[Named], float],
    gradients: Callable[[Named], Named],
    variables: Named,
    fast: bool = False,
) -> bool:
    """Whether gradcheck accepts gradients(variables) as those of the scalar value(variables).

    It has its default tolerances.

    fast: in its fast mode, which compares two random projections. A gradient that is missing, or
    that raises, is not accepted.
    """
    names = list(variables)

    class Derivation(torch.autograd.Function):
        """The value, and the hand-derived gradient of it."""

        @staticmethod
        def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
            """The value of these variables."""
            ctx.save_for_backward(*tensors)
            return tensors[0].new_tensor(value(arrays(tensors)))

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            """What the derivation says, times the cotangent of the value."""
            found = gradients(arrays(ctx.saved_tensors))
            like = ctx.saved_tensors[0]
            return tuple(
                grad_outputs[0] * torch.as_tensor(np.array(found[name]), dtype=like.dtype)
                for name in names
            )

    def arrays(tensors: Any) -> Arrays:
        return {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}

    leaves = [torch.tensor(np.array(variables[name])).requires_grad_() for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that float32 inputs are likely to fail
        try:
            return torch.autograd.gradcheck(
                Derivation.apply, leaves, fast_mode=fast, raise_exception=False
            )
        except Exception:
            return False
