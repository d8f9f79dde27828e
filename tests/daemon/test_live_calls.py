"""The readers of the lines of calls: a slow one loses lines, which are counted."""

import json
import threading
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from criproxy.cli.support.admin_client import AdminClient, lost_calls
from criproxy.daemon.supervisor.http import live_calls
from criproxy.daemon.supervisor.http.admin import AdminPages, AdminSocket
from criproxy.daemon.supervisor.http.live_calls import (
    MAX_QUEUED,
    MAX_READERS,
    LiveCalls,
    LiveReader,
)
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture
def calls() -> LiveCalls:
    return LiveCalls(lambda seconds: None)


def test_lines(calls: LiveCalls) -> None:
    """A reader is sent an empty line first, then what was added since it was opened."""
    calls.add([b"before"], 0)
    reader = calls.open()
    assert reader is not None
    calls.add([b"one", b"two"], 0)
    lines = calls.lines(reader)
    assert list(islice(lines, 2)) == [b"\n", b"one\ntwo\n"]
    calls.add([b"three"], 0)
    assert next(lines) == b"three\n"
    lines.close()  # type: ignore[attr-defined]
    calls.add([b"after"], 0)
    assert reader.take(0.0) == b""


def test_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines above the bytes that may wait are lost and counted; with room it goes on."""
    monkeypatch.setattr(live_calls, "MAX_QUEUED", 7)
    reader = LiveReader()
    reader.put([b"one", b"two", b"three"], 0)
    reader.put([b"four"], 10)
    *lines, lost = reader.take(0.0).splitlines()
    assert lines == [b"one", b"two"]
    assert json.loads(lost) == {"event": "calls lost", "count": 12}
    reader.put([b"five"], 0)
    assert reader.take(0.0) == b"five\n"


def test_the_number_of_readers(calls: LiveCalls) -> None:
    """There are only so many readers at once."""
    readers = [calls.open() for _ in range(MAX_READERS)]
    assert None not in readers
    assert calls.open() is None
    assert readers[0] is not None
    calls.close(readers[0])
    assert calls.open() is not None


def test_workers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers send lines before a reader is answered; where they do not answer, it waits for none.

    They are told again until the last reader has gone.
    """
    monkeypatch.setattr(live_calls, "_RENEWAL", 0.001)
    told: list[float] = []

    def tell(seconds: float) -> None:
        told.append(seconds)
        raise TimeoutError

    calls = LiveCalls(tell)
    reader = calls.open()
    assert reader is not None
    assert told
    while len(told) < 3:
        assert reader.take(0.001) == b""
    calls.close(reader)


def test_a_reader_that_reads_nothing(calls: LiveCalls, short_dir: Path) -> None:
    """It holds up nobody: what it cannot have is counted, and it has the rest when it reads."""
    opened = threading.Event()

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [])
        reader = calls.open()
        assert reader is not None
        opened.set()
        return calls.lines(reader)

    endpoint = Endpoint(f"{short_dir}/admin.sock")
    admin = AdminSocket(endpoint, application, replaces=False)
    try:
        with closing(AdminClient(endpoint).lines()) as lines:
            assert opened.wait(LIMIT_SECONDS)
            line, added = b"." * (64 << 10), 4 * MAX_QUEUED // (64 << 10)
            for _ in range(added):
                calls.add([line], 0)
            read = lost = 0
            while read + lost < added:
                if count := lost_calls(text := next(lines)):
                    lost += count
                else:
                    assert text == line
                    read += 1
            assert lost
            assert read >= MAX_QUEUED // len(line)
            calls.add([b"later"], 0)
            assert next(lines) == b"later"
    finally:
        admin.close()


def test_lines_that_cannot_be_had(short_dir: Path) -> None:
    """Where nothing can be sent, the reader is told why, and takes no place."""

    def fail(seconds: float) -> None:
        raise UnavailableError("the tail cannot be started: no memory")

    def nothing(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        raise AssertionError

    calls, records = LiveCalls(lambda seconds: None), LiveCalls(fail)
    endpoint = Endpoint(f"{short_dir}/admin.sock")
    state: Any = SimpleNamespace(state=None, pods=None)
    admin = AdminSocket(endpoint, AdminPages(nothing, state, calls, records, str), replaces=False)
    try:
        client = AdminClient(endpoint)
        for _ in range(MAX_READERS + 1):
            with pytest.raises(UnavailableError, match="cannot be started: no memory"):
                client.lines("records")
        client.lines("tail").close()  # type: ignore[attr-defined]
    finally:
        admin.close()
