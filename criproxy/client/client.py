"""A synchronous CRI client: every method of an API version by its CRI name."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final, Self
from urllib.parse import quote

import grpc
from google.protobuf.message import Message

from criproxy.cri.messages import MODULES, request_class, response_class
from criproxy.cri.methods import METHODS, Method
from criproxy.relay.endpoints import Endpoint, parse_endpoint

DEFAULT_TIMEOUT: Final = 10.0
"""Default deadline of a unary call, in seconds."""

CHANNEL_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    # Without it grpcio sends the percent-encoded path, which strict servers refuse.
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A client is a connection: channels to one endpoint do not share theirs.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
"""The channel's options: one connection a client, messages of any size, as the kubelet dials."""


class CriClient:
    """A connection to a CRI endpoint.

    ::

        with CriClient("unix:///run/containerd/containerd.sock") as client:
            client.Version().runtime_name
            client.ContainerStatus(container_id="abc", verbose=True, deadline=2.0)
            client.ListContainers(client.messages.ListContainersRequest())
            events = client.GetContainerEvents()   # a grpc iterator, with cancel()
            client.raw("Version").with_call(request, timeout=1.0)

    ``endpoint`` is ``unix:///path`` or a bare path; ``timeout`` is in seconds and holds for each
    unary call that brings no deadline of its own, None for no limit; ``options`` are further
    channel options of grpcio. It connects on the first call.

    Raises EndpointError for what is not a unix socket's address and ValueError for an unknown
    API version.
    """

    def __init__(
        self,
        endpoint: str | Endpoint,
        api_version: str = "v1",
        timeout: float | None = DEFAULT_TIMEOUT,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        if api_version not in MODULES:
            raise ValueError(f"unknown CRI version {api_version!r}: one of {', '.join(MODULES)}")
        self.endpoint = endpoint if isinstance(endpoint, Endpoint) else parse_endpoint(endpoint)
        self.api_version = api_version
        self.timeout = timeout
        self.messages: ModuleType = MODULES[api_version]
        self._channel = grpc.insecure_channel(
            f"unix:{quote(self.endpoint.path)}", options=[*CHANNEL_OPTIONS, *options]
        )
        self._methods: Mapping[str, Method] = {
            method.name: method for method in METHODS.values() if method.api_version == api_version
        }
        self._callables: dict[str, Any] = {}

    def call(
        self,
        name: str,
        request: Message | None = None,
        /,
        *,
        deadline: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        **fields: Any,
    ) -> Any:
        """Call a method and return its response, or for a streaming method grpcio's iterator.

        The request is given whole, or as its fields; nested messages may be dicts. ``deadline``
        is in seconds: None is the client's timeout for a unary call and no limit for a stream,
        ``math.inf`` no limit. (It is not called timeout because some requests have that field.)

        Raises grpc.RpcError with ``code()`` and ``details()``, AttributeError for a method that
        this API version lacks, and TypeError or ValueError for fields that the request lacks.
        """
        method = self.method(name)
        if request is None:
            request = request_class(method)(**fields)
        elif fields:
            raise TypeError(f"{name}: give a request or its fields, not both")
        if deadline is None and not method.server_streaming:
            deadline = self.timeout
        timeout = None if deadline == math.inf else deadline
        return self.raw(name)(request, timeout=timeout, metadata=metadata)

    def raw(self, name: str) -> Any:
        """Return grpcio's own callable of a method, for ``with_call``, ``future`` and the like."""
        if name not in self._callables:
            method = self.method(name)
            kind = (
                self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
            )
            self._callables[name] = kind(
                method.path,
                request_serializer=request_class(method).SerializeToString,
                response_deserializer=response_class(method).FromString,
            )
        return self._callables[name]

    def method(self, name: str) -> Method:
        """Return the entry of the method table. Raises AttributeError for an unknown name."""
        try:
            return self._methods[name]
        except KeyError:
            raise AttributeError(f"CRI {self.api_version} has no method {name!r}") from None

    def close(self) -> None:
        """Close the connection; calls under way end with CANCELLED."""
        self._channel.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Reached only for what is not an attribute: the CRI's methods.
        if name.startswith("_"):
            raise AttributeError(name)
        self.method(name)
        return partial(self.call, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
