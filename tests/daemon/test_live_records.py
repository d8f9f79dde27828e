"""The life of the process that makes records for readers: started, given workers, and ended."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from criproxy.audit.spec import AuditSpec, RedactSpec, SinkSpec, StdoutSpec
from criproxy.concurrency.tasks import Tasks
from criproxy.config.schema import AdminConfig, Config
from criproxy.daemon.supervisor.processes.live_records import LiveRecords, spec_of
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint
from tests.support.waiting import LIMIT_SECONDS

CONFIG = msgspec.structs.replace(Config(), admin=AdminConfig(Endpoint("/run/admin.sock")))


class Process:
    """A tail process that only notes what becomes of it."""

    def __init__(self, restarted: Callable[[], None]) -> None:
        self.restarted = restarted
        self.specs: list[Any] = []
        self.is_running = True
        self.closed = False
        self.fails = False

    async def configure(self, spec: Any) -> None:
        if self.fails:
            raise UnavailableError("the tail cannot be started")
        self.specs.append(spec)

    @contextmanager
    def connect(self, spec: Any) -> Iterator[int]:
        assert spec == self.specs[-1]
        yield 7

    async def close(self) -> None:
        self.closed = True


class Worker:
    def __init__(self, fails: bool = False) -> None:
        self.asked = 0
        self.fails = fails

    async def ask(self, what: str, descriptors: Sequence[int], spec: bytes) -> None:
        assert (what, descriptors) == ("record", [7])
        self.asked += 1
        if self.fails:
            raise OSError("it has ended")


class World:
    """A daemon with two workers in its pool."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.fails = False
        self.workers = [Worker(), Worker(fails=True)]
        self.told: list[str] = []
        self.pool: Any = SimpleNamespace(
            loaded=SimpleNamespace(config=CONFIG), running=set(self.workers), tell=self.told.append
        )
        self.tasks = Tasks(lambda name, error: pytest.fail(f"{name}: {error!r}"))
        self.records = LiveRecords([self.pool], self._make, self.tasks)

    def _make(self, restarted: Callable[[], None]) -> Any:
        self.processes.append(Process(restarted))
        self.processes[-1].fails = self.fails
        return self.processes[-1]


def run(work: Callable[[World], Any]) -> None:
    async def all_of_it() -> None:
        world = World()
        async with asyncio.timeout(LIMIT_SECONDS):
            await work(world)
            await world.records.close()
            await world.tasks.cancel()

    asyncio.run(all_of_it())


def test_while_it_is_read() -> None:
    """It is started once, each worker has one channel, and it ends with the daemon."""

    async def work(world: World) -> None:
        await world.records.read_for(3600.0)
        await world.records.read_for(0.0)
        (process,) = world.processes
        assert [each.asked for each in world.workers] == [1, 1]
        assert (process.closed, world.told) == (False, [])
        await world.records.close()
        assert (process.closed, world.told) == (True, ["unrecord"])
        with pytest.raises(UnavailableError, match="the daemon ends"):
            await world.records.read_for(3600.0)
        assert world.processes == [process]

    run(work)


def test_when_nobody_reads() -> None:
    """It ends when nobody renews, and another one is started for the next reader."""

    async def work(world: World) -> None:
        for times in (1, 2):
            await world.records.read_for(0.0)
            await world.tasks.finished(LIMIT_SECONDS)
            assert [each.closed for each in world.processes] == [True] * times
            assert [each.specs for each in world.processes] == [[spec_of(CONFIG)]] * times
            assert [each.asked for each in world.workers] == [times] * 2
            assert world.told == ["unrecord"] * times

    run(work)


def test_new_channels() -> None:
    """A worker that is new has a channel, and all have when the process was started anew."""

    async def work(world: World) -> None:
        await world.records.read_for(3600.0)
        new = Worker()
        world.pool.running = {world.workers[0], new}
        await world.records.read_for(3600.0)
        assert (world.workers[0].asked, new.asked) == (1, 1)
        (process,) = world.processes
        process.restarted()
        process.is_running = False
        await world.records.read_for(3600.0)
        assert (world.workers[0].asked, new.asked) == (1, 1)
        process.is_running = True
        await world.records.read_for(3600.0)
        assert (world.workers[0].asked, new.asked) == (2, 2)

    run(work)


def test_a_reload() -> None:
    """The redaction is that of the configuration in force; workers without the admin socket, which
    drain, have no channel."""

    async def work(world: World) -> None:
        await world.records.read_for(3600.0)
        audit = AuditSpec(sinks=[SinkSpec(stdout=StdoutSpec())], redact=RedactSpec(info=False))
        config = msgspec.structs.replace(CONFIG, audit=audit)
        world.pool.loaded = SimpleNamespace(config=config)
        await world.records.read_for(3600.0)
        (process,) = world.processes
        process.is_running = False
        world.pool.loaded = SimpleNamespace(config=CONFIG)
        await world.records.read_for(3600.0)  # whoever starts it anew configures it
        process.is_running = True
        world.pool.loaded = SimpleNamespace(config=config)
        await world.records.read_for(3600.0)
        assert process.specs == [spec_of(CONFIG), spec_of(config)]
        assert not process.specs[-1].redact.info
        world.pool.loaded = SimpleNamespace(config=Config())
        world.pool.running = {Worker()}
        await world.records.read_for(3600.0)
        assert [each.asked for each in world.pool.running] == [0]

    run(work)


def test_a_process_that_cannot_be_started() -> None:
    """It is an error for the reader, and the next one tries again."""

    async def work(world: World) -> None:
        world.fails = True
        with pytest.raises(UnavailableError, match="cannot be started"):
            await world.records.read_for(3600.0)
        await world.tasks.finished(LIMIT_SECONDS)
        assert world.processes[0].closed
        world.fails = False
        await world.records.read_for(3600.0)
        assert [each.asked for each in world.workers] == [1, 1]

    run(work)
