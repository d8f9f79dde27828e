"""The lines of both logs, as calls."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from criproxy.observe.logs.call_log import CallLog
from criproxy.timeline.logged_call import LoggedCall, NotAJsonObjectError, parse_line
from criproxy.wire.grpc import StatusCode
from tests.support.calls import CONNECTION, ended

EPOCH = 1_700_000_000.0
SUBJECT = {
    "namespace": "shop",
    "pod": "web",
    "pod_uid": "u",
    "pod_id": "p",
    "container": "app",
    "container_id": "c",
    "image": "app:1",
}


def test_a_line_of_the_call_log() -> None:
    """What CallLog writes of a call is read as it was."""
    lines: list[bytes] = []
    log = CallLog(
        structlog.get_logger(), lines.append, "debug", {}, lambda t: EPOCH + t, lambda *_: SUBJECT
    )
    call = ended(b"CreateContainer", StatusCode.NOT_FOUND)
    call.rules, call.held = ("a", "b"), 0.25
    log.ended(CONNECTION, call, slow=False)
    read = parse_line(lines[0])
    assert call.ended is not None
    assert read == LoggedCall(
        service="runtime.v1.RuntimeService",
        method="CreateContainer",
        began=EPOCH + call.began,
        until=EPOCH + call.ended,
        code="NOT_FOUND",
        message="",
        listener=CONNECTION.listener,
        pid=CONNECTION.peer.pid,
        executable=str(CONNECTION.peer.executable),
        rules=("a", "b"),
        held=0.25,
        **SUBJECT,
    )
    assert read.failed


def test_the_warning_of_a_slow_call() -> None:
    """A slow call that is in flight is read as running, for its age."""
    line = {
        "event": "slow call",
        "level": "warning",
        "service": "runtime.v1.ImageService",
        "method": "PullImage",
        "began": "2023-11-14T22:13:20+00:00",
        "age_s": 2.5,
        **SUBJECT,
    }
    call = parse_line(json.dumps(line).encode())
    assert call is not None
    assert (call.running, call.began, call.until) == (True, EPOCH, EPOCH + 2.5)
    assert (call.pod, call.image, call.failed) == ("web", "app:1", False)


AUDITED: dict[str, Any] = {
    "apiVersion": "audit.criproxy.io/v1",
    "kind": "Event",
    "stage": "ResponseComplete",
    "stageTimestamp": "2023-11-14T22:13:24.500000000Z",
    "requestReceivedTimestamp": "2023-11-14T22:13:20.000000001Z",
    "node": "n1",
    "caller": {"pid": 7, "uid": 0, "executable": None},
    "service": "runtime.v1.RuntimeService",
    "method": "StartContainer",
    "pod": {"id": "p", "namespace": "shop", "name": "web", "uid": "u"},
    "container": {"id": "c", "name": "app", "image": "app:1"},
    "code": "OK",
    "durationSeconds": 4.5,
}


def test_a_record_of_the_audit_log() -> None:
    """A record is read as the same call; one of a call in flight is running."""
    call = parse_line(json.dumps(AUDITED).encode())
    assert call is not None
    assert {name: getattr(call, name) for name in SUBJECT} == SUBJECT
    assert (call.node, call.pid, call.executable) == ("n1", 7, "")
    assert (call.began, call.until, call.running) == (EPOCH, EPOCH + 4.5, False)
    received = AUDITED | {"stage": "RequestReceived"}
    del received["durationSeconds"], received["code"]
    call = parse_line(json.dumps(received).encode())
    assert call is not None
    assert (call.running, call.until, call.failed) == (True, EPOCH + 4.5, False)


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "pods listed", "level": "info"}',
        b'{"kind": "Dropped", "dropped": 3, "sink": "file"}',
        b'{"event": "call"}',
        b'{"kind": "Event"}',
        b"{}",
    ],
)
def test_lines_about_something_else(line: bytes) -> None:
    """A JSON object that is not about a call is none."""
    assert parse_line(line) is None


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b'{"event": "ca', b"12", b"[]", b"plain", b'{"event": "\xff"}', b'{"pid": "x"}'),
        pytest.param(b'{"x": ' + 100_000 * b"[" + 100_000 * b"]" + b"}", id="nested"),
    ],
)
def test_torn_lines(line: bytes) -> None:
    """What is no JSON object of either log is an error."""
    with pytest.raises(NotAJsonObjectError):
        parse_line(line)


def test_times_with_other_zones() -> None:
    """A time is one, whatever zone it is written in; without a zone it is UTC."""
    for text in ("2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00", "2023-11-14T22:13:20"):
        call = parse_line(json.dumps({"event": "call", "began": text}).encode())
        assert call is not None
        assert datetime.fromtimestamp(call.began, UTC).hour == 22
