"""Orders what is sent to one peer of an intercepted connection, and applies flow control.

A :class:`SendQueue` sends frames in three classes::

    unordered  PING, SETTINGS, PRIORITY, WINDOW_UPDATE: at once
    ordered    header blocks, RST_STREAM, GOAWAY, DATA of streams that are not held: in order. DATA
               that exceeds the receiver's connection window is queued, and so is all that follows
    pending    output of held streams: when nothing is queued, as far as the windows allow

Header blocks are compressed with a table that both ends build from all blocks in order (RFC 7541),
so a block can be forwarded unchanged only in its turn. After one that changes the table has been
deferred or discarded, all later blocks of the direction are re-encoded with another table.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from criproxy.wire.constants import DATA, FLAG_END_STREAM, FRAME_HEADER_SIZE, HEADERS, RST_STREAM
from criproxy.wire.errors import FlowControlError
from criproxy.wire.hpack.decoder import Header, TruncatedHeaders
from criproxy.wire.hpack.encoder import Encoder, encode
from criproxy.wire.http2 import frame_builder
from criproxy.wire.http2.frame_buffer import Frame
from criproxy.wire.http2.frames import is_informational
from criproxy.wire.http2.windows import ConnectionWindow
from criproxy.wire.intercept.held_bytes import MESSAGE_OVERHEAD, ConnectionBudget
from criproxy.wire.reading.connection import FlowState

_ENDING: Final = (DATA, HEADERS)  # they may carry END_STREAM
_KIND: Final = 3  # the offset of a frame's type
_FLAGS: Final = 4  # the offset of its flags


class HeaderBlock:
    """A decoded header block."""

    __slots__ = ("changed", "deferred", "fields", "frame", "overtaken", "shrinks")

    def __init__(self, frame: Frame, fields: list[Header], changed: bool, shrinks: bool) -> None:
        """``changed``: decoding it changed the table.

        ``shrinks``: it contains a table size reduction that the receiver had asked for.
        """
        self.frame = frame
        self.fields = fields
        self.changed = changed
        self.shrinks = shrinks
        self.deferred = False
        """Whether it waits to be sent later than in its turn."""
        self.overtaken = False
        """Whether another block was sent before it, so that the table may be another."""

    @property
    def is_truncated(self) -> bool:
        """Whether its header list exceeds the limits, so that it cannot be re-encoded."""
        return isinstance(self.fields, TruncatedHeaders)

    @property
    def is_informational(self) -> bool:
        """Whether it is an informational response, which the response follows."""
        return is_informational(self.fields)


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
        self.trailers: HeaderBlock | Sequence[Header] | None = None
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


class _Queued:
    """A queued frame, of which the payload's first ``position`` bytes have been sent."""

    __slots__ = ("acknowledges", "informational", "length", "position", "raw")

    def __init__(
        self, raw: bytes, length: int, acknowledges: bool, informational: bool = False
    ) -> None:
        """``length``: flow-controlled bytes of a DATA frame without padding; 0 for others."""
        self.raw = raw
        self.length = length
        self.acknowledges = acknowledges
        self.informational = informational
        self.position = 0

    @property
    def opens(self) -> bool:
        """Whether it is a header block, other than that of an informational response."""
        return self.raw[_KIND] == HEADERS and not self.informational

    @property
    def ends(self) -> bool:
        """Whether it ends a stream, or its direction."""
        kind = self.raw[_KIND]
        return kind == RST_STREAM or (kind in _ENDING and bool(self.raw[_FLAGS] & FLAG_END_STREAM))

    def rest(self) -> bytes:
        """Return the frame without the part that has been sent."""
        if not self.position:
            return self.raw
        payload = self.raw[FRAME_HEADER_SIZE + self.position :]
        return frame_builder.frame(
            DATA, self.raw[_FLAGS], frame_builder.stream_of(self.raw), payload
        )


