"""A worker's life: it is told its configuration, serves its listeners, drains, and ends.

The supervisor commands it over the control channel, and is answered there::

    start      the configuration and the listening sockets; answered by ``ready`` or ``failed``
    ask        metrics, calls in flight, rules: answered under the number of the question; the
               state for the admin socket, and whether the lines of calls are read there, too;
               whether their records are, with a channel to the tail process
    unrecord   close that channel
    prepare    compile rules without putting them in force; adopt puts them in force
    pods       a call that another worker has relayed and that changes pods
    channel    a new channel to the recorder, the exporter or the capturer, after it was restarted
    reopen     open log files anew
    drain      accept no more clients, let calls in flight end, and exit

A worker whose supervisor is gone drains too. It ignores the signals that a terminal or a service
manager sends to the whole process group.
"""

import asyncio
import faulthandler
import pickle
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

from criproxy.audit.spec import AuditSpec
from criproxy.concurrency.process_messages import Message
from criproxy.concurrency.tasks import Tasks
from criproxy.config.load import LoadedConfig
from criproxy.daemon.control import ControlChannel
from criproxy.daemon.logs import open_log
from criproxy.daemon.wall_clock import WallClock
from criproxy.daemon.worker.active_rules import ActiveRules, CompiledRules, DatedCounts, prepare
from criproxy.daemon.worker.event_dispatcher import EventDispatcher
from criproxy.daemon.worker.limits import relay_limits
from criproxy.daemon.worker.pod_listing import PodListingReceiver, list_pods
from criproxy.daemon.worker.policy_registry import PolicyRegistry
from criproxy.daemon.worker.short_names import ShortNames
from criproxy.errors import CriproxyError, UsageError
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.logs.call_log import CallLog
from criproxy.observe.logs.subject_fields import SubjectFields, names_nothing
from criproxy.observe.metrics import Metrics
from criproxy.observe.metrics_merge import snapshot
from criproxy.peers.credentials import Kubelet, peer_of
from criproxy.peers.peer import Connection
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.listener import Listener, captures_nothing
from criproxy.relay.own_sockets import OwnSockets
from criproxy.relay.sockets import Access
from criproxy.traces.spec import TracesSpec
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.reading.message_capture import SelectCapture

if TYPE_CHECKING:  # importing these costs the memory of protobuf
    from criproxy.daemon.worker.observers.audit import Audit
    from criproxy.daemon.worker.observers.call_feed import CallFeed
    from criproxy.daemon.worker.observers.call_records import CallRecords
    from criproxy.daemon.worker.observers.call_subjects import CallSubjects
    from criproxy.daemon.worker.observers.capture import Capture
    from criproxy.daemon.worker.observers.traces import Traces
    from criproxy.rules.pod_cache import PodCache

clock = time.perf_counter
"""The clock that calls are timed with: monotonic seconds, to well under a microsecond."""

_SWITCH_INTERVAL: Final = 0.001
"""Seconds after which a thread that collects metrics gives the interpreter back to the relay."""

_HEARTBEAT: Final = 0.5
"""Seconds between messages that tell the supervisor that the loop turns."""

_REPORT: Final = 5.0
"""Seconds between reports of the metrics, which the supervisor keeps should the worker crash."""

_LINES_BACKLOG: Final = 1 << 20
"""Bytes that may wait for the supervisor; above it no lines of calls are sent."""

FATAL: Final = 70
"""Exit status after an error of our own that the worker cannot go on from (sysexits.h)."""


def run_worker(arguments: Mapping[str, Any], descriptors: list[int]) -> int:
    """Serve until told to stop; return the exit status.

    ``arguments`` has the worker's ``name`` and whether it may be ``dumped`` on a signal; the first
    descriptor is the control channel, the second takes stack traces (faulthandler).
    """
    control, stack = descriptors
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # The signal is handled by this thread. The frames of another may change while they are written,
    # which can end the process.
    faulthandler.register(arguments["dump_signal"], file=stack, all_threads=False)
    sock = socket.socket(fileno=control)
    return uvloop.run(_Worker(arguments["name"]).run(sock))


