"""A connection of which single streams may be held while the others flow on as raw bytes.

Theory. A connection is *raw* as long as no call is begun on it that somebody wants: its bytes go
on as they come, and the client's are only looked at before. With the first call that is wanted it
is made into whole frames, each of which goes on in its turn unless its stream is held. When
nothing is held any more, nothing waits and nobody is owed anything, it is raw again::

                    admit() finds a call that is wanted, enter()
          raw  --------------------------------------------------->  gathered
     admit()   <---------------------------------------------------  receive()
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

    While :attr:`raw`, ask :meth:`admit` what of the client's bytes goes on; the runtime's go on as
    they come. Else give each side's to :meth:`receive`, and write what :meth:`take` has for each
    side, then and whenever ``woken`` is called.

    The reader is to be shown what goes on raw before anything else comes, the client's bytes before
    they are received, and as the runtime's what is written to the client.
    """

    def __init__(
        self,
        reader: ConnectionReader,
        wanted: IsWanted,
        decide: DecideHold,
        woken: Callable[[], None],
        budget: HeldBytesBudget,
        header_block_limit: int = DEFAULT_HEADER_BLOCK_LIMIT,
    ) -> None:
        """``reader`` has read all of the client's bytes so far, to a place between two frames.

        ``wanted`` is asked for the path of each new call while raw, ``decide`` for each that is
        wanted and for those that begin while others are held. ``woken`` is called when a
        handler's command has made output outside of :meth:`receive`.
        """
        under_way = reader.under_way(Side.CLIENT)
        self._admission = PathScanner(
            wanted,
            reader.decoder(Side.CLIENT),
            under_way.passing,
            under_way.settled,
            header_block_limit,
        )
        self._reader = reader
        self._decide = decide
        self._woken = woken
        self._budget = budget
        self._block_limit = header_block_limit
        self._kept = b""  # the beginning of a client's frame, while raw
        self._out: tuple[list[bytes], list[bytes]] = ([], [])  # by the side that it came from
        self._machine: FrameDispatcher | None = None  # None while raw
        self._gatherers: tuple[FrameBuffer, FrameBuffer]
        self._skimmed = [False, False]  # whether the machine has not seen a side's last blocks
        self._inside = False

    @property
    def raw(self) -> bool:
        """Whether nothing is held, and nothing remains of what was."""
        return self._machine is None

    @property
    def needs_reader(self) -> bool:
        """Whether what comes next can only be understood as long as the reader reads."""
        return self.raw or any(self._skimmed)

    @property
    def lanes(self) -> tuple[SendQueue, SendQueue] | None:
        """What goes from the client to the runtime, and the other way; None while raw."""
        return None if self._machine is None else self._machine.lanes

    @property
    def held(self) -> int:
        """How many streams are held."""
        return 0 if self._machine is None else len(self._machine.streams.held)

    @property
    def undelivered(self) -> bool:
        """Whether something of the runtime's that is complete has not gone to the client yet."""
        return self._machine is not None and self._machine.streams.undelivered

    def admit(self, data: bytes) -> tuple[bytes, bytes]:
        """Look at the client's next bytes while raw: what goes on now, and what to receive then.

        Between the two, if there is something to receive, :meth:`enter` is to be called. Raises a
        WireError for what cannot be read; :meth:`leftover` has what did not go on then.
        """
        if self._kept:
            data, self._kept = self._kept + data, b""
        try:
            size, found = self._admission.look(data)
        except BaseException:
            self._kept = data
            raise
        if size == len(data):
            return data, b""
        if found:
            return data[:size], data[size:]
        self._kept = data[size:]
        return data[:size], b""

    def leftover(self) -> bytes:
        """Return what is kept of a client's frame whose rest will not come."""
        return self._kept if self.raw else self._gatherers[Side.CLIENT].leftover()

    def enter(self, inserts: tuple[list[bytes], list[bytes]] = ([], [])) -> None:
        """Begin to make whole frames, from what the reader knows of the connection.

        ``inserts``: frames of our own that wait to be put in among what each side sends.
        """
        client, runtime = self._reader.flow(Side.CLIENT), self._reader.flow(Side.RUNTIME)
        requests, responses = (
            SendQueue(flow.window, flow.initial_window, flow.unacknowledged, self._budget, out)
            for flow, out in zip((client, runtime), self._out, strict=True)
        )
        under_way = self._reader.under_way(Side.RUNTIME)
        self._gatherers = (
            FrameBuffer(client.max_frame_size, self._block_limit),
            FrameBuffer(runtime.max_frame_size, self._block_limit, under_way),
        )
        responses.blocked = not (under_way.settled and self._gatherers[Side.RUNTIME].at_boundary)
        responses.is_to_shrink = runtime.decoder.is_to_shrink
        for flow in (client, runtime):
            flow.decoder.allow(LARGEST_TABLE)  # what the encoder may use is its peer's to enforce
        self._skimmed = [False, False]
        self._machine = FrameDispatcher(
            HeldStreams((requests, responses), self._commanded, self._budget),
            self._gatherers,
            [client.decoder, runtime.decoder],
            client.last_stream,
            client.last_served,
            self._decide,
        )
        for lane, frames in zip((requests, responses), inserts, strict=True):
            for frame in frames:
                lane.put(frame)

    def skim(self, side: Side, data: bytes) -> bool:
        """Tell whether a side's next bytes may go on as they are, though not raw, and count them.

        They mostly may while nothing is held and only grants are owed. If they may not, they are to
        be received, the client's once they have been shown to the reader.
        """
        machine, gatherer = self._machine, self._gatherers[side]
        assert machine is not None
        if not machine.streams.held and gatherer.is_empty:
            sums = machine.sums_of(side, data)
            if sums and (side is Side.RUNTIME or not self._admission.look(data)[1]):
                machine.pass_sums(side, *sums)
                self._skimmed[side] = True
                return True
        self._catch_up(side)
        return False

    def _catch_up(self, side: Side) -> None:
        """Have the machine go on from what the reader has seen of a side in its stead."""
        if self._skimmed[side] and self._machine is not None:
            self._skimmed[side] = False
            self._machine.follow(side, self._reader.decoder(side), self._reader.last_stream)

    def receive(self, side: Side, data: bytes, now: float) -> None:
        """Take the next bytes of a side, unless raw. ``now`` is in seconds.

        Raises a WireError for what cannot be read: the connection is of no use any more then.
        """
        machine, gatherer = self._machine, self._gatherers[side]
        assert machine is not None
        machine.streams.tick(now)
        lane = machine.lanes[side]
        self._inside = True
        try:
            for frame in gatherer.feed(data):
                machine.take(side, frame)
                if lane.blocked and gatherer.at_boundary:
                    lane.blocked = False
                    machine.streams.pump(side)
        finally:
            self._inside = False
        self._rest()

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
        machine = self._machine
        if machine is None:
            return
        machine.streams.tick(now)
        self._catch_up(Side.CLIENT)
        self._inside = True
        lane = machine.lanes[Side.RUNTIME]
        if side is Side.RUNTIME and machine.streams.undelivered and not lane.blocked:
            machine.lose_runtime(unanswered)
        else:
            machine.streams.lose_all()
        self._inside = False

    def cut(self, stream: int, code: ErrorCode) -> None:
        """End a stream to both sides, unless raw: to the client with a reset of ``code``."""
        assert self._machine is not None
        self._machine.streams.cut(stream, code)
        self._commanded()

    def _commanded(self) -> None:
        if not self._inside:
            self._rest()
            self._woken()

    def _rest(self) -> None:
        """Pay what is owed; go on raw if nothing remains to be done."""
        machine = self._machine
        assert machine is not None
        machine.streams.refund()
        if machine.streams.at_rest and all(each.is_empty for each in self._gatherers):
            self._machine = None
