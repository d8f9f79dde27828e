"""Holds single streams of a connection while the others are forwarded as raw bytes.

A connection is *raw* until a wanted call begins on it: its bytes are forwarded unchanged, and only
the client's are scanned before. From the first wanted call on it is *intercepted*: split into whole
frames, which are forwarded in order unless their stream is held. When nothing is held, queued or
owed any more, it is raw again::

                  scan() finds a wanted call, then start()
          raw  ----------------------------------------------->  intercepted
        scan() <-----------------------------------------------  receive()
                  at rest after a receive() or a command
"""

from collections.abc import Callable, Iterable

from criproxy.wire.constants import FRAME_HEADER_SIZE, ErrorCode
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import LARGEST_TABLE
from criproxy.wire.http2.frame_buffer import FrameBuffer
from criproxy.wire.http2.frames import DEFAULT_HEADER_BLOCK_LIMIT
from criproxy.wire.intercept.frame_dispatcher import DecideHold, FrameDispatcher
from criproxy.wire.intercept.held_bytes import ConnectionBudget, HeldBytesBudget
from criproxy.wire.intercept.held_streams import HeldStreams
from criproxy.wire.intercept.path_scanner import IsWanted, PathScanner
from criproxy.wire.intercept.send_queue import SendQueue
from criproxy.wire.reading.connection import ConnectionReader, Side