class _Worker:
    def __init__(self, name: str) -> None:
        self._name = name
        self._started: asyncio.Future[tuple[Message, list[int]]]
        self._draining: asyncio.Future[tuple[float, bool]]
        self._control: ControlChannel
        self._own_sockets: OwnSockets
        self._shares_pods = False
        self._others_select_pods = False
        self._listeners: list[Listener] = []
        """Empty until it is known what to serve."""
        self._early: list[tuple[Message, list[int]]] = []
        """Messages that came before that, behind the one that says it."""
        self._rules: ActiveRules
        self._short_names: ShortNames
        self._background: Tasks
        self._cut = asyncio.Event()
        self._prepared: CompiledRules | None = None
        self._audit: Audit | None = None
        self._traces: Traces | None = None
        self._capture: Capture | None = None
        self._subjects: CallSubjects | None = None
        self._subject_of: SubjectFields = names_nothing
        """Names the subjects of calls for the log and the page of calls."""
        self._feed: CallFeed | None = None
        self._records: CallRecords | None = None
        self._wall_clock = WallClock()
        self._status = 0

    async def run(self, sock: socket.socket) -> int:
        """Start, serve until told to drain, drain, and return the exit status."""
        loop = asyncio.get_running_loop()
        self._started, self._draining = loop.create_future(), loop.create_future()
        self._control = ControlChannel(sock, self._received, self._supervisor_gone)
        done, _ = await asyncio.wait(
            (self._started, self._draining), return_when=asyncio.FIRST_COMPLETED
        )
        if self._started not in done or self._draining.done():
            return 0  # it is not needed any more, or nobody is left to need it
        message, descriptors = self._started.result()
        try:
            endpoints = [Endpoint(path) for path in message["endpoints"]]
            self._own_sockets = OwnSockets(endpoints, {message["supervisor"]})
            self._shares_pods = message["shares_pods"]
            self._others_select_pods = self._shares_pods and message["selects_pods"]
            await self._serve(pickle.loads(message["loaded"]), descriptors)  # noqa: S301  # ours
        except CriproxyError as error:
            usage = isinstance(error, UsageError)
            self._control.send({"op": "failed", "error": str(error), "usage": usage})
            self._status = 1
        await self._flush_control()
        return self._status

    async def _serve(self, loaded: LoadedConfig, descriptors: list[int]) -> None:
        config = self._config = loaded.config
        calls = self._calls = CallsInFlight(SlowCalls(config.slow.threshold, config.slow.methods))
        self._metrics = Metrics(calls, clock)
        self._writer, log = open_log(config.log, self._metrics.log_lines_dropped.inc)
        self._log = log.log
        self._open_subjects()
        call_log = CallLog(
            log.log,
            log.record,
            config.log.level,
            config.log.methods,
            self._wall_clock,
            self._subject_of,
        )
        self._events = EventDispatcher(self._log, calls, call_log, self._metrics, clock)
        self._events.call_subjects = self._subjects
        self._open_feed(call_log)
        asyncio.get_running_loop().set_exception_handler(self._loop_failed)
        background = self._background = Tasks(self._fatal)
        connections = Tasks(self._connection_crashed)
        rules: ActiveRules | None = None
        try:
            prepared = prepare(loaded)
            sockets = descriptors[: len(config.listeners)]
            channels = descriptors[len(config.listeners) :]
            if config.audit is not None:
                self._open_audit(config.audit, channels.pop(0))
            if config.traces is not None:
                self._open_traces(config.traces, channels.pop(0))
            if config.capture is not None:
                self._open_capture(channels.pop(0))
            self._short_names = self._make_short_names(background)
            rules = self._rules = self._make_rules(background, connections)
            self._listeners = self._make_listeners(connections, rules)
            for early in self._early:
                self._received(*early)
            if self._audit is not None or self._subjects is not None or loaded.rules:
                await self._short_names.start()
            rules.adopt(prepared)
            for listener, descriptor in zip(self._listeners, sockets, strict=True):
                listener.serve(socket.socket(fileno=descriptor))
            background.start(self._events.sweep(), "slow calls")
            background.start(self._heartbeat(), "heartbeat")
            background.start(self._report(), "metrics report")
            self._list_pods_for(self._audit, "the audit log")
            self._list_pods_for(self._subjects, "the names of calls")
            self._control.send({"op": "ready"})
            await self._drain(*await self._draining)
        finally:
            for listener in self._listeners:
                listener.stop_accepting()
            await connections.cancel()
            await background.cancel()
            if rules is not None:
                rules.close()
            if self._audit is not None:
                self._audit.close()
            if self._traces is not None:
                self._traces.close()
            if self._records is not None:
                self._records.close()
            if self._capture is not None:
                self._capture.close()
            self._control.send({"op": "metrics", "snapshot": snapshot(self._metrics.registry)})
            self._writer.close()

    # Control

    def _received(self, message: Message, descriptors: list[int]) -> None:
        operation = message["op"]
        if operation == "start":
            self._started.set_result((message, descriptors))
        elif operation == "drain":
            self._stop(message["seconds"], message["last"])
        elif operation == "cut":
            self._cut.set()
        elif not self._listeners:
            self._early.append((message, descriptors))
        elif operation == "channel":
            self._reconnect(message["to"], socket.socket(fileno=descriptors[0]))
        elif operation == "pods":
            update = message["path"], message["request"], message["response"]
            self._rules.update_pods(*update)
            if self._subjects is not None:
                self._subjects.update(*update)
        elif operation == "reopen":
            self._reopen()
        elif operation == "unrecord" and self._records is not None:
            self._records.close()
        elif operation == "ask":
            answer = self._answer(message, descriptors)
            self._background.start(answer, f"answer to {message['what']}")

    async def _answer(self, message: Message, descriptors: list[int]) -> None:
        what = message["what"]
        answer: Any = None
        if what == "metrics":
            answer = await asyncio.to_thread(snapshot, self._metrics.registry)
        elif what == "calls":
            answer = self._described(self._subject_of)
        elif what == "state" and self._subjects is not None and self._feed is not None:
            # In this order: a call that ends meanwhile is told as one in flight, not left out.
            in_flight = self._described(self._subjects.fields_of)
            answer = {"calls": in_flight, "lines": await self._feed.kept()}
        elif what == "read" and self._feed is not None:
            self._feed.read_for(message["seconds"])
        elif what == "record" and self._records is not None:
            spec = pickle.loads(message["spec"])  # noqa: S301  # ours
            await self._records.open(spec, socket.socket(fileno=descriptors[0]))
        elif what == "rules":
            answer = self._rules.described()
        elif what == "prepare":
            answer = await self._prepare(pickle.loads(message["loaded"]))  # noqa: S301  # ours
        elif what == "adopt" and self._prepared is not None:
            self._rules.adopt(self._prepared)
            self._prepared = None
        self._control.send({"op": "answer", "id": message["id"], "answer": answer})

    def _described(self, subject_of: SubjectFields) -> list[dict[str, Any]]:
        return list(self._calls.described(clock(), subject_of, self._wall_clock))

    async def _prepare(self, loaded: LoadedConfig) -> str | None:
        """Compile rules, which a later ``adopt`` puts in force; return why they cannot be."""
        try:
            self._prepared = await asyncio.to_thread(prepare, loaded)
            if loaded.rules:
                await self._short_names.start()
        except CriproxyError as error:
            return str(error)
        return None

    def _stop(self, seconds: float, last: bool = False) -> None:
        if not self._draining.done():
            self._draining.set_result((seconds, last))

    def _supervisor_gone(self) -> None:
        """Drain: nobody is left who could start a successor or answer for this worker."""
        if self._listeners and not self._draining.done():
            self._log.error("the supervisor has ended: this worker drains", worker=self._name)
            self._stop(float(self._config.limits.drain_timeout))
        else:
            self._stop(0.0)

    async def _drain(self, seconds: float, last: bool) -> None:
        """Let calls in flight end, for so many ``seconds`` at most, and report how many did."""
        drains = [asyncio.ensure_future(each.drain(seconds, last)) for each in self._listeners]
        cut = asyncio.ensure_future(self._cut.wait())
        ended = asyncio.gather(*drains)
        await asyncio.wait((ended, cut), return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if ended.done():
            results = ended.result()
            finished, left = (
                sum(each.finished for each in results),
                sum(each.cut for each in results),
            )
        else:
            ended.cancel()
            finished, left = 0, len(self._calls)
        self._control.send({"op": "drained", "finished": finished, "cut": left})

    async def _flush_control(self) -> None:
        """Wait until the supervisor has read the last messages, or is gone."""
        await self._control.flushed()
        self._control.close()

    async def _heartbeat(self) -> None:
        while True:
            if not self._control.backlog:
                self._control.send({"op": "alive"})
            await asyncio.sleep(_HEARTBEAT)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT)
            metrics = await asyncio.to_thread(snapshot, self._metrics.registry)
            self._control.send({"op": "metrics", "snapshot": metrics})

    def _reopen(self) -> None:
        self._writer.reopen()

    # What is served

    def _open_subjects(self) -> None:
        if not self._config.names_calls:
            return
        from criproxy.daemon.worker.observers.call_subjects import CallSubjects

        # Where a listener selects by pod, the rules' pod cache has the updates shared.
        shares = self._shares_pods and not self._others_select_pods
        self._subjects = CallSubjects(self._share_pods if shares else None)
        if self._config.log.pods:
            self._subject_of = self._subjects.fields_of

    def _open_feed(self, call_log: CallLog) -> None:
        if not self._config.tells_calls or self._subjects is None:
            return
        from criproxy.daemon.worker.observers.call_feed import CallFeed
        from criproxy.daemon.worker.observers.call_records import CallRecords

        self._feed = CallFeed(call_log, self._subjects, self._send_lines, clock)
        self._events.call_feed = self._feed
        self._records = CallRecords(self._subjects, len(self._config.listeners))
        self._events.call_records = self._records

    def _send_lines(self, lines: Sequence[bytes], lost: int) -> bool:
        """Send lines for the readers of the admin socket, unless the supervisor is behind."""
        if self._control.backlog > _LINES_BACKLOG:
            return False
        return self._control.send({"op": "lines", "lines": lines, "lost": lost})

    def _open_audit(self, spec: AuditSpec, channel: int) -> None:
        from criproxy.daemon.worker.observers.audit import Audit

        audit = self._audit = Audit(
            spec,
            self._log,
            clock,
            socket.socket(fileno=channel),
            len(self._config.listeners),
            lost=partial(self._channel_lost, "recorder"),
        )
        self._events.call_observer = audit.call_observer
        self._events.received_after = audit.received_after
        self._metrics.add_audit(audit)

    def _open_traces(self, spec: TracesSpec, channel: int) -> None:
        from criproxy.daemon.worker.observers.traces import Traces

        assert self._subjects is not None  # Config.names_calls
        self._traces = Traces(
            spec,
            self._log,
            socket.socket(fileno=channel),
            self._subjects.fields_of,
            self._wall_clock.ns,
            lost=partial(self._channel_lost, "exporter"),
        )
        self._events.call_tracer = self._traces.call_tracer
        self._metrics.add_traces(self._traces.counts)

    def _open_capture(self, channel: int) -> None:
        from criproxy.daemon.worker.observers.capture import Capture

        lost = partial(self._channel_lost, "capturer")
        self._capture = Capture(self._log, clock, socket.socket(fileno=channel), lost)
        self._events.recording_observer = self._capture.observer
        self._metrics.add_capture(self._capture.counts)

    def _channel_lost(self, name: str) -> None:
        self._control.send({"op": "channel_lost", "to": name})

    def _reconnect(self, name: str, channel: socket.socket) -> None:
        users = {
            "recorder": self._audit,
            "exporter": self._traces,
            "capturer": self._capture,
        }
        user = users[name]
        if user is None:  # it is opened with another channel, and asks if that is dead
            channel.close()
        elif user.reconnect(channel) and user is self._audit:
            self._list_pods_for(self._audit, "the audit log")

    def _list_pods_for(self, receiver: PodListingReceiver | None, purpose: str) -> None:
        if receiver is not None:
            for upstreams in self._upstreams():
                listing = list_pods(*upstreams, receiver, self._log)
                self._background.start(listing, f"pods of {upstreams[0]}, for {purpose}")

    def _upstreams(self) -> set[tuple[Endpoint, Endpoint]]:
        """Return the runtimes with their image services."""
        return {(each.runtime, each.image) for each in self._listeners}

    def _make_short_names(self, background: Tasks) -> ShortNames:
        def changed(reading: str) -> None:
            self._rules.read_short_names(reading)
            if self._audit is not None:
                self._audit.read_short_names(reading)
            if self._subjects is not None:
                self._subjects.read_short_names(reading)

        upstreams = (each.image or each.runtime for each in self._config.listeners)
        services = {each for each in upstreams if each is not None}
        return ShortNames(self._config, services, changed, self._log, background)

    def _make_rules(self, background: Tasks, connections: Tasks) -> ActiveRules:
        def learn_pods(cache: "PodCache") -> None:
            for upstreams in self._upstreams():
                listing = list_pods(*upstreams, cache, self._log)
                background.start(listing, f"pods of {upstreams[0]}")

        config, counts = self._config, DatedCounts()
        limits = config.limits
        budget = HeldBytesBudget(
            limits.held_stream, limits.held, limits.held_connection, limits.held_time
        )
        others = self._others_select_pods
        registry = PolicyRegistry(
            config.listeners, config.profiles, budget, counts, self._audit, others
        )
        rules = ActiveRules(
            registry,
            counts,
            budget,
            connections,
            self._log,
            clock,
            learn_pods,
            self._share_pods,
        )
        self._metrics.add_rules(rules.counts, budget)
        return rules

    def _share_pods(self, path: bytes, request: bytes, response: bytes) -> None:
        """Send a call that changes pods to the other workers, by way of the supervisor."""
        if self._shares_pods:
            message = {"op": "pods", "path": path, "request": request, "response": response}
            self._control.send(message)

    def _make_listeners(self, connections: Tasks, rules: ActiveRules) -> list[Listener]:
        limits = relay_limits(self._config.limits, self._config.listeners, self._log)
        kubelet = Kubelet(self._config.kubelet.executable, self._config.kubelet.unit)
        capture_for: Callable[[Connection], SelectCapture | None] = (
            captures_nothing if self._audit is None else self._audit.call_observer.capture_for
        )
        if self._subjects is not None:
            capture_for = self._subjects.capturing(capture_for)
        if self._records is not None:
            capture_for = self._records.capturing(capture_for)
        if self._capture is not None:
            capture_for = self._capture.capturing(capture_for)
        made = []
        for each, limit in zip(self._config.listeners, limits, strict=True):
            assert each.runtime is not None  # the supervisor has filled it in
            uid, gid = each.owner or (None, None)
            listener = Listener(
                each.endpoint,
                each.runtime,
                each.image or each.runtime,
                Access(each.mode, uid, gid),
                limit,
                self._events,
                self._events,
                connections,
                clock,
                rules.registry.policy_of,
                capture_for,
                identify=partial(peer_of, kubelet=kubelet),
                own_sockets=self._own_sockets,
                failed=self._fatal,
                shields_reads=each.shields_reads,
            )
            made.append(listener)
            self._metrics.connections.labels(str(each.endpoint)).set(0)
            self._metrics.rate_exceeded.labels(str(each.endpoint))
        return made

    # What goes wrong

    def _fatal(self, name: str, error: BaseException) -> None:
        """End this worker: a task that it needs has crashed. The supervisor starts another."""
        self._log.error("task crashed", task=name, worker=self._name, exc_info=error)
        self._status = FATAL
        self._control.send({"op": "fatal", "task": name})
        self._stop(float(self._config.limits.drain_timeout))

    def _connection_crashed(self, name: str, error: BaseException) -> None:
        self._log.error("task crashed", task=name, exc_info=error)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._log.error(context["message"], exc_info=context.get("exception"))
