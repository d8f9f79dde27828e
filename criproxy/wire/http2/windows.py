"""What may be sent on a connection whose DATA is partly held (RFC 9113 section 5.2).

Of one direction, from a sender through us to a receiver, the sender's view of its connection window
is always ``window + ledger - queued``: what the receiver takes, what we owe the receiver's
updates (positive) or the sender (negative), and what waits here of what the sender has sent.
"""

from typing import Final

from criproxy.wire.constants import LARGEST_WINDOW

_REFUND: Final = 8 << 10
"""Bytes that are owed to a sender before it is granted in a frame of our own."""

DEFAULT_STREAM_LIMIT: Final = 16 << 20
"""Bytes that are held of one stream at most: the largest message that a kubelet takes."""

DEFAULT_TOTAL_LIMIT: Final = 64 << 20
"""Bytes that are held of all streams together at most."""


class ConnectionWindow:
    """The connection window of one direction, and who is owed what of it.

    ``window`` is in bytes what the receiver takes now. ``ledger`` is what the receiver will grant
    again of bytes of ours, which is not the sender's (positive), or what the sender has sent
    that the receiver never saw and will not grant (negative).
    """

    __slots__ = ("ledger", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.ledger = 0

    def record_held(self, size: int) -> None:
        """Take notice that DATA came which does not go on as it is."""
        self.ledger -= size

    def record_own(self, size: int) -> None:
        """Take notice that DATA of ours went to the receiver."""
        self.window -= size
        self.ledger += size

    def record_forwarded(self, size: int) -> None:
        """Take notice that the sender's own DATA went to the receiver."""
        self.window -= size

    def take_update(self, size: int) -> int:
        """Take the receiver's WINDOW_UPDATE; return what the sender is to be granted of it."""
        self.window += size
        if self.ledger > 0:
            kept = min(size, self.ledger)
            self.ledger -= kept
            return size - kept
        forwarded = min(size - self.ledger, LARGEST_WINDOW)
        self.ledger += forwarded - size
        return forwarded

    def refund(self, at_rest: bool) -> int:
        """Return what the sender is to be granted now without an update of the receiver's.

        Small sums wait for one; ``at_rest``: not even those.
        """
        if self.ledger < 0 and (at_rest or self.ledger <= -_REFUND):
            owed, self.ledger = -self.ledger, 0
            return owed
        return 0


class HeldBytesBudget:
    """How much is held of all connections together. ``streams`` and ``bytes`` are what is now."""

    __slots__ = ("bytes", "stream_limit", "streams", "total_limit")

    def __init__(
        self, stream_limit: int = DEFAULT_STREAM_LIMIT, total_limit: int = DEFAULT_TOTAL_LIMIT
    ) -> None:
        """``stream_limit`` and ``total_limit`` are in bytes."""
        self.stream_limit = stream_limit
        self.total_limit = total_limit
        self.streams = 0
        self.bytes = 0

    def exceeded_by(self, of_stream: int, more: int) -> int:
        """Return the limit that ``more`` bytes would pass, where the stream has some; 0: none."""
        if of_stream + more > self.stream_limit:
            return self.stream_limit
        if self.bytes + more > self.total_limit:
            return self.total_limit
        return 0
