"""Pauses between the starts of a process that keeps ending."""

from criproxy.daemon.supervisor.processes.backoff import Backoff


def test_pauses_double_up_to_half_a_minute() -> None:
    """The first start is immediate; the pauses behind it double, to 30 s at most."""
    backoff = Backoff()
    pauses = [backoff.next_pause(1.0) for _ in range(12)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_a_process_that_lasted_is_started_at_once() -> None:
    """After a minute without an end the pauses begin anew."""
    backoff = Backoff()
    for _ in range(5):
        backoff.next_pause(1.0)
    assert [backoff.next_pause(61.0), backoff.next_pause(1.0)] == [0.0, 0.1]
