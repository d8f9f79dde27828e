"""Hooks that are HTTP servers, on TCP or on a unix socket.

The client is httpcore (3.4 MiB of memory; httpx needs 8): it follows no redirects and ignores proxy
variables of the environment. It is imported only where a rule has a webhook.
"""

import asyncio
import ssl
import uuid
import weakref
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

import httpcore
from google.protobuf.message import Message

from criproxy.concurrency.tasks import run_in_thread_if
from criproxy.enforce.hooks.call_review import ReviewError, decode_answer, encode_review
from criproxy.enforce.hooks.json_patch import PatchError, apply_patch, to_json
from criproxy.enforce.resources import Log
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.spec import HookSpec

CONNECTIONS: Final = 32
"""Connections to a webhook at most; with all of them busy, calls wait within their timeout. That is
more than the calls that a kubelet usually has in flight, and few enough for a small server."""

ANSWER_LIMIT: Final = 16 * 1024 * 1024
"""Bytes that a response may have: as many as a held message."""

_IDLE: Final = 4.0
"""Seconds after which an idle connection is not used again: fewer than the five after which many
servers close it, since a request that is sent while the server closes is lost."""

_LARGE: Final = 4 * 1024
"""Bytes of a message from which on its JSON is encoded in a thread: at this size the encoding, done
in Python, blocks the event loop for some five milliseconds already."""

_SOCKET_PATH: Final = 107
"""Bytes that the path of a unix socket may have (unix(7))."""

_HEADERS: Final = [("content-type", "application/json"), ("accept", "application/json")]


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """The HTTP URL of a webhook, and its unix socket, if any."""

    url: str
    socket: str | None = None


class Webhook:
    """A hook that is an HTTP server, called with requests and responses."""

    has_request = True
    has_response = True
    has_deny = True

    def __init__(self, spec: HookSpec) -> None:
        """Does not connect yet. Raises ValueError for a URL that cannot be used."""
        assert spec.url is not None
        self.timeout = float(spec.timeout)
        self._target = parse_target(spec.url)
        self._shown_url = spec.url.partition("?")[0]
        self._pool: httpcore.AsyncConnectionPool | None = None

    def start(self, log: Log) -> None:
        """See Hook: connections are made when they are needed."""

    def stop(self) -> None:
        """See Hook: connections are closed when the webhook is collected."""

    async def request(self, message: Message, facts: Facts) -> Message:
        """See Hook."""
        return await self._review("request", message, facts)

    async def response(self, message: Message, facts: Facts) -> Message:
        """See Hook."""
        return await self._review("response", message, facts)

    async def close(self) -> None:
        """Close the connections. Without this they are closed when the webhook is collected."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    async def _review(
        self, phase: Literal["request", "response"], message: Message, facts: Facts
    ) -> Message:
        uid = str(uuid.uuid4())
        size = message.ByteSize()
        if phase == "response" and facts.request is not None:
            size += facts.request.ByteSize()
        document = await run_in_thread_if(size >= _LARGE, to_json, message)
        body = await run_in_thread_if(size >= _LARGE, encode_review, uid, phase, document, facts)
        try:
            patch = decode_answer(await self._post(body), uid)
            if not patch:
                return message
            after = await run_in_thread_if(size >= _LARGE, apply_patch, document, patch)
        except ReviewError as error:
            raise EvaluationError("webhook", str(error)) from error
        except PatchError as error:
            raise EvaluationError("webhook", f"the patch: {error}") from error
        return message if after == message else after

    async def _post(self, body: bytes) -> bytes:
        try:
            return await self._exchange(body)
        except EvaluationError:
            raise
        except (
            Exception
        ) as error:  # httpcore's have no common base class, and OSErrors pass through
            text = " ".join(str(error).split()) or type(error).__name__
            raise EvaluationError("webhook", f"{self._shown_url}: {text}") from error

    async def _exchange(self, body: bytes) -> bytes:
        pool = self._pool = self._pool or self._new_pool()
        parts = []
        remaining = ANSWER_LIMIT
        async with pool.stream(
            "POST", self._target.url, headers=_HEADERS, content=body
        ) as response:
            if response.status != 200:
                raise EvaluationError("webhook", f"the answer has HTTP status {response.status}")
            async for part in response.aiter_stream():
                parts.append(part)
                remaining -= len(part)
                if remaining < 0:
                    raise EvaluationError("webhook", f"the answer has over {ANSWER_LIMIT} bytes")
        return b"".join(parts)

    def _new_pool(self) -> httpcore.AsyncConnectionPool:
        https = self._target.url.startswith("https:")
        pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context() if https else None,
            max_connections=CONNECTIONS,
            keepalive_expiry=_IDLE,
            uds=self._target.socket,
        )
        weakref.finalize(self, _close_pool, pool, asyncio.get_running_loop()).atexit = False
        return pool


def parse_target(url: str) -> WebhookTarget:
    """Parse a webhook's URL: ``http://``, ``https://``, ``unix:///path.sock[:/path]``.

    Raises ValueError, saying what is wrong.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r}: a URL is of printable ASCII; write the rest as %XX")
    if url.startswith("unix:"):
        return _parse_unix_target(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r}: takes http://HOST:PORT/PATH or unix:///PATH.sock:/PATH")
    if parts.username is not None or parts.fragment:
        raise ValueError(f"{parts.hostname}: a webhook's URL has no user and no fragment")
    if parts.port == 0:
        raise ValueError(f"{url!r}: 0 is no port")
    return WebhookTarget(url)


def _parse_unix_target(url: str) -> WebhookTarget:
    path, _, rest = url.removeprefix("unix:").removeprefix("//").partition(":/")
    if not path.startswith("/") or path.endswith(("/", ":")):
        raise ValueError(f"{url!r}: the socket needs an absolute path: unix:///run/hook.sock:/path")
    if len(path) > _SOCKET_PATH:
        raise ValueError(
            f"{path}: has {len(path)} bytes; a socket's path has {_SOCKET_PATH} at most"
        )
    return WebhookTarget(f"http://localhost/{rest}", path)


def _close_pool(pool: httpcore.AsyncConnectionPool, loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        asyncio.run_coroutine_threadsafe(pool.aclose(), loop)
