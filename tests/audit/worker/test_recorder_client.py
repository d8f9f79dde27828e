"""RecorderClient: what a worker sends to the recorder, keeps, drops and waits for."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from criproxy.audit.channel import SLOTS, QueueStatus, status_frame
from criproxy.audit.counts import SinkCounts
from criproxy.audit.items import CallAtStage, Item, RuntimeListing
from criproxy.audit.recorder.channels import Channels
from criproxy.audit.spec import FileSpec, SinkSpec, StdoutSpec
from criproxy.audit.worker.recorder_client import LIMITS, ChannelLimits, RecorderClient
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Connection
from tests.support.audit_lines import Gate, Line, Pipeline, item, make, numbers, reported, sink
from tests.support.audited import KUBELET, observed
from tests.support.waiting import LIMIT_SECONDS

DROP = [SinkSpec(stdout=StdoutSpec())]
BLOCK = [SinkSpec(stdout=StdoutSpec(), on_full="block")]
SYNCED = [SinkSpec(file=FileSpec("x", fsync="always"), on_full="block")]


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110  # of objects that have no events
            await asyncio.sleep(0.001)


class Recorder:
    """A recorder on threads of the test's process, which may not serve at first."""

    def __init__(
        self,
        gate: Gate,
        counts: SinkCounts,
        blocking: bool,
        records: int = 1000,
        maker: Callable[[Item], Line | None] = make,
    ) -> None:
        one = sink(gate, counts, blocking=blocking, records=records)
        self.pipeline = Pipeline(one, maker=maker)
        self.channels = Channels()

    def serve(self, world: "World") -> None:
        """Serve the other end of a client's channel, which is closed at the client's end."""
        self.channels.add(world.theirs.dup(), self.pipeline.intake, self.pipeline.encoder)

    def close(self) -> None:
        self.channels.close()
        self.pipeline.close(LIMIT_SECONDS)


class World:
    """A client, the other end of its channel, and counters of what it drops."""

    def __init__(
        self, sinks: list[SinkSpec], limits: ChannelLimits = LIMITS, queues: int = 1
    ) -> None:
        self.counts = SinkCounts()
        self.losses = 0
        ours, self.theirs = socket.socketpair()
        self.client = RecorderClient(ours, sinks, {"one": self.counts}, queues, self._lost, limits)

    def _lost(self) -> None:
        self.losses += 1

    def report(self, queue: int, taken: int, done: int, full: bool = False, *failed: int) -> None:
        """Send a status as the recorder does."""
        self.theirs.sendall(status_frame([QueueStatus(queue, taken, done, full, list(failed))]))

    def close(self, within: float = 0) -> int:
        """Close both ends; return the number of items that were not sent."""
        unsent = self.client.close(within)
        self.theirs.close()
        return unsent

    def new_channel(self) -> bool:
        """Offer the client a new channel; return whether it is used."""
        ours, theirs = socket.socketpair()
        used = self.client.reconnect(ours)
        (self.theirs if used else theirs).close()
        self.theirs = theirs if used else self.theirs
        return used


@asynccontextmanager
async def recording(
    sinks: list[SinkSpec],
    gate: Gate,
    records: int = 1000,
    maker: Callable[[Item], Line | None] = make,
) -> AsyncIterator[tuple[World, SinkCounts]]:
    """A client and a recorder."""
    counts = SinkCounts()
    world = World(sinks)
    recorder = Recorder(gate, counts, sinks[0].on_full == "block", records, maker)
    recorder.serve(world)
    try:
        yield world, counts
    finally:
        gate.open.set()
        world.close(LIMIT_SECONDS)
        await asyncio.to_thread(recorder.close)


def test_items_are_recorded_in_order() -> None:
    """Every submitted item of a listener has its record, in order, and is then kept no longer."""
    gate = Gate()

    async def test() -> None:
        async with recording(BLOCK, gate) as (world, counts):
            for number in range(2000):
                world.client.submit(item(number))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await until(lambda: counts.written == 2000)
            queue = world.client._by_number[0]
            await until(lambda: not queue.entries)
            assert (queue.bytes, len(queue.sizes)) == (0, 0)

    asyncio.run(test())
    assert numbers(gate.lines) == list(range(2000))


