"""The embedded runtime as a gRPC server on a unix socket.

It runs on asyncio, so that hundreds of idle event streams need no threads. Serialized lists are
cached until the state changes.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from criproxy.embedded.latency import Latency
from criproxy.embedded.listening import serve_methods
from criproxy.embedded.population import populate
from criproxy.embedded.services.handlers import MessageStream, MethodHandler, method_handlers
from criproxy.embedded.state.errors import CallError
from criproxy.embedded.state.store import Store
from criproxy.relay.endpoints import Endpoint, parse_endpoint

CACHED: Final = frozenset({"ListContainers", "ListImages", "ListPodSandbox"})
"""Methods whose response depends only on the request and the store's state."""
CACHE_ENTRIES: Final = 64
"""Maximum number of cached responses."""

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
        handlers = {
            handler.method: grpc.unary_stream_rpc_method_handler(self._stream(handler))
            if handler.method.server_streaming
            else grpc.unary_unary_rpc_method_handler(self._unary(handler))
            for handler in method_handlers(self.store).values()
        }
        self._server = await serve_methods(self.endpoint, handlers)

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
