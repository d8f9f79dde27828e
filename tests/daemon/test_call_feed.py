"""The queue of ended calls: what waits in it is bounded, and what is left out is counted."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import structlog

from criproxy.daemon.worker.observers import call_feed
from criproxy.daemon.worker.observers.call_feed import CallFeed
from criproxy.daemon.worker.observers.call_subjects import CallSubjects
from criproxy.observe.logs.call_log import CallLog
from criproxy.wire.reading.message_capture import CaptureLimits, MessageCapture
from tests.support.calls import CONNECTION, ended
from tests.support.waiting import LIMIT_SECONDS


class Feed:
    """A feed whose lines are collected."""

    def __init__(self) -> None:
        self.now = 0.0
        self.accepts = True
        self.sent: list[tuple[list[str], int]] = []
        log = CallLog(structlog.get_logger(), lambda line: None, "info", {}, lambda moment: moment)
        self.feed = CallFeed(log, CallSubjects(), self._send, lambda: self.now)

    def _send(self, lines: Sequence[bytes], lost: int) -> bool:
        if self.accepts:
            self.sent.append(([method(line) for line in lines], lost))
        return self.accepts

    def end(self, name: bytes, captured: int = 0) -> bool:
        call = ended(name, took=0.5)
        if captured:
            call.capture = MessageCapture(CaptureLimits(captured, 0))
            assert call.capture.request is not None
            call.capture.request.messages.append((bytes(captured), False))
        return self.feed.ended(CONNECTION, call, slow=False)

    async def settle(self) -> None:
        """Wait until no line is to be made."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while self.feed._scheduled:  # noqa: ASYNC110  # nothing tells of it but the flag
                await asyncio.sleep(0)


def method(line: bytes) -> str:
    fields: dict[str, Any] = msgspec.json.decode(line)
    assert (fields["event"], fields["duration_s"]) == ("call", 0.5)
    return str(fields["method"])


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_feed, "_GATHERING", 0.0)


def test_only_while_somebody_reads() -> None:
    """Lines are sent while they are read; those of pod starts are kept in any case."""

    async def run() -> None:
        feed = Feed()
        feed.end(b"Version")
        feed.end(b"RunPodSandbox")
        await feed.settle()
        assert feed.sent == []
        feed.feed.read_for(5.0)
        feed.end(b"Version")
        feed.end(b"StartContainer")
        await feed.settle()
        feed.now = 5.0
        feed.end(b"Version")
        await feed.settle()
        assert feed.sent == [(["Version", "StartContainer"], 0)]
        assert [method(line) for line in await feed.feed.kept()] == [
            "RunPodSandbox",
            "StartContainer",
        ]

    asyncio.run(run())


def test_kept_lines_are_there_at_once() -> None:
    """What is kept has every call that has ended, also those whose lines had to be made."""

    async def run() -> None:
        feed = Feed()
        for _ in range(100):
            feed.end(b"RunPodSandbox")
        assert len(await feed.feed.kept()) == 100
        await feed.settle()
        assert len(await feed.feed.kept()) == 100

    asyncio.run(run())


def test_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls above the number or the bytes that may wait are left out and counted."""
    monkeypatch.setattr(call_feed, "MAX_CALLS", 3)
    monkeypatch.setattr(call_feed, "MAX_CAPTURED", 1000)

    async def run() -> None:
        feed = Feed()
        feed.feed.read_for(5.0)
        for _ in range(5):
            feed.end(b"Version")
        await feed.settle()
        assert feed.sent == [(["Version"] * 3, 2)]
        feed.end(b"PullImage", captured=600)
        feed.end(b"PullImage", captured=600)
        feed.end(b"Version")
        await feed.settle()
        assert feed.sent[1:] == [(["PullImage", "Version"], 1)]
        feed.end(b"PullImage", captured=600)
        await feed.settle()
        assert feed.sent[2:] == [(["PullImage"], 0)]

    asyncio.run(run())


def test_a_supervisor_that_is_behind() -> None:
    """Lines that cannot be sent are counted with the next ones."""

    async def run() -> None:
        feed = Feed()
        feed.feed.read_for(5.0)
        feed.accepts = False
        feed.end(b"Version")
        await feed.settle()
        feed.accepts = True
        feed.end(b"Status")
        await feed.settle()
        assert feed.sent == [(["Status"], 1)]

    asyncio.run(run())


def test_removals_wait_for_the_lines_before_them() -> None:
    """The feed updates the pod cache after calls that remove something, unless it is full."""

    async def run() -> None:
        feed = Feed()
        assert feed.end(b"RemovePodSandbox")
        assert feed.end(b"RemoveContainer")
        assert not feed.end(b"RunPodSandbox")
        assert not feed.end(b"Version")
        await feed.settle()

    asyncio.run(run())


def test_kept_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest lines make room."""

    async def run() -> None:
        feed = Feed()
        feed.end(b"RunPodSandbox")
        size = len((await feed.feed.kept())[0])
        monkeypatch.setattr(call_feed, "MAX_KEPT", 3 * size + size // 2)
        for _ in range(9):
            feed.end(b"RunPodSandbox")
        feed.end(b"StopPodSandbox")
        assert [method(line) for line in await feed.feed.kept()][-2:] == [
            "RunPodSandbox",
            "StopPodSandbox",
        ]
        assert len(await feed.feed.kept()) == 3
        await feed.settle()

    asyncio.run(run())
