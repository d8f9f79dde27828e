"""Orders what is sent to one peer of an intercepted connection, and applies flow control.

A :class:`SendQueue` sends frames in three classes::

    unordered  PING, SETTINGS, PRIORITY, WINDOW_UPDATE: at once
    ordered    header blocks, RST_STREAM, GOAWAY, DATA of streams that are not held: in order. DATA
               that exceeds the receiver's connection window is queued, and so is all that follows
    pending    output of held streams: when nothing is queued, as far as the windows allow

Header blocks are compressed with a table that both ends build from all blocks in order (RFC 7541),
so a block can be forwarded unchanged only in its turn. After one that changes the table has been
deferred or discarded, all later blocks of the direction are re-encoded without a table.
"""

from collections import deque
from typing import Final, NamedTuple

from criproxy.wire.constants import DATA, FLAG_END_STREAM, FRAME_HEADER_SIZE, HEADERS, RST_STREAM
from criproxy.wire.hpack.decoder import EMPTY_TABLE, Header, encode
from criproxy.wire.http2 import frame_builder
from criproxy.wire.http2.frame_buffer import Frame
from criproxy.wire.http2.windows import ConnectionWindow, HeldBytesBudget

_ENDING: Final = (DATA, HEADERS)  # they may carry END_STREAM
_KIND: Final = 3  # the offset of a frame's type
_FLAGS: Final = 4  # the offset of its flags


class HeaderBlock:
    """A decoded header block."""

    __slots__ = ("changed", "fields", "frame", "overtaken", "shrinks")

    def __init__(self, frame: Frame, fields: list[Header], changed: bool, shrinks: bool) -> None:
        """``changed``: decoding it changed the table.

        ``shrinks``: it contains a table size reduction that the receiver had asked for.
        """
        self.frame = frame
        self.fields = fields
        self.changed = changed
        self.shrinks = shrinks
        self.overtaken = False
        """Whether another block was sent before it, so that the table may be another."""


