"""The traces of a running daemon, received by a real receiver of OTLP."""

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.criproxy import Criproxy
from tests.support.grpc_peers import code_of
from tests.support.process_tree import named
from tests.support.trace_receiver import GrpcTraceReceiver, TraceReceiver, attributes
from tests.support.waiting import LIMIT_SECONDS, wait_until

ALL: dict[str, Any] = {"ratio": 1}
NONE: dict[str, Any] = {"ratio": 0, "errors": False, "slower_than": None}


@pytest.fixture
def receiver() -> Iterator[TraceReceiver]:
    with TraceReceiver() as receiver:
        yield receiver


def traced(
    directory: Path, runtime: str, url: str, sampling: dict[str, Any], **config: Any
) -> Criproxy:
    traces = {"otlp": {"endpoint": url}, "sampling": sampling, "node": "node-1"}
    return Criproxy(
        directory, runtime, config={"traces": traces | config.pop("traces", {}), **config}
    )


def parent(flags: str = "01") -> tuple[str, str, str]:
    """A trace id, a span id and the header that names them."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-{flags}"


def client_of(proxy: Criproxy) -> CriClient:
    return CriClient(proxy.endpoint, timeout=LIMIT_SECONDS)


def test_a_call_is_a_child_of_the_callers_span(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """A call with a traceparent has a span in that trace, below the caller's, with the attributes
    of the conventions; one without begins a trace of its own."""
    with (
        traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy,
        client_of(proxy) as client,
    ):
        trace_id, span_id, header = parent()
        pod = client.ListPodSandbox().items[0]
        client.call("PodSandboxStatus", pod_sandbox_id=pod.id, metadata=[("traceparent", header)])
        (span,) = receiver.wait_for("/PodSandboxStatus")
        (root,) = receiver.wait_for("/ListPodSandbox")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, span_id)
    assert span.flags == 0x301
    assert span.name == "runtime.v1.RuntimeService/PodSandboxStatus"
    assert span.kind == span.SPAN_KIND_SERVER
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano
    assert span.status.code == span.status.STATUS_CODE_UNSET
    found = attributes(span)
    assert found.pop("criproxy.time_to_first_byte") > 0
    assert found.pop("criproxy.overhead") > 0
    assert found.pop("criproxy.response.bytes") > 0
    assert found == {
        "rpc.system": "grpc",
        "rpc.service": "runtime.v1.RuntimeService",
        "rpc.method": "PodSandboxStatus",
        "rpc.grpc.status_code": 0,
        "rpc.response.status_code": "OK",
        "k8s.namespace.name": pod.metadata.namespace,
        "k8s.pod.name": pod.metadata.name,
        "k8s.pod.uid": pod.metadata.uid,
        "criproxy.pod.id": pod.id,
        "criproxy.listener": proxy.endpoint,
        "criproxy.caller.pid": os.getpid(),
        "criproxy.caller.uid": os.getuid(),
        "criproxy.caller.executable": os.readlink("/proc/self/exe"),
        "criproxy.end": "status",
        "criproxy.request.bytes": len(pod.id) + 2,
    }
    assert (len(root.trace_id), len(root.span_id), root.parent_span_id) == (16, 8, b"")
    assert root.trace_id != span.trace_id
    assert root.flags == 1
    resource = attributes(receiver.requests[0].resource_spans[0].resource)
    assert (resource["service.name"], resource["k8s.node.name"]) == ("criproxy", "node-1")
    assert receiver.headers[0]["content-type"] == "application/x-protobuf"


def test_a_listener_that_relays_streams(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """Where HTTP/2 is terminated, as for shielded reads, a call's parent is known as well."""
    listener = {
        "endpoint": f"unix://{short_dir}/proxy.sock",
        "runtime": runtime.endpoint,
        "shield": "reads",
    }
    with (
        traced(short_dir, "", receiver.url, ALL, listeners=[listener]) as proxy,
        client_of(proxy) as client,
    ):
        trace_id, span_id, header = parent()
        client.call("Status", metadata=[("traceparent", header)])
        (span,) = receiver.wait_for("/Status")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, span_id)


