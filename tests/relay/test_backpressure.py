"""A slow reader costs a bounded buffer and stops its writer, but no other connection."""

import select
import socket
import threading
from pathlib import Path

import pytest

from tests.support.raw_sockets import accept, dial, listening, receive
from tests.support.relaying import Relay
from tests.support.waiting import LIMIT_SECONDS

STREAM = 100 << 20
"""Bytes that the fast writer would like to send."""
BOUND = 4 << 20
"""Bytes that may be on their way: our buffer, a chunk that was read, and the kernel's four."""
STALLED_SECONDS = 0.5
"""How long a socket must take nothing to count as stopped."""

PIECE = bytes(range(256)) * 256


def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken; return how many bytes were."""
    sock.setblocking(False)
    taken = 0
    while taken < STREAM and select.select([], [sock], [], STALLED_SECONDS)[1]:
        offset = taken % len(PIECE)
        taken += sock.send(PIECE[offset:])
    sock.settimeout(LIMIT_SECONDS)
    return taken


def is_piece_after_piece(data: bytes) -> bool:
    whole, rest = divmod(len(data), len(PIECE))
    return data == PIECE * whole + PIECE[:rest]


@pytest.mark.parametrize("writer", ["client", "runtime"])
def test_slow_reader_stops_the_writer(short_dir: Path, loop: str, writer: str) -> None:
    """Of 100 MB a few MiB are accepted; the other direction flows, and no byte is lost later."""
    path = short_dir / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop) as relay,
        dial(relay.path) as client,
        accept(listener) as runtime,
    ):
        fast, slow = (client, runtime) if writer == "client" else (runtime, client)
        taken = fill(fast)
        assert taken < BOUND
        sender = threading.Thread(target=slow.sendall, args=(PIECE * 32,))
        sender.start()
        assert receive(fast, len(PIECE) * 32) == PIECE * 32
        sender.join()
        assert is_piece_after_piece(receive(slow, taken))
        assert fill(fast) > 0  # the writer goes on where it was stopped


def test_writer_that_leaves_is_delivered_to_the_end(short_dir: Path, loop: str) -> None:
    """What a writer was allowed to send before it hung up reaches a reader that comes late."""
    path = short_dir / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop) as relay,
        dial(relay.path) as client,
    ):
        with accept(listener) as runtime:
            taken = fill(runtime)
        got = receive(client, STREAM)
        assert len(got) == taken
        assert is_piece_after_piece(got)
        relay.recorder.all_closed()