class HeldDirection:
    """One direction of a held stream. ``size``: bytes that it has charged to the budget."""

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
        self.partial = bytearray()  # of an incomplete message
        self.given: deque[int] = deque()  # sizes of the messages given to the handler
        self.output: deque[tuple[bytes, bool]] = deque()  # and whether granted again already
        self.position = 0  # bytes of the first output that were sent
        self.size = 0
        self.offset = 0
        """The receiver's stream window less the initial window."""
        self.owed = 0
        """Bytes that the receiver will grant and the sender has been granted already."""
        self.ended = False
        """Whether the sender has ended its direction."""
        self.trailers: HeaderBlock | list[Header] | None = None
        """The trailers that end the direction; None: END_STREAM on DATA."""
        self.finishing = False
        """Whether the end is to be sent behind the output."""
        self.finished = False
        """Whether the end was sent, or later frames are discarded."""

    @property
    def is_passed_through(self) -> bool:
        """Whether all of it was forwarded unchanged and the rest may be."""
        return not (self.holding or self.output or self.owed or self.finishing or self.finished)

    def granted(self, size: int) -> int:
        """Apply the receiver's WINDOW_UPDATE; return the increment to grant to the sender."""
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
    """The send queue to one peer. ``out`` are the chunks of bytes to write to it now."""

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
        """Whether nothing may be sent: within a frame, or before the sender's first SETTINGS."""
        self.reencoding = False
        """Whether header blocks are re-encoded because the tables of sender and receiver differ."""
        self.must_shrink = False
        """Whether the next block must reduce the table's size (RFC 7541 section 4.2)."""
        self.queued = 0
        """Queued flow-controlled bytes."""
        self.sent_own_data = False
        """Whether own or queued DATA was sent; cleared by its reader."""
        self._budget = budget
        self._frames: deque[_Queued] = deque()
        self._pending: dict[int, HeldDirection] = {}
        self._deferred: list[HeaderBlock] = []
        self._emptied = False

    @property
    def at_rest(self) -> bool:
        """Whether its state is that of a connection that was never intercepted."""
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
        """Whether frames may be forwarded unchanged, as far as the window allows."""
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
        """Whether frames wait for the receiver's connection window, or for a frame's end."""
        return bool(self._frames)

    def takes(self, size: int) -> bool:
        """Return whether DATA of ``size`` bytes would be sent at once."""
        return not (self._frames or self.blocked) and size <= self.window.window

    def is_opening(self, stream: int) -> bool:
        """Return whether a header block of a stream is queued."""
        return any(
            queued.raw[_KIND] == HEADERS and frame_builder.stream_of(queued.raw) == stream
            for queued in self._frames
        )

    def is_ending(self, stream: int) -> bool:
        """Return whether a frame that ends a stream, or its direction, is queued."""
        return any(
            queued.raw[_KIND] == RST_STREAM
            or (queued.raw[_KIND] in _ENDING and queued.raw[_FLAGS] & FLAG_END_STREAM)
            for queued in self._frames
            if frame_builder.stream_of(queued.raw) == stream
        )

    def is_waiting(self, stream: int) -> bool:
        """Return whether output of a held stream is pending."""
        return stream in self._pending

    def send_unordered(self, frame: bytes) -> None:
        """Send a frame whose order among the frames of streams does not matter."""
        if self.blocked:
            self._frames.append(_Queued(frame, 0, False))
        else:
            self.out.append(frame)

    def enqueue(self, frame: bytes, acknowledges: bool = False) -> None:
        """Send a frame in order. ``acknowledges``: it is a SETTINGS ACK."""
        if not (self._frames or self.blocked or acknowledges):
            self.out.append(frame)
            return
        self._frames.append(_Queued(frame, 0, acknowledges))
        self._drain()

    def enqueue_data(self, raw: bytes) -> None:
        """Send a DATA frame without padding in order."""
        length = len(raw) - FRAME_HEADER_SIZE
        if self.takes(length):
            self.out.append(raw)
            self.window.record_forwarded(length)
        else:
            self._frames.append(_Queued(raw, length, False))
            self.queued += length
            self._drain()

    def finish_frame(self, rest: bytes, length: int) -> None:
        """Send the rest of a partly forwarded frame of ``length`` flow-controlled bytes."""
        self.out.append(rest)
        self.window.record_forwarded(length)

    def enqueue_block(
        self, block: HeaderBlock, ended: bool, added: list[Header] | None = None
    ) -> None:
        """Send a header block in order, with END_STREAM if ``ended`` and with ``added`` fields."""
        self.enqueue(self._encoded(block, ended, added or []))

    def enqueue_placeholder(self, block: HeaderBlock) -> None:
        """Open a stream, in order, with placeholder headers instead of the block's.

        It has to be opened so that the receiver refuses its identifier, and lower ones, later on.
        """
        self.discard_block(block)
        self.enqueue(self._literal(block.frame.stream, frame_builder.PLACEHOLDER, False))

    def enqueue_trailers(self, stream: int, fields: list[Header]) -> None:
        """Send trailers of our own in order."""
        self.enqueue(self._literal(stream, fields, True))

    def defer_block(self, block: HeaderBlock) -> None:
        """Record that a header block is not sent in its turn."""
        self._deferred.append(block)

    def discard_block(self, block: HeaderBlock) -> None:
        """Record that a header block will never be sent."""
        if block in self._deferred:
            self._deferred.remove(block)
        if block.changed:
            self.reencoding = True

    def send(self, direction: HeldDirection) -> None:
        """Add a direction with output to the pending ones."""
        self._pending[direction.stream] = direction

    def cancel(self, direction: HeldDirection) -> None:
        """Discard the output of a direction."""
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
        """Send what the windows allow; return the directions whose end was sent."""
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
            self.sent_own_data = self.sent_own_data or length > 0  # later than the sender sent it
            if acknowledges:
                self.acknowledge()

    def acknowledge(self) -> None:
        """Record that a SETTINGS ACK was sent: the receiver's oldest SETTINGS are in force."""
        if self.unacknowledged:
            initial = self.unacknowledged.popleft()
            self.initial = self.initial if initial is None else initial

    def _split(self, raw: bytes, size: int) -> None:
        """Send the first ``size`` bytes of the DATA at the head of the queue."""
        stream = frame_builder.stream_of(raw)
        middle = FRAME_HEADER_SIZE + size
        self.out.append(frame_builder.data(stream, raw[FRAME_HEADER_SIZE:middle], False))
        self.window.record_forwarded(size)
        self.queued -= size
        self.sent_own_data = True
        rest = frame_builder.frame(DATA, raw[_FLAGS], stream, raw[middle:])
        self._frames[0] = _Queued(rest, len(rest) - FRAME_HEADER_SIZE, False)

    def _flush(self, direction: HeldDirection) -> bool:
        """Send output of a direction as far as the windows allow; return whether all was sent."""
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
            if self.must_shrink and not trailers.shrinks:  # it was encoded before
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
