"""The sinks of a configuration."""

import json
import sys
import threading
from pathlib import Path
from time import monotonic

import pytest

from criproxy.audit.counts import AuditCounts
from criproxy.audit.files.file_names import in_write_order
from criproxy.audit.sinks.factory import make_sinks
from criproxy.audit.spec import FileSpec, JournaldSpec, OtlpSpec, QueueSpec, SinkSpec, SyslogSpec
from criproxy.configtypes.values import Duration
from criproxy.errors import CriproxyError, UnavailableError
from tests.support.audit_lines import Pipeline, item, lines_of, numbers


def test_each_sink_has_its_own_name_queue_and_counts(tmp_path: Path) -> None:
    """Sinks are named after their kinds and have their specs' settings."""
    counts = AuditCounts()
    specs = [
        SinkSpec(file=FileSpec(path=str(tmp_path / "one"), fsync="always")),
        SinkSpec(
            file=FileSpec(path=str(tmp_path / "two"), fsync="always"),
            on_full="block",
            max_wait=Duration(4),
            queue=QueueSpec(records=3),
        ),
        SinkSpec(journald=JournaldSpec(socket=str(tmp_path / "none"))),
    ]
    sinks = make_sinks(specs, counts, "node", print)
    running = Pipeline(*sinks, log_error=print)
    assert [sink.queue.blocking for sink in sinks] == [False, True, False]
    running.submit(item(1))
    running.submit(item(2))
    running.close(within=1)

    assert [sink.name for sink in sinks] == ["file", "file-2", "journald"]
    assert numbers(lines_of(tmp_path / "one")) == numbers(lines_of(tmp_path / "two")) == [1, 2]
    assert [counts.sinks[name].written for name in ("file", "file-2", "journald")] == [2, 2, 0]
    assert counts.sinks["journald"].dropped == {"closing": 2}


def test_nothing_is_left_open_when_one_cannot_be(tmp_path: Path) -> None:
    """If a sink cannot be opened, the previous ones are closed."""
    before = threading.active_count()
    specs = [
        SinkSpec(file=FileSpec(path=str(tmp_path / "one"))),
        SinkSpec(syslog=SyslogSpec(address="nowhere")),
    ]
    with pytest.raises(CriproxyError, match="no syslog address"):
        make_sinks(specs, AuditCounts(), "node", print)

    assert threading.active_count() == before


def test_without_its_package_otlp_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the pip command."""
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.logs.v1.logs_pb2", None)
    monkeypatch.delitem(sys.modules, "criproxy.audit.sinks.otlp", raising=False)
    with pytest.raises(UnavailableError, match=r"pip install 'criproxy\[otlp\]'"):
        make_sinks([SinkSpec(otlp=OtlpSpec())], AuditCounts(), "node", print)


def test_files_are_put_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """Files are sorted by number, the current one last, without duplicates."""
    names = [
        "audit.jsonl",
        "audit.jsonl.00000010-20260101T000000Z",
        "audit.jsonl.00000002-20270101T000000Z",
        "audit.jsonl.00000002-20270101T000000Z.gz",
        "other.jsonl",
    ]

    assert [path.name for path in in_write_order(tmp_path / name for name in names)] == [
        "other.jsonl",
        "audit.jsonl.00000002-20270101T000000Z.gz",
        "audit.jsonl.00000010-20260101T000000Z",
        "audit.jsonl",
    ]


def test_a_dropped_record_is_as_the_others(tmp_path: Path) -> None:
    """A Dropped record has the schema's version, node, sink and times with nine digits."""
    counts = AuditCounts()
    specs = [SinkSpec(file=FileSpec(path=str(tmp_path / "one")))]
    (sink,) = make_sinks(specs, counts, "node-1", print)
    sink.queue.count_dropped(3, "intake_full")
    sink.start()
    sink.stop_by(monotonic() + 30)
    sink.queue.poke()
    sink.join()

    (line,) = lines_of(tmp_path / "one")
    found = json.loads(line)
    assert found["apiVersion"] == "audit.criproxy.io/v1"
    assert (found["kind"], found["node"], found["sink"]) == ("Dropped", "node-1", "file")
    assert (found["dropped"], found["reasons"]) == (3, {"intake_full": 3})
    assert len(found["since"]) == len(found["until"]) == len("2026-11-23T10:15:00.123456789Z")
