"""The fields of the log line of a call."""

from datetime import datetime

import msgspec


class CallLine(msgspec.Struct, omit_defaults=True):
    """The fields of a call's log line, in order. Times are UTC, durations seconds.

    :class:`criproxy.observe.logs.call_line_encoder.CallLineEncoder` writes them.
    """

    timestamp: datetime
    """When the call ended (UTC, RFC 3339)."""
    level: str
    """The level of the line."""
    event: str
    """`call`."""
    listener: str
    """The endpoint that received the call."""
    pid: int
    """The client's process id at the time of connecting; 0 for a client of a foreign PID
    namespace."""
    uid: int
    """The client's user id at the time of connecting."""
    executable: str | None
    """The path of the client's executable; null if it could not be determined."""
    service: str
    """The full name of the service: `runtime.v1.RuntimeService`."""
    method: str
    """The name of the method."""
    api_version: str | None
    """`v1` or `v1alpha2`; null for methods outside the CRI."""
    began: datetime
    """When the request's headers arrived (UTC)."""
    code: str
    """The gRPC code that the client reports, or `UNREAD` if the end of the call was not seen."""
    message: str = ""
    """The status message without secrets, of at most 1024 characters; left out if there is none."""
    end: str = ""
    """The event that ended the call."""
    duration_s: float | None = None
    """Seconds until the call ended."""
    first_byte_s: float | None = None
    """Seconds until the response began; left out if it never did."""
    overhead_s: float | None = None
    """Seconds that the call's bytes spent in the proxy, in both directions."""
    request_messages: int | None = None
    """Messages of the request."""
    request_bytes: int | None = None
    """Message bytes of the request."""
    response_messages: int | None = None
    """Messages of the response."""
    response_bytes: int | None = None
    """Message bytes of the response."""
    slow: bool = False
    """`true` if the call was reported as slow; otherwise left out."""
    rules: tuple[str, ...] = ()
    """The rules that acted on the call, in order; left out if there are none."""
    held_s: float | None = None
    """Seconds that rules made the call wait; left out if they did not."""
    namespace: str = ""
    """The namespace of the pod that the call is about. This and the following are left out where
    they are unknown or do not apply, and without `log.pods`."""
    pod: str = ""
    """The name of that pod."""
    pod_uid: str = ""
    """Its uid in Kubernetes."""
    pod_id: str = ""
    """The runtime's id of its sandbox."""
    container: str = ""
    """The name of the container that the call is about."""
    container_id: str = ""
    """The runtime's id of that container."""
    image: str = ""
    """The image that the request names, otherwise the container's."""
