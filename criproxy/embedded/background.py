"""Runs the embedded runtime in a thread of this process, for tests."""

import asyncio
import threading
from concurrent.futures import Future
from typing import Self

from criproxy.embedded.latency import Latency, parse_latency
from criproxy.embedded.server import RuntimeServer
from criproxy.relay.endpoints import Endpoint


class EmbeddedRuntime:
    """An embedded runtime on an endpoint, from entering to leaving the ``with`` block.

    ::

        with EmbeddedRuntime("unix:///tmp/x/cri.sock", pods=3) as runtime:
            CriClient(runtime.endpoint).Version()

    ``latency`` is written as for ``criproxy runtime --latency``. Raises on entering as
    RuntimeServer does.
    """

    def __init__(self, endpoint: str | Endpoint, latency: str = "none", pods: int = 0) -> None:
        self._latency: Latency = parse_latency(latency)
        self._pods = pods
        self._given = endpoint
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    @property
    def endpoint(self) -> str:
        """The endpoint as ``unix:///path``."""
        return str(self._given) if isinstance(self._given, Endpoint) else self._given

    def start(self) -> None:
        """Start the thread and return once the runtime listens."""
        listening: Future[None] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._run(listening),), name="embedded-runtime"
        )
        self._thread.start()
        try:
            listening.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """End all calls, remove the socket and join the thread. Idempotent."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None

    async def _run(self, listening: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        try:
            server = RuntimeServer(self._given, latency=self._latency, pods=self._pods)
            await server.start()
        except BaseException as error:
            listening.set_exception(error)
            return
        listening.set_result(None)
        await self._stop.wait()
        await server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
