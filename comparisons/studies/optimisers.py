"""Parameter updates by either side: by manual/training.py, and by a framework's optimisers.

`settings` are the plain mapping that reference/by_torch/torch_optim.py describes. torch.optim and
optax divide by another norm when they clip (equation 10 of manual/training.py): what is to stay
together with a framework is clipped by hand as that framework does.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...manual import training
from ..errors import UnknownName
from ..problems.arrays import Array

Settings: TypeAlias = Mapping[str, Any]
Named: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True)
class Rule:
    """Clipping and an update, by whom; pure.

    start(params) -> memory; update(params, gradients, memory) -> (params, memory). clip_epsilon is
    the ε of clipping by norm, 0 where nothing is clipped so.
    """

    by: str
    start: Callable[[Named], Any]
    update: Callable[[Named, Named, Any], tuple[dict[str, Array], Any]]
    clip_epsilon: float


OPTIMISERS: dict[str, Callable[[Settings], Any]] = {
    "sgd": lambda s: training.SGD(s["learning_rate"]),
    "momentum": lambda s: training.SGD(s["learning_rate"], s["momentum"], s.get("nesterov", False)),
    "adam": lambda s: training.Adam(s["learning_rate"], s["beta1"], s["beta2"], s["epsilon"]),
}
CLIPS: dict[str | None, Callable[[Named, Settings, float], Named]] = {
    "value": lambda gradients, s, epsilon: training.clip_by_value(gradients, s["limit"]),
    "norm": lambda gradients, s, epsilon: training.clip_by_global_norm(
        gradients, s["limit"], epsilon
    ),
    None: lambda gradients, s, epsilon: gradients,
}
MODULES = {
    "torch.optim": "bptt_crosscheck.reference.by_torch.torch_optim",
    "optax": "bptt_crosscheck.reference.by_jax.optax_updates",
}
CLIP_EPSILON = {"torch.optim": 1e-6, "optax": 0.0}
PREFERRED = {
    "torch": ("torch.optim",),
    "jax": ("optax", "torch.optim"),
}  # package of an engine → whose updates go with it


def by_hand(settings: Settings, clip_epsilon: float = 0.0) -> Rule:
    """The rule of manual/training.py.

    Raises UnknownName for an optimiser or a clip that does not exist.
    """
    must_be_known(settings)
    optimiser, clip = OPTIMISERS[settings["optimiser"]](settings), CLIPS[settings["clip"]]

    def update(params: Named, gradients: Named, memory: Any) -> tuple[dict[str, Array], Any]:
        clipped = clip({name: gradients[name] for name in params}, settings, clip_epsilon)
        return optimiser.update(params, clipped, memory)

    return Rule("manual", optimiser.start, update, clip_epsilon)


def by_framework(package: str, settings: Settings) -> tuple[Rule, str | None]:
    """(the rule that goes with a reference of this package, a note where another stands in).

    Raises UnknownName for an optimiser or a clip that does not exist.
    """
    must_be_known(settings)
    for by in PREFERRED[package]:
        try:
            module = importlib.import_module(MODULES[by])
        except ImportError:
            continue
        return _from_module(by, module, settings), _note(package, by)
    return by_hand(settings), _note(package, "manual/training.py")


def _from_module(by: str, module: Any, settings: Settings) -> Rule:
    def start(params: Named) -> Any:
        return module.start(params, settings)

    def update(params: Named, gradients: Named, memory: Any) -> tuple[dict[str, Array], Any]:
        return module.update(params, gradients, memory, settings)

    return Rule(by, start, update, CLIP_EPSILON[by] if settings["clip"] == "norm" else 0.0)


def _note(package: str, by: str) -> str | None:
    wanted = PREFERRED[package][0]
    if by == wanted:
        return None
    instead = f"{by} updates the weights along {package}'s gradients"
    return f"training: {wanted} is not installed, so {instead}: pip install {wanted}"


def must_be_known(settings: Settings) -> None:
    """Raises UnknownName for an optimiser or a clip that does not exist."""
    if settings["optimiser"] not in OPTIMISERS:
        known = ", ".join(OPTIMISERS)
        raise UnknownName(f"no optimiser is called {settings['optimiser']!r}; there are {known}")
    if settings["clip"] not in CLIPS:
        known = ", ".join(map(str, CLIPS))
        raise UnknownName(f"no clip is called {settings['clip']!r}; there are {known}")
