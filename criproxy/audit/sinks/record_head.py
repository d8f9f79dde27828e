"""What sinks for systems with fields of their own read of a record's line."""

from datetime import UTC, datetime

import msgspec


class Caller(msgspec.Struct):
    """Who asked."""

    pid: int | None = None
    uid: int | None = None
    executable: str | None = None


class Pod(msgspec.Struct):
    """Which pod it was about."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    id: str = ""


class Container(msgspec.Struct):
    """Which container it was about."""

    name: str = ""
    id: str = ""


class RecordHead(msgspec.Struct, rename="camel"):
    """The members of a record that have a place elsewhere, under their own names."""

    kind: str = "Event"
    audit_id: str = msgspec.field(default="", name="auditID")
    stage: str = ""
    level: str = ""
    stage_timestamp: str = ""
    listener: str = ""
    service: str = ""
    method: str = ""
    code: str = ""
    denied: str = ""
    caller: Caller | None = None
    pod: Pod | None = None
    container: Container | None = None

    def wall_ns(self, otherwise: int) -> int:
        """When it was, in nanoseconds since the epoch; ``otherwise`` if it does not say."""
        try:
            second = datetime.fromisoformat(self.stage_timestamp[:19]).replace(tzinfo=UTC)
            fraction = int(self.stage_timestamp[20:].rstrip("Z").ljust(9, "0")[:9])
        except ValueError:
            return otherwise
        return int(second.timestamp()) * 1_000_000_000 + fraction

    @property
    def severity(self) -> int:
        """Syslog's: warning where records are missing, notice of a denied call, else info."""
        if self.kind != "Event":
            return 4
        return 5 if self.denied else 6


read_head = msgspec.json.Decoder(RecordHead).decode
"""Read a line. Raises msgspec.DecodeError."""
