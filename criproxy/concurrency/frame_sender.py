"""Sends frames to another process of ours without ever waiting for it, within a limit."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import Final

_COLLECTING: Final = 0.02
"""Seconds for which frames are collected before they are sent together."""

_LOOP_TURN: Final = 256 << 10
"""Bytes that are sent before the event loop does other work."""

_BUFFERS: Final = 256
"""Buffers of one system call: below IOV_MAX."""


def send_some(channel: socket.socket, output: deque[bytes | memoryview]) -> int:
    """Send some of the first buffers, and remove what is sent; return the number of bytes.

    A memoryview is left of a buffer that is sent in part, so that nothing of a large one is copied.
    Raises OSError.
    """
    sent = left = channel.sendmsg(list(islice(output, _BUFFERS)))
    while left:
        first = output[0]
        if left < len(first):
            output[0] = memoryview(first)[left:]
            break
        left -= len(first)
        output.popleft()
    return sent


class FrameSender:
    """The sending end of a channel. Used on one event loop only.

    While the peer is gone, frames wait for the next one as far as the limit goes.
    """

    def __init__(self, channel: socket.socket, lost: Callable[[bool], object], limit: int) -> None:
        """``channel`` is a stream socket, and belongs to the sender from now on.

        ``lost`` is called when the peer has closed it, with whether a frame that was sent in part
        is given up. ``limit`` is in bytes of the frames that wait. Needs a running event loop.
        """
        self.size = 0
        """Bytes of the frames that wait."""
        self._report_lost = lost
        self._limit = limit
        self._output: deque[bytes | memoryview] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._emptied = asyncio.Event()
        self._channel: socket.socket | None = None
        self._connect(channel)

    @property
    def connected(self) -> bool:
        """Whether there is a peer."""
        return self._channel is not None

    @property
    def waiting(self) -> int:
        """The number of frames that wait."""
        return len(self._output)

    def has_room(self, size: int) -> bool:
        """Return whether a frame of so many bytes may wait."""
        return self.size + size <= self._limit

    def send(self, frame: bytes) -> None:
        """Send a frame soon. Whether there is room is for the caller to ask."""
        self._output.append(frame)
        self.size += len(frame)
        if self._channel is not None and self._timer is None and not self._writing:
            self._timer = self._loop.call_later(_COLLECTING, self._flush)

    def reconnect(self, channel: socket.socket) -> bool:
        """Use a new channel if the peer has closed the one before; return whether it is used.

        Frames that were sent before are not sent again.
        """
        if self._channel is not None:
            channel.close()
            return False
        self._connect(channel)
        self._flush()
        return True

    def clear(self) -> None:
        """Forget the frames that wait."""
        self._output.clear()
        self.size = 0

    async def flush(self, within: float) -> None:
        """Send what waits, for ``within`` seconds at most."""
        self._flush()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._output and self._channel is not None:
                    self._emptied.clear()
                    await self._emptied.wait()

    def close(self, within: float) -> int:
        """Send what waits for at most ``within`` seconds; return the number of unsent frames."""
        deadline = monotonic() + within
        channel = self._channel
        with suppress(OSError):
            while channel is not None and self._output and (left := deadline - monotonic()) > 0:
                channel.settimeout(left)
                self._send_some(channel)
        unsent = len(self._output)
        self._disconnect()
        self.clear()
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
        elif not self._output:
            self._emptied.set()
            if self._writing:
                self._writing = False
                self._loop.remove_writer(channel.fileno())

    def _send_some(self, channel: socket.socket) -> int:
        sent = send_some(channel, self._output)
        self.size -= sent
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
        self._emptied.set()

    def _lost(self) -> None:
        self._disconnect()
        cut = bool(self._output) and isinstance(self._output[0], memoryview)
        if cut:  # the rest of a frame is nothing to a new peer
            self.size -= len(self._output.popleft())
        self._report_lost(cut)

    def _read(self) -> None:
        """Called when the peer, which sends nothing, has closed its end."""
        assert self._channel is not None
        try:
            if self._channel.recv(1):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._lost()
