"""The schema of the configuration file: every key, its type, its default and its description.

A test compares it with ``config.example.yaml``. The reference pages are generated from it.
"""

from typing import Literal

from msgspec import field

from criproxy.audit.spec import AuditSpec
from criproxy.capture.spec import CaptureSpec
from criproxy.config.value_types import Address, Owner, format_address, is_loopback
from criproxy.configtypes.section import Section
from criproxy.configtypes.values import Duration, Mode, Size
from criproxy.relay.endpoints import Endpoint
from criproxy.rules.image_names import AS_WRITTEN, HUB
from criproxy.rules.profiles.profile import ProfileSpec, profile_of
from criproxy.rules.spec import CallersSpec, Globs, RulesMode, RuleSpec
from criproxy.traces.spec import TracesSpec

DEFAULT_ENDPOINT = Endpoint("/run/criproxy/criproxy.sock")

_FEWEST_DESCRIPTORS = 128

Level = Literal["debug", "info", "warning", "error"]
MethodLevel = Literal["debug", "info", "warning", "error", "off"]


class ListenerConfig(Section, frozen=True):
    """A socket that clients connect to."""

    endpoint: Endpoint = DEFAULT_ENDPOINT
    """The unix socket on which criproxy listens. In front of CRI-O the path should end in
    `run/crio/crio.sock`, because the kubelet selects its stats provider by that suffix."""
    runtime: Endpoint | None = None
    """The runtime's socket. null: the first that answers the CRI: of containerd, CRI-O, cri-dockerd
    and dockershim, as crictl tries them, then of k3s, k0s and MicroK8s."""
    image: Endpoint | None = None
    """The image service's socket, if another process serves images. null: the runtime's socket."""
    mode: Mode | None = None
    """The permissions of the new socket, in octal and quoted: `"0660"`. null: those of the
    runtime's socket."""
    owner: Owner | None = None
    """The owner of the new socket: `user`, `user:group` or `:group`, as names or numbers, quoted
    where YAML would read a number. null: the owner of the runtime's socket, if criproxy runs as
    root."""
    profile: str = "full"
    """What clients of this socket may do: `full`, `read-only`, `images-only`, or the name of an
    entry of `profiles`."""
    allow: CallersSpec | None = None
    """Which callers may connect, in addition to the socket's mode and owner: `{uid: [0],
    executable: ["/usr/bin/agent"]}`. Calls of other callers end with PERMISSION_DENIED. null: no
    further restriction."""
    shield: Literal["reads"] | None = None
    """`reads`: calls that change nothing, and that a runtime has not begun to answer when it goes
    away, are made again once it is back, and streams of events go on. Calls that may change
    something never are. Costs time for each call: HTTP/2 is terminated by criproxy then. null:
    nothing is made again."""

    @property
    def is_scoped(self) -> bool:
        """Whether clients have fewer rights here than on the runtime's own socket."""
        return self.profile != "full" or self.allow is not None

    @property
    def is_split(self) -> bool:
        """Whether another process than the runtime serves images."""
        return self.image not in (None, self.runtime)

    @property
    def shields_reads(self) -> bool:
        """Whether reads are made again if the runtime restarts."""
        return self.shield == "reads"


class KubeletConfig(Section, frozen=True):
    """The properties by which the node's kubelet is recognized."""

    executable: Globs = field(
        default_factory=lambda: ["*/kubelet", "*/k3s", "*/k0s", "*/rke2", "*/kubelite"]
    )
    """Globs of executable paths. The kubelet is a process of root, outside any container, that
    matches one of these globs or one of `kubelet.unit`."""
    unit: Globs = field(default_factory=lambda: ["kubelet.service"])
    """Globs of systemd units, as an alternative to `kubelet.executable`."""


