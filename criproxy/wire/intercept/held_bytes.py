"""Limits on the bytes that held streams keep, and on how long a message may take to arrive.

Each connection has a share of the total. The last quarter of the total is reserved for connections
that hold little: what one may hold falls with the square of what is free of that quarter, so that a
few connections that hold all they may leave room for the messages of others.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

DEFAULT_STREAM_LIMIT: Final = 16 << 20
"""Maximum bytes held of one stream: the largest message that a kubelet accepts."""

DEFAULT_TOTAL_LIMIT: Final = 64 << 20
"""Maximum bytes held of all streams together."""

HELD_LIMIT: Final = "held_limit"
"""The reason where too many bytes would be held."""

HELD_TIME: Final = "held_time"
"""The reason where a message takes too long to arrive."""

DEFAULT_TIME_LIMIT: Final = 60.0
"""Seconds after which a message that is still incomplete is not held any longer."""

MESSAGE_OVERHEAD: Final = 256
"""Bytes that a held message counts for beside its own, so that empty ones are limited as well."""

STREAM_OVERHEAD: Final = 2 << 10
"""Bytes that a held stream counts for beside its headers and messages."""

HEADER_OVERHEAD: Final = 32
"""Bytes that a header counts for beside its name and value (RFC 9113 section 6.5.2)."""


class HeldBytesBudget:
    """The limits of all connections. ``streams`` and ``bytes`` are what is held now."""

    __slots__ = (
        "_incomplete",
        "bytes",
        "connection_limit",
        "stream_limit",
        "streams",
        "time_limit",
        "total_limit",
    )

    def __init__(
        self,
        stream_limit: int = DEFAULT_STREAM_LIMIT,
        total_limit: int = DEFAULT_TOTAL_LIMIT,
        connection_limit: int | None = None,
        time_limit: float = DEFAULT_TIME_LIMIT,
    ) -> None:
        """The limits are in bytes and seconds. ``connection_limit`` None: a quarter of the total,
        but not less than one stream may hold with its overhead."""
        self.stream_limit = stream_limit
        self.total_limit = total_limit
        self.connection_limit = connection_limit or max(
            total_limit // 4, stream_limit + stream_limit // 16
        )
        self.time_limit = time_limit
        self.streams = 0
        self.bytes = 0
        self._incomplete: OrderedDict[Hashable, tuple[float, Callable[[float], None]]] = (
            OrderedDict()
        )

    def await_rest(self, key: Hashable, since: float, expired: Callable[[float], None]) -> None:
        """Call ``expired`` with the time of the first :meth:`tick` at which the limit has passed.

        ``since``: the time now, in seconds. A second call for a ``key`` replaces the first.
        """
        self._incomplete.pop(key, None)
        self._incomplete[key] = since, expired

    def is_awaited(self, key: Hashable) -> bool:
        """Return whether :meth:`await_rest` was called for a key, and the limit has not passed."""
        return key in self._incomplete

    def rest_arrived(self, key: Hashable) -> None:
        """Undo :meth:`await_rest`."""
        self._incomplete.pop(key, None)

    def tick(self, now: float) -> None:
        """End the waits that have passed the time limit; ``now`` is in seconds."""
        while self._incomplete:
            key, (since, expired) = next(iter(self._incomplete.items()))
            if now - since < self.time_limit:
                return
            del self._incomplete[key]
            expired(now)


class ConnectionBudget:
    """The share of one connection. ``bytes`` is what it holds now."""

    __slots__ = ("bytes", "total")

    def __init__(self, total: HeldBytesBudget) -> None:
        self.total = total
        self.bytes = 0

    def add(self, size: int) -> None:
        """Count bytes that are held from now on; negative ``size``: that are held no longer."""
        self.bytes += size
        self.total.bytes += size

    def exceeded_by(self, of_stream: int, more: int) -> int:
        """Return the limit that ``more`` bytes would exceed, in bytes; 0 if none.

        ``of_stream`` bytes are held of the stream already.
        """
        total = self.total
        if of_stream + more > total.stream_limit:
            return total.stream_limit
        share, held = total.connection_limit, self.bytes + more
        if held > share:
            return share
        free = total.total_limit - total.bytes - more
        if free < 0:
            return total.total_limit
        reserve = total.total_limit // 4
        if free < reserve and held * reserve * reserve > share * free * free:
            return total.total_limit
        return 0
