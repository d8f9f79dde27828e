"""Makes the records of a cassette from what the relay reports."""

from typing import Final, Protocol

from criproxy.cassette import records
from criproxy.peers.peer import Connection
from criproxy.relay.notifier import Clock
from criproxy.wire.grpc import parse_message
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import (
    CallBegan,
    CallEnded,
    Event,
    MessagePassed,
    Side,
)
from criproxy.wire.reading.message_capture import CaptureBudget, CaptureLimits, ReportLimits

MESSAGE_BYTES: Final = 16 << 20
"""Bytes of a message that are recorded: gRPC peers of the CRI accept no larger ones. After a
larger one, the rest of its direction of the call is not recorded."""

_INCOMPLETE_BYTES: Final = 64 << 20
"""Bytes of all messages that are not whole yet."""


class RecordOutput(Protocol):
    """Takes records, without waiting."""

    def put(self, record: records.AnyRecord, *, essential: bool = False) -> bool:
        """Take a record; return False if it is dropped.

        ``essential``: whether it is taken in any case, because what came before has bounded how
        many of them there can be.
        """


class RecordingObserver:
    """The relay's Observer: makes records, and puts them into a channel."""

    def __init__(self, channel: RecordOutput, clock: Clock, began: float | None = None) -> None:
        """``clock`` is that of calls. The times of records are since ``began``, a time of that
        clock; None: since now."""
        self.calls = 0
        """Calls that began."""
        self.messages = 0
        """Messages that passed."""
        self._channel = channel
        self._clock = clock
        self._began = clock() if began is None else began
        self._connections: dict[Connection, int] = {}
        self._told: set[Connection] = set()  # those of which the channel has taken a record
        self._opened = 0
        self._numbers: dict[Call, int] = {}
        limits = ReportLimits(MESSAGE_BYTES, CaptureBudget(_INCOMPLETE_BYTES))
        self._limits = CaptureLimits(0, 0, reported=limits)

    def select_capture(self, path: bytes) -> CaptureLimits:
        """Capture the messages of all calls; see SelectCapture."""
        return self._limits

    def connection_opened(self, connection: Connection) -> None:
        """See Observer."""
        self._opened += 1
        self._connections[connection] = self._opened
        self._put_connection(connection, self._opened)

    def begin_again(self) -> None:
        """Begin another recording: the process that has the records so far is gone.

        Calls in flight are not recorded.
        """
        self._numbers.clear()
        self._told.clear()
        for connection, number in self._connections.items():
            self._put_connection(connection, number)

    def _put_connection(self, connection: Connection, number: int) -> None:
        peer = connection.peer
        record = records.ConnectionOpened(
            connection=number,
            at=self.time(connection.opened),
            pid=peer.pid,
            uid=peer.uid,
            gid=peer.gid,
            executable=peer.executable or "",
            kubelet=peer.kubelet,
            listener=connection.listener,
        )
        if self._channel.put(record):
            self._told.add(connection)

    def connection_closed(self, connection: Connection) -> None:
        """See Observer."""
        number = self._connections.pop(connection)
        if connection in self._told:
            self._told.remove(connection)
            self._channel.put(
                records.ConnectionClosed(connection=number, at=self.time(self._clock())),
                essential=True,  # as many as connections of which a record was taken
            )

    def observe(self, connection: Connection, event: Event) -> None:
        """See Observer."""
        if isinstance(event, CallBegan):
            self._call_began(connection, event.call)
        elif isinstance(event, MessagePassed):
            self._message_passed(event)
        elif isinstance(event, CallEnded):
            self._call_ended(event.call)

    def connection_refused(self, connection: Connection, reason: str, detail: str) -> None:
        """See Observer: there are no rules that would refuse one."""

    def time(self, moment: float) -> int:
        """Return a time of the clock of calls as records have it."""
        return max(0, round((moment - self._began) * 1e9))

    def _call_began(self, connection: Connection, call: Call) -> None:
        self.calls += 1
        record = records.CallBegan(
            call=self.calls,
            connection=self._connections[connection],
            at=self.time(call.began),
            path=call.path.decode("latin-1"),
            stream=call.stream,
            timeout=call.timeout.decode("latin-1"),
        )
        if self._channel.put(record):
            self._numbers[call] = self.calls
            self._told.add(connection)

    def _message_passed(self, event: MessagePassed) -> None:
        self.messages += 1
        call, response = event.call, event.side is Side.RUNTIME
        number = self._numbers.get(call)
        if number is None:
            return
        encoding = ""
        if event.compressed and call.capture is not None:
            capture = call.capture
            reported = capture.reported_response if response else capture.reported_request
            encoding = "" if reported is None else reported.encoding.decode("latin-1")
            encoding = encoding or "identity"  # a compressed message needs an algorithm
        self._channel.put(
            records.MessagePassed(
                call=number,
                at=self.time(event.at),
                size=len(event.data),
                response=response,
                data=event.data,
                encoding=encoding,
            )
        )

    def _call_ended(self, call: Call) -> None:
        number = self._numbers.pop(call, None)
        if number is None:
            return
        first_byte = call.first_byte
        self._channel.put(
            records.CallEnded(
                call=number,
                at=self.time(call.began if call.ended is None else call.ended),
                end=call.end or "",
                code="" if call.code is None else call.code.name,
                message=parse_message(call.message),
                first_byte=0 if first_byte is None else self.time(first_byte),
                request_messages=call.request.messages,
                response_messages=call.response.messages,
                request_bytes=call.request.bytes,
                response_bytes=call.response.bytes,
            ),
            essential=True,  # as many as calls are in flight
        )
