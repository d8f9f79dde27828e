"""Measures the tables and queries of deploy/fleet on a made fleet, and writes bench/FLEET.md.

``python -m bench.fleet`` makes the calls of a day, by default of 1,000 nodes with 100,000 calls
each, asks ClickHouse and DuckDB the same questions, and records the bytes of a call and the time of
each query. It needs about 100 bytes of disk a call while it runs, and leaves nothing behind but the
results. The exit status is 1 if an answer differs, 2 for an option that is wrong or a disk that is
too small.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.fleet.clickhouse import QUERIES, ClickHouse
from bench.fleet.made import Fleet, make
from bench.fleet.reference import Reference, comparable

_RESULTS: Final = Path(__file__).parents[1] / "FLEET.md"
_BYTES: Final = 100
"""Bytes of disk for a call: the table, its parts while they are merged, and the copy for DuckDB."""

_ROUNDS: Final = 3
_LINES: Final = 500_000
"""Lines of the call log that are inserted to measure how long that takes."""

_TABLES: Final = ("calls", "latency", "pulls", "execs")


class Measured(NamedTuple):
    """A query: its CPU time and its time in seconds, each the median of the rounds."""

    name: str
    rows: int
    cpu: float
    seconds: float
    equal: bool


def main() -> int:
    """Measure, write the results, and return the exit status."""
    parser = argparse.ArgumentParser("python -m bench.fleet", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=100_000, help="of each node in a day")
    parser.add_argument("--directory", type=Path, help="where the tables are kept meanwhile")
    parser.add_argument("--output", type=Path, default=_RESULTS)
    options = parser.parse_args()
    if options.nodes < 1 or not 1 <= options.calls <= 1_000_000:
        parser.error("--nodes has to be at least 1, --calls from 1 to 1,000,000")
    fleet = Fleet(options.nodes, options.calls, datetime.now(UTC).date() - timedelta(days=1))
    with tempfile.TemporaryDirectory(prefix="criproxy-fleet-", dir=options.directory) as name:
        directory = Path(name)
        free = shutil.disk_usage(directory).free
        if free < fleet.rows * _BYTES:
            parser.error(
                f"{fleet.rows:,} calls need {fleet.rows * _BYTES >> 20:,} MiB in {directory}, "
                f"which has {free >> 20:,}: name another --directory, or fewer --nodes"
            )
        with ClickHouse(directory / "clickhouse") as clickhouse:
            text, equal = _measure(fleet, clickhouse, directory)
    options.output.write_text(text, encoding="utf-8")
    print(text)
    return 0 if equal else 1


def _measure(fleet: Fleet, clickhouse: ClickHouse, directory: Path) -> tuple[str, bool]:
    """Return the page of results, and whether all answers are equal."""
    clickhouse.load_schema()
    _timed("make the calls", lambda: make(fleet, clickhouse))
    for table in _TABLES:
        optimize = f"OPTIMIZE TABLE criproxy.{table} FINAL"
        _timed(f"merge {table}", partial(clickhouse.run, optimize))
    queries = _queries(fleet, clickhouse, directory)
    return _page(fleet, clickhouse, queries), all(each.equal for each in queries)


def _sizes(clickhouse: ClickHouse) -> dict[str, tuple[int, int]]:
    """Return rows and bytes on disk of each table."""
    return {
        table: (rows, size)
        for table, rows, size in clickhouse.rows(
            "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND database = 'criproxy' GROUP BY table"
        )
    }


def _timed(name: str, call: Callable[[], Any]) -> None:
    began = time.monotonic()
    call()
    print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def _queries(fleet: Fleet, clickhouse: ClickHouse, directory: Path) -> list[Measured]:
    parameters = {
        "since": f"{fleet.day} 00:00:00",
        "until": f"{fleet.day + timedelta(days=1)} 00:00:00",
        "method": "PullImage",
        "node": "node-00000",
    }
    reference = Reference(clickhouse, directory)
    measured = []
    for name in QUERIES:
        times, cpu_times = [], []
        for _ in range(_ROUNDS):
            began, used = time.monotonic(), clickhouse.cpu_seconds()
            answer = clickhouse.ask(name, parameters)
            times.append(time.monotonic() - began)
            cpu_times.append(clickhouse.cpu_seconds() - used)
        equal = comparable(answer) == comparable(reference.ask(name, parameters))
        cpu, seconds = statistics.median(cpu_times), statistics.median(times)
        measured.append(Measured(name, len(answer), cpu, seconds, equal))
        print(f"{measured[-1]}", file=sys.stderr, flush=True)
    reference.close()
    return measured


def _lines(clickhouse: ClickHouse) -> tuple[float, float]:
    """Return lines that the views make calls of in a second of CPU, and the bytes of a line."""
    clickhouse.run("CREATE TABLE default.lines (Body String) ENGINE = MergeTree ORDER BY tuple()")
    clickhouse.run(_LINES_OF_CALLS)
    number, size = clickhouse.rows("SELECT count(), sum(length(Body)) FROM default.lines")[0]
    used = clickhouse.cpu_seconds()
    clickhouse.run(_INSERT_LINES)
    return number / (clickhouse.cpu_seconds() - used), size / number


_TIME: Final = "concat(replace(toString({}), ' ', 'T'), 'Z')"
_LINES_OF_CALLS: Final = f"""
INSERT INTO default.lines
SELECT formatRowNoNewline('JSONEachRow', *)
FROM
(
    SELECT {_TIME.format("began + toIntervalMicrosecond(duration_us)")} AS timestamp,
        'info' AS level, 'call' AS event, listener, pid, uid, executable, service, method,
        'v1' AS api_version,
        {_TIME.format("began")} AS began, code, message, 'status' AS end,
        duration_us / 1e6 AS duration_s, duration_us / 1.1e6 AS first_byte_s,
        0.000123 AS overhead_s,
        request_messages, request_bytes, response_messages, response_bytes, namespace, pod, pod_uid,
        pod_id, container, container_id, image
    FROM criproxy.calls
    ORDER BY cityHash64(criproxy.calls.began, node)
    LIMIT {_LINES}
)
"""
_INSERT_LINES: Final = """
INSERT INTO criproxy.otel_logs (Timestamp, ServiceName, Body, ResourceAttributes)
SELECT now64(9), 'criproxy', Body, map('service.name', 'criproxy', 'k8s.node.name', 'node-1')
FROM default.lines
"""


def _page(fleet: Fleet, clickhouse: ClickHouse, queries: list[Measured]) -> str:
    sizes, (version,) = _sizes(clickhouse), clickhouse.rows("SELECT version()")[0]
    lines_of_cpu, line_bytes = _lines(clickhouse)
    total = sum(size for _, size in sizes.values())
    rows = [
        "# A fleet in ClickHouse",
        "",
        f"Written by `python -m bench.fleet --nodes {fleet.nodes} --calls {fleet.calls}`: a made "
        f"day of {fleet.nodes:,} nodes with {fleet.calls:,} calls each, {fleet.rows:,} calls, in "
        f"ClickHouse {version} (chdb) with two threads, on a machine with other work.",
        "",
        f"Of lines of the call log, of {line_bytes:.0f} bytes each, {lines_of_cpu:,.0f} become "
        "rows in a second of CPU time.",
        "",
        "| Table | Rows | Bytes | Bytes of a row | Bytes of a call |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| `{table}` | {sizes[table][0]:,} | {sizes[table][1]:,} | "
            f"{sizes[table][1] / sizes[table][0]:.1f} | {sizes[table][1] / fleet.rows:.2f} |"
            for table in _TABLES
        ),
        f"| together | | {total:,} | | {total / fleet.rows:.2f} |",
        "",
        f"Times are the median of {_ROUNDS} rounds. DuckDB reads the same calls from Parquet.",
        "",
        "| Query | Rows | CPU time | Time | DuckDB's answer |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| `{each.name}` | {each.rows} | {each.cpu:.2f} s | {each.seconds:.2f} s | "
            f"{'the same' if each.equal else '**another**'} |"
            for each in queries
        ),
        "",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
