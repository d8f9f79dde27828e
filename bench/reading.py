"""Measures the CPU time of reading a call's bytes and reporting it, interpreted and compiled.

``python -m bench.reading`` reads recorded connections of a kubelet with ConnectionReader alone, and
with a notifier behind which each call is counted and its log line made, in processes by turns: with
this tree's modules, which are interpreted, and with those of ``build/compiled``, which ``make
test-compiled`` makes. It prints microseconds a call, as median, least and most of the rounds, and
the ratios of the medians. It writes no file.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict, deque
from pathlib import Path
from statistics import median
from typing import Final

import structlog

ROOT: Final = Path(__file__).resolve().parents[1]
COMPILED: Final = ROOT / "build" / "compiled"
_ROUNDS: Final = 7
_REPEATS: Final = 20
"""How often each process reads each connection."""


def main() -> None:
    """Measure and print, or with ``--once`` measure in this process and print JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=_ROUNDS)
    arguments.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.once:
        print(json.dumps(_measure()))
        return
    if not COMPILED.exists():
        sys.exit(f"{COMPILED} is missing; make test-compiled TESTS=tests/test_compiled.py makes it")
    builds = {"interpreted": ROOT, "compiled": COMPILED}
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for name, tree in builds.items():
            for what, figure in _measured_in(tree).items():
                found[what, name].append(figure)
    for (what, name), figures in sorted(found.items()):
        spread = f"{min(figures):.2f} to {max(figures):.2f}"
        print(f"{what}, {name}: {median(figures):.2f} µs of CPU a call ({spread})")
    for what in sorted({what for what, _ in found}):
        ratio = median(found[what, "compiled"]) / median(found[what, "interpreted"])
        print(f"{what}, ratio: {ratio:.2f}")


def _measured_in(tree: Path) -> dict[str, float]:
    """Measure in a process whose modules are those of a tree."""
    command = [sys.executable, "-m", "bench.reading", "--once"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    microseconds: dict[str, float] = json.loads(done.stdout)
    return microseconds


def _measure() -> dict[str, float]:
    """Return the microseconds of CPU that a call of a recorded kubelet takes."""
    return {"read": _measure_reading(), "read and reported": _measure_reporting()}


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
    main()
