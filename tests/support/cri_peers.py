"""A CRI server on grpcio that keeps what it was asked, and calls to it.

What it answers follows from the request and the metadata alone: :func:`answers`. As a process:
``python -m tests.support.cri_peers serve SOCKET`` serves, and ``pull SOCKET`` makes one call.
"""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
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
"""A method that the CRI does not have, with a stream in each direction."""

UNKNOWN: Final = b"\xc2\xbe\x0f\x04kept"
"""A field that no message of the CRI has; it is in each request and each response."""

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
]


class Ask(NamedTuple):
    """A call to be made. ``size`` is what its answer carries, in ``messages`` of them."""

    path: str
    requests: tuple[bytes, ...]
    group: str = ""
    size: int = 10
    messages: int = 3
    fails: str = ""
    """The code that the server is to fail with."""
    timeout: float = LIMIT_SECONDS

    def metadata(self, number: object) -> Metadata:
        """What the call is told apart by, and what its server is told."""
        more = (("x-fails", self.fails),) if self.fails else ()
        return (
            ("x-call", str(number)),
            ("x-group", self.group),
            ("x-size", str(self.size)),
            ("x-count", str(self.messages)),
            *more,
        )


class Asked(NamedTuple):
    """What the server got of a call."""

    path: str
    requests: tuple[bytes, ...]
    metadata: Metadata


def written(message: Message) -> bytes:
    """A message with a field in it that is not known."""
    return message.SerializeToString() + UNKNOWN


def pull(image: str, **more: Any) -> Ask:
    return Ask(PULL, (written(v1.PullImageRequest(image=v1.ImageSpec(image=image))),), **more)


def execute(*command: str, **more: Any) -> Ask:
    return Ask(EXEC, (written(v1.ExecSyncRequest(container_id="c", cmd=command)),), **more)


def stream(identity: str, **more: Any) -> Ask:
    request = v1.StreamContainersRequest(filter=v1.ContainerFilter(id=identity))
    return Ask(STREAM, (written(request),), **more)


def answers(path: str, request: bytes, size: int, count: int) -> list[bytes]:
    """The messages that the server answers a request with."""
    method = METHODS[path]
    asked: Any = request_class(method).FromString(request)
    kind: Any = response_class(method)
    match method.name:
        case "PullImage":
            return [written(kind(image_ref=asked.image.image + "@" * size))]
        case "ImageStatus":
            return [written(kind(image={"id": "sha", "repo_tags": [asked.image.image]}))]
        case "ExecSync":
            return [written(kind(stdout=asked.cmd[0].encode() + bytes(size), stderr=b"s"))]
        case "StreamContainers":
            pad = "p" * size
            return [
                written(kind(containers=[{"id": str(number), "image_ref": pad}]))
                for number in range(count)
            ]
        case "GetContainerEvents":
            return [written(kind(container_id=str(number))) for number in range(count)]
    return [written(kind())]


class CriPeer:
    """The server. ``asked`` is by x-call; calls are answered only while the ``gate`` is open."""

    def __init__(
        self,
        path: Path,
        *,
        workers: int = 64,
        compression: grpc.Compression = grpc.Compression.NoCompression,
    ) -> None:
        self.path = path
        self.asked: dict[str, Asked] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.most: dict[str, int] = {}
        """The most calls that were in flight at once, by x-group."""
        self.over = threading.Semaphore(0)
        """Released each time a call has ended here, however it did."""
        self._in_flight: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(workers), options=_OPTIONS, compression=compression
        )
        self._server.add_generic_rpc_handlers((_Methods(self),))
        self._server.add_insecure_port(f"unix://{path}")
        self.second = path.with_name(f"second-{path.name}")
        """Another socket that it serves at, for who takes it for two."""
        self._server.add_insecure_port(f"unix://{self.second}")

    def forget(self) -> None:
        """Have been asked nothing."""
        with self._lock:
            self.asked.clear()
            self.most.clear()

    def stop(self, grace: float | None = None) -> threading.Event:
        return self._server.stop(grace)

    @contextmanager
    def serving(self, asked: Asked, context: grpc.ServicerContext) -> Iterator[dict[str, str]]:
        """Note what was asked, send its metadata back and wait at the gate; fail if told to."""
        told = {key: str(value) for key, value in asked.metadata}
        group = told.get("x-group", "")
        with self._lock:
            self.asked[told.get("x-call", "")] = asked
            now = self._in_flight[group] = self._in_flight.get(group, 0) + 1
            self.most[group] = max(self.most.get(group, 0), now)
        if not context.add_callback(self.over.release):
            self.over.release()
        try:
            self.gate.wait(LIMIT_SECONDS)
            echoed = tuple(each for each in asked.metadata if each[0].startswith("x-"))
            if "x-fails" in told:
                context.set_trailing_metadata(echoed)
                context.abort(grpc.StatusCode[told["x-fails"]], "„no“ 100%")
            context.send_initial_metadata((*echoed, ("x-all", repr(sorted(asked.metadata)))))
            context.set_trailing_metadata(echoed)
            yield told
        finally:
            with self._lock:
                self._in_flight[group] -= 1

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
            with self._peer.serving(Asked(path, (request,), _sent(context)), context) as told:
                yield from answers(path, request, int(told["x-size"]), int(told["x-count"]))

        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            (answer,) = stream(request, context)
            return answer

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _echo(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        got = tuple(requests)
        with self._peer.serving(Asked(ECHO, got, _sent(context)), context):
            yield from got


def _sent(context: grpc.ServicerContext) -> Metadata:
    return tuple((key, value) for key, value in context.invocation_metadata())


def make(on: Any, ask: Ask, number: object = 0, **options: Any) -> Started:
    """Make a call on a channel."""
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


def start(on: Any, path: str, requests: Iterator[bytes]) -> Started:
    """Start a call whose requests come one by one."""
    return Started(on.stream_stream(path)(requests, timeout=LIMIT_SECONDS), True)


def command(role: str, path: Path) -> list[str]:
    """The command line of this module as a process."""
    return [sys.executable, "-m", "tests.support.cri_peers", role, str(path)]


def _main(role: str, path: Path) -> None:
    if role == "serve":
        with CriPeer(path):
            print("serving")
            threading.Event().wait()
    with channel(path) as one:
        make(one, pull("docker.io/nginx")).outcome()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
