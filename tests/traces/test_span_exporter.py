"""SpanExporter: batches, retries within a time, rejections, bounds and the end."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from criproxy.configtypes.values import Duration
from criproxy.errors import UsageError
from criproxy.traces.counts import TraceCounts
from criproxy.traces.exporter.span_exporter import SpanExporter
from criproxy.traces.spec import SpanQueueSpec, TracesOtlpSpec, TracesSpec
from tests.support.trace_receiver import TraceReceiver
from tests.support.waiting import LIMIT_SECONDS, wait_until

_QUEUE = SpanQueueSpec()


class Setup:
    """An exporter with its counters and errors, and the receiver that it sends to."""

    def __init__(self, receiver: TraceReceiver) -> None:
        self.receiver = receiver
        self.counts = TraceCounts()
        self.errors: list[str] = []
        self.exporter: SpanExporter

    def open(self, queue: SpanQueueSpec = _QUEUE, **otlp: Any) -> SpanExporter:
        spec = TracesSpec(otlp=TracesOtlpSpec(endpoint=self.receiver.url, **otlp), queue=queue)
        self.exporter = SpanExporter(spec, "n1", self.counts, self.errors.append, collecting=0.01)
        return self.exporter

    def put(self, count: int, name: str = "span") -> None:
        self.exporter.put([Span(name=name) for _ in range(count)])

    def wait_for(self, condition: Callable[[TraceCounts], bool]) -> None:
        wait_until(lambda: condition(self.counts), "counts", report=lambda: str(self.counts))


@pytest.fixture
def setup() -> Iterator[Setup]:
    with TraceReceiver() as receiver:
        setup = Setup(receiver)
        yield setup
        receiver.hold.set()
        setup.exporter.close(LIMIT_SECONDS)


def test_spans_are_sent_in_batches(setup: Setup) -> None:
    """Spans are sent in order, of a request's size at most; none is left in the queue."""
    setup.open()
    setup.exporter.put([Span(name=str(number)) for number in range(1200)])
    setup.wait_for(lambda counts: counts.exported == 1200)
    assert [span.name for span in setup.receiver.spans] == [str(number) for number in range(1200)]
    assert len(setup.receiver.requests) == 3
    assert (setup.counts.queue_spans, setup.counts.queue_bytes) == (0, 0)
    assert setup.errors == []


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_batch_is_sent_again(setup: Setup, status: int) -> None:
    """After a status that OTLP retries the batch is sent again, once; the error and its end are
    logged once each."""
    setup.receiver.answers = [(status, {"retry-after": "0"}, b"")] * 2
    setup.open()
    setup.put(3)
    setup.wait_for(lambda counts: counts.exported == 3)
    assert len(setup.receiver.spans) == 3
    assert setup.counts.errors == 2
    wait_until(lambda: len(setup.errors) == 2, "the end of the error")
    assert f"it answered {status}" in setup.errors[0]
    assert "accepts spans again" in setup.errors[1]


def test_retries_end(setup: Setup) -> None:
    """A batch that cannot be sent within `retry_for` is dropped and counted; the next is sent."""
    setup.receiver.answers = [(503, {"retry-after": "3600"}, b"")]
    setup.open(retry_for=Duration(0.01))
    setup.put(3)
    setup.wait_for(lambda counts: counts.dropped["unavailable"] == 3)
    setup.put(2)
    setup.wait_for(lambda counts: counts.exported == 2)


def test_what_is_rejected(setup: Setup) -> None:
    """A status that another try does not change drops the batch; so does a partial success for the
    part that it names. Both are logged with what is known."""
    partial = ExportTraceServiceResponse()
    partial.partial_success.rejected_spans = 1
    partial.partial_success.error_message = "too old"
    setup.receiver.answers = [(400, {}, b""), (200, {}, partial.SerializeToString())]
    setup.open()
    setup.put(3)
    setup.wait_for(lambda counts: counts.dropped["rejected"] == 3)
    setup.put(5)
    setup.wait_for(lambda counts: counts.exported == 4)
    assert setup.counts.dropped["rejected"] == 4
    wait_until(lambda: len(setup.errors) == 2, "two errors")
    assert "it answered 400" in setup.errors[0]
    assert "rejected 1 spans: too old" in setup.errors[1]


@pytest.mark.parametrize(
    "queue",
    [SpanQueueSpec(spans=4), SpanQueueSpec(bytes=4 * Span(name="span").ByteSize())],  # type: ignore[arg-type]
)
def test_the_queue_is_bounded(setup: Setup, queue: SpanQueueSpec) -> None:
    """What finds the queue full is dropped and counted; spans that are being sent count, too."""
    setup.receiver.hold.clear()
    setup.open(queue)
    setup.put(4)
    assert setup.receiver.asked.acquire(timeout=LIMIT_SECONDS)
    setup.put(6)
    assert setup.counts.dropped == {"queue_full": 6}
    setup.receiver.hold.set()
    setup.wait_for(lambda counts: counts.exported == 4)
    setup.put(1)
    setup.wait_for(lambda counts: counts.exported == 5)


def test_the_end_sends_what_waits(setup: Setup) -> None:
    """Closing sends all batches."""
    setup.open()
    setup.put(1200)
    setup.exporter.close(LIMIT_SECONDS)
    assert setup.counts.exported == 1200
    setup.put(1)
    assert setup.counts.dropped == {"closing": 1}


def test_the_end_tries_once(setup: Setup) -> None:
    """A batch that fails while closing is not tried again: it and the rest are counted."""
    setup.receiver.answers = [(503, {}, b"")] * 10
    setup.receiver.hold.clear()
    setup.open()
    setup.put(600)
    assert setup.receiver.asked.acquire(timeout=LIMIT_SECONDS)
    closing = threading.Thread(target=setup.exporter.close, args=(LIMIT_SECONDS,))
    closing.start()
    wait_until(lambda: setup.exporter._closing, "the closing")
    setup.receiver.hold.set()
    closing.join()
    assert setup.counts.dropped == {"closing": 600}
    assert len(setup.receiver.answers) == 9


def test_the_end_aborts_a_request_that_hangs(setup: Setup) -> None:
    """A request without an answer is broken off at the end of the time, and its spans counted."""
    setup.receiver.hold.clear()
    setup.open(timeout=Duration(3600))
    setup.put(2)
    assert setup.receiver.asked.acquire(timeout=LIMIT_SECONDS)
    setup.exporter.close(0)
    assert "span exporter" not in {thread.name for thread in threading.enumerate()}
    assert setup.counts.dropped == {"closing": 2}
    assert setup.counts.queue_spans == 0


@pytest.mark.parametrize("endpoint", ["", "collector:4318", "ftp://host/", "http://"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    """A bad endpoint is an error with an example of a good one."""
    spec = TracesSpec(otlp=TracesOtlpSpec(endpoint=endpoint))
    with pytest.raises(UsageError, match="write it like"):
        SpanExporter(spec, "n1", TraceCounts(), print)
