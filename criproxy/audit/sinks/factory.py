"""Creates the sinks of the configuration."""

import time
from collections.abc import Sequence

from criproxy.audit.counts import AuditCounts
from criproxy.audit.dropped import DroppedRecords
from criproxy.audit.sinks.file import FileOutlet
from criproxy.audit.sinks.journald import JournaldOutlet
from criproxy.audit.sinks.sink import LogError, Outlet, Sink
from criproxy.audit.sinks.sink_queue import SinkQueue
from criproxy.audit.sinks.stdout import StdoutOutlet
from criproxy.audit.sinks.syslog import SyslogOutlet
from criproxy.audit.spec import SinkSpec, sink_names


def make_sinks(
    specs: Sequence[SinkSpec], counts: AuditCounts, node: str, log_error: LogError
) -> list[Sink]:
    """Open all sinks. ``node`` is this node's name; ``log_error`` is called for later errors.

    Raises UnavailableError or UsageError if one cannot be opened; all are closed then.
    """
    sinks: list[Sink] = []
    try:
        for spec, name in zip(specs, sink_names(specs), strict=True):
            sinks.append(make_sink(spec, name, counts, node, log_error))
    except BaseException:
        for sink in sinks:
            sink.join()
        raise
    return sinks


def make_sink(
    spec: SinkSpec, name: str, counts: AuditCounts, node: str, log_error: LogError
) -> Sink:
    """Open one sink; see :func:`make_sinks`."""

    def drop_record(dropped: DroppedRecords) -> bytes:
        return dropped.line(node, name, time.time_ns())

    outlet = _outlet(spec, node, log_error)
    own = counts.sink(name)
    queue = SinkQueue(
        records=spec.queue.records,
        size=spec.queue.bytes,
        blocking=spec.on_full == "block",
        counts=own,
        drop_record=drop_record,
    )
    return Sink(name, queue, outlet, own, log_error)


def _outlet(spec: SinkSpec, node: str, log_error: LogError) -> Outlet:
    if spec.file is not None:
        return FileOutlet(spec.file, log_error)
    if spec.syslog is not None:
        return SyslogOutlet(spec.syslog, node)
    if spec.journald is not None:
        return JournaldOutlet(spec.journald)
    if spec.otlp is not None:
        # Imported here because it costs 5 MiB of memory.
        from criproxy.audit.sinks.otlp import OtlpOutlet

        return OtlpOutlet(spec.otlp, node)
    return StdoutOutlet()
