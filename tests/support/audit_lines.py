"""A record encoder whose items are numbers and whose outlets are controlled by the test."""

import gzip
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criproxy.audit.counts import SinkCounts
from criproxy.audit.dropped import timestamp
from criproxy.audit.files.file_names import in_write_order
from criproxy.audit.files.hash_chain import ChainReport, check
from criproxy.audit.files.rotation import rotated_files
from criproxy.audit.items import Item, UnreadConnection
from criproxy.audit.recorder.encoder import RecordEncoder
from criproxy.audit.recorder.intake import Intake, WaitingItem
from criproxy.audit.sinks.sink import Outlet, Progress, Sink
from criproxy.audit.sinks.sink_queue import SinkQueue
from criproxy.peers.peer import Connection, Peer

_CONNECTION = Connection("unix:///run/test.sock", Peer(1, 0, 0, "/usr/bin/test"), 0.0)


@dataclass(frozen=True)
class Line:
    line: bytes


def item(number: int) -> Item:
    """Return an item whose record has this number."""
    return UnreadConnection(_CONNECTION, "test", str(number), 0.0)


def record(number: int, padding: int = 0) -> bytes:
    """Return a record's line, like RecordBuilder's."""
    fields: dict[str, Any] = {
        "apiVersion": "audit.criproxy.io/v1",
        "kind": "Event",
        "level": "Metadata",
        "auditID": f"id-{number}",
        "stage": "ResponseComplete",
        "stageTimestamp": timestamp(1_795_429_800_123_456_789 + number),
        "service": "runtime.v1.RuntimeService",
        "method": "RunPodSandbox",
        "code": "OK",
        "number": number,
    }
    if padding:
        fields["padding"] = "x" * padding
    return json.dumps(fields, separators=(",", ":")).encode()


def make(made: Item) -> Line:
    """Return the record of an item."""
    assert isinstance(made, UnreadConnection)
    return Line(record(int(made.detail)))


class Gate(Outlet):
    """An outlet that collects lines once it is opened."""

    def __init__(self, opened: bool = True) -> None:
        self.lines: list[bytes] = []
        self.open = threading.Event()
        self.entered = threading.Event()
        self.refuse: Callable[[Sequence[bytes]], Progress] | None = None
        self.reopened = 0
        self.closed = False
        if opened:
            self.open.set()

    def write(self, lines: Sequence[bytes]) -> Progress:
        self.entered.set()
        self.open.wait()
        if self.refuse is not None:
            return self.refuse(lines)
        self.lines += lines
        return Progress(len(lines))

    def reopen(self) -> None:
        self.reopened += 1

    def abort(self) -> None:
        self.open.set()

    def close(self) -> str:
        self.closed = True
        return ""


def sink(
    outlet: Outlet,
    counts: SinkCounts,
    *,
    name: str = "test",
    blocking: bool = False,
    records: int = 1000,
    size: int = 1 << 20,
    log_error: Callable[[str], None] = lambda _: None,
) -> Sink:
    """Return a sink that is not started."""
    queue = SinkQueue(
        records=records,
        size=size,
        blocking=blocking,
        counts=counts,
        drop_record=lambda dropped: dropped.line("node", name, 0),
    )
    return Sink(name, queue, outlet, counts, log_error)


class RecordedProgress:
    """A Source that keeps what the encoder reports."""

    def __init__(self) -> None:
        self.items = 0
        self.full = False
        self.results: list[tuple[int, int, bool]] = []
        """The first item, the number of items and whether they are durable."""

    def taken(self, count: int) -> int:
        first = self.items
        self.items += count
        return first

    def done(self, first: int, count: int, durable: bool) -> None:
        self.results.append((first, count, durable))

    def set_full(self, full: bool) -> None:
        self.full = full

    @property
    def finished(self) -> int:
        """The number of items that are written or dropped."""
        return sum(count for _, count, _ in self.results)


class Pipeline:
    """An intake, an encoder and sinks; items are put in on the test's thread."""

    def __init__(
        self,
        *sinks: Sink,
        log_error: Callable[[str], None] = lambda _: None,
        maker: Callable[[Item], Line | None] = make,
    ) -> None:
        self.intake = Intake()
        self.encoder = RecordEncoder(maker, self.intake, sinks, log_error)
        self.queues: dict[str, RecordedProgress] = {}
        self.queue("test")

    def queue(self, listener: str) -> RecordedProgress:
        """Return the progress of a listener's queue."""
        if listener not in self.queues:
            self.queues[listener] = RecordedProgress()
            self.encoder.add_source(self.queues[listener], listener)
        return self.queues[listener]

    @property
    def full(self) -> bool:
        return self.queues["test"].full

    def submit(self, item: Item, listener: str = "test") -> None:
        self.intake.put(listener, WaitingItem(self.queue(listener), lambda: item, 0))

    def reopen(self) -> None:
        self.encoder.reopen()

    def close(self, within: float) -> None:
        self.encoder.close(within)


def numbers(lines: Iterable[bytes]) -> list[int]:
    """Return the numbers of the records among lines."""
    return [found["number"] for found in map(json.loads, lines) if found["kind"] == "Event"]


def reported(lines: Iterable[bytes]) -> int:
    """Return the number of records that Dropped records report."""
    return sum(found["dropped"] for found in map(json.loads, lines) if found["kind"] == "Dropped")


def files_of(path: Path) -> list[Path]:
    """Return all files of an audit log in order."""
    aside = [one.path for one in rotated_files(path)]
    return in_write_order([*aside, path] if path.exists() else aside)


def lines_of(*paths: Path) -> list[bytes]:
    """Return the lines of files, torn ones included."""
    lines: list[bytes] = []
    for path in paths:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines += data.splitlines()
    return lines


def verify(path: Path) -> ChainReport:
    """Check the chain of an audit log."""
    return check(lines_of(*files_of(path)))
