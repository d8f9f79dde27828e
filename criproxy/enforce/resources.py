"""What the handlers of all calls share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from criproxy.concurrency.steps import LargeMessageExecutor
from criproxy.concurrency.tasks import Tasks
from criproxy.enforce.counts import Counts
from criproxy.rules.pod_cache import PodCache


class Log(Protocol):
    """Where events are told: structlog's, as far as it is needed."""

    def info(self, event: str, **fields: Any) -> Any:
        """Tell of what was to be expected."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Tell of what somebody should look at."""


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
    """What outlives a reload: each Policy is given those of the one before it."""

    memory: PodCache
    counts: Counts
    tasks: Tasks
    log: Log
    clock: Callable[[], float]
    """The clock that calls are timed with: seconds."""
    held_limit: int
    """Bytes that a compressed message may inflate to."""
    workbench: LargeMessageExecutor
