"""Asks runtimes how they read names of images without a registry (``images.short_names``)."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from criproxy.concurrency.tasks import Tasks
from criproxy.config.schema import Config
from criproxy.observe.logs.log import Log
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.unary import call_either
from criproxy.rules.image_names import AS_WRITTEN, short_names_of
from criproxy.wire.grpc import StatusCode

_RETRY: Final = 2.0
"""Seconds until a runtime that has not answered yet is asked again."""

_FIRST: Final = 1.0
"""Seconds for which the answers are waited for before a worker serves. A runtime that is down is
not waited for."""


class ShortNames:
    """Keeps asking the image services of a worker for their names, unless that is configured."""

    def __init__(
        self,
        config: Config,
        runtimes: Collection[Endpoint],
        changed: Callable[[str], None],
        log: Log,
        tasks: Tasks,
    ) -> None:
        """``changed`` is called with how short names are read, once it is known and whenever it
        changes; see :mod:`criproxy.rules.image_names`."""
        self._configured = config.images.reading
        self._runtimes = runtimes
        self._interval = float(config.probe.interval)
        self._timeout = float(config.probe.timeout)
        self._changed = changed
        self._log = log
        self._tasks = tasks
        self._known: dict[Endpoint, str] = {}
        self._started = False

    async def start(self) -> None:
        """Begin to ask, if that has not been done; return when all runtimes have been tried, or
        after a second."""
        if self._started:
            return
        self._started = True
        if self._configured is not None:
            self._changed(self._configured)
            return
        tried = []
        for runtime in self._runtimes:
            event = asyncio.Event()
            tried.append(event.wait())
            self._tasks.start(self._watch(runtime, event), f"name of {runtime}")
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*tried), _FIRST)

    async def _watch(self, runtime: Endpoint, tried: asyncio.Event) -> None:
        while True:
            with suppress(OSError):  # the supervisor reports a runtime that does not answer
                async with asyncio.timeout(self._timeout):
                    self._note(runtime, await _runtime_name(runtime))
            tried.set()
            await asyncio.sleep(self._interval if runtime in self._known else _RETRY)

    def _note(self, runtime: Endpoint, name: str) -> None:
        reading = short_names_of(name)
        if self._known.get(runtime) == reading:
            return
        self._known[runtime] = reading
        if len(set(self._known.values())) > 1:  # ids of images are not told apart by runtime either
            reading = AS_WRITTEN
        self._log.info(
            "short names of images",
            runtime=str(runtime),
            runtime_name=name,
            short_names=reading or "as-written",
        )
        self._changed(reading)


async def _runtime_name(runtime: Endpoint) -> str:
    """Return the name of a runtime; empty if it has none. Raises OSError."""
    from google.protobuf.message import DecodeError

    from criproxy.cri.pb import runtime_v1_pb2 as v1

    answer = await call_either(runtime, "RuntimeService", "Version")
    if answer.code not in (StatusCode.OK, StatusCode.UNIMPLEMENTED):
        raise ConnectionError(f"Version failed: {answer.message}")
    try:
        return v1.VersionResponse.FromString(answer.response).runtime_name
    except DecodeError:
        return ""
