"""Records of all calls for the readers of the admin socket: of recorded calls, and bounded."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from criproxy.audit.counts import SinkCounts
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.recorder.channels import Channels
from criproxy.audit.recorder.encoder import RecordEncoder
from criproxy.audit.recorder.intake import Intake
from criproxy.audit.records.record_builder import RecordBuilder
from criproxy.audit.spec import AuditSpec, FileSpec, RedactSpec, SinkSpec
from criproxy.config.schema import Config
from criproxy.configtypes.values import Size
from criproxy.daemon.supervisor.processes.live_records import spec_of
from criproxy.daemon.worker.observers import call_records
from criproxy.daemon.worker.observers.call_records import CallRecords
from criproxy.daemon.worker.observers.call_subjects import CallSubjects
from criproxy.relay.listener import captures_nothing
from criproxy.wire.reading.connection import CallEnded, ConnectionReader
from criproxy.wire.reading.message_capture import CaptureBudget, CaptureLimits
from tests.support.audit_lines import Gate, sink
from tests.support.calls import CONNECTION, ended
from tests.support.captures import capture
from tests.support.waiting import LIMIT_SECONDS

SPEC = spec_of(Config())
VERSION = b"/runtime.v1.RuntimeService/Version"


class Recorder:
    """A recorder of a specification, in this process, and a worker's side of its channel."""

    def __init__(self, spec: AuditSpec) -> None:
        self.spec = spec
        self.gate = Gate()
        self.subjects = CallSubjects()
        self.records = CallRecords(self.subjects, 1)
        self._channels = Channels()
        self._intake = Intake()
        builder = RecordBuilder(
            AuditPolicy(spec.policy), spec.redact, "n1", lambda now: round(now * 1e9), spec.message
        )
        outlet = sink(self.gate, SinkCounts(), records=10_000, size=64 << 20)
        self._encoder = RecordEncoder(builder.make, self._intake, [outlet], lambda text: None)

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        self._channels.add(theirs, self._intake, self._encoder)
        await self.records.open(self.spec, ours)

    def replay(self, name: str) -> Counter[str]:
        """Pass on the calls of a recorded connection; return how often each method was called."""
        select = self.records.capturing(captures_nothing)(CONNECTION)
        reader = ConnectionReader(select_capture=select)
        calls: Counter[str] = Counter()
        for sent in capture(name):
            for event in reader.receive(sent.side, sent.data, sent.now):
                if isinstance(event, CallEnded):
                    calls[event.call.path.decode().rpartition("/")[2]] += 1
                    self.subjects.ended(event.call)
                self.records.observe(CONNECTION, event, sent.now)
        return calls

    async def lines(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many records."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(self.gate.lines) < count:  # noqa: ASYNC110  # another thread appends
                await asyncio.sleep(0.001)
        return [json.loads(line) for line in self.gate.lines]

    def close(self) -> None:
        self.gate.open.set()
        self.records.close()
        self._channels.wait_for(self._encoder)
        self._encoder.close(LIMIT_SECONDS)
        self._channels.close()


@asynccontextmanager
async def recording(spec: AuditSpec = SPEC) -> AsyncIterator[Recorder]:
    recorder = Recorder(spec)
    try:
        yield recorder
    finally:
        await asyncio.to_thread(recorder.close)


def test_recorded_kubelet() -> None:
    """Each call of a real kubelet has a record with its messages, and none of what is secret."""

    async def run() -> None:
        async with recording() as recorder:
            await recorder.open()
            calls = recorder.replay("kubelet-01")
            records = await recorder.lines(calls.total())
            assert Counter(each["method"] for each in records) == calls
            shown = {each["method"]: each for each in records}
            assert all("requestObject" in each for each in records)
            status = shown["PodSandboxStatus"]["responseObject"]["status"]
            assert status["metadata"]["name"].startswith("static-")
            envs = [
                env
                for each in records
                if each["method"] == "CreateContainer"
                for env in each["requestObject"]["config"].get("envs", [])
            ]
            assert {"key": "LAB", "value": "[redacted: 3 bytes]"} in envs
            assert all(env["value"].startswith("[redacted: ") for env in envs)
            assert shown["ExecSync"]["requestObject"]["cmd"]
            assert shown["ExecSync"]["exitCode"] == 0
            for method in ("ExecSync", "Exec", "Attach", "PortForward"):
                assert shown[method]["responseObject"] == {}

    asyncio.run(run())


def test_while_nobody_reads() -> None:
    """Nothing is captured before and after; what is not read cannot be waited for."""

    async def run() -> None:
        async with recording() as recorder:
            select = recorder.records.capturing(captures_nothing)(CONNECTION)
            assert select is not None
            assert select(VERSION) is None
            assert recorder.replay("kubelet-03")
            await recorder.open()
            limits = select(VERSION)
            assert limits is not None
            assert (limits.request, limits.response) == (SPEC.message, SPEC.message)
            recorder.records.close()
            assert select(VERSION) is None
            recorder.replay("kubelet-03")
            await recorder.open()
            calls = recorder.replay("kubelet-19")
            assert len(await recorder.lines(calls.total())) == calls.total()

    asyncio.run(run())


def test_names() -> None:
    """The pods and containers that are known when somebody begins to read have their names."""

    async def run() -> None:
        async with recording() as recorder:
            reader = ConnectionReader(
                select_capture=recorder.subjects.capturing(captures_nothing)(CONNECTION)
            )
            last = None
            for sent in capture("kubelet-01"):
                for event in reader.receive(sent.side, sent.data, sent.now):
                    if isinstance(event, CallEnded):
                        if event.call.path.endswith(b"/ContainerStatus"):
                            last = event
                        if not event.call.path.endswith((b"/RemoveContainer", b"RemovePodSandbox")):
                            recorder.subjects.ended(event.call)
            assert last is not None
            await recorder.open()
            recorder.records.observe(CONNECTION, last, 0.0)
            (record,) = await recorder.lines(1)
            assert record["pod"]["name"].startswith("static-")
            assert record["container"]["name"]
            assert record["image"] == record["container"]["image"]

    asyncio.run(run())


def test_a_process_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker waits for no record: what does not fit is left out, and counted among the others."""
    monkeypatch.setattr(call_records, "_LIMITS", call_records.ChannelLimits(items=10))

    async def run() -> None:
        async with recording() as recorder:
            await recorder.open()
            for _ in range(100):  # which the loop does not send meanwhile
                recorder.records.observe(CONNECTION, CallEnded(ended(b"Version")), 0.0)
            records = await recorder.lines(11)
            kinds = Counter(each["kind"] for each in records)
            assert kinds == {"Event": 10, "Dropped": 1}
            (dropped,) = (each for each in records if each["kind"] == "Dropped")
            assert dropped["dropped"] == 90

    asyncio.run(run())


def test_a_process_that_has_ended() -> None:
    """The worker captures and sends nothing until it has another channel."""

    async def run() -> None:
        async with recording() as recorder:
            ours, theirs = socket.socketpair()
            await recorder.records.open(SPEC, ours)
            theirs.close()
            select = recorder.records.capturing(captures_nothing)(CONNECTION)
            assert select is not None
            async with asyncio.timeout(LIMIT_SECONDS):
                while select(VERSION) is not None:  # noqa: ASYNC110  # nothing else tells of it
                    await asyncio.sleep(0)
            recorder.records.forget(CONNECTION)
            await recorder.open()
            recorder.records.observe(CONNECTION, CallEnded(ended(b"Version")), 0.0)
            await recorder.lines(1)

    asyncio.run(run())


def test_the_audit_log_is_charged_first() -> None:
    """What the audit log captures is on its own budget; more is captured beside it."""
    own = CaptureLimits(100, 0, CaptureBudget(1000))

    async def run() -> None:
        async with recording() as recorder:
            await recorder.open()
            select = recorder.records.capturing(lambda connection: lambda path: own)(CONNECTION)
            assert select is not None
            limits = select(VERSION)
            assert limits == CaptureLimits(SPEC.message, SPEC.message, own.budget)

    asyncio.run(run())


def test_redaction_is_that_of_the_audit_log(tmp_path: Path) -> None:
    """What the audit log redacts and how much it records holds for these records as well."""
    redact = RedactSpec(environment=False, annotations=["a.*"])
    audit = AuditSpec(
        sinks=[SinkSpec(file=FileSpec(str(tmp_path / "log")))],
        redact=redact,
        message=Size(1000),
        node="n7",
    )
    spec = spec_of(msgspec.structs.replace(Config(), audit=audit))
    assert (spec.redact, spec.message, spec.node) == (redact, 1000, "n7")
    assert (SPEC.redact, SPEC.node) == (RedactSpec(), None)
    assert spec.policy == SPEC.policy
    assert [each.stdout is not None for each in spec.sinks] == [True]
