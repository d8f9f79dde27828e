"""Makes the calls of a fleet in ClickHouse, the same ones each time.

A node's calls are spread over a day. Of each 125, four are a pod's start; the others are what a
kubelet asks of its runtime, with a few calls of other clients. Latencies are lognormal by method.
"""

from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

from bench.fleet.clickhouse import ClickHouse

_AT_ONCE: Final = 4_000_000
"""Rows of one INSERT."""

_METHODS: Final = (
    # Up to which of a thousand the method is chosen, its name, the median of its durations in
    # microseconds, their sigma, and the bytes of a response.
    (300, "ContainerStatus", 900, 0.7, 2500),
    (480, "PodSandboxStatus", 800, 0.7, 1200),
    (600, "ListPodSandbox", 2500, 0.8, 18000),
    (720, "ListContainers", 3000, 0.8, 60000),
    (880, "ExecSync", 45000, 0.9, 40),
    (910, "ListContainerStats", 9000, 0.8, 30000),
    (940, "ImageStatus", 1500, 0.8, 900),
    (955, "Version", 300, 0.5, 60),
    (975, "Status", 600, 0.5, 200),
    (985, "ImageFsInfo", 1200, 0.6, 120),
    (989, "StopContainer", 1100000, 1.2, 0),
    (993, "RemoveContainer", 30000, 0.8, 0),
    (996, "Exec", 4000, 0.6, 90),
    (998, "PortForward", 3000, 0.6, 90),
    (999, "GetContainerEvents", 300000000, 1.0, 5000),
    (1000, "Attach", 3500, 0.6, 90),
)
_START: Final = (
    ("RunPodSandbox", 350000, 0.7, 70),
    ("PullImage", 2500000, 1.2, 80),
    ("CreateContainer", 60000, 0.7, 70),
    ("StartContainer", 80000, 0.7, 0),
)


class Fleet(NamedTuple):
    """The size of a fleet, and its day (UTC)."""

    nodes: int
    calls: int
    """Of each node."""
    day: date

    @property
    def rows(self) -> int:
        """All calls."""
        return self.nodes * self.calls


def make(fleet: Fleet, clickhouse: ClickHouse) -> None:
    """Insert the calls of a fleet, and the runtimes of its nodes, into the tables of the schema."""
    clickhouse.run(_sql("runtimes").format(nodes=fleet.nodes, day=fleet.day))
    calls = _sql("calls")
    for first in range(0, fleet.rows, _AT_ONCE):
        number = min(_AT_ONCE, fleet.rows - first)
        clickhouse.run(
            calls.format(
                first=first,
                number=number,
                nodes=fleet.nodes,
                interval=86_400_000_000 // fleet.calls,
                day=fleet.day,
                method=_by_method(1),
                median=_by_method(2),
                sigma=_by_method(3),
                response=_by_method(4),
            )
        )


def _sql(name: str) -> str:
    """Return a statement with the placeholders of str.format."""
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")


def _by_method(column: int) -> str:
    """Return the SQL of a column of the tables of methods, by ``step`` and ``kind``."""
    of_start = ", ".join(_literal(row[column - 1]) for row in _START)
    cases = ", ".join(f"kind < {row[0]}, {_literal(row[column])}" for row in _METHODS[:-1])
    last = _literal(_METHODS[-1][column])
    return f"if(step < 4, [{of_start}][step + 1], multiIf({cases}, {last}))"


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
