"""The tables and queries on ClickHouse's engine: what arrives, is answered, and is dropped."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from bench.fleet.clickhouse import FLEET, QUERIES, ClickHouse, ClickHouseError
from bench.fleet.made import Fleet, make
from bench.fleet.reference import Reference, comparable
from criproxy.audit.sinks.otlp import request
from criproxy.cri.methods import ENDLESS, READS
from tests.deploy.fleet.lines import audit_log, call_log, dated
from tests.deploy.fleet.pipelines import NODE, Record, config, filelog, received
from tests.deploy.fleet.test_pipelines import ENVIRONMENT, KNOWN
from tests.support.requirements import require

DAY = datetime.now(UTC).date() - timedelta(days=1)
"""A day whose calls are not dropped yet."""

PARAMETERS = {
    "since": f"{DAY} 00:00:00",
    "until": f"{DAY + timedelta(days=1)} 00:00:00",
    "method": "PullImage",
    "node": "node-00003",
}


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    require([] if find_spec("chdb") else ["chdb (make fleet)"])
    with ClickHouse(tmp_path_factory.mktemp("clickhouse")) as engine:
        engine.load_schema()
        yield engine


@pytest.fixture
def emptied(clickhouse: ClickHouse) -> ClickHouse:
    clickhouse.run("SYSTEM STOP TTL MERGES")  # the calls of a test may be as old as they like
    for table in ("calls", "latency", "pulls", "execs", "runtimes"):
        clickhouse.run(f"TRUNCATE TABLE criproxy.{table}")
    return clickhouse


def test_queries(emptied: ClickHouse, tmp_path: Path) -> None:
    """Each query has the answer of DuckDB to the same question about the same calls, whatever is
    there of another day."""
    make(Fleet(nodes=20, calls=2000, day=DAY), emptied)
    (row,) = emptied.rows("SELECT count(), sum(duration_us) FROM criproxy.calls")
    assert row == emptied.rows("SELECT sum(calls), sum(total_us) FROM criproxy.latency")[0]
    assert row[0] == 40_000
    reference = Reference(emptied, tmp_path)
    make(Fleet(nodes=20, calls=2000, day=DAY - timedelta(days=2)), emptied)
    differing = {}
    for name in QUERIES:
        answer = comparable(emptied.ask(name, PARAMETERS))
        expected = comparable(reference.ask(name, PARAMETERS))
        assert expected, name
        if answer != expected:
            pairs = zip_longest(answer, expected)
            differing[name] = next(each for each in pairs if each[0] != each[1])
    reference.close()
    assert differing == {}


def insert(clickhouse: ClickHouse, records: list[Record]) -> None:
    """Insert records as the Collector's exporter does."""
    rows = [record.row() for record in records]
    assert [*rows[0]] == KNOWN["inserted"]
    values = "\n".join(json.dumps(row) for row in rows)
    columns = ", ".join(KNOWN["inserted"])
    clickhouse.run(f"INSERT INTO criproxy.otel_logs ({columns}) FORMAT JSONEachRow {values}")


def called(clickhouse: ClickHouse, order: str = "began") -> list[dict[str, Any]]:
    text = clickhouse.run(
        f"SELECT formatRowNoNewline('JSONEachRow', *) FROM criproxy.calls ORDER BY {order}"
    )
    return [json.loads(json.loads(line)[0]) for line in text.splitlines()]


def test_call_log(emptied: ClickHouse) -> None:
    """A line of the call log becomes a call with all that it says; the runtime's is kept, too."""
    lines = call_log()
    insert(emptied, [*filelog(config(NODE, ENVIRONMENT)["receivers"]["filelog"], lines)])
    expected = sorted(
        (line for line in map(json.loads, lines) if line["event"] == "call"),
        key=lambda line: datetime.fromisoformat(line["began"]),
    )
    calls = called(emptied)
    assert len(calls) == len(expected) == 4
    for call, line in zip(calls, expected, strict=True):
        began = datetime.fromisoformat(call.pop("began")).replace(tzinfo=UTC)
        assert began == datetime.fromisoformat(line["began"])
        assert call.pop("node") == "node-1"
        assert call.pop("duration_us") == round(line["duration_s"] * 1e6)
        assert call.pop("held_us") == round(line.get("held_s", 0) * 1e6)
        assert call.pop("command") == []
        assert call.pop("rules") == line.get("rules", [])
        assert call == {name: line.get(name, "") for name in call}
    runtimes = emptied.rows("SELECT node, runtime_name, runtime_version FROM criproxy.runtimes")
    assert runtimes == [["node-1", "containerd", "2.1.4"]]
    assert emptied.rows("SELECT image, duration_us FROM criproxy.pulls") == [
        ["registry.example.com/shop/web:1", 31_250_000]
    ]


