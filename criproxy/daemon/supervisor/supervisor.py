"""The supervisor: owns what must outlive the workers, and relays nothing itself.

It has the listening sockets, the HTTP pages, the signals, and the lives of the other processes. It
handles no byte of a client and evaluates no rule. Its life: open, start the workers, serve until
told to stop, drain, exit.
"""

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar
from wsgiref.types import WSGIApplication

import msgspec
import uvloop

from criproxy import __version__
from criproxy.concurrency.tasks import Tasks
from criproxy.config.load import LoadedConfig
from criproxy.config.schema import Config, ListenerConfig
from criproxy.daemon.logs import open_log
from criproxy.daemon.supervisor.direct_clients import DirectClients
from criproxy.daemon.supervisor.health import RuntimeHealth
from criproxy.daemon.supervisor.http.admin import AdminPages, AdminSocket
from criproxy.daemon.supervisor.http.live_calls import LiveCalls
from criproxy.daemon.supervisor.http.live_state import LiveState
from criproxy.daemon.supervisor.http.pages import WorkerPages
from criproxy.daemon.supervisor.listening import (
    PROCESS_NAME,
    Descriptors,
    ListeningSockets,
    passed_by_systemd,
)
from criproxy.daemon.supervisor.processes.channel_process import (
    CapturerProcess,
    ChannelProcess,
    ExporterProcess,
    RecorderProcess,
    TailProcess,
)
from criproxy.daemon.supervisor.processes.live_records import LiveRecords
from criproxy.daemon.supervisor.processes.spawner import SpawnerClient, name_process, start_spawner
from criproxy.daemon.supervisor.processes.worker_pool import (
    ChannelPorts,
    RetiredCounters,
    WorkerPool,
)
from criproxy.daemon.supervisor.reload import RULES_KEYS, Reloader
from criproxy.daemon.supervisor.systemd import notify, watchdog_interval
from criproxy.daemon.supervisor.upgrade import Inheritance, inherited, upgrade
from criproxy.daemon.worker.worker import run_worker
from criproxy.errors import ConfigError, CriproxyError, UnavailableError
from criproxy.observe.http import HTTPServer, Pages
from criproxy.observe.metrics import DaemonMetrics
from criproxy.observe.metrics_merge import Snapshot
from criproxy.peers.credentials import Kubelet
from criproxy.relay.bypass import is_bypassed
from criproxy.relay.endpoints import find_runtime
from criproxy.relay.own_sockets import OwnSockets
from criproxy.relay.unary import Service

if TYPE_CHECKING:
    from criproxy.daemon.supervisor.http.ui.live_overview import LiveOverview

clock = time.perf_counter

_AnyProcess = TypeVar("_AnyProcess", bound=ChannelProcess)

_STARTING: Final = 60.0
"""Seconds that workers have to start: they compile rules and load hooks."""

_TAIL_NICENESS: Final = 10
"""The relay, and the runtime, go before what is made for readers of the admin socket."""

_HTTP_RETRY: Final = 0.1
"""Seconds between attempts to have the HTTP address of a criproxy that is replaced."""

_UPGRADE_MARGIN: Final = 10.0
"""Seconds that a new supervisor has beyond that."""


def serve(loaded: LoadedConfig, replace_running: bool = False) -> None:
    """Run the daemon until SIGINT or SIGTERM.

    ``replace_running``: another criproxy that listens at the same sockets is stopped once this one
    serves.

    Raises UsageError and UnavailableError for what cannot be served; what was opened is closed.
    """
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # until they can be handled
    systemd = passed_by_systemd(os.environ)
    left = inherited(os.environ)
    loaded = with_runtimes(loaded)
    # From here to the fork neither a thread nor an event loop may be made.
    mains = {
        "worker": run_worker,
        "recorder": _run_recorder,
        "exporter": _run_exporter,
        "tail": _run_tail,
        "capturer": _run_capturer,
    }
    _load_what_is_configured(loaded)
    spawner = start_spawner(mains)
    name_process(PROCESS_NAME)
    uvloop.run(_run(loaded, systemd, left, replace_running, spawner))


