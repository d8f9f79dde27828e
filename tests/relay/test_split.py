"""A client whose image service is another process: each call reaches the process that serves it."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from tests.support.grpc_peers import Peer, channel, start, through
from tests.support.raw_sockets import listening
from tests.support.relaying import Relay, Seen
from tests.support.waiting import LIMIT_SECONDS, wait_until

IMAGE_SERVICE = "runtime.v1.ImageService"


@pytest.fixture
def split(short_dir: Path, peer: Peer, loop: str) -> Iterator[Relay]:
    """A relay whose image service gets no calls."""
    with Relay(short_dir, peer.path, image=short_dir / "images.sock", loop=loop) as relay:
        yield relay


def test_each_service_has_its_process(short_dir: Path, loop: str) -> None:
    """Image calls go to the image service, all others to the runtime, on one connection."""
    runtime, images = short_dir / "runtime.sock", short_dir / "images.sock"
    with (
        EmbeddedRuntime(f"unix://{runtime}", pods=2) as one,
        EmbeddedRuntime(f"unix://{images}") as two,
        Relay(short_dir, runtime, image=images, loop=loop) as relay,
        CriClient(f"unix://{relay.path}", timeout=LIMIT_SECONDS) as client,
        CriClient(one.endpoint, timeout=LIMIT_SECONDS) as direct_runtime,
        CriClient(two.endpoint, timeout=LIMIT_SECONDS) as direct_images,
    ):
        assert len(client.ListPodSandbox().items) == 2
        assert client.ListContainers() == direct_runtime.ListContainers()
        assert client.ListImages() == direct_images.ListImages()
        assert client.Version() == direct_runtime.Version()
        assert [call.method for call in relay.recorder.calls(4)] == [
            "ListPodSandbox",
            "ListContainers",
            "ListImages",
            "Version",
        ]
        assert len(relay.recorder.opened) == 1


@pytest.mark.parametrize(
    ("kind", "method", "requests", "sent", "answered"),
    [
        ("unary_unary", "Unary", [b"hello"], (1, 5), (1, 5)),
        ("unary_stream", "Split", [b"7 1000"], (1, 6), (7, 7000)),
        ("stream_unary", "Join", [b"a", b"", b"bc"], (3, 3), (1, 3)),
        ("stream_stream", "Echo", [b"x" * 100] * 50, (50, 5000), (50, 5000)),
        ("unary_unary", "Unary", [b"z" * (16 << 20)], (1, 16 << 20), (1, 16 << 20)),
    ],
    ids=["unary", "server", "client", "both", "large"],
)
def test_each_kind_of_call(
    split: Relay,
    peer: Peer,
    kind: str,
    method: str,
    requests: list[bytes],
    sent: tuple[int, int],
    answered: tuple[int, int],
) -> None:
    """A client sees the same as without a relay, and the recorded calls are exact."""
    metadata = (("x-text", "a"), ("x-raw-bin", bytes(range(256))), ("x-large", "v" * 6144))
    direct = through(peer.path, kind, method, *requests, metadata=metadata)
    assert through(split.path, kind, method, *requests, metadata=metadata) == direct
    assert split.recorder.calls(1) == [Seen(method, "OK", "status", sent, answered)]


@pytest.mark.parametrize("method", ["Fail", "Nothing"])
def test_failures(split: Relay, peer: Peer, method: str) -> None:
    """A failed call's code, message and details are the server's own."""
    direct = through(peer.path, "unary_unary", method, b"NOT_FOUND")
    assert direct.code is not grpc.StatusCode.OK
    assert through(split.path, "unary_unary", method, b"NOT_FOUND") == direct
    assert split.recorder.calls(1)[0].code == direct.code.name


def test_client_cancels(split: Relay, peer: Peer) -> None:
    """A cancellation reaches the server, and the connection goes on."""
    with channel(split.path) as one:
        call = start(one, "unary_stream", "Hang", b"")
        assert next(call) == b"hanging"
        call.call.cancel()
        assert peer.over.acquire(timeout=LIMIT_SECONDS)
        assert split.recorder.calls(1)[0][:3] == ("Hang", "CANCELLED", "client_reset")
        assert start(one, "unary_unary", "Unary", b"x").outcome().messages == (b"x",)


def test_client_that_leaves(split: Relay, peer: Peer) -> None:
    """A client that hangs up ends its calls at the server."""
    with channel(split.path) as one:
        call = start(one, "unary_stream", "Flood", b"")
        assert next(call)
    assert peer.over.acquire(timeout=LIMIT_SECONDS)
    assert split.recorder.calls(1)[0].code == "CANCELLED"
    split.recorder.all_closed()


def test_many_calls_at_once(split: Relay) -> None:
    """Calls at once on one connection are not mixed up."""
    with channel(split.path) as one:
        sent = [b"%d" % number * 500 for number in range(100)]
        calls = [start(one, "stream_stream", "Echo", each, each) for each in sent]
        for each, call in zip(sent, calls, strict=True):
            assert call.outcome().messages == (each, each)
        assert len(split.recorder.calls(100)) == 100


@pytest.mark.parametrize("limit", [1, 3])
def test_more_calls_than_the_server_allows(short_dir: Path, loop: str, limit: int) -> None:
    """Calls above a gRPC server's limit of concurrent streams wait.

    A C-core server may still count a stream whose end it has sent, and refuse the next one as not
    processed: such a call is made again.
    """
    options = [("grpc.max_concurrent_streams", limit)]
    with (
        Peer(short_dir / "peer.sock", options=options) as peer,
        Relay(short_dir, peer.path, image=short_dir / "images.sock", loop=loop) as relay,
        channel(relay.path) as one,
    ):
        sent = [b"%d" % number * 500 for number in range(60)]
        while sent:
            calls = [start(one, "stream_stream", "Echo", each, each) for each in sent]
            outcomes = [call.outcome() for call in calls]
            refused = [each.details.endswith("error code 7))") for each in outcomes]
            for each, outcome, is_refused in zip(sent, outcomes, refused, strict=True):
                assert is_refused or outcome.messages == (each, each)
            assert not all(refused)
            sent = [each for each, is_refused in zip(sent, refused, strict=True) if is_refused]


def test_calls_wait_behind_one_that_hangs(short_dir: Path, loop: str) -> None:
    """A call that waits may be cancelled or meet its deadline; the last is served."""
    options = [("grpc.max_concurrent_streams", 1)]
    with (
        Peer(short_dir / "peer.sock", options=options) as peer,
        Relay(short_dir, peer.path, image=short_dir / "images.sock", loop=loop) as relay,
        channel(relay.path) as one,
    ):
        hanging = start(one, "unary_stream", "Hang", b"")
        assert next(hanging) == b"hanging"
        cancelled = start(one, "unary_unary", "Unary", b"x")
        late = start(one, "unary_unary", "Unary", b"x", timeout=0.2)
        last = start(one, "unary_unary", "Unary", b"last")
        wait_until(lambda: len(relay.recorder.begun) == 4, "calls")
        cancelled.call.cancel()
        assert late.outcome().code is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: len(relay.recorder.ended) == 2, "end of both")
        peer.proceed.set()
        assert hanging.outcome().messages == (b"done",)
        assert last.outcome().messages == (b"last",)
        relay.recorder.calls(4)


def test_restarted_upstream_is_dialled_again(short_dir: Path, peer: Peer, loop: str) -> None:
    """An image service that goes ends its own calls; the next reach its successor, on the same
    client's connection."""
    images = short_dir / "images.sock"
    path = f"/{IMAGE_SERVICE}/PullImage"
    with Relay(short_dir, peer.path, image=images, loop=loop) as relay, channel(relay.path) as one:
        hanging = start(one, "unary_stream", "Hang", b"")
        assert next(hanging) == b"hanging"
        for _ in range(2):
            with Peer(images):
                with pytest.raises(grpc.RpcError) as caught:
                    one.unary_unary(path)(b"", timeout=LIMIT_SECONDS)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
        peer.proceed.set()
        assert hanging.outcome().messages == (b"done",)
        assert len(relay.recorder.opened) == 1


def test_image_service_that_is_not_there(short_dir: Path, peer: Peer, loop: str) -> None:
    """Without its image service a client still has its runtime; image calls are UNAVAILABLE."""
    images = short_dir / "images.sock"
    with listening(images):
        pass  # a stale socket
    with (
        Relay(short_dir, peer.path, image=images, loop=loop, runtime_wait=0.05) as relay,
        channel(relay.path) as one,
    ):
        call = one.unary_unary(f"/{IMAGE_SERVICE}/ListImages")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=LIMIT_SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert start(one, "unary_unary", "Unary", b"x").outcome().messages == (b"x",)
        assert relay.recorder.unreachable[0][1] == f"unix://{images}"
