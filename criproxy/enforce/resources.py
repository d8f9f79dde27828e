"""Objects that the handlers of all held calls share."""

from collections.abc import Callable
from dataclasses import dataclass

from criproxy.concurrency.steps import LargeMessageExecutor
from criproxy.concurrency.tasks import Tasks
from criproxy.enforce.counts import Counts
from criproxy.enforce.hooks.hook import Log
from criproxy.rules.pod_cache import PodCache


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
