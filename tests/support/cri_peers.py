"""A CRI server on grpcio that records the calls that it receives, and calls to it.

Its responses depend on the request and the metadata alone: :func:`responses_to`. As a process:
``python -m tests.support.cri_peers serve SOCKET`` serves, and ``pull SOCKET`` makes one call.
"""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import grpc
from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.pb import runtime_v1_pb2 as v1
from tests.support.grpc_peers import Metadata, Started, channel
from tests.support.waiting import LIMIT_SECONDS

PULL: Final = "/runtime.v1.ImageService/PullImage"
IMAGE: Final = "/runtime.v1.ImageService/ImageStatus"
EXEC: Final = "/runtime.v1.RuntimeService/ExecSync"
STREAM: Final = "/runtime.v1.RuntimeService/StreamContainers"
EVENTS: Final = "/runtime.v1.RuntimeService/GetContainerEvents"
ECHO: Final = "/test.Other/Echo"
"""A method outside the CRI that streams in both directions."""

UNKNOWN: Final = b"\xc2\xbe\x0f\x04kept"
"""An unknown field, which is added to each request and each response."""

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
]


class CallSpec(NamedTuple):
    """A call to make, whose response has ``messages`` messages with ``size`` bytes each."""

    path: str
    requests: tuple[bytes, ...]
    group: str = ""
    size: int = 10
    messages: int = 3
    fails: str = ""
    """The status code that the server fails it with."""
    timeout: float = LIMIT_SECONDS

    def metadata(self, number: object) -> Metadata:
        """Return the metadata that identifies the call and selects the server's response."""
        more = (("x-fails", self.fails),) if self.fails else ()
        return (
            ("x-call", str(number)),
            ("x-group", self.group),
            ("x-size", str(self.size)),
            ("x-count", str(self.messages)),
            *more,
        )


class ReceivedCall(NamedTuple):
    """A call as the server received it."""

    path: str
    requests: tuple[bytes, ...]
    metadata: Metadata


def encode(message: Message) -> bytes:
    """Serialize a message with an unknown field."""
    return message.SerializeToString() + UNKNOWN


def pull(image: str, **more: Any) -> CallSpec:
    return CallSpec(PULL, (encode(v1.PullImageRequest(image=v1.ImageSpec(image=image))),), **more)


def execute(*command: str, **more: Any) -> CallSpec:
    return CallSpec(EXEC, (encode(v1.ExecSyncRequest(container_id="c", cmd=command)),), **more)


def stream(identity: str, **more: Any) -> CallSpec:
    request = v1.StreamContainersRequest(filter=v1.ContainerFilter(id=identity))
    return CallSpec(STREAM, (encode(request),), **more)


def responses_to(path: str, request: bytes, size: int, count: int) -> list[bytes]:
    """Return the messages that the server responds with to a request."""
    method = METHODS[path]
    received: Any = request_class(method).FromString(request)
    kind: Any = response_class(method)
    match method.name:
        case "PullImage":
            return [encode(kind(image_ref=received.image.image + "@" * size))]
        case "ImageStatus":
            return [encode(kind(image={"id": "sha", "repo_tags": [received.image.image]}))]
        case "ExecSync":
            return [encode(kind(stdout=received.cmd[0].encode() + bytes(size), stderr=b"s"))]
        case "StreamContainers":
            pad = "p" * size
            return [
                encode(kind(containers=[{"id": str(number), "image_ref": pad}]))
                for number in range(count)
            ]
        case "GetContainerEvents":
            return [encode(kind(container_id=str(number))) for number in range(count)]
    return [encode(kind())]


