"""Runs a listener in a thread with an event loop of its own, and records what it reports."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import pytest
import uvloop

from criproxy.concurrency.tasks import Tasks
from criproxy.peers.peer import Connection, Peer
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.listener import DrainResult, Limits, Listener
from criproxy.relay.own_sockets import OwnSockets
from criproxy.relay.policy import ActivePolicy, Policy
from criproxy.relay.sockets import Access, BoundSocket, access_of, bind
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import (
    CallBegan,
    CallEnded,
    ConnectionReader,
    Event,
    ReadingStopped,
)
from criproxy.wire.reading.message_capture import SelectCapture
from tests.support.waiting import LIMIT_SECONDS, wait_until

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

LIMITS: Final = Limits(
    connections=10_000,
    runtime_wait=30.0,
    write_buffer=256 << 10,
    header_block=1 << 20,
    header_list=64 << 10,
    header_fields=1000,
    streams=10_000,
)


class Seen(NamedTuple):
    """A recorded call without its times."""

    method: str
    code: str | None
    end: str | None
    request: tuple[int, int]
    """Messages and their bytes."""
    response: tuple[int, int]


def seen(call: Call) -> Seen:
    return Seen(
        call.path.rpartition(b"/")[2].decode(),
        call.code.name if call.code is not None else None,
        call.end,
        (call.request.messages, call.request.bytes),
        (call.response.messages, call.response.bytes),
    )


class Recorder:
    """The Observer and ListenerEvents of a listener: keeps what is reported to them."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.closed: list[Connection] = []
        self.begun: list[Call] = []
        self.ended: list[Call] = []
        self.stopped: list[ReadingStopped] = []
        self.unreachable: list[tuple[str, str, Peer, OSError]] = []
        self.paused: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.too_fast: list[Connection] = []

    def connection_opened(self, connection: Connection) -> None:
        self.opened.append(connection)

    def connection_closed(self, connection: Connection) -> None:
        self.closed.append(connection)

    def observe(self, connection: Connection, event: Event) -> None:
        if isinstance(event, CallBegan):
            self.begun.append(event.call)
        elif isinstance(event, CallEnded):
            self.ended.append(event.call)
        else:
            self.stopped.append(event)

    def connection_refused(self, connection: Connection, reason: str, detail: str) -> None:
        self.refused.append((reason, detail))

    def runtime_unreachable(self, listener: str, runtime: str, peer: Peer, error: OSError) -> None:
        self.unreachable.append((listener, runtime, peer, error))

    def accept_paused(self, listener: str, reason: str) -> None:
        self.paused.append((listener, reason))

    def rate_exceeded(self, connection: Connection) -> None:
        self.too_fast.append(connection)

    def calls(self, count: int) -> list[Seen]:
        """Wait until ``count`` calls have ended; return them in the order in which they began."""
        wait_until(lambda: len(self.ended) >= count, f"{count} ended calls", report=self._report)
        ended = sorted(self.ended, key=lambda call: call.began)
        assert len(ended) == count, self._report()
        return [seen(call) for call in ended]

    def all_closed(self) -> None:
        """Wait until every connection that was opened is closed."""
        wait_until(lambda: len(self.closed) == len(self.opened), "end of every connection")

    def _report(self) -> str:
        return f"ended: {[seen(call) for call in self.ended]}, begun: {len(self.begun)}"


def read_with(monkeypatch: pytest.MonkeyPatch, reader: type[ConnectionReader]) -> None:
    """Have the connections that are accepted from now on read by another reader."""
    monkeypatch.setattr("criproxy.relay.listener.ConnectionReader", reader)


class Relay:
    """A listener at ``name`` in ``directory``, from entering to leaving the block.

    Leaving it closes the connections that are left. ``crashes`` has the tasks' exceptions and the
    loop's errors; leaving the block asserts that there are none.
    """

    def __init__(
        self,
        directory: Path,
        runtime: Path,
        *,
        image: Path | None = None,
        loop: str = "uvloop",
        recorder: Recorder | None = None,
        access: Access | None = None,
        policy: Policy | None = None,
        budget: HeldBytesBudget | None = None,
        policy_of: Callable[[Connection], ActivePolicy] | None = None,
        capture_for: Callable[[Connection], SelectCapture | None] = lambda connection: None,
        shared: socket.socket | None = None,
        name: str = "proxy.sock",
        own: Sequence[Path] = (),
        shields_reads: bool = False,
        **limits: Any,
    ) -> None:
        self.path = directory / name
        self._own = own
        self._shields_reads = shields_reads
        self.socket: socket.socket
        """The listening one, which another relay may share."""
        self.runtime = runtime
        self.image = image or runtime
        self.recorder = recorder or Recorder()
        self.crashes: list[BaseException | str] = []
        self.loop: asyncio.AbstractEventLoop
        self._loop_factory = LOOPS[loop]
        self._limits = replace(LIMITS, **limits)
        self._access = access or Access()
        self.active_policy = ActivePolicy(budget or HeldBytesBudget(), policy)
        self._policy_of = policy_of
        self._capture_for = capture_for
        self._shared = shared
        self._thread: threading.Thread | None = None
        self._cut: Callable[[], None]

    def stop_accepting(self) -> None:
        """Accept no more clients; those that are connected stay."""
        self.call(self.listener.stop_accepting)

    def drain(self, within: float = LIMIT_SECONDS) -> "Future[DrainResult]":
        """Begin to drain the listener."""
        return asyncio.run_coroutine_threadsafe(self.listener.drain(within), self.loop)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the loop, and wait until it has returned."""
        done = Future[None]()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        done.result(LIMIT_SECONDS)

    def stop(self) -> None:
        """Close the listener, cut off all connections and end the thread; again is fine."""
        if self._thread is not None:
            self.loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    async def _run(self, ready: "Future[None]") -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._record_crash)
        self._stopping = asyncio.Event()
        tasks = Tasks(lambda name, error: self.crashes.append(error))
        self.listener = Listener(
            Endpoint(str(self.path)),
            Endpoint(str(self.runtime)),
            Endpoint(str(self.image)),
            self._access,
            self._limits,
            self.recorder,
            self.recorder,
            tasks,
            time.perf_counter,
            self._policy_of or (lambda connection: self.active_policy),
            self._capture_for,
            own_sockets=OwnSockets([Endpoint(str(path)) for path in self._own or (self.path,)]),
            failed=lambda name, error: self.crashes.append(error),
            shields_reads=self._shields_reads,
        )
        bound: BoundSocket | None = None
        try:
            if self._shared is None:
                copied = access_of(self.listener.runtime) or Access()
                bound = bind(self.listener.endpoint, self._access.or_else(copied))
                self.socket = bound.socket
            else:
                self.socket = self._shared
            self.listener.serve(self.socket.dup())
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._stopping.wait()
        self.listener.stop_accepting()
        if bound is not None:
            bound.close()
        await tasks.cancel()
        for _ in range(5):  # aborted connections are reported at the loop's next turns
            await asyncio.sleep(0)

    def _record_crash(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.crashes.append(context.get("exception") or context["message"])

    def __enter__(self) -> Self:
        ready = Future[None]()

        def main() -> None:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._run(ready))

        self._thread = threading.Thread(target=main, name="relay")
        self._thread.start()
        try:
            ready.result(LIMIT_SECONDS)
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None:
            assert not self.crashes, self.crashes
