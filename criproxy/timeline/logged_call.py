"""A call as a line of the call log or of the audit log tells of it. Pure: bytes in, a call out."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from criproxy.cri.naming import MethodName, resolve


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One call. Times are seconds since the epoch; what is not known is empty.

    - ``until``: when it ended, or when it was last seen in flight.
    - ``running``: whether that line was written before its end; ``code`` is empty then.
    - ``held``: seconds for which ``rules`` had it wait; only the call log says so.
    - ``container``: the container's name; ``image`` is the request's, otherwise the container's.
    """

    service: str
    method: str
    began: float
    until: float
    running: bool = False
    code: str = ""
    message: str = ""
    listener: str = ""
    node: str = ""
    pid: int = 0
    executable: str = ""
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    pod_id: str = ""
    container: str = ""
    container_id: str = ""
    image: str = ""
    rules: tuple[str, ...] = ()
    held: float = 0.0

    @property
    def duration(self) -> float:
        """Seconds until the call ended, or for which it has run."""
        return max(self.until - self.began, 0.0)

    @property
    def failed(self) -> bool:
        """Whether the call has ended with another code than OK."""
        return not self.running and self.code != "OK"

    @property
    def method_name(self) -> MethodName:
        """The names of its method."""
        return resolve(f"/{self.service}/{self.method}".encode())


class NotAJsonObjectError(ValueError):
    """A line is no JSON object, or one of another kind: torn, or of another program."""


class _Caller(msgspec.Struct):
    pid: int = 0
    executable: str | None = None


class _Pod(msgspec.Struct):
    id: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class _Container(msgspec.Struct):
    id: str = ""
    name: str = ""
    image: str = ""


class _Line(msgspec.Struct, rename="camel"):
    """The fields of a line of either log: those of the call log before those of the audit log."""

    event: str = ""
    timestamp: datetime | None = None
    began: datetime | None = None
    pid: int = 0
    executable: str | None = None
    duration_s: float | None = msgspec.field(name="duration_s", default=None)
    age_s: float | None = msgspec.field(name="age_s", default=None)
    held_s: float = msgspec.field(name="held_s", default=0.0)
    namespace: str = ""
    pod_uid: str = msgspec.field(name="pod_uid", default="")
    pod_id: str = msgspec.field(name="pod_id", default="")
    container_id: str = msgspec.field(name="container_id", default="")
    kind: str = ""
    stage: str = ""
    stage_timestamp: datetime | None = None
    request_received_timestamp: datetime | None = None
    node: str = ""
    caller: _Caller | None = None
    duration_seconds: float | None = None
    # Of both logs:
    listener: str = ""
    service: str = ""
    method: str = ""
    code: str = ""
    message: str = ""
    image: str = ""
    rules: list[str] = []
    pod: _Pod | str = ""
    container: _Container | str = ""


_decode: Final = msgspec.json.Decoder(_Line).decode

LAST_TIME: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The last time at which a call may end; the first one at which it may begin is the epoch's. A line
with others, which cannot be written as a time, is not about a call."""

_LAST: Final = LAST_TIME.timestamp()


def parse_line(text: bytes) -> LoggedCall | None:
    """Return the call of a line; None for a line about something else.

    A line of the call log, the warning of a slow call, or a record of the audit log is one about a
    call. Raises NotAJsonObjectError.
    """
    try:
        line = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAJsonObjectError(str(error)) from error
    if line.event in ("call", "slow call"):
        call = _of_call_log(line)
    else:
        call = _of_audit_log(line) if line.kind == "Event" else None
    return call if call is not None and call.began >= 0 and call.until <= _LAST else None


def _of_call_log(line: _Line) -> LoggedCall | None:
    if line.began is None:
        return None
    began = _seconds(line.began)
    running = line.event == "slow call"
    lasted = line.age_s if running else line.duration_s
    return LoggedCall(
        service=line.service,
        method=line.method,
        began=began,
        until=began + max(lasted or 0.0, 0.0),
        running=running,
        code=line.code,
        message=line.message,
        listener=line.listener,
        pid=line.pid,
        executable=line.executable or "",
        namespace=line.namespace,
        pod=line.pod if isinstance(line.pod, str) else "",
        pod_uid=line.pod_uid,
        pod_id=line.pod_id,
        container=line.container if isinstance(line.container, str) else "",
        container_id=line.container_id,
        image=line.image,
        rules=tuple(line.rules),
        held=line.held_s,
    )


def _of_audit_log(line: _Line) -> LoggedCall | None:
    if line.request_received_timestamp is None:
        return None
    began = _seconds(line.request_received_timestamp)
    running = line.stage == "RequestReceived"
    until = began + max(line.duration_seconds or 0.0, 0.0)
    if running and line.stage_timestamp is not None:
        until = max(_seconds(line.stage_timestamp), began)
    pod = line.pod if isinstance(line.pod, _Pod) else _Pod()
    container = line.container if isinstance(line.container, _Container) else _Container()
    caller = line.caller or _Caller()
    return LoggedCall(
        service=line.service,
        method=line.method,
        began=began,
        until=until,
        running=running,
        code=line.code,
        message=line.message,
        listener=line.listener,
        node=line.node,
        pid=caller.pid,
        executable=caller.executable or "",
        namespace=pod.namespace,
        pod=pod.name,
        pod_uid=pod.uid,
        pod_id=pod.id,
        container=container.name,
        container_id=container.id,
        image=line.image or container.image,
        rules=tuple(line.rules),
    )


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
