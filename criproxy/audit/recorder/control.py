"""The recorder's end of its control channel to the supervisor, with blocking calls.

Messages are mappings in MessagePack, preceded by their length and the number of file descriptors
that travel with them (SCM_RIGHTS, unix(7)), as in :mod:`criproxy.daemon.control`.
"""

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, Final

import msgspec

Message = dict[str, Any]

_LENGTH: Final = Struct(">IB")
_CHUNK: Final = 64 << 10
_MAX_DESCRIPTORS: Final = 200

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Message).decode


class ControlSocket:
    """Sends and receives messages. Not thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._input = bytearray()
        self._descriptors: deque[int] = deque()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message; waits for the peer. Raises OSError if it is gone."""
        data = _encode(message)
        frame = _LENGTH.pack(len(data), len(descriptors)) + data
        sent = socket.send_fds(self.sock, [frame], list(descriptors)) if descriptors else 0
        self.sock.sendall(frame[sent:])

    def receive(self) -> Iterator[tuple[Message, list[int]]]:
        """Wait for data and yield the complete messages with their descriptors.

        Raises EOFError when the supervisor has closed its end.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self.sock, _CHUNK, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self._descriptors.extend(descriptors)
        self._input += data
        return self._messages()

    def _messages(self) -> Iterator[tuple[Message, list[int]]]:
        while len(self._input) >= _LENGTH.size:
            length, count = _LENGTH.unpack_from(self._input)
            end = _LENGTH.size + length
            if len(self._input) < end:
                return
            message = _decode(self._input[_LENGTH.size : end])
            del self._input[:end]
            yield message, [self._descriptors.popleft() for _ in range(count)]
