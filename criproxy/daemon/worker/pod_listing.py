"""Lists the pods, containers and images of a runtime that were there before the daemon's start."""

import asyncio
from typing import Final, Protocol

from criproxy.observe.logs.log import Log
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.unary import call_either
from criproxy.rules.errors import EvaluationError
from criproxy.wire.grpc import StatusCode

_RETRY: Final = 2.0
"""Seconds until a failed listing is tried again."""

_TIMEOUT: Final = 60.0
"""Seconds that a runtime may take for a listing."""


class PodListingReceiver(Protocol):
    """A pod cache, or an object that forwards the listing to one."""

    def add_listing(self, pods: bytes = b"", containers: bytes = b"", images: bytes = b"") -> None:
        """Add the responses of ListPodSandbox, ListContainers and ListImages.

        Raises EvaluationError if they cannot be decoded.
        """


async def list_pods(
    runtime: Endpoint, image_service: Endpoint, receiver: PodListingReceiver, log: Log
) -> None:
    """Pass a runtime's images, pods and containers to ``receiver``; retries until it has them.

    ``image_service`` is the endpoint of the image service, which may be another process.
    """
    missing = {"images": image_service, "pods": runtime}
    errors: dict[str, str] = {}
    while True:
        for what, endpoint in tuple(missing.items()):
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await (_pass_images if what == "images" else _pass_pods)(endpoint, receiver)
            except (OSError, EvaluationError) as error:
                if str(error) != errors.get(what):
                    errors[what] = str(error)
                    log.warning(
                        "not listed yet",
                        what=what,
                        runtime=str(endpoint),
                        error=str(error),
                        note=f"until then the {what} of before are unknown by their names",
                    )
            else:
                del missing[what]
                if what == "pods":
                    log.info("pods listed", runtime=str(endpoint))
        if not missing:
            return
        await asyncio.sleep(_RETRY)


async def _pass_pods(runtime: Endpoint, receiver: PodListingReceiver) -> None:
    pods = await _list(runtime, "RuntimeService", "ListPodSandbox")
    receiver.add_listing(pods, await _list(runtime, "RuntimeService", "ListContainers"))


async def _pass_images(image_service: Endpoint, receiver: PodListingReceiver) -> None:
    receiver.add_listing(images=await _list(image_service, "ImageService", "ListImages"))


async def _list(endpoint: Endpoint, service: str, method: str) -> bytes:
    """Return the response to an empty request. Raises OSError if the call fails.

    An endpoint without an image service has no images.
    """
    response = await call_either(endpoint, service, method)
    if response.code is StatusCode.UNIMPLEMENTED and service == "ImageService":
        return b""
    if response.code is not StatusCode.OK:
        code = "an unreadable answer" if response.code is None else response.code.name
        raise ConnectionError(f"{method} failed with {code}: {response.message}")
    return response.response
