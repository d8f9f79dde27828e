"""What the handlers of all calls share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from criproxy.enforce.counts import Counts
from criproxy.enforce.courses import Workbench
from criproxy.rules.memory import Memory
from criproxy.tasks import Tasks


class Log(Protocol):
    """Where events are told: structlog's, as far as it is needed."""

    def info(self, event: str, **fields: Any) -> Any:
        """Tell of what was to be expected."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Tell of what somebody should look at."""


@dataclass(frozen=True, slots=True, eq=False)
class Resources:
    """What outlives a reload: each Policy is given those of the one before it."""

    memory: Memory
    counts: Counts
    tasks: Tasks
    log: Log
    clock: Callable[[], float]
    """The clock that calls are timed with: seconds."""
    held_limit: int
    """Bytes that a compressed message may inflate to."""
    workbench: Workbench
