"""The log lines for events of listeners, and the spans of calls."""

import pytest
import structlog
from structlog.testing import CapturingLogger
from structlog.typing import FilteringBoundLogger

from criproxy.daemon.worker.event_dispatcher import EventDispatcher
from criproxy.observe.calls_in_flight import CallsInFlight, SlowCalls
from criproxy.observe.logs.call_log import CallLog
from criproxy.observe.logs.subject_fields import names_nothing
from criproxy.observe.metrics import Metrics
from criproxy.traces.channel import TracedCall
from criproxy.traces.sampling import Sampler
from criproxy.traces.spec import SamplingSpec
from criproxy.traces.worker.call_tracer import CallTracer
from criproxy.wire.reading.connection import CallEnded
from tests.support.calls import CONNECTION, ended


def test_a_full_listener_is_warned_of_now_and_then() -> None:
    """However often a listener is full, it is warned of once in ten seconds, each for itself."""
    now = 100.0
    lines = CapturingLogger()
    log: FilteringBoundLogger = structlog.wrap_logger(
        lines, wrapper_class=structlog.make_filtering_bound_logger(0), processors=[_fields]
    )
    calls = CallsInFlight(SlowCalls(30.0, {}))
    call_log = CallLog(log, lambda line: None, "info", {}, lambda moment: moment)
    watch = EventDispatcher(log, calls, call_log, Metrics(calls, lambda: now), lambda: now)

    for moment, listener in ((100, "a"), (101, "a"), (101, "b"), (109.9, "a"), (110, "a")):
        now = moment
        watch.accept_paused(listener, "full")

    assert [call.kwargs["listener"] for call in lines.calls] == ["a", "b", "a"]


@pytest.mark.parametrize("ratio", [1.0, 0.0])
def test_the_span_of_a_call_is_counted_with_it(ratio: float) -> None:
    """The span that the tracer makes of a call is an exemplar of the histograms; a call without a
    span is none."""
    sent: list[TracedCall] = []

    def send(call: TracedCall) -> bool:
        sent.append(call)
        return True

    calls = CallsInFlight(SlowCalls(30.0, {}))
    metrics = Metrics(calls, lambda: 0.0)
    call_log = CallLog(structlog.get_logger(), lambda line: None, "info", {}, lambda moment: moment)
    watch = EventDispatcher(structlog.get_logger(), calls, call_log, metrics, lambda: 0.0)
    sampler = Sampler(SamplingSpec(ratio=ratio, errors=False))
    watch.call_tracer = CallTracer(
        sampler, names_nothing, lambda moment: round(moment * 1e9), send, pod_starts=False
    )

    watch.observe(CONNECTION, CallEnded(ended(b"Version", took=0.003)))

    found = [
        sample.exemplar.labels
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.exemplar is not None
    ]
    # Of each histogram that it is counted in: its duration, two sizes, and the overhead.
    assert found == 4 * [
        {"trace_id": call.trace_id.hex(), "span_id": call.span_id.hex()} for call in sent
    ]
    assert len(sent) == (ratio == 1.0)


def _fields(
    logger: object, name: str, event: structlog.typing.EventDict
) -> tuple[tuple[()], structlog.typing.EventDict]:
    return (), event
