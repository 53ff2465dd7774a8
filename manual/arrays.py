"""The types of what all of manual/ computes with."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]  # by name: parameters, states, gradients
Named: TypeAlias = Mapping[str, Array]  # the same, to be read only
