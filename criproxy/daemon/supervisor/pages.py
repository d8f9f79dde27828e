"""What the HTTP pages show: the answers of all workers, put together.

The pages are served on threads; the workers are asked on the event loop.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from criproxy.daemon.supervisor.worker_pool import RetiredCounters, WorkerPool
from criproxy.observe.metrics_merge import Snapshot

T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds that a page waits for the event loop: more than a worker has to answer."""

_TURN: Final = 2.0
"""Seconds within which the supervisor's event loop has to turn to count as alive."""


class WorkerPages:
    """Asks the workers of the pool that is in force; ``up`` gets whether each has answered."""

    def __init__(
        self,
        pool: Callable[[], WorkerPool],
        retired: RetiredCounters,
        up: Callable[[str, bool], None],
    ) -> None:
        self._pool = pool
        self._retired = retired
        self._up = up
        self._loop = asyncio.get_running_loop()

    def on_loop(self, work: Coroutine[Any, Any, T], within: float = _PATIENCE) -> T:
        """Run a coroutine on the event loop, from another thread. Raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within)

    def snapshots(self) -> Iterable[Snapshot]:
        """Return the metrics of all workers; of one that does not answer, the last it reported."""
        pool = self._pool()
        try:
            answers = self.on_loop(pool.ask("metrics"))
        except (TimeoutError, RuntimeError):
            answers = {}
        for name, process in list(pool.processes.items()):
            self._up(name, name in answers)
            yield answers.get(name, process.snapshot)
        yield self._retired.snapshot

    def calls(self) -> dict[str, Any]:
        """Return the calls in flight of all workers, the oldest first."""
        answers = self.on_loop(self._pool().ask("calls"))
        calls = [call | {"worker": name} for name, each in answers.items() for call in each]
        return {"calls": sorted(calls, key=lambda call: -call["age_s"])}

    def rules(self) -> dict[str, Any]:
        """Return the rules in order, with what all workers have counted of them."""
        answers = self.on_loop(self._pool().ask("rules"))
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
        pool = self._pool()
        stalled = [name for name, each in pool.processes.items() if not each.alive]
        return f"worker {', '.join(stalled)} does not answer" if stalled else None
