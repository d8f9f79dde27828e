"""The result of a check: an outcome, a one-line description and a remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


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


def as_rows(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings as values for JSON: how many there are, and what each check says."""
    rows = [
        {
            "check": each.check,
            "outcome": each.outcome.value,
            "what": each.what,
            "mend": each.remedy or None,
        }
        for each in findings
    ]
    return {"found": sum(each.found for each in findings), "findings": rows}
