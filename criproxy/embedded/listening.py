"""Serves methods of the CRI on a unix socket with grpcio."""

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from criproxy.cri.methods import Method
from criproxy.errors import EndpointError, UnavailableError
from criproxy.relay.endpoints import Endpoint

SOCKET_MODE: Final = 0o660
MAX_PENDING_CALLS: Final = 100_000
"""Maximum number of pending calls: grpcio's default of 1000 answers CANCELLED to a burst."""

SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
)


async def serve_methods(
    endpoint: Endpoint, handlers: "Mapping[Method, grpc.RpcMethodHandler[Any, Any]]"
) -> grpc.aio.Server:
    """Listen at an endpoint, and return the server once it serves.

    Raises UnavailableError when another process listens there, and EndpointError when the path is
    not a socket or cannot be bound.
    """
    _remove_stale_socket(endpoint)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for method, handler in handlers.items():
        services.setdefault(method.service, {})[method.name] = handler
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, table) for name, table in services.items()]
    )
    try:
        server.add_insecure_port(f"unix:{endpoint.path}")
    except RuntimeError as error:
        raise EndpointError(f"{endpoint}: cannot listen there: {error}") from error
    os.chmod(endpoint.path, SOCKET_MODE)
    await server.start()
    return server


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
