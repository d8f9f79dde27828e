"""The recorder process: configured, killed, stopped and ended, with real channels."""

import asyncio
import json
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from criproxy.audit.channel import HEADER
from criproxy.audit.counts import SinkCounts
from criproxy.audit.items import CallAtStage
from criproxy.audit.spec import AuditRuleSpec, AuditSpec, FileSpec, RedactSpec, SinkSpec
from criproxy.audit.worker.recorder_client import ChannelLimits, RecorderClient
from criproxy.concurrency.process_messages import ControlSocket, Message
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Connection
from tests.support.audit_lines import lines_of, verify
from tests.support.audited import KUBELET, observed
from tests.support.waiting import LIMIT_SECONDS, wait_until

_PROCESS = """
import sys
from criproxy.daemon.recorder import run_recorder
sys.exit(run_recorder(int(sys.argv[1])))
"""


class Recorder:
    """A recorder process and its control channel."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_SECONDS)
        command = [sys.executable, "-c", _PROCESS, str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self._sock = ours
        self._control = ControlSocket(ours)
        self._messages: list[Message] = []

    def configure(self, spec: AuditSpec) -> Message:
        """Have sinks opened, and return the answer."""
        self._control.send({"op": "configure", "spec": pickle.dumps(spec)})
        return self.message("ready", "failed")

    def channel(self, buffer: int = 0) -> socket.socket:
        """Return the worker's end of a new channel; ``buffer`` is the recorder's send buffer."""
        ours, theirs = socket.socketpair()
        if buffer:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self._control.send({"op": "channel"}, [theirs.fileno()])
        theirs.close()
        return ours

    def reopen(self) -> None:
        self._control.send({"op": "reopen"})

    def message(self, *operations: str) -> Message:
        """Wait for the next message of a kind."""
        while True:
            while self._messages:
                message = self._messages.pop(0)
                if message["op"] in operations:
                    return message
            self._messages += [message for message, _ in self._control.receive()]

    def counted(self, name: str) -> float:
        """Wait for the next report of metrics, and return a sample."""
        families = self.message("metrics")["snapshot"]
        return next(
            (value for family in families for sample, _, value in family[3] if sample == name), 0.0
        )

    def end(self) -> int:
        """Close the control channel, and wait for the end."""
        self._sock.close()
        return self.process.wait(LIMIT_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_SECONDS)
        self._sock.close()


@pytest.fixture
def start() -> Iterator[Callable[[], Recorder]]:
    """Starts recorders, and ends them after the test."""
    started: list[Recorder] = []

    def start() -> Recorder:
        started.append(Recorder())
        return started[-1]

    yield start
    for each in started:
        each.kill()


def spec_of(path: Path, on_full: Any = "drop", fsync: Any = "none", **more: Any) -> AuditSpec:
    sink = SinkSpec(file=FileSpec(str(path), chain=True, fsync=fsync), on_full=on_full)
    return AuditSpec(
        sinks=[sink], policy=[AuditRuleSpec("Request", methods=["*"])], node="node-1", **more
    )


def call(number: int, listener: str = "full", *command: str) -> CallAtStage:
    """Return a call whose audit id is a number."""
    one = observed("ExecSync", v1.ExecSyncRequest(container_id="c", cmd=command))
    connection = Connection(listener, KUBELET, 0.0)
    return CallAtStage(one.stage, str(number), connection, one.call, one.at)


def client_of(
    channel: socket.socket,
    spec: AuditSpec,
    counts: SinkCounts,
    items: int = 20_000,
    queues: int = 1,
) -> RecorderClient:
    limits = ChannelLimits(items)
    return RecorderClient(channel, spec.sinks, {"file": counts}, queues, lambda: None, limits)


def ids(path: Path) -> list[int]:
    """The audit ids of the records in a file, in order."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return [int(json.loads(line)["auditID"]) for line in data[: data.rfind(b"\n") + 1].splitlines()]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110  # of another process
            await asyncio.sleep(0.005)