def _run_recorder(arguments: Mapping[str, Any], descriptors: list[int]) -> int:
    from criproxy.daemon.recorder import run_recorder

    return run_recorder(descriptors[0])


def _run_tail(arguments: Mapping[str, Any], descriptors: list[int]) -> int:
    from criproxy.daemon.recorder import run_recorder

    control, output = descriptors
    os.dup2(output, sys.stdout.fileno())
    os.close(output)
    os.nice(_TAIL_NICENESS)
    return run_recorder(control)


def _run_exporter(arguments: Mapping[str, Any], descriptors: list[int]) -> int:
    from criproxy.daemon.exporter import run_exporter

    return run_exporter(descriptors[0])


def _run_capturer(arguments: Mapping[str, Any], descriptors: list[int]) -> int:
    from criproxy.daemon.capturer import run_capturer

    return run_capturer(descriptors[0])


async def _run(
    loaded: LoadedConfig,
    systemd: Descriptors,
    left: Inheritance,
    replace_running: bool,
    spawner: socket.socket,
) -> None:
    await _Supervisor(loaded, systemd, left, replace_running, spawner).run()


class _Supervisor:
    def __init__(
        self,
        loaded: LoadedConfig,
        systemd: Descriptors,
        left: Inheritance,
        replace_running: bool,
        spawner: socket.socket,
    ) -> None:
        self._loaded = loaded
        self._left = left
        self._retired = RetiredCounters()
        self._pools: list[WorkerPool] = []
        """The pool in force is the last; those before it drain."""
        self._pages = WorkerPages(self._pools, self._retired, self._worker_up)
        self._live_calls = LiveCalls(self._pages.read_lines)
        self._recorded_calls = LiveCalls(self._read_records)
        self._metrics = DaemonMetrics(__version__, self._snapshots)
        dropped = self._metrics.log_lines_dropped.inc
        self._writer, self._daemon_log = open_log(loaded.config.log, dropped)
        self._log = self._daemon_log.log
        self._background = Tasks(self._crashed)
        self._spawner = SpawnerClient(spawner, self._spawner_lost)
        self._recorder = self._channel_process(RecorderProcess)
        self._exporter = self._channel_process(ExporterProcess)
        self._live_records = LiveRecords(self._pools, self._tail_process, self._background)
        self._capturer = self._channel_process(CapturerProcess)
        self._sockets = ListeningSockets(
            {**systemd, **left.systemd},
            {**left.listening, **left.systemd},
            replace_running,
            self._log,
        )
        self._reloader = Reloader(loaded, self._apply, self._metrics.reloaded, self._log)
        self._http: HTTPServer | None = None
        self._admin: AdminSocket | None = None
        self._health_task: asyncio.Task[None] | None = None
        self._direct_clients_task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._live_state = LiveState(
            self._pages, self._snapshots, lambda: self._health.problem, time.time()
        )
        self._overview: LiveOverview | None = None
        self._upgrading = False
        self._upgraded = False
        self._failed: BaseException | None = None

    async def run(self) -> None:
        """Open, serve until told to stop, and stop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            await self._start()
            await self._stopping.wait()
            await self._drain()
        finally:
            await self._close()
        if self._failed is not None:
            raise CriproxyError(f"the daemon has ended: {self._failed!r}; the log has its trace")

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        config = self._loaded.config
        self._sockets.open(config.listeners)
        self._sockets.report_unused()
        refuse_own_sockets(config)
        await self._configure_channels(config)
        await self._replace_pool(self._loaded)
        self._stop_replaced()
        self._http = await self._start_first_http(config)
        self._start_health()
        self._start_direct_clients()
        replaces = bool(self._sockets.replaced) or self._left.ready is not None
        self._admin = self._open_admin(config, replaces)
        self._report_listeners(config.listeners)
        self._start_reloading()
        self._start_watchdog()
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        loop.add_signal_handler(signal.SIGUSR2, self._begin_upgrade)
        self._sockets.take_over()
        self._log.info("ready", version=__version__, pid=os.getpid())
        notify(f"MAINPID={os.getpid()}\nREADY=1")
        self._left.report_ready()

    # Start

    async def _replace_pool(self, loaded: LoadedConfig) -> None:
        """Start workers for a configuration; those before them drain. Raises a CriproxyError."""
        pool = WorkerPool(
            loaded,
            self._spawner,
            self._sockets,
            ChannelPorts(self._recorder, self._exporter, self._capturer),
            self._retired,
            self._metrics.worker_restarted,
            self._live_calls.add,
            self._log,
            self._background,
        )
        before = self._pools[-1:]  # those before it drain already
        self._pools.append(pool)
        try:
            await pool.start(_STARTING)
        except BaseException:
            self._pools.remove(pool)
            raise
        for each in before:
            self._background.start(self._retire(each), "drain of the workers of before")

    async def _retire(self, pool: WorkerPool) -> None:
        finished, cut = await pool.drain(float(pool.loaded.config.limits.drain_timeout))
        self._pools.remove(pool)
        self._log.info("workers of before have ended", calls_finished=finished, calls_cut=cut)

    def _report_listeners(self, listeners: Sequence[ListenerConfig]) -> None:
        for each in listeners:
            self._log.info(
                "listening",
                listener=str(each.endpoint),
                runtime=str(each.runtime),
                image=str(each.image or each.runtime),
            )

    def _start_health(self) -> None:
        if self._health_task is not None:
            self._health_task.cancel()
        config = self._loaded.config
        upstreams = [
            (endpoint, service)
            for each in config.listeners
            for endpoint, service in (
                (each.runtime, Service.RUNTIME),
                (each.image if each.is_split else None, Service.IMAGE),
            )
            if endpoint is not None
        ]
        self._health = RuntimeHealth(
            list(dict.fromkeys(upstreams)),
            config.probe.interval,
            config.probe.timeout,
            self._log,
            clock,
            lambda up: self._metrics.runtime_up.set(up),
        )
        self._health_task = self._background.start(self._health.watch(), "runtime health")

    def _start_direct_clients(self) -> None:
        if self._direct_clients_task is not None:
            self._direct_clients_task.cancel()
        self._metrics.direct_connected({})
        config = self._loaded.config
        if config.probe.direct_clients is None:
            return
        runtimes = {
            each
            for listener in config.listeners
            for each in (listener.runtime, listener.image)
            if each is not None
        }
        clients = DirectClients(
            sorted(each.path for each in runtimes),
            Kubelet(config.kubelet.executable, config.kubelet.unit),
        )
        self._direct_clients_task = self._background.start(
            clients.watch(
                float(config.probe.direct_clients), self._metrics.direct_connected, self._log
            ),
            "direct clients",
        )

    def _stop_replaced(self) -> None:
        for pid in self._sockets.replaced:
            self._log.info("another criproxy is replaced", pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    async def _start_first_http(self, config: Config) -> HTTPServer | None:
        """Serve the pages; where another criproxy is replaced, once it has ended."""
        if self._sockets.replaced:
            deadline = clock() + float(config.limits.drain_timeout) + _UPGRADE_MARGIN
            while clock() < deadline:
                try:
                    return self._start_http(config)
                except UnavailableError:
                    await asyncio.sleep(_HTTP_RETRY)
        return self._start_http(config)

    def _start_http(self, config: Config) -> HTTPServer | None:
        address = config.metrics.address
        if address is None:
            return None
        inherited = None if self._left.http is None else socket.socket(fileno=self._left.http)
        if inherited is not None and not _is_at(inherited, address):
            inherited.close()  # the address was changed since
            inherited = None
        self._left = replace(self._left, http=None)
        server = HTTPServer(*address, self._http_pages(config), inherited)
        self._log.info("metrics", address=server.address)
        return server

    def _http_pages(self, config: Config) -> WSGIApplication:
        return self._with_ui(self._make_pages(), config.metrics.ui)

    def _admin_pages(self, config: Config) -> WSGIApplication:
        pages = AdminPages(
            self._make_pages(),
            self._live_state,
            self._live_calls,
            self._recorded_calls,
            self._capture,
        )
        return self._with_ui(pages, config.admin.ui)

    def _with_ui(self, pages: WSGIApplication, enabled: bool) -> WSGIApplication:
        if not enabled:
            return pages
        from criproxy.daemon.supervisor.http.ui.application import Ui
        from criproxy.daemon.supervisor.http.ui.live_overview import LiveOverview

        if self._overview is None:
            self._overview = LiveOverview(self._live_state.overview, self._page_failed)
        return Ui(pages, self._overview)

    def _page_failed(self, error: Exception) -> None:
        self._log.error("the page has no figures", exc_info=error)

    def _make_pages(self) -> Pages:
        workers = self._pages
        return Pages(
            self._metrics.registry,
            health=workers.health,
            readiness=self._readiness,
            calls=workers.calls,
            rules=workers.rules,
        )

    def _open_admin(self, config: Config, replaces: bool = False) -> AdminSocket | None:
        """Serve the admin socket; where this one ``replaces`` another criproxy, also its own."""
        endpoint = config.admin.socket
        if endpoint is None:
            return None
        admin = AdminSocket(endpoint, self._admin_pages(config), replaces)
        self._log.info("admin socket", socket=str(endpoint))
        return admin

    def _capture(self) -> str:
        """Begin a cassette and return its path, on a thread of the admin socket."""
        return self._pages.on_loop(self._capturer.capture())

    def _readiness(self) -> str | None:
        if self._stopping.is_set():
            return "stopping"
        patience = self._loaded.config.probe.timeout * 2 + 1
        try:
            return self._pages.on_loop(self._health.ask(), patience)
        except (TimeoutError, RuntimeError):
            return f"no answer within {patience:g} s"

    def _start_reloading(self) -> None:
        self._background.start(self._reloader.run(), "reload")
        self._background.start(self._reloader.watch(), "watch of the configuration")

        def hang_up() -> None:
            self._reopen()
            self._reloader.ask()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)

    def _start_watchdog(self) -> None:
        interval = watchdog_interval()
        if interval is not None:
            self._background.start(self._feed_watchdog(interval), "watchdog")

    async def _feed_watchdog(self, interval: float) -> None:
        """Report to systemd as long as every worker's event loop turns."""
        while True:
            if self._pool.turning:
                notify("WATCHDOG=1")
            await asyncio.sleep(interval)

    # Reload and upgrade

    async def _apply(self, loaded: LoadedConfig, keys: list[str]) -> None:
        """Put a configuration in force. Raises a CriproxyError, and leaves all as it was."""
        loaded = with_runtimes(loaded)
        if RULES_KEYS.issuperset(keys):
            await self._apply_rules(loaded)
        else:
            await self._apply_all(loaded, keys)

    async def _apply_rules(self, loaded: LoadedConfig) -> None:
        """Have all workers compile the rules, then have all of them put these in force."""
        pool = self._pool
        data = pickle.dumps(loaded)
        answers = await pool.ask("prepare", _STARTING, loaded=data)
        for name in pool.processes:
            if name not in answers:
                raise UnavailableError(f"worker {name} does not answer")
            if answers[name] is not None:
                raise ConfigError(answers[name])
        await pool.ask("adopt")
        pool.loaded = self._loaded = loaded
        self._log.info("rules loaded", rules=len(loaded.rules))

    async def _apply_all(self, loaded: LoadedConfig, keys: list[str]) -> None:
        """Start workers with the new configuration beside those that serve now."""
        before, config = self._loaded, loaded.config
        opened = self._sockets.open(config.listeners)
        http, admin = self._http, self._admin
        moved = config.metrics.address != before.config.metrics.address
        admin_moved = config.admin.socket != before.config.admin.socket
        try:
            refuse_own_sockets(config)
            if moved:
                http = self._start_http(config)
            if admin_moved:
                admin = self._open_admin(config)
            await self._configure_channels(config)
            await self._replace_pool(loaded)
        except BaseException:
            self._sockets.close(opened)
            await self._configure_channels(before.config)
            if moved and http is not None:
                http.close()
            if admin_moved and admin is not None and admin is not self._admin:
                admin.close()
            raise
        if moved and self._http is not None:
            self._http.close()
        if admin_moved and self._admin is not None:
            self._admin.close()
        if http is not None and not moved and config.metrics != before.config.metrics:
            http.serve(self._http_pages(config))
        if admin is not None and not admin_moved and config.admin != before.config.admin:
            admin.serve(self._admin_pages(config))
        self._http, self._admin = http, admin
        self._loaded = loaded
        self._sockets.close_unused(config.listeners)
        self._sockets.grant(config.listeners)
        self._start_health()
        self._start_direct_clients()
        if config.log != before.config.log:
            self._open_log(config)
        self._report_listeners([each for each in config.listeners if each.endpoint in opened])
        self._log.info("configuration loaded", keys=keys, rules=len(loaded.rules))

    def _begin_upgrade(self) -> None:
        if not self._upgrading:
            self._upgrading = True
            self._background.start(self._upgrade(), "upgrade")

    async def _upgrade(self) -> None:
        """Start a new supervisor, and stop once its workers serve.

        No reload is applied meanwhile: it would take addresses that the new one needs.
        """
        await self._reloader.suspend()
        self._log.info("upgrade begins")
        try:
            pid = await upgrade(
                self._sockets.descriptors(systemd=False),
                self._sockets.descriptors(systemd=True),
                None if self._http is None else self._http.fileno,
                _STARTING + _UPGRADE_MARGIN,
            )
        except UnavailableError as error:
            self._log.error("upgrade failed", error=str(error), note="this version goes on")
            self._upgrading = False
            self._reloader.resume()
            return
        self._log.info("upgraded", successor=pid)
        self._upgraded = True
        self._stopping.set()

    # Stop

    def _stop(self) -> None:
        if self._stopping.is_set():  # told so twice: nothing more is waited for
            for each in self._pools:
                each.cut()
        self._stopping.set()

    async def _drain(self) -> None:
        """Have all workers let their calls end, and report how many did."""
        timeout = float(self._loaded.config.limits.drain_timeout)
        if self._upgraded:
            self._sockets.abandon()
            if self._http is not None:  # scrapes are for the successor from now on
                self._http.close()
                self._http = None
            if self._admin is not None:
                self._admin.close()
                self._admin = None
        else:
            notify("STOPPING=1")
            self._sockets.unlink()
        last = not self._upgraded
        counts = await asyncio.gather(*(each.drain(timeout, last) for each in self._pools))
        finished, cut = (sum(each) for each in zip(*counts, strict=True))
        self._log.info("stopped", calls_finished=finished, calls_cut=cut)

    async def _close(self) -> None:
        await asyncio.gather(*(each.drain(0.0) for each in self._pools))
        processes = self._recorder, self._exporter, self._capturer, self._live_records
        await asyncio.gather(*(each.close() for each in processes))
        await self._background.cancel()
        if self._upgraded:
            self._sockets.abandon()
        else:
            self._sockets.close_all()
        if self._http is not None:
            self._http.close()
        if self._admin is not None:
            self._admin.close()
        self._spawner.close()
        self._writer.close()

    # What is reported

    def _snapshots(self) -> list[Snapshot]:
        for each in self._loaded.config.listeners:
            bypassed = each.runtime is not None and is_bypassed(each.endpoint, each.runtime)
            self._metrics.bypassed.labels(str(each.endpoint)).set(bypassed)
        processes = self._recorder, self._exporter, self._capturer
        own = [snapshot for each in processes for snapshot in each.snapshots]
        return [*self._pages.snapshots(), *own]

    def _worker_up(self, name: str, up: bool) -> None:
        self._metrics.worker_up(name, up)

    @property
    def _pool(self) -> WorkerPool:
        return self._pools[-1]

    def _channel_process(self, kind: type[_AnyProcess]) -> _AnyProcess:
        def reconnect() -> None:
            for each in self._pools:
                each.reconnect(kind.name)

        return kind(self._spawner, reconnect, self._log, self._background)

    def _tail_process(self, restarted: Callable[[], None]) -> TailProcess:
        def lines(records: Sequence[bytes]) -> None:
            self._recorded_calls.add(records, 0)

        return TailProcess(self._spawner, restarted, lines, self._log, self._background)

    def _read_records(self, seconds: float) -> None:
        """Have records made of all calls, from another thread."""
        self._pages.on_loop(self._live_records.read_for(seconds))

    async def _configure_channels(self, config: Config) -> None:
        """Put a configuration in force in recorder, exporter and capturer. Raises CriproxyError."""
        await self._recorder.configure(config.audit)
        await self._exporter.configure(config.traces)
        await self._capturer.configure(config.capture)

    def _spawner_lost(self) -> None:
        """Start a new supervisor: this one cannot start workers any more."""
        if not self._stopping.is_set():
            self._log.error("the spawner has ended: a new supervisor takes over")
            self._begin_upgrade()

    def _open_log(self, config: Config) -> None:
        before, dropped = self._writer, self._metrics.log_lines_dropped.inc
        self._writer, _ = open_log(config.log, dropped, self._daemon_log)
        before.close()

    def _reopen(self) -> None:
        self._writer.reopen()
        self._recorder.send("reopen")
        for each in self._pools:
            each.tell("reopen")

    def _crashed(self, name: str, error: BaseException) -> None:
        """End the daemon: it cannot do without any of its tasks, and must not go on unnoticed."""
        self._log.error("task crashed", task=name, exc_info=error)
        self._failed = error
        self._stopping.set()

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._log.error(context["message"], exc_info=context.get("exception"))


