"""Flow control of a connection whose DATA is partly held (RFC 9113 section 5.2).

In one direction, from a sender through the proxy to a receiver, the sender's view of its connection
window is always ``window + ledger - queued``, where ``queued`` are the sender's flow-controlled
bytes in the send queue.
"""

from typing import Final

from criproxy.wire.constants import LARGEST_WINDOW

_REFUND: Final = 8 << 10
"""Bytes owed to a sender from which they are granted in a WINDOW_UPDATE of our own."""


class ConnectionWindow:
    """The connection window of one direction, in bytes.

    ``window`` is the receiver's window. ``ledger`` is positive for bytes of our own, which the
    receiver will grant again and the sender must not be granted; negative for bytes of the sender
    that were not forwarded, so that the receiver will not grant them.
    """

    __slots__ = ("ledger", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.ledger = 0

    def record_held(self, size: int) -> None:
        """Count DATA of the sender that is not forwarded as received."""
        self.ledger -= size

    def record_own(self, size: int) -> None:
        """Count DATA of our own that was sent to the receiver."""
        self.window -= size
        self.ledger += size

    def record_forwarded(self, size: int) -> None:
        """Count DATA of the sender that was forwarded."""
        self.window -= size

    def take_update(self, size: int) -> int:
        """Apply the receiver's WINDOW_UPDATE; return the increment to grant to the sender."""
        self.window += size
        if self.ledger > 0:
            kept = min(size, self.ledger)
            self.ledger -= kept
            return size - kept
        forwarded = min(size - self.ledger, LARGEST_WINDOW)
        self.ledger += forwarded - size
        return forwarded

    def refund(self, at_rest: bool) -> int:
        """Return the bytes to grant to the sender without a WINDOW_UPDATE of the receiver's.

        Less than 8 KiB wait for the receiver's next one, unless ``at_rest``.
        """
        if self.ledger < 0 and (at_rest or self.ledger <= -_REFUND):
            owed, self.ledger = -self.ledger, 0
            return owed
        return 0
