"""Computes the limits of each listener from the configuration and the file descriptors.

Each listener has its own share of the descriptors, so that the clients of one cannot take those
that clients of another need. Where there are both, the larger part is kept back for the listeners
whose clients are not restricted: the kubelet is one.
"""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from criproxy.config.schema import LimitsConfig, ListenerConfig
from criproxy.observe.logs.log import Log
from criproxy.relay.listener import Limits

_OWN: Final = 64
"""Descriptors for sockets, logs, control channels and the interpreter."""

_FULL_PART: Final = 3 / 4
"""What the listeners without restrictions have together where there are others, too."""


@dataclass(frozen=True, slots=True)
class ListenerUse:
    """A listener's use of descriptors."""

    scoped: bool
    """Whether its clients are restricted by a profile or an ``allow``."""
    split: bool
    """Whether a client has one connection to the runtime and one to the image service."""

    @property
    def per_client(self) -> int:
        """Descriptors for a client: its own and those of its upstream connections."""
        return 3 if self.split else 2


def connection_shares(descriptors: int, listeners: Sequence[ListenerUse]) -> list[int]:
    """Return how many clients each listener may have at once: at least one."""
    counts = {kind: sum(each.scoped is kind for each in listeners) for kind in (False, True)}
    parts = {False: _FULL_PART, True: 1 - _FULL_PART} if all(counts.values()) else {}
    return [
        max(1, int(descriptors * parts.get(each.scoped, 1) / counts[each.scoped] / each.per_client))
        for each in listeners
    ]


def relay_limits(
    configured: LimitsConfig, listeners: Sequence[ListenerConfig], log: Log
) -> list[Limits]:
    """Return the limits of each listener; raises the soft limit on descriptors to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uses = [
        ListenerUse(
            scoped=each.is_scoped,
            split=each.shields_reads or each.is_split,
        )
        for each in listeners
    ]
    shares = connection_shares(max(0, hard - _OWN), uses)
    for listener, share in zip(listeners, shares, strict=True):
        if configured.connections is not None and configured.connections > share:
            log.warning(
                "limits.connections is more than the file descriptors allow",
                listener=str(listener.endpoint),
                connections=configured.connections,
                allowed=share,
                note="raise the hard limit (LimitNOFILE)",
            )
    return [
        Limits(
            connections=min(configured.connections or share, share),
            runtime_wait=configured.runtime_wait,
            write_buffer=configured.write_buffer,
            header_block=configured.header_block,
            streams=configured.streams,
            message=configured.message,
            header_list=configured.header_list,
            header_fields=configured.header_fields,
            frame_rate=configured.frame_rate,
        )
        for share in shares
    ]
