"""The types of what all of reference/ takes and tells."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]  # what a reference tells, by name
Named: TypeAlias = Mapping[str, Any]  # what it is given by name: arrays, or the framework's own
