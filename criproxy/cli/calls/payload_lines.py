"""The requests and responses of calls, for people, from records of the audit log."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from criproxy.common.printable import printable

LIMIT: Final = 4000
"""Characters of a message that are shown."""


class _Record(msgspec.Struct, rename="camel"):
    """The fields of a record that tell of its messages."""

    request_object: msgspec.Raw = msgspec.Raw()
    response_object: msgspec.Raw = msgspec.Raw()
    response_objects: msgspec.Raw = msgspec.Raw()
    truncated: dict[str, Any] = {}
    unreadable: dict[str, Any] = {}


_decode: Final = msgspec.json.Decoder(_Record).decode


class PayloadLines:
    """Makes the lines, and counts calls whose lines have no messages."""

    def __init__(self) -> None:
        self._without = 0

    def of(self, text: bytes) -> list[str]:
        """Return the lines for the messages of a call, of which ``text`` is the line of a log."""
        try:
            record = _decode(text)
        except msgspec.DecodeError:  # fields of another kind: not a record
            record = _Record()
        response = bytes(record.response_object) or bytes(record.response_objects)
        lines = [
            *_lines("request", bytes(record.request_object), record),
            *_lines("response", response, record),
        ]
        self._without += not lines
        return lines

    def summary(self) -> str:
        """Return how many lines had no messages, and why; empty if there were none."""
        if not self._without:
            return ""
        return (
            f"{self._without} calls without messages: a call log has none, and an audit log those "
            "of the levels Request and RequestResponse"
        )


def _lines(name: str, shown: bytes, record: _Record) -> Iterator[str]:
    if shown:
        text = printable(shown.decode(errors="replace"))
        more = len(text) - LIMIT
        if more > 0:
            text = (
                f"{text[:LIMIT]}\N{HORIZONTAL ELLIPSIS} ({more} more characters; -o json has all)"
            )
        yield f"  {name:<8}  {text}"
    if record.truncated.get(name):
        yield f"  {name:<8}  {'more ' if shown else ''}not captured: too large, or sent before"
    if why := record.unreadable.get(name):
        yield f"  {name:<8}  unreadable: {printable(str(why))}"
