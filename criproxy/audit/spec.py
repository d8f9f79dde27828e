"""The configuration's section ``audit``: policy, redaction and sinks."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import field

from criproxy.configtypes.patterns import Pattern
from criproxy.configtypes.section import Section
from criproxy.configtypes.values import Duration, Mode, Size
from criproxy.cri.naming import GROUPS
from criproxy.rules.spec import CallersSpec, Globs
from criproxy.wire.grpc import StatusCode

Level = Literal["None", "Metadata", "Request", "RequestResponse"]
Fsync = Literal["none", "interval", "always"]
Facility = Literal[
    "kern", "user", "daemon", "auth", "syslog", "cron", "authpriv",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip

LEVELS: Final[tuple[Level, ...]] = ("None", "Metadata", "Request", "RequestResponse")
"""All levels, in ascending order."""

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
"""The fields with which a path of ``omit`` may begin; all others are in every record."""


_KINDS: Final = ("file", "stdout", "syslog", "journald", "otlp")


class AuditRuleSpec(Section, frozen=True):
    """A rule of the policy: calls that meet every given condition are recorded at its level."""

    level: Level
    """What the record contains: `None` (no record), `Metadata`, `Request` or `RequestResponse`."""
    methods: Globs = field(default_factory=lambda: ["*"])
    """Globs of methods, or the groups `@read`, `@mutating` and `@exec`."""
    callers: CallersSpec | None = None
    """Which callers the rule applies to. null: all."""
    listeners: Globs | None = None
    """Globs of the endpoint that received the call. null: all."""
    namespaces: Globs | None = None
    """Globs of the pod's namespace. An unknown namespace is the empty string. null: all."""
    pods: Globs | None = None
    """Globs of the pod's name. An unknown name is the empty string. null: all."""
    labels: dict[str, str] | None = None
    """Labels that the pod has to have: each key with a glob of its value. null: any."""
    codes: list[str] | None = None
    """Names of the gRPC codes with which the call may have ended. null: all."""
    exit_codes: list[int] | None = None
    """Exit codes with which the command of an ExecSync may have ended. A call without
    one does not match, nor one whose response is larger than both `audit.message` and 64 KiB.
    null: all."""
    longer_than: Duration | None = None
    """The duration that the call has to exceed. null: any duration."""
    omit: list[str] = field(default_factory=list)
    """Fields that are left out of the record, written as paths of the record:
    `requestObject.config.linux`, `caller.command`. A path applies to every item of a list."""

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
    """Redaction of further values; registries' credentials are always redacted."""

    environment: bool = True
    """`true`: values of environment variables are replaced, and those of annotations that contain a
    whole manifest: `kubectl.kubernetes.io/last-applied-configuration`, `kapp.k14s.io/original` and
    `objectset.rio.cattle.io/applied`."""
    info: bool = True
    """`true`: the `info` map of verbose status responses is replaced."""
    annotations: Globs = field(default_factory=list)
    """Globs of annotation keys whose values are replaced."""
    values: list[Pattern] = field(default_factory=list)
    """Regular expressions, in RE2's syntax, whose matches are replaced in any text of the record.
    Of a match with a group named `secret`, only that group is replaced:
    `--password=(?P<secret>.+)`. After 1000 matches in one text, the rest of it is replaced."""


class RotateSpec(Section, frozen=True):
    """When a file is rotated, and how many rotated files are kept."""

    size: Size | None = Size(100 << 20)
    """The size at which the file is rotated. null: no limit."""
    age: Duration | None = None
    """The age of the file's first record at which the file is rotated. null: no limit."""
    keep: int | None = 10
    """The number of rotated files that are kept. null: all."""
    total: Size | None = None
    """The size of the current and all rotated files together above which the oldest is removed.
    null: no limit."""
    compress: bool = True
    """`true`: rotated files are compressed with gzip."""


class FileSpec(Section, frozen=True):
    """Records in a file, one a line."""

    path: str
    """The file to which records are appended, one per line."""
    mode: Mode = Mode(0o600)
    """The permissions of the file, in octal and quoted."""
    rotate: RotateSpec = RotateSpec()
    fsync: Fsync = "interval"
    """When records are flushed to the disk: `none` leaves it to the kernel, `interval` flushes
    every `interval`, `always` flushes each batch before it counts as written."""
    interval: Duration = Duration(1)
    """The time between two flushes with `fsync: interval`."""
    chain: bool = False
    """`true`: each record contains the hash of the record before it."""


