"""Messages between a worker and the runner process of a hook script: length-prefixed MessagePack.

The worker sends Load, then Call and Cancel; the runner answers with Loaded or LoadFailed, then with
Delayed and Outcome.
"""

import socket
from struct import Struct
from typing import Any, Final

import msgspec

from criproxy.cri.naming import MethodName
from criproxy.peers.peer import Peer
from criproxy.rules.facts import Container, Image, Pod

LENGTH: Final = Struct(">I")
"""The prefix of a message: its length in bytes."""


class Load(msgspec.Struct, tag="load", array_like=True):
    """Run the source of a script; ``path`` is for tracebacks and messages."""

    path: str
    source: bytes


class Call(msgspec.Struct, tag="call", array_like=True):
    """Call the function of a phase. ``message_type`` is protobuf's full name of its message.

    ``request`` is None in the phase ``request`` where it is the message itself.
    """

    number: int
    phase: str
    message_type: str
    message: bytes
    method: MethodName
    listener: str
    caller: Peer
    metadata: dict[str, str]
    pod: Pod | None
    container: Container | None
    image: Image | None
    request_type: str = ""
    request: bytes | None = None


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    """Cancel a call, as far as that is possible: nobody waits for its outcome."""

    number: int


class Loaded(msgspec.Struct, tag="loaded", array_like=True):
    """The script has run; it has these functions, and a name for Deny."""

    has_request: bool
    has_response: bool
    has_deny: bool


class LoadFailed(msgspec.Struct, tag="failed", array_like=True):
    """The script cannot be used; ``error`` says why in one line."""

    error: str


class Delayed(msgspec.Struct, tag="delayed", array_like=True):
    """The function waits on behalf of the call: this does not count to its timeout."""

    number: int
    seconds: float


class Outcome(msgspec.Struct, tag="outcome", array_like=True):
    """The function has ended. At most one of the fields is set; none: the message is unchanged."""

    number: int
    changed: bytes | None = None
    denial: tuple[int, str] | None = None
    """The status code and the message."""
    error: str | None = None


_encoder: Final = msgspec.msgpack.Encoder()

from_worker: Final = msgspec.msgpack.Decoder(Load | Call | Cancel)
"""Decodes what a worker sends."""

from_runner: Final = msgspec.msgpack.Decoder(Loaded | LoadFailed | Delayed | Outcome)
"""Decodes what a runner sends."""


def frame(message: msgspec.Struct) -> bytes:
    """Encode a message with its length."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def receive(channel: socket.socket, decoder: "msgspec.msgpack.Decoder[Any]") -> Any:
    """Return the next message of a blocking socket. Raises EOFError at its end."""
    (size,) = LENGTH.unpack(_receive_exactly(channel, LENGTH.size))
    return decoder.decode(_receive_exactly(channel, size))


def _receive_exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, position = memoryview(data), 0
    while position < size:
        received = channel.recv_into(view[position:])
        if not received:
            raise EOFError
        position += received
    return data
