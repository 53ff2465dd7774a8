"""One character model trained side by side, as plain data."""

from dataclasses import dataclass
from typing import Any

from ..plain_data import plain


@dataclass(frozen=True)
class ParameterRow:
    """The trained parameters against those of one reference: the worst of them.

    updated_by   whose optimiser moved the reference's weights
    """

    reference: str
    parameter: str
    max_rel_error: float
    error_over_noise: float
    passed: bool
    updated_by: str


@dataclass(frozen=True)
class TrainingRow:
    """A model trained by hand and by every reference from the same weights.

    settings                   of the optimiser: its name, learning rate, clipping
    loss_before, loss_after    the mean loss over the text by hand
    rows                       the parameters at the end, against each reference
    """

    text: str
    characters: int
    vocabulary: int
    updates: int
    cell: str
    settings: dict[str, Any]
    loss_before: float
    loss_after: float
    rows: list[ParameterRow]

    @property
    def passed(self) -> bool:
        """Whether all stayed together."""
        return all(row.passed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the optimiser's settings stand among the rest."""
        told = {name: plain(value) for name, value in vars(self).items()}
        settings = told.pop("settings")
        return {**told, **settings, "passed": self.passed}
