"""Shares out file descriptors among the listeners of a process, in connections.

Each listener has its own share, so that the clients of one cannot take the descriptors that those
of another need. Where there are both, the larger part is kept back for the listeners whose clients
are not restricted: the kubelet is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
