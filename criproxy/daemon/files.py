"""File descriptors: those for clients, and some for the daemon itself."""

import resource
from typing import Final

_OWN: Final = 64
"""Descriptors for sockets, logs, scrapers and the interpreter."""


def raise_limit() -> int:
    """Allow this process as many descriptors as the system lets it have; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def for_clients(descriptors: int) -> int:
    """Return how many descriptors are left for clients."""
    return max(0, descriptors - _OWN)
