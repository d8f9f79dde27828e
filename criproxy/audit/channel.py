"""The frames between a worker and the recorder, over a stream socketpair.

Worker to recorder::

    CONNECTION   describes a connection under the number of a slot, which may be used again
    CALL         a call at one of its stages, on the connection in a slot
    UNREAD       a connection that is no longer parsed
    LISTING      a runtime's pods, containers and images
    DROPPED      records that the worker has dropped, to be reported in the log

Each frame is a header (:data:`HEADER`), fields in MessagePack, and message bytes that are not
copied into it. Items belong to queues, one for each listener, which are numbered in the order of
their first use; a listing belongs to no connection and has the number of its queue as its slot.

Recorder to worker: lists of :class:`QueueStatus` in MessagePack, each preceded by its length
(:data:`LENGTH`).
"""

import sys
from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Any, Final, NamedTuple

import msgspec
from google.protobuf.message import DecodeError, Message

from criproxy.audit.items import (
    TOO_LARGE,
    CallAtStage,
    Item,
    RuntimeListing,
    Stage,
    UnreadConnection,
)
from criproxy.audit.records.subject import request_class_of, response_class_of
from criproxy.cri.naming import resolve
from criproxy.peers.peer import Connection
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import CapturedMessages, CaptureLimits, MessageCapture

HEADER: Final = Struct(">IBHI")
"""Bytes that follow the header, the kind, the slot of the connection, bytes of the fields."""

LENGTH: Final = Struct(">I")

SLOTS: Final = 512
"""Connections that are described at a time: a worker describes a connection again after that many
others."""

_ALL: Final = CaptureLimits(sys.maxsize, sys.maxsize)

MAX_COMPARED: Final = 2 << 20
"""Bytes of a message before and after a change that are sent to be compared: encoding more would
delay the event loop."""


class Kind(IntEnum):
    """The kinds of frames of a worker."""

    CONNECTION = 0
    CALL = 1
    UNREAD = 2
    LISTING = 3
    DROPPED = 4


class QueueStatus(msgspec.Struct, array_like=True):
    """The recorder's progress with the items of a queue since the channel was opened."""

    queue: int
    taken: int
    """Items that were made into records."""
    done: int
    """Items whose records are written by all sinks, or dropped."""
    full: bool
    """Whether a sink that blocks has no room for further records of the queue."""
    failed: list[int] = []
    """Items, counted from 0, whose records may not survive a crash."""


_Messages = tuple[bytes, bool, list[tuple[int, bool]]]
"""The encoding, whether the capture was cut, and the length and compressed flag of each message."""


class _CallFields(msgspec.Struct, array_like=True):
    complete: bool
    audit_id: str
    at: float
    path: bytes
    began: float
    ended: float | None
    code: int | None
    message: bytes
    request_messages: int
    request_bytes: int
    response_messages: int
    response_bytes: int
    rules: tuple[str, ...]
    denied: str
    request: _Messages | None
    response: _Messages | None
    changes: list[tuple[str, str, int, int]]
    """The rule, the phase, and the lengths of the message before and after; -1: too large."""


encode: Final = msgspec.msgpack.Encoder().encode
decode_status: Final = msgspec.msgpack.Decoder(list[QueueStatus]).decode
_decode_call: Final = msgspec.msgpack.Decoder(_CallFields).decode
_decode_connection: Final = msgspec.msgpack.Decoder(tuple[int, Connection]).decode
_decode_unread: Final = msgspec.msgpack.Decoder(tuple[str, str, float]).decode
_decode_listing: Final = msgspec.msgpack.Decoder(tuple[str | None, int, int, int]).decode
_decode_dropped: Final = msgspec.msgpack.Decoder(dict[str, int]).decode


class EncodedItem(NamedTuple):
    """An item without the slot of its connection."""

    kind: Kind
    fields: bytes
    payloads: tuple[bytes, ...]
    size: int
    """Bytes of fields and payloads."""

    def frame(self, slot: int) -> list[bytes]:
        """Return the buffers of the frame."""
        header = HEADER.pack(self.size, self.kind, slot, len(self.fields))
        return [header + self.fields, *self.payloads]


def encode_item(item: Item) -> EncodedItem:
    """Encode an item; the messages of calls are not copied."""
    if isinstance(item, CallAtStage):
        return _encode_call(item)
    if isinstance(item, UnreadConnection):
        return _encoded(Kind.UNREAD, encode((item.reason, item.detail, item.at)), ())
    parts = (item.pods, item.containers, item.images)
    return _encoded(Kind.LISTING, encode((item.short_names, *map(len, parts))), parts)


def connection_frame(slot: int, queue: int, connection: Connection) -> bytes:
    """Return the frame that puts a connection into a slot."""
    fields = encode((queue, connection))
    return HEADER.pack(len(fields), Kind.CONNECTION, slot, len(fields)) + fields


def dropped_frame(reasons: dict[str, int]) -> bytes:
    """Return the frame that reports dropped records by reason."""
    fields = encode(reasons)
    return HEADER.pack(len(fields), Kind.DROPPED, 0, len(fields)) + fields


def status_frame(queues: Sequence[QueueStatus]) -> bytes:
    """Return the frame of the recorder that reports on queues."""
    data = encode(queues)
    return LENGTH.pack(len(data)) + data


