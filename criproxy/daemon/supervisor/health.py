"""Asks the runtimes for their Version, and reports those that do not answer."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from criproxy.cri.runtime_version import RuntimeVersion, parse_runtime_version
from criproxy.observe.logs.log import Log
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.notifier import Clock
from criproxy.relay.unary import ProbeResult, Service, probe

_FRESH: Final = 1.0
"""Seconds for which an answer of the runtime is believed without asking again."""

Upstream = tuple[Endpoint, Service]
"""A socket, and the service that it is used for."""


class RuntimeHealth:
    """Asks each upstream now and then, and when somebody wants to know, whether it answers: a
    runtime for its Version, an image service for its ImageFsInfo, as it need not have the other."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        interval: float,
        timeout: float,
        log: Log,
        clock: Clock,
        changed: Callable[[bool], None],
    ) -> None:
        """``changed`` is told whether all of them answer, after each round."""
        self._upstreams = upstreams
        self._interval = interval
        self._timeout = timeout
        self._log = log
        self._clock = clock
        self._changed = changed
        self._wrong: dict[Upstream, str | None] = {}
        self._versions: dict[Upstream, RuntimeVersion] = {}
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    async def watch(self) -> None:
        """Ask again and again. Never returns."""
        while True:
            await self.ask()
            await asyncio.sleep(self._interval)

    async def ask(self) -> str | None:
        """Return None when every upstream answers, else which does not and why."""
        async with self._asking:
            if self._clock() - self._asked > _FRESH:
                results = await asyncio.gather(
                    *(probe(each, self._timeout, service) for each, service in self._upstreams)
                )
                self._asked = self._clock()
                for upstream, result in zip(self._upstreams, results, strict=True):
                    self._note(upstream, result)
                self._changed(all(result.problem is None for result in results))
        return self.problem

    @property
    def problem(self) -> str | None:
        """What :meth:`ask` returned last."""
        found = [
            f"{service.description} {each}: {wrong}"
            for (each, service), wrong in self._wrong.copy().items()
            if wrong
        ]
        return "; ".join(found) or None

    def _note(self, upstream: Upstream, result: ProbeResult) -> None:
        endpoint, service = upstream
        wrong = result.problem
        known = upstream in self._wrong
        before = self._wrong.get(upstream)
        self._wrong[upstream] = wrong
        name, service_name = str(endpoint), service.description
        if wrong is None:
            version = RuntimeVersion()
            if service is Service.RUNTIME:
                version = parse_runtime_version(result.response)
            if not known or before is not None or version != self._versions.get(upstream):
                self._versions[upstream] = version
                self._log.info(
                    "runtime answers",
                    runtime=name,
                    service=service_name,
                    runtime_name=version.name,
                    runtime_version=version.version,
                )
        elif not known or before is None:
            self._log.warning(
                "runtime does not answer", runtime=name, service=service_name, error=wrong
            )
