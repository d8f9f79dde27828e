"""RecordEncoder: submitting does not wait, and every record is written or counted."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from criproxy.audit.counts import SinkCounts
from criproxy.audit.items import Item, RuntimeListing
from criproxy.audit.sinks.sink import Progress
from tests.support.audit_lines import Gate, Line, Pipeline, item, make, numbers, reported, sink
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_records_reach_every_sink_in_order() -> None:
    """Every sink receives every record in the order of submission."""
    one, other = Gate(), Gate()
    counts = SinkCounts(), SinkCounts()
    running = Pipeline(sink(one, counts[0]), sink(other, counts[1]))

    for number in range(500):
        running.submit(item(number))
    running.close(within=30)

    assert numbers(one.lines) == numbers(other.lines) == list(range(500))
    assert counts[0].written == counts[1].written == 500
    assert one.closed
    assert other.closed


def test_a_stuck_sink_holds_up_no_other() -> None:
    """A sink that hangs in a write does not delay another."""
    stuck, free = Gate(opened=False), Gate()
    running = Pipeline(sink(stuck, SinkCounts()), sink(free, SinkCounts()))

    for number in range(100):
        running.submit(item(number))
    wait_until(lambda: len(free.lines) == 100, "records in the free sink")

    assert stuck.lines == []
    stuck.open.set()
    running.close(within=30)
    assert numbers(stuck.lines) == list(range(100))


def test_submitting_makes_no_record() -> None:
    """Records are made on the encoder's thread, not by the submitter."""
    makers: set[threading.Thread] = set()

    def remember(made: Item) -> Line:
        makers.add(threading.current_thread())
        return make(made)

    running = Pipeline(sink(Gate(), SinkCounts()), maker=remember)
    running.submit(item(1))
    running.close(within=30)

    assert {thread.name for thread in makers} == {"audit encoder"}


def test_what_makes_no_record_is_not_missed() -> None:
    """An item without a record counts neither as written nor as dropped."""
    counts = SinkCounts()
    running = Pipeline(sink(Gate(), counts), maker=lambda _: None)
    running.submit(RuntimeListing(b"", b""))
    running.close(within=30)

    assert (counts.written, counts.dropped) == (0, {})


def test_dropped_records_are_reported_to_the_record() -> None:
    """A Dropped record stands where records are missing; written and dropped add up to all."""
    gate, counts = Gate(opened=False), SinkCounts()
    running = Pipeline(sink(gate, counts, records=10))

    running.submit(item(0))
    wait_until(gate.entered.is_set, "a write that hangs")
    for number in range(1, 100):
        running.submit(item(number))
    wait_until(lambda: counts.dropped["queue_full"] == 90, "drops")
    gate.open.set()
    wait_until(lambda: counts.backlog == 0, "writing again")
    running.submit(item(100))
    running.close(within=30)

    assert numbers(gate.lines) == [*range(10), 100]
    assert [json.loads(line)["kind"] for line in gate.lines][10] == "Dropped"
    drop_record = json.loads(gate.lines[10])
    assert (drop_record["dropped"], drop_record["reasons"]) == (90, {"queue_full": 90})
    assert drop_record["since"] <= drop_record["until"]
    assert counts.written + reported(gate.lines) == 101


def test_a_queue_is_limited_in_bytes() -> None:
    """A queue is limited in bytes as well as in records."""
    gate, counts = Gate(opened=False), SinkCounts()
    running = Pipeline(sink(gate, counts, size=len(make(item(0)).line) * 3))

    for number in range(9):
        running.submit(item(number))
    wait_until(lambda: counts.dropped["queue_full"] == 6, "drops")
    gate.open.set()
    running.close(within=30)

    assert counts.written + reported(gate.lines) == 9


def test_what_cannot_be_written_in_time_counts_as_dropped() -> None:
    """Closing ends in time, and every record is written or counted as dropped."""
    gate, counts = Gate(opened=False), SinkCounts()
    gate.refuse = lambda lines: Progress(0, trouble="the disk is full")
    running = Pipeline(sink(gate, counts))
    for number in range(50):
        running.submit(item(number))
    gate.open.set()

    running.close(within=0.1)

    assert counts.written == 0
    assert counts.dropped["closing"] == 50
    assert counts.backlog == 0