def decode_connection(fields: bytes) -> tuple[int, Connection]:
    """Return the queue and the connection of a CONNECTION frame."""
    return _decode_connection(fields)


def decode_dropped(fields: bytes) -> dict[str, int]:
    """Return the numbers of dropped records by reason."""
    return _decode_dropped(fields)


def decode_item(kind: Kind, fields: bytes, payload: bytes, connection: Connection | None) -> Item:
    """Decode a CALL, UNREAD or LISTING frame; a listing has no connection."""
    if kind is Kind.LISTING:
        short_names, *lengths = _decode_listing(fields)
        pods, containers, images = map(_Payload(payload).take, lengths)
        return RuntimeListing(pods, containers, images, short_names)
    assert connection is not None
    if kind is Kind.UNREAD:
        return UnreadConnection(connection, *_decode_unread(fields))
    return _call_at_stage(_decode_call(fields), payload, connection)


def _encoded(kind: Kind, fields: bytes, payloads: tuple[bytes, ...]) -> EncodedItem:
    return EncodedItem(kind, fields, payloads, len(fields) + sum(map(len, payloads)))


def _encode_call(item: CallAtStage) -> EncodedItem:
    call = item.call
    payloads: list[bytes] = []
    request = response = None
    limits = _ALL if item.limits is None else item.limits
    if call.capture is not None:
        request = _encode_messages(call.capture.request, limits.request, payloads)
        response = _encode_messages(call.capture.response, limits.response, payloads)
    changes = [_encode_change(*change, payloads) for change in call.changes]
    fields = (
        item.stage == "ResponseComplete",
        item.audit_id,
        item.at,
        call.path,
        call.began,
        call.ended,
        call.code,
        call.message,
        call.request.messages,
        call.request.bytes,
        call.response.messages,
        call.response.bytes,
        call.rules,
        call.denied,
        request,
        response,
        changes,
    )
    return _encoded(Kind.CALL, encode(fields), tuple(payloads))


def _encode_messages(
    captured: CapturedMessages | None, limit: int, payloads: list[bytes]
) -> tuple[bytes, bool, list[tuple[int, bool]]] | None:
    """Encode the first messages of a direction, as many as a capture with this limit has."""
    if captured is None or not limit:
        return None
    lengths: list[tuple[int, bool]] = []
    for data, compressed in captured.messages:
        limit -= len(data)
        if limit < 0:
            break
        payloads.append(data)
        lengths.append((len(data), bool(compressed)))
    return captured.encoding, captured.cut or limit < 0, lengths


def _encode_change(
    rule: str, phase: str, before: Any, after: Any, payloads: list[bytes]
) -> tuple[str, str, int, int]:
    if not isinstance(before, Message) or not isinstance(after, Message):
        return rule, phase, 0, 0
    if before.ByteSize() + after.ByteSize() > MAX_COMPARED:
        return rule, phase, -1, -1
    messages = before.SerializeToString(), after.SerializeToString()
    payloads += messages
    return rule, phase, len(messages[0]), len(messages[1])


class _Payload:
    """Cuts a frame's payload into its parts, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, length: int) -> bytes:
        begin = self._position
        self._position += length
        return self._data[begin : self._position]


def _call_at_stage(fields: _CallFields, data: bytes, connection: Connection) -> CallAtStage:
    call = Call(0, fields.path, b"", True, fields.began)
    call.ended = fields.ended
    call.code = None if fields.code is None else StatusCode(fields.code)
    call.message = fields.message
    call.request.messages, call.request.bytes = fields.request_messages, fields.request_bytes
    call.response.messages, call.response.bytes = fields.response_messages, fields.response_bytes
    call.rules, call.denied = fields.rules, fields.denied
    payload = _Payload(data)
    if fields.request is not None or fields.response is not None:
        call.capture = MessageCapture(CaptureLimits(0, 0))
        call.capture.request = _captured(fields.request, payload)
        call.capture.response = _captured(fields.response, payload)
    call.changes = tuple(_change(fields.path, change, payload) for change in fields.changes)
    stage: Stage = "ResponseComplete" if fields.complete else "RequestReceived"
    return CallAtStage(stage, fields.audit_id, connection, call, fields.at)


def _captured(messages: _Messages | None, payload: _Payload) -> CapturedMessages | None:
    if messages is None:
        return None
    captured = CapturedMessages(0)
    captured.encoding, captured.cut, lengths = messages
    captured.messages = [(payload.take(length), compressed) for length, compressed in lengths]
    return captured


def _change(
    path: bytes, change: tuple[str, str, int, int], payload: _Payload
) -> tuple[str, str, Any, Any]:
    """Return a change with its messages; TOO_LARGE in place of both if they were not sent."""
    rule, phase, before, after = change
    if before < 0:
        return rule, phase, TOO_LARGE, TOO_LARGE
    method_name = resolve(path)
    class_of = request_class_of if phase == "request" else response_class_of
    message_class = class_of(method_name)
    data = payload.take(before), payload.take(after)
    if message_class is None:
        return rule, phase, None, None
    try:
        return rule, phase, message_class.FromString(data[0]), message_class.FromString(data[1])
    except DecodeError:  # the worker encoded it, so it can be decoded, but no record depends on it
        return rule, phase, None, None
