"""One direction of a connection whose streams may be held: the one way out.

Everything that goes to a peer goes through its :class:`SendQueue`, which keeps the order::

    urgent   PING, SETTINGS, WINDOW_UPDATE: they say nothing of the order of streams
    put      header blocks, RST_STREAM, GOAWAY, DATA of streams that are not held. DATA that the
             receiver's connection window does not take waits, and then all that follows waits
    pending  what has been sent on of held streams, as the windows take it, once nothing waits

Header blocks are compressed against a table that both ends build from all of them (RFC 7541), so a
block may go on as it is only in its turn. One that is held back and changes the table cannot:
from the first block that overtakes it on, all are encoded anew, without a table. That is for good.
"""

from collections import deque
from typing import Final, NamedTuple

from criproxy.wire.constants import DATA, FLAG_END_STREAM, FRAME_HEADER_SIZE, HEADERS, RST_STREAM
from criproxy.wire.hpack import decoder as hpack
from criproxy.wire.http2 import frame_builder as building
from criproxy.wire.http2.frame_buffer import Frame
from criproxy.wire.http2.windows import ConnectionWindow, HeldBytesBudget

_ENDING: Final = (DATA, HEADERS)  # what may carry END_STREAM
_KIND: Final = 3  # where a frame's type stands in it
_FLAGS: Final = 4  # and its flags


class HeaderBlock:
    """A header block on its way."""

    __slots__ = ("changed", "fields", "frame", "overtaken", "shrinks")

    def __init__(
        self, frame: Frame, fields: list[hpack.Header], changed: bool, shrinks: bool
    ) -> None:
        """``fields``: what it says. ``changed``: whether decoding it changed the table.

        ``shrinks``: whether it made the table as small as its peer had asked for.
        """
        self.frame = frame
        self.fields = fields
        self.changed = changed
        self.shrinks = shrinks
        self.overtaken = False
        """Whether the table may be another now than the one that it was made for."""


class HeldDirection:
    """One direction of a held stream. ``size`` counts in bytes what it has taken of the budget."""

    __slots__ = (
        "ended",
        "finished",
        "finishing",
        "given",
        "holding",
        "offset",
        "output",
        "owed",
        "partial",
        "position",
        "size",
        "stream",
        "trailers",
    )

    def __init__(self, stream: int, holding: bool) -> None:
        self.stream = stream
        self.holding = holding
        self.partial = bytearray()  # of a message that is incomplete
        self.given: deque[int] = deque()  # sizes of the messages that the handler has
        self.output: deque[tuple[bytes, bool]] = deque()  # to be sent; whether it was granted for
        self.position = 0  # how much of the first has been sent
        self.size = 0
        self.offset = 0
        """The receiver's window for the stream, less its initial window."""
        self.owed = 0
        """What the receiver will grant that the sender has been granted already."""
        self.ended = False
        """Whether the sender has ended its direction."""
        self.trailers: HeaderBlock | list[hpack.Header] | None = None
        """What the direction ends with; None: a flag."""
        self.finishing = False
        """Whether the end is to go on, behind the output."""
        self.finished = False
        """Whether the end has gone on, or nothing more may."""

    @property
    def is_untouched(self) -> bool:
        """Whether all of it went on as it came, and the rest may without being looked at."""
        return not (self.holding or self.output or self.owed or self.finishing or self.finished)

    def granted(self, size: int) -> int:
        """Take the receiver's WINDOW_UPDATE; return what the sender is to be told of it."""
        self.offset += size
        kept = min(size, self.owed)
        self.owed -= kept
        return size - kept


class _Queued(NamedTuple):
    raw: bytes
    length: int
    """Flow-controlled bytes of a DATA frame without padding; 0 for other frames."""
    acknowledges: bool


