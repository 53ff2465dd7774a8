"""Parameter updates.

SGD:

    θ ← θ − η ∂L/∂θ        (1)
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def sgd(params: Mapping[str, Array], gradients: Mapping[str, Array], learning_rate: float) -> dict[str, Array]:
    """New parameters by (1); the old ones are left as they are, and keep their dtype."""
    return {name: value - np.asarray(learning_rate, dtype=value.dtype) * gradients[name] for name, value in params.items()}  # (1)
