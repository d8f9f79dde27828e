"""Work on a thread with reports of its progress: results, failures and interruption."""

import threading

import pytest

from criproxy.concurrency.progress import run_with_progress
from tests.support.waiting import LIMIT_SECONDS


def nothing() -> None:
    pass


def test_result() -> None:
    """The result is that of the work, and progress is reported while it runs."""
    reported: list[float] = []
    seen = threading.Event()

    def report(percent: float) -> None:
        reported.append(percent)
        seen.set()

    def work() -> str:
        assert seen.wait(LIMIT_SECONDS)
        return threading.current_thread().name

    assert run_with_progress("worker", work, lambda: 42.0, nothing, report) == "worker"
    assert set(reported) == {42.0}


def test_failure() -> None:
    """What the work raises is raised."""

    def work() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        run_with_progress("worker", work, lambda: 0.0, nothing, lambda percent: None)


def test_interruption() -> None:
    """An exception in the waiting thread interrupts the work, and is raised when that has ended."""
    interrupted = threading.Event()
    ended = threading.Event()

    def work() -> None:
        assert interrupted.wait(LIMIT_SECONDS)
        ended.set()

    def report(percent: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with_progress("worker", work, lambda: 0.0, interrupted.set, report)
    assert ended.is_set()
