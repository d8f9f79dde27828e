"""The readers of the lines of calls: a slow one loses lines, which are counted."""

import json
from itertools import islice

import pytest

from criproxy.daemon.supervisor import live_calls
from criproxy.daemon.supervisor.live_calls import MAX_READERS, LiveCalls, LiveReader


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
