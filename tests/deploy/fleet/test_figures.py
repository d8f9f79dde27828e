"""The figures of docs/explanation/fleet.md are those that were measured, times what it says."""

import re
from pathlib import Path

from bench.fleet.clickhouse import QUERIES

ROOT = Path(__file__).parents[3]
RESULTS = (ROOT / "bench/FLEET.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/explanation/fleet.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "deploy/fleet/clickhouse/schema.sql").read_text(encoding="utf-8")
HOW_TO = (ROOT / "docs/how-to/fleet.md").read_text(encoding="utf-8")

CALLS = 10_000 * 100_000
"""Of the fleet on the page in a day."""

THREADS = 32
"""Of the machine on the page."""


def measured_calls() -> int:
    found = re.search(r"each, ([\d,]+) calls", RESULTS)
    assert found
    return int(found[1].replace(",", ""))


def days() -> dict[str, int]:
    """How long each table keeps its rows."""
    pattern = (
        r"CREATE TABLE IF NOT EXISTS criproxy\.(\w+)\n(?:(?!CREATE).*\n)*?TTL .* INTERVAL (\d+) DAY"
    )
    return {table: int(number) for table, number in re.findall(pattern, SCHEMA)}


def test_disk() -> None:
    """The disk of a day and of all days is the bytes of a call times the calls."""
    bytes_of_call = {
        table: float(number)
        for table, number in re.findall(r"^\| `(\w+)` .* \| ([\d.]+) \|$", RESULTS, re.MULTILINE)
    }
    assert bytes_of_call.keys() == days().keys()
    for table, number in bytes_of_call.items():
        day = number * CALLS / 1e9
        row = f"| `{table}` | {number:.2f} | {day:.1f} GB | {days()[table]} days | "
        assert f"{row}{day * days()[table] / 1e3:.2f} TB |" in PAGE


def test_time() -> None:
    """The time of a query is its CPU time, which grows with the calls, divided by the threads."""
    found = re.findall(r"^\| `(\w+)` \| \d+ \| ([\d.]+) s \| .* \| (.*) \|$", RESULTS, re.MULTILINE)
    assert {name for name, _, _ in found} == QUERIES.keys()
    for name, cpu, answer in found:
        seconds = float(cpu) * CALLS / measured_calls() / THREADS
        assert answer == "the same"
        assert f"| `{name}` | {cpu} s | {seconds:.1f} s |" in PAGE


def test_lines() -> None:
    """The page has the lines and bytes a second that such a fleet writes."""
    found = re.search(r"of (\d+) bytes each, ([\d,]+) become", RESULTS)
    assert found
    a_second, words = CALLS / 86_400, " ".join(PAGE.split())
    for text in (
        f"{a_second:,.0f} calls a second",
        f"{found[1]} bytes",
        f"{a_second * int(found[1]) / 1e6:.1f} MB a second",
        f"{found[2]} lines",
    ):
        assert text in words, text


def test_days() -> None:
    """The page on how to use it says how long the tables keep their rows."""
    for table, number in days().items():
        assert re.search(rf"^\| `{table}` \| .* \| {number} days \|$", HOW_TO, re.MULTILINE), table
