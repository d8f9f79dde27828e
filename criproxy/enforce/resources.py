"""Objects that the handlers of all held calls share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from criproxy.concurrency.steps import LargeMessageExecutor
from criproxy.concurrency.tasks import Tasks
from criproxy.enforce.counts import Counts
from criproxy.rules.pod_cache import PodCache


class Log(Protocol):
    """The methods of a structlog logger that hooks and handlers use."""

    def info(self, event: str, **fields: Any) -> Any:
        """Log an expected event."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Log an event that needs attention."""


ShareUpdate = Callable[[bytes, bytes, bytes], None]
"""Tells other pod caches of a call: its path, its request and its response, uncompressed."""


def _share_nothing(path: bytes, request: bytes, response: bytes) -> None:
    """There is no other pod cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
    """Objects that outlive a reload: each policy is given those of the one before it."""

    pod_cache: PodCache
    counts: Counts
    tasks: Tasks
    log: Log
    clock: Callable[[], float]
    """The clock that calls are timed with, in seconds."""
    held_limit: int
    """Bytes that a compressed message may decompress to."""
    message_executor: LargeMessageExecutor
    share_update: ShareUpdate = _share_nothing
    """Called after the pod cache was updated from a call."""
