"""Sends calls to the exporter without ever waiting: what finds no room is dropped and counted."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import Final

from criproxy.traces.channel import TracedCall, frame
from criproxy.traces.counts import TraceCounts

LIMIT: Final = 4 << 20
"""Bytes of calls that may wait for the exporter: some ten thousand."""

_COLLECTING: Final = 0.02
"""Seconds for which calls are collected before they are sent together."""

_LOOP_TURN: Final = 256 << 10
"""Bytes that are sent before the event loop does other work."""

_BUFFERS: Final = 256
"""Buffers of one system call: below IOV_MAX."""


class CallSender:
    """The worker's end of a channel to the exporter. Used on one event loop only.

    While the exporter is gone, calls wait for the next one as far as the limit goes.
    """

    def __init__(
        self,
        channel: socket.socket,
        counts: TraceCounts,
        lost: Callable[[], object],
        limit: int = LIMIT,
    ) -> None:
        """``channel`` is a stream socket. ``lost`` is called when the exporter has closed it.

        ``limit`` is in bytes of the calls that wait.
        """
        self._counts = counts
        self._report_lost = lost
        self._limit = limit
        self._output: deque[bytes | memoryview] = deque()
        self._bytes = 0
        self._begun = False  # whether a part of the first frame is sent
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._channel: socket.socket | None = None
        self._connect(channel)

    def send(self, call: TracedCall) -> bool:
        """Send a call soon; return False if it is dropped, because too many wait."""
        data = frame(call)
        if self._bytes + len(data) > self._limit:
            self._counts.dropped["channel_full"] += 1
            return False
        self._output.append(data)
        self._bytes += len(data)
        if self._channel is not None and self._timer is None and not self._writing:
            self._timer = self._loop.call_later(_COLLECTING, self._flush)
        return True

    def reconnect(self, channel: socket.socket) -> bool:
        """Use a new channel if the exporter has closed the one before; return whether it is used.

        Calls that were sent before are not sent again.
        """
        if self._channel is not None:
            channel.close()
            return False
        self._connect(channel)
        self._flush()
        return True

    def close(self, within: float) -> int:
        """Send what waits for at most ``within`` seconds; return the number of unsent calls."""
        deadline = monotonic() + within
        channel = self._channel
        with suppress(OSError):
            while channel is not None and self._output and (left := deadline - monotonic()) > 0:
                channel.settimeout(left)
                self._send_some(channel)
        unsent = len(self._output)
        if unsent:
            self._counts.dropped["closing"] += unsent
        self._disconnect()
        self._output.clear()
        return unsent

    def _flush(self) -> None:
        self._timer = None
        channel = self._channel
        if channel is None:
            return
        left = _LOOP_TURN
        try:
            while left > 0 and self._output:
                left -= self._send_some(channel)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._lost()
            return
        if self._output and not self._writing:
            self._writing = True
            self._loop.add_writer(channel.fileno(), self._flush)
        elif not self._output and self._writing:
            self._writing = False
            self._loop.remove_writer(channel.fileno())

    def _send_some(self, channel: socket.socket) -> int:
        sent = left = channel.sendmsg(list(islice(self._output, _BUFFERS)))
        self._bytes -= sent
        while left:
            first = self._output[0]
            if left < len(first):
                self._output[0] = memoryview(first)[left:]
                self._begun = True
                break
            left -= len(first)
            self._output.popleft()
            self._begun = False
        return sent

    def _connect(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._loop.add_reader(channel.fileno(), self._read)

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if channel is not None:
            self._loop.remove_reader(channel.fileno())
            if self._writing:
                self._loop.remove_writer(channel.fileno())
            channel.close()
        self._writing = False

    def _lost(self) -> None:
        self._disconnect()
        if self._begun:  # the rest of a frame is nothing to a new exporter
            self._bytes -= len(self._output.popleft())
            self._begun = False
            self._counts.dropped["failed"] += 1
        self._report_lost()

    def _read(self) -> None:
        """Called when the exporter, which sends nothing, has closed its end."""
        assert self._channel is not None
        try:
            if self._channel.recv(1):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._lost()
