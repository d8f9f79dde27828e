"""Reads from the admin socket of a running daemon."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from criproxy.config.load import load
from criproxy.errors import UnavailableError, UsageError
from criproxy.relay.endpoints import Endpoint, parse_endpoint

DEFAULT: Final = Endpoint("/run/criproxy-admin/admin.sock")
"""Where the admin socket is looked for if nothing is said: where the docs put it."""

VERSION: Final = 1
"""The version of the JSON that is read."""

_TIMEOUT: Final = 10.0
"""Time limit of one request, in seconds."""

_LOST: Final = b'{"event":"calls lost",'
_DROPPED: Final = b'"kind":"Dropped"'

_HEAD: Final = 100
"""Bytes at the beginning of a record in which its kind is named."""

_LONGEST: Final = 16 << 20
"""Bytes of a line at most."""


def admin_options(command: Any) -> Any:
    """Add the options that name the admin socket."""
    command = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The daemon's configuration file, for its admin.socket.",
    )(command)
    return click.option(
        "--admin",
        metavar="PATH",
        help=f"The daemon's admin socket.  [default: the file's, else {DEFAULT.path}]",
    )(command)


def admin_endpoint(option: str | None, config: Path | None) -> Endpoint:
    """Return the admin socket: ``--admin``, else the configuration's. Raises UsageError."""
    if option is not None:
        return parse_endpoint(option)
    if config is None:
        return DEFAULT
    endpoint = load(config).config.admin.socket
    if endpoint is None:
        raise UsageError(
            f"{config}: admin.socket is null: the daemon has no admin socket; set it, for example "
            f"to {DEFAULT}, and reload (SIGHUP)"
        )
    return endpoint


class AdminClient:
    """A client of the admin socket."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def get(self, page: str) -> dict[str, Any]:
        """Return the JSON of ``state`` or ``pods``. Raises UnavailableError."""
        return self._json("GET", page)

    def post(self, page: str) -> dict[str, Any]:
        """Have ``capture`` done, and return its JSON. Raises UnavailableError."""
        return self._json("POST", page)

    def _json(self, method: str, page: str) -> dict[str, Any]:
        connection = _Connection(self._endpoint)
        try:
            body = self._ask(connection, page, method).read()
            answer = json.loads(body)
            found = answer["version"]
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(error) from error
        except (ValueError, TypeError, KeyError) as error:
            raise UnavailableError(f"{self._endpoint}: no criproxy answers there") from error
        finally:
            connection.close()
        if found != VERSION:
            raise UnavailableError(
                f"{self._endpoint}: the daemon answers in version {found}, and this criproxy reads "
                f"version {VERSION}; use the criproxy of the daemon"
            )
        answered: dict[str, Any] = answer
        return answered

    def lines(self, page: str = "tail") -> Iterator[bytes]:
        """Return the lines of calls as they end; when it returns, none is missed any more.

        ``page`` is ``tail``, or ``records`` for records of the audit log with the messages.

        Raises UnavailableError, also when the daemon ends.
        """
        connection = _Connection(self._endpoint)
        try:
            response = self._ask(connection, page)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unavailable(error) from error
        return self._lines(connection, response)

    def _lines(
        self, connection: "_Connection", response: http.client.HTTPResponse
    ) -> Iterator[bytes]:
        try:
            while line := response.readline(_LONGEST):
                if line != b"\n":  # which shows the daemon whether we are still there
                    yield line.rstrip(b"\n")
        except OSError as error:
            raise self._unavailable(error) from error
        finally:
            connection.close()
        raise UnavailableError(f"{self._endpoint}: the daemon has ended")

    def _ask(
        self, connection: "_Connection", page: str, method: str = "GET"
    ) -> http.client.HTTPResponse:
        connection.request(method, f"/v1/{page}")
        response = connection.getresponse()
        if response.status != http.client.OK:
            reason = response.read(200).decode(errors="replace").strip() or response.reason
            raise UnavailableError(f"{self._endpoint}: {reason}")
        return response

    def _unavailable(self, error: Exception) -> UnavailableError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnavailableError(
            f"{self._endpoint}: {reason}; name the daemon's admin.socket with --admin or -c, and "
            "run as its user; or set admin.socket, and reload (SIGHUP)"
        )


class _Connection(http.client.HTTPConnection):
    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = endpoint.path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def lost_calls(line: bytes) -> int:
    """Return how many calls a line says that were left out; 0 for a line of a call.

    It says so of a reader that was too slow, or of a process of the daemon's that was.
    """
    if line.startswith(_LOST):
        return int(json.loads(line)["count"])
    if _DROPPED in line[:_HEAD] and (record := json.loads(line))["kind"] == "Dropped":
        return int(record["dropped"])
    return 0