class SendQueue:
    """What goes to one peer: ``out`` are the bytes to be written to it now, in pieces."""

    def __init__(
        self,
        window: int,
        initial: int,
        unacknowledged: tuple[int | None, ...],
        budget: HeldBytesBudget,
        out: list[bytes],
    ) -> None:
        """See :class:`criproxy.wire.reading.connection.FlowState` for the first three."""
        self.out = out
        self.window = ConnectionWindow(window)
        self.initial = initial
        self.unacknowledged = deque(unacknowledged)
        self.blocked = False
        """Whether no frame may be put in now: within one, or before the peer's first."""
        self.divorced = False
        """Whether header blocks are encoded anew, because the peer's table is not the sender's."""
        self.is_to_shrink = False
        """Whether the next block must tell the peer of a smaller table (RFC 7541 section 4.2)."""
        self.queued = 0
        """Flow-controlled bytes that wait in the queue."""
        self.made_data = False
        """Whether DATA of ours, or DATA that waited, has gone; for whoever asks to clear."""
        self._budget = budget
        self._queue: deque[_Queued] = deque()
        self._pending: dict[int, HeldDirection] = {}
        self._deferred: list[HeaderBlock] = []
        self._emptied = False

    @property
    def at_rest(self) -> bool:
        """Whether the lane is as if nothing had ever been held."""
        return not (
            self._queue
            or self._pending
            or self._deferred
            or self.divorced
            or self.blocked
            or self.window.ledger
        )

    @property
    def is_clear(self) -> bool:
        """Whether what comes may go on as it is, as far as the window takes it."""
        return not (
            self._queue
            or self._pending
            or self._deferred
            or self.divorced
            or self.blocked
            or self.is_to_shrink
        )

    @property
    def is_queuing(self) -> bool:
        """Whether something waits for the receiver's connection window, or for a frame's end."""
        return bool(self._queue)

    def takes(self, size: int) -> bool:
        """Tell whether DATA of so many bytes would go at once."""
        return not (self._queue or self.blocked) and size <= self.window.window

    def is_opening(self, stream: int) -> bool:
        """Tell whether the headers that open a stream still wait."""
        return any(
            queued.raw[_KIND] == HEADERS and building.stream_of(queued.raw) == stream
            for queued in self._queue
        )

    def is_ending(self, stream: int) -> bool:
        """Tell whether a frame that ends a stream, or its direction, waits in the queue."""
        return any(
            queued.raw[_KIND] == RST_STREAM
            or (queued.raw[_KIND] in _ENDING and queued.raw[_FLAGS] & FLAG_END_STREAM)
            for queued in self._queue
            if building.stream_of(queued.raw) == stream
        )

    def is_waiting(self, stream: int) -> bool:
        """Tell whether something of a held stream waits to be sent."""
        return stream in self._pending

    def urgent(self, frame: bytes) -> None:
        """Send a frame that need not keep its place among those of streams."""
        if self.blocked:
            self._queue.append(_Queued(frame, 0, False))
        else:
            self.out.append(frame)

    def put(self, frame: bytes, acknowledges: bool = False) -> None:
        """Send a frame in its turn. ``acknowledges``: it is an ACK of SETTINGS."""
        if not (self._queue or self.blocked or acknowledges):
            self.out.append(frame)
            return
        self._queue.append(_Queued(frame, 0, acknowledges))
        self._drain()

    def put_data(self, raw: bytes) -> None:
        """Send a DATA frame without padding in its turn."""
        length = len(raw) - FRAME_HEADER_SIZE
        if self.takes(length):
            self.out.append(raw)
            self.window.passed(length)
        else:
            self._queue.append(_Queued(raw, length, False))
            self.queued += length
            self._drain()

    def finish_frame(self, rest: bytes, length: int) -> None:
        """Send the rest of a frame whose beginning has gone; ``length`` as in the queue."""
        self.out.append(rest)
        self.window.passed(length)

    def put_block(
        self, block: HeaderBlock, ended: bool, added: list[hpack.Header] | None = None
    ) -> None:
        """Send a header block in its turn, with END_STREAM or without and with fields added."""
        self.put(self._encoded(block, ended, added or []))

    def put_blank(self, block: HeaderBlock) -> None:
        """Open a stream with nothing of what its header block says, in its turn.

        It has to be opened: to a peer that has not heard of a stream, one with a lower number that
        is opened later, which no honest client does, is a new one.
        """
        self.forget(block)
        self.put(self._literal(block.frame.stream, building.BLANK, False))

    def put_fields(self, stream: int, fields: list[hpack.Header]) -> None:
        """Send a header block of our own in its turn, which ends its stream."""
        self.put(self._literal(stream, fields, True))

    def defer(self, block: HeaderBlock) -> None:
        """Take notice that a header block is held back."""
        self._deferred.append(block)

    def forget(self, block: HeaderBlock) -> None:
        """Take notice that a header block will never go on."""
        if block in self._deferred:
            self._deferred.remove(block)
        if block.changed:
            self.divorced = True

    def send(self, half: HeldDirection) -> None:
        """Send what a half has for output, as far as the windows take it."""
        self._pending[half.stream] = half

    def take_back(self, half: HeldDirection) -> None:
        """Send nothing more of a half."""
        self._pending.pop(half.stream, None)
        if isinstance(half.trailers, HeaderBlock):
            self.forget(half.trailers)
        self._budget.bytes -= half.size
        half.size = 0
        half.output.clear()
        half.given.clear()
        half.partial.clear()
        half.position = 0
        half.trailers = None
        half.holding = False

    def pump(self) -> list[HeldDirection]:
        """Send what can be sent now; return the halves whose end has gone on with it."""
        if self._queue:
            self._drain()
        finished: list[HeldDirection] = []
        if self._pending and not self._queue and not self.blocked:
            for half in list(self._pending.values()):
                if self._flush(half):
                    del self._pending[half.stream]
                    if half.finished:
                        finished.append(half)
        return finished

    def _drain(self) -> None:
        queue, window = self._queue, self.window
        while queue and not self.blocked:
            raw, length, acknowledges = queue[0]
            if length > window.window:
                if window.window > 0:
                    self._split(raw, window.window)
                return
            queue.popleft()
            self.out.append(raw)
            window.passed(length)
            self.queued -= length
            self.made_data = self.made_data or length > 0  # later than the sender had it
            if acknowledges:
                self.acknowledge()

    def acknowledge(self) -> None:
        """Take notice that an ACK has gone to the receiver: its oldest SETTINGS are in force."""
        if self.unacknowledged:
            initial = self.unacknowledged.popleft()
            self.initial = self.initial if initial is None else initial

    def _split(self, raw: bytes, size: int) -> None:
        """Send the first ``size`` bytes of the DATA that waits at the head of the queue."""
        stream = building.stream_of(raw)
        middle = FRAME_HEADER_SIZE + size
        self.out.append(building.data(stream, raw[FRAME_HEADER_SIZE:middle], False))
        self.window.passed(size)
        self.queued -= size
        self.made_data = True
        rest = building.frame(DATA, raw[_FLAGS], stream, raw[middle:])
        self._queue[0] = _Queued(rest, len(rest) - FRAME_HEADER_SIZE, False)

    def _flush(self, half: HeldDirection) -> bool:
        """Send what the windows take of a half; tell whether that was all."""
        while half.output:
            chunk, granted = half.output[0]
            room = min(self.window.window, self.initial + half.offset, building.LARGEST_FRAME)
            size = min(len(chunk) - half.position, room)
            if size <= 0:
                return False
            payload = chunk[half.position : half.position + size]
            half.position += size
            if half.position == len(chunk):
                half.output.popleft()
                half.position = 0
            last = half.finishing and half.trailers is None and not half.output
            self.out.append(building.data(half.stream, payload, last))
            self.made_data = True
            self.window.made(size)
            half.offset -= size
            if granted:
                half.owed += size
            half.size -= size
            self._budget.bytes -= size
            half.finished = last
        if half.finishing and not half.finished:
            self._end(half)
        return True

    def _end(self, half: HeldDirection) -> None:
        half.finished = True
        trailers, half.trailers = half.trailers, None
        if trailers is None:
            self.out.append(building.data(half.stream, b"", True))
        elif isinstance(trailers, HeaderBlock):
            if trailers in self._deferred:
                self._deferred.remove(trailers)
            if self.is_to_shrink and not trailers.shrinks:  # they were made before
                self.divorced = True
            self.out.append(self._encoded(trailers, True, []))
        else:
            self.out.append(self._literal(half.stream, trailers, True))

    def _encoded(self, block: HeaderBlock, ended: bool, added: list[hpack.Header]) -> bytes:
        frame = block.frame
        for held in self._deferred:
            held.overtaken = True
            self.divorced = self.divorced or held.changed
        if self.divorced or block.overtaken:
            return self._literal(frame.stream, block.fields + added, ended)
        if block.shrinks:
            self.is_to_shrink = False
        if added:
            return building.headers(frame.stream, frame.payload + hpack.encode(added), ended)
        if ended == frame.ended:
            return frame.raw
        flags = frame.raw[_FLAGS] ^ FLAG_END_STREAM
        return frame.raw[:_FLAGS] + bytes((flags,)) + frame.raw[_FLAGS + 1 :]

    def _literal(self, stream: int, fields: list[hpack.Header], ended: bool) -> bytes:
        block = hpack.encode(fields)
        self.divorced = self.divorced or self.is_to_shrink
        if self.divorced and not self._emptied:
            self._emptied = True
            block = hpack.EMPTY_TABLE + block
        return building.headers(stream, block, ended)
