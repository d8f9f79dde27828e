"""The control channel between the supervisor and one of its processes.

Messages are mappings, encoded with MessagePack and preceded by their length; file descriptors
travel with them (SCM_RIGHTS, unix(7)). Both ends are trusted: a channel is a socketpair that was
made before the fork. Nothing here waits: what the peer does not read is buffered, up to a limit.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

import msgspec

Message = dict[str, Any]

_LENGTH: Final = Struct(">IB")
"""Bytes of the payload, and how many descriptors come with it."""

_CHUNK: Final = 256 << 10
_MOST_DESCRIPTORS: Final = 200
"""Descriptors of one message: the kernel allows 253 (SCM_MAX_FD)."""

_LARGEST_BACKLOG: Final = 64 << 20
"""Bytes that may wait for a peer that does not read: more than any snapshot or configuration."""

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Message).decode


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
        self._input = bytearray()
        self._descriptors: deque[int] = deque()
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
        data = encode(message)
        if not self._open or self._backlog + len(data) > _LARGEST_BACKLOG:
            return False
        frame = _LENGTH.pack(len(data), len(descriptors)) + data
        kept = [os.dup(each) for each in descriptors]
        self._output.append((memoryview(frame), kept))
        self._backlog += len(frame)
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
            _close_all(descriptors)
        self._output.clear()
        self._report_emptied()
        _close_all(self._descriptors)
        self._descriptors.clear()

    def _write(self) -> None:
        try:
            while self._output:
                data, descriptors = self._output[0]
                if descriptors:
                    sent = socket.send_fds(self._sock, [data], list(descriptors))
                else:
                    sent = self._sock.send(data)
                _close_all(descriptors)
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
            data, descriptors, _, _ = socket.recv_fds(self._sock, _CHUNK, _MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data, descriptors = b"", []
        for each in descriptors:  # recv_fds() of Python 3.11 ignores MSG_CMSG_CLOEXEC
            os.set_inheritable(each, False)
        self._descriptors.extend(descriptors)
        if not data:
            self._lost()
            return False
        self._input += data
        self._receive()
        return True

    def _receive(self) -> None:
        """Hand over each message that is complete."""
        while self._open and len(self._input) >= _LENGTH.size:
            length, count = _LENGTH.unpack_from(self._input)
            end = _LENGTH.size + length
            if length > _LARGEST_BACKLOG:
                self._lost()
                return
            if len(self._input) < end:
                return
            try:
                message = decode(self._input[_LENGTH.size : end])
            except msgspec.DecodeError:  # the process is not sound any more
                self._lost()
                return
            del self._input[:end]
            self._received(message, [self._descriptors.popleft() for _ in range(count)])

    def _report_emptied(self) -> None:
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _lost(self) -> None:
        if self._open:
            self.close()
            self._closed()


def _close_all(descriptors: Sequence[int] | deque[int]) -> None:
    for each in descriptors:
        with contextlib.suppress(OSError):
            os.close(each)
