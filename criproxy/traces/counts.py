"""Counters of spans: exported, dropped, failed, waiting."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DROPS: Final[Mapping[str, str]] = {
    "channel_full": "More spans of the worker waited for the exporter than may.",
    "queue_full": "The exporter's queue was full.",
    "unavailable": "The endpoint did not accept the span within `retry_for`.",
    "rejected": "The endpoint rejected the span.",
    "failed": "An error in criproxy prevented the span from being made.",
    "closing": "The daemon ended before the span was sent.",
}
"""The reasons for dropping a span (values of a metric's label) and their meanings."""


@dataclass(slots=True)
class TraceCounts:
    """The counters of one process. Each field is written by one thread or under a lock."""

    exported: int = 0
    """Spans that the endpoint has accepted."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped spans by reason, one of DROPS."""
    errors: int = 0
    """Failed requests."""
    queue_spans: int = 0
    """Spans that wait to be sent."""
    queue_bytes: int = 0
    """Bytes of these spans."""

    def add(self, other: "TraceCounts") -> None:
        """Add the counters of another set."""
        self.exported += other.exported
        self.dropped.update(other.dropped)
        self.errors += other.errors
        self.queue_spans += other.queue_spans
        self.queue_bytes += other.queue_bytes
