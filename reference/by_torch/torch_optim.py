"""Parameter updates by torch.

torch.nn.utils.clip_grad_value_ and clip_grad_norm_, then the functions behind torch.optim.

`settings` is a plain mapping, the same for reference/by_jax/optax_updates.py:

    optimiser       "sgd", "momentum" or "adam"
    learning_rate   of all three
    momentum        of "momentum"; "nesterov" (optional) for the look-ahead
    beta1, beta2, epsilon   of "adam"
    clip            "value", "norm" (of all gradients together) or None
    limit           the bound on the value or the norm

torch.optim.sgd.sgd and torch.optim.adam.adam are what the classes SGD and Adam call, given their
memory as lists. The classes would import torch._dynamo, which takes seconds. Nothing of the
caller's global state is changed.
"""

from typing import Any

import torch
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ..arrays import Arrays, Named

Tensors = dict[str, torch.Tensor]


def start(params: Named, settings: Named) -> dict[str, Tensors]:
    """The memory before the first update.

    A tensor by parameter for each quantity of the optimiser.
    """
    if settings["optimiser"] != "adam":
        return {"momentum": {}}
    zeros = {name: torch.zeros_like(_tensor(value)) for name, value in params.items()}
    none_done = {name: torch.zeros((), dtype=torch.float64, device="cpu") for name in params}
    return {"m": zeros, "v": zeros, "updates": none_done}


def update(
    params: Named, gradients: Named, memory: dict[str, Tensors], settings: Named
) -> tuple[Arrays, dict[str, Tensors]]:
    """(new parameters, new memory) after clipping and one update.

    Only gradients of parameters are looked at.

    Raises KeyError for a parameter without a gradient and for an optimiser or a clip of another
    name.
    """
    leaves = {name: _tensor(value) for name, value in params.items()}
    for name, leaf in leaves.items():
        leaf.grad = _tensor(gradients[name])
    new = {
        kind: {name: value.clone() for name, value in named.items()}
        for kind, named in memory.items()
    }
    with torch.no_grad():
        CLIPS[settings["clip"]](leaves, settings)
        OPTIMISERS[settings["optimiser"]](leaves, new, settings)
    return {name: leaf.numpy() for name, leaf in leaves.items()}, new


def _tensor(value: Any) -> torch.Tensor:
    return torch.tensor(value, device="cpu")


def _descend(leaves: Tensors, memory: dict[str, Tensors], settings: Named) -> None:
    buffers = [memory["momentum"].get(name) for name in leaves]
    sgd(
        list(leaves.values()),
        [leaf.grad for leaf in leaves.values()],  # pyright: ignore[reportArgumentType]
        buffers,
        lr=settings["learning_rate"],
        momentum=settings["momentum"] if settings["optimiser"] == "momentum" else 0.0,
        nesterov=settings.get("nesterov", False),
        dampening=0.0,
        weight_decay=0.0,
        maximize=False,
    )
    memory["momentum"] = {
        name: buffer for name, buffer in zip(leaves, buffers, strict=True) if buffer is not None
    }


def _adam(leaves: Tensors, memory: dict[str, Tensors], settings: Named) -> None:
    adam(
        list(leaves.values()),
        [leaf.grad for leaf in leaves.values()],  # pyright: ignore[reportArgumentType]
        [memory["m"][name] for name in leaves],
        [memory["v"][name] for name in leaves],
        [],
        [memory["updates"][name] for name in leaves],
        lr=settings["learning_rate"],
        beta1=settings["beta1"],
        beta2=settings["beta2"],
        eps=settings["epsilon"],
        amsgrad=False,
        weight_decay=0.0,
        maximize=False,
    )


def _clip_value(leaves: Tensors, settings: Named) -> None:
    torch.nn.utils.clip_grad_value_(leaves.values(), settings["limit"])


def _clip_norm(leaves: Tensors, settings: Named) -> None:
    torch.nn.utils.clip_grad_norm_(leaves.values(), settings["limit"])


def _clip_nothing(leaves: Tensors, settings: Named) -> None:
    del leaves, settings


OPTIMISERS = {"sgd": _descend, "momentum": _descend, "adam": _adam}
CLIPS = {"value": _clip_value, "norm": _clip_norm, None: _clip_nothing}
