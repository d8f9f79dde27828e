"""A connection of which single streams may be held while the others flow on as raw bytes.

Theory. A connection is *raw* as long as no call is begun on it that somebody wants: its bytes go
on as they come, and the client's are only looked at before. With the first call that is wanted it
is made into whole frames, each of which goes on in its turn unless its stream is held. When
nothing is held any more, nothing waits and nobody is owed anything, it is raw again::

                    scan() finds a call that is wanted, start()
          raw  --------------------------------------------------->  gathered
     scan()   <---------------------------------------------------  receive()
                    at rest after a receive() or a command
"""

from collections.abc import Callable, Iterable

from criproxy.wire.constants import ErrorCode
from criproxy.wire.hpack.decoder import LARGEST_TABLE
from criproxy.wire.http2.frame_buffer import FrameBuffer
from criproxy.wire.http2.frames import DEFAULT_HEADER_BLOCK_LIMIT
from criproxy.wire.http2.windows import HeldBytesBudget
from criproxy.wire.intercept.frame_dispatcher import DecideHold, FrameDispatcher
from criproxy.wire.intercept.held_streams import HeldStreams
from criproxy.wire.intercept.path_scanner import IsWanted, PathScanner
from criproxy.wire.intercept.send_queue import SendQueue
from criproxy.wire.reading.connection import ConnectionReader, Side


class ConnectionInterceptor:
    """One connection whose streams may be held: bytes in, bytes out for either side.

    While :attr:`raw`, ask :meth:`scan` what of the client's bytes goes on; the runtime's go on as
    they come. Else give each side's to :meth:`receive`, and write what :meth:`take` has for each
    side, then and whenever ``output_ready`` is called.

    The reader is to be shown what goes on raw before anything else comes, the client's bytes before
    they are received, and as the runtime's what is written to the client.
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
        """``reader`` has read all of the client's bytes so far, to a place between two frames.

        ``wanted`` is asked for the path of each new call while raw, ``decide`` for each that is
        wanted and for those that begin while others are held. ``output_ready`` is called when a
        handler's command has made output outside of :meth:`receive`.
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
        self._decide = decide
        self._output_ready = output_ready
        self._budget = budget
        self._block_limit = header_block_limit
        self._partial = b""  # the beginning of a client's frame, while raw
        self._out: tuple[list[bytes], list[bytes]] = ([], [])  # by the side that it came from
        self._dispatcher: FrameDispatcher | None = None  # None while raw
        self._buffers: tuple[FrameBuffer, FrameBuffer]
        self._passed_through = [
            False,
            False,
        ]  # whether the dispatcher has not seen a side's last blocks
        self._receiving = False

    @property
    def raw(self) -> bool:
        """Whether nothing is held, and nothing remains of what was."""
        return self._dispatcher is None

    @property
    def needs_reader(self) -> bool:
        """Whether what comes next can only be understood as long as the reader reads."""
        return self.raw or any(self._passed_through)

    @property
    def queues(self) -> tuple[SendQueue, SendQueue] | None:
        """What goes from the client to the runtime, and the other way; None while raw."""
        return None if self._dispatcher is None else self._dispatcher.queues

    @property
    def held(self) -> int:
        """How many streams are held."""
        return 0 if self._dispatcher is None else len(self._dispatcher.streams.held)

    @property
    def undelivered(self) -> bool:
        """Whether something of the runtime's that is complete has not gone to the client yet."""
        return self._dispatcher is not None and self._dispatcher.streams.undelivered

    def scan(self, data: bytes) -> tuple[bytes, bytes]:
        """Look at the client's next bytes while raw: what goes on now, and what to receive then.

        Between the two, if there is something to receive, :meth:`start` is to be called. Raises a
        WireError for what cannot be read; :meth:`leftover` has what did not go on then.
        """
        if self._partial:
            data, self._partial = self._partial + data, b""
        try:
            size, found = self._scanner.scan(data)
        except BaseException:
            self._partial = data
            raise
        if size == len(data):
            return data, b""
        if found:
            return data[:size], data[size:]
        self._partial = data[size:]
        return data[:size], b""

    def leftover(self) -> bytes:
        """Return what is kept of a client's frame whose rest will not come."""
        return self._partial if self.raw else self._buffers[Side.CLIENT].leftover()

    def start(self, inserts: tuple[list[bytes], list[bytes]] = ([], [])) -> None:
        """Begin to make whole frames, from what the reader knows of the connection.

        ``inserts``: frames of our own that wait to be put in among what each side sends.
        """
        client, runtime = self._reader.flow(Side.CLIENT), self._reader.flow(Side.RUNTIME)
        requests, responses = (
            SendQueue(flow.window, flow.initial_window, flow.unacknowledged, self._budget, out)
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
            flow.decoder.allow(LARGEST_TABLE)  # what the encoder may use is its peer's to enforce
        self._passed_through = [False, False]
        self._dispatcher = FrameDispatcher(
            HeldStreams((requests, responses), self._commanded, self._budget),
            self._buffers,
            [client.decoder, runtime.decoder],
            client.last_stream,
            client.last_served,
            self._decide,
        )
        for queue, frames in zip((requests, responses), inserts, strict=True):
            for frame in frames:
                queue.enqueue(frame)

    def try_pass_through(self, side: Side, data: bytes) -> bool:
        """Tell whether a side's next bytes may go on as they are, though not raw, and count them.

        They mostly may while nothing is held and only grants are owed. If they may not, they are to
        be received, the client's once they have been shown to the reader.
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
        """Have the dispatcher go on from what the reader has seen of a side in its stead."""
        if self._passed_through[side] and self._dispatcher is not None:
            self._passed_through[side] = False
            self._dispatcher.resume(side, self._reader.decoder(side), self._reader.last_stream)

    def receive(self, side: Side, data: bytes, now: float) -> None:
        """Take the next bytes of a side, unless raw. ``now`` is in seconds.

        Raises a WireError for what cannot be read: the connection is of no use any more then.
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
        """Return what is to be written to a side now."""
        out = self._out[1 - side]
        if len(out) == 1:
            return out.pop()
        data = b"".join(out)
        out.clear()
        return data

    def end(self, side: Side, unanswered: Iterable[tuple[int, bool]], now: float) -> None:
        """Take notice that a side's connection has ended; see :attr:`undelivered` then.

        ``unanswered``: the open streams and whether their response has begun. Where the runtime has
        gone and a complete response of its is still held, those are answered.
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
        """End a stream to both sides, unless raw: to the client with a reset of ``code``."""
        assert self._dispatcher is not None
        self._dispatcher.streams.reset(stream, code)
        self._commanded()

    def _commanded(self) -> None:
        if not self._receiving:
            self._settle()
            self._output_ready()

    def _settle(self) -> None:
        """Pay what is owed; go on raw if nothing remains to be done."""
        dispatcher = self._dispatcher
        assert dispatcher is not None
        dispatcher.streams.refund()
        if dispatcher.streams.at_rest and all(each.is_empty for each in self._buffers):
            self._dispatcher = None
