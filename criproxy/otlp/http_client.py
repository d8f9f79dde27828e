"""Posts export requests of OTLP over HTTP to one endpoint, and says what became of each.

Which answers are worth another try, and after how long, is OTLP's: the statuses 429, 502, 503 and
504, with Retry-After (OTLP/HTTP, "Failures"). Whether it is tried again is for the caller to say.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpcore

from criproxy import __version__
from criproxy.otlp.answer import Answer, Outcome, Pauses, parse_endpoint
from criproxy.otlp.breakable import Breakable

_AGAIN: Final = (429, 502, 503, 504)
_LARGEST_ANSWER: Final = 1 << 16

_CONNECTED: Final = ("connection.connect_tcp.complete", "connection.start_tls.complete")
"""Events of httpcore that come with the stream of a connection."""


class HttpClient(Breakable):
    """One endpoint, with one connection to it. It is a Client (:mod:`criproxy.otlp.answer`)."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        timeout: float,
        *,
        example: str,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``headers`` are sent with each request, which may take ``timeout`` seconds at each step.

        ``example`` is the endpoint of an error message. Raises UsageError for what is no HTTP URL.
        """
        super().__init__()
        self._url = parse_endpoint(endpoint, example)
        self._wall_ns = wall_ns
        self._headers = {
            "host": self._url.origin.host.decode()
            + (f":{self._url.port}" if self._url.port else ""),
            "user-agent": f"criproxy/{__version__}",
            **headers,
            "content-type": "application/x-protobuf",
        }
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        self._extensions: dict[str, Any] = {"timeout": limits, "trace": self._trace}
        self._pool = httpcore.ConnectionPool(max_connections=1)
        self._pauses = Pauses()

    def post(self, body: bytes) -> Answer:
        """Send an encoded export request and wait for the answer. Does not raise."""
        try:
            status, headers, answer = self._post(body)
        except Exception as error:  # httpcore's have no common base class, and OSErrors pass it
            return self._pauses.unavailable(str(error) or type(error).__name__)
        if status in _AGAIN:
            return self._pauses.unavailable(
                f"it answered {status}", _retry_after(headers, self._wall_ns())
            )
        self._pauses.reset()
        if not 200 <= status < 300:
            return Answer(Outcome.REJECTED, because=f"it answered {status}")
        return Answer(Outcome.ACCEPTED, answer)

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()

    def _post(self, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        self._refuse_aborted()  # the pool may wait for a connection that was broken off
        answer = b""
        with self._pool.stream(
            "POST",
            self._url,
            headers=[*self._headers.items(), ("content-length", str(len(body)))],
            content=body,
            extensions=self._extensions,
        ) as response:
            for chunk in response.iter_stream():
                answer = (answer + chunk)[:_LARGEST_ANSWER]
        return response.status, response.headers, answer

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        """Keep the connection's socket, so that ``abort`` can shut it down."""
        if name in _CONNECTED:
            self._use(info["return_value"].get_extra_info("socket"))
        self._refuse_aborted()


def _retry_after(headers: Sequence[tuple[bytes, bytes]], wall_ns: int) -> float | None:
    """Return Retry-After (RFC 9110 section 10.2.3) as seconds from now; None without one."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            text = value.decode("latin-1").strip()
            if text.isdigit():
                return float(text)
            with suppress(ValueError):
                at = parsedate_to_datetime(text)
                return max(0.0, at.replace(tzinfo=at.tzinfo or UTC).timestamp() - wall_ns / 1e9)
    return None
