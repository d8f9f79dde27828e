"""Messages between the daemon's processes, over a socketpair.

A message is a mapping in MessagePack, preceded by its length and the number of file descriptors
that travel with it (SCM_RIGHTS, unix(7)). :mod:`criproxy.daemon.control` sends and receives them on
an event loop, :class:`ControlSocket` with blocking calls.
"""

import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, Final

import msgspec

Message = dict[str, Any]

LARGEST: Final = 64 << 20
"""Bytes of a message: more than any snapshot or configuration has."""

_LENGTH: Final = Struct(">IB")
"""Bytes of the payload, and how many descriptors come with it."""

_CHUNK: Final = 256 << 10
_MOST_DESCRIPTORS: Final = 200
"""Descriptors of one message: the kernel allows 253 (SCM_MAX_FD)."""

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Message).decode


def frame(message: Message, descriptors: int) -> bytes:
    """Return a message as it is sent, with the number of descriptors that accompany it."""
    data = encode(message)
    return _LENGTH.pack(len(data), descriptors) + data


def receive_with_descriptors(sock: socket.socket, size: int = _CHUNK) -> tuple[bytes, list[int]]:
    """Receive at most ``size`` bytes, and the descriptors with them, which are not inheritable."""
    data, descriptors, _, _ = socket.recv_fds(sock, size, _MOST_DESCRIPTORS)
    for each in descriptors:  # recv_fds() of Python 3.11 ignores MSG_CMSG_CLOEXEC
        os.set_inheritable(each, False)
    return data, descriptors


class MessageReceiver:
    """Assembles the messages of one peer."""

    def __init__(self) -> None:
        self._input = bytearray()
        self._descriptors: deque[int] = deque()

    def receive(self, sock: socket.socket) -> Iterator[tuple[Message, list[int]]]:
        """Receive once, and yield the messages that are complete, with their descriptors.

        Raises EOFError when the peer has closed its end, has died, or sends what is no message; and
        BlockingIOError where nothing is there yet.
        """
        try:
            data, descriptors = receive_with_descriptors(sock)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            raise EOFError from error
        self._descriptors.extend(descriptors)
        if not data:
            raise EOFError
        self._input += data
        return self._messages()

    def close(self) -> None:
        """Close the descriptors of messages that were not yielded."""
        close_all(self._descriptors)
        self._descriptors.clear()

    def _messages(self) -> Iterator[tuple[Message, list[int]]]:
        while len(self._input) >= _LENGTH.size:
            length, count = _LENGTH.unpack_from(self._input)
            end = _LENGTH.size + length
            if length > LARGEST:
                raise EOFError
            if len(self._input) < end:
                return
            try:
                message = decode(self._input[_LENGTH.size : end])
            except msgspec.DecodeError as error:  # the peer is not sound any more
                raise EOFError from error
            del self._input[:end]
            yield message, [self._descriptors.popleft() for _ in range(count)]


class ControlSocket:
    """A process's own end of its control channel, with blocking calls. Not thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._receiver = MessageReceiver()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message; waits for the peer. Raises OSError if it is gone."""
        data = frame(message, len(descriptors))
        sent = socket.send_fds(self.sock, [data], list(descriptors)) if descriptors else 0
        self.sock.sendall(data[sent:])

    def receive(self) -> Iterator[tuple[Message, list[int]]]:
        """Wait for data and yield the complete messages with their descriptors.

        Raises EOFError when the supervisor has closed its end.
        """
        return self._receiver.receive(self.sock)


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors, whatever becomes of each."""
    for each in descriptors:
        with contextlib.suppress(OSError):
            os.close(each)
