"""The messages of a call, kept in passing: nothing waits for them.

What is kept are copies of what goes by, within limits. That a message was too large for them is
known; its bytes are not.
"""

from typing import NamedTuple


class Limits(NamedTuple):
    """Bytes of messages that are kept of each direction; 0 keeps nothing of it."""

    request: int
    response: int


class KeptMessages:
    """The messages of one direction: whole ones, in order, as on the wire without their prefixes.

    ``messages`` has each with its compressed-flag. ``encoding`` is the direction's grpc-encoding.
    ``cut`` tells that some are missing: together they were over the limit.
    """

    __slots__ = ("cut", "encoding", "messages")

    def __init__(self, limit: int) -> None:
        """``limit`` is in bytes, of all messages together."""
        self.messages: list[tuple[bytes, bool]] = []
        self.encoding = b""
        self.cut = False

    def feed(self, data: bytes, start: int, end: int) -> None:
        """Take ``data[start:end]``, a piece of the direction's DATA."""
        raise NotImplementedError


class Kept:
    """What is kept of a call."""

    __slots__ = ("request", "response")

    def __init__(self, limits: Limits) -> None:
        self.request = KeptMessages(limits.request) if limits.request else None
        self.response = KeptMessages(limits.response) if limits.response else None