class ConnectionInterceptor:
    """One connection whose streams may be held.

    While :attr:`raw`, call :meth:`scan` with the client's bytes to learn which to forward; forward
    the runtime's unchanged. Otherwise call :meth:`receive` with the bytes of each side, and write
    what :meth:`take` returns for each side, then and whenever ``output_ready`` is called.

    The reader has to be given forwarded raw bytes before the next call, the client's bytes before
    :meth:`receive`, and as the runtime's bytes what is written to the client.
    """

    def __init__(
        self,
        reader: ConnectionReader,
        wanted: IsWanted,
        decide: DecideHold,
        output_ready: Callable[[], None],
        budget: HeldBytesBudget,
        header_block_limit: int = DEFAULT_HEADER_BLOCK_LIMIT,
    ) -> None:
        """``reader`` has read all of the client's bytes so far and stands at a frame boundary.

        ``wanted`` returns whether a call may be held, by its path; it is called for each new call
        while raw. ``decide`` returns what to hold of a call; it is called for wanted calls, and
        while intercepted for all. ``output_ready`` is called when a handler's command has made
        output outside of :meth:`receive`. ``header_block_limit`` is in bytes.
        """
        partial_frame = reader.partial_frame(Side.CLIENT)
        self._scanner = PathScanner(
            wanted,
            reader.decoder(Side.CLIENT),
            partial_frame.remaining,
            partial_frame.settings_received,
            header_block_limit,
        )
        self._reader = reader
        self._wanted = wanted
        self._decide = decide
        self._output_ready = output_ready
        self._budget = ConnectionBudget(budget)
        self._block_limit = header_block_limit
        self._partial = bytearray()  # an unforwarded part of a client's frame, while raw
        self._out: tuple[list[bytes], list[bytes]] = ([], [])  # by sender
        self._dispatcher: FrameDispatcher | None = None  # None while raw
        self._buffers: tuple[FrameBuffer, FrameBuffer]
        self._passed_through = [
            False,
            False,
        ]  # whether the dispatcher has not seen a side's last blocks
        self._receiving = False

    @property
    def raw(self) -> bool:
        """Whether bytes are forwarded unchanged."""
        return self._dispatcher is None

    @property
    def needs_reader(self) -> bool:
        """Whether the next bytes can be handled only while the reader still reads."""
        return self.raw or any(self._passed_through)

    @property
    def queues(self) -> tuple[SendQueue, SendQueue] | None:
        """The send queues by sender: the client's, the runtime's; None while raw."""
        return None if self._dispatcher is None else self._dispatcher.queues

    @property
    def held(self) -> int:
        """Number of held streams."""
        return 0 if self._dispatcher is None else len(self._dispatcher.streams.held)

    @property
    def undelivered(self) -> bool:
        """Whether a complete response has not been sent to the client in full yet."""
        return self._dispatcher is not None and self._dispatcher.streams.undelivered

    def to_boundary(self, side: Side) -> int | None:
        """Return the bytes until the next frame header of a side; None where it is unknown."""
        if not self.raw:
            return self._buffers[side].to_boundary
        if side is Side.CLIENT and self._partial:
            needed = self._scanner.needed
            return needed - len(self._partial) if needed > FRAME_HEADER_SIZE else None
        return self._reader.to_boundary(side)

    def scan(self, data: bytes) -> tuple[bytes, bytes]:
        """Scan the client's next bytes while raw; return those to forward and those to receive.

        If the second is not empty, call :meth:`start`, then :meth:`receive` with it. Raises a
        WireError for bytes that cannot be read; :meth:`leftover` returns those not forwarded.
        """
        if self._partial:
            self._partial += data
            if len(self._partial) < self._scanner.needed:
                return b"", b""
            data = bytes(self._partial)
            self._partial.clear()
        try:
            size, found = self._scanner.scan(data)
        except BaseException:
            self._partial += data
            raise
        if size == len(data):
            return data, b""
        if found:
            return data[:size], data[size:]
        self._partial += data[size:]
        return data[:size], b""

    def leftover(self) -> bytes:
        """Return the unforwarded beginning of a client's frame."""
        return bytes(self._partial) if self.raw else self._buffers[Side.CLIENT].leftover()

    def start(self, inserts: tuple[list[bytes], list[bytes]] = ([], [])) -> None:
        """Start to intercept, from the reader's state.

        ``inserts``: frames of our own, by side, that wait to be inserted into what it sends.
        """
        client, runtime = self._reader.flow(Side.CLIENT), self._reader.flow(Side.RUNTIME)
        requests, responses = (
            SendQueue(flow, self._budget, out)
            for flow, out in zip((client, runtime), self._out, strict=True)
        )
        partial_frame = self._reader.partial_frame(Side.RUNTIME)
        self._buffers = (
            FrameBuffer(client.max_frame_size, self._block_limit),
            FrameBuffer(runtime.max_frame_size, self._block_limit, partial_frame),
        )
        responses.blocked = not (
            partial_frame.settings_received and self._buffers[Side.RUNTIME].at_boundary
        )
        responses.must_shrink = runtime.decoder.must_shrink
        for flow in (client, runtime):
            flow.decoder.allow(LARGEST_TABLE)  # its limit is for the peer to enforce
        self._passed_through = [False, False]
        self._dispatcher = FrameDispatcher(
            HeldStreams((requests, responses), self._commanded, self._budget),
            self._buffers,
            [client.decoder, runtime.decoder],
            client.last_stream,
            client.last_served,
            self._wanted,
            self._decide,
        )
        for queue, frames in zip((requests, responses), inserts, strict=True):
            for frame in frames:
                queue.enqueue(frame)

    def try_pass_through(self, side: Side, data: bytes) -> bool:
        """Return whether a side's next bytes may be forwarded unchanged, and account for them.

        They may, in general, while nothing is held and only window bytes are owed. If not, call
        :meth:`receive` with them.
        """
        dispatcher, buffer = self._dispatcher, self._buffers[side]
        assert dispatcher is not None
        if not dispatcher.streams.held and buffer.is_empty:
            sums = dispatcher.count_windows(side, data)
            if sums and (side is Side.RUNTIME or not self._scanner.scan(data)[1]):
                dispatcher.apply_windows(side, *sums)
                self._passed_through[side] = True
                return True
        self._catch_up(side)
        return False

    def _catch_up(self, side: Side) -> None:
        """Bring the dispatcher up to date with what was passed through of a side."""
        if self._passed_through[side] and self._dispatcher is not None:
            self._passed_through[side] = False
            self._dispatcher.resume(side, self._reader.decoder(side), self._reader.last_stream)

    def receive(self, side: Side, data: bytes, now: float) -> None:
        """Handle the next bytes of a side while not raw. ``now`` is in seconds.

        Raises a WireError for bytes that cannot be read; the connection has to be closed then.
        """
        dispatcher, buffer = self._dispatcher, self._buffers[side]
        assert dispatcher is not None
        dispatcher.streams.tick(now)
        queue = dispatcher.queues[side]
        self._receiving = True
        try:
            for frame in buffer.feed(data):
                dispatcher.take(side, frame)
                if queue.blocked and buffer.at_boundary:
                    queue.blocked = False
                    dispatcher.streams.pump(side)
        finally:
            self._receiving = False
        self._settle()

    def take(self, side: Side) -> bytes:
        """Return the bytes to write to a side."""
        out = self._out[1 - side]
        if len(out) == 1:
            return out.pop()
        data = b"".join(out)
        out.clear()
        return data

    def end(self, side: Side, unanswered: Iterable[tuple[int, bool]], now: float) -> None:
        """Handle the end of a side's connection; check :attr:`undelivered` afterwards.

        ``unanswered``: the open streams and whether their response has begun. They are answered if
        the runtime has disconnected while a complete response of it is still held.
        """
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        dispatcher.streams.tick(now)
        self._catch_up(Side.CLIENT)
        self._receiving = True
        queue = dispatcher.queues[Side.RUNTIME]
        if side is Side.RUNTIME and dispatcher.streams.undelivered and not queue.blocked:
            dispatcher.lose_runtime(unanswered)
        else:
            dispatcher.streams.lose_all()
        self._receiving = False

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Reset a stream on both sides, while not raw: with ``code`` towards the client."""
        assert self._dispatcher is not None
        self._dispatcher.streams.reset(stream, code)
        self._commanded()

    def reply(self, stream: int, code: StatusCode, message: str, headers_sent: bool) -> None:
        """End a stream, held or not, with a local reply to the client, while not raw.

        ``headers_sent``: whether the response's headers have been sent to the client.
        """
        assert self._dispatcher is not None
        self._dispatcher.streams.reply_to(stream, code, message, headers_sent)
        self._commanded()

    def _commanded(self) -> None:
        if not self._receiving:
            self._settle()
            self._output_ready()

    def _settle(self) -> None:
        """Grant what is owed; become raw if nothing remains to be done."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        dispatcher.streams.refund()
        if dispatcher.streams.at_rest and all(each.is_empty for each in self._buffers):
            self._dispatcher = None
