"""What became of the records: plain counters for whoever shows them."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class SinkCounts:
    """One sink's. Written under its queue's lock, and read without."""

    written: int = 0
    """Records; lines that tell of dropped ones are not among them."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Records by reason: ``queue_full``, ``intake_full``, ``too_large``, ``rejected``, ``failed``
    (no line could be made of it: a fault of ours), ``closing``."""
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
