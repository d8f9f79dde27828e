"""The file's schema: every key, its type and its default.

``config.example.yaml`` shows it to the user; a test holds the two together.
"""

from typing import Literal

from msgspec import field

from criproxy.audit.spec import AuditSpec
from criproxy.config.values import Address, Owner
from criproxy.durations import Duration
from criproxy.modes import Mode
from criproxy.relay.endpoints import Endpoint
from criproxy.rules.profiles import ProfileSpec
from criproxy.rules.spec import CallersSpec, Globs, RulesMode, RuleSpec
from criproxy.section import Section
from criproxy.sizes import Size

DEFAULT_ENDPOINT = Endpoint("/run/criproxy/criproxy.sock")

Level = Literal["debug", "info", "warning", "error"]
MethodLevel = Literal["debug", "info", "warning", "error", "off"]


class ListenerConfig(Section, frozen=True):
    """A socket that clients connect to."""

    endpoint: Endpoint = DEFAULT_ENDPOINT
    runtime: Endpoint | None = None
    """None: where crictl would find one."""
    image: Endpoint | None = None
    """None: the runtime's."""
    mode: Mode | None = None
    """None: the runtime's socket's."""
    owner: Owner | None = None
    """None: the runtime's socket's."""
    profile: str = "full"
    allow: CallersSpec | None = None
    """Who may connect. None: whom the socket's owner and mode let."""


class KubeletConfig(Section, frozen=True):
    """Who the node's kubelet is: root, and one of these."""

    executable: Globs = field(
        default_factory=lambda: ["*/kubelet", "*/k3s", "*/k0s", "*/rke2", "*/kubelite"]
    )
    unit: Globs = field(default_factory=lambda: ["kubelet.service"])


class MetricsConfig(Section, frozen=True):
    """The HTTP endpoint."""

    address: Address | None = Address(("127.0.0.1", 9440))
    """None: no HTTP endpoint."""


class LogConfig(Section, frozen=True):
    """The daemon's log and the call log in it."""

    format: Literal["json", "console"] | None = None
    """None: console on a terminal, else json."""
    level: Level = "info"
    file: str | None = None
    """None: stderr."""
    methods: dict[str, MethodLevel] = field(default_factory=dict)


class SlowConfig(Section, frozen=True):
    """From when on a call in flight is warned of."""

    threshold: Duration = Duration(30)
    methods: dict[str, Duration] = field(default_factory=dict)


class ProbeConfig(Section, frozen=True):
    """How the runtime is asked whether it answers."""

    interval: Duration = Duration(10)
    timeout: Duration = Duration(5)

    def __post_init__(self) -> None:
        if self.interval <= 0 or self.timeout <= 0:
            raise ValueError("interval and timeout have to be more than 0")


class LimitsConfig(Section, frozen=True):
    """What the daemon allows itself."""

    connections: int | None = None
    """None: as many as the file descriptors allow."""
    runtime_wait: Duration = Duration(30)
    write_buffer: Size = Size(256 << 10)
    header_block: Size = Size(1 << 20)
    streams: int = 10_000
    message: Size | None = None
    """None: messages of any size."""
    held_stream: Size = Size(16 << 20)
    held: Size = Size(64 << 20)
    shutdown_grace: Duration = Duration(2)

    def __post_init__(self) -> None:
        if self.connections is not None and self.connections < 1:
            raise ValueError("connections has to be at least 1")
        if self.message is not None and self.message < 1:
            raise ValueError("message has to be at least 1")
        if self.held_stream < 1 or self.held < 1:
            raise ValueError("held_stream and held have to be at least 1")
        if self.write_buffer < 1 or self.header_block < 1 or self.streams < 1:
            raise ValueError("write_buffer, header_block and streams have to be at least 1")


class Config(Section, frozen=True):
    """The whole file."""

    listeners: list[ListenerConfig] = field(default_factory=lambda: [ListenerConfig()])
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    slow: SlowConfig = SlowConfig()
    probe: ProbeConfig = ProbeConfig()
    limits: LimitsConfig = LimitsConfig()
    rules: list[RuleSpec] = field(default_factory=list)
    rules_dir: str | None = None
    """None: no rules but those of the file."""
    rules_mode: RulesMode = "enforce"
    kubelet: KubeletConfig = KubeletConfig()
    profiles: dict[str, ProfileSpec] = field(default_factory=dict)
    """Beside those that there are: full, read-only, images-only."""
    audit: AuditSpec | None = None
    """None: no audit log."""

    def __post_init__(self) -> None:
        if not self.listeners:
            raise ValueError("listeners has to name at least one; leave it out for the default")
        seen = set()
        for listener in self.listeners:
            if listener.endpoint in seen:
                raise ValueError(f"two listeners have the endpoint {listener.endpoint}")
            seen.add(listener.endpoint)
