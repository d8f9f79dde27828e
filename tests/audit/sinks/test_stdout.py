"""The stdout outlet."""

import os
import threading
from collections.abc import Iterator

import pytest

from criproxy.audit.counts import SinkCounts
from criproxy.audit.sinks.stdout import StdoutOutlet
from tests.support.audit_lines import Pipeline, item, numbers, record, sink
from tests.support.waiting import wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def test_records_come_one_a_line(pipe: tuple[int, int]) -> None:
    """Each record is a line; the descriptor stays open with its flags."""
    reader, writer = pipe
    outlet = StdoutOutlet(writer)
    assert outlet.write([record(0), record(1)]).done == 2
    assert outlet.close() == ""

    assert os.read(reader, 1 << 16) == record(0) + b"\n" + record(1) + b"\n"
    assert os.get_blocking(writer)


def test_a_reader_that_does_not_read_holds_up_nothing(pipe: tuple[int, int]) -> None:
    """A full pipe fills the queue; closing returns and counts the remaining records."""
    counts = SinkCounts()
    running = Pipeline(sink(StdoutOutlet(pipe[1]), counts, records=500))
    for number in range(5000):
        running.submit(item(number))
    wait_until(lambda: counts.dropped["queue_full"], "drops")
    before = threading.active_count()
    running.close(within=0.2)

    assert threading.active_count() < before
    assert counts.written + counts.dropped.total() == 5000
    data = os.read(pipe[0], 1 << 20)
    assert len(numbers(data.split(b"\n")[:-1])) == counts.written


def test_a_reader_that_comes_back_gets_the_rest_of_the_line(pipe: tuple[int, int]) -> None:
    """A line larger than the pipe is written whole."""
    reader, writer = pipe
    line = record(0, padding=200_000)
    got = bytearray()

    def read() -> None:
        while not got.endswith(b"\n"):
            got.extend(os.read(reader, 1000))

    thread = threading.Thread(target=read)
    thread.start()
    assert StdoutOutlet(writer).write([line]).done == 1
    thread.join()

    assert got == line + b"\n"


def test_a_reader_that_is_gone_is_a_trouble(pipe: tuple[int, int]) -> None:
    """Without a reader nothing is written, and an error is logged."""
    os.close(pipe[0])
    progress = StdoutOutlet(pipe[1]).write([record(0)])

    assert (progress.done, "Broken pipe" in progress.trouble) == (0, True)
