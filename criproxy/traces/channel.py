"""The frames between a worker and the exporter, over a stream socketpair: one call each.

A frame is a length (:data:`LENGTH`) and the fields of a :class:`TracedCall` in MessagePack.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final

import msgspec

LENGTH: Final = Struct(">I")

LARGEST: Final = 1 << 20
"""Bytes of the largest frame that is not a fault: a call's texts are bounded far below it."""


class TracedCall(msgspec.Struct, array_like=True):
    """A call that has ended. Times are nanoseconds since the epoch, durations seconds.

    - ``parent_id``: the caller's span, or empty.
    - ``sampled``: whether it has a span in any case; otherwise only with the start of its pod.
    - ``in_head``: whether its trace is sampled, not only this call; that is the flag of its span.
    - ``code``: the name of its gRPC code, or empty if its end was not seen.
    - ``subject``: the fields that name its pod, container and image, as in the call log.
    """

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    sampled: bool
    in_head: bool
    began: int
    ended: int
    service: str
    method: str
    code: str
    message: str
    end: str
    listener: str
    pid: int
    uid: int
    executable: str
    subject: dict[str, str]
    rules: tuple[str, ...]
    denied: str
    held: float
    first_byte: float | None
    overhead: float
    request_bytes: int
    response_bytes: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(TracedCall).decode


def frame(call: TracedCall) -> bytes:
    """Return a call as it is sent."""
    data = _encode(call)
    return LENGTH.pack(len(data)) + data


class CallReceiver:
    """Assembles the calls of one worker."""

    def __init__(self) -> None:
        self._input = bytearray()

    def receive(self, data: bytes) -> Iterator[TracedCall]:
        """Yield the calls that end in the next bytes. Raises ValueError for what is no call."""
        self._input += data
        position = 0
        try:
            while len(self._input) - position >= LENGTH.size:
                (length,) = LENGTH.unpack_from(self._input, position)
                if length > LARGEST:
                    raise ValueError(f"a frame of {length} bytes")
                begin = position + LENGTH.size
                if len(self._input) < begin + length:
                    return
                position = begin + length
                yield _decode(self._input[begin:position])
        finally:
            del self._input[:position]