class SendQueue:
    """The send queue to one peer. ``out`` are the chunks of bytes to write to it now."""

    def __init__(self, flow: FlowState, budget: ConnectionBudget, out: list[bytes]) -> None:
        self.out = out
        self.window = ConnectionWindow(flow.window)
        self.initial = flow.initial_window
        self.unacknowledged = deque(flow.unacknowledged)
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
        self._opening: dict[int, int] = {}  # numbers of queued header blocks by stream
        self._ending: dict[int, int] = {}  # numbers of queued ends by stream
        # Output of held streams: of those that may be sent in part, of those that wait for their
        # stream's window, and of those that have nothing left but their end.
        self._pending: OrderedDict[int, HeldDirection] = OrderedDict()
        self._stalled: dict[int, HeldDirection] = {}
        self._finishing: OrderedDict[int, HeldDirection] = OrderedDict()
        self._deferred = 0  # deferred blocks
        self._not_overtaken: set[HeaderBlock] = set()  # deferred blocks before all sent ones
        self.decoder = flow.decoder
        """The decoder of the sender's blocks."""
        self._table_limit = flow.decoder.least_allowed
        self._encoder: Encoder | None = None  # None until blocks are re-encoded

    @property
    def at_rest(self) -> bool:
        """Whether its state is that of a connection that was never intercepted."""
        return not (
            self._frames
            or self.has_output
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
            or self.has_output
            or self._deferred
            or self.reencoding
            or self.blocked
            or self.must_shrink
        )

    @property
    def has_output(self) -> bool:
        """Whether output of held streams is pending."""
        return bool(self._pending or self._stalled or self._finishing)

    @property
    def has_deferred_blocks(self) -> bool:
        """Whether header blocks wait to be sent later than in their turn."""
        return self._deferred > 0

    @property
    def must_reencode(self) -> bool:
        """Whether the next header block has to be re-encoded."""
        return self.reencoding or any(block.changed for block in self._not_overtaken)

    @property
    def has_queued_frames(self) -> bool:
        """Whether frames wait for the receiver's connection window, or for a frame's end."""
        return bool(self._frames)

    def takes(self, size: int) -> bool:
        """Return whether DATA of ``size`` bytes would be sent at once."""
        return not (self._frames or self.blocked) and size <= self.window.window

    def is_opening(self, stream: int) -> bool:
        """Return whether a header block of a stream is queued that is not informational."""
        return stream in self._opening

    def is_ending(self, stream: int) -> bool:
        """Return whether a frame that ends a stream, or its direction, is queued."""
        return stream in self._ending

    def is_waiting(self, stream: int) -> bool:
        """Return whether output of a held stream is pending."""
        return stream in self._pending or stream in self._stalled or stream in self._finishing

    def limit_table(self, size: int) -> None:
        """Apply the receiver's SETTINGS_HEADER_TABLE_SIZE, in bytes, to re-encoded blocks."""
        self._table_limit = min(self._table_limit, size)
        if self._encoder is not None:
            self._encoder.reduce(self._table_limit)

    def send_unordered(self, frame: bytes) -> None:
        """Send a frame whose order among the frames of streams does not matter."""
        if self.blocked:
            self._append(_Queued(frame, 0, False))
        else:
            self.out.append(frame)

    def enqueue(
        self, frame: bytes, acknowledges: bool = False, informational: bool = False
    ) -> None:
        """Send a frame in order.

        ``acknowledges``: it is a SETTINGS ACK; ``informational``: the headers of such a response.
        """
        if not (self._frames or self.blocked or acknowledges):
            self.out.append(frame)
            return
        self._append(_Queued(frame, 0, acknowledges, informational))
        self._drain()

    def enqueue_data(self, raw: bytes) -> None:
        """Send a DATA frame without padding in order.

        Raises FlowControlError if the sender has exceeded the window of the connection: what it
        sends beyond would have to be queued without a limit.
        """
        length = len(raw) - FRAME_HEADER_SIZE
        if self.takes(length):
            self.out.append(raw)
            self.window.record_forwarded(length)
        else:
            self._append(_Queued(raw, length, False))
            self.queued += length
            if self.queued > self.window.window + self.window.ledger:
                raise FlowControlError(f"{self.queued} bytes of DATA exceed the window")
            self._drain()

    def _append(self, queued: _Queued) -> None:
        self._frames.append(queued)
        if queued.opens:
            _count_up(self._opening, frame_builder.stream_of(queued.raw))
        if queued.ends:
            _count_up(self._ending, frame_builder.stream_of(queued.raw))

    def finish_frame(self, rest: bytes, length: int) -> None:
        """Send the rest of a partly forwarded frame of ``length`` flow-controlled bytes."""
        self.out.append(rest)
        self.window.record_forwarded(length)

    def enqueue_block(
        self, block: HeaderBlock, ended: bool, added: list[Header] | None = None
    ) -> None:
        """Send a header block in order, with END_STREAM if ``ended`` and with ``added`` fields."""
        raw = self._encoded(block, ended, added or [])
        self.enqueue(raw, informational=block.is_informational)

    def enqueue_placeholder(self, block: HeaderBlock) -> None:
        """Open a stream, in order, with placeholder headers instead of the block's.

        It has to be opened so that the receiver refuses its identifier, and lower ones, later on.
        """
        self.discard_block(block)
        self.enqueue(self._literal(block.frame.stream, frame_builder.PLACEHOLDER, False))

    def enqueue_trailers(self, stream: int, fields: Sequence[Header]) -> None:
        """Send trailers of our own in order."""
        self.enqueue(self._literal(stream, fields, True))

    def defer_block(self, block: HeaderBlock) -> None:
        """Record that a header block is not sent in its turn."""
        block.deferred = True
        self._deferred += 1
        self._not_overtaken.add(block)

    def discard_block(self, block: HeaderBlock) -> None:
        """Record that a header block will never be sent."""
        self._undefer(block)
        if block.changed:
            self.reencoding = True

    def _undefer(self, block: HeaderBlock) -> None:
        if block.deferred:
            block.deferred = False
            self._deferred -= 1
            self._not_overtaken.discard(block)

    def send(self, direction: HeldDirection) -> None:
        """Add a direction with output, or with an end, to the pending ones."""
        if not direction.output:
            if direction.finishing:
                self._finishing[direction.stream] = direction
        elif direction.stream not in self._stalled:
            self._pending[direction.stream] = direction

    def resume(self, stream: int) -> None:
        """Try to send a stream's output again: its window has been enlarged."""
        direction = self._stalled.pop(stream, None)
        if direction is not None:
            self._pending[stream] = direction

    def cancel(self, direction: HeldDirection) -> None:
        """Discard the output of a direction."""
        self._pending.pop(direction.stream, None)
        self._stalled.pop(direction.stream, None)
        self._finishing.pop(direction.stream, None)
        if isinstance(direction.trailers, HeaderBlock):
            self.discard_block(direction.trailers)
        self._budget.add(-direction.size)
        self._budget.total.rest_arrived(direction)
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
        if self._frames or self.blocked:
            return finished
        while self._finishing:
            _, direction = self._finishing.popitem(last=False)
            self._end(direction)
            finished.append(direction)
        while self._pending and self.window.window > 0:
            stream, direction = next(iter(self._pending.items()))
            if self._flush(direction):
                del self._pending[stream]
                if direction.finished:
                    finished.append(direction)
            elif self.window.window > 0:
                self._stalled[stream] = self._pending.pop(stream)
        return finished

    def _drain(self) -> None:
        frames, window = self._frames, self.window
        while frames and not self.blocked:
            head = frames[0]
            length = head.length
            if length > window.window:
                if window.window > 0:
                    self._split(head, window.window)
                return
            frames.popleft()
            if head.opens:
                _count_down(self._opening, frame_builder.stream_of(head.raw))
            if head.ends:
                _count_down(self._ending, frame_builder.stream_of(head.raw))
            self.out.append(head.rest())
            window.record_forwarded(length)
            self.queued -= length
            self.sent_own_data = self.sent_own_data or length > 0  # later than the sender sent it
            if head.acknowledges:
                self.acknowledge()

    def acknowledge(self) -> None:
        """Record that a SETTINGS ACK was sent: the receiver's oldest SETTINGS are in force."""
        if self.unacknowledged:
            initial = self.unacknowledged.popleft()
            if initial is not None:
                self.initial = initial
                self._pending.update(self._stalled)
                self._stalled.clear()

    def _split(self, head: _Queued, size: int) -> None:
        """Send the next ``size`` bytes of the DATA at the head of the queue."""
        start = FRAME_HEADER_SIZE + head.position
        payload = head.raw[start : start + size]
        self.out.append(frame_builder.data(frame_builder.stream_of(head.raw), payload, False))
        head.position += size
        head.length -= size
        self.window.record_forwarded(size)
        self.queued -= size
        self.sent_own_data = True

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
            uncounted = size
            if direction.position == len(chunk):
                direction.output.popleft()
                direction.position = 0
                uncounted += MESSAGE_OVERHEAD
            last = direction.finishing and direction.trailers is None and not direction.output
            self.out.append(frame_builder.data(direction.stream, payload, last))
            self.sent_own_data = True
            self.window.record_own(size)
            direction.offset -= size
            if granted:
                direction.owed += size
            direction.size -= uncounted
            self._budget.add(-uncounted)
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
            self._undefer(trailers)
            if self.must_shrink and not trailers.shrinks:  # it was encoded before
                self.reencoding = True
            self.out.append(self._encoded(trailers, True, []))
        else:
            self.out.append(self._literal(direction.stream, trailers, True))

    def _encoded(self, block: HeaderBlock, ended: bool, added: list[Header]) -> bytes:
        frame = block.frame
        for deferred in self._not_overtaken:
            deferred.overtaken = True
            self.reencoding = self.reencoding or deferred.changed
        self._not_overtaken.clear()
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

    def _literal(self, stream: int, fields: Sequence[Header], ended: bool) -> bytes:
        self.reencoding = self.reencoding or self.must_shrink
        if not self.reencoding:
            return frame_builder.headers(stream, encode(fields), ended)
        if self._encoder is None:
            self._encoder = Encoder(self._table_limit)
        block = self._encoder.encode(fields, frozenset(self.decoder.table))
        return frame_builder.headers(stream, block, ended)


def _count_up(counts: dict[int, int], stream: int) -> None:
    counts[stream] = counts.get(stream, 0) + 1


def _count_down(counts: dict[int, int], stream: int) -> None:
    counts[stream] -= 1
    if not counts[stream]:
        del counts[stream]
