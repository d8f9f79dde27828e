"""The recorder's end of its control channel to the supervisor, with blocking calls."""

import socket
from collections.abc import Iterator, Sequence

from criproxy.concurrency.process_messages import Message, MessageReceiver, frame


class ControlSocket:
    """Sends and receives messages. Not thread-safe."""

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
