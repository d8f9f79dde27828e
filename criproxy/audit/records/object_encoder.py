"""Encodes the messages of a call as the objects that a level includes."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.audit.policy import covers
from criproxy.audit.records.subject import DirectionMessages
from criproxy.audit.spec import Level
from criproxy.cri.naming import MethodName
from criproxy.cri.redaction import Redactor

_CACHED_FROM: Final = 4096
"""Bytes from which on a message's object is cached: lists are requested every second and seldom
change. A look-up takes a hundredth of the time of encoding."""

_CACHE_SIZE: Final = 8
"""Cached objects; one takes about ten times the memory of its message."""


class ObjectEncoder:
    """Encodes redacted messages of calls up to a size limit."""

    def __init__(self, redactor: Redactor, limit: int) -> None:
        """``limit`` is in bytes of the messages of one direction."""
        self._redactor = redactor
        self._limit = limit
        self._recent: dict[tuple[str, bytes], dict[str, Any]] = {}

    def request_fields(
        self, level: Level, method_name: MethodName, request: DirectionMessages, passed: int
    ) -> dict[str, Any]:
        """Return a record's fields for a request of which ``passed`` messages were seen."""
        if covers(level, "Request"):
            shown = self._objects_of(request)[:1]
            fields = {"requestObject": shown[0]} if shown else {}
            return fields | _missing_parts("request", request, len(shown) < passed)
        if method_name.api_version is None:  # no subject could be missing
            return {}
        return _missing_parts("request", request, False)

    def response_fields(
        self, level: Level, method_name: MethodName, response: DirectionMessages, passed: int
    ) -> dict[str, Any]:
        """Return a record's fields for ``passed`` responses."""
        if level != "RequestResponse":
            return {}
        shown: Sequence[dict[str, Any]] = self._objects_of(response)
        fields: dict[str, Any] = {}
        if method_name.server_streaming:
            fields["responseObjects"] = shown
        elif shown:
            shown = shown[:1]
            fields["responseObject"] = shown[0]
        return fields | _missing_parts("response", response, len(shown) < passed)

    def _objects_of(self, direction: DirectionMessages) -> list[dict[str, Any]]:
        room = self._limit
        shown = []
        for data, message in zip(direction.data, direction.messages, strict=True):
            room -= len(data)
            if room < 0:
                break
            shown.append(self._json(data, message))
        return shown

    def _json(self, data: bytes, message: Message) -> dict[str, Any]:
        """Return a message's object, which must not be changed; ``data`` is its encoding."""
        if len(data) < _CACHED_FROM:
            return self._redactor.to_json(message)
        key = message.DESCRIPTOR.full_name, data
        shown = self._recent.pop(key, None) or self._redactor.to_json(message)
        self._recent[key] = shown  # as the newest
        if len(self._recent) > _CACHE_SIZE:
            del self._recent[next(iter(self._recent))]
        return shown


def _missing_parts(
    name: str, direction: DirectionMessages, more: bool
) -> dict[str, dict[str, Any]]:
    """Return the fields for missing messages; ``more``: not all messages are encoded."""
    if direction.unreadable:
        return {"unreadable": {name: direction.unreadable}}
    return {"truncated": {name: True}} if direction.missing or more else {}
