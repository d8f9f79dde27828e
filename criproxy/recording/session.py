"""A recording from its start to its end: a listener, the channel and the writing process."""

import asyncio
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from criproxy import __version__
from criproxy.capture.channel import RecordChannel
from criproxy.capture.observer import RecordingObserver
from criproxy.cassette.records import VERSION, Began, Ended
from criproxy.cassette.writer import CassetteWriter
from criproxy.concurrency.tasks import Tasks
from criproxy.config.schema import KubeletConfig, LimitsConfig
from criproxy.errors import UnavailableError
from criproxy.peers.credentials import Kubelet, peer_of
from criproxy.peers.peer import Connection, Peer
from criproxy.recording.writing import (
    RedactOptions,
    WriteOptions,
    WritingProcess,
    WritingReport,
)
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.listener import Limits, Listener
from criproxy.relay.own_sockets import OwnSockets
from criproxy.relay.policy import ActivePolicy
from criproxy.relay.socket_errors import describe_error
from criproxy.relay.sockets import Access, BoundSocket, access_of, bind
from criproxy.wire.intercept.held_bytes import HeldBytesBudget

DRAIN_SECONDS: Final = 10.0
"""Seconds that calls in flight have to end when the recording does; then they are cut."""

_CLOSE_SECONDS: Final = 30.0
"""Seconds that the writing process has to take what is queued at the end."""

_DESCRIPTORS: Final = 64
"""Descriptors that are kept for other things than clients, each of which takes two."""

clock: Final = time.perf_counter
"""The clock of calls."""


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What is recorded, and for how long."""

    listen: Endpoint
    runtime: Endpoint
    file: Path
    force: bool = False
    seconds: float | None = None
    """How long; None: until a signal."""
    write: WriteOptions = field(default_factory=lambda: WriteOptions(RedactOptions()))


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """What was recorded."""

    reason: str
    """Why it ended, as in the last record."""
    calls: int
    messages: int
    cut: int
    """Calls that were in flight when the time to end was over."""
    writing: WritingReport


def record(
    options: RecordOptions, started: Callable[[], None], warn: Callable[[str], None]
) -> RecordSummary:
    """Record until a signal, or until time or size are reached.

    ``started`` is called when clients can connect, ``warn`` with a line about what goes wrong
    meanwhile. Raises UsageError and UnavailableError if it cannot be started.
    """
    import uvloop

    own = OwnSockets([options.listen])
    own.refuse(options.listen, options.runtime)
    copied = access_of(options.runtime)
    bound = bind(options.listen, Access() if copied is None else copied)
    try:
        writer = CassetteWriter(options.file, replace=options.force)
        began = Began(
            version=VERSION,
            began=time.time_ns(),
            criproxy=__version__,
            node=socket.gethostname(),
            listener=str(options.listen),
            runtime=str(options.runtime),
            redacted=options.write.redact.enabled,
        )
        process = WritingProcess.start(writer, began, options.write, bound.socket)
        return uvloop.run(_Session(options, bound, process, own, started, warn).run())
    finally:
        bound.close()


class _Session:
    """Its methods also receive a listener's events; see ListenerEvents."""

    def __init__(
        self,
        options: RecordOptions,
        bound: BoundSocket,
        process: WritingProcess,
        own: OwnSockets,
        started: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._options = options
        self._bound = bound
        self._process = process
        self._own = own
        self._started = started
        self._warn = warn
        self._warned: set[str] = set()
        self._reason = ""
        self._stopped = asyncio.Event()

    async def run(self) -> RecordSummary:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, "stopped")
        channel = RecordChannel(self._process.socket, partial(self._stop, "failed"))
        observer = RecordingObserver(channel, clock)
        tasks = Tasks(self._crashed)
        listener = self._listener(observer, tasks)
        listener.serve(self._bound.socket.dup())
        self._started()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.seconds):
                await self._stopped.wait()
        self._stop("duration")
        self._bound.unlink()
        drained = await listener.drain(DRAIN_SECONDS, last=True)
        ended, dropped = observer.time(clock()), channel.dropped.total()
        channel.put(
            Ended(at=ended, calls=observer.calls, dropped=dropped, reason=self._reason),
            essential=True,
        )
        await channel.flush(_CLOSE_SECONDS)
        channel.close()
        report = await asyncio.to_thread(self._process.finish)
        if report.error:
            raise UnavailableError(report.error)
        reason = report.reason or self._reason
        return RecordSummary(reason, observer.calls, observer.messages, drained.cut, report)

    def _listener(self, observer: RecordingObserver, tasks: Tasks) -> Listener:
        kubelet = KubeletConfig()
        options, active_policy = self._options, ActivePolicy(HeldBytesBudget())
        return Listener(
            options.listen,
            options.runtime,
            options.runtime,
            Access(),
            _limits(),
            observer,
            self,
            tasks,
            clock,
            lambda connection: active_policy,
            lambda connection: observer.select_capture,
            identify=partial(peer_of, kubelet=Kubelet(kubelet.executable, kubelet.unit)),
            own_sockets=self._own,
            failed=self._crashed,
        )

    def _stop(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._stopped.set()

    def runtime_unreachable(self, listener: str, runtime: str, peer: Peer, error: OSError) -> None:
        """See ListenerEvents."""
        self._warn_once(f"{runtime}: {describe_error(self._options.runtime.path, error)}")

    def accept_paused(self, listener: str, reason: str) -> None:
        """See ListenerEvents."""
        self._warn_once(f"{listener}: further clients wait: {reason}")

    def rate_exceeded(self, connection: Connection) -> None:
        """See ListenerEvents."""
        self._warn_once(f"process {connection.peer.pid} sent too many frames; disconnected")

    def _crashed(self, name: str, error: BaseException) -> None:
        self._warn_once(f"{name} failed: {error!r}")

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._warn_once(f"{context['message']}: {context.get('exception')!r}")

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)


def _limits() -> Limits:
    """Return the limits that the configuration has by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config = LimitsConfig()
    return Limits(
        connections=max(1, (hard - _DESCRIPTORS) // 2),
        runtime_wait=config.runtime_wait,
        write_buffer=config.write_buffer,
        header_block=config.header_block,
        header_list=config.header_list,
        header_fields=config.header_fields,
        streams=config.streams,
        frame_rate=config.frame_rate,
    )
