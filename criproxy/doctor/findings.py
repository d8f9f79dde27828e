"""The result of a check: an outcome, a one-line description and a remedy."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """The outcome of a check."""

    OK = "OK"
    WARN = "WARN"
    """Something that criproxy cannot observe, or an error-prone setting."""
    FAIL = "FAIL"
    """A bypass that is open or in use, or a broken part of criproxy."""
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``remedy`` is empty where there is nothing to do."""

    check: str
    outcome: Outcome
    what: str
    remedy: str = ""

    @property
    def found(self) -> bool:
        """Whether somebody has to act on it."""
        return self.outcome in (Outcome.WARN, Outcome.FAIL)
