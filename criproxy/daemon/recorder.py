"""The recorder process: makes and writes the records of the audit log.

Imported only if the configuration has an audit log, since protobuf costs memory.
"""

import socket
import sys
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from criproxy.audit.counts import SinkCounts
from criproxy.audit.recorder.server import serve_recorder
from criproxy.daemon.wall_clock import WallClock
from criproxy.observe.metrics import SinkMetrics
from criproxy.observe.metrics_merge import Snapshot, snapshot

_SWITCH_INTERVAL: Final = 0.001
"""Seconds after which the recorder's encoder gives the interpreter to the thread that reads."""


def run_recorder(control: int) -> int:
    """Serve until the supervisor closes its end of ``control``; return the exit status."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    def describe(sinks: Mapping[str, SinkCounts]) -> Snapshot:
        metrics = SinkMetrics(sinks)
        registry.register(metrics)
        try:
            return snapshot(registry)
        finally:
            registry.unregister(metrics)

    return serve_recorder(socket.socket(fileno=control), describe, WallClock().ns)
