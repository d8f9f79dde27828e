"""The embedded runtime as a gRPC server on a unix socket.

It runs on asyncio, so that hundreds of idle event streams need no threads. Serialized lists are
cached until the state changes.
"""

import asyncio
import inspect
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from criproxy.embedded.latency import Latency
from criproxy.embedded.population import populate
from criproxy.embedded.services.handlers import MessageStream, MethodHandler, method_handlers
from criproxy.embedded.state.errors import CallError
from criproxy.embedded.state.store import Store
from criproxy.errors import EndpointError, UnavailableError
from criproxy.relay.endpoints import Endpoint, parse_endpoint

CACHED: Final = frozenset({"ListContainers", "ListImages", "ListPodSandbox"})
"""Methods whose response depends only on the request and the store's state."""
CACHE_ENTRIES: Final = 64
"""Maximum number of cached responses."""
SOCKET_MODE: Final = 0o660
MAX_PENDING_CALLS: Final = 100_000
"""Maximum number of pending calls: grpcio's default of 1000 answers CANCELLED to a burst."""

SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
)

_Context = grpc.aio.ServicerContext[bytes, bytes]


class RuntimeServer:
    """The embedded runtime on an endpoint; ``await start()``, then ``await stop()``.

    ``latency`` draws the duration of calls; ``pods`` is the number of pods at the start.
    Raises EndpointError for what is not a unix socket's address.
    """

    def __init__(
        self, endpoint: str | Endpoint, *, latency: Latency | None = None, pods: int = 0
    ) -> None:
        self.endpoint = endpoint if isinstance(endpoint, Endpoint) else parse_endpoint(endpoint)
        self.store = Store()
        self._latency = latency or Latency()
        self._cache: dict[tuple[str, bytes], bytes] = {}
        self._cached_generation = 0
        self._server: grpc.aio.Server | None = None
        populate(self.store, pods)

    async def start(self) -> None:
        """Listen.

        Raises UnavailableError when another process listens there, and EndpointError when the
        path is not a socket or cannot be bound.
        """
        _remove_stale_socket(self.endpoint)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        handlers: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for handler in method_handlers(self.store).values():
            method = handler.method
            handlers.setdefault(method.service, {})[method.name] = (
                grpc.unary_stream_rpc_method_handler(self._stream(handler))
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler(self._unary(handler))
            )
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, table) for name, table in handlers.items()]
        )
        try:
            server.add_insecure_port(f"unix:{self.endpoint.path}")
        except RuntimeError as error:
            raise EndpointError(f"{self.endpoint}: cannot listen there: {error}") from error
        os.chmod(self.endpoint.path, SOCKET_MODE)
        await server.start()
        self._server = server

    async def stop(self, grace: float = 0.0) -> None:
        """Stop listening, end calls after ``grace`` seconds, and remove the socket."""
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None

    def _unary(self, handler: MethodHandler) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        name = handler.method.name
        cached = name in CACHED

        async def answer(request: bytes, context: _Context) -> bytes:
            if delay := self._latency.sample(name):
                await asyncio.sleep(delay)
            try:
                if cached:
                    return self._from_cache(handler, request)
                response = handler.run(_read(handler, request))
                if inspect.isawaitable(response):
                    response = await response
            except CallError as error:
                await context.abort(error.code, error.details)
            return handler.write(response)

        return answer

    def _stream(self, handler: MethodHandler) -> Callable[[bytes, _Context], AsyncIterator[bytes]]:
        name = handler.method.name

        async def answer(request: bytes, context: _Context) -> AsyncIterator[bytes]:
            if delay := self._latency.sample(name):
                await asyncio.sleep(delay)
            try:
                messages: MessageStream = handler.run(_read(handler, request))
                try:
                    # At once, so that a client knows that its subscription has begun.
                    await context.send_initial_metadata(())
                    async for message in messages:
                        yield handler.write(message)
                finally:
                    await messages.aclose()
            except CallError as error:
                await context.abort(error.code, error.details)

        return answer

    def _from_cache(self, handler: MethodHandler, request: bytes) -> bytes:
        if self._cached_generation != self.store.generation or len(self._cache) > CACHE_ENTRIES:
            self._cache.clear()
            self._cached_generation = self.store.generation
        key = (handler.method.path, request)
        answer = self._cache.get(key)
        if answer is None:
            answer = handler.write(handler.run(_read(handler, request)))
            self._cache[key] = answer
        return answer


def _read(handler: MethodHandler, request: bytes) -> Any:
    try:
        return handler.read(request)
    except DecodeError as error:
        raise CallError(
            grpc.StatusCode.INTERNAL, f"grpc: error unmarshalling request: {error}"
        ) from error


def _remove_stale_socket(endpoint: Endpoint) -> None:
    """Remove a stale socket, but not a live one, which grpcio would replace."""
    try:
        mode = os.stat(endpoint.path).st_mode
    except FileNotFoundError:
        if not Path(endpoint.path).parent.is_dir():
            raise EndpointError(
                f"{endpoint}: its directory does not exist; make it first"
            ) from None
        return
    if not stat.S_ISSOCK(mode):
        raise EndpointError(f"{endpoint}: there is something else than a socket; choose another")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(endpoint.path)
        except ConnectionRefusedError:
            os.unlink(endpoint.path)
            return
        except OSError as error:
            raise EndpointError(f"{endpoint}: cannot be used: {error.strerror}") from error
    raise UnavailableError(f"{endpoint}: somebody listens there already; stop it or choose another")
