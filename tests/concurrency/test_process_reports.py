"""ProcessReports: what the supervisor is told, and what a thread may still do after the end."""

import select
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from criproxy.concurrency.process_messages import ControlSocket, Message
from criproxy.concurrency.process_reports import ProcessReports
from criproxy.errors import UnavailableError, UsageError


@pytest.fixture
def ends() -> Iterator[tuple[ControlSocket, ControlSocket]]:
    """The process's end and the supervisor's."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield ControlSocket(ours), ControlSocket(theirs)


def _messages(supervisor: ControlSocket) -> list[Message]:
    return [message for message, _ in supervisor.receive()]


@pytest.mark.parametrize(
    ("error", "usage"), [(UsageError("no URL"), True), (UnavailableError("no package"), False)]
)
def test_a_configuration(
    ends: tuple[ControlSocket, ControlSocket], error: Exception, usage: bool
) -> None:
    """A configuration that fails is reported with whose mistake it is, one in force as ready."""

    def fail() -> None:
        raise error

    reports = ProcessReports[int](ends[0], lambda counts: counts)
    reports.configured(fail)
    reports.configured(lambda: None)
    assert _messages(ends[1]) == [
        {"op": "failed", "error": str(error), "usage": usage},
        {"op": "ready"},
    ]
    reports.close(0, 0, 5.0)


def test_counters_are_sent_when_they_change(ends: tuple[ControlSocket, ControlSocket]) -> None:
    """Counters that are as they were are not sent again."""
    reports = ProcessReports[int](ends[0], lambda counts: [counts])
    for counts in (1, 1, 2):
        reports.send_counts(counts)
    assert [message["snapshot"] for message in _messages(ends[1])] == [[1], [2]]
    reports.close(2, 0, 5.0)


def test_errors_wake_the_process(ends: tuple[ControlSocket, ControlSocket]) -> None:
    """A selector sees that an error waits, until it is sent."""
    reports = ProcessReports[int](ends[0], lambda counts: counts)
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    assert poll.poll(0) == []
    reports.log_error("disk full")
    assert poll.poll(0) == [(reports.fileno(), select.POLLIN)]
    reports.send_errors()
    assert poll.poll(0) == []
    assert _messages(ends[1]) == [{"op": "error", "trouble": "disk full"}]
    reports.close(0, 0, 5.0)


def test_the_end(ends: tuple[ControlSocket, ControlSocket]) -> None:
    """At the end comes what waits, and what is lost; a thread left behind may still have an error,
    which goes nowhere: neither fails it, nor is it written to what has its descriptor by then."""
    reports = ProcessReports[int](ends[0], lambda counts: counts)
    reports.log_error("disk full")
    descriptor = reports.fileno()
    reports.close(7, 3, 5.0)
    assert _messages(ends[1]) == [
        {"op": "error", "trouble": "disk full"},
        {"op": "metrics", "snapshot": 7},
        {"op": "lost", "count": 3, "waited_s": 5.0},
    ]
    one, other = socket.socketpair()
    with closing(one), closing(other):
        assert descriptor in (one.fileno(), other.fileno())
        reports.log_error("still full")
        assert select.select([one, other], [], [], 0)[0] == []


def test_a_supervisor_that_is_gone(ends: tuple[ControlSocket, ControlSocket]) -> None:
    """The end does not fail where nobody listens."""
    reports = ProcessReports[int](ends[0], lambda counts: counts)
    ends[1].sock.close()
    reports.close(7, 3, 5.0)
