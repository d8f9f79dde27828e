"""What is known of one call, filled in as its frames pass."""

from enum import StrEnum
from math import inf
from typing import Any, Final

from criproxy.wire.grpc import MessageCounter, StatusCode, parse_timeout
from criproxy.wire.reading.message_capture import MessageCapture

_TIMER_SLACK: Final = 0.005
"""Seconds by which a client's deadline may fire before its grpc-timeout has passed here: it began
to count before its bytes came."""

_ROUNDING: Final = 0.02
"""The part of a timeout that C-core's rounding up may add when it encodes it."""


class End(StrEnum):
    """How a call ended."""

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
    """One call. Times are those that the reader was given, in seconds.

    ``path`` and ``timeout`` (the grpc-timeout as sent; empty where there is none) come from the
    request's headers. ``first_byte`` is when the response began, ``ended`` when the call did; both
    None until then. ``code`` is the code that a gRPC client reports; None while the call runs and
    when reading stopped before its end. ``overhead`` is for whoever relays to add to: the seconds
    that the call's bytes spent inside. So are ``rules``, the names of those that acted on the call,
    and ``held``, the seconds for which they made it wait; while it waits, ``waiting_since`` is when
    that began. ``denied`` says why the proxy refused it (empty: it did not), ``changes`` what rules
    changed: rule, ``request`` or ``response``, and the messages before and after. ``kept`` has the
    messages as they passed, if somebody wants them.
    """

    __slots__ = (
        "began",
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
        "kept",
        "message",
        "overhead",
        "path",
        "request",
        "response",
        "rules",
        "stream",
        "timeout",
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
        self.kept: MessageCapture | None = None

    def held_by(self, now: float) -> float:
        """Return for how long rules have made the call wait, the waiting of now with it."""
        return self.held if self.waiting_since is None else self.held + now - self.waiting_since

    def past_deadline(self, now: float) -> bool:
        """Tell whether a cancellation at ``now`` is one that the call's own deadline explains."""
        timeout = parse_timeout(self.timeout)
        if timeout is None:
            return False
        return now - self.began >= timeout * (1 - _ROUNDING) - _TIMER_SLACK
