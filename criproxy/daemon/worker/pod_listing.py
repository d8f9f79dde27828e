"""Lists the pods and containers of a runtime that were created before the daemon's start."""

import asyncio
from typing import Final, Protocol

from criproxy.observe.log import Log
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.unary import call
from criproxy.rules.errors import EvaluationError
from criproxy.wire.grpc import StatusCode

_RETRY: Final = 2.0
"""Seconds until a failed listing is tried again."""

_TIMEOUT: Final = 60.0
"""Seconds that a runtime may take for a listing."""


class PodListingReceiver(Protocol):
    """A pod cache, or an object that forwards the listing to one."""

    def add_listing(self, pods: bytes, containers: bytes, images: bytes) -> None:
        """Add the responses of ListPodSandbox, ListContainers and ListImages.

        Raises EvaluationError if they cannot be decoded.
        """


async def list_pods(runtime: Endpoint, receiver: PodListingReceiver, log: Log) -> None:
    """Pass a runtime's pods and containers to ``receiver``; retries until the runtime responds."""
    error_text = ""
    while True:
        try:
            async with asyncio.timeout(_TIMEOUT):
                pods = await _list(runtime, "ListPodSandbox")
                containers = await _list(runtime, "ListContainers")
                images = await _list_images(runtime)
            receiver.add_listing(pods, containers, images)
        except (OSError, EvaluationError) as error:
            if str(error) != error_text:
                error_text = str(error)
                log.warning(
                    "pods not listed yet",
                    runtime=str(runtime),
                    error=error_text,
                    note="until then the pods of before are unknown by their names",
                )
            await asyncio.sleep(_RETRY)
        else:
            log.info("pods listed", runtime=str(runtime))
            return


async def _list_images(runtime: Endpoint) -> bytes:
    """Return the images of a runtime; none if another process serves images."""
    try:
        return await _list(runtime, "ListImages", "ImageService")
    except OSError:
        return b""


async def _list(runtime: Endpoint, method: str, service: str = "RuntimeService") -> bytes:
    """Return the response to an empty request. Raises OSError if the call fails."""
    for version in ("v1", "v1alpha2"):
        path = f"/runtime.{version}.{service}/{method}"
        response = await call(runtime, path.encode(), b"")
        if response.code is not StatusCode.UNIMPLEMENTED:
            break
    if response.code is not StatusCode.OK:
        code = "an unreadable answer" if response.code is None else response.code.name
        raise ConnectionError(f"{method} failed with {code}: {response.message}")
    return response.response
