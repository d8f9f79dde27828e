"""DaemonLog: events and the lines of calls, as JSON and on a console."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from criproxy.observe.logs.call_line import CallLine
from criproxy.observe.logs.line_writer import LineWriter
from criproxy.observe.logs.log import DaemonLog

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LINE = CallLine(
    timestamp=TIME,
    level="info",
    event="call",
    listener="unix:///run/test.sock",
    pid=1,
    uid=0,
    executable=None,
    service="runtime.v1.RuntimeService",
    method="Version",
    api_version="v1",
    began=TIME,
    code="OK",
    rules=("slow-pulls",),
)

SURROGATE = "\ud800"

Written = Callable[..., list[bytes]]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Return what a log has written after a function has used it."""

    def write(
        use: Callable[[DaemonLog], object], form: str = "json", level: str = "info"
    ) -> list[bytes]:
        path = tmp_path / "log"
        writer = LineWriter(str(path), lambda lines: None)
        use(DaemonLog(writer, form, level, colours=False))
        writer.close()
        return path.read_bytes().splitlines()

    return write


def test_events_as_json(written: Written) -> None:
    """An event is a JSON object with level and time."""
    (line,) = written(lambda journal: journal.log.warning("something", count=3, name="ü\n"))
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "something", "level": "warning", "count": 3, "name": "ü\n"}


def test_events_for_a_person(written: Written) -> None:
    """On the console an event is a line of words and values."""
    (line,) = written(lambda journal: journal.log.info("something", count=3), "console")
    assert b"something" in line
    assert b"count=3" in line
    assert b"\x1b" not in line


def test_lines_in_either_form(written: Written) -> None:
    """A call's line is written as it is."""
    encoded = msgspec.json.encode(LINE)
    (line,) = written(lambda journal: journal.record(encoded))
    assert line == encoded


def test_lines_for_a_person(written: Written) -> None:
    """On the console a call's line has the same fields, without those that are left out."""
    (line,) = written(lambda journal: journal.record(msgspec.json.encode(LINE)), "console")
    for part in (b"2026-01-02T03:04:05Z", b"info", b"call", b"method=Version", b"slow-pulls"):
        assert part in line


@pytest.mark.parametrize(
    "text", ["\x1b[2Kx", "a\rb", "a\nb", "\x9b2K", "\u2028", "\u202e", SURROGATE]
)
def test_console_lines_do_not_steer_the_terminal(written: Written, text: str) -> None:
    """What is not printable is escaped on the console, wherever it stands in an event."""
    escaped = text.encode("unicode_escape")

    def use(journal: DaemonLog) -> None:
        journal.log.info("something", path=text, names=[text])
        if text != SURROGATE:  # JSON in UTF-8 has none
            line = msgspec.structs.replace(LINE, method=text)
            journal.record(msgspec.json.encode(line))

    event, *lines = written(use, "console")
    assert event.count(escaped) == 2
    assert all(escaped in line for line in lines)
    assert len(lines) == (text != SURROGATE)
    assert b"".join([event, *lines]).decode().isprintable()


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_level(written: Written, level: str, expected: int) -> None:
    """Events below the log's level are not written."""

    def use(journal: DaemonLog) -> None:
        for name in ("debug", "info", "warning", "error"):
            getattr(journal.log, name)("something")

    assert len(written(use, level=level)) == expected


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks(written: Written, form: str) -> None:
    """An exception's traceback is logged; in JSON within the line."""

    def use(journal: DaemonLog) -> None:
        try:
            raise ValueError("what went wrong")
        except ValueError as error:
            journal.log.error("crashed", exc_info=error)

    lines = written(use, form)
    assert any(b"ValueError: what went wrong" in line for line in lines)
    if form == "json":
        assert len(lines) == 1


def test_confession(written: Written) -> None:
    """Lost lines are reported in the log's format."""
    lines: list[bytes] = []
    written(lambda journal: lines.append(journal.loss_line(7)))
    assert json.loads(lines[0]) == {"event": "log lines lost", "level": "warning", "count": 7}
