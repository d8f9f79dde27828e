"""The inputs of hostile clients, as data for the attack tests, for fuzzing and for ``make chaos``.

Each attack is a function from an API version to the chunks that a client sends on one connection,
after the preface and the exchange of SETTINGS. A chunk is a sequence of whole frames. Attacks are
endless: the client stops reading the generator when it has done enough, or connects again and
starts a new one when its connection was closed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from criproxy.cri.messages import MODULES
from tests.support import wire
from tests.support.wire import CONTINUATION, HEADERS, PRIORITY

Chunks = Iterator[bytes]
Listener = Literal["read-only", "agents"]

LARGE_FIELD: Final = 4_050
"""Bytes of a field value that fills a dynamic table of 4,096 bytes (RFC 7541 section 4.1)."""
REFERENCES: Final = 20_000
METADATA_REFERENCES: Final = 400_000
HELD_MESSAGE: Final = 16 << 20
FRAME: Final = 16_384
"""The initial SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2)."""
REPEATED: Final = 500
"""Number of equal frames in a chunk of a flood."""
NEWEST: Final = b"\xbe"
"""An indexed field: the newest entry of the dynamic table, 62 (RFC 7541 section 2.3.3)."""
SIZE_UPDATES: Final = b"\x20\x3f\xe1\x1f"
"""Dynamic table size updates to 0 and to 4,096 (RFC 7541 section 6.3)."""
BACKTRACKING: Final = "eyJ" * 80_000
"""An argument on which a backtracking engine needs quadratic time for the pattern of a JWT."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: its name, its chunks, and what the client does beside sending them.

    ``listener`` is the listener on which the attack is possible. ``reads`` is whether the client
    reads responses, ``windows`` whether it obeys flow control for the DATA that it sends,
    ``stays`` whether a connection stays open after its chunks, and ``connections`` the number of
    connections on which it repeats the attack at once.
    """

    name: str
    chunks: Callable[[str], Chunks]
    listener: Listener = "read-only"
    reads: bool = True
    windows: bool = False
    stays: bool = False
    connections: int = 3


def path_of(version: str, method: str, service: str = "RuntimeService") -> bytes:
    """Return the ``:path`` of a method."""
    return f"/runtime.{version}.{service}/{method}".encode()


def streams() -> Iterator[int]:
    """Return the ids of a client's streams, in order."""
    return count(1, 2)


def indexed(name: bytes, value: bytes, *, huffman: bool = False) -> bytes:
    """Return a literal field with incremental indexing (RFC 7541 section 6.2.1)."""
    if not huffman:
        return b"\x40" + wire.string(name) + wire.string(value)
    encoded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value)
    return b"\x40" + wire.string(name) + wire.integer(len(encoded), 7, 0x80) + encoded


def call(stream: int, path: bytes, block: bytes = b"", message: bytes = b"") -> bytes:
    """Return a complete unary call; ``block`` is added to its header block."""
    return head(stream, path, block) + wire.data(stream, wire.message(message), end=True)


