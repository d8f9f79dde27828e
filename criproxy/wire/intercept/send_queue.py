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
from criproxy.wire.hpack.decoder import EMPTY_TABLE, Header, encode
from criproxy.wire.http2 import frame_builder
from criproxy.wire.http2.frame_buffer import Frame
from criproxy.wire.http2.windows import ConnectionWindow, HeldBytesBudget

_ENDING: Final = (DATA, HEADERS)  # what may carry END_STREAM
_KIND: Final = 3  # where a frame's type stands in it
_FLAGS: Final = 4  # and its flags


class HeaderBlock:
    """A header block on its way."""

    __slots__ = ("changed", "fields", "frame", "overtaken", "shrinks")

    def __init__(self, frame: Frame, fields: list[Header], changed: bool, shrinks: bool) -> None:
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
        self.trailers: HeaderBlock | list[Header] | None = None
        """What the direction ends with; None: a flag."""
        self.finishing = False
        """Whether the end is to go on, behind the output."""
        self.finished = False
        """Whether the end has gone on, or nothing more may."""

    @property
    def is_passed_through(self) -> bool:
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
        self.reencoding = False
        """Whether header blocks are encoded anew, because the peer's table is not the sender's."""
        self.must_shrink = False
        """Whether the next block must tell the peer of a smaller table (RFC 7541 section 4.2)."""
        self.queued = 0
        """Flow-controlled bytes that wait in the queue."""
        self.sent_own_data = False
        """Whether DATA of ours, or DATA that waited, has gone; for whoever asks to clear."""
        self._budget = budget
        self._frames: deque[_Queued] = deque()
        self._pending: dict[int, HeldDirection] = {}
        self._deferred: list[HeaderBlock] = []
        self._emptied = False

    @property
    def at_rest(self) -> bool:
        """Whether the queue is as if nothing had ever been held."""
        return not (
            self._frames
            or self._pending
            or self._deferred
            or self.reencoding
            or self.blocked
            or self.window.ledger
        )

    @property
    def is_clear(self) -> bool:
        """Whether what comes may go on as it is, as far as the window takes it."""
        return not (
            self._frames
            or self._pending
            or self._deferred
            or self.reencoding
            or self.blocked
            or self.must_shrink
        )

    @property
    def has_queued_frames(self) -> bool:
        """Whether something waits for the receiver's connection window, or for a frame's end."""
        return bool(self._frames)

    def takes(self, size: int) -> bool:
        """Tell whether DATA of so many bytes would go at once."""
        return not (self._frames or self.blocked) and size <= self.window.window

    def is_opening(self, stream: int) -> bool:
        """Tell whether the headers that open a stream still wait."""
        return any(
            queued.raw[_KIND] == HEADERS and frame_builder.stream_of(queued.raw) == stream
            for queued in self._frames
        )

    def is_ending(self, stream: int) -> bool:
        """Tell whether a frame that ends a stream, or its direction, waits in the queue."""
        return any(
            queued.raw[_KIND] == RST_STREAM
            or (queued.raw[_KIND] in _ENDING and queued.raw[_FLAGS] & FLAG_END_STREAM)
            for queued in self._frames
            if frame_builder.stream_of(queued.raw) == stream
        )

    def is_waiting(self, stream: int) -> bool:
        """Tell whether something of a held stream waits to be sent."""
        return stream in self._pending

    def send_unordered(self, frame: bytes) -> None:
        """Send a frame that need not keep its place among those of streams."""
        if self.blocked:
            self._frames.append(_Queued(frame, 0, False))
        else:
            self.out.append(frame)

    def enqueue(self, frame: bytes, acknowledges: bool = False) -> None:
        """Send a frame in its turn. ``acknowledges``: it is an ACK of SETTINGS."""
        if not (self._frames or self.blocked or acknowledges):
            self.out.append(frame)
            return
        self._frames.append(_Queued(frame, 0, acknowledges))
        self._drain()

    def enqueue_data(self, raw: bytes) -> None:
        """Send a DATA frame without padding in its turn."""
        length = len(raw) - FRAME_HEADER_SIZE
        if self.takes(length):
            self.out.append(raw)
            self.window.record_forwarded(length)
        else:
            self._frames.append(_Queued(raw, length, False))
            self.queued += length
            self._drain()

    def finish_frame(self, rest: bytes, length: int) -> None:
        """Send the rest of a frame whose beginning has gone; ``length`` as in the queue."""
        self.out.append(rest)
        self.window.record_forwarded(length)

    def enqueue_block(
        self, block: HeaderBlock, ended: bool, added: list[Header] | None = None
    ) -> None:
        """Send a header block in its turn, with END_STREAM or without and with fields added."""
        self.enqueue(self._encoded(block, ended, added or []))

    def enqueue_placeholder(self, block: HeaderBlock) -> None:
        """Open a stream with nothing of what its header block says, in its turn.

        It has to be opened: to a peer that has not heard of a stream, one with a lower number that
        is opened later, which no honest client does, is a new one.
        """
        self.discard_block(block)
        self.enqueue(self._literal(block.frame.stream, frame_builder.PLACEHOLDER, False))

    def enqueue_trailers(self, stream: int, fields: list[Header]) -> None:
        """Send a header block of our own in its turn, which ends its stream."""
        self.enqueue(self._literal(stream, fields, True))

    def defer_block(self, block: HeaderBlock) -> None:
        """Take notice that a header block is held back."""
        self._deferred.append(block)

    def discard_block(self, block: HeaderBlock) -> None:
        """Take notice that a header block will never go on."""
        if block in self._deferred:
            self._deferred.remove(block)
        if block.changed:
            self.reencoding = True

    def send(self, direction: HeldDirection) -> None:
        """Send what a direction has for output, as far as the windows take it."""
        self._pending[direction.stream] = direction

    def cancel(self, direction: HeldDirection) -> None:
        """Send nothing more of a direction."""
        self._pending.pop(direction.stream, None)
        if isinstance(direction.trailers, HeaderBlock):
            self.discard_block(direction.trailers)
        self._budget.bytes -= direction.size
        direction.size = 0
        direction.output.clear()
        direction.given.clear()
        direction.partial.clear()
        direction.position = 0
        direction.trailers = None
        direction.holding = False

    def pump(self) -> list[HeldDirection]:
        """Send what can be sent now; return the halves whose end has gone on with it."""
        if self._frames:
            self._drain()
        finished: list[HeldDirection] = []
        if self._pending and not self._frames and not self.blocked:
            for direction in list(self._pending.values()):
                if self._flush(direction):
                    del self._pending[direction.stream]
                    if direction.finished:
                        finished.append(direction)
        return finished

    def _drain(self) -> None:
        frames, window = self._frames, self.window
        while frames and not self.blocked:
            raw, length, acknowledges = frames[0]
            if length > window.window:
                if window.window > 0:
                    self._split(raw, window.window)
                return
            frames.popleft()
            self.out.append(raw)
            window.record_forwarded(length)
            self.queued -= length
            self.sent_own_data = self.sent_own_data or length > 0  # later than the sender had it
            if acknowledges:
                self.acknowledge()

    def acknowledge(self) -> None:
        """Take notice that an ACK has gone to the receiver: its oldest SETTINGS are in force."""
        if self.unacknowledged:
            initial = self.unacknowledged.popleft()
            self.initial = self.initial if initial is None else initial

    def _split(self, raw: bytes, size: int) -> None:
        """Send the first ``size`` bytes of the DATA that waits at the head of the queue."""
        stream = frame_builder.stream_of(raw)
        middle = FRAME_HEADER_SIZE + size
        self.out.append(frame_builder.data(stream, raw[FRAME_HEADER_SIZE:middle], False))
        self.window.record_forwarded(size)
        self.queued -= size
        self.sent_own_data = True
        rest = frame_builder.frame(DATA, raw[_FLAGS], stream, raw[middle:])
        self._frames[0] = _Queued(rest, len(rest) - FRAME_HEADER_SIZE, False)

    def _flush(self, direction: HeldDirection) -> bool:
        """Send what the windows take of a direction; tell whether that was all."""
        while direction.output:
            chunk, granted = direction.output[0]
            room = min(
                self.window.window, self.initial + direction.offset, frame_builder.LARGEST_FRAME
            )
            size = min(len(chunk) - direction.position, room)
            if size <= 0:
                return False
            payload = chunk[direction.position : direction.position + size]
            direction.position += size
            if direction.position == len(chunk):
                direction.output.popleft()
                direction.position = 0
            last = direction.finishing and direction.trailers is None and not direction.output
            self.out.append(frame_builder.data(direction.stream, payload, last))
            self.sent_own_data = True
            self.window.record_own(size)
            direction.offset -= size
            if granted:
                direction.owed += size
            direction.size -= size
            self._budget.bytes -= size
            direction.finished = last
        if direction.finishing and not direction.finished:
            self._end(direction)
        return True

    def _end(self, direction: HeldDirection) -> None:
        direction.finished = True
        trailers, direction.trailers = direction.trailers, None
        if trailers is None:
            self.out.append(frame_builder.data(direction.stream, b"", True))
        elif isinstance(trailers, HeaderBlock):
            if trailers in self._deferred:
                self._deferred.remove(trailers)
            if self.must_shrink and not trailers.shrinks:  # they were made before
                self.reencoding = True
            self.out.append(self._encoded(trailers, True, []))
        else:
            self.out.append(self._literal(direction.stream, trailers, True))

    def _encoded(self, block: HeaderBlock, ended: bool, added: list[Header]) -> bytes:
        frame = block.frame
        for held in self._deferred:
            held.overtaken = True
            self.reencoding = self.reencoding or held.changed
        if self.reencoding or block.overtaken:
            return self._literal(frame.stream, block.fields + added, ended)
        if block.shrinks:
            self.must_shrink = False
        if added:
            return frame_builder.headers(frame.stream, frame.payload + encode(added), ended)
        if ended == frame.ended:
            return frame.raw
        flags = frame.raw[_FLAGS] ^ FLAG_END_STREAM
        return frame.raw[:_FLAGS] + bytes((flags,)) + frame.raw[_FLAGS + 1 :]

    def _literal(self, stream: int, fields: list[Header], ended: bool) -> bytes:
        block = encode(fields)
        self.reencoding = self.reencoding or self.must_shrink
        if self.reencoding and not self._emptied:
            self._emptied = True
            block = EMPTY_TABLE + block
        return frame_builder.headers(stream, block, ended)