def test_submitting_sends_later() -> None:
    """Submitting only queues; items of the next milliseconds are sent together."""

    async def test() -> None:
        world = World(DROP)
        world.theirs.setblocking(False)
        for number in range(3):
            world.client.submit(item(number))
        with pytest.raises(BlockingIOError):
            world.theirs.recv(1)
        await until(lambda: select.select([world.theirs], [], [], 0)[0])
        assert world.theirs.recv(1 << 20).count(b"\xa4test") == 3  # MessagePack of their reason
        world.close(1)

    asyncio.run(test())


def test_a_full_queue_drops() -> None:
    """Above a queue's limit items are dropped and counted for each sink, and reported later."""
    gate = Gate()
    lost: list[int] = []

    def line(made: Item) -> Line | None:
        return None if isinstance(made, RuntimeListing) else make(made)

    async def test() -> None:
        counts = SinkCounts()
        world = World(DROP, ChannelLimits(items=5))
        for number in range(20):
            world.client.submit(item(number))
        world.client.submit(RuntimeListing(b"", b""))
        assert world.counts.dropped == {"intake_full": 15}
        assert not world.client.full
        recorder = Recorder(gate, counts, blocking=False, maker=line)
        recorder.serve(world)
        await until(lambda: counts.written == 5)
        dropped = -1
        while world.counts.dropped["intake_full"] != dropped:  # there is room once the sink reports
            dropped = world.counts.dropped["intake_full"]
            await asyncio.sleep(0.001)
            world.client.submit(item(20))
        await until(lambda: counts.written == 6)
        world.close(LIMIT_SECONDS)
        await asyncio.to_thread(recorder.close)
        assert counts.dropped == {}
        lost.append(world.counts.dropped["intake_full"])

    asyncio.run(test())
    assert numbers(gate.lines) == [0, 1, 2, 3, 4, 20]
    assert reported(gate.lines) == lost[0] >= 15


def test_a_queue_is_limited_in_bytes() -> None:
    """Large items fill a queue before their number does."""

    async def test() -> None:
        world = World(DROP, ChannelLimits(bytes=100_000))
        request = v1.ExecSyncRequest(cmd=["x" * 60_000])
        for _ in range(4):
            world.client.submit(observed("ExecSync", request))
        assert world.counts.dropped == {"intake_full": 2}
        world.close(0)

    asyncio.run(test())


def test_a_listener_does_not_fill_the_queue_of_another() -> None:
    """However many items of one listener wait, another's are accepted."""

    def call(listener: str) -> CallAtStage:
        one = observed("Version")
        return CallAtStage(
            one.stage, one.audit_id, Connection(listener, KUBELET, 0.0), one.call, one.at
        )

    async def test(sinks: list[SinkSpec]) -> None:
        world = World(sinks, ChannelLimits(items=10), queues=2)
        for _ in range(100):
            if not world.client.is_full("agent"):
                world.client.submit(call("agent"))
        assert not world.client.is_full("kubelet")
        for _ in range(5):
            world.client.submit(call("kubelet"))
        assert len(world.client._queues["kubelet"].entries) == 5
        world.close(0)

    asyncio.run(test(DROP))
    asyncio.run(test(BLOCK))


def test_blocking() -> None:
    """A client with a blocking sink is full while the sink is, and calls back when it has room."""
    gate = Gate(opened=False)

    async def test() -> None:
        async with recording(BLOCK, gate, records=10) as (world, counts):
            client = world.client
            assert (client.blocking, client.synced, client.max_wait) == (True, False, 10.0)
            called: list[str] = []
            client.when_room("unix:///run/test.sock", lambda: called.append("at once"))
            for number in range(50):
                client.submit(item(number))
            await until(lambda: client.full)
            assert client.is_full("unix:///run/test.sock")
            assert not client.is_full("another")
            client.when_room("unix:///run/test.sock", lambda: called.append("later"))
            assert called == ["at once"]
            gate.open.set()
            await until(lambda: len(called) == 2)
            assert not client.full
            await until(lambda: counts.written == 50)

    asyncio.run(test())


def test_a_client_without_answers_is_full() -> None:
    """Items that the recorder does not take fill the queue of a blocking client without loss."""

    async def test() -> None:
        world = World(BLOCK, ChannelLimits(items=5))
        for number in range(8):
            world.client.submit(item(number))
        assert world.client.full
        assert world.counts.dropped == {}
        room = asyncio.Event()
        world.client.when_room("unix:///run/test.sock", room.set)
        world.report(0, taken=2, done=0)
        await until(lambda: len(world.client._by_number[0].sizes) == 6)
        assert not room.is_set()
        world.report(0, taken=4, done=0)
        await room.wait()
        world.report(0, taken=4, done=4, full=True)
        await until(lambda: world.client.full)
        world.close(0)

    asyncio.run(test())