@pytest.mark.parametrize("header", ["nonsense", f"00-{'0' * 32}-{'1' * 16}-01"])
def test_a_malformed_parent_is_ignored(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver, header: str
) -> None:
    """A call whose traceparent is malformed begins a trace, and is answered."""
    with (
        traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy,
        client_of(proxy) as client,
    ):
        client.call("Version", metadata=[("traceparent", header)])
        (span,) = receiver.wait_for("/Version")
    assert any(span.trace_id)
    assert span.parent_span_id == b""


def test_what_is_sampled(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """With a ratio of 0 a call has a span if the caller samples it, and if it fails, also where the
    caller does not sample it."""
    sampling = {"ratio": 0, "slower_than": None}
    with (
        traced(short_dir, runtime.endpoint, receiver.url, sampling) as proxy,
        client_of(proxy) as client,
    ):
        client.Status()
        client.call("Status", metadata=[("traceparent", parent("00")[2])])
        trace_id, _, header = parent("01")
        client.call("Status", metadata=[("traceparent", header)])
        failed, _, header = parent("00")
        gone = lambda: client.call(  # noqa: E731
            "PodSandboxStatus", pod_sandbox_id="none", metadata=[("traceparent", header)]
        )
        assert code_of(gone) == "NOT_FOUND"
        (span,) = receiver.wait_for("/PodSandboxStatus")
        assert proxy.stop() == 0
    assert span.trace_id.hex() == failed
    assert span.flags == 0x300  # its trace is not sampled
    assert span.status.code == span.status.STATUS_CODE_UNSET  # the client's mistake
    assert attributes(span)["rpc.grpc.status_code"] == 5
    assert "not found" in attributes(span)["criproxy.message"]
    assert [each.trace_id.hex() for each in receiver.named("/Status")] == [trace_id]


def test_a_failure_of_the_runtime_is_an_error(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """The span of a call that a rule lets fail as the runtime would is an error, with the message,
    the rule and the reason of the refusal."""
    rule = {
        "name": "broken",
        "match": {"methods": ["Status"]},
        "deny": {"code": "INTERNAL", "message": "disk on fire"},
    }
    with (
        traced(
            short_dir, runtime.endpoint, receiver.url, NONE | {"errors": True}, rules=[rule]
        ) as proxy,
        client_of(proxy) as client,
    ):
        assert code_of(client.Status) == "INTERNAL"
        (span,) = receiver.wait_for("/Status")
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert span.status.message == "disk on fire"
    assert attributes(span)["criproxy.rules"] == ["broken"]


def test_credentials_are_redacted(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """A status message that repeats a pull's password is redacted in the span, in every request."""
    rule = {
        "name": "telling",
        "match": {"methods": ["PullImage"]},
        "deny": {"code": "UNKNOWN", "message": "no access for hunter2-secret"},
    }
    with (
        traced(short_dir, runtime.endpoint, receiver.url, ALL, rules=[rule]) as proxy,
        client_of(proxy) as client,
    ):
        pull = lambda: client.PullImage(  # noqa: E731
            image={"image": "registry.local/app:1"},
            auth={"username": "robot", "password": "hunter2-secret"},
        )
        assert code_of(pull) == "UNKNOWN"
        (span,) = receiver.wait_for("/PullImage")
        assert proxy.stop() == 0
    assert attributes(span)["criproxy.image"] == "registry.local/app:1"
    assert span.status.message.startswith("no access for")
    assert not any(b"hunter2" in each.SerializeToString() for each in receiver.requests)


def test_an_absent_collector_costs_a_counter(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """While nobody listens at the endpoint calls go on, the failures are counted and logged once,
    and the daemon ends in time; what is lost is counted."""
    with traced(short_dir, runtime.endpoint, "http://127.0.0.1:1/v1/traces", ALL) as proxy:
        with client_of(proxy) as client:
            for _ in range(50):
                client.Version()
        wait_until(lambda: proxy.metric("criproxy_traces_errors_total") >= 2, "two failures")
        wait_until(lambda: proxy.metric("criproxy_traces_queue_spans") >= 50, "spans that wait")
        assert proxy.metric("criproxy_traces_exported_total") == 0
        assert len(proxy.events("traces in trouble")) == 1
        assert proxy.stop() == 0
        assert proxy.event("spans lost")["spans"] >= 50


def test_a_full_queue_drops_spans_and_no_call(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """While the receiver does not answer, spans above the queue's limit are dropped and counted;
    every span is either received or counted."""
    traces = {"queue": {"spans": 10}, "otlp": {"endpoint": receiver.url, "timeout": "1h"}}
    with traced(short_dir, runtime.endpoint, receiver.url, ALL, traces=traces) as proxy:
        receiver.hold.clear()
        with client_of(proxy) as client:
            for _ in range(100):
                client.Version()
        dropped = lambda: proxy.metric(  # noqa: E731
            "criproxy_traces_dropped_total", reason="queue_full"
        )
        wait_until(lambda: dropped() >= 90, "dropped spans")
        receiver.hold.set()
        wait_until(
            lambda: dropped() + proxy.metric("criproxy_traces_exported_total") >= 100, "all spans"
        )
        assert proxy.metric("criproxy_traces_dropped_total") == dropped()


def test_the_end_does_not_wait_for_a_receiver_that_hangs(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """The daemon ends although the receiver never answers, and says how many spans are lost."""
    with traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy:
        receiver.hold.clear()
        with client_of(proxy) as client:
            client.Version()
        assert receiver.asked.acquire(timeout=LIMIT_SECONDS)
        assert proxy.stop() == 0
        assert proxy.event("spans lost")["spans"] >= 1


def test_the_end_sends_what_waits(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """Spans of calls just before the end are sent."""
    with traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy:
        with client_of(proxy) as client:
            for _ in range(20):
                client.Status()
        assert proxy.stop() == 0
        assert len(receiver.named("/Status")) == 20
        assert not proxy.events("spans lost")


def test_another_exporter_takes_the_place_of_one_that_died(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """The exporter is a process of its own: if it is killed calls go on, and the next one sends
    the spans of the calls meanwhile."""
    with traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy:
        os.kill(named(proxy.process.pid, "criproxy:traces"), signal.SIGKILL)
        proxy.event("process ended", process="exporter")
        with client_of(proxy) as client:
            client.Status()
            proxy.event("process started", process="exporter")
            client.Version()
        receiver.wait_for("/Status")
        receiver.wait_for("/Version")


def test_a_reload_changes_the_endpoint(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """After a reload spans go to the new endpoint, and without the section there are none."""
    with TraceReceiver() as other, traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy:
        with client_of(proxy) as client:
            client.Status()
        proxy.reload(traces={"otlp": {"endpoint": other.url}, "sampling": ALL})
        proxy.event("workers of before have ended")
        with client_of(proxy) as client:
            client.Version()
        other.wait_for("/Version")
        receiver.wait_for("/Status")
        assert not receiver.named("/Version")
        wait_until(
            lambda: (
                proxy.metric("criproxy_traces_exported_total")
                == len(receiver.spans) + len(other.spans)
            ),
            "the counts of both",
        )
        proxy.reload(traces=None)
        wait_until(
            lambda: len(proxy.events("workers of before have ended")) == 2, "a second reload"
        )
        with client_of(proxy) as client:
            client.ImageFsInfo()
        assert proxy.stop() == 0
        assert not other.named("/ImageFsInfo")


def test_an_endpoint_that_is_none(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """A bad endpoint is an error with an example of a good one, and exit status 2."""
    status, message = traced(short_dir, runtime.endpoint, "collector:4318", ALL).fails()
    assert status == 2
    assert "write it like http://127.0.0.1:4318/v1/traces" in message


def test_a_call_is_answered_the_same(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """What the client and the runtime exchange is not changed by traces: the runtime's trailers
    and its error reach a client that sends a traceparent."""
    with (
        traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy,
        client_of(proxy) as client,
        CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as direct,
    ):
        request = {"metadata": [("traceparent", parent()[2])]}
        assert client.call("Version", **request) == direct.call("Version", **request)
        errors = []
        for each in (client, direct):
            with pytest.raises(grpc.RpcError) as error:
                each.call("ContainerStatus", container_id="none", **request)
            errors.append((error.value.code(), error.value.details()))
        assert errors[0] == errors[1]


POD = {"metadata": {"name": "web-0", "uid": "uid-web-0", "namespace": "shop"}}
CONTAINER = {"metadata": {"name": "app"}, "image": {"image": "example.test/app:1"}}
SLOW_PULL = {
    "name": "slow-pull",
    "match": {"methods": ["PullImage"]},
    "delay": {"fixed": "2s"},
}


def start_pod(client: CriClient, metadata: list[tuple[str, str]] | None = None) -> None:
    """Start a pod as the kubelet does."""

    def call(method: str, **fields: Any) -> Any:
        return client.call(method, metadata=metadata, **fields)

    pod = call("RunPodSandbox", config=POD).pod_sandbox_id
    call("PullImage", image=CONTAINER["image"], sandbox_config=POD)
    create = {"pod_sandbox_id": pod, "config": CONTAINER, "sandbox_config": POD}
    container = call("CreateContainer", **create).container_id
    call("StartContainer", container_id=container)


def test_the_start_of_a_pod(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """The start of a pod whose pull a rule has slowed has a span with that cause, although no trace
    is sampled, and all its calls are below it."""
    sampling = {"ratio": 0, "slower_than": "1500ms"}
    with (
        traced(
            short_dir,
            runtime.endpoint,
            receiver.url,
            sampling,
            rules=[SLOW_PULL],
            traces={"pod_starts": {"settle": "100ms"}},
        ) as proxy,
        client_of(proxy) as client,
    ):
        start_pod(client)
        (start,) = receiver.wait_for("pod start")
    calls = [span for span in receiver.spans if span is not start]
    assert sorted(span.name.rpartition("/")[2] for span in calls) == [
        "CreateContainer",
        "PullImage",
        "RunPodSandbox",
        "StartContainer",
    ]
    assert {span.parent_span_id for span in calls} == {start.span_id}
    assert {span.trace_id for span in calls} == {start.trace_id}
    found = attributes(start)
    assert (found["k8s.namespace.name"], found["k8s.pod.uid"]) == ("shop", "uid-web-0")
    assert found["criproxy.pod_start.cause.kind"] == "pull"
    text = found["criproxy.pod_start.cause.text"]
    assert text.startswith("image pull of example.test/app:1: ")
    assert "held by slow-pull)" in text
    assert found["criproxy.pod_start.pull"] >= 2


def test_the_start_of_a_pod_in_the_kubelets_trace(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """Where the caller traces, the start is in its trace, and sent when the daemon ends."""
    trace_id, span_id, header = parent()
    with (
        traced(short_dir, runtime.endpoint, receiver.url, NONE) as proxy,
        client_of(proxy) as client,
    ):
        start_pod(client, [("traceparent", header)])
        assert proxy.stop() == 0
    (start,) = receiver.named("pod start")
    assert (start.trace_id.hex(), start.parent_span_id.hex()) == (trace_id, span_id)
    assert {span.parent_span_id.hex() for span in receiver.spans} == {span_id}
    assert {link.span_id for link in start.links} == {
        span.span_id for span in receiver.spans if span is not start
    }


def test_exemplars_name_the_span_of_a_call(
    runtime: EmbeddedRuntime, short_dir: Path, receiver: TraceReceiver
) -> None:
    """A scraper that accepts OpenMetrics is given the spans of calls as exemplars, by trace and
    span id; others are given the text format as before."""
    with (
        traced(short_dir, runtime.endpoint, receiver.url, ALL) as proxy,
        client_of(proxy) as client,
    ):
        client.Status()
        (span,) = receiver.wait_for("/Status")
        accept = {"accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
        exemplars = [
            sample.exemplar.labels
            for family in parse_openmetrics(proxy.get("/metrics", headers=accept)[1])
            if family.name == "criproxy_call_duration_seconds"
            for sample in family.samples
            if sample.exemplar is not None and sample.labels["method"] == "Status"
        ]
        assert exemplars == [{"trace_id": span.trace_id.hex(), "span_id": span.span_id.hex()}]
        assert "trace_id" not in proxy.get("/metrics")[1]


def test_spans_over_grpc(runtime: EmbeddedRuntime, short_dir: Path) -> None:
    """With the protocol grpc spans are sent to the protocol's own service."""
    with GrpcTraceReceiver() as receiver:
        otlp = {"otlp": {"endpoint": receiver.url, "protocol": "grpc"}}
        with (
            traced(short_dir, runtime.endpoint, "", ALL, traces=otlp) as proxy,
            client_of(proxy) as client,
        ):
            client.Status()
            assert proxy.stop() == 0
        (span,) = receiver.named("/Status")
        assert attributes(span)["rpc.method"] == "Status"
