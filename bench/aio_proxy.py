"""A plain pass-through on grpc.aio's generic handlers.

``python -m bench.aio_proxy /listen.sock /upstream.sock`` forwards every method as a stream of raw
messages, with metadata, status and trailers.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class PassThrough(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Makes each call again, on one channel to the upstream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Return a handler for any method at all."""
        remote = self._channel.stream_stream(details.method, None, None)

        async def forward(
            messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[bytes]:
            call = remote(
                messages,
                metadata=context.invocation_metadata(),
                timeout=context.time_remaining(),
            )
            await context.send_initial_metadata(await call.initial_metadata())
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as error:
                trailers: Any = tuple(error.trailing_metadata())
                await context.abort(error.code(), error.details() or "", trailers)
            context.set_trailing_metadata(await call.trailing_metadata())

        return grpc.stream_stream_rpc_method_handler(forward)


async def serve(
    listen: str,
    upstream: str,
    *,
    intercept: "Callable[[grpc.aio.Channel], grpc.aio.ServerInterceptor[Any, Any]] | None" = None,
) -> None:
    """Serve ``listen`` until SIGTERM or SIGINT; ``intercept`` makes an interceptor."""
    options = [*UNLIMITED, ("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"unix:{upstream}", options) as channel:
        interceptors = [intercept(channel)] if intercept else []
        server = grpc.aio.server(interceptors=interceptors, options=UNLIMITED)
        server.add_generic_rpc_handlers((PassThrough(channel),))
        server.add_insecure_port(f"unix:{listen}")
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