def test_a_fault_in_making_a_record_is_counted_and_logged_once() -> None:
    """A record that cannot be made is dropped in every sink; the others are written."""

    def fail(made: Item) -> Line:
        if json.loads(make(made).line)["number"] % 2:
            raise ValueError("no")
        return make(made)

    gate, counts = Gate(), SinkCounts()
    errors: list[str] = []
    running = Pipeline(sink(gate, counts), maker=fail, log_error=errors.append)
    for number in range(10):
        running.submit(item(number))
    running.close(within=30)

    assert numbers(gate.lines) == [0, 2, 4, 6, 8]
    assert counts.dropped == {"failed": 5}
    assert reported(gate.lines) == 5
    assert len(errors) == 1


def test_errors_are_logged_when_they_begin_and_end() -> None:
    """An error is logged once when it begins and once when it ends."""
    gate, counts = Gate(opened=False), SinkCounts()
    refused = 0

    def refuse(lines: Sequence[bytes]) -> Progress:
        nonlocal refused
        refused += 1
        return Progress(0, trouble="the disk is full", retry=0.01)

    gate.refuse = refuse
    errors: list[str] = []
    running = Pipeline(sink(gate, counts, log_error=errors.append))
    running.submit(item(1))
    gate.open.set()
    wait_until(lambda: counts.errors >= 3, "tries")
    gate.refuse = None
    wait_until(lambda: gate.lines, "the record")
    running.close(within=30)

    assert errors == ["audit sink test: the disk is full", "audit sink test works again"]


def test_a_rejected_dropped_record_is_included_in_the_next() -> None:
    """A rejected Dropped record is included in the next one."""
    gate, counts = Gate(), SinkCounts()
    gate.refuse = lambda lines: Progress(len(lines), lost=len(lines), reason="rejected")
    running = Pipeline(sink(gate, counts))
    running.submit(item(1))
    wait_until(lambda: counts.dropped["rejected"] == 1 and counts.backlog == 0, "a rejection")
    gate.refuse = None
    running.submit(item(2))
    running.close(within=30)

    assert numbers(gate.lines) == [2]
    assert reported(gate.lines) == 1


def test_reopening_reaches_sinks_that_have_nothing_to_write() -> None:
    """An idle sink is reopened at once."""
    gate = Gate()
    running = Pipeline(sink(gate, SinkCounts()))
    running.reopen()

    wait_until(lambda: gate.reopened == 1, "reopening")
    running.close(within=30)


def test_a_fault_in_a_sink_does_not_end_it() -> None:
    """An outlet's exception is logged and the write is repeated."""
    gate, counts = Gate(), SinkCounts()
    errors: list[str] = []

    def fault(lines: Sequence[bytes]) -> Progress:
        gate.refuse = None
        raise ZeroDivisionError

    gate.refuse = fault
    running = Pipeline(sink(gate, counts, blocking=True, log_error=errors.append))
    running.submit(item(1))
    wait_until(lambda: gate.lines, "the record")
    running.close(within=30)

    assert numbers(gate.lines) == [1]
    assert "a fault of criproxy's" in errors[0]


def test_a_queue_is_full_while_its_listener_has_its_share() -> None:
    """A blocking sink accepts records above its limits; its queues are full until it has room."""
    gate, counts = Gate(opened=False), SinkCounts()
    running = Pipeline(sink(gate, counts, blocking=True, records=10))
    assert not running.full

    for number in range(100):
        running.submit(item(number))
    wait_until(lambda: running.full, "a full queue")
    assert not running.queue("other").full
    gate.open.set()

    wait_until(lambda: not running.full, "room")
    running.close(within=30)
    assert numbers(gate.lines) == list(range(100))
    assert counts.dropped == {}


