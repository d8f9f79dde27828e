"""A line is the same call for SQL, over all lines at once, and for what parses single lines."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from criproxy.report.computing.call_table import CallTable
from criproxy.timeline.logged_call import LoggedCall, parse_line
from tests.report.made import Line, call, record
from tests.report.recorded import recorded_log
from tests.report.tables import table_of, write

_TEXTS = sorted(set(LoggedCall.__slots__) - {"began", "until"})
_COLUMNS = ", ".join(["began", "ended", *_TEXTS])

Call = tuple[float, float, dict[str, Any]]
"""When a call began and ended, in microseconds, and its other fields."""


def of_table(table: CallTable) -> list[Call]:
    """The calls of a table."""
    rows = table.rows(f"SELECT {_COLUMNS} FROM calls")
    return [
        (began, ended, dict(zip(_TEXTS, others, strict=True))) for began, ended, *others in rows
    ]


def of_lines(lines: Sequence[bytes]) -> list[Call]:
    """The calls of lines."""
    return [
        (each.began * 1e6, each.until * 1e6, {name: getattr(each, name) for name in _TEXTS})
        for each in map(parse_line, lines)
        if each is not None
    ]


def check(file: Path) -> list[str]:
    """Both read the same calls in a file, whose methods are returned."""
    with table_of(file) as table:
        found = of_table(table)
    parsed = of_lines(file.read_bytes().splitlines())
    assert len(found) == len(parsed)
    for one, other in zip(sorted(found, key=_order), sorted(parsed, key=_order), strict=True):
        # Of the nanoseconds of a time and of a duration, one rounds and the other cuts off; and a
        # float of seconds since 1970 has a resolution of a quarter of a microsecond.
        assert one[:2] == pytest.approx(other[:2], rel=0, abs=2.5)
        assert one[2] | {"rules": tuple(one[2]["rules"])} == other[2]
    return [each["method"] for _, _, each in found]


def _order(call: Call) -> tuple[str, float]:
    return call[2]["method"], call[0]


def test_recorded_kubelet(short_dir: Path) -> None:
    """It is for the lines of both logs of a daemon that a recorded kubelet has called."""
    audit = short_dir / "audit.jsonl"
    lines = recorded_log(short_dir, audit)
    methods = check(write(short_dir / "criproxy.log", lines))
    assert len(methods) == len(lines)
    assert {"RunPodSandbox", "PullImage", "StartContainer"} <= set(methods)
    assert Counter(check(audit)) == Counter(methods)


ABOUT = {"pod_id": "p", "container": "app", "container_id": "c", "image": "app:1"}
CALL = call("ExecSync", 1.0, 0.25, namespace="shop", pod="web", pod_uid="u", **ABOUT)
RECORD = record(CALL, container={"id": "c", "name": "app", "image": "app:1"})
SLOW = {key: value for key, value in CALL.items() if key not in ("duration_s", "code")}
SLOW |= {"event": "slow call", "age_s": 3.5}


@pytest.mark.parametrize(
    "line",
    [
        CALL,
        CALL | {"rules": ["a", "b"], "held_s": 0.25},
        CALL | {"executable": None, "code": "UNKNOWN", "message": "it\nfailed"},
        CALL | {"duration_s": -1.0},
        CALL | {"duration_s": None},
        CALL | {"kind": "Event", "node": "n1", "caller": {"pid": 9}},
        CALL | {"began": "2026-11-28T11:00:00+01:00"},
        CALL | {"began": "2026-11-28T11:00:00"},
        CALL | {"began": "2026-11-28T11:00:00.123456789Z"},
        SLOW,
        RECORD,
        RECORD | {"event": ""},
        RECORD | {"event": "audit"},
        RECORD | {"image": ""},
        RECORD | {"image": "other:1", "rules": ["a"], "held_s": 1.0},
        RECORD | {"pod": {}, "container": {}, "caller": None},
        RECORD | {"requestReceivedTimestamp": "2026-11-28T11:00:00.5+01:00"},
        RECORD | {"stage": "RequestReceived", "durationSeconds": None},
        RECORD | {"stage": "RequestReceived", "stageTimestamp": "2026-11-28T09:00:00Z"},
    ],
)
def test_made_lines(tmp_path: Path, line: Line) -> None:
    """It is for lines of all kinds."""
    assert len(check(write(tmp_path / "log.jsonl", [line]))) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"began": "9999-12-31T23:59:59Z", "duration_s": 10.0},
        {"began": "1969-12-31T23:59:59Z"},
        {"began": "0001-01-01T00:00:00+01:00"},
        {"duration_s": 1e308},
        {"duration_s": 1e13},
    ],
)
def test_times_that_cannot_be_written(tmp_path: Path, more: Line) -> None:
    """A line with such times is about no call, and the other lines are read."""
    assert len(check(write(tmp_path / "log.jsonl", [CALL | more, CALL]))) == 1


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none(tmp_path: Path, text: str) -> None:
    """A duration that is no number spoils no other line."""
    file = tmp_path / "log.jsonl"
    file.write_text(f"{json.dumps(CALL).replace('0.25', text)}\n{json.dumps(CALL)}\n")
    with table_of(file) as table:
        assert table.rows("SELECT duration FROM calls") == [(0.25,)]
