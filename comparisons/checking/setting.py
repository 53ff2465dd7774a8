"""Under what a check runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..errors import BadOption, MissingFramework
from ..witnesses.ask import available
from ..witnesses.engines import FOR_NUMPY_CODE, Engine, names_in
from ..witnesses.left_out import LeftOut

LARGEST = 10**100  # of the integers that are options
COMPUTED_IN = ("float16", "float32", "float64")
# Seconds that a time limit may be at most, a year: what the clocks of all systems can count.
LONGEST = 31_536_000

References: TypeAlias = Sequence[str] | str | None


@dataclass(frozen=True)
class Setting:
    """Under what a check runs.

    The seed, whom to ask, where they compute, in what the candidate computes, how many seconds one
    call of it may take.
    """

    seed: int
    references: References
    device: str = "cpu"
    dtype: str = "float64"
    timeout: float | None = None

    def must_be_valid(self, sizes: Mapping[str, Any] | None = None) -> None:
        """Raises BadOption for a seed below 0, a size below 1, or what is no integer.

        So too for a dtype that NumPy cannot compute in; bfloat16 is one, whose matrix products
        are float32.
        """
        _must_be_at_least(0, "seed", self.seed)
        for name, size in (sizes or {}).items():
            _must_be_at_least(1, name, size)
        if self.dtype not in COMPUTED_IN:
            raise BadOption(f"dtype is one of {', '.join(COMPUTED_IN)}, not {self.dtype!r}")

    def time_limit(self) -> float | None:
        """The seconds. Raises BadOption for what is no number above 0."""
        seconds = self.timeout
        if seconds is None:
            return None
        is_number = isinstance(seconds, int | float | np.integer | np.floating)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_number or isinstance(seconds, bool) or not 0 < seconds <= LONGEST:
            raise BadOption(
                f"timeout is a number of seconds above 0, {LONGEST:,} at most, not {seconds!r}"
            )
        return float(seconds)

    def must_name_a_device(self) -> None:
        """Raises BadOption for what is no text."""
        if not isinstance(self.device, str) or not self.device:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadOption(f'device is a text such as "cpu" or "cuda", not {self.device!r:.60}')

    def engines(self, numpy_only: bool = False) -> tuple[tuple[Engine, ...], dict[str, LeftOut]]:
        """(the engines to ask, {those that are missing: how to install them}).

        Raises MissingFramework where none is left.
        """
        named = names_in(self.references)
        return available(FOR_NUMPY_CODE if named is None and numpy_only else named)

    def all_that_were_named(self) -> None:
        """Raises MissingFramework where a reference was named that is not installed.

        That is said after the others were asked.
        """
        missing = {} if self.references is None else self.engines()[1]
        if missing:
            advice = "; ".join(str(left) for left in missing.values())
            raise MissingFramework(
                f"{advice}; the other references were asked: raise_exception=False tells"
            )


def _must_be_at_least(least: int, name: str, value: Any) -> None:
    if isinstance(value, int) and abs(value) > LARGEST:
        raise BadOption(f"{name} is an integer of at least {least}, of a hundred digits at most")
    if not isinstance(value, int | np.integer) or value < least:
        raise BadOption(f"{name} is an integer of at least {least}, not {value!r}")
