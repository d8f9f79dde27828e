"""The configuration's section ``audit``: what is recorded, what is left out, where it goes."""

import re
from typing import Final, Literal

from msgspec import field

from criproxy.cri.naming import GROUPS
from criproxy.durations import Duration
from criproxy.modes import Mode
from criproxy.rules.spec import CallersSpec, Globs
from criproxy.section import Section
from criproxy.sizes import Size
from criproxy.wire.grpc import StatusCode

Level = Literal["None", "Metadata", "Request", "RequestResponse"]
Fsync = Literal["none", "interval", "always"]
Facility = Literal[
    "kern", "user", "daemon", "auth", "syslog", "cron", "authpriv",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip

LEVELS: Final[tuple[Level, ...]] = ("None", "Metadata", "Request", "RequestResponse")
"""From nothing to everything."""

OPTIONAL: Final = (
    "caller",
    "pod",
    "container",
    "image",
    "requestObject",
    "responseObject",
    "responseObjects",
    "message",
    "rules",
    "changes",
)
"""What ``omit`` may begin with. The rest says what happened and when, and is always there."""


class AuditRuleSpec(Section, frozen=True):
    """One rule of the policy: calls that fit all that is given are recorded at its level."""

    level: Level
    methods: Globs = field(default_factory=lambda: ["*"])
    """Globs, as in rules, or groups: ``@read``, ``@mutating``, ``@exec``."""
    callers: CallersSpec | None = None
    listeners: Globs | None = None
    namespaces: Globs | None = None
    """The pod's. One that is not known is the empty string."""
    pods: Globs | None = None
    """The pod's name. One that is not known is the empty string."""
    labels: dict[str, str] | None = None
    """The pod's: each key with a glob of its value."""
    codes: list[str] | None = None
    """Names of gRPC's codes that the call may end with."""
    longer_than: Duration | None = None
    omit: list[str] = field(default_factory=list)
    """Fields that the record does without: ``requestObject.config.linux``, ``caller.command``.
    They are written as in the record, lists are gone through."""

    def __post_init__(self) -> None:
        for pattern in self.methods:
            if pattern.startswith("@") and pattern not in GROUPS:
                raise ValueError(f"{pattern!r} is no group of methods: {', '.join(GROUPS)}")
        for path in self.omit:
            if path.partition(".")[0] not in OPTIONAL:
                raise ValueError(
                    f"{path!r} is nothing that a record can do without: {', '.join(OPTIONAL)}"
                )
        for code in self.codes or ():
            if code not in StatusCode.__members__:
                raise ValueError(f"{code!r} is no gRPC code; write it like PERMISSION_DENIED")


class RedactSpec(Section, frozen=True):
    """What is never written, beside registries' credentials, which never are."""

    environment: bool = True
    info: bool = True
    """What a runtime adds to a verbose status."""
    annotations: Globs = field(default_factory=list)
    """Globs of keys whose values are kept out."""
    values: list[str] = field(default_factory=list)
    """Regular expressions; what they find in any text is kept out."""

    def __post_init__(self) -> None:
        for pattern in self.values:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


class RotateSpec(Section, frozen=True):
    """When a file is put aside, and how many of those are kept."""

    size: Size | None = Size(100 << 20)
    """None: of any size."""
    age: Duration | None = None
    keep: int | None = 10
    """None: all of them."""
    total: Size | None = None
    """Bytes of all the files together, past which the oldest goes. None: no limit."""
    compress: bool = True


class FileSpec(Section, frozen=True):
    """Records in a file, one a line."""

    path: str
    mode: Mode = Mode(0o600)
    rotate: RotateSpec = RotateSpec()
    fsync: Fsync = "interval"
    interval: Duration = Duration(1)
    """From one fsync to the next, with ``fsync: interval``."""
    chain: bool = False
    """Whether each record carries the hash of the one before."""


class StdoutSpec(Section, frozen=True):
    """Records on standard output, one a line."""


class SyslogSpec(Section, frozen=True):
    """Records to a syslog server (RFC 5424)."""

    address: str = "unix:///dev/log"
    """``unix:///dev/log``, ``udp://host:514`` or ``tcp://host:601``."""
    facility: Facility = "authpriv"


class JournaldSpec(Section, frozen=True):
    """Records to systemd's journal, in its native protocol."""

    socket: str = "/run/systemd/journal/socket"


class OtlpSpec(Section, frozen=True):
    """Records to an OpenTelemetry Collector, as OTLP logs over HTTP with protobuf."""

    endpoint: str = "http://127.0.0.1:4318/v1/logs"
    headers: dict[str, str] = field(default_factory=dict)
    timeout: Duration = Duration(10)


class QueueSpec(Section, frozen=True):
    """What may wait for a sink."""

    records: int = 20_000
    bytes: Size = Size(32 << 20)

    def __post_init__(self) -> None:
        if self.records < 1 or self.bytes < 1:
            raise ValueError("records and bytes have to be at least 1")


class SinkSpec(Section, frozen=True):
    """One place where records go."""

    file: FileSpec | None = None
    stdout: StdoutSpec | None = None
    syslog: SyslogSpec | None = None
    journald: JournaldSpec | None = None
    otlp: OtlpSpec | None = None
    queue: QueueSpec = QueueSpec()
    on_full: Literal["drop", "block"] = "drop"
    """When the queue is full: drop records (and count them), or have new calls wait."""
    max_wait: Duration = Duration(10)
    """How long they do before they are refused with UNAVAILABLE."""

    def __post_init__(self) -> None:
        kinds = ("file", "stdout", "syslog", "journald", "otlp")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            has = " and ".join(given) if given else "none"
            raise ValueError(f"a sink has exactly one of {', '.join(kinds)}; this has {has}")


class AuditSpec(Section, frozen=True):
    """The whole section."""

    policy: list[AuditRuleSpec] | None = None
    """None: the default policy."""
    redact: RedactSpec = RedactSpec()
    sinks: list[SinkSpec] = field(default_factory=list)
    received_after: Duration = Duration(5)
    """The age from which on a call that still runs has a record of its own. 0: none has."""
    message: Size = Size(256 << 10)
    """Bytes of a message, and of all of a stream together, that are recorded; of a larger one
    only its size is."""
    node: str | None = None
    """What records call this node. None: its host name."""

    def __post_init__(self) -> None:
        if not self.sinks:
            raise ValueError(
                "audit needs at least one sink: - file: {path: /var/log/criproxy/audit.jsonl}"
            )
