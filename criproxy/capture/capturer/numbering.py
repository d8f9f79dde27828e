"""Gives the connections and calls of all workers numbers that are unique in a cassette. Pure."""

from collections.abc import Iterator
from itertools import count
from typing import Final

from msgspec.structs import replace

from criproxy.cassette.records import (
    AnyRecord,
    CallBegan,
    CallEnded,
    ConnectionClosed,
    ConnectionOpened,
    Dropped,
    MessagePassed,
)

_UNREAD: Final = "unread"
"""How a call ends of whose end nothing is known."""


class Numbers:
    """The numbers that were not used yet."""

    def __init__(self) -> None:
        self.connections = count(1)
        self.calls = count(1)


class WorkerNumbering:
    """The connections and calls of one worker that are open; :meth:`convert` all its records."""

    def __init__(self, numbers: Numbers, began: int) -> None:
        """``began``: the time that times of a cassette are since, as the worker's times are."""
        self._numbers = numbers
        self._began = began
        self._connections: dict[int, int] = {}
        self._calls: dict[int, int] = {}

    def convert(self, record: AnyRecord) -> AnyRecord | None:
        """Return a record as a cassette has it; None for one of a call that it does not have."""
        if isinstance(record, MessagePassed):
            call = self._calls.get(record.call)
            return None if call is None else replace(record, call=call, at=self._time(record.at))
        if isinstance(record, CallEnded):
            call = self._calls.pop(record.call, None)
            if call is None:
                return None
            first_byte = record.first_byte and self._time(record.first_byte)
            return replace(record, call=call, at=self._time(record.at), first_byte=first_byte)
        if isinstance(record, CallBegan):
            call = self._calls[record.call] = next(self._numbers.calls)
            connection = self._connection(record.connection)
            return replace(record, call=call, connection=connection, at=self._time(record.at))
        if isinstance(record, ConnectionOpened):
            number = self._connection(record.connection)
            return replace(record, connection=number, at=self._time(record.at))
        if isinstance(record, ConnectionClosed):
            connection = self._connection(record.connection)
            del self._connections[record.connection]
            return replace(record, connection=connection, at=self._time(record.at))
        if isinstance(record, Dropped):
            at, since = self._time(record.at), self._time(record.since)
            return replace(record, at=at, since=since)
        return None

    def ended(self, at: int) -> Iterator[AnyRecord]:
        """Yield the records of the end of everything that is open: its worker is gone.

        ``at`` is a time as the worker's are.
        """
        for call in self._calls.values():
            yield CallEnded(call=call, at=self._time(at), end=_UNREAD)
        for connection in self._connections.values():
            yield ConnectionClosed(connection=connection, at=self._time(at))
        self._calls.clear()
        self._connections.clear()

    def _connection(self, number: int) -> int:
        """Return the number of a connection, also of one whose record was lost."""
        known = self._connections.get(number)
        if known is None:
            known = self._connections[number] = next(self._numbers.connections)
        return known

    def _time(self, at: int) -> int:
        return max(at - self._began, 0)