def head(stream: int, path: bytes, block: bytes = b"") -> bytes:
    """Return the header block of a call, in frames of at most 16 KiB."""
    block = wire.block(*wire.request_fields(path)) + block
    return wire.headers(stream, block, fragments=-(-len(block) // FRAME))


def _references(version: str, *, huffman: bool) -> Chunks:
    ids = streams()
    field = indexed(b"x-large", b"a" * LARGE_FIELD, huffman=huffman)
    yield call(next(ids), path_of(version, "StopContainer"), field)
    for stream in ids:
        yield call(stream, path_of(version, "Version"), NEWEST * REFERENCES)


def hpack_references(version: str) -> Chunks:
    """A denied call inserts a large field into the table; allowed ones refer to it 20,000 times."""
    return _references(version, huffman=False)


def hpack_references_huffman(version: str) -> Chunks:
    """The same, with the field encoded by Huffman: it expands when it is re-encoded."""
    return _references(version, huffman=True)


def hpack_references_after_size_update(version: str) -> Chunks:
    """Each block begins with size updates that empty the table, and inserts the field again."""
    field = indexed(b"x-large", b"a" * LARGE_FIELD)
    for stream in streams():
        path = path_of(version, "Version" if stream % 4 == 1 else "StopContainer")
        block = SIZE_UPDATES + wire.block(*wire.request_fields(path))
        block += field + NEWEST * REFERENCES
        yield wire.headers(stream, block, fragments=2) + wire.data(stream, wire.message(), end=True)


def hpack_references_in_a_list(version: str) -> Chunks:
    """The same references in a call whose response is edited: ListContainers."""
    ids = streams()
    yield call(
        next(ids), path_of(version, "StopContainer"), indexed(b"x-large", b"a" * LARGE_FIELD)
    )
    for stream in ids:
        yield call(stream, path_of(version, "ListContainers"), NEWEST * REFERENCES)


def metadata_references(version: str) -> Chunks:
    """A method whose rule names ``metadata``: 400,000 references to one small field."""
    for stream in streams():
        block = indexed(b"x", b"y") + NEWEST * METADATA_REFERENCES
        yield call(stream, path_of(version, "Status"), block)


def metadata_distinct(version: str) -> Chunks:
    """The same with 50,000 different fields, literals without indexing."""
    fields = [(b"x%d" % number, b"") for number in range(50_000)]
    block = wire.block(*fields)
    for stream in streams():
        yield call(stream, path_of(version, "Status"), block)


def hpack_size_updates(version: str) -> Chunks:
    """Blocks that begin with 20,000 size updates."""
    for stream in streams():
        block = SIZE_UPDATES * 10_000 + wire.block(
            *wire.request_fields(path_of(version, "Version"))
        )
        yield wire.headers(stream, block, fragments=3) + wire.data(stream, wire.message(), end=True)


def hpack_insertions(version: str) -> Chunks:
    """Blocks of 20,000 insertions, each of which evicts another entry."""
    block = b"".join(indexed(b"", b"%d" % number) for number in range(20_000))
    for stream in streams():
        yield call(stream, path_of(version, "Version"), block)


def continuation_empty(version: str) -> Chunks:
    """HEADERS without END_HEADERS, then empty CONTINUATION frames without end."""
    yield wire.frame(HEADERS, 0, 1, wire.block(*wire.request_fields(path_of(version, "Version"))))
    while True:
        yield wire.frame(CONTINUATION, 0, 1) * REPEATED


def continuation_small(version: str) -> Chunks:
    """The same with CONTINUATION frames of one indexed field each."""
    yield wire.frame(HEADERS, 0, 1, wire.block(*wire.request_fields(path_of(version, "Version"))))
    while True:
        yield wire.frame(CONTINUATION, 0, 1, b"\x82") * REPEATED


def continuation_of_trailers(version: str) -> Chunks:
    """The same in the trailers of a request that is allowed."""
    yield head(1, path_of(version, "Version"))
    yield wire.frame(HEADERS, wire.END_STREAM, 1)
    while True:
        yield wire.frame(CONTINUATION, 0, 1) * REPEATED


def ping_flood(version: str) -> Chunks:
    """PING frames without end."""
    while True:
        yield wire.ping() * REPEATED


def ping_acknowledgements(version: str) -> Chunks:
    """Acknowledgements of PINGs that nobody sent."""
    while True:
        yield wire.ping(ack=True) * REPEATED


def settings_flood(version: str) -> Chunks:
    """SETTINGS frames, empty and with a change, each of which must be acknowledged."""
    while True:
        yield (wire.settings() + wire.settings((4, 65_535))) * (REPEATED // 2)


def empty_data(version: str) -> Chunks:
    """DATA frames of no payload on an open stream."""
    yield head(1, path_of(version, "Version"))
    while True:
        yield wire.data(1) * REPEATED


def priority_flood(version: str) -> Chunks:
    """PRIORITY frames of idle streams."""
    while True:
        yield b"".join(
            wire.frame(PRIORITY, 0, stream, b"\0\0\0\0\x10") for stream in range(1, 2 * REPEATED, 2)
        )


def window_updates(version: str) -> Chunks:
    """WINDOW_UPDATE frames of 1, of the connection and of a stream."""
    yield head(1, path_of(version, "Version"))
    while True:
        yield (wire.window_update(0, 1) + wire.window_update(1, 1)) * (REPEATED // 2)


def unknown_frames(version: str) -> Chunks:
    """Empty frames of a type that HTTP/2 does not define."""
    while True:
        yield wire.frame(0xFA) * REPEATED


def rapid_reset(version: str) -> Chunks:
    """Streams that are reset right behind their HEADERS."""
    ids = streams()
    while True:
        yield b"".join(
            head(stream, path_of(version, "Version")) + wire.reset(stream)
            for stream, _ in zip(ids, range(50), strict=False)
        )


def denied_calls(version: str) -> Chunks:
    """Calls that the profile denies, as fast as they can be written."""
    ids = streams()
    while True:
        yield b"".join(
            call(stream, path_of(version, "StopContainer"))
            for stream, _ in zip(ids, range(50), strict=False)
        )


def unknown_methods(version: str) -> Chunks:
    """Calls of methods that do not exist, each by another path."""
    ids = streams()
    while True:
        yield b"".join(
            call(stream, path_of(version, f"Method{stream}"))
            for stream, _ in zip(ids, range(50), strict=False)
        )


def open_streams(version: str) -> Chunks:
    """Streams that are opened and neither carry a message nor end."""
    for stream in streams():
        yield head(stream, path_of(version, "ContainerStatus"))


def held_messages(version: str) -> Chunks:
    """Four calls that are held for their message, 16 MiB less one byte of which comes."""
    prefix = b"\0" + HELD_MESSAGE.to_bytes(4, "big")
    ids = [1, 3, 5, 7]
    for stream in ids:
        yield head(stream, path_of(version, "ContainerStatus"))
        yield wire.data(stream, prefix)
    for _ in range(HELD_MESSAGE // FRAME - 1):
        for stream in ids:
            yield wire.data(stream, bytes(FRAME))
    for stream in ids:
        yield wire.data(stream, bytes(FRAME - 1))
    while True:
        yield wire.ping()


def held_messages_byte_by_byte(version: str) -> Chunks:
    """A hundred held calls whose messages come in DATA frames of one byte."""
    prefix = b"\0" + HELD_MESSAGE.to_bytes(4, "big")
    ids = range(1, 200, 2)
    for stream in ids:
        yield head(stream, path_of(version, "ContainerStatus")) + wire.data(stream, prefix)
    while True:
        for stream in ids:
            yield wire.data(stream, b"x")


def large_message(version: str) -> Chunks:
    """Held calls whose messages are complete, large and expensive to parse."""
    messages = MODULES[version]
    labels = {f"k{number}": "v" for number in range(5_000)}
    request = messages.ListContainersRequest(filter={"label_selector": labels})
    ids = streams()
    for stream in ids:
        content = wire.message(request.SerializeToString())
        yield head(stream, path_of(version, "ListContainers"))
        for at in range(0, len(content), FRAME):
            part = content[at : at + FRAME]
            yield wire.data(stream, part, end=at + FRAME >= len(content))


def audited_backtracking(version: str) -> Chunks:
    """ExecSync calls with an argument on which a backtracking pattern is quadratic."""
    request = MODULES[version].ExecSyncRequest(container_id="c", cmd=[BACKTRACKING])
    content = wire.message(request.SerializeToString())
    for stream in streams():
        yield head(stream, path_of(version, "ExecSync"))
        for at in range(0, len(content), FRAME):
            part = content[at : at + FRAME]
            yield wire.data(stream, part, end=at + FRAME >= len(content))


def unread_lists(version: str) -> Chunks:
    """Windows are opened wide, lists of 1 MiB are requested, and nothing is read."""
    yield wire.settings((4, (1 << 31) - 1)) + wire.window_update(0, (1 << 31) - 1 - 65_535)
    for stream in streams():
        yield call(stream, path_of(version, "ListContainers"))


def connection_churn(version: str) -> Chunks:
    """One call on each connection, which is then closed."""
    yield call(1, path_of(version, "Version"))


def idle_connections(version: str) -> Chunks:
    """Connections that stay open without a call."""
    yield wire.ping()


def oversized_frame(version: str) -> Chunks:
    """A frame larger than SETTINGS_MAX_FRAME_SIZE allows."""
    yield wire.frame(0xFA, 0, 0, bytes(1 << 20))
    while True:
        yield wire.ping()


ATTACKS: Final = (
    Attack("hpack-references", hpack_references),
    Attack("hpack-references-huffman", hpack_references_huffman),
    Attack("hpack-references-size-update", hpack_references_after_size_update),
    Attack("hpack-references-in-a-list", hpack_references_in_a_list, "agents"),
    Attack("hpack-size-updates", hpack_size_updates),
    Attack("hpack-insertions", hpack_insertions),
    Attack("metadata-references", metadata_references),
    Attack("metadata-distinct", metadata_distinct),
    Attack("continuation-empty", continuation_empty),
    Attack("continuation-small", continuation_small),
    Attack("continuation-of-trailers", continuation_of_trailers),
    Attack("ping-flood", ping_flood),
    Attack("ping-acknowledgements", ping_acknowledgements),
    Attack("settings-flood", settings_flood),
    Attack("empty-data", empty_data),
    Attack("priority-flood", priority_flood),
    Attack("window-updates", window_updates),
    Attack("unknown-frames", unknown_frames),
    Attack("rapid-reset", rapid_reset),
    Attack("denied-calls", denied_calls),
    Attack("unknown-methods", unknown_methods),
    Attack("open-streams", open_streams, "agents"),
    Attack("held-messages", held_messages, "agents", windows=True),
    Attack("held-messages-byte-by-byte", held_messages_byte_by_byte, "agents", windows=True),
    Attack("large-message", large_message, "agents", windows=True),
    Attack("audited-backtracking", audited_backtracking, "agents", windows=True),
    Attack("unread-lists", unread_lists, reads=False),
    Attack("connection-churn", connection_churn),
    Attack("idle-connections", idle_connections, stays=True, connections=200),
    Attack("oversized-frame", oversized_frame),
)
"""Every attack, by the order of the table in which they are reported."""

BY_NAME: Final = {attack.name: attack for attack in ATTACKS}
