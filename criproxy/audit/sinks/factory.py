"""The sinks that the configuration asks for."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from criproxy.audit.counts import AuditCounts
from criproxy.audit.dropped import DroppedRecords
from criproxy.audit.sinks.file import FileOutlet
from criproxy.audit.sinks.journald import JournaldOutlet
from criproxy.audit.sinks.sink import Outlet, Sink
from criproxy.audit.sinks.sink_queue import SinkQueue
from criproxy.audit.sinks.stdout import StdoutOutlet
from criproxy.audit.sinks.syslog import SyslogOutlet
from criproxy.audit.spec import SinkSpec

Complain = Callable[[str], None]


def make_sinks(
    specs: Sequence[SinkSpec], counts: AuditCounts, node: str, complain: Complain
) -> list[Sink]:
    """Open all sinks. ``node`` is this node's name; ``complain`` is told of troubles later on.

    Each is named after its kind, a second one of a kind ``file-2`` and so on. Raises
    UnavailableError or UsageError, with the mend, for what cannot be opened; nothing is open then.
    """
    kinds: Counter[str] = Counter()
    sinks: list[Sink] = []
    try:
        for spec in specs:
            kind = _kind(spec)
            kinds[kind] += 1
            name = kind if kinds[kind] == 1 else f"{kind}-{kinds[kind]}"
            sinks.append(make_sink(spec, name, counts, node, complain))
    except BaseException:
        for sink in sinks:
            sink.join()
        raise
    return sinks


def make_sink(
    spec: SinkSpec, name: str, counts: AuditCounts, node: str, complain: Complain
) -> Sink:
    """Open one sink; see :func:`make_sinks`."""

    def notice(missing: DroppedRecords) -> bytes:
        return missing.line(node, name, time.time_ns())

    outlet = _outlet(spec, node, complain)
    own = counts.sink(name)
    queue = SinkQueue(
        records=spec.queue.records,
        size=spec.queue.bytes,
        blocking=spec.on_full == "block",
        counts=own,
        notice=notice,
    )
    return Sink(
        name,
        queue,
        outlet,
        own,
        complain,
        synced=spec.file is not None and spec.file.fsync == "always",
        max_wait=spec.max_wait,
    )


def _kind(spec: SinkSpec) -> str:
    kinds = ("file", "stdout", "syslog", "journald", "otlp")
    return next(kind for kind in kinds if getattr(spec, kind) is not None)


def _outlet(spec: SinkSpec, node: str, complain: Complain) -> Outlet:
    if spec.file is not None:
        return FileOutlet(spec.file, complain)
    if spec.syslog is not None:
        return SyslogOutlet(spec.syslog, node)
    if spec.journald is not None:
        return JournaldOutlet(spec.journald)
    if spec.otlp is not None:
        # 5 MiB of memory that only those pay for who have such a sink.
        from criproxy.audit.sinks.otlp import OtlpOutlet

        return OtlpOutlet(spec.otlp, node)
    return StdoutOutlet()
