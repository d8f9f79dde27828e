"""grpcio's client and server as real peers: a service of all kinds, and the client's outcomes.

``python -m tests.support.grpc_peers serve SOCKET`` is the server as a process, and ``stream
SOCKET`` a client that reads a stream without end; both say a line when they have begun.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import grpc

from tests.support.waiting import LIMIT_SECONDS

SERVICE: Final = "test.Peer"

_UNLIMITED: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
]

Metadata = tuple[tuple[str, str | bytes], ...]


class Peer:
    """A grpcio server; the functions below define its methods."""

    def __init__(
        self, path: Path, workers: int = 16, options: Sequence[tuple[str, Any]] = ()
    ) -> None:
        self.path = path
        self.over = threading.Semaphore(0)
        """Released each time a call of Hang or Flood has ended."""
        self.proceed = threading.Event()
        """Lets the calls of Hang end."""
        self._server = grpc.server(ThreadPoolExecutor(workers), options=[*_UNLIMITED, *options])
        self._server.add_generic_rpc_handlers((_Methods(self),))
        self._server.add_insecure_port(f"unix://{path}")

    def stop(self, grace: float | None = None) -> threading.Event:
        return self._server.stop(grace)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.proceed.set()
        self.stop().wait()


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, peer: Peer) -> None:
        self._handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(_unary),
            "Split": grpc.unary_stream_rpc_method_handler(_split),
            "Join": grpc.stream_unary_rpc_method_handler(_join),
            "Echo": grpc.stream_stream_rpc_method_handler(_echo),
            "Fail": grpc.unary_unary_rpc_method_handler(_fail),
            "Break": grpc.unary_stream_rpc_method_handler(_break),
            "Hang": grpc.unary_stream_rpc_method_handler(_hanging(peer)),
            "GetContainerEvents": grpc.unary_stream_rpc_method_handler(_hanging(peer)),
            "Flood": grpc.unary_stream_rpc_method_handler(_flooding(peer)),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        service, _, method = details.method.removeprefix("/").partition("/")
        return self._handlers.get(method) if service == SERVICE else None


def _sent(context: grpc.ServicerContext) -> Metadata:
    return tuple(sorted((key, value) for key, value in context.invocation_metadata()))


def _unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answer with the request, the metadata as initial and as trailing metadata."""
    metadata = _sent(context)
    echoed = tuple((key, value) for key, value in metadata if key.startswith("x-"))
    context.send_initial_metadata((*echoed, ("x-all", repr(metadata))))
    context.set_trailing_metadata(echoed)
    return request


def _split(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answer with as many messages of as many bytes as the request says: ``count size``."""
    count, size = map(int, request.split())
    for number in range(count):
        yield bytes((number & 0xFF,)) * size


def _join(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    """Answer with the messages joined."""
    return b"".join(requests)


def _echo(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answer each message with itself."""
    yield from requests


def _fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Fail with the code that the request names, a message and details in the trailers."""
    code = grpc.StatusCode[request.decode()]
    context.set_trailing_metadata(
        (("grpc-status-details-bin", bytes(range(256))), ("x-why", "because"))
    )
    context.abort(code, "no such pod: „µ“ 100% 中")
    raise AssertionError


def _break(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """Fail after two messages."""
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "that was all")


def _hanging(peer: Peer) -> Any:
    def hang(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Send one message, then wait for ``proceed`` or the call's cancellation."""
        if not context.add_callback(peer.over.release):
            peer.over.release()
        yield b"hanging"
        while context.is_active() and not peer.proceed.wait(0.01):
            pass
        yield b"done"

    return hang


def _flooding(peer: Peer) -> Any:
    def flood(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Send without end."""
        if not context.add_callback(peer.over.release):
            peer.over.release()
        while context.is_active():
            yield bytes(16 << 10)

    return flood


class Outcome(NamedTuple):
    """The result of a call, as its client receives it."""

    code: grpc.StatusCode
    details: str
    messages: tuple[bytes, ...]
    initial: Metadata
    trailing: Metadata


def channel(path: Path, options: Iterable[tuple[str, Any]] = ()) -> grpc.Channel:
    """Return a channel with a connection of its own, which retries no call."""
    own = [
        ("grpc.default_authority", "localhost"),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    merged = dict([*own, *_UNLIMITED, *options])
    return grpc.insecure_channel(f"unix://{path}", list(merged.items()))


class Started:
    """A call that has been started."""

    def __init__(self, call: Any, streaming: bool) -> None:
        self.call = call
        self._streaming = streaming

    def __next__(self) -> bytes:
        message: bytes = next(self.call)
        return message

    def outcome(self) -> Outcome:
        """Wait until the call has ended; return what its client received from now on."""
        messages: list[bytes] = []
        try:
            if self._streaming:
                messages.extend(iter(self.call))
            else:
                messages.append(self.call.result())
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        return Outcome(
            self.call.code(),
            self.call.details(),
            tuple(messages),
            tuple(tuple(each) for each in self.call.initial_metadata()),
            tuple(tuple(each) for each in self.call.trailing_metadata()),
        )


def start(
    on: grpc.Channel,
    kind: str,
    method: str,
    *requests: bytes,
    timeout: float = LIMIT_SECONDS,
    **options: Any,
) -> Started:
    """Start a call; ``kind`` is ``unary_unary``, ``unary_stream`` and so on."""
    options |= {"timeout": timeout, "wait_for_ready": True}
    callable_ = getattr(on, kind)(f"/{SERVICE}/{method}")
    request: Any = requests[0] if kind.startswith("unary") else iter(requests)
    if kind.endswith("unary"):
        return Started(callable_.future(request, **options), False)
    return Started(callable_(request, **options), True)


def code_of(call: Callable[[], object]) -> str:
    """Return the name of the code with which a call of a CriClient ends."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def through(path: Path, kind: str, method: str, *requests: bytes, **options: Any) -> Outcome:
    """Make one call on a channel of its own."""
    with channel(path) as one:
        return start(one, kind, method, *requests, **options).outcome()


def command(role: str, path: Path) -> list[str]:
    """The command line of this module as a process."""
    return [sys.executable, "-m", "tests.support.grpc_peers", role, str(path)]


def environment() -> dict[str, str]:
    """Return the environment in which such a process finds this module from any directory."""
    return {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONUNBUFFERED": "1"}


def _main(role: str, path: Path) -> None:
    if role == "serve":
        with Peer(path) as peer:
            print("serving")
            peer.proceed.wait()
        return
    with channel(path) as one:
        call = start(one, "unary_stream", "Flood", b"")
        next(call)
        print("streaming")
        call.outcome()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
