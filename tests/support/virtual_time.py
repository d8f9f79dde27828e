"""An event loop whose time passes at once when there is nothing to do but to wait for it."""

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
    """Run a test's coroutine; whatever it waits for in time comes at once, in order."""
    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(test())


async def passed(seconds: float) -> None:
    """Let time pass, and all that happens in it."""
    await asyncio.sleep(seconds)
    await settle()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)
