"""The recorder process: makes and writes the records of the audit log.

Imported only if the configuration has an audit log, since protobuf costs memory.
"""

import socket
import sys
from typing import Final

from criproxy.audit.recorder.server import serve_recorder
from criproxy.daemon.wall_clock import WallClock
from criproxy.observe.metrics import SinkMetrics
from criproxy.observe.metrics_merge import ProcessMetrics

_SWITCH_INTERVAL: Final = 0.001
"""Seconds after which the recorder's encoder gives the interpreter to the thread that reads."""


def run_recorder(control: int) -> int:
    """Serve until the supervisor closes its end of ``control``; return the exit status."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    metrics = ProcessMetrics()
    return serve_recorder(
        socket.socket(fileno=control),
        lambda sinks: metrics.snapshot(SinkMetrics(sinks)),
        WallClock().ns,
    )