class StdoutSpec(Section, frozen=True):
    """Records on standard output, one a line."""


class SyslogSpec(Section, frozen=True):
    """Records to a syslog server (RFC 5424)."""

    address: str = "unix:///dev/log"
    """The server: `unix:///dev/log`, `udp://host:514` or `tcp://host:601`."""
    facility: Facility = "authpriv"
    """The syslog facility."""


class JournaldSpec(Section, frozen=True):
    """Records to systemd's journal, in its native protocol."""

    socket: str = "/run/systemd/journal/socket"
    """The socket of systemd's journal."""


class OtlpSpec(Section, frozen=True):
    """Records to an OpenTelemetry Collector, as OTLP logs over HTTP with protobuf."""

    endpoint: str = "http://127.0.0.1:4318/v1/logs"
    """The URL of an OpenTelemetry Collector's logs endpoint."""
    headers: dict[str, str] = field(default_factory=dict)
    """HTTP headers that are sent with each request."""
    timeout: Duration = Duration(10)
    """The time that one request may take."""


class QueueSpec(Section, frozen=True):
    """The limits of a sink's queue."""

    records: int = 20_000
    """Records that may wait for the sink."""
    bytes: Size = Size(32 << 20)
    """Bytes of records that may wait for the sink."""

    def __post_init__(self) -> None:
        if self.records < 1 or self.bytes < 1:
            raise ValueError("records and bytes have to be at least 1")


class SinkSpec(Section, frozen=True):
    """A destination of records."""

    file: FileSpec | None = None
    """Write records to a file. A sink has exactly one of `file`, `stdout`, `syslog`, `journald`
    and `otlp`."""
    stdout: StdoutSpec | None = None
    """`{}`: write one record per line to standard output."""
    syslog: SyslogSpec | None = None
    """Send records to a syslog server (RFC 5424)."""
    journald: JournaldSpec | None = None
    """Send records to systemd's journal in its native protocol."""
    otlp: OtlpSpec | None = None
    """Send records to an OpenTelemetry Collector as OTLP logs over HTTP with protobuf."""
    queue: QueueSpec = QueueSpec()
    on_full: Literal["drop", "block"] = "drop"
    """What happens when the queue is full: `drop` discards records and counts them, `block` makes
    new calls wait."""
    max_wait: Duration = Duration(10)
    """The time that a call waits with `on_full: block` before it ends with UNAVAILABLE."""

    def __post_init__(self) -> None:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            has = " and ".join(given) if given else "none"
            raise ValueError(f"a sink has exactly one of {', '.join(_KINDS)}; this has {has}")


def sink_names(specs: Sequence[SinkSpec]) -> list[str]:
    """Return the names of sinks: their kinds, the second of a kind with ``-2`` and so on."""
    kinds: Counter[str] = Counter()
    names = []
    for spec in specs:
        kind = next(kind for kind in _KINDS if getattr(spec, kind) is not None)
        kinds[kind] += 1
        names.append(kind if kinds[kind] == 1 else f"{kind}-{kinds[kind]}")
    return names


class AuditSpec(Section, frozen=True):
    """The audit log."""

    policy: list[AuditRuleSpec] | None = None
    """Rules that select what is recorded, in order; the first matching rule applies. null: the
    default policy."""
    redact: RedactSpec = RedactSpec()
    sinks: list[SinkSpec] = field(default_factory=list)
    """The destinations of records. At least one is required."""
    received_after: Duration = Duration(5)
    """The age at which a running call gets a record of its own (stage RequestReceived). 0:
    never."""
    message: Size = Size(256 << 10)
    """Bytes of the messages of one direction that are recorded. Of larger messages only the size
    is recorded."""
    node: str | None = None
    """The name of this node in records. null: the host name."""

    def __post_init__(self) -> None:
        if not self.sinks:
            raise ValueError(
                "audit needs at least one sink: - file: {path: /var/log/criproxy/audit.jsonl}"
            )
