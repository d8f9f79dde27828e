"""SinkQueue: all records are written or reported as dropped."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.audit.counts import SinkCounts
from criproxy.audit.dropped import DroppedRecords
from criproxy.audit.sinks.sink_queue import SinkQueue
from tests.support.audit_lines import numbers, record, reported

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 8)),
        st.tuples(st.just("lose"), st.integers(1, 3)),
        st.tuples(st.just("write"), st.integers(1, 8)),
        st.tuples(st.just("reject"), st.integers(1, 8)),
    ),
    max_size=40,
)


def _queue(counts: SinkCounts, blocking: bool = False, records: int = 6) -> SinkQueue:
    def drop_record(dropped: DroppedRecords) -> bytes:
        return dropped.line("node", "test", 0)

    return SinkQueue(
        records=records, size=1 << 20, blocking=blocking, counts=counts, drop_record=drop_record
    )


@given(_STEPS)
def test_written_and_reported_are_all_that_came(steps: list[tuple[str, int]]) -> None:
    """After any sequence of operations, written and reported records add up to all."""
    counts = SinkCounts()
    queue = _queue(counts)
    written: list[bytes] = []
    came = 0
    for step, count in steps:
        if step == "put":
            queue.put([record(number) for number in range(came, came + count)])
            came += count
        elif step == "lose":
            queue.count_dropped(count, "intake_full")
            came += count
        else:
            batch = queue.peek(count, 1 << 20, 0)
            lost = len(batch) if step == "reject" else 0
            queue.finish(len(batch), lost, "rejected")
            written += [] if lost else batch
        assert counts.written + counts.dropped.total() <= came
        assert came <= counts.written + counts.dropped.total() + counts.backlog
    queue.put([record(came)])
    while batch := queue.peek(100, 1 << 20, 0):
        queue.finish(len(batch))
        written += batch

    found = numbers(written)
    assert found == sorted(found)
    assert len(found) == counts.written
    assert reported(written) == counts.dropped.total()
    assert len(found) + reported(written) == came + 1


def test_a_line_larger_than_the_queue_is_taken_alone() -> None:
    """A record larger than the queue's bytes is written."""
    counts = SinkCounts()
    queue = _queue(counts)
    queue.put([record(0, padding=2 << 20), record(1)])

    assert numbers(queue.peek(10, 1, 0)) == [0]
    queue.finish(1)
    assert json.loads(queue.peek(10, 1 << 20, 0)[0])["reasons"] == {"queue_full": 1}


def test_room_is_reported_once() -> None:
    """``on_room`` is called exactly when a listener for which the queue was full has room."""
    results: list[bool] = []
    queue = _queue(SinkCounts(), blocking=True, records=3)
    queue.on_room = lambda: results.append(queue.is_full())
    queue.put([record(number) for number in range(5)])
    assert queue.is_full()

    for expected in ([], [], [False], [False], [False]):
        queue.peek(1, 1 << 20, 0)
        queue.finish(1)
        assert results == expected


def test_a_dropped_record_does_not_suppress_the_report_of_room() -> None:
    """A Dropped record in the queue does not suppress ``on_room``."""
    results: list[bool] = []
    queue = _queue(SinkCounts(), blocking=True, records=4)
    queue.on_room = lambda: results.append(queue.is_full())
    queue.put([record(number) for number in range(4)])
    queue.count_dropped(2, "failed")
    assert queue.is_full()
    queue.finish(len(queue.peek(2, 1 << 20, 0)))

    assert results == [False]


@pytest.mark.parametrize("blocking", [False, True])
def test_a_listener_cannot_use_the_share_of_another(blocking: bool) -> None:
    """A full queue still accepts the lines of a listener that has not used its share."""
    counts = SinkCounts()
    queue = _queue(counts, blocking, records=100)
    queue.put([record(number) for number in range(1000 if not blocking else 100)], "agent")
    assert queue.is_full("agent")
    assert not queue.is_full("kubelet")

    for number in range(50):
        assert not queue.is_full("kubelet")
        queue.put([record(2000 + number)], "kubelet")
    assert queue.is_full("kubelet")
    written: list[bytes] = []
    while batch := queue.peek(20, 1 << 20, 0):
        written += batch
        queue.finish(len(batch))
    of_kubelet = [number for number in numbers(written) if number >= 2000]
    assert of_kubelet == list(range(2000, 2050))
    assert len(numbers(written)) == 150


def test_lines_of_listeners_are_written_in_turn() -> None:
    """A listener's lines do not wait for another's that fill many batches."""
    queue = _queue(SinkCounts(), blocking=True, records=1000)
    queue.put([record(number) for number in range(900)], "agent")
    queue.put([record(1000 + number) for number in range(10)], "kubelet")

    assert set(range(1000, 1010)) <= set(numbers(queue.peek(20, 1 << 20, 0)))


def test_lines_that_fit_are_written_in_the_order_of_arrival() -> None:
    """Lines of several listeners keep their order if one batch takes all of them."""
    queue = _queue(SinkCounts(), records=1000)
    for number in range(60):
        queue.put([record(number)], "agent" if number % 3 else "kubelet")

    assert numbers(queue.peek(500, 1 << 20, 0)) == list(range(60))


def test_callbacks_wait_for_the_lines_of_their_listener() -> None:
    """``when_finished`` waits for the lines that its listener has put before, and for no others."""
    queue = _queue(SinkCounts(), blocking=True, records=100)
    results: list[tuple[str, bool]] = []
    queue.put([record(0), record(1)], "agent")
    queue.put([record(2)], "kubelet")
    queue.when_finished("agent", lambda durable: results.append(("agent", durable)))
    queue.when_finished("kubelet", lambda durable: results.append(("kubelet", durable)))
    queue.when_finished("other", lambda durable: results.append(("other", durable)))
    assert results == [("other", True)]
    queue.peek(10, 1 << 20, 0)
    queue.finish(2)
    assert results[1:] == [("agent", True)]
    queue.finish(1, durable=False)
    assert results[2:] == [("kubelet", False)]
