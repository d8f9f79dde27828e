"""The pass-through on grpc.aio, with an interceptor that rewrites the request of Version.

``python -m bench.aio_rewrite /listen.sock /upstream.sock``; a program of its own, so that the plain
one does not carry the generated classes.
"""

import asyncio
import sys
from typing import Any

import grpc

from bench import version
from bench.aio_proxy import serve
from criproxy.cri.pb.runtime_v1_pb2 import VersionRequest, VersionResponse


class Rewriting(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # in the stubs alone
    """Changes the version in a VersionRequest, and leaves every other method to what it wraps.

    It takes the call as unary, with the generated classes: the least that grpc.aio does for it.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._remote = channel.unary_unary(
            version.PATH, VersionRequest.SerializeToString, VersionResponse.FromString
        )
        self._handler = grpc.unary_unary_rpc_method_handler(
            self._forward, VersionRequest.FromString, VersionResponse.SerializeToString
        )

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of one call."""
        return self._handler if details.method == version.PATH else await continuation(details)

    async def _forward(
        self, request: VersionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> VersionResponse:
        if request.version == version.KUBELET:
            request.version += version.SUFFIX
        call = self._remote(
            request, metadata=context.invocation_metadata(), timeout=context.time_remaining()
        )
        try:
            answer: VersionResponse = await call
        except grpc.aio.AioRpcError as error:
            trailers: Any = tuple(error.trailing_metadata())
            await context.abort(error.code(), error.details() or "", trailers)
        await context.send_initial_metadata(await call.initial_metadata())
        context.set_trailing_metadata(await call.trailing_metadata())
        return answer


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:], intercept=Rewriting))
