"""Measures the CPU time of reading a call's bytes and reporting it, interpreted and compiled.

``python -m bench.reading`` reads recorded connections of a kubelet with ConnectionReader alone, and
with a notifier behind which each call is counted and its log line made; and it passes their calls
to what a worker has for readers of the admin socket, of lines and of records. It does so in
processes by turns: with this tree's modules, which are interpreted, and with those of
``build/compiled``, which ``make test-compiled`` makes. It prints microseconds a call, as median,
least and most of the rounds, and the ratios of the medians. It writes no file.
"""

import asyncio
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from bench.builds import main

if TYPE_CHECKING:  # what is measured is imported in the process that measures it
    from criproxy.peers.peer import Connection
    from criproxy.relay.listener import CaptureFor
    from criproxy.wire.reading.calls import Call

_REPEATS: Final = 20
"""How often each process reads each connection."""
_SENDING: Final = 0.05
"""Seconds in which the event loop sends what was collected: 5 ms is collected."""


def _measure() -> dict[str, float]:
    """Return the microseconds of CPU that a call of a recorded kubelet takes."""
    return {
        "read, µs of CPU a call": _measure_reading(),
        "read and reported, µs of CPU a call": _measure_reporting(),
        "a line for readers, µs of CPU a call": asyncio.run(_measure_lines()),
        "sent for a record, µs of CPU a call": asyncio.run(_measure_records()),
    }


def _measure_reading() -> float:
    from criproxy.wire.reading.connection import CallEnded, ConnectionReader
    from tests.support.captures import NAMES, capture

    conversations = [capture(name) for name in NAMES if name.startswith("kubelet")]
    calls = 0
    began = time.process_time()
    for _ in range(_REPEATS):
        for conversation in conversations:
            reader = ConnectionReader()
            for sent in conversation:
                events = reader.receive(sent.side, sent.data, sent.now)
                calls += sum(isinstance(event, CallEnded) for event in events)
    return (time.process_time() - began) / calls * 1e6


def _measure_reporting() -> float:
    from criproxy.daemon.wall_clock import WallClock
    from criproxy.daemon.worker.event_dispatcher import EventDispatcher
    from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
    from criproxy.observe.logs.call_log import CallLog
    from criproxy.observe.metrics import Metrics
    from criproxy.peers.peer import Connection, Peer
    from criproxy.relay.notifier import Notifier, ObservedConnection
    from criproxy.wire.reading.connection import ConnectionReader
    from tests.support.captures import NAMES, capture

    clock = time.perf_counter
    lines: deque[bytes] = deque(maxlen=1)
    log = structlog.get_logger()
    calls = CallsInFlight(SlowCalls(30.0, {}))
    call_log = CallLog(log, lines.append, "debug", {}, WallClock())
    dispatcher = EventDispatcher(log, calls, call_log, Metrics(calls, clock), clock)
    notifier = Notifier(dispatcher, clock)
    connection = Connection("unix:///run/criproxy.sock", Peer(1, 0, 0, "/usr/bin/kubelet"), 0.0)
    conversations = [capture(name) for name in NAMES if name.startswith("kubelet")]
    began = time.process_time()
    for _ in range(_REPEATS):
        for conversation in conversations:
            observed = ObservedConnection(connection, ConnectionReader(), notifier, clock)
            for sent in conversation:
                notifier.relayed(observed, sent.side, sent.data, sent.now)
    return (time.process_time() - began) / notifier.calls_ended * 1e6


async def _measure_lines() -> float:
    """Return what a line for the admin socket takes in a worker, the sending included."""
    from criproxy.concurrency.process_messages import frame
    from criproxy.daemon.wall_clock import WallClock
    from criproxy.daemon.worker.observers.call_feed import CallFeed
    from criproxy.daemon.worker.observers.call_subjects import CallSubjects
    from criproxy.observe.logs.call_log import CallLog
    from criproxy.relay.listener import captures_nothing

    subjects, sent = CallSubjects(), 0

    def send(lines: Sequence[bytes], lost: int) -> bool:
        nonlocal sent
        frame({"op": "lines", "lines": lines, "lost": lost}, 0)
        sent += len(lines)
        return True

    call_log = CallLog(structlog.get_logger(), lambda line: None, "info", {}, WallClock())
    feed = CallFeed(call_log, subjects, send, time.perf_counter)
    connection, calls = _recorded_calls(subjects.capturing(captures_nothing))
    feed.read_for(3600.0)
    began = time.process_time()
    for _ in range(_REPEATS):
        for call in calls:
            feed.ended(connection, call, slow=False)
        await feed.kept()
    took = time.process_time() - began
    assert sent == _REPEATS * len(calls)
    return took / sent * 1e6


async def _measure_records() -> float:
    """Return what sending a call with its messages to the tail process takes in a worker."""
    from criproxy.config.schema import Config
    from criproxy.daemon.supervisor.processes.live_records import spec_of
    from criproxy.daemon.worker.observers.call_records import CallRecords
    from criproxy.daemon.worker.observers.call_subjects import CallSubjects
    from criproxy.relay.listener import captures_nothing
    from criproxy.wire.reading.connection import CallEnded

    records = CallRecords(CallSubjects(), 1)
    spec = spec_of(Config())
    with _channel() as channel:
        await records.open(spec, channel)
        connection, calls = _recorded_calls(records.capturing(captures_nothing))
        records.close()
    took = 0.0
    for _ in range(_REPEATS):
        with _channel() as channel:
            await records.open(spec, channel)
            began = time.process_time()
            for call in calls:
                records.observe(connection, CallEnded(call), 0.0)
            await asyncio.sleep(_SENDING)
            took += time.process_time() - began
            records.close()
    return took / (_REPEATS * len(calls)) * 1e6


@contextmanager
def _channel() -> Iterator[socket.socket]:
    """Yield a socket that a process reads, and that has to be closed."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(["cat"], stdin=theirs, stdout=subprocess.DEVNULL):
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()


def _recorded_calls(capture_for: "CaptureFor") -> "tuple[Connection, list[Call]]":
    """Return the calls of a recorded kubelet, with what is captured of them."""
    from criproxy.peers.peer import Connection, Peer
    from criproxy.wire.reading.connection import CallEnded, ConnectionReader
    from tests.support.captures import NAMES, capture

    connection = Connection("unix:///run/criproxy.sock", Peer(1, 0, 0, "/usr/bin/kubelet"), 0.0)
    calls = []
    for name in NAMES:
        if name.startswith("kubelet"):
            reader = ConnectionReader(select_capture=capture_for(connection))
            for sent in capture(name):
                events = reader.receive(sent.side, sent.data, sent.now)
                calls += [event.call for event in events if isinstance(event, CallEnded)]
    return connection, calls


if __name__ == "__main__":
    main("bench.reading", __doc__, _measure)
