"""What a check says: an outcome, one line about what is there, and the mend."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How a check came out."""

    OK = "OK"
    WARN = "WARN"
    """Something that criproxy does not see, or that is easily got wrong."""
    FAIL = "FAIL"
    """A way around criproxy that is open or in use, or something of its own that is broken."""
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``mend`` is empty where there is nothing to do."""

    check: str
    outcome: Outcome
    what: str
    mend: str = ""

    @property
    def found(self) -> bool:
        """Whether it asks for something to be done."""
        return self.outcome in (Outcome.WARN, Outcome.FAIL)
