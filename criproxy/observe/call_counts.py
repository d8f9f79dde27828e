"""Counts calls that have ended, in plain numbers, for the metrics."""

from bisect import bisect_left
from collections.abc import Mapping
from math import inf
from typing import Final

from prometheus_client.samples import Exemplar

from criproxy.cri.naming import cached_by_path, resolve
from criproxy.observe.exemplars import SpanReference
from criproxy.peers.peer import Connection
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call

UNREAD: Final = "UNREAD"
"""The code label of calls whose end was not seen, because parsing of the connection stopped."""

_CODE_LABELS: Final[Mapping[StatusCode, str]] = {code: code.name for code in StatusCode}


def code_label(call: Call) -> str:
    """Return the name of the gRPC code that a call ended with: ``NOT_FOUND``."""
    return UNREAD if call.code is None else _CODE_LABELS[call.code]


class Histogram:
    """Counts by bucket; ``bounds`` are the buckets' upper bounds.

    A bucket has the last of its values that belong to a span for an exemplar.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}  # by bucket

    def observe(self, value: float, span: SpanReference | None = None) -> None:
        """Count a value, which belongs to ``span`` if there is one."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if span is not None:
            self.exemplars[bucket] = span.exemplar(value)

    def cumulative(self) -> list[tuple[float, int, Exemplar | None]]:
        """Return the upper bounds with the counts up to them, as Prometheus defines them, and with
        the exemplars of their buckets."""
        so_far = 0
        rows = []
        exemplars = self.exemplars.copy()  # before the counts: each of them is counted
        bounds = (*self.bounds, inf)
        for bucket, (bound, count) in enumerate(zip(bounds, tuple(self.counts), strict=True)):
            so_far += count
            rows.append((bound, so_far, exemplars.get(bucket)))
        return rows


class MethodCounts:
    """The counts of one method."""

    __slots__ = ("duration", "ended", "request_bytes", "response_bytes", "time_to_first_byte")

    def __init__(self, durations: tuple[float, ...], sizes: tuple[float, ...]) -> None:
        """The buckets' upper bounds, in seconds and in bytes."""
        self.ended: dict[tuple[str, str], int] = {}
        """Calls by listener and code."""
        self.duration = Histogram(durations)
        self.time_to_first_byte = Histogram(durations)
        self.request_bytes = Histogram(sizes)
        self.response_bytes = Histogram(sizes)


class CallCounts:
    """Counts calls that have ended. Another thread may read the counts."""

    def __init__(
        self,
        durations: tuple[float, ...],
        overheads: tuple[float, ...],
        sizes: tuple[float, ...],
    ) -> None:
        """The buckets' upper bounds, in seconds, in seconds and in bytes."""
        self._durations = durations
        self._sizes = sizes
        self.methods: dict[tuple[str, str], MethodCounts] = {}
        """By the labels of service and method."""
        self.overhead = Histogram(overheads)
        self._of_path = cached_by_path(self._of_method)

    def ended(self, connection: Connection, call: Call, span: SpanReference | None = None) -> None:
        """Count a call that has ended; its ``span``, if it has one, is an exemplar."""
        counts: MethodCounts = self._of_path(call.path)
        key = connection.listener, code_label(call)
        counts.ended[key] = counts.ended.get(key, 0) + 1
        if call.ended is not None:
            counts.duration.observe(call.ended - call.began, span)
        if call.first_byte is not None:
            counts.time_to_first_byte.observe(call.first_byte - call.began, span)
        counts.request_bytes.observe(call.request.bytes, span)
        counts.response_bytes.observe(call.response.bytes, span)
        self.overhead.observe(call.overhead, span)

    def _of_method(self, path: bytes) -> MethodCounts:
        name = resolve(path)
        labels = name.service_label, name.method_label
        if labels not in self.methods:
            self.methods[labels] = MethodCounts(self._durations, self._sizes)
        return self.methods[labels]
