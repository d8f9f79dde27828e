"""Simulates a container's resource usage: figures grow with time and differ by container."""

import time
from dataclasses import dataclass
from typing import Final

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.embedded.state.objects import Container

MIB: Final = 1 << 20
DEFAULT_LIMIT: Final = 512 * MIB


@dataclass(frozen=True, slots=True)
class Usage:
    """A running container's usage: times in nanoseconds, memory and files in bytes."""

    timestamp: int
    cpu_nanoseconds: int
    nano_cores: int
    working_set: int
    rss: int
    available: int
    page_faults: int
    layer_bytes: int
    layer_inodes: int
    received: int
    sent: int


def usage(container: Container) -> Usage:
    """Return a container's usage now: CPU and traffic grow while it runs, memory is steady."""
    now = time.time_ns()
    seed = int(container.id[:8], 16)
    nano_cores = 1_000_000 + seed % 200_000_000  # 0.001 to 0.2 cores
    running = max(0, now - container.started_at)
    working_set = (8 + seed % 120) * MIB
    limit = container.resources.memory_limit_in_bytes or DEFAULT_LIMIT
    return Usage(
        timestamp=now,
        cpu_nanoseconds=running * nano_cores // 1_000_000_000,
        nano_cores=nano_cores,
        working_set=working_set,
        rss=working_set * 3 // 4,
        available=max(0, limit - working_set),
        page_faults=working_set >> 12,
        layer_bytes=(seed % 64) * 4096,
        layer_inodes=seed % 64,
        received=running // 1_000_000 * (seed % 97),
        sent=running // 1_000_000 * (seed % 53),
    )


def value(number: int) -> v1.UInt64Value:
    """Return a number as the CRI's UInt64Value."""
    return v1.UInt64Value(value=number)
