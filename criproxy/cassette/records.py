"""The records of a cassette: mappings in MessagePack, whose ``kind`` names one of these types.

Times are nanoseconds since ``began`` of the first record, by a clock that does not follow the
system's when that is set. A reader ignores kinds and fields that it does not know: both may be
added to a version, and no field changes its meaning. A field that has its default is left out.
"""

from typing import Final

import msgspec

from criproxy.errors import UsageError

VERSION: Final = 1
"""The version of the format that is written and read."""


class Record(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """The base of all records."""


class Began(Record, frozen=True, tag="began"):
    """The first record: where and how the cassette was recorded."""

    version: int
    """The version of the format: 1."""
    began: int
    """Nanoseconds since the epoch at the beginning."""
    criproxy: str = ""
    """The version of criproxy that has written the cassette."""
    node: str = ""
    """The host name."""
    listener: str = ""
    """The endpoint at which clients connected; empty if there may be several."""
    runtime: str = ""
    """The endpoint of the recorded runtime; empty if there may be several."""
    redacted: bool = True
    """Whether secrets are replaced by marks, and fields that the CRI does not know are left out."""
    trigger: str = ""
    """The call for which the daemon has written the cassette; empty for others."""


class ConnectionOpened(Record, frozen=True, tag="connection"):
    """A client has connected."""

    connection: int
    """The connection's number, from 1."""
    at: int
    """When."""
    pid: int = 0
    """The client's process id, as the kernel reports it."""
    uid: int = 0
    """Its user id."""
    gid: int = 0
    """Its group id."""
    executable: str = ""
    """The path of its executable; empty if it is not known."""
    kubelet: bool = False
    """Whether it is the node's kubelet."""
    listener: str = ""
    """The endpoint at which it connected; empty in older cassettes."""


class ConnectionClosed(Record, frozen=True, tag="disconnected"):
    """Both sides of a connection are closed."""

    connection: int
    """The connection's number."""
    at: int
    """When."""


class CallBegan(Record, frozen=True, tag="call"):
    """A request's headers have arrived."""

    call: int
    """The call's number, from 1."""
    connection: int
    """The number of its connection."""
    at: int
    """When."""
    path: str
    """The request's `:path`: `/runtime.v1.RuntimeService/Version`."""
    stream: int = 0
    """The number of the HTTP/2 stream."""
    timeout: str = ""
    """The request's `grpc-timeout` as sent; empty without one."""


class MessagePassed(Record, frozen=True, tag="message"):
    """A message is whole."""

    call: int
    """The call's number."""
    at: int
    """When its last byte arrived."""
    size: int
    """Its bytes on the wire, without gRPC's prefix."""
    response: bool = False
    """Whether the runtime sent it."""
    data: bytes = b""
    """The message in protobuf's encoding, decompressed; empty if it is missing."""
    encoding: str = ""
    """The `grpc-encoding` of `data`; a cassette has none."""
    missing: str = ""
    """Why `data` is missing: `method` (not one of the CRI, so that secrets in it are not known),
    `undecodable`, `compressed` (by an unknown algorithm), `too_large` (decompressed)."""


class CallEnded(Record, frozen=True, tag="end"):
    """A call has ended."""

    call: int
    """The call's number."""
    at: int
    """When."""
    end: str
    """How: as `end` of the call log."""
    code: str = ""
    """The name of the gRPC code; empty if it is not known."""
    message: str = ""
    """The status message."""
    first_byte: int = 0
    """When the response began; 0 if it did not."""
    request_messages: int = 0
    """Messages of the request that passed; fewer are in the cassette if some were lost."""
    response_messages: int = 0
    """Messages of the response that passed."""
    request_bytes: int = 0
    """Bytes of the request's messages."""
    response_bytes: int = 0
    """Bytes of the response's messages."""


class Dropped(Record, frozen=True, tag="dropped"):
    """Records are missing here: they came faster than they could be written."""

    at: int
    """When the last of them was lost."""
    since: int
    """When the first of them was lost."""
    records: int
    """The number of records."""
    bytes: int = 0
    """Bytes of messages in them."""


class Ended(Record, frozen=True, tag="ended"):
    """The last record. A cassette without it was cut off."""

    at: int
    """When."""
    calls: int
    """Calls that began."""
    dropped: int = 0
    """Records that were lost."""
    reason: str = ""
    """Why the recording ended: `stopped`, `duration`, `size`, `trigger` or `failed`."""


AnyRecord = (
    Began
    | ConnectionOpened
    | ConnectionClosed
    | CallBegan
    | MessagePassed
    | CallEnded
    | Dropped
    | Ended
)

KINDS: Final[tuple[type[Record], ...]] = (
    Began,
    ConnectionOpened,
    CallBegan,
    MessagePassed,
    CallEnded,
    ConnectionClosed,
    Dropped,
    Ended,
)
"""All types of records, in the order in which they are described."""

encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final[msgspec.msgpack.Decoder[AnyRecord]] = msgspec.msgpack.Decoder(AnyRecord)


def decode(data: bytes | bytearray) -> AnyRecord:
    """Decode a record. Raises msgspec.DecodeError; for an unknown kind its ValidationError."""
    return _decoder.decode(data)


class CassetteError(UsageError):
    """A file that is no cassette, or one of a newer version: file, byte and remedy."""
