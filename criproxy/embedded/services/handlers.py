"""Maps every method of both API versions to a function of the services.

The services use v1 messages only. v1alpha2's messages are a subset on the wire (asserted by a
test): its requests are parsed as v1's, and its responses are v1's without the fields that v1alpha2
lacks, as in containerd.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS, Method
from criproxy.embedded.services.checkpoints import CheckpointService
from criproxy.embedded.services.containers import ContainerService
from criproxy.embedded.services.execution import ExecutionService
from criproxy.embedded.services.images import ImageService
from criproxy.embedded.services.metrics import MetricsService
from criproxy.embedded.services.node import NodeService
from criproxy.embedded.services.sandboxes import SandboxService
from criproxy.embedded.services.stats import StatsService
from criproxy.embedded.state.store import Store

_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class MessageStream(Protocol):
    """Responses of a streaming method: an async generator or an event subscription."""

    def __aiter__(self) -> AsyncIterator[Message]: ...

    async def aclose(self) -> None:
        """End the stream and release its resources."""


@dataclass(frozen=True, slots=True)
class MethodHandler:
    """One method: parser of its request, implementation, serializer of its responses.

    ``run`` takes a v1 request. It returns a response or an awaitable of one, or for a streaming
    method a MessageStream. It raises CallError.
    """

    method: Method
    read: Callable[[bytes], Any]
    run: Callable[[Any], Any]
    write: Callable[[Message], bytes]


def method_handlers(store: Store) -> Mapping[str, MethodHandler]:
    """Return every method of both API versions on one store, by path."""
    sandboxes, containers = SandboxService(store), ContainerService(store)
    common = (
        sandboxes,
        containers,
        ExecutionService(store),
        ImageService(store),
        StatsService(store),
        MetricsService(store),
        CheckpointService(store, sandboxes, containers),
    )
    nodes = {version: NodeService(store, version) for version in ("v1", "v1alpha2")}
    return {
        path: MethodHandler(
            method=method,
            read=request_class(_in_v1(method)).FromString,
            run=_handler(method, (nodes[method.api_version], *common)),
            write=_serialize if method.api_version == "v1" else _downgrade(method),
        )
        for path, method in METHODS.items()
    }


def _in_v1(method: Method) -> Method:
    return METHODS[method.path.replace("/runtime.v1alpha2.", "/runtime.v1.")]


def _handler(method: Method, parts: tuple[object, ...]) -> Callable[[Any], Any]:
    name = _WORD.sub("_", method.name).lower()
    (handler,) = (getattr(part, name) for part in parts if hasattr(part, name))
    found: Callable[[Any], Message | Awaitable[Message] | MessageStream] = handler
    return found


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _downgrade(method: Method) -> Callable[[Message], bytes]:
    """Return a serializer of v1 responses that drops the fields that v1alpha2 lacks."""
    older = response_class(method)

    def write(message: Message) -> bytes:
        response = older.FromString(message.SerializeToString())
        response.DiscardUnknownFields()
        return response.SerializeToString()

    return write
