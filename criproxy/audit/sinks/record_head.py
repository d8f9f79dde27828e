"""Decodes the members of a record that syslog, journald and OTLP have fields for."""

from datetime import UTC, datetime

import msgspec


class Caller(msgspec.Struct):
    """The client."""

    pid: int | None = None
    uid: int | None = None
    executable: str | None = None


class Pod(msgspec.Struct):
    """The pod of the call."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    id: str = ""


class Container(msgspec.Struct):
    """The container of the call."""

    name: str = ""
    id: str = ""


class RecordHead(msgspec.Struct, rename="camel"):
    """The members of a record that other systems have fields for."""

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

    def wall_ns(self, default: int) -> int:
        """Return the stage's time in nanoseconds since the epoch; ``default`` if there is none."""
        try:
            second = datetime.fromisoformat(self.stage_timestamp[:19]).replace(tzinfo=UTC)
            fraction = int(self.stage_timestamp[20:].rstrip("Z").ljust(9, "0")[:9])
        except ValueError:
            return default
        return int(second.timestamp()) * 1_000_000_000 + fraction

    @property
    def severity(self) -> int:
        """The syslog severity: warning for missing records, notice for denied calls, else info."""
        if self.kind != "Event":
            return 4
        return 5 if self.denied else 6


read_head = msgspec.json.Decoder(RecordHead).decode
"""Decode a line. Raises msgspec.DecodeError."""
