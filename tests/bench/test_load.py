"""The load generator: bytes as grpc-go writes them, and every answer checked."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from hpack import Decoder

from bench.go_hpack import GoEncoder
from bench.load import LARGE_WINDOW, Call, Connection
from bench.wire import (
    DATA,
    END_HEADERS,
    END_STREAM,
    ESTIMATE,
    HEADERS,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    Client,
    LoadError,
    frame,
    request_fields,
)

LIST_BYTES = 1 << 20
KUBELET = (
    (
        "Version",
        29998427,
        "8386459962cb6a49a92afdc2bedb6a49a92ee2d9dcc42b1c4b620c7abf4186a0e41d139d095f8b1d75d0620d26"
        "3d4c4d65647a8a9acac8b4c7602bbc15c340027465864d833505b11f408e9acac8b0c842d6958b510f21aa9b83"
        "9bd9ab40899acac8b24d494f6a7f8713efbef34276df",
    ),
    (
        "RuntimeConfig",
        29999980,
        "8386459d62cb6a49a92afdc2bedb6a49a92ee2d9dcc42b1b6da926a4b78f54a69bc4c3c2c1c07f008713efbefb"
        "ef02df",
    ),
    ("RuntimeConfig", 29999985, "8386bfc5c4c3c2c17e8713efbefbef376f"),
    ("RuntimeConfig", 29999989, "8386c0c6c5c4c3c27e8713efbefbef3f6f"),
)
"""The first calls of a recorded kubelet connection: method, grpc-timeout, header block."""


class Handlers(grpc.GenericRpcHandler):
    """``Version`` and ``List`` answer, ``Fail`` is NOT_FOUND, ``Bare`` ends without a message."""

    def service(self, details):
        method = details.method.rpartition("/")[2]

        def answer(message, context):
            if method == "Fail":
                context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
            return b"\x01" * LIST_BYTES if method == "List" else b"version of " + message

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("s") / "s.sock"
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handlers(),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield path
    server.stop(None).wait()


def test_encoder_writes_go_bytes() -> None:
    """Our header blocks are the recorded kubelet's, byte for byte, table insertions included."""
    encoder = GoEncoder()
    for method, timeout, block in KUBELET:
        fields = request_fields(f"/runtime.v1.RuntimeService/{method}", timeout)
        assert encoder.encode(fields).hex() == block


def test_blocks_decode_to_their_fields_for_ever() -> None:
    """Each block decodes to its fields while the table fills, overflows and evicts; all differ."""
    encoder, decoder = GoEncoder(), Decoder()
    blocks = set()
    for number in range(1000):
        fields = request_fields("/runtime.v1.RuntimeService/Version", 29_990_000 + number * 7)
        block = encoder.encode(fields)
        assert decoder.decode(block, raw=True) == fields
        blocks.add(block)
    assert len(blocks) == 1000


@pytest.mark.parametrize("at_once", [1, 16])
def test_every_call_is_answered(server: Path, at_once: int) -> None:
    """N calls end N times, each with the right bytes and status 0, over several runs."""
    with Connection(server) as connection:
        answer = connection.ask(Call("/s/Version", b"1.2"))
        assert answer == b"\x00\x00\x00\x00\x0eversion of 1.2"
        call = Call("/s/Version", b"1.2", answer)
        for count in (1, 500):
            outcome = connection.run(call, connection.build(call, count), at_once)
            assert len(outcome.latencies) == count
            assert not outcome.errors
            assert not outcome.goaways


@pytest.mark.parametrize("window", [65_535, LARGE_WINDOW])
def test_large_answers_keep_the_windows_open(server: Path, window: int) -> None:
    """Answers larger than the windows arrive whole: stream and connection are updated."""
    answer = b"\x00" + LIST_BYTES.to_bytes(4, "big") + b"\x01" * LIST_BYTES
    call = Call("/s/List", answer=answer)
    with Connection(server, window=window) as connection:
        outcome = connection.run(call, connection.build(call, 20), 4)
        assert len(outcome.latencies) == 20
        assert not outcome.errors


def test_a_failed_call_is_counted(server: Path) -> None:
    """A status other than 0 is an error, named by its code; the calls after it go on."""
    call = Call("/s/Fail", answer=b"")
    with Connection(server) as connection:
        outcome = connection.run(call, connection.build(call, 3))
        assert outcome.errors == {"grpc-status 5": 3}
        assert connection.ask(Call("/s/Version"))


