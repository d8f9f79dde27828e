"""Measures the CPU time of reading a call's bytes and reporting it, interpreted and compiled.

``python -m bench.reading`` reads recorded connections of a kubelet with ConnectionReader alone, and
with a notifier behind which each call is counted and its log line made, in processes by turns: with
this tree's modules, which are interpreted, and with those of ``build/compiled``, which ``make
test-compiled`` makes. It prints microseconds a call, as median, least and most of the rounds, and
the ratios of the medians. It writes no file.
"""

import time
from collections import deque
from typing import Final

import structlog

from bench.builds import main

_REPEATS: Final = 20
"""How often each process reads each connection."""


def _measure() -> dict[str, float]:
    """Return the microseconds of CPU that a call of a recorded kubelet takes."""
    return {
        "read, µs of CPU a call": _measure_reading(),
        "read and reported, µs of CPU a call": _measure_reporting(),
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
    from criproxy.observe.call_log import CallLog
    from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
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


if __name__ == "__main__":
    main("bench.reading", __doc__, _measure)
