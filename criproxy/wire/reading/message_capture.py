"""The messages of a call, kept in passing: nothing waits for them.

What is kept are copies of what goes by, within limits. That a message was too large for them is
known; its bytes are not.
"""

from collections.abc import Callable
from math import inf
from struct import Struct
from typing import Final, NamedTuple

from criproxy.wire.grpc import PREFIX_SIZE

MOST_MESSAGES: Final = 4096
"""Messages that are kept of one direction: empty ones cost memory as well."""

MESSAGE_COST: Final = 100
"""Bytes of memory, about, that a message takes beside its own."""

_prefix: Final = Struct(">?I").unpack_from


class CaptureBudget:
    """Counts what is kept of all the calls in flight that share it, in bytes of memory."""

    __slots__ = ("bytes", "limit")

    def __init__(self, limit: int) -> None:
        """Above ``limit`` the calls that are in flight are cut."""
        self.limit = limit
        self.bytes = 0


class CaptureLimits(NamedTuple):
    """Bytes of messages that are kept of each direction; 0 keeps nothing of it."""

    request: int
    response: int
    store: CaptureBudget | None = None
    """What else they have to fit into. None: nothing."""


SelectCapture = Callable[[bytes], CaptureLimits | None]
"""Says what is kept of the calls of a path; None: nothing. It is asked as each call begins."""


class CapturedMessages:
    """The messages of one direction: whole ones, in order, as on the wire without their prefixes.

    ``messages`` has each with its compressed-flag. ``encoding`` is the direction's grpc-encoding.
    ``cut`` tells that more has passed than is here: the first message that was over a limit and
    whatever came behind it, or one within which the call ended.
    """

    __slots__ = (
        "_flag",
        "_gathered",
        "_largest",
        "_left",
        "_part",
        "_room",
        "_store",
        "_taken",
        "cut",
        "encoding",
        "messages",
    )

    def __init__(
        self, limit: int, largest: float = inf, store: CaptureBudget | None = None
    ) -> None:
        """``limit`` is in bytes, of all messages together; ``largest`` of a single one."""
        self.messages: list[tuple[bytes, bool]] = []
        self.encoding = b""
        self.cut = False
        self._room = limit  # bytes that further messages may have
        self._largest = largest
        self._part = b""  # of a prefix that a frame's end has cut
        self._flag = False  # of the message that is being gathered
        self._gathered = bytearray()
        self._left = 0  # bytes that it needs
        self._store = store
        self._taken = 0  # of the store

    def feed(self, data: bytes, start: int, end: int) -> None:
        """Take ``data[start:end]``, a piece of the direction's DATA."""
        while start < end and not self.cut:
            if self._left:
                start = self._gather(data, start, end)
                continue
            if self._part or end - start < PREFIX_SIZE:
                wanted = PREFIX_SIZE - len(self._part)
                self._part += data[start : min(start + wanted, end)]
                start += wanted
                if len(self._part) < PREFIX_SIZE:
                    return
                flag, length = _prefix(self._part)
                self._part = b""
            else:
                flag, length = _prefix(data, start)
                start += PREFIX_SIZE
            if length > self._room or length > self._largest or len(self.messages) == MOST_MESSAGES:
                self.cut = True
                return
            self._room -= length
            if not self._take(MESSAGE_COST):
                return
            if length <= end - start:
                if not self._take(length):
                    return
                self.messages.append((data[start : start + length], flag))
                start += length
            else:
                self._left = length
                self._flag = flag

    def _gather(self, data: bytes, start: int, end: int) -> int:
        """Go on with a message that a piece's end has cut; return where it ends in this one."""
        end = min(end, start + self._left)
        if not self._take(end - start):
            self._gathered.clear()
            return end
        self._gathered += data[start:end]
        self._left -= end - start
        if not self._left:
            self.messages.append((bytes(self._gathered), self._flag))
            self._gathered.clear()
        return end

    def _take(self, size: int) -> bool:
        """Take bytes of the store; where it has none left nothing more is kept."""
        store = self._store
        if store is not None:
            if store.bytes + size > store.limit:
                self.cut = True
                return False
            store.bytes += size
            self._taken += size
        return True

    def end(self) -> None:
        """Take notice, once, that the call is over."""
        if self._left or self._part:
            self.cut = True
            self._gathered.clear()
        if self._store is not None:
            self._store.bytes -= self._taken


class MessageCapture:
    """What is kept of a call."""

    __slots__ = ("request", "response")

    def __init__(self, limits: CaptureLimits, largest: float = inf) -> None:
        """``largest``: bytes of a message above which it is not kept in any case."""
        request, response, store = limits
        self.request = CapturedMessages(request, largest, store) if request else None
        self.response = CapturedMessages(response, largest, store) if response else None

    def end(self) -> None:
        """Take notice, once, that the call is over: a message without its end goes."""
        if self.request is not None:
            self.request.end()
        if self.response is not None:
            self.response.end()
