"""Fetches pages of a running daemon over HTTP."""

import http.client
import json
from typing import Any, Final

from criproxy.config.schema import Config
from criproxy.config.value_types import parse_address
from criproxy.errors import UnavailableError, UsageError

_TIMEOUT: Final = 10.0
"""Time limit of one request, in seconds."""


def address_of(option: str | None, config: Config) -> tuple[str, int]:
    """Return the daemon's HTTP address: ``--address``, else the configuration's.

    Raises UsageError.
    """
    if option is not None:
        try:
            return parse_address(option)
        except ValueError as error:
            raise UsageError(f"--address: {error}") from error
    if config.metrics.address is None:
        raise UsageError("metrics.address is null: the daemon serves no HTTP, so nobody can ask it")
    return config.metrics.address


def get(address: tuple[str, int], page: str) -> Any:
    """Fetch a page of JSON. Raises UnavailableError."""
    status, reason, body = get_page(address, page)
    if status != http.client.OK:
        raise UnavailableError(f"{_url(address, page)} answers {status} {reason}")
    try:
        return json.loads(body)
    except ValueError as error:
        url = _url(address, page)
        raise UnavailableError(f"{url} is not criproxy's: its answer is not JSON") from error


def get_page(
    address: tuple[str, int], page: str, limit: int | None = None
) -> tuple[int, str, bytes]:
    """Fetch a page: its status, the reason, and at most ``limit`` bytes.

    Raises UnavailableError.
    """
    connection = http.client.HTTPConnection(*address, timeout=_TIMEOUT)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        return response.status, response.reason, response.read(limit)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnavailableError(
            f"{_url(address, page)}: {reason}; is criproxy running there?"
        ) from error
    finally:
        connection.close()


def _url(address: tuple[str, int], page: str) -> str:
    host, port = address
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{page}"
