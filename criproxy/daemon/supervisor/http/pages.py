"""Builds the contents of the HTTP pages from the answers of all workers.

The pages are served on threads; the workers are asked on the event loop.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from criproxy.daemon.supervisor.processes.worker_pool import RetiredCounters, WorkerPool
from criproxy.observe.metrics_merge import Snapshot

T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds that a page waits for the event loop: more than a worker has to answer."""

_TURN: Final = 2.0
"""Seconds within which the supervisor's event loop has to turn to count as alive."""


class WorkerPages:
    """Asks the workers of all pools: that in force is the last, those before it drain."""

    def __init__(
        self,
        pools: Sequence[WorkerPool],
        retired: RetiredCounters,
        up: Callable[[str, bool], None],
    ) -> None:
        """``up`` is called with whether each worker that serves has answered."""
        self._pools = pools
        self._retired = retired
        self._up = up
        self._loop = asyncio.get_running_loop()

    def on_loop(self, work: Coroutine[Any, Any, T], within: float = _PATIENCE) -> T:
        """Run a coroutine on the event loop, from another thread. Raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within)

    def snapshots(self) -> list[Snapshot]:
        """Return the metrics of all workers; of one that does not answer, the last it reported."""
        try:
            return self.on_loop(self._snapshots())
        except (TimeoutError, RuntimeError):
            return self._reported()

    async def _snapshots(self) -> list[Snapshot]:
        pools = list(self._pools)
        answered = await asyncio.gather(*(each.refresh() for each in pools))
        if pools:
            for name in pools[-1].processes:
                self._up(name, name in answered[-1])
        return self._reported()

    def _reported(self) -> list[Snapshot]:
        reported = [each for pool in list(self._pools) for each in pool.snapshots]
        return [*reported, self._retired.snapshot]

    def calls(self) -> dict[str, Any]:
        """Return the calls in flight of all workers, the oldest first."""
        calls = [
            call | {"worker": name}
            for name, answer in self.on_loop(self._ask_all("calls"))
            for call in answer
        ]
        return {"calls": sorted(calls, key=lambda call: -call["age_s"])}

    async def _ask_all(self, what: str, **fields: Any) -> list[tuple[str, Any]]:
        answers = await asyncio.gather(*(each.ask_all(what, **fields) for each in self._pools))
        return [each for pool in answers for each in pool]

    def states(self) -> list[tuple[str, Any]]:
        """Return the state of each worker for the admin socket, with its name.

        Raises TimeoutError.
        """
        return [each for each in self.on_loop(self._ask_all("state")) if each[1] is not None]

    def read_lines(self, seconds: float) -> None:
        """Have all workers send the lines of their calls for so long. Raises TimeoutError."""
        self.on_loop(self._ask_all("read", seconds=seconds))

    def rules(self) -> dict[str, Any]:
        """Return the rules in order, with what all workers have counted of them."""
        answers = self.on_loop(self._pools[-1].ask("rules"))
        rules: dict[str, dict[str, Any]] = {}
        for each in answers.values():
            for rule in each["rules"]:
                known = rules.setdefault(rule["name"], rule)
                if known is not rule:
                    known["matches"] += rule["matches"]
                    known["errors"] += rule["errors"]
                    times = [each["last_match"] for each in (known, rule) if each["last_match"]]
                    known["last_match"] = max(times, default=None)
        return {"rules": list(rules.values())}

    def health(self) -> str | None:
        """Return None while the event loops of the supervisor and all workers turn."""
        try:
            return self.on_loop(self._health(), _TURN)
        except (TimeoutError, RuntimeError):
            return f"the event loop has not turned within {_TURN:g} s"

    async def _health(self) -> str | None:
        pool = self._pools[-1]
        stalled = [name for name, each in pool.processes.items() if not each.alive]
        return f"worker {', '.join(stalled)} does not answer" if stalled else None
