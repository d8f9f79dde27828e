"""Converts a cassette to lines as the call log has them, for what reads logs.

Pods, containers and images are named as far as calls that passed tell them.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from criproxy.audit.files.reader import LogLine
from criproxy.cassette.open_calls import OpenCall, OpenCalls
from criproxy.cassette.reader import CassetteReader
from criproxy.cassette.records import AnyRecord, Began, CallEnded, ConnectionOpened, Dropped
from criproxy.observe.call_counts import UNREAD

_SECOND: Final = 1_000_000_000

_LAST: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * _SECOND
"""The last time that a line can have, in nanoseconds since the epoch."""

_LONGEST_MESSAGE: Final = 1024
"""Characters of a status message in a line."""

_encode: Final = msgspec.json.Encoder().encode

Progress = Callable[[int], None]
"""Called with the number of further bytes that were read."""


def lines_of_cassette(
    path: Path, note: Callable[[str], None], progress: Progress = lambda _: None
) -> Iterator[LogLine]:
    """Yield a line for each call of a cassette, numbered from 1.

    ``note`` is called at the end with lines for a user that say what is missing. Raises
    CassetteError and UnavailableError.
    """
    with CassetteReader(path) as reader:
        lines = CallLines(reader.began)
        number = read = 0
        for place, record in reader.placed():
            if place.position != read:
                progress(place.position - read)
                read = place.position
            line = lines.convert(record)
            if line is not None:
                number += 1
                yield LogLine(path, number, line)
        for line in lines.unfinished():
            number += 1
            yield LogLine(path, number, line)
        progress(reader.size - read)
        for text in reader.damage.describe(path):
            note(text)
        if lines.dropped:
            note(f"{path}: {lines.dropped} records were lost when it was recorded")


class CallLines:
    """Makes the lines; :meth:`convert` all records, in order, then ask for the unfinished."""

    def __init__(self, began: Began) -> None:
        self.dropped = 0
        """Records that were lost when the cassette was recorded."""
        self._began = began
        self._open = OpenCalls()
        self._at = 0

    def convert(self, record: AnyRecord) -> bytes | None:
        """Return the line of a call that ends with this record; None if none does."""
        self._at = max(self._at, getattr(record, "at", 0))
        if isinstance(record, Dropped):
            self.dropped += record.records
        call = self._open.follow(record)
        if call is None or not isinstance(record, CallEnded):
            return None
        line = self._line(call, record)
        self._open.learn(call, record)
        return line

    def unfinished(self) -> Iterator[bytes]:
        """Yield a line as of a slow call for each that is in flight at the end of the cassette."""
        for call in self._open.calls.values():
            began = self._time(call.began.at)
            if began is not None:
                age = {"age_s": max(self._at - call.began.at, 0) / _SECOND}
                subject = self._open.subject(call).flat_fields()
                yield _encode({"event": "slow call", **self._common(call, began), **age, **subject})

    def _line(self, call: OpenCall, end: CallEnded) -> bytes | None:
        began, ended = self._time(call.began.at), self._time(end.at)
        if began is None or ended is None:
            return None
        return _encode(
            {
                "timestamp": ended,
                "event": "call",
                **self._common(call, began),
                "code": end.code or UNREAD,
                "message": end.message[:_LONGEST_MESSAGE],
                "end": end.end,
                "duration_s": max(end.at - call.began.at, 0) / _SECOND,
                "request_messages": end.request_messages,
                "request_bytes": end.request_bytes,
                "response_messages": end.response_messages,
                "response_bytes": end.response_bytes,
                **self._open.subject(call, end).flat_fields(),
            }
        )

    def _common(self, call: OpenCall, began: datetime) -> dict[str, Any]:
        """Return the fields that lines of both kinds have, except the subject's."""
        number = call.began.connection  # its record may be lost
        connection = self._open.connections.get(number) or ConnectionOpened(number, at=0)
        return {
            "listener": connection.listener or self._began.listener,
            "pid": connection.pid,
            "uid": connection.uid,
            "executable": connection.executable or None,
            "service": call.method.service,
            "method": call.method.method,
            "api_version": call.method.api_version,
            "began": began,
        }

    def _time(self, at: int) -> datetime | None:
        """Return a time of the cassette; None for one that cannot be written."""
        moment = self._began.began + at
        if not 0 <= moment <= _LAST:
            return None
        seconds, rest = divmod(moment, _SECOND)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