def with_runtimes(loaded: LoadedConfig) -> LoadedConfig:
    """Fill in each listener's runtime where the configuration leaves it to be found.

    Raises EndpointError when there is none.
    """
    listeners = [
        msgspec.structs.replace(each, runtime=each.runtime or find_runtime())
        for each in loaded.config.listeners
    ]
    return replace(loaded, config=msgspec.structs.replace(loaded.config, listeners=listeners))


def refuse_own_sockets(config: Config) -> None:
    """Raise EndpointError if the runtime of a listener is one of criproxy's own sockets."""
    own = OwnSockets([each.endpoint for each in config.listeners], {os.getpid()})
    for each in config.listeners:
        for upstream in (each.runtime, each.image):
            if upstream is not None:
                own.refuse(each.endpoint, upstream)


def _is_at(listening: socket.socket, address: tuple[str, int]) -> bool:
    """Return whether a socket listens at an address, with any port where that is 0."""
    host, port = listening.getsockname()[:2]
    return bool(host == address[0] and address[1] in (0, port))


def _load_what_is_configured(loaded: LoadedConfig) -> None:
    """Load what workers need: memory that is written before the fork is shared by all."""
    config = loaded.config
    if config.rules or config.rules_dir or any(each.is_scoped for each in config.listeners):
        import criproxy.enforce.policies.deny_policy
        import criproxy.enforce.policies.profile_policy
    if loaded.rules:
        from criproxy.rules.compiled.ruleset import compile_rules

        with contextlib.suppress(Exception):  # the workers report it
            compile_rules([each.spec for each in loaded.rules])  # for the cache of expressions
    if config.names_calls:
        import criproxy.daemon.worker.observers.call_subjects
    if config.tells_calls:
        import criproxy.daemon.worker.observers.call_feed
        import criproxy.daemon.worker.observers.call_records
    if config.audit is not None:
        import criproxy.daemon.recorder
        import criproxy.daemon.worker.observers.audit
    if config.traces is not None:
        import criproxy.daemon.exporter
        import criproxy.daemon.worker.observers.traces
    if config.capture is not None:
        import criproxy.daemon.capturer
        import criproxy.daemon.worker.observers.capture  # noqa: F401
