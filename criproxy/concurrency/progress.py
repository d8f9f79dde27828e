"""Reports the progress of work that blocks, such as a query, while it runs on a thread."""

from collections.abc import Callable
from threading import Thread
from typing import Final, TypeVar

T = TypeVar("T")

_STEP: Final = 0.2
"""Seconds between reports."""


def run_with_progress(
    name: str,
    work: Callable[[], T],
    progress: Callable[[], float],
    interrupt: Callable[[], None],
    report: Callable[[float], None],
) -> T:
    """Return the result of ``work``, which runs on a thread called ``name``.

    Meanwhile ``report`` is called with what ``progress`` returns. ``interrupt`` has to end the work
    when this thread gets an exception, such as KeyboardInterrupt. Raises what ``work`` raises.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = Thread(target=run, name=name)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_STEP)
            report(progress())
    except BaseException:
        interrupt()
        thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]
