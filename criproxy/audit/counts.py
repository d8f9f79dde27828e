"""What became of the records: plain counters for whoever shows them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DROPS: Final[Mapping[str, str]] = {
    "queue_full": "The sink's queue was full.",
    "intake_full": "The queue in front of the encoder was full.",
    "too_large": "The record is too large for one datagram of the sink.",
    "rejected": "The receiver rejected the record.",
    "refused": "The call was refused after `max_wait`, so it has no record of its own.",
    "failed": "An error in criproxy prevented the record from being made.",
    "closing": "The daemon ended before the record was written.",
}
"""Why records are dropped: the values of a metric's label, and what they mean."""


@dataclass(slots=True)
class SinkCounts:
    """One sink's. Written under its queue's lock, and read without."""

    written: int = 0
    """Records; lines that tell of dropped ones are not among them."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Records by reason, one of DROPS."""
    errors: int = 0
    """Attempts to write that failed."""
    backlog: int = 0
    """Records that wait."""
    backlog_bytes: int = 0


@dataclass(slots=True)
class AuditCounts:
    """The audit log's: one set a sink, by its name."""

    sinks: dict[str, SinkCounts] = field(default_factory=dict)

    def sink(self, name: str) -> SinkCounts:
        """The counters of a sink; those that it had already, after a reload."""
        return self.sinks.setdefault(name, SinkCounts())
