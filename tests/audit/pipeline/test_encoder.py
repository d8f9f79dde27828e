"""RecordEncoder: submitting does not wait, and every record is written or counted."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from criproxy.audit.counts import SinkCounts
from criproxy.audit.items import Item, RuntimeListing
from criproxy.audit.pipeline.encoder import IntakeLimits
from criproxy.audit.sinks.sink import Progress
from tests.support.audit_lines import Gate, Line, item, make, numbers, pipeline, reported, sink
from tests.support.waiting import LIMIT_SECONDS, wait_until


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_records_reach_every_sink_in_order() -> None:
    """Every sink receives every record in the order of submission."""
    one, other = Gate(), Gate()
    counts = SinkCounts(), SinkCounts()
    running = pipeline(sink(one, counts[0]), sink(other, counts[1]))

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
    running = pipeline(sink(stuck, SinkCounts()), sink(free, SinkCounts()))

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

    running = pipeline(sink(Gate(), SinkCounts()), maker=remember)
    running.submit(item(1))
    running.close(within=30)

    assert {thread.name for thread in makers} == {"audit encoder"}


def test_what_makes_no_record_is_not_missed() -> None:
    """An item without a record counts neither as written nor as dropped."""
    counts = SinkCounts()
    running = pipeline(sink(Gate(), counts), maker=lambda _: None)
    running.submit(RuntimeListing(b"", b""))
    running.close(within=30)

    assert (counts.written, counts.dropped) == (0, {})


def test_dropped_records_are_reported_to_the_record() -> None:
    """A Dropped record stands where records are missing; written and dropped add up to all."""
    gate, counts = Gate(opened=False), SinkCounts()
    running = pipeline(sink(gate, counts, records=10))

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
    running = pipeline(sink(gate, counts, size=len(make(item(0)).line) * 3))

    for number in range(9):
        running.submit(item(number))
    wait_until(lambda: counts.dropped["queue_full"] == 6, "drops")
    gate.open.set()
    running.close(within=30)

    assert counts.written + reported(gate.lines) == 9


def test_a_full_intake_drops_for_every_sink() -> None:
    """Items dropped before the encoder count as dropped in every sink."""
    hold = threading.Event()

    def slowly(made: Item) -> Line:
        hold.wait()
        return make(made)

    gates = Gate(), Gate()
    counts = SinkCounts(), SinkCounts()
    running = pipeline(
        *(sink(gate, count) for gate, count in zip(gates, counts, strict=True)),
        limits=IntakeLimits(items=5),
        maker=slowly,
    )
    for number in range(20):
        running.submit(item(number))
    hold.set()
    running.close(within=30)

    for gate, count in zip(gates, counts, strict=True):
        assert count.dropped == {"intake_full": 15}
        assert (len(numbers(gate.lines)), reported(gate.lines)) == (5, 15)


def test_a_sink_that_blocks_loses_nothing() -> None:
    """A blocking sink accepts records above its limits, is full then, and calls back later."""
    gate, counts = Gate(opened=False), SinkCounts()
    running = pipeline(sink(gate, counts, blocking=True, records=10), limits=IntakeLimits(items=7))
    assert (running.blocking, running.full, running.max_wait) == (True, False, 3.0)

    for number in range(100):
        running.submit(item(number))
    wait_until(lambda: running.full, "a full pipeline")
    room = threading.Event()
    running.when_room(room.set)
    assert not room.is_set()
    gate.open.set()

    assert room.wait(LIMIT_SECONDS)
    wait_until(lambda: not running.full, "room")
    running.close(within=30)
    assert numbers(gate.lines) == list(range(100))
    assert counts.dropped == {}


def test_with_room_the_call_back_is_at_once() -> None:
    """With room, the callback of ``when_room`` is called at once."""
    running = pipeline(sink(Gate(), SinkCounts(), blocking=True))
    room = threading.Event()
    running.when_room(room.set)

    assert room.is_set()
    running.close(within=30)


def test_a_synced_record_is_done_when_it_is_written() -> None:
    """``done`` is called once every blocking sink has written the record."""
    gates = Gate(opened=False), Gate(opened=False), Gate(opened=False)
    running = pipeline(
        sink(gates[0], SinkCounts(), blocking=True, synced=True),
        sink(gates[1], SinkCounts(), blocking=True),
        sink(gates[2], SinkCounts()),
    )
    assert running.synced
    results: list[bool] = []

    running.submit_synced(item(1), results.append)
    wait_until(gates[0].entered.is_set, "a write")
    wait_until(gates[1].entered.is_set, "a write")
    gates[0].open.set()
    wait_until(lambda: gates[0].lines, "a record")
    assert results == []
    gates[1].open.set()
    wait_until(lambda: results, "the word that it is written")

    assert results == [True]
    gates[2].open.set()
    running.close(within=30)


@pytest.mark.parametrize(
    "answer",
    [Progress(1, durable=False), Progress(1, lost=1, reason="rejected")],
    ids=["not on the disk", "rejected"],
)
def test_a_synced_record_that_is_not_durable_is_told(answer: Progress) -> None:
    """``done(False)`` reports a record that may not survive a crash."""
    gate = Gate()
    gate.refuse = lambda lines: answer
    running = pipeline(sink(gate, SinkCounts(), blocking=True))
    results: list[bool] = []

    running.submit_synced(item(1), results.append)
    wait_until(lambda: results, "the word that it is not")

    assert results == [False]
    gate.refuse = None
    running.close(within=30)


def test_closing_tells_those_who_wait() -> None:
    """Closing calls all waiting callbacks."""
    gate = Gate(opened=False)
    gate.refuse = lambda lines: Progress(0, trouble="no")
    running = pipeline(sink(gate, SinkCounts(), blocking=True, records=1))
    results: list[bool] = []
    room = threading.Event()
    running.submit_synced(item(1), results.append)
    wait_until(lambda: running.full, "a full pipeline")
    running.when_room(room.set)

    running.close(within=0)

    assert results == [False]
    assert room.is_set()


def test_what_cannot_be_written_in_time_counts_as_dropped() -> None:
    """Closing ends in time, and every record is written or counted as dropped."""
    gate, counts = Gate(opened=False), SinkCounts()
    gate.refuse = lambda lines: Progress(0, trouble="the disk is full")
    running = pipeline(sink(gate, counts))
    for number in range(50):
        running.submit(item(number))
    gate.open.set()

    running.close(within=0.1)
    running.submit(item(50))

    assert counts.written == 0
    assert counts.dropped["closing"] == 51
    assert counts.backlog == 0


def test_a_fault_in_making_a_record_is_counted_and_said_once() -> None:
    """A record that cannot be made is dropped in every sink; the others are written."""

    def fail(made: Item) -> Line:
        if json.loads(make(made).line)["number"] % 2:
            raise ValueError("no")
        return make(made)

    gate, counts = Gate(), SinkCounts()
    complaints: list[str] = []
    running = pipeline(sink(gate, counts), maker=fail, log_error=complaints.append)
    for number in range(10):
        running.submit(item(number))
    running.close(within=30)

    assert numbers(gate.lines) == [0, 2, 4, 6, 8]
    assert counts.dropped == {"failed": 5}
    assert reported(gate.lines) == 5
    assert len(complaints) == 1


def test_troubles_are_said_when_they_begin_and_end() -> None:
    """An error is logged once when it begins and once when it ends."""
    gate, counts = Gate(opened=False), SinkCounts()
    refused = 0

    def refuse(lines: Sequence[bytes]) -> Progress:
        nonlocal refused
        refused += 1
        return Progress(0, trouble="the disk is full", retry=0.01)

    gate.refuse = refuse
    complaints: list[str] = []
    running = pipeline(sink(gate, counts, log_error=complaints.append))
    running.submit(item(1))
    gate.open.set()
    wait_until(lambda: counts.errors >= 3, "tries")
    gate.refuse = None
    wait_until(lambda: gate.lines, "the record")
    running.close(within=30)

    assert complaints == ["audit sink test: the disk is full", "audit sink test works again"]


def test_a_rejected_notice_is_told_again_with_the_next_records() -> None:
    """A rejected Dropped record is included in the next one."""
    gate, counts = Gate(), SinkCounts()
    gate.refuse = lambda lines: Progress(len(lines), lost=len(lines), reason="rejected")
    running = pipeline(sink(gate, counts))
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
    running = pipeline(sink(gate, SinkCounts()))
    running.reopen()

    wait_until(lambda: gate.reopened == 1, "reopening")
    running.close(within=30)


def test_memory_stays_flat_over_many_records() -> None:
    """Memory grows by less than half the size of 200,000 records."""
    count = 200_000
    gate, counts = Gate(), SinkCounts()
    gate.refuse = lambda lines: Progress(len(lines))
    running = pipeline(sink(gate, counts, blocking=True, records=5000))

    def submit(first: int, last: int) -> None:
        for number in range(first, last):
            if running.full:
                room = threading.Event()
                running.when_room(room.set)
                assert room.wait(LIMIT_SECONDS)
            running.submit(item(number))

    submit(0, count // 10)
    before = _resident()
    submit(count // 10, count)
    running.close(within=30)

    assert counts.written == count
    assert _resident() - before < count * len(make(item(count)).line) / 2


def test_a_fault_in_a_sink_does_not_end_it() -> None:
    """An outlet's exception is logged and the write is repeated."""
    gate, counts = Gate(), SinkCounts()
    complaints: list[str] = []

    def fault(lines: Sequence[bytes]) -> Progress:
        gate.refuse = None
        raise ZeroDivisionError

    gate.refuse = fault
    running = pipeline(sink(gate, counts, blocking=True, log_error=complaints.append))
    running.submit(item(1))
    wait_until(lambda: gate.lines, "the record")
    running.close(within=30)

    assert numbers(gate.lines) == [1]
    assert "a fault of criproxy's" in complaints[0]


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS")
    )
