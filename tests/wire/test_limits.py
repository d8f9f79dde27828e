"""The message limit, and the positions at which a frame may be inserted."""

import pytest

from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support import wire
from tests.support.captures import NAMES, capture, sent_by
from tests.support.wire import CUTS, Began, Ended, client, conversation, message, read, runtime


@pytest.mark.parametrize("side", Side)
def test_message_limit(side: Side) -> None:
    """A message over the limit ends its call as its prefix is read, and no other call."""
    sent = conversation(
        client(wire.request(1), wire.request(3)),
        runtime(wire.response(1), wire.response(3)),
        wire.Sent(side, wire.data(1, message(b"x" * 100)) + wire.data(3, message(b"x" * 100))),
        wire.Sent(side, wire.data(1, message(b"x" * 101)) + wire.data(1, b"", end=True)),
        runtime(wire.trailers(3)),
    )
    text = b"a message of 101 bytes is over the limit of 100"
    for cut in CUTS:
        first, second, refused, last = read(ConnectionReader(message_limit=100), sent, cut)
        assert (first, second) == (Began(1), Began(3))
        assert isinstance(refused, Ended)
        assert refused[:4] == (1, "message_limit", StatusCode.RESOURCE_EXHAUSTED, text)
        assert isinstance(last, Ended)
        assert last[:3] == (3, "status", StatusCode.OK)


def test_boundaries() -> None:
    """It is 0 between frames, the bytes left within DATA and skipped frames, else None."""
    reader = ConnectionReader()
    opening = wire.PREFACE + wire.settings()
    pieces: list[tuple[bytes, list[int | None]]] = [
        (opening, [None] * (len(opening) - 1) + [0]),
        (wire.request(1), [None] * (len(wire.request(1)) - 1) + [0]),
        (wire.data(1, b"abc"), [None] * 8 + [3, 2, 1, 0]),
        (wire.data(1, b"ab", padding=2), [None] * 9 + [4, 3, 2, 1, 0]),
        (wire.data(1), [None] * 8 + [0]),
        (wire.ping(), [None] * 8 + [8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (wire.frame(wire.HEADERS, 0, 3), [None] * 9),
        (wire.frame(wire.CONTINUATION, wire.END_HEADERS, 3), [None] * 8 + [0]),
    ]
    for frames, expected in pieces:
        got = []
        for number in range(len(frames)):
            reader.receive(Side.CLIENT, frames[number : number + 1], 0.0)
            got.append(reader.to_boundary(Side.CLIENT))
        assert got == expected
        assert reader.until_known(Side.CLIENT) == (9 if got[-1] is None else 0)
    assert reader.to_boundary(Side.RUNTIME) is None
    reader.receive(Side.CLIENT, wire.request(2), 0.0)
    assert reader.to_boundary(Side.CLIENT) == 0
    reader.receive(Side.CLIENT, wire.request(6), 0.0)
    assert reader.to_boundary(Side.CLIENT) is None
    assert reader.until_known(Side.CLIENT) == 0  # it is not read any more


@pytest.mark.parametrize("name", NAMES)
def test_bytes_until_a_known_boundary(name: str) -> None:
    """From wherever a client stops, the next frame boundary is known within the bytes promised."""
    sent = sent_by(Side.CLIENT, capture(name))[:2000]
    for stopped in range(len(sent)):
        reader = ConnectionReader()
        reader.receive(Side.CLIENT, sent[:stopped], 0.0)
        position = stopped
        while reader.to_boundary(Side.CLIENT) is None:
            size = reader.until_known(Side.CLIENT)
            assert size > 0
            if position + size > len(sent):
                break
            reader.receive(Side.CLIENT, sent[position : position + size], 0.0)
            position += size
        else:
            assert reader.until_known(Side.CLIENT) == 0
