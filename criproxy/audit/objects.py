"""What records have of messages, and what they have not: the objects of each level."""

from collections.abc import Sequence
from typing import Any

from criproxy.audit.policy import covers
from criproxy.audit.spec import Level
from criproxy.audit.subjects import Half
from criproxy.cri.naming import Named
from criproxy.cri.redaction import Redactor


class Objects:
    """Writes the messages of calls, without their secrets, as far as there is room."""

    def __init__(self, redactor: Redactor, limit: int) -> None:
        """``limit`` is in bytes, of the messages of one direction."""
        self._redactor = redactor
        self._limit = limit

    def of_request(self, level: Level, named: Named, request: Half, passed: int) -> dict[str, Any]:
        """Return what a record says of a request; ``passed`` is how many messages it had."""
        if covers(level, "Request"):
            shown = self._shown(request)[:1]
            fields = {"requestObject": shown[0]} if shown else {}
            return fields | _lacking("request", request, len(shown) < passed)
        if named.api_version is None:  # there are no names to miss
            return {}
        return _lacking("request", request, False)

    def of_response(
        self, level: Level, named: Named, response: Half, passed: int
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

    def _shown(self, half: Half) -> list[dict[str, Any]]:
        room = self._limit
        shown = []
        for data, message in zip(half.data, half.messages, strict=True):
            room -= len(data)
            if room < 0:
                break
            shown.append(self._redactor.to_json(message))
        return shown


def _lacking(name: str, half: Half, more: bool) -> dict[str, dict[str, Any]]:
    """Say of a direction what is not there; ``more`` tells that more has passed."""
    if half.unreadable:
        return {"unreadable": {name: half.unreadable}}
    return {"truncated": {name: True}} if half.missing or more else {}
