"""Why a reference was not asked, as data."""

from dataclasses import dataclass
from enum import Enum


class WhyLeftOut(Enum):
    """What kept a reference from answering."""

    NOT_APPLICABLE = "it does not answer problems of this sort"
    CANNOT_FOLLOW = "it was asked, and could not follow the code"
    MISSING = "it is not installed"


@dataclass(frozen=True)
class LeftOut:
    """A reference that has no answer: the kind of reason, and the reason in words."""

    kind: WhyLeftOut
    reason: str

    def __str__(self) -> str:
        return self.reason

    def to_dict(self) -> str:
        """As it stands in a report: the reason."""
        return self.reason
