"""What records have of messages, and what they have not: the objects of each level."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.message import Message

from criproxy.audit.policy import covers
from criproxy.audit.records.subject import DirectionMessages
from criproxy.audit.spec import Level
from criproxy.cri.naming import MethodName
from criproxy.cri.redaction import Redactor

_LARGE: Final = 4096
"""Bytes from which on a message's object is remembered: lists, which are asked for every second and
seldom change. To look one up takes a hundredth of the time of making it."""

_RECENT: Final = 8
"""Objects that are remembered; one takes about ten times the memory of its message."""


class ObjectEncoder:
    """Writes the messages of calls, without their secrets, as far as there is room."""

    def __init__(self, redactor: Redactor, limit: int) -> None:
        """``limit`` is in bytes, of the messages of one direction."""
        self._redactor = redactor
        self._limit = limit
        self._recent: dict[tuple[str, bytes], dict[str, Any]] = {}

    def of_request(
        self, level: Level, named: MethodName, request: DirectionMessages, passed: int
    ) -> dict[str, Any]:
        """Return what a record says of a request; ``passed`` is how many messages it had."""
        if covers(level, "Request"):
            shown = self._shown(request)[:1]
            fields = {"requestObject": shown[0]} if shown else {}
            return fields | _lacking("request", request, len(shown) < passed)
        if named.api_version is None:  # there are no names to miss
            return {}
        return _lacking("request", request, False)

    def of_response(
        self, level: Level, named: MethodName, response: DirectionMessages, passed: int
    ) -> dict[str, Any]:
        """Return what a record says of the responses, ``passed`` of them."""
        if level != "RequestResponse":
            return {}
        shown: Sequence[dict[str, Any]] = self._shown(response)
        fields: dict[str, Any] = {}
        if named.server_streaming:
            fields["responseObjects"] = shown
        elif shown:
            shown = shown[:1]
            fields["responseObject"] = shown[0]
        return fields | _lacking("response", response, len(shown) < passed)

    def _shown(self, half: DirectionMessages) -> list[dict[str, Any]]:
        room = self._limit
        shown = []
        for data, message in zip(half.data, half.messages, strict=True):
            room -= len(data)
            if room < 0:
                break
            shown.append(self._json(data, message))
        return shown

    def _json(self, data: bytes, message: Message) -> dict[str, Any]:
        """Return a message's object, which is not to be changed; ``data`` are its bytes."""
        if len(data) < _LARGE:
            return self._redactor.to_json(message)
        key = message.DESCRIPTOR.full_name, data
        shown = self._recent.pop(key, None) or self._redactor.to_json(message)
        self._recent[key] = shown  # as the newest
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        return shown


def _lacking(name: str, half: DirectionMessages, more: bool) -> dict[str, dict[str, Any]]:
    """Say of a direction what is not there; ``more`` tells that more has passed."""
    if half.unreadable:
        return {"unreadable": {name: half.unreadable}}
    return {"truncated": {name: True}} if half.missing or more else {}
