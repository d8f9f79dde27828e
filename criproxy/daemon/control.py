"""The control channel between the supervisor and one of its processes.

Both ends are trusted: a channel is a socketpair that was made before the fork. Nothing here waits:
what the peer does not read is buffered, up to the size of the largest message.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from criproxy.concurrency.process_messages import (
    LARGEST,
    Message,
    MessageReceiver,
    close_all,
    frame,
)


class ControlChannel:
    """One end of a channel, for the event loop that is running when it is made."""

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Message, list[int]], None],
        closed: Callable[[], None],
    ) -> None:
        """``received`` is given each message and its descriptors, which it owns from then on.

        ``closed`` is called once when the peer has closed its end, or has died.
        """
        sock.setblocking(False)
        self._sock = sock
        self._received = received
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._receiver = MessageReceiver()
        self._output: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._backlog = 0
        self._open = True
        self._finished = False
        self._emptied: asyncio.Future[None] | None = None
        self._loop.add_reader(sock.fileno(), self._read)

    @property
    def backlog(self) -> int:
        """Bytes that wait for the peer to read."""
        return self._backlog

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send a message; return False if the peer is gone or has not read for too long.

        The descriptors are duplicated for the peer: the caller keeps its own.
        """
        data = frame(message, len(descriptors))
        if not self._open or self._backlog + len(data) > LARGEST:
            return False
        kept = [os.dup(each) for each in descriptors]
        self._output.append((memoryview(data), kept))
        self._backlog += len(data)
        if len(self._output) == 1:
            self._write()
        return True

    async def flushed(self) -> None:
        """Wait until the peer has read everything, or is gone."""
        while self._output:
            self._emptied = self._loop.create_future()
            await self._emptied

    def finish(self) -> None:
        """Send nothing more; the peer sees the end, and what it still sends is received."""
        self._finished = True
        if not self._output:
            self._sock.shutdown(socket.SHUT_WR)

    def receive_rest(self) -> None:
        """Receive what a peer that has ended had sent before."""
        while self._open and self._read():
            pass

    def close(self) -> None:
        """Close this end. ``closed`` is not called."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, descriptors in self._output:
            close_all(descriptors)
        self._output.clear()
        self._report_emptied()
        self._receiver.close()

    def _write(self) -> None:
        try:
            while self._output:
                data, descriptors = self._output[0]
                if descriptors:
                    sent = socket.send_fds(self._sock, [data], list(descriptors))
                else:
                    sent = self._sock.send(data)
                close_all(descriptors)
                self._backlog -= sent
                if sent == len(data):
                    self._output.popleft()
                else:
                    self._output[0] = (data[sent:], ())
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._sock.fileno(), self._write)
        except OSError:
            self._lost()
        else:
            self._loop.remove_writer(self._sock.fileno())
            self._report_emptied()
            if self._finished:
                self._sock.shutdown(socket.SHUT_WR)

    def _read(self) -> bool:
        """Receive what there is; return False where there is nothing."""
        try:
            for message, descriptors in self._receiver.receive(self._sock):
                self._received(message, descriptors)
                if not self._open:
                    return False
        except (BlockingIOError, InterruptedError):
            return False
        except EOFError:
            self._lost()
            return False
        return True

    def _report_emptied(self) -> None:
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _lost(self) -> None:
        if self._open:
            self.close()
            self._closed()
