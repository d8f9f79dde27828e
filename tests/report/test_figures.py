"""The figures of a report equal those that are computed from all lines without SQL."""

import gzip
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from criproxy.report.computing.measure import report_of
from criproxy.report.computing.slices import sliced
from criproxy.report.figures import Report
from criproxy.timeline.json_form import json_of
from criproxy.timeline.logged_call import LoggedCall, parse_line
from criproxy.timeline.pod_starts import PodStarts, starts_in
from tests.report import straightforward as plain
from tests.report.made import Line, call, calls, record
from tests.report.recorded import recorded_log
from tests.report.tables import table_of, write


def report(*files: Path) -> Report:
    with table_of(*files) as table:
        return report_of(table, files)


def check(found: Report, lines: list[Line]) -> None:
    """Check every figure; ``lines`` are those of the call log."""
    assert found.source.calls == len(lines)
    assert found.source.seconds == pytest.approx(plain.seconds(lines))
    assert {
        each.method: (
            *(each.calls, each.errors, each.p50_s, each.p95_s, each.p99_s, each.longest_s),
            each.per_second,
        )
        for each in found.methods
    } == {name: pytest.approx(each) for name, each in plain.methods(lines).items()}
    length = round(found.slice_s * 1e6)
    assert {
        (each.method, plain.microseconds(each.began)): (
            *(each.calls, each.p50_s, each.p95_s, each.longest_s),
        )
        for each in found.heat_map
    } == plain.heat_map(lines, length)
    spans = plain.spans(lines)
    assert [each.most for each in found.in_flight] == [
        plain.most_in_flight(spans, start, start + length)
        for start in (plain.microseconds(each.began) for each in found.in_flight)
    ]
    errors = Counter[tuple[str, str]]()
    for each in found.errors:
        errors[each.method, each.code] += each.calls
    assert errors == plain.errors(lines)
    assert {
        each.executable: (each.calls, each.errors, each.mutating) for each in found.callers
    } == plain.callers(lines)
    assert {(each.method, each.executable): (each.calls, each.busy) for each in found.polling} == {
        key: pytest.approx(each) for key, each in plain.polling(lines).items()
    }
    assert {
        (each.method, each.direction): (each.calls, each.largest_bytes) for each in found.sizes
    } == plain.sizes(lines)
    slow = sorted(
        plain.durations(line for line in lines if not plain.is_endless(line)), reverse=True
    )
    assert [each.duration_s for each in found.slowest] == slow[: len(found.slowest)]


def test_recorded_kubelet(short_dir: Path) -> None:
    """They do for a kubelet's calls through a daemon, whose pod starts are as ``pods`` has them."""
    lines = recorded_log(short_dir)
    path = write(short_dir / "criproxy.log", [{"event": "ready"}, *lines])
    found = report(path)
    check(found, lines)
    starts = starts_in((parsed(text) for text in path.read_bytes().splitlines()[1:]), PodStarts())
    by_length = sorted(map(json_of, starts), key=lambda start: -start["seconds"])
    assert [each["pod"] for each in found.pod_starts.slowest] == [each["pod"] for each in by_length]
    assert [each["cause"] for each in found.pod_starts.slowest] == [
        each["cause"] for each in by_length
    ]
    assert len(by_length) == 2
    assert found.notes == []


def parsed(text: bytes) -> LoggedCall:
    parsed_call = parse_line(text)
    assert parsed_call is not None
    return parsed_call


@pytest.mark.parametrize("seed", range(3))
def test_made_calls(tmp_path: Path, seed: int) -> None:
    """They do for both logs, which give the same figures, also of compressed and rotated files."""
    lines = calls(600, seed)
    of_call_log = report(write(tmp_path / "criproxy.log", lines))
    check(of_call_log, lines)
    audit = write(tmp_path / "audit.jsonl", map(record, lines[300:]))
    rotated = tmp_path / "audit.jsonl.1.gz"
    rotated.write_bytes(gzip.compress(write(tmp_path / "x", map(record, lines[:300])).read_bytes()))
    of_audit_log = report(rotated, audit)
    check(of_audit_log, lines)
    assert of_audit_log.source.nodes == ["n1"]
    for name in ("heat_map", "in_flight", "errors", "callers", "polling", "sizes"):
        assert getattr(of_audit_log, name) == getattr(of_call_log, name)


def test_calls_without_an_end(tmp_path: Path) -> None:
    """A call that was reported in flight counts once, as ended if its end is there."""
    slow = call("ExecSync", 1, 40, slow=True)
    warning = {key: slow[key] for key in ("listener", "pid", "service", "method", "began")}
    warning |= {"event": "slow call", "age_s": 30.0}
    hung = warning | {"method": "PullImage", "service": "runtime.v1.ImageService"}
    last = call("Version", 100, 1)
    found = report(write(tmp_path / "criproxy.log", [warning, slow, hung, last]))
    assert {each.method: (each.calls, each.unended, each.p50_s) for each in found.methods} == {
        "ExecSync": (1, 0, 40.0),
        "PullImage": (1, 1, None),
        "Version": (1, 0, 1.0),
    }
    assert found.in_flight[-1].most == 2  # the pull and the last call
    assert [(each.method, each.code) for each in found.slowest][:2] == [
        ("ExecSync", "OK"),
        ("PullImage", ""),
    ]
    received = record(slow, stage="RequestReceived")
    of_audit = report(write(tmp_path / "audit.jsonl", [received, record(slow)]))
    assert [(each.method, each.unended) for each in of_audit.methods] == [("ExecSync", 0)]


def test_errors_that_differ_in_ids(tmp_path: Path) -> None:
    """Errors whose messages differ in ids alone are counted together."""
    path = write(
        tmp_path / "criproxy.log",
        [
            call("ExecSync", code="NOT_FOUND", message=f"no container {digit * 64}: not found")
            for digit in "abc"
        ],
    )
    (error,) = report(path).errors
    assert (error.message, error.calls) == ("no container <id>: not found", 3)


def test_notes(tmp_path: Path) -> None:
    """A report says what its log does not have, and how it would."""
    quiet = report(write(tmp_path / "a.log", [call("ExecSync")]))
    assert [note.split(";")[0] for note in quiet.notes] == [
        "No read that ended with OK is in the log, so polling is not seen",
        "No call names its pod, so no pod starts are seen",
    ]
    of_audit = report(write(tmp_path / "b.jsonl", [record(call("ExecSync"))]))
    assert "by the audit policy" in of_audit.notes[0]


def test_fields_of_other_types(tmp_path: Path) -> None:
    """A line whose fields have other types is still a call as far as it can be read."""
    odd = call("ExecSync", duration_s="long", pid="seven", rules="none", pod={"name": 1}, code=5)
    found = report(write(tmp_path / "a.log", [odd, call("ExecSync", began="yesterday")]))
    assert (found.source.calls, found.methods[0].longest_s) == (1, 0.0)


def test_json_form(tmp_path: Path) -> None:
    """The JSON form has the whole report."""
    found = report(write(tmp_path / "a.log", calls(50, 1)))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found


@pytest.mark.parametrize("seconds", [0, 0.01, 1, 59, 61, 3600, 86_400, 400 * 86_400])
def test_slices(seconds: float) -> None:
    """Slices include both ends, begin at multiples of their length, and are not more than asked."""
    began = 1_700_000_000_123_456
    ended = began + round(seconds * 1e6)
    slices = sliced(began, ended, 60)
    assert slices.count <= 60
    assert slices.first <= began
    assert slices.first % slices.length == 0
    assert slices.starts()[-1] <= ended < slices.starts()[-1] + slices.length