def test_the_control_channel_closes_last(tmp_path: Path, start: Callable[[], Recorder]) -> None:
    """At the end of the control channel all that was sent is written, and the status is 0."""
    path = tmp_path / "audit.jsonl"
    recorder = start()
    assert recorder.configure(spec_of(path)) == {"op": "ready"}

    async def test() -> None:
        clients = [client_of(recorder.channel(), spec_of(path), SinkCounts()) for _ in range(3)]
        for number in range(3000):
            clients[number % 3].submit(call(number))
        assert [each.close(LIMIT_SECONDS) for each in clients] == [0, 0, 0]

    asyncio.run(test())
    assert recorder.end() == 0
    assert sorted(ids(path)) == list(range(3000))
    assert verify(path).broken is None


def test_counters_are_reported(tmp_path: Path, start: Callable[[], Recorder]) -> None:
    """The counters of the sinks are reported as metrics, and continue in a new configuration."""
    recorder = start()
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]

    async def test() -> None:
        recorder.configure(spec_of(paths[0]))
        one = client_of(recorder.channel(), spec_of(paths[0]), SinkCounts())
        for number in range(5):
            one.submit(call(number))
        await until(lambda: len(ids(paths[0])) == 5)
        recorder.configure(spec_of(paths[1]))
        two = client_of(recorder.channel(), spec_of(paths[1]), SinkCounts())
        one.submit(call(5))
        two.submit(call(6))
        await until(lambda: ids(paths[0]) == list(range(6)) and ids(paths[1]) == [6])
        one.close(1)
        two.close(1)

    asyncio.run(test())
    wait_until(lambda: recorder.counted("criproxy_audit_records_total") == 7, "all records")
    assert recorder.end() == 0


def test_a_configuration_that_fails(tmp_path: Path, start: Callable[[], Recorder]) -> None:
    """A sink that cannot be opened is reported; the configuration before stays in force."""
    recorder = start()
    bad = spec_of(Path("/proc/no/audit.jsonl"))
    answer = recorder.configure(bad)
    assert (answer["op"], answer["usage"]) == ("failed", False)
    assert "/proc/no/audit.jsonl" in answer["error"]
    path = tmp_path / "audit.jsonl"
    assert recorder.configure(spec_of(path))["op"] == "ready"
    assert recorder.configure(bad)["op"] == "failed"

    async def test() -> None:
        client = client_of(recorder.channel(), spec_of(path), SinkCounts())
        client.submit(call(1))
        await until(lambda: ids(path) == [1])
        path.rename(tmp_path / "moved.jsonl")
        recorder.reopen()
        await until(path.exists)
        client.submit(call(2))
        await until(lambda: ids(path) == [2])
        client.close(1)

    asyncio.run(test())
    assert recorder.end() == 0


@pytest.mark.parametrize(("on_full", "fsync"), [("drop", "none"), ("block", "always")])
def test_killed_under_load(
    tmp_path: Path, start: Callable[[], Recorder], on_full: str, fsync: str
) -> None:
    """After kill -9 of the recorder every item is recorded by the next one, at least once, and the
    chain of hashes holds."""
    path = tmp_path / "audit.jsonl"
    spec = spec_of(path, on_full, fsync)
    done: list[int] = []

    async def test() -> None:
        recorder = start()
        recorder.configure(spec)
        counts = SinkCounts()
        client = client_of(recorder.channel(), spec, counts)
        submitted = 0
        for _ in range(3):
            target = len(ids(path)) + 200
            while len(ids(path)) < target:
                for _ in range(50):
                    number = submitted
                    client.submit(call(number), lambda durable, number=number: done.append(number))
                    submitted += 1
                await asyncio.sleep(0.01)
            recorder.kill()
            if fsync == "always":
                assert set(done) <= set(ids(path))
            client.submit(call(submitted))
            submitted += 1
            recorder = start()
            recorder.configure(spec)
            await until(lambda: client._channel is None)
            assert client.reconnect(recorder.channel())
        await until(lambda: set(ids(path)) == set(range(submitted)))
        assert client.close(LIMIT_SECONDS) == 0
        assert counts.dropped == {}
        await asyncio.to_thread(recorder.end)

    asyncio.run(test())
    report = verify(path)
    assert report.broken is None
    assert len(lines_of(path)) == report.records + len(report.torn)
    assert sorted(set(done)) == sorted(done)