def test_wrong_clocks(emptied: ClickHouse) -> None:
    """Lines of more days than an INSERT may have leave out those that are too old or not yet due,
    and no others."""
    dates = "SELECT now() - toIntervalDay(number) FROM numbers(300)"
    with pytest.raises(ClickHouseError, match="Too many partitions"):
        emptied.run(f"INSERT INTO criproxy.calls (began) {dates}")
    receiver = config(NODE, ENVIRONMENT)["receivers"]["filelog"]
    insert(emptied, [*filelog(receiver, dated(range(-300, 300)))])
    (found,) = emptied.rows("SELECT count(), uniqExact(toDate(began)) FROM criproxy.calls")
    assert found in ([31, 31], [32, 32])  # from 1 day to come to 30 days ago, if just now


def test_values_that_are_too_large(emptied: ClickHouse) -> None:
    """Whatever numbers a line has, its INSERT does not fail: the Collector would try it, and all
    that is in its batch, again forever. A number that no Float64 has is no JSON for ClickHouse."""
    (line,), records = dated(range(1, 2)), audit_log()
    resource = {"k8s.node.name": "node-1"}
    bodies = [line, line.replace('"duration_s":', '"held_s":1e308,"duration_s":')]
    for value in ("1e308", "-1e308", "1e999", "18446744073709551616", '"x"', "null"):
        bodies.append(re.sub(r'("duration_s":)[^,]+', rf"\g<1>{value}", line))
        bodies.append(re.sub(r'("pid":)\d+', rf"\g<1>{value}", line))
        bodies.append(re.sub(r'("durationSeconds":)[^,]+', rf"\g<1>{value}", records[1].decode()))
    assert len(set(bodies)) == len(bodies)
    insert(emptied, [Record(body, resource) for body in bodies])
    (found,) = emptied.rows("SELECT count(), max(duration_us), max(held_us) FROM criproxy.calls")
    assert found == [sum("1e999" not in body for body in bodies), 10**15, 10**15]


def test_audit_log(emptied: ClickHouse) -> None:
    """A record of a call that has ended becomes a call, with the command of an exec."""
    records = audit_log()
    assert len(records) == 3
    insert(emptied, [*received(request(records, "node-1", 0))])
    (call,) = called(emptied)
    record = json.loads(records[1])
    assert datetime.fromisoformat(call["began"]).replace(tzinfo=UTC) == datetime.fromisoformat(
        record["requestReceivedTimestamp"]
    )
    assert call["duration_us"] == record["durationSeconds"] * 1e6
    assert call["command"] == record["requestObject"]["cmd"] == ["id", "-u"]
    shown = {
        "node": record["node"],
        "listener": record["listener"],
        "service": record["service"],
        "method": record["method"],
        "code": record["code"],
        "pid": record["caller"]["pid"],
        "uid": record["caller"]["uid"],
        "executable": "",
        "namespace": record["pod"]["namespace"],
        "pod": record["pod"]["name"],
        "pod_uid": record["pod"]["uid"],
        "pod_id": record["pod"]["id"],
        "container": record["container"]["name"],
        "container_id": record["container"]["id"],
        "image": record["container"]["image"],
        "rules": record["rules"],
        "request_messages": record["requestMessages"],
        "request_bytes": record["requestBytes"],
        "response_messages": record["responseMessages"],
        "response_bytes": record["responseBytes"],
        "message": "",
        "held_us": 0,
    }
    assert shown == {name: value for name, value in call.items() if name in shown}
    assert call.keys() - shown.keys() == {"began", "duration_us", "command"}
    assert emptied.rows("SELECT pod, uid, command FROM criproxy.execs") == [
        [record["pod"]["name"], 1000, ["id", "-u"]]
    ]


def test_old_calls_are_dropped(emptied: ClickHouse) -> None:
    """Calls are dropped by the day after 30 days; what is computed from them is kept for longer."""
    old = DAY - timedelta(days=31)
    make(Fleet(nodes=2, calls=250, day=DAY), emptied)
    make(Fleet(nodes=2, calls=250, day=old), emptied)
    days = "SELECT DISTINCT toString(toDate({})) FROM criproxy.{} ORDER BY 1"
    emptied.run("SYSTEM START TTL MERGES")
    emptied.run("OPTIMIZE TABLE criproxy.calls FINAL")
    assert emptied.rows(days.format("began", "calls")) == [[str(DAY)]]
    for table, column in (("latency", "hour"), ("pulls", "began"), ("execs", "began")):
        emptied.run(f"OPTIMIZE TABLE criproxy.{table} FINAL")
        assert emptied.rows(days.format(column, table)) == [[str(old)], [str(DAY)]], table


def test_methods_in_queries() -> None:
    """The methods that queries name as reads, and as endless, are those of criproxy."""
    endless = {name.decode() for name in ENDLESS}
    for name, file in QUERIES.items():
        named = set(READS) & set(file.read_text().replace("'", " ").replace(",", " ").split())
        expected = READS - endless if name == "polling" else endless if named else set()
        assert named == expected, name


def test_schema_is_all_there() -> None:
    """Each query names tables that the schema creates."""
    schema = (FLEET / "schema.sql").read_text()
    for file in QUERIES.values():
        for table in [word for word in file.read_text().split() if word.startswith("criproxy.")]:
            assert f"CREATE TABLE IF NOT EXISTS {table.strip(',')}\n" in schema