def test_an_item_is_done_when_all_sinks_have_written_it() -> None:
    """Items are taken when they are in the queues, and done once every sink has written them."""
    gates = Gate(opened=False), Gate(opened=False)
    running = Pipeline(sink(gates[0], SinkCounts(), blocking=True), sink(gates[1], SinkCounts()))
    queue = running.queue("test")

    running.submit(item(1))
    for gate in gates:
        wait_until(gate.entered.is_set, "a write")
    assert (queue.items, queue.results) == (1, [])
    gates[0].open.set()
    wait_until(lambda: gates[0].lines, "a record")
    assert queue.results == []
    gates[1].open.set()
    wait_until(lambda: queue.results, "the report")

    assert queue.results == [(0, 1, True)]
    running.close(within=30)


@pytest.mark.parametrize(
    ("answer", "blocking", "durable"),
    [
        (Progress(1, durable=False), True, False),
        (Progress(1, lost=1, reason="rejected"), True, False),
        (Progress(1, lost=1, reason="rejected"), False, True),
    ],
    ids=["not on the disk", "rejected", "not blocking"],
)
def test_a_record_that_is_not_durable(answer: Progress, blocking: bool, durable: bool) -> None:
    """A record that a blocking sink has dropped, or that may not survive a crash, is reported."""
    gate = Gate()
    gate.refuse = lambda lines: answer
    running = Pipeline(sink(gate, SinkCounts(), blocking=blocking))

    running.submit(item(1))
    wait_until(lambda: running.queue("test").results, "the report")

    assert running.queue("test").results == [(0, 1, durable)]
    gate.refuse = None
    running.close(within=30)


def test_closing_reports_items_as_not_durable() -> None:
    """Items whose records could not be written at the end are done, but not durable."""
    gate = Gate(opened=False)
    gate.refuse = lambda lines: Progress(0, trouble="no")
    running = Pipeline(sink(gate, SinkCounts(), blocking=True, records=1))
    running.submit(item(1))
    wait_until(lambda: running.full, "a full queue")

    running.close(within=0)

    assert running.queue("test").results == [(0, 1, False)]
    assert not running.full


def test_items_that_are_late_at_the_end_are_not_encoded() -> None:
    """Items that wait when the time for closing is over are counted as dropped."""
    gate, counts, encoding, closing = Gate(), SinkCounts(), threading.Event(), threading.Event()

    def slow(one: Item) -> Line | None:
        encoding.set()
        closing.wait()
        return make(one)

    running = Pipeline(sink(gate, counts), maker=slow)
    running.submit(item(0))
    encoding.wait()
    for number in (1, 2):
        running.submit(item(number))
    closer = threading.Thread(target=running.close, args=(0,))
    closer.start()
    wait_until(lambda: running.intake._closed, "the end of the intake")
    closing.set()
    closer.join()

    assert counts.written + counts.dropped["closing"] == 3
    assert numbers(gate.lines) in ([], [0])
    assert running.queue("test").results[1] == (1, 2, False)


def test_drops_of_a_worker_are_reported_and_not_counted() -> None:
    """Records that a worker has dropped and counted are reported in every sink's log."""
    gate, counts = Gate(), SinkCounts()
    running = Pipeline(sink(gate, counts))
    running.encoder.report_dropped({"intake_full": 3, "refused": 2})
    running.close(within=30)

    assert counts.dropped == {}
    assert reported(gate.lines) == 5


def test_memory_stays_flat_over_many_records() -> None:
    """Memory grows by less than half the size of 200,000 records."""
    count = 200_000
    gate, counts = Gate(), SinkCounts()
    gate.refuse = lambda lines: Progress(len(lines))
    running = Pipeline(sink(gate, counts, blocking=True, records=5000))
    queue = running.queue("test")

    def submit(first: int, last: int) -> None:
        for step in range(first, last, 1000):
            for number in range(step, step + 1000):
                running.submit(item(number))
            wait_until(lambda end=step + 1000: queue.items == end and not running.full, "room")
            queue.results.clear()

    submit(0, count // 10)
    before = _resident()
    submit(count // 10, count)
    running.close(within=30)

    assert counts.written == count
    assert _resident() - before < count * len(make(item(count)).line) / 2


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS")
    )
