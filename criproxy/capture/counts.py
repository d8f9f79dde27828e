"""Counters of captures: cassettes, and what was lost."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DROPS: Final[Mapping[str, str]] = {
    "channel_full": "More records of the worker waited for the capturer than may.",
    "unavailable": "The capturer had ended, and was not started again yet.",
    "too_large": "A message does not fit into a cassette.",
    "failed": "An error in criproxy prevented the record from being kept.",
}
"""The reasons for dropping a record (values of a metric's label) and their meanings."""


@dataclass(slots=True)
class CaptureCounts:
    """The counters of one process."""

    dropped: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(DROPS, 0)))
    """Dropped records by reason, one of DROPS."""
    cassettes: Counter[str] = field(default_factory=lambda: Counter(trigger=0, command=0))
    """Cassettes that were begun, by what for."""
    suppressed: int = 0
    """Triggers for which none was begun, because one had been shortly before."""
    removed: int = 0
    """Cassettes that were removed to make room."""
    errors: int = 0
    """Cassettes that could not be written, or not to their end."""
    ring_bytes: int = 0
    """Bytes that are kept in memory."""
