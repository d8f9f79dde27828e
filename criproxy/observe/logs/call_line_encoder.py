"""Encodes the log line of a call from a template, as msgspec encodes a CallLine.

A line is what a call costs most where all calls are logged. What is the same for all calls of a
client or of a method is encoded once, and what differs between two calls is mostly numbers.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import msgspec

from criproxy.cri.naming import cached_by_path, resolve
from criproxy.observe.call_counts import code_label
from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call, End

_encode: Final = msgspec.json.Encoder().encode

_CLIENTS: Final = 256
"""Connections whose fields are cached."""

_SUBJECT: Final = (
    "namespace",
    "pod",
    "pod_uid",
    "pod_id",
    "container",
    "container_id",
    "image",
)
"""The fields that name what a call is about, in their order."""

_ENDS: Final = {end: f',"end":"{end.value}"' for end in End}

_OFFSET: Final = len("+00:00")

_MICROSECONDS: Final = 1e6
"""In a second."""

_LONGEST: Final = 1e12
"""Microseconds, eleven days, above which a product of floats may be off by too much to tell
whether it is below or above the middle between two of them."""

_MIDDLE: Final = 1e-3
"""Microseconds around the middle between two of them in which rounding is left to round()."""

_SHORT: Final = 10
"""Microseconds below which a number is written with an exponent."""


class CallLineEncoder:
    """Encodes the lines of calls that have ended."""

    def __init__(self, wall_clock_of: Callable[[float], float]) -> None:
        """``wall_clock_of`` converts a time of the calls' clock to seconds since the epoch."""
        self._wall_clock_of = wall_clock_of
        self._client = lru_cache(maxsize=_CLIENTS)(_client)
        self._method = cached_by_path(_method)
        self._second = 0  # seconds since the epoch, and the same as text
        self._second_text = "1970-01-01T00:00:00"

    def encode(
        self,
        level: str,
        connection: Connection,
        call: Call,
        message: str,
        slow: bool,
        subject: Mapping[str, str],
    ) -> bytes:
        """Return the line of a call that has ended, without a newline.

        ``message`` is its status message as it may be logged; ``subject`` has the fields that name
        what it is about.
        """
        ended = call.ended
        assert ended is not None
        client: str = self._client(connection)
        method: str = self._method(call.path)
        request, response = call.request, call.response
        tail = _subject(subject)
        if call.waiting_since is not None or call.held:
            tail = _held(call.held_by(ended)) + tail
        if call.rules:
            tail = f',"rules":[{",".join(map(_text, call.rules))}]' + tail
        if slow:
            tail = ',"slow":true' + tail
        first_byte = ""
        if call.first_byte:
            first_byte = f',"first_byte_s":{_seconds(call.first_byte - call.began)}'
        status = f',"message":{_text(message)}' if message else ""
        if call.end is not None:
            status += _ENDS[call.end]
        line = (
            f'{{"timestamp":"{self._timestamp(ended)}","level":"{level}",{client}{method}'
            f',"began":"{self._timestamp(call.began)}","code":"{code_label(call)}"{status}'
            f',"duration_s":{_seconds(ended - call.began)}{first_byte}'
            f',"overhead_s":{_seconds(call.overhead)}'
            f',"request_messages":{request.messages},"request_bytes":{request.bytes}'
            f',"response_messages":{response.messages},"response_bytes":{response.bytes}{tail}}}'
        )
        return line.encode()

    def _timestamp(self, time: float) -> str:
        """Return a time of the calls' clock as RFC 3339, rounded as datetime.fromtimestamp does."""
        moment = self._wall_clock_of(time)
        second = int(moment)
        microseconds = _rounded((moment - second) * _MICROSECONDS)
        if microseconds == 1_000_000:
            second, microseconds = second + 1, 0
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).isoformat()[:-_OFFSET]
        if not microseconds:
            return self._second_text + "Z"
        return f"{self._second_text}.{str(1_000_000 + microseconds)[1:]}Z"


def _subject(fields: Mapping[str, str]) -> str:
    """Return the fields that name what a call is about, in their order."""
    if not fields:
        return ""
    named = [(name, fields.get(name)) for name in _SUBJECT]
    return "".join([f',"{name}":{_text(value)}' for name, value in named if value])


def _client(connection: Connection) -> str:
    """Return the fields that are the same for all calls of a connection."""
    peer = connection.peer
    return (
        f'"event":"call","listener":{_text(connection.listener)},"pid":{peer.pid}'
        f',"uid":{peer.uid},"executable":{_text(peer.executable)}'
    )


def _method(path: bytes) -> str:
    """Return the fields that are the same for all calls of a path."""
    name = resolve(path)
    return (
        f',"service":{_text(name.service)},"method":{_text(name.method)}'
        f',"api_version":{_text(name.api_version)}'
    )


def _held(seconds: float) -> str:
    """Return the field of the seconds that rules made a call wait, unless they round to none."""
    text = _seconds(seconds)
    return "" if text in ("0.0", "-0.0") else f',"held_s":{text}'


def _text(value: str | None) -> str:
    """Return the JSON of a text, or null."""
    return _encode(value).decode()


def _rounded(value: float) -> int:
    """Round a number that is not negative to an integer, from the middle to the even one."""
    whole = int(value)
    rest = value - whole
    if rest > 0.5 or (rest == 0.5 and whole & 1):
        whole += 1
    return whole


def _seconds(value: float) -> str:
    """Return the JSON of ``round(value, 6)``, which takes three times as long."""
    scaled = value * _MICROSECONDS
    if not 0.0 < scaled < _LONGEST:
        return _encode(round(value, 6)).decode()
    whole = int(scaled)
    rest = scaled - whole
    if abs(rest - 0.5) < _MIDDLE:
        return _encode(round(value, 6)).decode()
    if rest > 0.5:
        whole += 1
    if whole < _SHORT:
        return f"{whole}e-6" if whole else "0.0"
    seconds, microseconds = whole // 1_000_000, whole % 1_000_000
    if not microseconds:
        return f"{seconds}.0"
    return f"{seconds}.{str(1_000_000 + microseconds)[1:].rstrip('0')}"