class MetricsConfig(Section, frozen=True):
    """The HTTP endpoint."""

    address: Address | None = Address(("127.0.0.1", 9440))
    """The `HOST:PORT` on which HTTP is served; an IPv6 host is written `"[::1]:9440"`, and port 0
    selects a free port. null: no HTTP."""
    ui: bool = False
    """Whether a page at `/ui` shows what `criproxy top` shows. `metrics.address` has to be a
    loopback address then: every user of the node, and every container in its network, can read
    there which pods, images and callers there are, whatever `log.pods` is."""

    def __post_init__(self) -> None:
        if not self.ui:
            return
        if self.address is None:
            raise ValueError(
                "ui needs an address, and metrics.address is null; set it to 127.0.0.1:9440, or "
                "have the page at the admin socket with admin.ui"
            )
        if not is_loopback(self.address[0]):
            raise ValueError(
                "ui is for a loopback address, because the page has no authentication, and "
                f"metrics.address is {format_address(self.address)}; set it to "
                f"127.0.0.1:{self.address[1]}, or have the page at the admin socket with admin.ui"
            )


class AdminConfig(Section, frozen=True):
    """The admin socket, from which `criproxy top`, `tail` and `pods` read."""

    socket: Endpoint | None = None
    """The unix socket on which what the daemon is doing is served over HTTP: calls with the names
    of pods, containers and images, whatever `log.pods` is. Its mode is 0600, and its directory
    should be one that no container mounts. null: no admin socket."""
    ui: bool = False
    """Whether a page at `/ui` shows what `criproxy top` shows."""

    def __post_init__(self) -> None:
        if self.ui and self.socket is None:
            raise ValueError(
                "ui needs a socket, and admin.socket is null; set it, for example to "
                "unix:///run/criproxy-admin/admin.sock"
            )


class LogConfig(Section, frozen=True):
    """The daemon's log, which contains a line for each call."""

    format: Literal["json", "console"] | None = None
    """The format of log lines. null: `console` on a terminal, otherwise `json`."""
    level: Level = "info"
    """The lowest level that is written. Calls that change something or fail are logged at `info`,
    calls that only read at `debug`, slow calls at `warning`."""
    file: str | None = None
    """The file to which lines are appended. SIGUSR1 and SIGHUP make the daemon reopen it. null:
    standard error."""
    methods: dict[str, MethodLevel] = field(default_factory=dict)
    """Levels by method glob: `{Version: "off", "List*": info}`. The first matching glob applies,
    and `"off"` writes no line. A failed call is logged at `info` or higher unless its level is
    `"off"`."""
    pods: bool = False
    """Whether the lines of calls, the warnings of slow calls and the page `/calls` name the pod,
    the container and the image that a call is about. For that, the requests that name them are
    copied as they pass and decoded when a line is written, and the runtime's pods, containers and
    images are listed at the start."""


class SlowConfig(Section, frozen=True):
    """The time after which a running call is reported as slow."""

    threshold: Duration = Duration(30)
    """The age at which a running call is reported as slow. Streams are exempt. 0: no call is
    reported."""
    methods: dict[str, Duration] = field(default_factory=dict)
    """Thresholds by method glob, `{PullImage: 5m}`, which apply to streams as well; 0 exempts the
    method."""


class ProbeConfig(Section, frozen=True):
    """The test whether the runtime answers a Version call, and an image service that is another
    process an ImageFsInfo call."""

    interval: Duration = Duration(10)
    """The time between two such calls."""
    timeout: Duration = Duration(5)
    """The time after which a call counts as unanswered."""
    direct_clients: Duration | None = None
    """The time between two looks at who is connected to the runtime's socket past criproxy, which
    the metric `criproxy_direct_connections` shows. null: nobody looks."""

    def __post_init__(self) -> None:
        if self.interval <= 0 or self.timeout <= 0:
            raise ValueError("interval and timeout have to be more than 0")
        if self.direct_clients is not None and self.direct_clients < 1:
            raise ValueError("direct_clients has to be at least 1s; null turns it off")


class ImagesConfig(Section, frozen=True):
    """How names of images are read."""

    short_names: Literal["auto", "docker.io", "as-written"] = "auto"
    """How the runtime reads a name without a registry, such as `nginx`. `docker.io`: as
    `docker.io/library/nginx`. `as-written`: as its own configuration says (registries.conf); the
    registry of such a name is empty in rules. `auto`: `docker.io` if the image service calls itself
    `containerd` or `docker` in its response to Version, else `as-written`. It is asked when the
    daemon starts, and every `probe.interval`."""

    @property
    def reading(self) -> str | None:
        """See :mod:`criproxy.rules.image_names`; None: the runtime is to be asked."""
        return {"auto": None, "docker.io": HUB, "as-written": AS_WRITTEN}[self.short_names]


