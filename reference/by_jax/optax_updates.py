"""Parameter updates by optax.

optax.clip or optax.clip_by_global_norm, chained with optax.sgd or optax.adam, compiled by jax.

`settings` are those of reference/by_torch/torch_optim.py:

    optimiser       "sgd", "momentum" or "adam"
    learning_rate   of all three
    momentum        of "momentum"; "nesterov" (optional) for the look-ahead
    beta1, beta2, epsilon   of "adam"
    clip            "value", "norm" (of all gradients together) or None
    limit           the bound on the value or the norm

64-bit mode is entered by context manager around each call, as in reference/by_jax/jax_grad.py; the
caller's configuration stays.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import optax

from ..arrays import Arrays, Named
from .jax_grad import compiler_options


def start(params: Named, settings: Named) -> Any:
    """The memory before the first update: optax's own, an immutable tree."""
    with jax.enable_x64(True):
        return _rule(_items(settings))[0].init(dict(params))


def update(params: Named, gradients: Named, memory: Any, settings: Named) -> tuple[Arrays, Any]:
    """(new parameters, new memory) after clipping and one update.

    Only gradients of parameters are looked at.

    Raises KeyError for a parameter without a gradient and for an optimiser or a clip of another
    name.
    """
    with jax.enable_x64(True):
        moved, memory = _rule(_items(settings))[1](
            dict(params), {name: gradients[name] for name in params}, memory
        )
        return {name: np.asarray(value) for name, value in moved.items()}, memory


def _items(settings: Named) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


@lru_cache(maxsize=64)
def _rule(
    items: tuple[tuple[str, Any], ...],
) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    settings = dict(items)
    chain = optax.chain(
        CLIPS[settings["clip"]](settings), OPTIMISERS[settings["optimiser"]](settings)
    )

    def one_update(params: Any, gradients: Any, memory: Any) -> Any:
        along, memory = chain.update(gradients, memory, params)
        return optax.apply_updates(params, along), memory

    return chain, jax.jit(one_update, compiler_options=compiler_options())


def _sgd(settings: Named) -> optax.GradientTransformation:
    return optax.sgd(settings["learning_rate"])


def _momentum(settings: Named) -> optax.GradientTransformation:
    return optax.sgd(
        settings["learning_rate"], settings["momentum"], settings.get("nesterov", False)
    )


def _adam(settings: Named) -> optax.GradientTransformation:
    return optax.adam(
        settings["learning_rate"], settings["beta1"], settings["beta2"], settings["epsilon"]
    )


OPTIMISERS = {"sgd": _sgd, "momentum": _momentum, "adam": _adam}
CLIPS: dict[str | None, Callable[[Named], optax.GradientTransformation]] = {
    "value": lambda settings: optax.clip(settings["limit"]),
    "norm": lambda settings: optax.clip_by_global_norm(settings["limit"]),
    None: lambda settings: optax.identity(),
}
