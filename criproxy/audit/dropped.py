"""The record that says which records are missing."""

from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from uuid import uuid4

import msgspec

API_VERSION: Final = "audit.criproxy.io/v1"
_SECOND: Final = 1_000_000_000
_DATES: Final = 64
"""Seconds whose date is remembered: most records are of the last few."""


def timestamp(wall_ns: int) -> str:
    """Write a time, in nanoseconds since the epoch, as RFC 3339 in UTC with nine digits."""
    seconds, rest = divmod(wall_ns, _SECOND)
    return f"{_date(seconds)}.{rest:09}Z"


@lru_cache(_DATES)
def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


class DroppedRecords:
    """Records that did not come through: how many, why, and between which times."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.since = 0
        self.until = 0

    def add(self, count: int, reason: str, wall_ns: int) -> None:
        """Count some that were lost just now."""
        if not self.reasons:
            self.since = wall_ns
        self.until = wall_ns
        self.reasons[reason] += count

    def again(self, told: "DroppedRecords") -> None:
        """Count those as well of whom a record told that did not come through itself."""
        self.since = told.since
        self.until = max(self.until, told.until)
        self.reasons += told.reasons

    def line(self, node: str, sink: str, wall_ns: int) -> bytes:
        """Make the record, of kind ``Dropped``."""
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
