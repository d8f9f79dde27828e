"""The daemon's life: start, serve, stop accepting, drain, cut off, say how many."""

import asyncio
import os
import signal
import socket
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop
from prometheus_client import CollectorRegistry

from criproxy import __version__
from criproxy.concurrency.tasks import Tasks
from criproxy.config.load import LoadedConfig
from criproxy.config.schema import ListenerConfig
from criproxy.daemon.active_rules import ActiveRules, CompiledRules, DatedCounts, prepare
from criproxy.daemon.event_dispatcher import EventDispatcher, WallClock
from criproxy.daemon.files import for_clients, raise_limit
from criproxy.daemon.health import Loop, RuntimeHealth
from criproxy.daemon.pod_listing import list_pods
from criproxy.daemon.policy_registry import PolicyRegistry
from criproxy.daemon.reload import Reloader
from criproxy.daemon.systemd import notify, watchdog_interval
from criproxy.errors import EndpointError
from criproxy.observe.call_log import CallLog
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.http import HTTPServer, Pages
from criproxy.observe.line_writer import LineWriter
from criproxy.observe.log import DaemonLog
from criproxy.observe.metrics import Metrics
from criproxy.observe.metrics_merge import MergedCollector, snapshot
from criproxy.peers.credentials import Kubelet, peer_of
from criproxy.relay.connection_shares import ListenerUse, connection_shares
from criproxy.relay.endpoints import Endpoint, find_runtime
from criproxy.relay.listener import Limits, Listener, captures_nothing
from criproxy.relay.own_sockets import OwnSockets
from criproxy.relay.sockets import Access, BoundSocket, access_of, bind
from criproxy.wire.intercept.held_bytes import HeldBytesBudget

if TYPE_CHECKING:  # importing these costs the memory of protobuf
    from criproxy.daemon.audit import Audit, RecorderProcess
    from criproxy.rules.pod_cache import PodCache

clock = time.perf_counter
"""The clock that everything is timed with: seconds that only grow, to well under a microsecond."""

_SWITCH_INTERVAL = 0.001
"""Seconds after which a thread that serves a scrape gives the interpreter back to the relay."""

_DRAIN_STEP = 0.02
"""Seconds between looks at whether the calls in flight have ended."""