class LimitsConfig(Section, frozen=True):
    """Limits on connections, memory and waiting times."""

    connections: int | None = None
    """Clients that may be connected to one listener; further clients wait in the socket's backlog.
    null, and at most: the listener's share of its process's file descriptors, two or three per
    client. Listeners of a kind have equal shares; where those without `profile` and `allow` and
    others are in one process, the former have three quarters."""
    runtime_wait: Duration = Duration(30)
    """The time for which a new client is kept while the runtime is unreachable, before it is
    closed."""
    write_buffer: Size = Size(256 << 10)
    """Bytes that are buffered for a slow reader, per direction of a connection, before the writer
    is no longer read from."""
    header_block: Size = Size(1 << 20)
    """Bytes of a header block above which its connection is relayed without being parsed."""
    header_list: Size = Size(64 << 10)
    """Bytes of a decoded header list, each field with an overhead of 32. Where rules hold streams,
    a call above this ends with RESOURCE_EXHAUSTED; elsewhere the list is relayed, and read up to
    this limit."""
    header_fields: int = 1000
    """Fields of a header list; see `header_list`."""
    streams: int = 10_000
    """Calls in flight on one connection above which the connection is relayed without being
    parsed."""
    frame_rate: int = 1000
    """Frames per second of one connection that cost work and carry nothing, such as PING or empty
    DATA, beyond those that come with each call. A client that sends more for 10 s, or as many at
    once, is read from more slowly; after twice as many at once, or a minute of that, its connection
    ends with ENHANCE_YOUR_CALM."""
    message: Size | None = None
    """Bytes of a message above which its call is reset on both sides; the client reports
    RESOURCE_EXHAUSTED. null: no limit."""
    held_stream: Size = Size(16 << 20)
    """Message bytes that rules may hold of one call. Above this, the rule's `on_error` applies."""
    held: Size = Size(64 << 20)
    """Message bytes that rules may hold of all calls together. The last quarter is reserved for
    connections that hold little."""
    held_connection: Size | None = None
    """Message bytes that rules may hold of one connection. Above this, the rule's `on_error`
    applies to the call that exceeds it. null: a quarter of `held`, or a
    sixteenth more than `held_stream` if that is more."""
    held_time: Duration = Duration(60)
    """The time within which a held message has to arrive, a request with its end. After this, the
    rule's `on_error` applies."""
    drain_timeout: Duration = Duration(30)
    """The time that calls in flight have to end when the daemon stops, or when its workers are
    replaced by a reload or an upgrade. Calls that are still in flight then are cut."""

    def __post_init__(self) -> None:
        if self.connections is not None and self.connections < 1:
            raise ValueError("connections has to be at least 1")
        if self.message is not None and self.message < 1:
            raise ValueError("message has to be at least 1")
        if self.frame_rate < 1:
            raise ValueError("frame_rate has to be at least 1")
        if self.held_stream < 1 or self.held < 1:
            raise ValueError("held_stream and held have to be at least 1")
        if self.header_list < 1 or self.header_fields < 1:
            raise ValueError("header_list and header_fields have to be at least 1")
        if self.held_connection is not None and self.held_connection < 1:
            raise ValueError("held_connection has to be at least 1")
        if self.held_time <= 0:
            raise ValueError("held_time has to be more than 0")
        if self.write_buffer < 1 or self.header_block < 1 or self.streams < 1:
            raise ValueError("write_buffer, header_block and streams have to be at least 1")