def test_a_status_can_be_what_is_wanted(server: Path) -> None:
    """Where a status is the right answer, it is no error, and success is one."""
    with Connection(server) as connection:
        failing = Call("/s/Fail", answer=b"", status=5)
        assert not connection.run(failing, connection.build(failing, 3)).errors
        other = Call("/s/Fail", answer=b"", status=7)
        assert connection.run(other, connection.build(other, 3)).errors == {"grpc-status 5": 3}
        passing = Call("/s/Version", status=5)
        assert connection.run(passing, connection.build(passing, 2)).errors == {"grpc-status 0": 2}


@pytest.mark.parametrize("change", [lambda right: right[:-1], lambda right: right[:-1] + b"!"])
def test_another_answer_is_counted(server: Path, change) -> None:
    """An answer that is not, byte for byte, the right one is an error."""
    with Connection(server) as connection:
        right = connection.ask(Call("/s/Version"))
        call = Call("/s/Version", answer=change(right))
        assert connection.run(call, connection.build(call, 2)).errors == {"another answer": 2}


def test_a_lost_connection_is_counted(tmp_path: Path) -> None:
    """Calls that are open or unsent when the connection ends are errors."""
    path = tmp_path / "s.sock"
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Handlers(),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    with Connection(path) as connection:
        call = Call("/s/Version", answer=connection.ask(Call("/s/Version")))
        server.stop(None).wait()
        outcome = connection.run(call, connection.build(call, 5))
    assert sum(outcome.errors.values()) == 5


def test_frames_around_a_call_are_grpc_go_s() -> None:
    """The first DATA brings WINDOW_UPDATE and PING; the next only after the PING's answer."""
    client = Client()
    estimate = frame(WINDOW_UPDATE, 0, 0, bytes((0, 0, 0, 3))) + frame(PING, 0, 0, ESTIMATE)
    assert client.receive(frame(DATA, 0, 1, b"abc"), 0) == estimate
    assert client.receive(frame(DATA, 0, 3, b"abc"), 0) == b""
    assert client.receive(frame(PING, 1, 0, ESTIMATE), 0) == b""
    assert client.receive(frame(PING, 0, 0, b"12345678"), 0) == frame(PING, 1, 0, b"12345678")
    assert client.receive(frame(DATA, 0, 5, b""), 0) == b""
    again = frame(WINDOW_UPDATE, 0, 0, bytes((0, 0, 0, 6))) + frame(PING, 0, 0, ESTIMATE)
    assert client.receive(frame(DATA, 0, 5, b"abc"), 0) == again


def test_reading_does_not_depend_on_the_cuts() -> None:
    """What the server sent is read alike whole and byte by byte."""
    wire = (
        frame(HEADERS, END_HEADERS, 1, b"\x88")
        + frame(DATA, 0, 1, b"answer")
        + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xbf\xbe")
    )
    found = []
    for size in (1, 2, 7, len(wire)):
        client = Client()
        client.begin(b"answer")
        client.open([1], 5, now=10)
        pieces = (wire[at : at + size] for at in range(0, len(wire), size))
        answers = b"".join(client.receive(piece, 30) for piece in pieces)
        found.append((answers, client.latencies, client.blocks, client.failures, client.opened))
    assert all(one == found[0] for one in found)
    assert found[0][1:] == ([20], [(1, False, b"\x88"), (1, True, b"\xbf\xbe")], {}, {})


def test_a_reset_counts_unless_the_call_has_ended() -> None:
    """RST_STREAM fails a call that is open, and means nothing after a complete answer."""
    client = Client()
    client.begin(b"")
    client.open([1, 3], 5, now=10)
    client.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xbf\xbe"), 20)
    client.receive(frame(RST_STREAM, 0, 1, bytes(4)), 30)
    assert not client.failures
    client.receive(frame(RST_STREAM, 0, 3, bytes((0, 0, 0, 8))), 40)
    assert client.failures == {3: "reset with code 8"}
    assert client.latencies == [10, 30]


@pytest.mark.parametrize(
    "strange",
    [
        frame(HEADERS, 0, 1, b"\x88"),
        frame(HEADERS, END_HEADERS | 0x20, 1, b"\x00\x00\x00\x00\x10\x88"),
        frame(DATA, 0x8, 1, b"\x00abc"),
        frame(4, 0, 0, b"\x00\x01\x00\x00\x00\x00"),
        frame(5, 0, 1, b""),
    ],
)
def test_what_is_not_understood_is_refused(strange: bytes) -> None:
    """A frame that would make the figures wrong ends the load with words."""
    with pytest.raises(LoadError):
        Client().receive(strange, 0)