def test_done_is_called_when_records_are_written() -> None:
    """``done`` is called once the record is written by all sinks, with whether it is durable."""

    async def test() -> None:
        world = World(SYNCED)
        assert world.client.synced
        results: list[tuple[int, bool]] = []
        for number in range(4):
            world.client.submit(
                item(number), lambda durable, number=number: results.append((number, durable))
            )
        world.report(0, taken=4, done=0)
        world.report(0, 4, 3, False, 1)
        await until(lambda: len(results) == 3)
        assert results == [(0, True), (1, False), (2, True)]
        world.close(1)
        assert results[3] == (3, False)
        world.client.submit(item(9), lambda durable: results.append((9, durable)))
        assert results[4] == (9, False)
        assert world.counts.dropped == {"closing": 1}

    asyncio.run(test())


def test_items_are_sent_again_over_a_new_channel() -> None:
    """Items without a written record survive the recorder's end, connections included."""
    gate, counts = Gate(), SinkCounts()

    async def test() -> None:
        world = World(BLOCK)
        for number in range(6):
            world.client.submit(item(number))
        world.report(0, taken=5, done=2)
        await until(lambda: world.client._by_number[0].first == 2)
        world.theirs.close()
        await until(lambda: world.client._channel is None)
        assert world.losses == 1
        world.client.submit(item(6))
        recorder = Recorder(gate, counts, blocking=True)
        assert world.new_channel()
        assert not world.new_channel()
        recorder.serve(world)
        world.client.submit(item(7))
        await until(lambda: counts.written == 6)
        await until(lambda: not world.client._by_number[0].entries)
        world.close(LIMIT_SECONDS)
        await asyncio.to_thread(recorder.close)

    asyncio.run(test())
    assert numbers(gate.lines) == [2, 3, 4, 5, 6, 7]


def test_closing_waits_for_records_that_must_not_be_lost() -> None:
    """With a blocking sink, closing returns when the records of all items are written."""

    async def test() -> None:
        world = World(BLOCK)
        results: list[bool] = []
        world.client.submit(item(0), results.append)
        closing = asyncio.create_task(asyncio.to_thread(world.theirs.recv, 1 << 16))
        await closing
        world.report(0, taken=1, done=1)
        assert world.close(LIMIT_SECONDS) == 0
        assert results == [True]

    asyncio.run(test())


def test_closing_ends_with_the_recorder() -> None:
    """A recorder that ends meanwhile is not waited for; the records count as not durable."""

    async def test() -> None:
        world = World(BLOCK)
        results: list[bool] = []
        world.client.submit(item(0), results.append)
        await asyncio.to_thread(world.theirs.recv, 1 << 16)
        world.theirs.close()
        world.client.close(LIMIT_SECONDS)
        assert results == [False]

    asyncio.run(test())


def test_a_sink_that_writes_behind_the_end_of_the_channels() -> None:
    """A sink that was stuck reports when its worker's channel is closed; that has no effect."""
    gate = Gate(opened=False)

    async def test() -> None:
        counts = SinkCounts()
        world = World(DROP)
        recorder = Recorder(gate, counts, blocking=False)
        recorder.serve(world)
        world.client.submit(item(0))
        await until(gate.entered.is_set)
        world.close(0)
        await asyncio.to_thread(recorder.channels.close)
        gate.open.set()
        await until(lambda: counts.written == 1)
        await asyncio.to_thread(recorder.pipeline.close, LIMIT_SECONDS)

    asyncio.run(test())
    assert numbers(gate.lines) == [0]


def test_a_report_in_pieces() -> None:
    """A report of the recorder is applied when all of it has arrived."""

    async def test() -> None:
        world = World(BLOCK)
        results: list[bool] = []
        for number in range(2):
            world.client.submit(item(number), results.append)
        for byte in status_frame([QueueStatus(0, 2, 2, False, [1])]):
            assert results == []
            world.theirs.sendall(bytes([byte]))
            await asyncio.sleep(0.001)
        await until(lambda: results)
        assert results == [True, False]
        world.close()

    asyncio.run(test())


