"""Counters of audit records: written, dropped, failed, waiting, for each sink."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DROPS: Final[Mapping[str, str]] = {
    "queue_full": "The sink's queue was full.",
    "intake_full": "More items of the listener waited for the recorder than its share.",
    "too_large": "The record is too large for one datagram of the sink.",
    "rejected": "The receiver rejected the record.",
    "refused": "The call was refused after `max_wait`, so it has no record of its own.",
    "failed": "An error in criproxy prevented the record from being made.",
    "closing": "The daemon ended before the record was sent or written.",
}
"""The reasons for dropping a record (values of a metric's label) and their meanings."""


@dataclass(slots=True)
class SinkCounts:
    """The counters of one sink. Written under its queue's lock, read without it."""

    written: int = 0
    """Records that were written, without the records of kind ``Dropped``."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped records by reason, one of DROPS."""
    errors: int = 0
    """Failed attempts to write."""
    backlog: int = 0
    """Records in the queue."""
    backlog_bytes: int = 0
    """Bytes in the queue."""

    def add(self, other: "SinkCounts") -> None:
        """Add the counters of another set."""
        self.written += other.written
        self.dropped.update(other.dropped)
        self.errors += other.errors
        self.backlog += other.backlog
        self.backlog_bytes += other.backlog_bytes


@dataclass(slots=True)
class AuditCounts:
    """The counters of all sinks, by the sink's name."""

    sinks: dict[str, SinkCounts] = field(default_factory=dict)

    def sink(self, name: str) -> SinkCounts:
        """Return the counters of a sink, which continue after a reload."""
        return self.sinks.setdefault(name, SinkCounts())
