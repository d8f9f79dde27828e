"""File descriptors: two for each client, and some for the daemon itself."""

import resource
from typing import Final

_OWN: Final = 64
"""Descriptors for sockets, logs, scrapers and the interpreter."""

_PER_CLIENT: Final = 2


def raise_limit() -> int:
    """Allow this process as many descriptors as the system lets it have; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def clients_for(descriptors: int) -> int:
    """Return how many clients at once so many descriptors are enough for."""
    return max(1, (descriptors - _OWN) // _PER_CLIENT)
