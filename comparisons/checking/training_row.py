"""What is told of one training run: by hand, and by each reference apart, from the same weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ParameterVerdict:
    """The worst of the trained parameters, by hand against one reference.

    passed       whether every parameter agrees, not the worst alone
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
    """One training run.

    characters, vocabulary     length of the text, and how many of its characters are distinct
    settings                   optimiser and clip with their numbers: comparisons.studies.optimisers
    loss_before, loss_after    mean loss per character, of the weights trained by hand
    rows                       one for each reference
    """

    text: str
    characters: int
    vocabulary: int
    updates: int
    cell: str
    settings: Mapping[str, Any]
    loss_before: float
    loss_after: float
    rows: list[ParameterVerdict]

    @property
    def passed(self) -> bool:
        """Whether manual and every reference stayed together."""
        return all(row.passed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; each of the settings under its own name."""
        return {
            "text": self.text,
            "characters": self.characters,
            "vocabulary": self.vocabulary,
            "updates": self.updates,
            "cell": self.cell,
            **self.settings,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "rows": [asdict(row) for row in self.rows],
            "passed": self.passed,
        }
