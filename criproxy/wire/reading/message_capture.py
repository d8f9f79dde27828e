"""Copies the messages of a call as they are relayed, within limits."""

from collections.abc import Callable
from math import inf
from struct import Struct
from typing import Final, NamedTuple

from criproxy.wire.grpc import PREFIX_SIZE

MAX_MESSAGES: Final = 4096
"""Maximum captured messages of one direction: empty ones cost memory as well."""

MESSAGE_COST: Final = 100
"""Approximate overhead of a captured message in memory, in bytes."""

_prefix: Final = Struct(">?I").unpack_from


class CaptureBudget:
    """Counts the memory of the captures of all calls that share it, in bytes."""

    __slots__ = ("bytes", "limit")

    def __init__(self, limit: int) -> None:
        """``limit``: bytes above which the captures of calls in flight are cut."""
        self.limit = limit
        self.bytes = 0


class ReportLimits(NamedTuple):
    """Limits of messages that are reported when they are whole, and not kept."""

    bytes: int
    """Maximum bytes of an incomplete message and those that became whole with the same bytes, of
    one direction. After more, the rest of its direction is not reported."""
    budget: CaptureBudget
    """A budget that the incomplete messages of several calls share."""


class CaptureLimits(NamedTuple):
    """Maximum bytes of messages to keep of each direction until the call ends; 0: none."""

    request: int
    response: int
    budget: CaptureBudget | None = None
    """A budget that the captures of several calls share."""
    reported: ReportLimits | None = None
    """Limits of messages that are reported as well, if they are."""


SelectCapture = Callable[[bytes], CaptureLimits | None]
"""Returns the capture limits of a call by its path, or None for no capture."""


def widest(one: CaptureLimits | None, other: CaptureLimits | None) -> CaptureLimits | None:
    """Return the limits of a capture for two purposes.

    What both select is charged to the budget of the first, if it has one.
    """
    if one is None or other is None:
        return one or other
    return one._replace(
        request=max(one.request, other.request),
        response=max(one.response, other.response),
        budget=one.budget or other.budget,
    )


class CapturedMessages:
    """The whole messages of one direction, in order, as on the wire without their prefixes.

    ``messages`` are pairs of a message and its compressed flag. ``encoding`` is the direction's
    grpc-encoding. ``cut``: more was relayed than was captured, because a message was over a limit
    or the call ended within a message.
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
        self,
        limit: int,
        max_message: float = inf,
        budget: CaptureBudget | None = None,
    ) -> None:
        """``limit`` is in bytes, of all messages together that were not taken; ``max_message`` of a
        single one."""
        self.messages: list[tuple[bytes, bool]] = []
        self.encoding = b""
        self.cut = False
        self._remaining = limit  # bytes of further messages
        self._max_message = max_message
        self._partial_prefix = b""  # an incomplete prefix
        self._flag = False  # of the incomplete message
        self._partial_message = bytearray()
        self._missing = 0  # bytes missing of it
        self._budget = budget
        self._charged = 0  # bytes charged to the budget

    def feed(self, data: bytes, start: int, end: int) -> None:
        """Capture ``data[start:end]``, a piece of the direction's DATA."""
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
        """Continue the incomplete message; return its end in this piece."""
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

    def take(self) -> list[tuple[bytes, bool]]:
        """Return the whole messages and forget them: they count towards no limit any more."""
        taken, self.messages = self.messages, []
        size = 0
        for data, _ in taken:
            size += len(data)
        self._remaining += size
        if self._budget is not None:
            size += len(taken) * MESSAGE_COST
            self._budget.bytes -= size
            self._charged -= size
        return taken

    def _charge(self, size: int) -> bool:
        """Charge bytes to the budget; return False, and capture nothing more, if it is used up."""
        budget = self._budget
        if budget is not None:
            if budget.bytes + size > budget.limit:
                self.cut = True
                return False
            budget.bytes += size
            self._charged += size
        return True

    def end(self) -> None:
        """Discard an incomplete message and release the budget; called once when the call ends."""
        if self._missing or self._partial_prefix:
            self.cut = True
            self._partial_message.clear()
        if self._budget is not None:
            self._budget.bytes -= self._charged


class MessageCapture:
    """The captured messages of a call, by direction; None: not captured.

    ``request`` and ``response`` keep them until the call ends; those of ``reported_request`` and
    ``reported_response`` are taken as they become whole.
    """

    __slots__ = ("reported_request", "reported_response", "request", "response")

    def __init__(self, limits: CaptureLimits, max_message: float = inf) -> None:
        """``max_message``: bytes of the largest message to capture."""
        request, response, budget, reported = limits
        self.request = CapturedMessages(request, max_message, budget) if request else None
        self.response = CapturedMessages(response, max_message, budget) if response else None
        self.reported_request: CapturedMessages | None = None
        self.reported_response: CapturedMessages | None = None
        if reported is not None:
            self.reported_request = CapturedMessages(reported.bytes, max_message, reported.budget)
            self.reported_response = CapturedMessages(reported.bytes, max_message, reported.budget)

    def end(self) -> None:
        """Called once when the call ends."""
        for each in (self.request, self.response, self.reported_request, self.reported_response):
            if each is not None:
                each.end()
