"""The calls of a cassette, with the places of their messages: those are read when they are needed.

A cassette may be larger than memory. The index takes about half a KiB for a call.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from criproxy.cassette.reader import CassetteReader, Place
from criproxy.cassette.records import (
    AnyRecord,
    CallBegan,
    CallEnded,
    CassetteError,
    Dropped,
    Ended,
    MessagePassed,
)
from criproxy.cri.methods import Method
from criproxy.cri.naming import method_at

MAX_CALLS: Final = 500_000
"""Calls that are indexed: with more, the index would take several hundred MiB."""

MAX_MESSAGES: Final = 1_000_000
"""Messages that are indexed of all calls."""

_CACHED_BLOCKS: Final = 4
"""Blocks that are kept decoded: the messages of calls that follow each other are in the same."""


class MessagePart(NamedTuple):
    """A message of a call."""

    at: int
    """When it was whole, in nanoseconds since the cassette's beginning."""
    place: Place
    missing: bool
    """Whether the cassette does not have its data."""


@dataclass(slots=True, eq=False)
class IndexedCall:
    """A call of a cassette. Times are nanoseconds since its beginning."""

    number: int
    path: str
    began: int
    method: Method | None
    """None outside the CRI."""
    requests: list[MessagePart] = field(default_factory=list)
    responses: list[MessagePart] = field(default_factory=list)
    end: CallEnded | None = None
    """None if the recording ended before the call did."""

    @property
    def complete(self) -> bool:
        """Whether the call has ended, and none of its messages is missing."""
        end = self.end
        return (
            end is not None
            and len(self.requests) == end.request_messages
            and len(self.responses) == end.response_messages
            and not any(each.missing for each in (*self.requests, *self.responses))
        )

    @property
    def ended(self) -> int:
        """When it ended; for one that did not, when its last message came."""
        if self.end is not None:
            return self.end.at
        return max([self.began, *(each.at for each in self.responses)])

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) / 1e9


class CallIndex:
    """The calls of a cassette, in the order in which they began."""

    def __init__(
        self, reader: CassetteReader, max_calls: int = MAX_CALLS, max_messages: int = MAX_MESSAGES
    ) -> None:
        """Read the whole cassette. ``reader`` is used for as long as messages are asked for."""
        self.calls: list[IndexedCall] = []
        self.left_out = 0
        """Calls and messages beyond the limits."""
        self.dropped = 0
        """Records that were lost when the cassette was recorded."""
        self.finished = False
        """Whether the cassette has its last record."""
        self.ended = 0
        """The time of the last record."""
        self._reader = reader
        self._max_calls = max_calls
        self._left = max_messages
        self._open: dict[int, IndexedCall] = {}
        self._blocks: OrderedDict[int, dict[int, AnyRecord]] = OrderedDict()
        for place, record in reader.placed():
            self._add(place, record)
        self._open.clear()

    def messages(self, parts: Sequence[MessagePart]) -> list[bytes]:
        """Read messages from the cassette. Raises CassetteError if it was changed meanwhile."""
        return [self._message(each.place).data for each in parts]

    def notes(self) -> list[str]:
        """Return lines for a user that say what is missing."""
        path = self._reader.path
        lines = self._reader.damage.describe(path)
        if self.dropped:
            lines.append(f"{path}: {self.dropped} records were lost when it was recorded")
        if self.left_out:
            lines.append(
                f"{path}: {self.left_out} calls and messages beyond the first are left out"
            )
        if not self.finished and not lines:
            lines.append(f"{path}: has no last record; its recording was cut off")
        return lines

    def _add(self, place: Place, record: AnyRecord) -> None:
        self.ended = max(self.ended, getattr(record, "at", 0))
        if isinstance(record, CallBegan):
            if len(self.calls) >= self._max_calls:
                self.left_out += 1
                return
            method = method_at(record.path.encode("latin-1", "replace"))
            call = IndexedCall(record.call, record.path, record.at, method)
            self.calls.append(call)
            self._open[record.call] = call
        elif isinstance(record, MessagePassed):
            found = self._open.get(record.call)
            if found is None:
                return
            if not self._left:
                self.left_out += 1
                return
            self._left -= 1
            parts = found.responses if record.response else found.requests
            parts.append(MessagePart(record.at, place, bool(record.missing)))
        elif isinstance(record, CallEnded):
            found = self._open.pop(record.call, None)
            if found is not None:
                found.end = record
        elif isinstance(record, Dropped):
            self.dropped += record.records
        elif isinstance(record, Ended):
            self.finished = True

    def _message(self, place: Place) -> MessagePassed:
        block = self._blocks.get(place.position)
        if block is None:
            block = self._blocks[place.position] = self._reader.records_at(place.position)
            if len(self._blocks) > _CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(place.position)
        record = block.get(place.number)
        if not isinstance(record, MessagePassed):
            raise CassetteError(
                f"{self._reader.path}: byte {place.position}: has other records than before; "
                "was it changed?"
            )
        return record
