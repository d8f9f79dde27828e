"""CallLog: the log lines of calls."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import structlog

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.observe.logs.call_log import CallLog
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import CaptureLimits, MessageCapture
from tests.support.calls import CONNECTION, ended, running

EPOCH = 1_700_000_000.0
PULLS = [b"/runtime.v1.ImageService/PullImage", b"/runtime.v1alpha2.ImageService/PullImage"]
OK, FAILED = StatusCode.OK, StatusCode.NOT_FOUND


def lines_of(
    *calls: Call, level: str = "debug", methods: dict[str, str] | None = None, slow: bool = False
) -> list[dict[str, Any]]:
    """The JSON lines of ended calls."""
    lines: list[bytes] = []
    log = CallLog(
        structlog.get_logger(), lines.append, level, methods or {}, lambda time: EPOCH + time
    )
    for call in calls:
        log.ended(CONNECTION, call, slow)
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("method", "code", "methods", "slow", "level"),
    [
        (b"Version", OK, {}, False, "debug"),
        (b"ListContainers", OK, {}, False, "debug"),
        (b"GetContainerEvents", OK, {}, False, "debug"),
        (b"Version", FAILED, {}, False, "info"),
        (b"Version", None, {}, False, "info"),
        (b"CreateContainer", OK, {}, False, "info"),
        (b"CreateContainer", FAILED, {}, False, "info"),
        (b"ExecSync", OK, {}, False, "info"),
        (b"Invented", OK, {}, False, "info"),
        (b"/some.Thing/Else", OK, {}, False, "info"),
        (b"Version", OK, {"Version": "info"}, False, "info"),
        (b"Version", OK, {"V*": "warning", "Version": "debug"}, False, "warning"),
        (b"Version", OK, {"List*": "info"}, False, "debug"),
        (b"CreateContainer", OK, {"RuntimeService/*": "debug"}, False, "debug"),
        (b"CreateContainer", FAILED, {"RuntimeService/*": "debug"}, False, "info"),
        (b"CreateContainer", FAILED, {"*": "error"}, False, "error"),
        (b"Version", OK, {"Version": "off"}, False, None),
        (b"Version", FAILED, {"Version": "off"}, False, None),
        (b"Version", OK, {"Version": "off"}, True, None),
        (b"Version", OK, {}, True, "warning"),
        (b"CreateContainer", FAILED, {}, True, "warning"),
        (b"Version", OK, {"Version": "debug"}, True, "warning"),
        (b"Version", OK, {"Version": "error"}, True, "error"),
    ],
)
def test_levels(
    method: bytes,
    code: StatusCode | None,
    methods: dict[str, str],
    slow: bool,
    level: str | None,
) -> None:
    """Reads are debug, changes and failures info, slow calls warnings; globs have the say over
    all but failures, which they cannot hide short of ``off``."""
    written = lines_of(ended(method, code), methods=methods, slow=slow)
    assert [line["level"] for line in written] == ([] if level is None else [level])


@pytest.mark.parametrize(
    ("threshold", "written"),
    [
        ("debug", ["debug", "info"]),
        ("info", ["info"]),
        ("warning", []),
        ("error", []),
    ],
)
def test_threshold(threshold: str, written: list[str]) -> None:
    """Lines below the log's level are not written."""
    calls = ended(b"Version"), ended(b"CreateContainer")
    assert [line["level"] for line in lines_of(*calls, level=threshold)] == written


def test_fields() -> None:
    """A line has exactly the documented fields of a call."""
    call = ended(
        b"CreateContainer",
        FAILED,
        began=5.0,
        took=1.5,
        first_byte=0.25,
        overhead=0.000123,
        request=(1, 2048),
        response=(2, 77),
        message=b"no such %E2%80%9Esandbox%E2%80%9C",
        rules=("slow-pulls", "only-signed"),
        held=1.25,
    )
    (line,) = lines_of(call, slow=True)
    for key, moment in (("timestamp", 6.5), ("began", 5.0)):
        assert datetime.fromisoformat(line.pop(key)).timestamp() == EPOCH + moment
    assert line == {
        "level": "warning",
        "event": "call",
        "listener": "unix:///run/test.sock",
        "pid": 4711,
        "uid": 12,
        "executable": "/usr/bin/kubelet",
        "service": "runtime.v1.RuntimeService",
        "method": "CreateContainer",
        "api_version": "v1",
        "code": "NOT_FOUND",
        "message": "no such „sandbox“",
        "end": "status",
        "duration_s": 1.5,
        "first_byte_s": 0.25,
        "overhead_s": 0.000123,
        "request_messages": 1,
        "request_bytes": 2048,
        "response_messages": 2,
        "response_bytes": 77,
        "slow": True,
        "rules": ["slow-pulls", "only-signed"],
        "held_s": 1.25,
    }