class WorkerLimits(Section, frozen=True):
    """The resources of a worker process."""

    nice: int = 0
    """The worker's niceness (nice(2)): from 0, the highest priority, to 19."""
    oom_score_adj: int | None = None
    """How early the kernel ends the worker when memory is short (proc(5)): -1000 to 1000, the
    highest first. null: as for the daemon."""
    memory: Size | None = None
    """The most address space that the worker may have (RLIMIT_AS). null: no limit."""
    descriptors: int | None = None
    """The most file descriptors that the worker may have, two for each client. null: as many as
    the daemon."""

    def __post_init__(self) -> None:
        if not 0 <= self.nice <= 19:  # the kernel's range
            raise ValueError("nice has to be from 0 to 19")
        if self.oom_score_adj is not None and abs(self.oom_score_adj) > 1000:
            raise ValueError("oom_score_adj has to be from -1000 to 1000")
        if self.descriptors is not None and self.descriptors < _FEWEST_DESCRIPTORS:
            raise ValueError(f"descriptors has to be at least {_FEWEST_DESCRIPTORS}")


class WorkersConfig(Section, frozen=True):
    """The worker processes, which relay the clients' connections."""

    isolation: Literal["listener", "none"] = "listener"
    """`listener`: the listeners without `profile` and `allow` share one worker, and each other
    listener has its own, so that its clients cannot slow down those of another. `none`: one worker
    serves all listeners."""
    full: WorkerLimits = WorkerLimits()
    """The resources of the worker of the listeners without `profile` and `allow`."""
    scoped: WorkerLimits = WorkerLimits(nice=5, oom_score_adj=500)
    """The resources of the worker of each other listener."""
    bypass_after: int = 0
    """How many times within 10 minutes a worker of listeners without `profile` and `allow` may end
    by itself before these listeners are bypassed, as by `criproxy bypass on`, until `criproxy
    bypass off`. 0: never."""
    stall_limit: Duration = Duration(60)
    """The time after which a worker whose event loop does not turn is killed and started anew. 0:
    never."""


class Config(Section, frozen=True):
    """The whole file."""

    listeners: list[ListenerConfig] = field(default_factory=lambda: [ListenerConfig()])
    """The sockets that clients connect to. Each serves the runtime service and the image
    service."""
    metrics: MetricsConfig = MetricsConfig()
    admin: AdminConfig = AdminConfig()
    log: LogConfig = LogConfig()
    slow: SlowConfig = SlowConfig()
    probe: ProbeConfig = ProbeConfig()
    images: ImagesConfig = ImagesConfig()
    limits: LimitsConfig = LimitsConfig()
    workers: WorkersConfig = WorkersConfig()
    rules: list[RuleSpec] = field(default_factory=list)
    """Rules, in the order in which they are evaluated."""
    rules_dir: str | None = None
    """A directory whose `*.yaml` and `*.yml` files hold further rules, evaluated after `rules` in
    the order of the file names. The path is relative to the configuration file. null: none."""
    rules_mode: RulesMode = "enforce"
    """`enforce`, or `dry-run`: every rule only reports what it would do."""
    kubelet: KubeletConfig = KubeletConfig()
    profiles: dict[str, ProfileSpec] = field(default_factory=dict)
    """Profiles in addition to `full`, `read-only` and `images-only`, by name."""
    audit: AuditSpec | None = None
    """The audit log. null: no audit log."""
    traces: TracesSpec | None = None
    """OpenTelemetry traces. null: no traces."""
    capture: CaptureSpec | None = None
    """Recordings of the last minutes before a call that is waited for. null: none."""

    @property
    def selects_pods(self) -> bool:
        """Whether the profile of a listener selects by pod."""
        profiles = (profile_of(each.profile, self.profiles) for each in self.listeners)
        return any(each is not None and each.restricts_pods for each in profiles)

    @property
    def tells_calls(self) -> bool:
        """Whether the admin socket or the page tells what calls and pod starts there are."""
        return self.admin.socket is not None or self.metrics.ui

    @property
    def names_calls(self) -> bool:
        """Whether calls are named by their pods, containers and images."""
        return self.log.pods or self.tells_calls or self.traces is not None

    def __post_init__(self) -> None:
        if not self.listeners:
            raise ValueError("listeners has to name at least one; leave it out for the default")
        seen = set()
        for listener in self.listeners:
            if listener.endpoint in seen:
                raise ValueError(f"two listeners have the endpoint {listener.endpoint}")
            seen.add(listener.endpoint)
        if self.admin.socket in seen:
            raise ValueError(f"admin.socket is the endpoint of a listener, {self.admin.socket}")
