"""What became of an export request, whatever the protocol below OTLP, and when to try again."""

from enum import Enum
from typing import Final, NamedTuple, Protocol

import httpcore

from criproxy.errors import UsageError

LONGEST_WAIT: Final = 30.0
_FIRST_WAIT: Final = 1.0
"""Seconds until the next try, doubled after each failure up to the longest."""


class Outcome(Enum):
    """What became of a request."""

    ACCEPTED = "accepted"
    """It was answered with success; the answer's body may still reject parts."""
    REJECTED = "rejected"
    """It was answered with a status that another try does not change."""
    UNAVAILABLE = "unavailable"
    """It was not answered, or with a status that asks for another try."""


class Answer(NamedTuple):
    """The outcome of a request."""

    outcome: Outcome
    body: bytes = b""
    """The beginning of the answer's message, if the request was accepted."""
    because: str = ""
    """Why it was not accepted, in words."""
    retry: float = 0.0
    """Seconds after which to try again, if the endpoint is unavailable."""


class Client(Protocol):
    """A client of one endpoint. Used by one thread, except ``abort``."""

    def post(self, body: bytes) -> Answer:
        """Send an encoded export request and wait for the answer. Does not raise."""
        ...

    def abort(self) -> None:
        """Make a waiting request fail, and all later ones. Thread-safe."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Pauses:
    """The seconds until the next try."""

    def __init__(self) -> None:
        self._next = _FIRST_WAIT

    def unavailable(self, because: str, after: float | None = None) -> Answer:
        """Return the answer of an endpoint that is unavailable; ``after``: what it asks for."""
        wait = self._next if after is None else after
        self._next = min(self._next * 2, LONGEST_WAIT)
        return Answer(Outcome.UNAVAILABLE, because=because, retry=wait)

    def reset(self) -> None:
        """Begin with the shortest pause: the endpoint has answered."""
        self._next = _FIRST_WAIT


def parse_endpoint(endpoint: str, example: str) -> httpcore.URL:
    """Return an endpoint's URL. Raises UsageError, with an example, for what is no HTTP URL."""
    try:
        url = httpcore.URL(endpoint)
    except Exception as error:  # httpcore raises various exceptions for bad URLs
        raise UsageError(f"otlp endpoint {endpoint!r}: {error}") from error
    if url.scheme not in (b"http", b"https") or not url.host:
        raise UsageError(f"{endpoint!r} is no URL; write it like {example}")
    return url
