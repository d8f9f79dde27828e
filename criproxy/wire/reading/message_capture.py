"""The messages of a call, kept in passing: nothing waits for them.

What is kept are copies of what goes by, within limits. That a message was too large for them is
known; its bytes are not.
"""

from collections.abc import Callable
from math import inf
from struct import Struct
from typing import Final, NamedTuple

from criproxy.wire.grpc import PREFIX_SIZE

MAX_MESSAGES: Final = 4096
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
    budget: CaptureBudget | None = None
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
        "_budget",
        "_charged",
        "_flag",
        "_max_message",
        "_missing",
        "_partial_message",
        "_partial_prefix",
        "_remaining",
        "cut",
        "encoding",
        "messages",
    )

    def __init__(
        self, limit: int, max_message: float = inf, budget: CaptureBudget | None = None
    ) -> None:
        """``limit`` is in bytes, of all messages together; ``max_message`` of a single one."""
        self.messages: list[tuple[bytes, bool]] = []
        self.encoding = b""
        self.cut = False
        self._remaining = limit  # bytes that further messages may have
        self._max_message = max_message
        self._partial_prefix = b""  # of a prefix that a frame's end has cut
        self._flag = False  # of the message that is being gathered
        self._partial_message = bytearray()
        self._missing = 0  # bytes that it needs
        self._budget = budget
        self._charged = 0  # of the budget

    def feed(self, data: bytes, start: int, end: int) -> None:
        """Take ``data[start:end]``, a piece of the direction's DATA."""
        while start < end and not self.cut:
            if self._missing:
                start = self._continue_message(data, start, end)
                continue
            if self._partial_prefix or end - start < PREFIX_SIZE:
                wanted = PREFIX_SIZE - len(self._partial_prefix)
                self._partial_prefix += data[start : min(start + wanted, end)]
                start += wanted
                if len(self._partial_prefix) < PREFIX_SIZE:
                    return
                flag, length = _prefix(self._partial_prefix)
                self._partial_prefix = b""
            else:
                flag, length = _prefix(data, start)
                start += PREFIX_SIZE
            if (
                length > self._remaining
                or length > self._max_message
                or len(self.messages) == MAX_MESSAGES
            ):
                self.cut = True
                return
            self._remaining -= length
            if not self._charge(MESSAGE_COST):
                return
            if length <= end - start:
                if not self._charge(length):
                    return
                self.messages.append((data[start : start + length], flag))
                start += length
            else:
                self._missing = length
                self._flag = flag

    def _continue_message(self, data: bytes, start: int, end: int) -> int:
        """Go on with a message that a piece's end has cut; return where it ends in this one."""
        end = min(end, start + self._missing)
        if not self._charge(end - start):
            self._partial_message.clear()
            return end
        self._partial_message += data[start:end]
        self._missing -= end - start
        if not self._missing:
            self.messages.append((bytes(self._partial_message), self._flag))
            self._partial_message.clear()
        return end

    def _charge(self, size: int) -> bool:
        """Take bytes of the budget; where it has none left nothing more is kept."""
        budget = self._budget
        if budget is not None:
            if budget.bytes + size > budget.limit:
                self.cut = True
                return False
            budget.bytes += size
            self._charged += size
        return True

    def end(self) -> None:
        """Take notice, once, that the call is over."""
        if self._missing or self._partial_prefix:
            self.cut = True
            self._partial_message.clear()
        if self._budget is not None:
            self._budget.bytes -= self._charged


class MessageCapture:
    """What is kept of a call."""

    __slots__ = ("request", "response")

    def __init__(self, limits: CaptureLimits, max_message: float = inf) -> None:
        """``max_message``: bytes of a message above which it is not kept in any case."""
        request, response, budget = limits
        self.request = CapturedMessages(request, max_message, budget) if request else None
        self.response = CapturedMessages(response, max_message, budget) if response else None

    def end(self) -> None:
        """Take notice, once, that the call is over: a message without its end goes."""
        if self.request is not None:
            self.request.end()
        if self.response is not None:
            self.response.end()