class CriPeer:
    """The server. ``received`` is by x-call; it responds only while ``gate`` is set."""

    def __init__(
        self,
        path: Path,
        *,
        workers: int = 64,
        compression: grpc.Compression = grpc.Compression.NoCompression,
    ) -> None:
        self.path = path
        self.received: dict[str, ReceivedCall] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.peak_in_flight: dict[str, int] = {}
        """The most calls that were in flight at a time, by x-group."""
        self.ended = threading.Semaphore(0)
        """Released each time a call has ended at the server, however it ended."""
        self._in_flight: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(workers), options=_OPTIONS, compression=compression
        )
        self._server.add_generic_rpc_handlers((_Methods(self),))
        self._server.add_insecure_port(f"unix://{path}")
        self.second = path.with_name(f"second-{path.name}")
        """A second socket of the server, for tests that treat it as two servers."""
        self._server.add_insecure_port(f"unix://{self.second}")

    def clear(self) -> None:
        """Delete the records."""
        with self._lock:
            self.received.clear()
            self.peak_in_flight.clear()

    def stop(self, grace: float | None = None) -> threading.Event:
        return self._server.stop(grace)

    @contextmanager
    def serving(
        self, received: ReceivedCall, context: grpc.ServicerContext
    ) -> Iterator[dict[str, str]]:
        """Record a call, send its metadata back and wait for the gate; fail if it asks for that."""
        metadata = {key: str(value) for key, value in received.metadata}
        group = metadata.get("x-group", "")
        with self._lock:
            self.received[metadata.get("x-call", "")] = received
            now = self._in_flight[group] = self._in_flight.get(group, 0) + 1
            self.peak_in_flight[group] = max(self.peak_in_flight.get(group, 0), now)
        if not context.add_callback(self.ended.release):
            self.ended.release()
        try:
            self.gate.wait(LIMIT_SECONDS)
            echoed = tuple(each for each in received.metadata if each[0].startswith("x-"))
            if "x-fails" in metadata:
                context.set_trailing_metadata(echoed)
                context.abort(grpc.StatusCode[metadata["x-fails"]], "„no“ 100%")
            context.send_initial_metadata((*echoed, ("x-all", repr(sorted(received.metadata)))))
            context.set_trailing_metadata(echoed)
            yield metadata
        finally:
            with self._lock:
                self._in_flight[group] -= 1

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.stop().wait()


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    def __init__(self, peer: CriPeer) -> None:
        self._peer = peer

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = details.method
        if path == ECHO:
            return grpc.stream_stream_rpc_method_handler(self._echo)
        method = METHODS.get(path)
        if method is None:
            return None

        def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._peer.serving(
                ReceivedCall(path, (request,), _sent(context)), context
            ) as metadata:
                size, count = int(metadata.get("x-size", 0)), int(metadata.get("x-count", 1))
                yield from responses_to(path, request, size, count)

        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            (answer,) = stream(request, context)
            return answer

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _echo(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        got = tuple(requests)
        with self._peer.serving(ReceivedCall(ECHO, got, _sent(context)), context):
            yield from got


def _sent(context: grpc.ServicerContext) -> Metadata:
    return tuple((key, value) for key, value in context.invocation_metadata())


def start_call(on: Any, ask: CallSpec, number: object = 0, **options: Any) -> Started:
    """Start a call on a channel."""
    options |= {
        "timeout": ask.timeout,
        "wait_for_ready": True,
        "metadata": ask.metadata(number),
    }
    if ask.path == ECHO:
        return Started(on.stream_stream(ask.path)(iter(ask.requests), **options), True)
    if METHODS[ask.path].server_streaming:
        return Started(on.unary_stream(ask.path)(ask.requests[0], **options), True)
    return Started(on.unary_unary(ask.path).future(ask.requests[0], **options), False)


def start_stream(on: Any, path: str, requests: Iterator[bytes]) -> Started:
    """Start a call whose requests come from an iterator."""
    return Started(on.stream_stream(path)(requests, timeout=LIMIT_SECONDS), True)


def command(role: str, path: Path) -> list[str]:
    """Return the command line that runs this module."""
    return [sys.executable, "-m", "tests.support.cri_peers", role, str(path)]


def _main(role: str, path: Path) -> None:
    if role == "serve":
        with CriPeer(path):
            print("serving")
            threading.Event().wait()
    with channel(path) as one:
        start_call(one, pull("docker.io/nginx")).outcome()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
