"""Waits for conditions with a time limit, so that no test sleeps for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_SECONDS = 120.0
"""How long anything may take before a test fails: far beyond what a loaded machine needs."""
POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], T | None],
    what: str,
    *,
    limit: float = LIMIT_SECONDS,
    report: Callable[[], str] = str,
) -> T:
    """Call ``condition`` until it gives something true, and return that.

    An OSError or AssertionError that it raises counts as "not yet". Raises TimeoutError after
    ``limit`` seconds, naming ``what`` was awaited, the last error and what ``report`` says.
    """
    deadline = time.monotonic() + limit
    while True:
        last: Exception | None = None
        try:
            if result := condition():
                return result
        except (OSError, AssertionError) as error:
            last = error
        if time.monotonic() > deadline:
            because = f": {last}" if last else ""
            raise TimeoutError(f"no {what} within {limit:g} s{because}\n{report()}") from last
        time.sleep(POLL_SECONDS)
