"""Asks the runtimes for their Version, and reports those that do not answer."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from criproxy.observe.log import Log
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.notifier import Clock
from criproxy.relay.unary import Service, probe

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
                answers = await asyncio.gather(
                    *(probe(each, self._timeout, service) for each, service in self._upstreams)
                )
                self._asked = self._clock()
                for upstream, wrong in zip(self._upstreams, answers, strict=True):
                    self._note(upstream, wrong)
                self._changed(not any(answers))
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

    def _note(self, upstream: Upstream, wrong: str | None) -> None:
        endpoint, service = upstream
        known = upstream in self._wrong
        before = self._wrong.get(upstream)
        self._wrong[upstream] = wrong
        name, service_name = str(endpoint), service.description
        if wrong is None and (not known or before is not None):
            self._log.info("runtime answers", runtime=name, service=service_name)
        elif wrong is not None and (not known or before is None):
            self._log.warning(
                "runtime does not answer", runtime=name, service=service_name, error=wrong
            )