def test_call_that_ends_while_it_is_held() -> None:
    """A call that ends while it waits counts the wait up to its end."""
    call = ended(b"PullImage", FAILED, began=5.0, took=3.0, held=1.0)
    call.waiting_since = 7.5
    (line,) = lines_of(call)
    assert line["held_s"] == 1.5


def test_call_outside_the_cri() -> None:
    """A call outside the CRI has its own names and no API version."""
    (line,) = lines_of(ended(b"/some.v2.Thing/Else\xff"))
    assert (line["service"], line["method"], line["api_version"]) == (
        "some.v2.Thing",
        "Else\\xff",
        None,
    )


def test_unseen_end() -> None:
    """A call whose end was not seen has the code UNREAD."""
    (line,) = lines_of(ended(b"Version", None))
    assert (line["code"], line["end"]) == ("UNREAD", "unread")


@pytest.mark.parametrize(
    ("message", "written"),
    [
        (b"x" * 5000, "x" * 1024 + "\N{HORIZONTAL ELLIPSIS}"),
        (b"\xff%zz%", "\ufffd%zz%"),
        (b"two%0Alines", "two\nlines"),
    ],
)
def test_messages(message: bytes, written: str) -> None:
    """A status message is decoded and shortened, and the line stays one line."""
    (line,) = lines_of(ended(b"Version", FAILED, message=message))
    assert line["message"] == written


@pytest.mark.parametrize("path", PULLS)
def test_credentials_in_messages(path: bytes) -> None:
    """A status message has marks for secrets in URLs, and for credentials of a pull's request."""
    request = v1.PullImageRequest(auth=v1.AuthConfig(username="me", password="hunter22"))
    call = ended(path, FAILED, message=b"h?sig=ab bWU6aHVudGVyMjI hunter22")
    call.capture = _capture(request.SerializeToString())
    (line,) = lines_of(call)
    assert line["message"] == "h?sig=[redacted: 2 bytes] [redacted: 15 bytes] [redacted: 8 bytes]"


@pytest.mark.parametrize(("flag", "limit"), [(0, 3), (1, 100)])
def test_credentials_that_are_unknown(flag: int, limit: int) -> None:
    """Where the request of a pull was not captured, or is compressed, its message is not quoted."""
    call = ended(PULLS[0], FAILED, message=b"not hunter22")
    call.capture = _capture(b"12345678", flag, limit)
    (line,) = lines_of(call)
    assert line["message"] == "[redacted: 12 bytes]"


def _capture(data: bytes, flag: int = 0, limit: int = 1000) -> MessageCapture:
    """Return the capture of a request."""
    capture = MessageCapture(CaptureLimits(limit, 0))
    assert capture.request is not None
    capture.request.feed(bytes([flag]) + len(data).to_bytes(4, "big") + data, 0, 5 + len(data))
    return capture


def test_slow_call_while_it_runs() -> None:
    """The warning of a slow call has its caller, its method and its age."""
    warned: Callable[..., Any]
    with structlog.testing.capture_logs() as warned:
        log = CallLog(structlog.get_logger(), lambda line: None, "info", {}, EPOCH.__add__)
        log.slow(CONNECTION, running(b"RunPodSandbox", 10.0), 41.5)
    assert warned == [
        {
            "log_level": "warning",
            "event": "slow call",
            "listener": "unix:///run/test.sock",
            "pid": 4711,
            "uid": 12,
            "executable": "/usr/bin/kubelet",
            "service": "runtime.v1.RuntimeService",
            "method": "RunPodSandbox",
            "api_version": "v1",
            "began": "2023-11-14T22:13:30+00:00",
            "age_s": 31.5,
        }
    ]
