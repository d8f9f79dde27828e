"""The record of one call, completed as its frames pass."""

from enum import StrEnum
from math import inf
from typing import Any, Final

from criproxy.wire.grpc import MessageCounter, StatusCode, parse_timeout
from criproxy.wire.reading.message_capture import MessageCapture

_TIMER_SLACK: Final = 0.005
"""Seconds by which a client's deadline may fire before its grpc-timeout has passed here: the client
starts its timer before it sends."""

_ROUNDING: Final = 0.02
"""Fraction of a timeout that C-core may add by rounding up when it encodes grpc-timeout."""


class End(StrEnum):
    """The ways in which a call ends."""

    STATUS = "status"
    """The runtime ended the stream, with trailers or with a response of trailers only. Code: that
    of `grpc-status`; without it, the code to which gRPC maps the HTTP status."""
    RUNTIME_RESET = "runtime_reset"
    """The runtime reset the stream. Code: as gRPC maps the error code of RST_STREAM. CANCEL is
    CANCELLED (DEADLINE_EXCEEDED after the call's deadline), REFUSED_STREAM is UNAVAILABLE,
    ENHANCE_YOUR_CALM is RESOURCE_EXHAUSTED, and most others are INTERNAL."""
    CLIENT_RESET = "client_reset"
    """The client reset the stream, by cancellation or because its deadline passed. Code:
    CANCELLED, or DEADLINE_EXCEEDED after the call's deadline."""
    GOAWAY = "goaway"
    """A GOAWAY frame of the runtime excludes the stream; clients retry such a call by themselves.
    Code: UNAVAILABLE."""
    RUNTIME_GONE = "runtime_gone"
    """The runtime's connection ended before the call did. Code: UNAVAILABLE."""
    CLIENT_GONE = "client_gone"
    """The client's connection ended before the call did. Code: CANCELLED."""
    MESSAGE_LIMIT = "message_limit"
    """A message exceeds `limits.message`, and the proxy reset the stream on both sides. Code:
    RESOURCE_EXHAUSTED."""
    UNREAD = "unread"
    """Parsing of the connection stopped, so it is not known how the call ended. Code: UNREAD."""


class Call:
    """One call on a connection. Times are the reader's, in seconds.

    - ``path``, ``timeout``: the request's ``:path`` and grpc-timeout as sent; empty where absent.
    - ``traceparent``: the request's as sent (W3C Trace Context); empty where absent, given twice,
      or far too long.
    - ``first_byte``, ``ended``: when the response began and when the call ended; None until then.
    - ``http_status``: the response's ``:status``, not that of informational responses; empty until
      it has come.
    - ``code``: the status code that a gRPC client reports; None while the call is open, and when
      reading stopped before its end.
    - ``overhead``: seconds that the call's bytes spent in the proxy; added by the relay.
    - ``rules``: names of the rules that acted on the call.
    - ``held``: seconds for which rules delayed it; ``waiting_since``: when the current delay began.
    - ``denied``: why the proxy refused it; empty if it did not.
    - ``changes``: what rules changed, as tuples of the rule's name, ``request`` or ``response``,
      and the message before and after.
    - ``capture``: the captured messages; None unless they were selected.
    """

    __slots__ = (
        "began",
        "capture",
        "changes",
        "code",
        "denied",
        "end",
        "ended",
        "first_byte",
        "half_closed",
        "held",
        "http_status",
        "is_grpc",
        "message",
        "overhead",
        "path",
        "request",
        "response",
        "rules",
        "stream",
        "timeout",
        "traceparent",
        "waiting_since",
    )

    def __init__(
        self,
        stream: int,
        path: bytes,
        timeout: bytes,
        is_grpc: bool,
        began: float,
        message_limit: float = inf,
    ) -> None:
        self.stream = stream
        self.path = path
        self.timeout = timeout
        self.traceparent = b""
        self.is_grpc = is_grpc
        self.began = began
        self.first_byte: float | None = None
        self.ended: float | None = None
        self.half_closed = False
        self.http_status = b""
        self.end: End | None = None
        self.code: StatusCode | None = None
        self.message = b""
        self.request = MessageCounter(message_limit)
        self.response = MessageCounter(message_limit)
        self.overhead = 0.0
        self.rules: tuple[str, ...] = ()
        self.held = 0.0
        self.waiting_since: float | None = None
        self.denied = ""
        self.changes: tuple[tuple[str, str, Any, Any], ...] = ()
        self.capture: MessageCapture | None = None

    def held_by(self, now: float) -> float:
        """Return the seconds for which rules have delayed the call, up to ``now``."""
        return self.held if self.waiting_since is None else self.held + now - self.waiting_since

    def past_deadline(self, now: float) -> bool:
        """Return whether the call's own deadline explains a cancellation at ``now``."""
        timeout = parse_timeout(self.timeout)
        if timeout is None:
            return False
        return now - self.began >= timeout * (1 - _ROUNDING) - _TIMER_SLACK
