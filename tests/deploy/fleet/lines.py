"""Lines and records as criproxy writes them: of its own log, call log and audit log."""

import time

import structlog

from criproxy.audit.items import Item, UnreadConnection
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.records.capture import SUBJECT_BYTES
from criproxy.audit.records.record_builder import RecordBuilder
from criproxy.audit.spec import AuditRuleSpec, RedactSpec
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.observe.logs.call_log import CallLog
from criproxy.observe.logs.log import DaemonLog
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from tests.support.audited import AGENT, CONTAINER_ID, observed, populated
from tests.support.calls import CONNECTION, ended

DAY = 86_400
EPOCH = float(int(time.time()) - 20 * DAY)
"""Of the calls' clock, in seconds since 1970: ClickHouse drops calls of 30 days ago."""

SUBJECT = {
    "namespace": "shop",
    "pod": "web-0",
    "pod_uid": "6d1f",
    "pod_id": "a" * 64,
    "container": "web",
    "container_id": "b" * 64,
    "image": "registry.example.com/shop/web:1",
}


def call_log() -> list[str]:
    """Lines of a log: of calls of several kinds, and of the daemon."""
    lines: list[bytes] = []
    log = CallLog(
        structlog.get_logger(), lines.append, "debug", {}, lambda time: EPOCH + time, _subject
    )
    for number, call in enumerate(_calls()):
        log.ended(CONNECTION, call, slow=number == 1)
    return [line.decode() for line in lines] + _daemon_lines()


def _calls() -> list[Call]:
    quoted = b'not found: "event":"call" \\ \xc3\xa4'
    return [
        ended(b"/runtime.v1.ImageService/PullImage", began=1.5, took=31.25, first_byte=31.0),
        ended(b"ExecSync", StatusCode.NOT_FOUND, took=0.000001, message=quoted, response=(0, 0)),
        ended(b"Version", None, began=0.25, took=2.0, rules=("slow", "deny"), held=0.125),
        ended(b"/some.Thing/Else", began=1e6, response=(3, 5_000_000_000)),
    ]


def dated(days: range) -> list[str]:
    """Lines of calls that began so many days ago, one each."""
    lines: list[bytes] = []
    log = CallLog(structlog.get_logger(), lines.append, "debug", {}, lambda time: EPOCH + time)
    for day in days:
        log.ended(CONNECTION, ended(b"Version", began=(20 - day) * DAY), slow=False)
    return [line.decode() for line in lines]


def longest() -> str:
    """The line of a call whose names and message fill what is kept of them, and have to be escaped.

    The names are those of the call's request, and of an earlier one that created what it is about.
    """
    lines: list[bytes] = []
    names = dict.fromkeys(("pod", "image"), "\x01" * SUBJECT_BYTES)
    call = ended(b"ExecSync", StatusCode.NOT_FOUND, message=b"%01" * SUBJECT_BYTES)
    log = CallLog(
        structlog.get_logger(),
        lines.append,
        "debug",
        {},
        lambda time: EPOCH + time,
        lambda *_: names,
    )
    log.ended(CONNECTION, call, slow=False)
    return lines[0].decode()


def _subject(_: object, call: Call) -> dict[str, str]:
    return {} if b"Version" in call.path else SUBJECT


class _Lines:
    """Takes lines in the place of a file."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line.decode().removesuffix("\n"))


def _daemon_lines() -> list[str]:
    written = _Lines()
    log = DaemonLog(written, "json", "debug", colours=False).log  # type: ignore[arg-type]
    log.info("ready", version="1", pid=1)
    log.warning("slow call", method="PullImage", began="2026-11-28T10:00:00Z", age_s=30)
    log.info(
        "runtime answers",
        runtime="unix:///run/containerd/containerd.sock",
        service="runtime",
        runtime_name="containerd",
        runtime_version="2.1.4",
    )
    return written.lines


def audit_log() -> list[bytes]:
    """Records of the audit log: an exec, the call that it is while it runs, and a loss."""
    policy = AuditPolicy([AuditRuleSpec("Request")])
    made = populated(RecordBuilder(policy, RedactSpec(), "node-1", _wall_ns, 1 << 18))
    request = v1.ExecSyncRequest(container_id=CONTAINER_ID, cmd=["id", "-u"])
    items: list[Item] = [
        observed("ExecSync", request, stage="RequestReceived"),
        observed("ExecSync", request, v1.ExecSyncResponse(), peer=AGENT, rules=("slow",)),
        UnreadConnection(CONNECTION, "not_http2", "", 0.0),
    ]
    records = [made.make(item) for item in items]
    return [record.line for record in records if record is not None]


def _wall_ns(moment: float) -> int:
    return round((EPOCH + moment) * 1_000_000_000)
