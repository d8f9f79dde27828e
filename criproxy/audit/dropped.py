"""Makes the record of kind ``Dropped``, which reports how many records are missing and why."""

from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from uuid import uuid4

import msgspec

API_VERSION: Final = "audit.criproxy.io/v1"
_SECOND: Final = 1_000_000_000
_DATES: Final = 64
"""Formatted seconds that are cached: most records belong to the last few."""


def timestamp(wall_ns: int) -> str:
    """Format nanoseconds since the epoch as RFC 3339 in UTC with nine digits."""
    seconds, rest = divmod(wall_ns, _SECOND)
    return f"{_date(seconds)}.{rest:09}Z"


@lru_cache(_DATES)
def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


class DroppedRecords:
    """Counts dropped records by reason, with the times of the first and the last drop."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.since = 0
        self.until = 0

    def add(self, count: int, reason: str, wall_ns: int) -> None:
        """Count records that were dropped at ``wall_ns`` (nanoseconds since the epoch)."""
        if not self.reasons:
            self.since = wall_ns
        self.until = wall_ns
        self.reasons[reason] += count

    def merge(self, earlier: "DroppedRecords") -> None:
        """Add the counts of an earlier ``Dropped`` record that was itself not written."""
        self.since = earlier.since
        self.until = max(self.until, earlier.until)
        self.reasons += earlier.reasons

    def line(self, node: str, sink: str, wall_ns: int) -> bytes:
        """Return the record of kind ``Dropped`` as JSON without a newline."""
        return msgspec.json.encode(
            {
                "apiVersion": API_VERSION,
                "kind": "Dropped",
                "level": "Metadata",
                "auditID": str(uuid4()),
                "stageTimestamp": timestamp(wall_ns),
                "node": node,
                "sink": sink,
                "dropped": self.reasons.total(),
                "reasons": self.reasons,
                "since": timestamp(self.since),
                "until": timestamp(self.until),
            }
        )