def test_without_a_recorder_items_are_bounded() -> None:
    """While there is no recorder, ``drop`` counts what is over the limit, and ``block`` is full."""

    async def test() -> None:
        world = World(DROP, ChannelLimits(items=10))
        world.theirs.close()
        await until(lambda: world.client._channel is None)
        for number in range(30):
            world.client.submit(item(number))
        assert world.counts.dropped == {"intake_full": 20}
        assert world.close(0) == 10
        assert world.counts.dropped == {"intake_full": 20, "closing": 10}
        world = World(BLOCK, ChannelLimits(items=10))
        world.theirs.close()
        await until(lambda: world.client._channel is None)
        for number in range(10):
            assert not world.client.full
            world.client.submit(item(number))
        assert world.client.full
        world.close(0)

    asyncio.run(test())


def test_kept_items_of_a_stuck_sink_are_bounded() -> None:
    """Where no sink blocks, items whose records wait for a stuck sink are kept up to a limit."""

    async def test() -> None:
        world = World(DROP, ChannelLimits(items=10))
        queue = world.client._queue("unix:///run/test.sock")
        for number in range(100):
            world.client.submit(item(number))
            world.report(0, taken=number + 1, done=0)
            await until(lambda: not queue.sizes)
        assert len(queue.entries) == 20
        world.report(0, taken=100, done=95)
        await until(lambda: len(queue.entries) == 5)
        assert world.counts.dropped == {}
        world.close(0)

    asyncio.run(test())


@pytest.mark.parametrize("sinks", [DROP, BLOCK], ids=["drop", "block"])
def test_kept_items_are_bounded_in_bytes(sinks: list[SinkSpec]) -> None:
    """Items that wait for a stuck sink are limited in bytes: a client that drops keeps the last of
    them, and one that blocks is full."""

    async def test() -> None:
        world = World(sinks, ChannelLimits(bytes=10_000))
        queue = world.client._queue("unix:///run/criproxy/criproxy.sock")
        request = v1.ExecSyncRequest(cmd=["x" * 6_000])
        for number in range(1, 11):
            if world.client.full:
                break
            world.client.submit(observed("ExecSync", request))
            await until(lambda: not world.client._unsent_bytes)
            world.report(0, taken=number, done=0)
            await until(lambda: not queue.sizes)
        assert queue.kept_bytes <= 30_000
        assert len(queue.entries) == (4 if world.client.blocking else 3)
        world.close()

    asyncio.run(test())


def test_connections_share_a_bounded_number_of_slots() -> None:
    """Many connections, open and closed, are distinguished, and their descriptions are bounded."""
    gate = Gate()
    count = 2 * SLOTS + 100

    def line(made: Item) -> Line:
        assert isinstance(made, CallAtStage)
        assert made.connection.opened == made.at == float(made.audit_id)
        return make(item(int(made.audit_id)))

    async def test() -> None:
        async with recording(BLOCK, gate, maker=line) as (world, counts):
            for number in range(count):
                connection = Connection(f"listener-{number % 3}", KUBELET, float(number))
                one = observed("Version")
                world.client.submit(
                    CallAtStage(one.stage, str(number), connection, one.call, float(number))
                )
                if number % 2:
                    world.client.forget(connection)
            await until(lambda: counts.written == count)
            assert len(world.client._connections) == SLOTS
            assert len(world.client._slots) <= SLOTS

    asyncio.run(test())
    assert sorted(numbers(gate.lines)) == list(range(count))


def test_a_large_item_passes_a_small_socket_buffer() -> None:
    """A message of many megabytes is sent in parts, and small items follow it in order."""
    gate = Gate()

    def line(made: Item) -> Line:
        if not isinstance(made, CallAtStage):
            return make(made)
        assert made.call.capture is not None
        assert made.call.capture.request is not None
        ((data, _),) = made.call.capture.request.messages
        return make(item(len(data)))

    large = v1.ExecSyncRequest(cmd=["x" * (8 << 20)])

    async def test() -> None:
        async with recording(BLOCK, gate, maker=line) as (world, counts):
            world.client.submit(item(0))
            world.client.submit(observed("ExecSync", large))
            world.client.submit(item(1))
            await until(lambda: counts.written == 3)

    asyncio.run(test())
    assert sorted(numbers(gate.lines)) == [0, 1, large.ByteSize()]