@pytest.mark.parametrize("on_full", ["drop", "block"])
def test_stopped(tmp_path: Path, start: Callable[[], Recorder], on_full: str) -> None:
    """While the recorder is stopped, ``drop`` counts what is over a listener's limit, and ``block``
    is full for it; the other listener has its share. Then everything is written or reported."""
    path = tmp_path / "audit.jsonl"
    spec = spec_of(path, on_full)

    async def test() -> None:
        recorder = start()
        recorder.configure(spec)
        counts = SinkCounts()
        client = client_of(recorder.channel(), spec, counts, items=200, queues=2)
        client.submit(call(0))
        await until(lambda: ids(path) == [0])
        recorder.process.send_signal(signal.SIGSTOP)
        agent = 0
        while not client.is_full("agent") and agent < 1000:
            client.submit(call(10_000 + agent, "agent"))
            agent += 1
        assert counts.dropped.total() == (0 if on_full == "block" else 900)
        for number in range(1, 50):
            assert not client.is_full("full")
            client.submit(call(number))
        recorder.process.send_signal(signal.SIGCONT)
        room = asyncio.Event()
        client.when_room("agent", room.set)
        await room.wait()
        await until(lambda: not any(queue.entries for queue in client._by_number))
        client.close(LIMIT_SECONDS)
        await asyncio.to_thread(recorder.end)
        records = [json.loads(line) for line in lines_of(path)]
        events = [each for each in records if each["kind"] == "Event"]
        reported = sum(each["dropped"] for each in records if each["kind"] == "Dropped")
        assert {int(each["auditID"]) for each in events} >= set(range(50))
        assert len(events) + reported == 50 + agent
        assert reported == counts.dropped.total()

    asyncio.run(test())


def test_a_costly_argument_delays_no_other_listener(
    tmp_path: Path, start: Callable[[], Recorder]
) -> None:
    """An expression over a large argument is evaluated in the recorder, in time linear in it."""
    path = tmp_path / "audit.jsonl"
    spec = spec_of(
        path,
        redact=RedactSpec(values=[r"eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"]),
    )

    async def test() -> None:
        recorder = start()
        recorder.configure(spec)
        full, agent = (client_of(recorder.channel(), spec, SinkCounts()) for _ in range(2))
        for number in range(20):
            agent.submit(call(1000 + number, "agent", "eyJ" * 80_000))
        for number in range(20):
            full.submit(call(number))
        await until(lambda: len(ids(path)) == 40)
        full.close(1)
        agent.close(1)
        await asyncio.to_thread(recorder.end)

    asyncio.run(test())
    found = ids(path)
    last_of_full = max(found.index(number) for number in range(20))
    assert sum(number >= 1000 for number in found[:last_of_full]) < 20


def test_a_worker_that_does_not_read_reports(tmp_path: Path, start: Callable[[], Recorder]) -> None:
    """Reports to a worker that does not read them delay no other worker, and none is lost."""
    path = tmp_path / "audit.jsonl"
    recorder, spec = start(), spec_of(tmp_path / "audit.jsonl", on_full="block")
    recorder.configure(spec)

    async def test() -> None:
        channel = recorder.channel(buffer=1)
        stuck = client_of(channel, spec, SinkCounts())
        asyncio.get_running_loop().remove_reader(channel.fileno())
        for number in range(50):
            stuck.submit(call(number))
            await until(lambda count=number + 1: len(ids(path)) == count)
        other = client_of(recorder.channel(), spec, SinkCounts())
        other.submit(call(50))
        await until(lambda: not other._has_entries())
        assert len(stuck._by_number[0].entries) == 50
        asyncio.get_running_loop().add_reader(channel.fileno(), stuck._read)
        await until(lambda: not stuck._has_entries())
        assert [stuck.close(1), other.close(1)] == [0, 0]

    asyncio.run(test())
    assert recorder.end() == 0
    assert ids(path) == list(range(51))


def test_a_frame_that_is_none_ends_the_process(
    tmp_path: Path, start: Callable[[], Recorder]
) -> None:
    """What cannot be read of a channel ends the process, so that the supervisor starts another."""
    recorder = start()
    recorder.configure(spec_of(tmp_path / "audit.jsonl"))
    with recorder.channel() as channel:
        channel.sendall(HEADER.pack(0, 0xFF, 0, 0))
        assert recorder.process.wait(LIMIT_SECONDS) == 70
