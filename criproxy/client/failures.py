"""Explains why an endpoint does not answer, in one line that a user can act on."""

import os
import socket
import stat
from typing import Any, Final

import grpc

from criproxy.client.client import CriClient
from criproxy.errors import EndpointError, UnavailableError
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.socket_errors import describe_error

OTHER_VERSION: Final = {"v1": "v1alpha2", "v1alpha2": "v1"}


def check_socket(endpoint: Endpoint) -> None:
    """Connect to a socket and close it: grpcio reports every failure to connect as UNAVAILABLE.

    Raises EndpointError when the path is something else than a socket, and UnavailableError when
    there is nothing at the path, nobody listens or access is denied.
    """
    try:
        if not stat.S_ISSOCK(os.stat(endpoint.path).st_mode):
            raise EndpointError(
                f"{endpoint}: not a socket; name the runtime's or criproxy's socket"
            )
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            connection.connect(endpoint.path)
    except FileNotFoundError:
        raise UnavailableError(
            f"{endpoint}: no such file; is the runtime (or criproxy) running?"
        ) from None
    except ConnectionRefusedError:
        raise UnavailableError(
            f"{endpoint}: connection refused; the socket file is there but nobody listens on it"
        ) from None
    except PermissionError as error:
        remedy = "run it as a user who may open the socket (root, as a rule)"
        if os.geteuid() == 0:
            remedy = describe_error(endpoint.path, error)
        raise UnavailableError(f"{endpoint}: permission denied; {remedy}") from None
    except BlockingIOError:
        return  # The backlog is full: somebody listens, and the call's deadline decides.
    except OSError as error:
        raise UnavailableError(f"{endpoint}: cannot connect: {error.strerror}") from None


def ask_version(endpoint: Endpoint, api_version: str, timeout: float) -> Any:
    """Return the VersionResponse of an endpoint, within ``timeout`` seconds.

    Raises as ``check_socket`` does, and UnavailableError when there is no answer.
    """
    check_socket(endpoint)
    with CriClient(endpoint, api_version, timeout) as client:
        try:
            return client.call("Version")
        except grpc.RpcError as error:
            raise _explain(error, endpoint, api_version, timeout) from None


def _explain(
    error: grpc.RpcError, endpoint: Endpoint, version: str, deadline: float
) -> UnavailableError:
    """Return the error that explains a failed Version call and names the remedy.

    ``deadline`` is the call's, in seconds. Where the peer does not implement the
    method, the other API version is tried, so that the answer can name the one it speaks.
    """
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailableError(
            f"{endpoint}: no answer within {deadline:g}s; it may be busy, or its runtime away "
            "(a longer wait: --timeout)"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        other = OTHER_VERSION[version]
        if _speaks(endpoint, other, deadline):
            return UnavailableError(
                f"{endpoint}: does not speak CRI {version}, but {other}: use --api-version {other}"
            )
        return UnavailableError(
            f"{endpoint}: no CRI service there; it answers, but implements neither v1 nor "
            "v1alpha2 (is the CRI plugin disabled?)"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(
            f"{endpoint}: no CRI service there; something listens, but a gRPC call does not get "
            f"through ({details})"
        )
    return UnavailableError(f"{endpoint}: Version failed with {code.name}: {details}")


def _speaks(endpoint: Endpoint, version: str, deadline: float) -> bool:
    with CriClient(endpoint, version, timeout=deadline) as client:
        try:
            client.call("Version")
        except grpc.RpcError:
            return False
    return True
