"""Sends spans in batches from a bounded queue, on a thread of its own.

Spans that find the queue full are dropped, so the oldest are kept while an endpoint is away; a
batch is tried again for a limited time, then the next one is.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from criproxy.otlp.answer import Client, Outcome
from criproxy.otlp.http_client import HttpClient
from criproxy.traces.counts import TraceCounts
from criproxy.traces.exporter.spans import export_request
from criproxy.traces.spec import TracesOtlpSpec, TracesSpec

_EXPORT: Final = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export"

_BATCH_SPANS: Final = 512
_BATCH_BYTES: Final = 1 << 20
"""Spans and bytes of one request at most."""

_COLLECTING: Final = 1.0
"""Seconds for which spans are collected before a request."""

_JOIN_TIMEOUT: Final = 1.0
"""Seconds to wait for an aborted request to return."""


class SpanExporter:
    """The queue of spans, and the thread that sends them."""

    def __init__(
        self,
        spec: TracesSpec,
        node: str,
        counts: TraceCounts,
        log_error: Callable[[str], None],
        collecting: float = _COLLECTING,
    ) -> None:
        """Start the thread. ``log_error`` is called when an error begins and when it ends.

        Raises UsageError for an endpoint that is no URL.
        """
        self._client = _client(spec.otlp)
        self._endpoint = spec.otlp.endpoint
        self._retry_for = float(spec.otlp.retry_for)
        self._max_spans = spec.queue.spans
        self._max_bytes = int(spec.queue.bytes)
        self._node = node
        self._counts = counts
        self._log_error = log_error
        self._collecting = collecting
        self._trouble = ""
        self._waiting: deque[tuple[Span, int]] = deque()
        self._closing = False
        self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="span exporter", daemon=True)
        self._thread.start()

    def put(self, spans: Sequence[Span]) -> None:
        """Append spans, or count them as dropped. Does not wait."""
        with self._changed:
            for span in spans:
                size = span.ByteSize()
                counts = self._counts
                over = counts.queue_bytes + size > self._max_bytes
                if self._given_up or over or counts.queue_spans >= self._max_spans:
                    reason = "closing" if self._given_up else "queue_full"
                    counts.dropped[reason] += 1
                    continue
                self._waiting.append((span, size))
                counts.queue_spans += 1
                counts.queue_bytes += size
            self._changed.notify()

    def close(self, within: float) -> None:
        """Send what waits, each batch once, for at most ``within`` seconds; count the rest."""
        deadline = monotonic() + within
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - monotonic()))
        if self._thread.is_alive():
            with self._changed:
                self._given_up = True
            self._client.abort()
            self._thread.join(_JOIN_TIMEOUT)
        with self._changed:
            self._given_up = True
            if self._counts.queue_spans:
                self._counts.dropped["closing"] += self._counts.queue_spans
            self._counts.queue_spans = self._counts.queue_bytes = 0
            self._waiting.clear()
        if not self._thread.is_alive():
            self._client.close()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._send(batch)

    def _next_batch(self) -> list[tuple[Span, int]]:
        """Wait for spans and return the oldest; none when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(
                lambda: len(self._waiting) >= _BATCH_SPANS or self._closing, self._collecting
            )
            if self._given_up:
                return []
            batch: list[tuple[Span, int]] = []
            size = 0
            for span, length in self._waiting:
                if len(batch) == _BATCH_SPANS or (batch and size + length > _BATCH_BYTES):
                    break
                batch.append((span, length))
                size += length
            return batch

    def _send(self, batch: list[tuple[Span, int]]) -> None:
        """Send a batch until it is accepted or dropped, and take it off the queue."""
        body = export_request([span for span, _ in batch], self._node).SerializeToString()
        began = monotonic()
        while True:
            answer = self._client.post(body)
            if answer.outcome is Outcome.ACCEPTED:
                self._accepted(batch, answer.body)
                return
            self._count_error()
            if answer.outcome is Outcome.REJECTED:
                self._report(
                    f"{self._endpoint}: {answer.because}, which trying again does not mend: "
                    "see its log; the spans are dropped"
                )
                self._finish(batch, len(batch), "rejected")
                return
            self._report(
                f"cannot post to {self._endpoint}: {answer.because}; spans are tried again for "
                f"{self._retry_for:g} s and dropped then"
            )
            left = self._retry_for - (monotonic() - began)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, min(answer.retry, max(0.0, left)))
                closing = self._closing
            if closing:
                with self._changed:
                    self._given_up = True  # what waits is counted by close()
                return
            if answer.retry >= left:
                self._finish(batch, len(batch), "unavailable")
                return

    def _accepted(self, batch: list[tuple[Span, int]], body: bytes) -> None:
        response = ExportTraceServiceResponse()
        try:
            response.ParseFromString(body)
        except DecodeError:  # a 2xx status accepts the spans whatever the body
            response.Clear()
        rejected = max(0, min(response.partial_success.rejected_spans, len(batch)))
        self._finish(batch, rejected, "rejected")
        if not rejected:
            self._report("")
            return
        self._count_error()
        self._report(
            f"{self._endpoint} rejected {rejected} spans: "
            f"{response.partial_success.error_message or 'it does not say why'}"
        )

    def _finish(self, batch: list[tuple[Span, int]], lost: int, reason: str) -> None:
        with self._changed:
            if self._given_up:  # counted by close()
                return
            for _, size in batch:
                self._waiting.popleft()
                self._counts.queue_spans -= 1
                self._counts.queue_bytes -= size
            self._counts.exported += len(batch) - lost
            if lost:
                self._counts.dropped[reason] += lost

    def _count_error(self) -> None:
        with self._changed:
            self._counts.errors += 1

    def _report(self, trouble: str) -> None:
        """Log the beginning of an error, and its end."""
        if trouble != self._trouble:
            self._log_error(trouble or f"{self._endpoint} accepts spans again")
            self._trouble = trouble


def _client(spec: TracesOtlpSpec) -> Client:
    """Return the client of a protocol. Raises UsageError for an endpoint that is none of it."""
    timeout = float(spec.timeout)
    if spec.protocol == "grpc":
        # Imported here, because few need it.
        from criproxy.otlp.grpc_client import GrpcClient

        return GrpcClient(_EXPORT, spec.endpoint, spec.headers, timeout)
    return HttpClient(
        spec.endpoint, spec.headers, timeout, example="http://127.0.0.1:4318/v1/traces"
    )
