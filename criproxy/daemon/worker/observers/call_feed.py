"""Feeds the readers of the admin socket with the lines of calls, and keeps those of pod starts.

A call that ends is appended to a queue, and nothing else: its line is made later, a few at a time,
between which the event loop turns. Where the queue is full, calls are left out and counted.

Imported only if there is an admin socket, since protobuf costs memory.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from criproxy.cri.methods import METHODS
from criproxy.cri.naming import resolve
from criproxy.daemon.worker.observers.call_subjects import CallSubjects
from criproxy.observe.logs.call_log import CallLog
from criproxy.peers.peer import Connection
from criproxy.relay.notifier import Clock
from criproxy.timeline.live import KEPT_METHODS
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import CapturedMessages

MAX_CALLS: Final = 4096
"""Calls that wait for their lines to be made: those of half a second of the busiest node."""

MAX_CAPTURED: Final = 8 << 20
"""Bytes of captured messages of the calls that wait."""

MAX_KEPT: Final = 1 << 20
"""Bytes of the lines of pod starts that are kept: of some 150 pods, more than start in an hour."""

_GATHERING: Final = 0.1
"""Seconds for which calls are collected before their lines are made."""

_STEP: Final = 16
"""Calls whose lines are made before the event loop turns: less than a millisecond."""

_REMOVALS: Final = frozenset({"RemovePodSandbox", "RemoveContainer"})


def _paths(methods: frozenset[str]) -> frozenset[bytes]:
    return frozenset(path.encode() for path, each in METHODS.items() if each.name in methods)


_KEPT_PATHS: Final = _paths(KEPT_METHODS)
_REMOVAL_PATHS: Final = _paths(_REMOVALS)

Send = Callable[[Sequence[bytes], int], bool]
"""Sends lines, and how many calls were left out before them; returns False if it cannot now."""


class CallFeed:
    """The calls of a worker that have ended. Used on the event loop only."""

    def __init__(self, call_log: CallLog, subjects: CallSubjects, send: Send, clock: Clock) -> None:
        """``clock`` is in seconds."""
        self._call_log = call_log
        self._subjects = subjects
        self._send = send
        self._clock = clock
        self._queue: deque[tuple[Connection, Call, bool, bool]] = deque()
        self._captured = 0
        self._read_until = float("-inf")
        self._scheduled = False
        self._lost = 0
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0

    async def kept(self) -> list[bytes]:
        """Return the lines of the last calls that pod starts are told by, the oldest first."""
        waiting = len(self._queue)  # those that have ended by now
        while waiting > 0:
            self._process(_STEP)
            waiting -= _STEP
            await asyncio.sleep(0)
        return list(self._kept)

    def read_for(self, seconds: float) -> None:
        """Send the lines of all calls from now on, for so long."""
        self._read_until = self._clock() + seconds

    def ended(self, connection: Connection, call: Call, slow: bool) -> bool:
        """Queue a call that has ended, if somebody wants its line.

        Returns whether the pod cache is updated by it later: what it removes has a name until the
        lines before it are made.
        """
        removal = call.path in _REMOVAL_PATHS
        is_read = self._clock() < self._read_until
        if not is_read and not removal and call.path not in _KEPT_PATHS:
            return False
        captured = _captured_bytes(call)
        if len(self._queue) >= MAX_CALLS or self._captured + captured > MAX_CAPTURED:
            self._lost += is_read
            return False
        self._queue.append((connection, call, slow, is_read))
        self._captured += captured
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(_GATHERING, self._work)
        return removal

    def _work(self) -> None:
        self._process(_STEP)
        self._scheduled = bool(self._queue)
        if self._queue:
            asyncio.get_running_loop().call_soon(self._work)

    def _process(self, most: int) -> None:
        """Make the lines of the first calls in the queue."""
        lines: list[bytes] = []
        for _ in range(min(most, len(self._queue))):
            connection, call, slow, is_read = self._queue.popleft()
            self._captured -= _captured_bytes(call)
            is_kept = call.path in _KEPT_PATHS
            if is_read or is_kept:
                line = self._line(connection, call, slow)
                if is_kept:
                    self._keep(line)
                if is_read:
                    lines.append(line)
            if call.path in _REMOVAL_PATHS:
                self._subjects.ended(call)
        if lines or self._lost:
            if self._send(lines, self._lost):
                self._lost = 0
            else:
                self._lost += len(lines)

    def _line(self, connection: Connection, call: Call, slow: bool) -> bytes:
        level = "info"
        if slow:
            level = "warning"
        elif call.code is StatusCode.OK and not resolve(call.path).mutating:
            level = "debug"
        subject_of = self._subjects.fields_of
        return self._call_log.line_of(connection, call, level, slow, subject_of)

    def _keep(self, line: bytes) -> None:
        self._kept.append(line)
        self._kept_bytes += len(line)
        while self._kept_bytes > MAX_KEPT:
            self._kept_bytes -= len(self._kept.popleft())


def _captured_bytes(call: Call) -> int:
    if call.capture is None:
        return 0
    return _bytes_of(call.capture.request) + _bytes_of(call.capture.response)


def _bytes_of(captured: CapturedMessages | None) -> int:
    return 0 if captured is None else sum(len(data) for data, _ in captured.messages)