def serve(loaded: LoadedConfig) -> None:
    """Run the daemon until SIGINT or SIGTERM.

    Raises UsageError and UnavailableError for what cannot be served; what was opened is closed.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    prepared = prepare(loaded)
    recorder = None
    if loaded.config.audit is not None:
        from criproxy.daemon.audit import start_recorder

        recorder = start_recorder()
    uvloop.run(_Daemon(prepared, recorder).run())


class _Daemon:
    def __init__(self, prepared: CompiledRules, recorder: socket.socket | None) -> None:
        self._prepared = prepared
        self._recorder_control = recorder
        self._recorder: RecorderProcess | None = None
        config = self._config = prepared.loaded.config
        self._runtimes = [runtime_of(each) for each in config.listeners]
        calls = self._calls = CallsInFlight(SlowCalls(config.slow.threshold, config.slow.methods))
        self._metrics = Metrics(calls, clock, __version__)
        log = config.log
        colours = log.file is None and sys.stderr.isatty()
        form = log.format or ("console" if colours else "json")
        self._writer = LineWriter(log.file, self._metrics.log_lines_dropped.inc)
        journal = DaemonLog(self._writer, form, log.level, colours)
        self._writer.loss_line = journal.loss_line
        self._log = journal.log
        call_log = CallLog(journal.log, journal.record, log.level, log.methods, WallClock(clock))
        self._watch = EventDispatcher(self._log, calls, call_log, self._metrics, clock)
        self._stopping = asyncio.Event()
        self._listeners: list[Listener] = []
        self._bound: list[BoundSocket] = []
        self._own_sockets = OwnSockets([each.endpoint for each in config.listeners], {os.getpid()})
        self._audit: Audit | None = None

    async def run(self) -> None:
        """Start, serve until told to stop, and stop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        background, connections = Tasks(self._crashed), Tasks(self._crashed)
        http: HTTPServer | None = None
        self._open_audit()
        rules = self._make_rules(background, connections)
        try:
            self._listeners = self._make_listeners(connections, rules)
            health = self._start_health(background)
            http = self._start_http(health, rules)
            rules.adopt(self._prepared)
            for listener in self._listeners:
                self._open(listener)
                self._log.info(
                    "listening",
                    listener=str(listener.endpoint),
                    runtime=str(listener.runtime),
                    image=str(listener.image),
                )
            background.start(self._watch.sweep(), "slow calls")
            self._start_watchdog(background)
            self._start_audit(background)
            self._start_reloading(rules, background)
            self._log.info("ready", version=__version__)
            notify("READY=1")
            await self._stopping.wait()
            notify("STOPPING=1")
            self._stop_listening()
            await self._drain(connections)
            self._log.info("stopping", connections=len(connections))
        finally:
            self._stop_listening()
            await connections.cancel()
            await background.cancel()
            rules.close()
            if self._audit is not None:
                self._audit.close()
            if self._recorder is not None:
                self._recorder.close()
            if http is not None:
                http.close()
            self._writer.close()

    def _open(self, listener: Listener) -> None:
        copied = access_of(listener.runtime) or Access()
        bound = bind(listener.endpoint, listener.access.or_else(copied))
        self._bound.append(bound)
        for upstream in (listener.runtime, listener.image):
            self._own_sockets.refuse(listener.endpoint, upstream)
        listener.serve(bound.socket.dup())

    def _open_audit(self) -> None:
        if self._config.audit is None:
            return
        from criproxy.daemon.audit import Audit, RecorderProcess

        assert self._recorder_control is not None
        spec = self._config.audit
        recorder = self._recorder = RecorderProcess(self._recorder_control, spec, self._log)
        channel = recorder.connect()
        listeners = len(self._config.listeners)
        audit = self._audit = Audit(spec, self._log, clock, channel, listeners)
        self._watch.call_observer = audit.call_observer
        self._watch.received_after = audit.received_after
        self._metrics.add_audit(audit)

    def _start_audit(self, background: Tasks) -> None:
        if self._audit is not None:
            for runtime in {each.runtime for each in self._listeners}:
                listing = list_pods(runtime, self._audit, self._log)
                background.start(listing, f"pods of {runtime}, for the audit log")

    def _reopen(self) -> None:
        self._writer.reopen()
        if self._recorder is not None:
            self._recorder.reopen()

    def _make_rules(self, background: Tasks, connections: Tasks) -> ActiveRules:
        def learn_pods(memory: "PodCache") -> None:
            for runtime in {each.runtime for each in self._listeners}:
                background.start(list_pods(runtime, memory, self._log), f"pods of {runtime}")

        limits = self._config.limits
        budget = HeldBytesBudget(
            limits.held_stream, limits.held, limits.held_connection, limits.held_time
        )
        config, counts = self._config, DatedCounts()
        books = PolicyRegistry(config.listeners, config.profiles, budget, counts, self._audit)
        rules = ActiveRules(books, counts, budget, connections, self._log, clock, learn_pods)
        self._metrics.add_rules(rules.counts, budget)
        return rules

    def _start_reloading(self, rules: ActiveRules, background: Tasks) -> None:
        reloader = Reloader(self._prepared.loaded, rules, self._metrics, self._log)
        background.start(reloader.run(), "reload")
        background.start(reloader.watch(), "watch of the configuration")

        def hang_up() -> None:
            self._reopen()
            reloader.ask()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)

    def _make_listeners(self, connections: Tasks, rules: ActiveRules) -> list[Listener]:
        limits = self._limits()
        kubelet = Kubelet(self._config.kubelet.executable, self._config.kubelet.unit)
        made = []
        for each, runtime, limit in zip(
            self._config.listeners, self._runtimes, limits, strict=True
        ):
            if each.runtime is None:
                self._log.info("runtime found", runtime=str(runtime))
            uid, gid = each.owner or (None, None)
            listener = Listener(
                each.endpoint,
                runtime,
                each.image or runtime,
                Access(each.mode, uid, gid),
                limit,
                self._watch,
                self._watch,
                connections,
                clock,
                rules.books.of,
                captures_nothing if self._audit is None else self._audit.call_observer.capture_for,
                identify=partial(peer_of, kubelet=kubelet),
                own_sockets=self._own_sockets,
                failed=self._crashed,
            )
            made.append(listener)
            self._metrics.connections.labels(str(each.endpoint)).set(0)
            self._metrics.rate_exceeded.labels(str(each.endpoint))
        return made

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.stop_accepting()
        for bound in self._bound:
            bound.close()
        self._bound.clear()

    def _limits(self) -> list[Limits]:
        configured, listeners = self._config.limits, self._config.listeners
        uses = [
            ListenerUse(
                scoped=each.profile != "full" or each.allow is not None,
                split=each.image not in (None, runtime),
            )
            for each, runtime in zip(listeners, self._runtimes, strict=True)
        ]
        shares = connection_shares(for_clients(raise_limit()), uses)
        for listener, share in zip(listeners, shares, strict=True):
            if configured.connections is not None and configured.connections > share:
                self._log.warning(
                    "limits.connections is more than the file descriptors allow",
                    listener=str(listener.endpoint),
                    connections=configured.connections,
                    allowed=share,
                    note="raise the hard limit (LimitNOFILE)",
                )
        return [
            Limits(
                connections=min(configured.connections or share, share),
                runtime_wait=configured.runtime_wait,
                write_buffer=configured.write_buffer,
                header_block=configured.header_block,
                header_list=configured.header_list,
                header_fields=configured.header_fields,
                streams=configured.streams,
                message=configured.message,
                frame_rate=configured.frame_rate,
            )
            for share in shares
        ]

    def _start_health(self, background: Tasks) -> RuntimeHealth:
        probe = self._config.probe
        upstreams = [each for made in self._listeners for each in (made.runtime, made.image)]
        health = RuntimeHealth(
            list(dict.fromkeys(upstreams)),
            probe.interval,
            probe.timeout,
            self._log,
            clock,
            lambda up: self._metrics.runtime_up.set(up),
        )
        background.start(health.watch(), "runtime health")
        return health

    def _start_http(self, health: RuntimeHealth, rules: ActiveRules) -> HTTPServer | None:
        address = self._config.metrics.address
        if address is None:
            return None
        loop = Loop()
        patience = self._config.probe.timeout * 2 + 1

        def readiness() -> str | None:
            if not all(listener.is_accepting for listener in self._listeners):
                return "stopping" if self._stopping.is_set() else "not listening yet"
            return loop.ask(health.ask(), patience)

        def calls() -> dict[str, Any]:
            return {"calls": list(self._calls.described(clock()))}

        recorder = self._recorder
        registry = CollectorRegistry()
        registry.register(
            MergedCollector(
                lambda: [
                    snapshot(self._metrics.registry),
                    [] if recorder is None else recorder.snapshot,
                ]
            )
        )
        pages = Pages(
            registry,
            health=loop.is_turning,
            readiness=readiness,
            calls=calls,
            rules=rules.described,
        )
        server = HTTPServer(*address, pages)
        self._log.info("metrics", address=server.address)
        return server

    def _start_watchdog(self, background: Tasks) -> None:
        interval = watchdog_interval()
        if interval is not None:
            background.start(_feed_watchdog(interval), "watchdog")

    async def _drain(self, connections: Tasks) -> None:
        """Give the calls in flight a moment to end; connections without any are cut at once."""
        grace = float(self._config.limits.shutdown_grace)
        until = clock() + grace
        while self._calls.answers_awaited() and connections and clock() < until:
            await connections.finished(_DRAIN_STEP)
        if self._calls:
            self._log.warning("calls cut off", calls=len(self._calls), grace_s=grace)

    def _crashed(self, name: str, error: BaseException) -> None:
        self._log.error("task crashed", task=name, exc_info=error)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._log.error(context["message"], exc_info=context.get("exception"))


async def _feed_watchdog(interval: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def runtime_of(listener: ListenerConfig) -> Endpoint:
    """Return a listener's runtime, looked for where crictl looks if none is configured.

    Raises EndpointError when there is none, and when it is the listener itself.
    """
    runtime = listener.runtime or find_runtime()
    for upstream in (runtime, listener.image):
        if upstream == listener.endpoint:
            raise EndpointError(
                f"listener {listener.endpoint} has itself for a runtime; "
                "name the runtime's own socket with --runtime-endpoint"
            )
    return runtime
