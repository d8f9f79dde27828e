"""SinkQueue: all records are written or reported as dropped."""

import json

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
        assert counts.written + counts.dropped.total() + _waiting(queue) == came
    queue.put([record(came)])
    while batch := queue.peek(100, 1 << 20, 0):
        queue.finish(len(batch))
        written += batch

    found = numbers(written)
    assert found == sorted(found)
    assert len(found) == counts.written
    assert reported(written) == counts.dropped.total()
    assert len(found) + reported(written) == came + 1


def _waiting(queue: SinkQueue) -> int:
    return len(numbers(queue.peek(1000, 1 << 20, 0)))


def test_a_line_larger_than_the_queue_is_taken_alone() -> None:
    """A record larger than the queue's bytes is written."""
    counts = SinkCounts()
    queue = _queue(counts)
    queue.put([record(0, padding=2 << 20), record(1)])

    assert numbers(queue.peek(10, 1, 0)) == [0]
    queue.finish(1)
    assert json.loads(queue.peek(10, 1 << 20, 0)[0])["reasons"] == {"queue_full": 1}


def test_room_is_told_once_when_there_is_some() -> None:
    """``on_room`` is called exactly when the queue stops being full."""
    results: list[bool] = []
    queue = _queue(SinkCounts(), blocking=True, records=3)
    queue.on_room = lambda: results.append(queue.full)
    queue.put([record(number) for number in range(5)])

    for expected in ([], [], [False], [False], [False]):
        queue.finish(1)
        assert results == expected


def test_room_is_told_when_a_loss_is_told_as_well() -> None:
    """A Dropped record in the queue does not suppress ``on_room``."""
    results: list[bool] = []
    queue = _queue(SinkCounts(), blocking=True, records=3)
    queue.on_room = lambda: results.append(queue.full)
    queue.put([record(number) for number in range(3)])
    queue.count_dropped(2, "failed")
    queue.finish(2)

    assert results == [False]
