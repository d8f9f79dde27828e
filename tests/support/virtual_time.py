"""An event loop with virtual time, which advances at once when all tasks wait for it."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


def _loop() -> asyncio.AbstractEventLoop:
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    return loop


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a test's coroutine in virtual time; timers fire in order, without waiting."""
    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(test())


async def passed(seconds: float) -> None:
    """Advance the time, and let the tasks run that become due."""
    await asyncio.sleep(seconds)
    await settle()


async def settle() -> None:
    """Run every task that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)
