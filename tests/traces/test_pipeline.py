"""Pipeline: from calls to spans, and what it needs."""

import sys
from collections.abc import Iterator

import pytest

from criproxy.errors import UnavailableError
from criproxy.traces.counts import TraceCounts
from criproxy.traces.exporter.pipeline import Pipeline
from criproxy.traces.spec import TracesOtlpSpec, TracesSpec
from tests.support.trace_receiver import TraceReceiver
from tests.support.waiting import LIMIT_SECONDS
from tests.traces.traced_calls import Calls


@pytest.fixture
def receiver() -> Iterator[TraceReceiver]:
    with TraceReceiver() as receiver:
        yield receiver


def test_a_fault_of_our_own(receiver: TraceReceiver) -> None:
    """A call that cannot be made into a span is counted and logged once; others have spans."""
    errors: list[str] = []
    spec = TracesSpec(otlp=TracesOtlpSpec(endpoint=receiver.url))
    pipeline = Pipeline(spec, errors.append)
    pod = Calls()
    for code in ("OK", "no code", "no code either", "OK"):
        pipeline.add(pod.call("Version", 0.1, code), 0.0)
    pipeline.close(LIMIT_SECONDS)
    total = TraceCounts()
    pipeline.add_counts(total)
    assert (total.exported, total.dropped) == (2, {"failed": 2})
    assert len(errors) == 1
    assert "a fault of criproxy's" in errors[0]


def test_calls_only(receiver: TraceReceiver) -> None:
    """Without spans of pods' starts a call of one has no parent of ours."""
    spec = TracesSpec(otlp=TracesOtlpSpec(endpoint=receiver.url), pod_starts=None)
    pipeline = Pipeline(spec, print)
    pipeline.add(Calls().sandbox(), 0.0)
    pipeline.finish()
    pipeline.close(LIMIT_SECONDS)
    (span,) = receiver.spans
    assert span.parent_span_id == b""


def test_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without opentelemetry-proto the error names it, and the command that installs it."""
    for name in [each for each in sys.modules if each.startswith("criproxy.traces.exporter.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.trace.v1.trace_pb2", None)
    with pytest.raises(UnavailableError, match=r"pip install 'criproxy\[otlp\]'"):
        import criproxy.traces.exporter.pipeline  # noqa: F401
